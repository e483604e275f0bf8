//! The actor that runs every check.
//!
//! Owns: which RIPs are checked, when each is probed next, how many probes are under way, and the latest health of
//! each. One task holds it all; probes are short-lived tasks that only report back. Deliberately knows nothing of what
//! a probe does ([`probe`]) and of how results become a verdict ([`checker`](super::checker)).
//!
//! **Invariant:** whoever reads the events to their end knows the health that [`HealthChecks::snapshot`] shows. A
//! reader that falls behind skips intermediate states of a RIP, never the last one.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::warn;

use super::{
    checker::Checker,
    probe::{self, ProbeResult, Probing},
};
use crate::model::{Check, CheckKind, Health, RipName};

/// Probes under way at once, each with one file descriptor. Those above it wait, longest due first: with a timeout of
/// 1 s it takes more than 256 silent RIPs to delay anyone.
pub const MAX_PROBES: usize = 256;

/// Events on their way to the reader. When it is full, later ones wait with the actor, at most one per RIP: a newer
/// replaces an older.
const EVENTS: usize = 256;

/// Commands on their way to the actor; a sender waits for room.
const COMMANDS: usize = 16;

/// A new RIP is probed first within this time, or within its interval if that is shorter.
const FIRST_PROBE_WITHIN: Duration = Duration::from_secs(1);

/// Least time between two warnings that this host can't probe: when file descriptors have run out, thousands fail alike.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Where the RIP is probed.
    pub address: SocketAddr,
    /// The source address of the probes; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
    /// How it is probed.
    pub check: Check,
}

/// A change of a RIP's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which RIP.
    pub rip: RipName,
    /// Where it was probed. A reader that has reconfigured the RIP meanwhile can tell that this is about its former
    /// address.
    pub address: SocketAddr,
    /// Its health from now on. [`Health::Unknown`] when the RIP's address has changed.
    pub health: Health,
    /// Why, in words for an operator.
    pub reason: String,
    /// How long the last probe took, if it succeeded.
    pub latency: Option<Duration>,
}

/// What is known of one RIP, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where it is probed.
    pub address: SocketAddr,
    /// Its health.
    pub health: Health,
    /// Since when.
    pub since: Instant,
    /// Start of the last probe that has ended.
    pub probed: Option<Instant>,
    /// How long the last probe took, if it succeeded.
    pub latency: Option<Duration>,
    /// What the last probe found, in words for an operator.
    pub reason: String,
    /// Successes in a row.
    pub successes: u32,
    /// Failures in a row.
    pub failures: u32,
}

/// The checks have ended: the reader of the events is gone, or a probe has panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the health checks have stopped")]
pub struct Stopped;

/// The running checks. Dropping it ends them.
#[derive(Debug)]
pub struct HealthChecks {
    commands: mpsc::Sender<Command>,
}

impl HealthChecks {
    /// Starts without any check, on the current tokio runtime. `adopted` is the health that a former run of the daemon
    /// knew; it holds for the RIPs of the first [`reconcile`](Self::reconcile) and makes no events.
    pub fn start(adopted: BTreeMap<RipName, Health>) -> (Self, mpsc::Receiver<Event>) {
        Self::start_with(probe::start, adopted)
    }

    /// As [`start`](Self::start), with another way to probe.
    pub fn start_with(
        probe: impl FnMut(&Spec) -> Probing + Send + 'static,
        adopted: BTreeMap<RipName, Health>,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (commands, incoming) = mpsc::channel(COMMANDS);
        let (events, reader) = mpsc::channel(EVENTS);
        tokio::spawn(Actor::new(probe, adopted).run(incoming, events));
        (Self { commands }, reader)
    }

    /// Makes `specs` the RIPs that are checked.
    ///
    /// One whose spec is the same goes on undisturbed. With another address it is another server: it starts from
    /// unknown. With another check at the same address it keeps its health and starts counting afresh, so that a
    /// reload with new defaults takes nobody out. One that is gone is forgotten, its waiting events included; those
    /// that are in the channel already still come.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn reconcile(&self, specs: BTreeMap<RipName, Spec>) -> Result<(), Stopped> {
        self.ask(|done| Command::Reconcile { specs, done }).await
    }

    /// The state of every RIP that is checked.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn snapshot(&self) -> Result<BTreeMap<RipName, State>, Stopped> {
        self.ask(|reply| Command::Snapshot { reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

#[derive(Debug)]
enum Command {
    Reconcile { specs: BTreeMap<RipName, Spec>, done: oneshot::Sender<()> },
    Snapshot { reply: oneshot::Sender<BTreeMap<RipName, State>> },
}

/// One RIP's check.
struct Entry {
    /// Tells it from an earlier entry of the same name, whose probe may still be under way.
    id: u64,
    spec: Spec,
    checker: Checker,
    /// Whether its probes have been moved to a place of their own within the interval.
    spread: bool,
    since: Instant,
    probed: Option<Instant>,
    latency: Option<Duration>,
    reason: String,
}

/// A probe that has ended.
struct Finished {
    rip: RipName,
    id: u64,
    started: Instant,
    result: ProbeResult,
}

struct Actor<P> {
    probe: P,
    adopted: BTreeMap<RipName, Health>,
    entries: BTreeMap<RipName, Entry>,
    next_id: u64,
    /// When which entry is to be probed. An entry is either here, or being probed, or has no check.
    due: BTreeMap<(Instant, u64), RipName>,
    probing: JoinSet<Finished>,
    /// Events that did not fit into the channel yet; at most one per entry.
    unsent: BTreeMap<RipName, Event>,
    warned: Option<Instant>,
}

impl<P: FnMut(&Spec) -> Probing> Actor<P> {
    fn new(probe: P, adopted: BTreeMap<RipName, Health>) -> Self {
        Self {
            probe,
            adopted,
            entries: BTreeMap::new(),
            next_id: 0,
            due: BTreeMap::new(),
            probing: JoinSet::new(),
            unsent: BTreeMap::new(),
            warned: None,
        }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>, events: mpsc::Sender<Event>) {
        loop {
            self.start_due_probes();
            let next = self.next_start();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.handle(command),
                    None => return,
                },
                Some(finished) = self.probing.join_next() => match finished {
                    Ok(finished) => self.finish(finished),
                    // Going on would leave one RIP's health frozen for ever. Ending is noticed: the events end too.
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => return,
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                permit = events.reserve(), if !self.unsent.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some((_, event)) = self.unsent.pop_first() {
                            permit.send(event);
                        }
                    }
                    Err(_) => return,
                },
            }
        }
    }

    fn handle(&mut self, command: Command) {
        // Whoever asked may have gone: nothing to be done about it.
        match command {
            Command::Reconcile { specs, done } => {
                self.reconcile(specs);
                let _ = done.send(());
            }
            Command::Snapshot { reply } => {
                let _ = reply.send(self.snapshot());
            }
        }
    }

    fn reconcile(&mut self, specs: BTreeMap<RipName, Spec>) {
        let mut former = std::mem::take(&mut self.entries);
        for (rip, spec) in specs {
            let entry = match former.remove(&rip) {
                Some(entry) if entry.spec == spec => entry,
                entry => self.enter(&rip, spec, entry),
            };
            self.entries.insert(rip, entry);
        }
        self.adopted.clear();
        let entries = &self.entries;
        self.due.retain(|(_, id), rip| entries.get(rip).is_some_and(|entry| entry.id == *id));
        self.unsent.retain(|rip, _| entries.contains_key(rip));
    }

    /// A new entry for `rip`, or one to replace `former`.
    fn enter(&mut self, rip: &RipName, spec: Spec, former: Option<Entry>) -> Entry {
        let now = Instant::now();
        let (known, since, is_same_server) = match &former {
            Some(former) => (former.checker.health(), former.since, former.spec.address == spec.address),
            None => (self.adopted.remove(rip).unwrap_or_default(), now, true),
        };
        let checker = Checker::resume(&spec.check, if is_same_server { known } else { Health::Unknown });
        let changed = checker.health() != known;
        let reason = match spec.check.kind {
            CheckKind::None => "not checked",
            CheckKind::Tcp if is_same_server => "not probed yet",
            CheckKind::Tcp => "its address has changed",
        };
        let id = self.next_id;
        self.next_id += 1;
        if spec.check.kind != CheckKind::None {
            let wait = spec.check.interval.min(FIRST_PROBE_WITHIN).mul_f64(random());
            self.due.insert((now + wait, id), rip.clone());
        }
        let since = if changed { now } else { since };
        let entry =
            Entry { id, spec, checker, spread: false, since, probed: None, latency: None, reason: reason.into() };
        if changed {
            self.unsent.insert(rip.clone(), entry.event(rip));
        }
        entry
    }

    fn snapshot(&self) -> BTreeMap<RipName, State> {
        self.entries.iter().map(|(rip, entry)| (rip.clone(), entry.state())).collect()
    }

    /// When the next probe is to be started; `None` if there is none, or if another has to end first.
    fn next_start(&self) -> Option<Instant> {
        let (&(start, _), _) = self.due.first_key_value()?;
        (self.probing.len() < MAX_PROBES).then_some(start)
    }

    fn start_due_probes(&mut self) {
        let now = Instant::now();
        while self.next_start().is_some_and(|start| start <= now) {
            let Some(((_, id), rip)) = self.due.pop_first() else { return };
            let Some(entry) = self.entries.get(&rip) else { continue };
            let probe = (self.probe)(&entry.spec);
            self.probing.spawn(async move { Finished { rip, id, started: now, result: probe.await } });
        }
    }

    fn finish(&mut self, Finished { rip, id, started, result }: Finished) {
        // A result for an entry that is gone or was replaced is dropped.
        let Some(entry) = self.entries.get_mut(&rip).filter(|entry| entry.id == id) else { return };
        let transition = entry.checker.observe(&result);
        entry.probed = Some(started);
        (entry.latency, entry.reason) = match result {
            ProbeResult::Success { latency } => (Some(latency), "answered".into()),
            ProbeResult::Failure { reason } => (None, reason),
            ProbeResult::Inconclusive { reason } => {
                let now = Instant::now();
                if self.warned.is_none_or(|warned| now - warned >= WARN_EVERY) {
                    self.warned = Some(now);
                    warn!(%rip, address = %entry.spec.address, reason, "cannot probe; health stays as it was");
                }
                (entry.latency, format!("cannot be probed: {reason}"))
            }
        };
        if transition.is_some() {
            entry.since = Instant::now();
            self.unsent.insert(rip.clone(), entry.event(&rip));
        }
        self.due.insert((started + entry.next_delay(), id), rip);
    }
}

impl Entry {
    /// Time from the start of the last probe to that of the next.
    ///
    /// All checks start within a second. The first time one has nothing to confirm it therefore waits for a random
    /// part of its interval, which scatters them over the whole of it from then on.
    fn next_delay(&mut self) -> Duration {
        let delay = self.checker.next_delay(2.0 * random() - 1.0);
        if self.spread || !self.checker.is_settled() {
            return delay;
        }
        self.spread = true;
        delay.mul_f64(random())
    }

    fn event(&self, rip: &RipName) -> Event {
        Event {
            rip: rip.clone(),
            address: self.spec.address,
            health: self.checker.health(),
            reason: self.reason.clone(),
            latency: self.latency,
        }
    }

    fn state(&self) -> State {
        let Self { id: _, spec, checker, spread: _, since, probed, latency, reason } = self;
        State {
            address: spec.address,
            health: checker.health(),
            since: *since,
            probed: *probed,
            latency: *latency,
            reason: reason.clone(),
            successes: checker.successes(),
            failures: checker.failures(),
        }
    }
}

/// 0 to 1. Without random numbers the checks would only be less well scattered.
fn random() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;

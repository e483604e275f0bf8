//! The daemon: describes to the kernel what it should do, and watches that it does.
//!
//! Owns the one loop. Every input is an [`Event`]; each is taken in, and when something bears on the data path the
//! tables are planned anew from what the kernel holds. Checks, listeners, control callers and the sweeper own their
//! sockets and talk to the loop over bounded channels. Packets need none of it.

mod host;
mod log;
mod report;
mod state;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Error, Result, anyhow};
use epiclb_common::{Addr, Hop, Rip};
use nix::time::{ClockId, clock_gettime};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::sleep_until,
};
use tracing::{debug, error, info, warn};

use self::{
    host::Host,
    log::Log,
    report::Sources,
    state::{State, check_against_host, needs_restart},
    store::Store,
};
use crate::{
    config::{self, Loaded, Report},
    control::{
        request::{Cleared, ErrorKind, ErrorReply, PinsRequest, PlanReport, ReloadReport, Request, Response, Stopping},
        server::{Call, MAX_CALLS, Server},
    },
    dataplane::{Bpf, Settings, Sweeper, Swept, Tables},
    desired::Desired,
    health::{self, HealthChecks},
    model::{Config, Health, RipName},
    netlink::{NetEvent, subscribe},
    plan::{Names, Op, plan},
    redirect::RedirectSet,
};

/// Time between two sweeps, and so the age that connection counts may have; longer where a sweep takes long, so that
/// sweeping never costs more than a twentieth of a CPU.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// However long a sweep takes, the next one begins within this time: a third of the margin that the sweeper keeps.
const SWEEP_AT_LEAST: Duration = Duration::from_secs(20);

/// Time until a step that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Time between two looks at what others may have changed: the guard, listeners that could not be opened.
const AUDIT_EVERY: Duration = Duration::from_secs(10);

/// Why the daemon ended before it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is invalid.
    Configuration(Report),
    /// Anything else.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Runs the daemon on the configuration in `folder` until it is stopped. `socket` overrides the one of node.toml.
///
/// # Errors
/// What keeps it from starting, and what it could not clean up at the end.
pub fn run(folder: &Path, socket: Option<&Path>) -> Result<(), Failure> {
    let Loaded { mut config, warnings } =
        config::load(folder, host::facts().ok().as_ref()).map_err(Failure::Configuration)?;
    if let Some(socket) = socket {
        config.node.socket = socket.to_owned();
    }
    let log = Log::start(config.node.log_level);
    for problem in warnings.warnings() {
        warn!("{}", problem.message);
    }
    log::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    Ok(runtime.block_on(async {
        let mut daemon = Daemon::start(folder.to_owned(), socket.map(Path::to_owned), config, log).await?;
        // On an error everything stays as it is: forwarding goes on for the daemon that is started next.
        daemon.serve().await?;
        daemon.stop().await
    })?)
}

/// Everything that wakes the loop.
enum Event {
    Call(Call),
    Health(health::Event),
    Network(NetEvent),
    /// Neighbours are due to be asked.
    Resolve,
    SweepDue,
    Swept(Result<(Sweeper, Swept)>),
    /// What failed is due again.
    Retry,
    Audit,
    Reload,
    Stop(&'static str),
}

/// Under which a guard that could not be installed stands among the faults.
const GUARD: &str = "guard";

struct Daemon {
    folder: PathBuf,
    socket: Option<PathBuf>,
    log: Log,
    state: State,
    /// What ids stand for, or stood for last.
    names: Names,
    store: Store,
    bpf: Bpf,
    host: Host,
    checks: HealthChecks,
    redirects: RedirectSet,
    events: Events,
    sweep: Sweep,
    started: Instant,
    /// Something has changed that bears on the data path.
    dirty: bool,
    /// When what failed is tried again.
    retry: Option<Instant>,
    audit: Instant,
    stopping: bool,
}

/// Where events come from.
struct Events {
    calls: mpsc::Receiver<Call>,
    server: JoinHandle<()>,
    health: mpsc::Receiver<health::Event>,
    network: mpsc::Receiver<NetEvent>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// The sweeper is either here, or away sweeping.
enum Sweep {
    Idle {
        sweeper: Box<Sweeper>,
        due: Instant,
    },
    Running {
        since: Instant,
        task: JoinHandle<Result<(Sweeper, Swept)>>,
    },
    /// Its thread died; nothing expires any more, which is an alarm.
    Lost,
}

impl Daemon {
    async fn start(folder: PathBuf, socket: Option<PathBuf>, config: Config, log: Log) -> Result<Self> {
        let node = &config.node;
        info!(node = node.name, version = env!("CARGO_PKG_VERSION"), "starting");
        let store = Store::open(&node.state_dir)?;
        let (seed, admin) = (store.seed()?, store.admin()?);
        let server = Server::bind(&node.socket)?.log_clients(node.log_client_addresses);

        let network = subscribe().context("subscribing to the kernel's network events")?;
        let host = Host::open(node)?;
        let mut state = State {
            admin,
            health: BTreeMap::new(),
            resolver: Default::default(),
            paths: BTreeMap::new(),
            links: host.links().await?,
            addresses: host.addresses().await?,
            host_ports: host::ports()?,
            tally: Default::default(),
            leaving_rips: BTreeMap::new(),
            leaving_addresses: BTreeMap::new(),
            resting: BTreeMap::new(),
            former: BTreeMap::new(),
            seed,
            generation: 1,
            loaded_at: SystemTime::now(),
            last_error: None,
            faults: BTreeMap::new(),
            config,
        };
        check_against_host(&state.config, &state.host_addresses(), state.host_ports).map_err(Error::msg)?;
        // Forgets admin states of RIPs that are no more.
        state.configure(state.config.clone());

        let pins = state.config.node.bpffs_dir.clone();
        let settings = Settings { limits: state.config.node.limits, seed, pins: Some(pins) };
        let mut bpf = Bpf::load(&settings)?;
        // What an earlier run has left pinned knows which RIPs were up; without it nobody is, until checked.
        let actual = bpf.actual()?;
        let fresh = actual == Tables::default();
        state.health = adopted_health(&state, &actual);
        let (checks, health) = HealthChecks::start(state.health.clone());
        let mut sweeper = bpf.sweeper(state.config.node.limits)?;
        state.tally = sweeper.sweep(boot_time(), &actual.rips)?.tally;

        let (calls, receiver) = mpsc::channel(MAX_CALLS);
        let mut daemon = Self {
            folder,
            socket,
            log,
            names: Names::default(),
            store,
            bpf,
            host,
            checks,
            redirects: RedirectSet::default(),
            events: Events {
                calls: receiver,
                server: tokio::spawn(server.run(calls)),
                health,
                network,
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: signal(SignalKind::hangup())?,
            },
            sweep: Sweep::Idle { sweeper: Box::new(sweeper), due: Instant::now() + SWEEP_EVERY },
            started: Instant::now(),
            dirty: false,
            retry: None,
            audit: Instant::now() + AUDIT_EVERY,
            stopping: false,
            state,
        };
        if let Err(error) = daemon.bring_up().await {
            // What a run before this one keeps going is not taken down by one that could not start.
            if fresh && let Err(error) = daemon.stop().await {
                error!("cleaning up: {error:#}");
            }
            return Err(error);
        }
        info!("ready: {} VIPs, {} RIPs", daemon.state.config.services.vips.len(), daemon.rips());
        Ok(daemon)
    }

    /// Guard and tables first, the program next, addresses last: nothing is ever asked of a VIP that is not ready.
    async fn bring_up(&mut self) -> Result<()> {
        self.follow().await?;
        self.describe()?;
        if let Some(guard) = self.state.faults.get(GUARD) {
            return Err(Error::msg(guard.clone()));
        }
        self.host.attach(&mut self.bpf, &self.state)?;
        self.state.links = self.host.links().await?;
        self.apply().await?;
        self.settle().await
    }

    fn rips(&self) -> usize {
        self.state.config.services.rips().count()
    }

    /// The loop. Ends when the daemon is to stop.
    async fn serve(&mut self) -> Result<()> {
        while !self.stopping {
            let event = self.next_event().await?;
            if let Err(error) = self.handle(event).await {
                error!("{error:#}");
                self.retry_soon();
            }
            // A hundred servers that fail at once are one change.
            while let Ok(event) = self.events.health.try_recv() {
                self.heard(&event);
            }
            if self.dirty && !self.stopping {
                self.dirty = false;
                match self.apply().await {
                    Ok(_) => drop(self.state.faults.remove("tables")),
                    Err(error) => {
                        error!("{error:#}");
                        self.state.faults.insert("tables", format!("the kernel's tables are behind: {error:#}"));
                        self.retry_soon();
                    }
                }
            }
        }
        Ok(())
    }

    fn retry_soon(&mut self) {
        self.retry.get_or_insert(Instant::now() + RETRY_AFTER);
    }

    /// What comes next. An error: something that the daemon can't do without has ended.
    async fn next_event(&mut self) -> Result<Event> {
        let lost = |what| anyhow!("{what} have ended, which they never should");
        let resolve = self.state.resolver.next_due();
        let (retry, audit) = (self.retry, self.audit);
        let at = |time: Option<Instant>| async move {
            match time {
                Some(time) => sleep_until(time.into()).await,
                None => std::future::pending().await,
            }
        };
        let events = &mut self.events;
        Ok(tokio::select! {
            call = events.calls.recv() => Event::Call(call.ok_or_else(|| lost("control callers"))?),
            event = events.health.recv() => Event::Health(event.ok_or_else(|| lost("health checks"))?),
            event = events.network.recv() => Event::Network(event.ok_or_else(|| lost("network events"))?),
            () = at(resolve) => Event::Resolve,
            event = self.sweep.next() => event,
            () = at(retry) => Event::Retry,
            () = at(Some(audit)) => Event::Audit,
            _ = events.hangup.recv() => Event::Reload,
            _ = events.terminate.recv() => Event::Stop("SIGTERM"),
            _ = events.interrupt.recv() => Event::Stop("SIGINT"),
        })
    }

    async fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Call(call) => self.answer(call).await,
            Event::Health(event) => self.heard(&event),
            Event::Network(event) => self.network(event).await?,
            Event::Resolve => {
                for probe in self.state.resolver.probes(Instant::now()) {
                    // An interface that just went down; its event is on the way.
                    if let Err(error) = self.host.net.probe(&probe).await {
                        debug!("{error}");
                    }
                }
            }
            Event::SweepDue => match self.bpf.actual() {
                Ok(actual) => self.sweep.begin(actual.rips),
                Err(error) => {
                    self.sweep.postpone();
                    return Err(error);
                }
            },
            Event::Swept(result) => self.swept(result),
            Event::Retry => {
                self.retry = None;
                self.dirty = true;
            }
            Event::Audit => self.audit().await?,
            Event::Reload => {
                if let Err(reply) = self.reload().await {
                    error!("reload refused: {}", reply.message);
                }
            }
            Event::Stop(why) => {
                info!("stopping: {why}");
                self.stopping = true;
            }
        }
        Ok(())
    }

    fn heard(&mut self, event: &health::Event) {
        if !self.state.heard(event) {
            return;
        }
        self.dirty = true;
        match event.health {
            Health::Up => info!(rip = %event.rip, address = %event.address, "up"),
            Health::Down => warn!(rip = %event.rip, address = %event.address, "down: {}", event.reason),
            Health::Unknown => info!(rip = %event.rip, address = %event.address, "not checked yet"),
        }
    }

    async fn network(&mut self, event: NetEvent) -> Result<()> {
        match event {
            NetEvent::Neighbour(neighbour) => {
                let (ip, mac) = (neighbour.ip, neighbour.mac);
                if self.state.resolver.heard(neighbour, Instant::now()) {
                    info!(%ip, mac = mac.map(host::mac_text), "next hop changed");
                    self.dirty = true;
                }
            }
            NetEvent::Link => self.links().await?,
            NetEvent::Address => {
                self.state.addresses = self.host.addresses().await?;
                self.dirty = true;
            }
            NetEvent::Route => self.follow().await?,
            NetEvent::Overrun => {
                self.links().await?;
                self.state.addresses = self.host.addresses().await?;
                self.follow().await?;
            }
        }
        Ok(())
    }

    /// An interface may have another MAC, be gone, or be back without the program.
    async fn links(&mut self) -> Result<()> {
        self.dirty = true;
        self.state.links = self.host.links().await?;
        if self.host.attach(&mut self.bpf, &self.state)? {
            self.state.links = self.host.links().await?;
        }
        Ok(())
    }

    /// Looks after what others may have changed without the kernel's telling.
    async fn audit(&mut self) -> Result<()> {
        self.audit = Instant::now() + AUDIT_EVERY;
        if self.state.faults.contains_key("redirects") {
            self.settle().await?;
        }
        let intact = tokio::task::spawn_blocking(self.host.guard_audit()).await?;
        if !intact {
            warn!("the VIP guard (nft table inet epiclb) was changed or removed by somebody: installing it again");
            self.host.distrust_guard();
            self.dirty = true;
        }
        Ok(())
    }

    /// Finds the ways to all RIPs anew, those included that only open flows still need.
    async fn follow(&mut self) -> Result<()> {
        let retiring = self.bpf.actual()?.rips.into_values().map(|rip| IpAddr::from(rip.addr));
        let wanted: BTreeSet<IpAddr> =
            self.state.config.services.rips().map(|(_, _, rip)| rip.address).chain(retiring).collect();
        let mut paths = BTreeMap::new();
        for address in wanted {
            paths.insert(address, self.host.net.route(address).await?);
        }
        let now = Instant::now();
        self.state.paths.clone_from(&paths);
        self.state.resolver.want(paths, now);
        self.state.resolver.sync(self.host.net.neighbours().await?, now);
        self.dirty = true;
        Ok(())
    }

    fn swept(&mut self, result: Result<(Sweeper, Swept)>) {
        match result {
            Ok((sweeper, swept)) => {
                let took = self.sweep.finished(sweeper);
                if swept.tally.evicted_pins > self.state.tally.evicted_pins {
                    warn!(evicted = swept.tally.evicted_pins, "pins were lost to a full table: raise limits.pins");
                }
                debug!(?took, flows = swept.flows, pins = swept.pins, kept_pins = swept.kept_pins, "swept");
                self.dirty |= self.state.swept(swept.tally);
                self.state.faults.remove("sweeper");
            }
            Err(error) => {
                error!("sweeping: {error:#}");
                self.sweep = match self.bpf.sweeper(self.state.config.node.limits) {
                    Ok(sweeper) => Sweep::Idle { sweeper: Box::new(sweeper), due: Instant::now() + SWEEP_EVERY },
                    Err(_) => Sweep::Lost,
                };
                self.state.faults.insert("sweeper", format!("expired entries are not removed: {error:#}"));
            }
        }
    }

    /// Makes the kernel's tables what they should be, and the host's side of the VIPs too.
    async fn apply(&mut self) -> Result<Vec<String>> {
        let (lines, addresses) = self.describe()?;
        if self.state.faults.contains_key(GUARD) {
            // No new address without its guard; everything else is done.
            self.retry_soon();
            return Ok(lines);
        }
        match self.host.set_addresses(&self.state, &addresses).await {
            Ok(()) => drop(self.state.faults.remove("addresses")),
            // An interface that is down or gone; its next event tries again.
            Err(error) => {
                warn!("{error:#}");
                self.state.faults.insert("addresses", format!("{error:#}"));
            }
        }
        Ok(lines)
    }

    /// Makes the kernel's tables what they should be. Returns what was done, and the addresses that are ours now.
    fn describe(&mut self) -> Result<(Vec<String>, BTreeSet<Addr>)> {
        let actual = self.bpf.actual()?;
        let desired = self.state.desired(&actual);
        let ops = plan(&actual, &desired);
        // What is taken away has its name from before.
        self.names = std::mem::take(&mut self.names).and(&desired);
        // A dead server must leave its ring, whatever is the matter with nftables.
        match self.host.guard(&self.state, &desired) {
            Ok(()) => drop(self.state.faults.remove(GUARD)),
            Err(error) => {
                error!("{error:#}");
                self.state.faults.insert(GUARD, format!("{error:#}"));
            }
        }
        let mut lines = Vec::with_capacity(ops.len());
        for op in &ops {
            let line = self.names.describe(op);
            if let Op::RemoveRip(id) = op
                && let Some(rip) = actual.rips.get(id)
            {
                *self.state.former.entry(rip.group).or_default() += self.bpf.rip_stats(*id)?;
            }
            self.bpf.apply(op)?;
            debug!("{line}");
            lines.push(line);
        }
        self.state.done(&ops, &desired.retiring, boot_time());
        Ok((lines, desired.tables.addresses))
    }

    /// Brings checks and listeners in line with the configuration.
    async fn settle(&mut self) -> Result<()> {
        let specs = self.state.config.services.rips().map(|(vip, balance, rip)| {
            let spec = health::Spec { address: vip.probe_address(rip), source: None, check: balance.check.clone() };
            (vip.rip_name(rip), spec)
        });
        self.checks.reconcile(specs.collect()).await?;
        let done = self.redirects.reconcile(&self.state.config.services.redirects()).await;
        self.state.faults.remove("redirects");
        if !done.failed.is_empty() {
            let reasons: Vec<String> = done.failed.iter().map(ToString::to_string).collect();
            let reasons = reasons.join("; ");
            error!("{reasons}");
            self.state.faults.insert("redirects", reasons);
        }
        Ok(())
    }

    async fn answer(&mut self, call: Call) {
        let Call { request, reply, .. } = call;
        let response = match self.respond(request).await {
            Ok(response) => response,
            Err(error) => Response::Error(error),
        };
        // The caller may have gone.
        let _ = reply.send(response);
    }

    async fn respond(&mut self, request: Request) -> Result<Response, ErrorReply> {
        Ok(match request {
            Request::Status => Response::Status(Box::new(self.sources().await.map_err(internal)?.status())),
            Request::Counters => {
                let sources = self.sources().await.map_err(internal)?;
                Response::Counters(sources.counters().map_err(internal)?)
            }
            Request::Flows { vip, client, limit } => {
                let sources = self.sources().await.map_err(internal)?;
                Response::Flows(sources.flows(vip.as_deref(), client, limit).map_err(internal)?)
            }
            Request::Pins(PinsRequest::List { vip, limit }) => {
                let sources = self.sources().await.map_err(internal)?;
                let wanted = |label: &str, _| vip.as_deref().is_none_or(|vip| vip == label);
                Response::Pins(sources.pins(wanted, limit).map_err(internal)?)
            }
            Request::Pins(PinsRequest::Show { client }) => {
                let sources = self.sources().await.map_err(internal)?;
                Response::Pins(sources.pins(|_, address| address == client, None).map_err(internal)?)
            }
            Request::Pins(PinsRequest::Clear { scope }) => {
                let sources = self.sources().await.map_err(internal)?;
                let keys = sources.pin_keys(&scope)?;
                let pins = self.bpf.remove_pins(&keys).map_err(|error| internal(error.into()))? as u64;
                Response::Cleared(Cleared { pins })
            }
            Request::Explain { client, vip } => {
                Response::Explain(self.sources().await.map_err(internal)?.explain(client, &vip)?)
            }
            Request::SetAdmin { rip, admin, force } => {
                let before = self.set_admin(&rip, admin, force).await?;
                let sources = self.sources().await.map_err(internal)?;
                let id = sources.rip_id(&rip);
                Response::Admin(self.state.admin_report(rip, before, admin, id))
            }
            Request::Plan => Response::Plan(self.plan_reload().map_err(|refusal| refusal.reply)?),
            Request::Reload => Response::Reload(self.reload().await?),
            Request::Stop => {
                info!("stopping: asked to");
                self.stopping = true;
                Response::Stopping(Stopping { pid: std::process::id() })
            }
        })
    }

    async fn sources(&mut self) -> Result<Sources<'_>> {
        let actual = self.bpf.actual()?;
        let desired = self.state.desired(&actual);
        Ok(Sources {
            checks: self.checks.snapshot().await?,
            redirects: self.redirects.counts(),
            now: boot_time(),
            started: self.started,
            bpf: &self.bpf,
            state: &self.state,
            actual,
            desired,
        })
    }

    async fn set_admin(
        &mut self,
        rip: &RipName,
        admin: crate::model::Admin,
        force: bool,
    ) -> Result<crate::model::Admin, ErrorReply> {
        let old = self.state.admin.clone();
        let before = self.state.set_admin(rip, admin, force)?;
        // Kept before it takes effect: a halt that a restart forgets would be worse than one that is refused.
        if let Err(error) = self.store.set_admin(&self.state.admin) {
            self.state.admin = old;
            return Err(internal(error));
        }
        self.apply().await.map_err(internal)?;
        Ok(before)
    }

    /// The new configuration and what it would change.
    fn read_reload(&self) -> Result<(Config, Report), Refusal> {
        let host = host::facts().ok();
        let loaded = config::load(&self.folder, host.as_ref()).map_err(|report| Refusal::invalid(&report))?;
        let mut config = loaded.config;
        if let Some(socket) = &self.socket {
            config.node.socket.clone_from(socket);
        }
        let keys = needs_restart(&self.state.config.node, &config.node);
        if !keys.is_empty() {
            let message = format!("node.toml: {} can't change while the daemon runs", keys.join(", "));
            let help = "restart the daemon to apply it, or put the old value back".to_owned();
            return Err(Refusal {
                reply: ErrorReply { help: Some(help), ..ErrorReply::new(ErrorKind::Refused, message) },
            });
        }
        check_against_host(&config, &self.state.host_addresses(), self.state.host_ports)
            .map_err(|message| Refusal { reply: ErrorReply::new(ErrorKind::Invalid, message) })?;
        Ok((config, loaded.warnings))
    }

    fn plan_reload(&self) -> Result<PlanReport, Refusal> {
        let (config, warnings) = self.read_reload()?;
        let internal =
            |error: anyhow::Error| Refusal { reply: ErrorReply::new(ErrorKind::Internal, format!("{error:#}")) };
        let actual = self.bpf.actual().map_err(internal)?;
        let desired = self.state.desired_for(&config, &actual);
        let names = self.names.clone().and(&desired);
        let ops = plan(&actual, &desired);
        Ok(PlanReport { ops: ops.iter().map(|op| names.describe(op)).collect(), warnings: report::problems(&warnings) })
    }

    /// Reads the configuration anew and applies it, all or nothing.
    async fn reload(&mut self) -> Result<ReloadReport, ErrorReply> {
        let (config, warnings) = match self.read_reload() {
            Ok(read) => read,
            Err(Refusal { reply }) => {
                self.state.last_error = Some(reply.message.clone());
                return Err(reply);
            }
        };
        let changed = config != self.state.config;
        let (health, admin) = (self.state.health.clone(), self.state.admin.clone());
        let old = self.state.configure(config);
        match self.apply_configuration().await {
            Ok(ops) => {
                self.state.last_error = None;
                if changed {
                    self.state.generation += 1;
                }
                self.state.loaded_at = SystemTime::now();
                if self.state.admin != admin {
                    self.store.set_admin(&self.state.admin).map_err(internal)?;
                }
                self.log.set_level(self.state.config.node.log_level);
                info!(generation = self.state.generation, ops = ops.len(), "reloaded");
                Ok(ReloadReport { generation: self.state.generation, ops, warnings: report::problems(&warnings) })
            }
            Err(error) => {
                (self.state.config, self.state.health, self.state.admin) = (old, health, admin);
                let message = format!("{error:#}; the configuration that ran before runs on");
                self.state.last_error = Some(message.clone());
                // Back to what was; what can't be undone shows as an alarm.
                if let Err(error) = self.apply_configuration().await {
                    self.retry_soon();
                    self.state.faults.insert("tables", format!("the kernel's tables are behind: {error:#}"));
                }
                Err(ErrorReply::new(ErrorKind::Internal, message))
            }
        }
    }

    async fn apply_configuration(&mut self) -> Result<Vec<String>> {
        self.follow().await?;
        let ops = self.apply().await?;
        self.settle().await?;
        Ok(ops)
    }

    /// Takes everything down that was put up.
    async fn stop(mut self) -> Result<()> {
        self.redirects.reconcile(&BTreeMap::new()).await;
        let result = self.host.clean_up(&self.state, self.bpf).await;
        // Last: whoever asked for the stop waits for this socket to close.
        self.events.server.abort();
        let _ = (&mut self.events.server).await;
        if result.is_ok() {
            info!("stopped");
        }
        result
    }
}

fn internal(error: Error) -> ErrorReply {
    ErrorReply::new(ErrorKind::Internal, format!("{error:#}"))
}

/// Why a reload is not done.
struct Refusal {
    reply: ErrorReply,
}

impl Refusal {
    fn invalid(report: &Report) -> Self {
        let errors = report.errors().count();
        let first = report.errors().next().map_or(String::new(), |problem| {
            let at = problem.line.map_or(String::new(), |line| format!(":{line}"));
            format!("{}{at}: {}", problem.file, problem.message)
        });
        let message = match errors {
            1 => first,
            n => format!("{first} (and {} more)", n - 1),
        };
        let problems = report::problems(report);
        Self { reply: ErrorReply { problems, ..ErrorReply::new(ErrorKind::Invalid, message) } }
    }
}

impl Sweep {
    /// The next event of sweeping; never, once the sweeper is lost.
    async fn next(&mut self) -> Event {
        match self {
            Self::Idle { due, .. } => {
                sleep_until((*due).into()).await;
                Event::SweepDue
            }
            Self::Running { task, .. } => match task.await {
                Ok(result) => Event::Swept(result),
                Err(error) => Event::Swept(Err(error.into())),
            },
            Self::Lost => std::future::pending().await,
        }
    }

    fn begin(&mut self, rips: BTreeMap<u32, Rip>) {
        let Self::Idle { sweeper, .. } = std::mem::replace(self, Self::Lost) else { return };
        let mut sweeper = *sweeper;
        let task = tokio::task::spawn_blocking(move || {
            let swept = sweeper.sweep(boot_time(), &rips)?;
            Ok((sweeper, swept))
        });
        *self = Self::Running { since: Instant::now(), task };
    }

    /// Tries again at the next turn.
    fn postpone(&mut self) {
        if let Self::Idle { due, .. } = self {
            *due = Instant::now() + SWEEP_EVERY;
        }
    }

    /// Puts the sweeper back; how long it was away.
    fn finished(&mut self, sweeper: Sweeper) -> Duration {
        let took = match self {
            Self::Running { since, .. } => since.elapsed(),
            _ => Duration::ZERO,
        };
        *self = Self::Idle {
            sweeper: Box::new(sweeper),
            due: Instant::now() + SWEEP_EVERY.max(took * 20).min(SWEEP_AT_LEAST),
        };
        took
    }
}

/// RIPs that an earlier run knew to be up.
fn adopted_health(state: &State, actual: &Tables) -> BTreeMap<RipName, Health> {
    let Desired { rips, .. } = state.desired(actual);
    rips.into_iter()
        .filter(|(id, _)| actual.hops.get(id).is_some_and(|hop| hop.has(Hop::PINNED)))
        .map(|(_, name)| (name, Health::Up))
        .collect()
}

/// Time since boot, suspend included: the clock of flows and pins.
fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

//! What the tables hold, and what of it has expired.
//!
//! Flows are removed a pair at a time, so that both directions die together; pins when their time is over, unless the
//! client still has a flow open. One pass reads each table once, in batches, beside the daemon's loop.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use epiclb_common::{
    Addr, PinKey, Rip,
    flow::state,
    pin::touch::{self, Touch},
    verdict::Note,
};

use super::{bpf::Shared, table::test_run};
use crate::model::Limits;

/// Who uses what, as of the last sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Boot time at which it was taken: what came later may be missing.
    pub taken: Duration,
    /// Open flows by RIP id. Closed ones that linger are not counted.
    pub flows: BTreeMap<u32, u64>,
    /// Pins by RIP id.
    pub pins: BTreeMap<u32, u64>,
    /// VIP and SNAT addresses of flows, closed ones that linger included.
    pub addresses: BTreeSet<Addr>,
    /// Flows in the table, closed ones included.
    pub held_flows: u64,
    /// Pins in the table.
    pub held_pins: u64,
    /// Pins that were evicted by the kernel, ever: none, unless a limit was passed.
    pub evicted_pins: u64,
}

impl Tally {
    /// Open flows of a RIP.
    pub fn flows(&self, rip: u32) -> u64 {
        self.flows.get(&rip).copied().unwrap_or(0)
    }

    /// Pins of a RIP.
    pub fn pins(&self, rip: u32) -> u64 {
        self.pins.get(&rip).copied().unwrap_or(0)
    }
}

/// What one sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What is left.
    pub tally: Tally,
    /// Flows removed.
    pub flows: u64,
    /// Pins removed.
    pub pins: u64,
    /// Pins kept for the sake of an open flow.
    pub kept_pins: u64,
}

/// Looks through flows and pins.
pub struct Sweeper {
    shared: Arc<Shared>,
    touch: OwnedFd,
    limits: Limits,
    /// Flows held after the last sweep.
    held_flows: u64,
    /// The pins of the last sweep.
    last: Option<LastPins>,
    evicted: u64,
}

/// What a sweep needs of the last one to tell evicted pins from removed ones.
struct LastPins {
    /// Pins held at its end.
    left: u64,
    /// [`Note::PinInserted`] at its end.
    inserted: u64,
    /// Pins cleared by the operator until it began.
    cleared: u64,
}

/// A pin whose client is silent on an open flow is moved on this long before it expires, and so that it lasts for
/// twice as long: the data path never sees it expired between two sweeps, and it ends soon after the flow does. Three
/// times the longest time between two sweeps.
const MARGIN: Duration = Duration::from_secs(60);

impl Sweeper {
    pub(super) fn new(shared: Arc<Shared>, touch: OwnedFd, limits: Limits) -> Self {
        Self { shared, touch, limits, held_flows: 0, last: None, evicted: 0 }
    }

    /// Looks through everything once. `now` is the boot time (CLOCK_BOOTTIME); `rips` are those in the kernel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sweep(&mut self, now: Duration, rips: &BTreeMap<u32, Rip>) -> Result<Swept> {
        let mut swept = Swept { tally: Tally { taken: now, ..Tally::default() }, ..Swept::default() };
        let silent = self.sweep_flows(now, rips, &mut swept)?;
        self.sweep_pins(now, rips, &silent, &mut swept)?;
        Ok(swept)
    }

    /// Removes idle flows, and returns clients with an open flow that has been silent for half of their persistence.
    fn sweep_flows(&mut self, now: Duration, rips: &BTreeMap<u32, Rip>, swept: &mut Swept) -> Result<HashSet<PinKey>> {
        let mut silent = HashSet::new();
        let mut idle = HashMap::new();
        let mut entries = 0_u64;
        let tally = &mut swept.tally;
        let now = now.as_secs() as u32;
        // Closed flows only wait for stragglers: they make room when the table runs full.
        let crowded = self.held_flows > u64::from(self.limits.flows) / 10 * 9;
        self.shared
            .flows
            .for_each(|key, flow| {
                entries += 1;
                let age = now.saturating_sub(flow.seen);
                let limit = flow.idle_limit(key.proto as u8);
                if age > limit || (crowded && flow.is_closed() && age > 1) {
                    idle.insert(*key, *flow);
                }
                if flow.state & state::TO_CLIENT != 0 {
                    return;
                }
                tally.addresses.extend([key.dst, flow.src]);
                if flow.is_closed() {
                    return;
                }
                *tally.flows.entry(flow.rip).or_default() += 1;
                if let Some(rip) = rips.get(&flow.rip)
                    && rip.persistence_s != 0
                    && age >= rip.persistence_s / 2
                {
                    silent.insert(PinKey { group: rip.group, client: key.src });
                }
            })
            .context("reading FLOWS")?;

        // A direction that is idle goes only if the other one is idle or gone, and only if it is still the one that
        // was read: a client may have opened a new connection from its old port meanwhile.
        let flows = &self.shared.flows;
        let mut removed = 0;
        for (key, flow) in &idle {
            let other = flow.other_key(key.proto);
            let other_is_over = match flows.get(&other).context("reading FLOWS")? {
                Some(held) => idle.get(&other) == Some(&held),
                None => true,
            };
            let unchanged = || flows.get(key).map(|held| held == Some(*flow)).context("reading FLOWS");
            if other_is_over && unchanged()? && flows.remove(key).context("deleting from FLOWS")? {
                removed += 1;
            }
        }
        swept.flows = removed / 2;
        self.held_flows = entries.saturating_sub(removed) / 2;
        tally.held_flows = self.held_flows;
        Ok(silent)
    }

    fn sweep_pins(
        &mut self,
        now: Duration,
        rips: &BTreeMap<u32, Rip>,
        silent: &HashSet<PinKey>,
        swept: &mut Swept,
    ) -> Result<()> {
        let cleared = self.shared.cleared_pins.load(Ordering::Relaxed);
        let inserted = self.inserted()?;
        let now = now.as_nanos() as u64;
        let (mut remove, mut touch, mut held) = (Vec::new(), Vec::new(), 0_u64);
        let by_rip = &mut swept.tally.pins;
        self.shared
            .pins
            .for_each(|key, pin| {
                held += 1;
                let persistence_s = rips.get(&pin.rip).map_or(0, |rip| rip.persistence_s);
                let margin = (MARGIN.as_nanos() as u64).min(u64::from(persistence_s) * 500_000_000);
                if silent.contains(key) && pin.is_expired(now + margin, persistence_s) {
                    let seen = (now + 2 * margin).saturating_sub(u64::from(persistence_s) * 1_000_000_000);
                    touch.push(Touch { key: *key, seen });
                } else if pin.is_expired(now, persistence_s) {
                    remove.push((*key, *pin));
                    return;
                }
                *by_rip.entry(pin.rip).or_default() += 1;
            })
            .context("reading PINS")?;
        self.touch(&touch)?;
        swept.kept_pins = touch.len() as u64;
        // Only if its client has not come back meanwhile.
        for (key, pin) in &remove {
            let pins = &self.shared.pins;
            let unchanged = pins.get(key).context("reading PINS")? == Some(*pin);
            swept.pins += u64::from(unchanged && pins.remove(key).context("deleting from PINS")?);
        }

        // The program counts what it adds, and keeps below its limit by what is told to it here. What is missing beyond
        // that was evicted. Clients come while this looks: those are not expected, whether or not they were seen.
        if let Some(last) = &self.last {
            let expected = last.left + inserted.saturating_sub(last.inserted);
            let cleared = self.shared.cleared_pins.load(Ordering::Relaxed) - last.cleared;
            self.evicted += expected.saturating_sub(held + cleared);
        }
        let left = held - swept.pins;
        self.last = Some(LastPins { left, inserted: self.inserted()?, cleared });
        self.shared.notes.put(&Note::COUNT, &inserted.wrapping_sub(left)).context("writing NOTES")?;
        swept.tally.held_pins = left;
        swept.tally.evicted_pins = self.evicted;
        Ok(())
    }

    fn inserted(&self) -> Result<u64> {
        Ok(self.shared.notes.get(&(Note::PinInserted as u32)).context("reading NOTES")?.unwrap_or(0))
    }

    /// Moves time stamps on, through the looked-up pointer: a BPF program does it, since a map update from here would
    /// evict others from a full table.
    fn touch(&self, touches: &[Touch]) -> Result<()> {
        for chunk in touches.chunks(touch::BATCH) {
            let mut frame = vec![0_u8; touch::HEADER];
            for Touch { key, seen } in chunk {
                frame.extend(key.group.to_ne_bytes());
                frame.extend(key.client.words.iter().flat_map(|word| word.to_ne_bytes()));
                frame.extend(seen.to_ne_bytes());
            }
            test_run(self.touch.as_fd(), &frame).context("refreshing pins")?;
        }
        Ok(())
    }
}

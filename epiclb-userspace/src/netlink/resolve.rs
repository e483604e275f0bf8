//! Which MAC a packet to a server must carry, and whom to ask so that the answer stays true.
//!
//! Pure: routes, neighbour events and `now` in; hops and probes out. The caller sends the probes
//! ([`super::Netlink::probe`]) and feeds every [`super::NetEvent`] back. Deliberately knows nothing of RIPs and health.
//!
//! XDP cannot queue a packet while an address is being resolved, so every hop is resolved ahead of traffic and kept so:
//!
//! * A hop that nobody answers for is asked for by broadcast, after 1, 2, 3, 4 and then every 5 seconds.
//! * A hop that answers is asked again every [`CONFIRM_EVERY`], by unicast to its known MAC, which disturbs nobody else.
//!   Left alone, the kernel would believe a MAC for up to 45 s, then wait 5 s, then ask the old MAC for 3 s.
//! * If that is not answered within [`CONFIRM_WITHIN`], the entry is renewed: the kernel forgets it and asks by broadcast.
//!   A server that comes back with another MAC and says nothing is thus found within `CONFIRM_EVERY + CONFIRM_WITHIN`;
//!   one that sends a gratuitous ARP, as hosts mostly do, at once.
//!
//! **Invariant:** a hop that was once known stays [`Hop::Known`] with its last MAC until another MAC answers, its route
//! changes or it is no longer wanted. A host that does not answer ARP may well take packets (a lost frame, a busy host, a
//! filter), and frames to a MAC that is gone harm nobody. Whether the server is alive is for its health check to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{Mac, Neighbour, NeighbourState, Path};

/// The time between two confirmations of a hop.
pub const CONFIRM_EVERY: Duration = Duration::from_secs(3);
/// The time that a hop has to confirm its MAC.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(1);
/// The longest pause between two broadcasts for a hop that nobody answers for, in seconds.
const SLOWEST: u32 = 5;
/// Probes that are due at the same time leave in groups of this many, [`GROUP_GAP`] apart: at most 640 a second.
const GROUP: usize = 64;
const GROUP_GAP: Duration = Duration::from_millis(100);

/// Where a packet to some address must be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Out of this interface, to this MAC.
    Known {
        /// The interface.
        ifindex: u32,
        /// The server's MAC or its gateway's.
        mac: Mac,
    },
    /// Nobody has answered yet, or the address is not among the wanted ones.
    Unknown,
    /// There is no route, or it leads to this machine.
    Unreachable,
}

/// A question for the kernel to ask on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The link.
    pub ifindex: u32,
    /// Whose MAC is wanted.
    pub ip: IpAddr,
    /// How it is asked.
    pub kind: ProbeKind,
}

/// How a MAC is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// By broadcast, unless the kernel knows the answer or is asking already.
    Resolve,
    /// By unicast to the known MAC.
    Confirm,
    /// By broadcast, although a MAC is known.
    Renew,
}

/// The bookkeeping. Ordered throughout, so that equal inputs give equal outputs.
#[derive(Debug, Default)]
pub struct Resolver {
    paths: BTreeMap<IpAddr, Path>,
    /// A copy of the kernel's table, which bounds it (`net.ipv4.neigh.default.gc_thresh3`): an address that becomes
    /// wanted may be known already, and the kernel tells only of changes.
    table: BTreeMap<Key, Neighbour>,
    hops: BTreeMap<Key, Tracked>,
    /// When the next group of probes may leave.
    pause_until: Option<Instant>,
}

/// An address on a link.
type Key = (u32, IpAddr);

#[derive(Debug)]
struct Tracked {
    /// The last MAC that was known.
    mac: Option<Mac>,
    phase: Phase,
    /// When the next probe leaves; never, for an administrator's entry.
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody answers; so many broadcasts have been asked for.
    Asking(u32),
    /// The MAC is believed until the next confirmation.
    Settled,
    /// A unicast question is out.
    Confirming,
}

impl Resolver {
    /// Replaces the wanted addresses and the ways to them. Addresses with the same gateway share its hop.
    pub fn want(&mut self, paths: BTreeMap<IpAddr, Path>, now: Instant) {
        self.paths = paths;
        let keys: BTreeSet<Key> = self.paths.iter().filter_map(|(&ip, path)| key(ip, path)).collect();
        self.hops.retain(|key, _| keys.contains(key));
        let new: Vec<Key> = keys.into_iter().filter(|key| !self.hops.contains_key(key)).collect();
        for key in new {
            self.hops.insert(key, Tracked { mac: None, phase: Phase::Asking(0), due: Some(now) });
            self.learn(key, now);
        }
    }

    /// Replaces everything known of neighbours, at the start and after an overrun. Says whether some hop has changed.
    pub fn sync(&mut self, neighbours: impl IntoIterator<Item = Neighbour>, now: Instant) -> bool {
        self.table = neighbours.into_iter().map(|neighbour| ((neighbour.ifindex, neighbour.ip), neighbour)).collect();
        let keys: Vec<Key> = self.hops.keys().copied().collect();
        keys.into_iter().fold(false, |changed, key| self.learn(key, now) | changed)
    }

    /// Takes in one change. Says whether some hop has changed, which a mere confirmation does not.
    pub fn heard(&mut self, neighbour: Neighbour, now: Instant) -> bool {
        let key = (neighbour.ifindex, neighbour.ip);
        if neighbour.state == NeighbourState::Gone {
            self.table.remove(&key);
        } else {
            self.table.insert(key, neighbour);
        }
        self.learn(key, now)
    }

    /// Where packets to `ip` go now.
    pub fn hop(&self, ip: IpAddr) -> Hop {
        let Some(path) = self.paths.get(&ip) else { return Hop::Unknown };
        let Some(key) = key(ip, path) else { return Hop::Unreachable };
        match self.hops.get(&key).and_then(|tracked| tracked.mac) {
            Some(mac) => Hop::Known { ifindex: key.0, mac },
            None => Hop::Unknown,
        }
    }

    /// The probes to send now: those that have waited longest, no more than a group.
    pub fn probes(&mut self, now: Instant) -> Vec<Probe> {
        if self.pause_until.is_some_and(|until| until > now) {
            return Vec::new();
        }
        let mut due: Vec<_> =
            self.hops.iter_mut().filter(|(_, tracked)| tracked.due.is_some_and(|due| due <= now)).collect();
        due.sort_by_key(|(_, tracked)| tracked.due);
        self.pause_until = (due.len() > GROUP).then_some(now + GROUP_GAP);
        due.into_iter()
            .take(GROUP)
            .map(|(&(ifindex, ip), tracked)| Probe { ifindex, ip, kind: tracked.ask(now) })
            .collect()
    }

    /// When [`Self::probes`] will next have something to send.
    pub fn next_due(&self) -> Option<Instant> {
        let due = self.hops.values().filter_map(|tracked| tracked.due).min()?;
        Some(self.pause_until.map_or(due, |until| due.max(until)))
    }

    /// Brings a hop in line with the table. Says whether its MAC has changed.
    fn learn(&mut self, key: Key, now: Instant) -> bool {
        let Some(tracked) = self.hops.get_mut(&key) else { return false };
        let known = self.table.get(&key).and_then(|neighbour| Some((neighbour.mac?, neighbour.state)));
        let Some((mac, state)) = known.filter(|(_, state)| believable(*state)) else {
            if !matches!(tracked.phase, Phase::Asking(_)) {
                (tracked.phase, tracked.due) = (Phase::Asking(0), Some(now));
            }
            return false;
        };
        let changed = tracked.mac != Some(mac);
        tracked.mac = Some(mac);
        (tracked.phase, tracked.due) = match state {
            NeighbourState::Static => (Phase::Settled, None),
            NeighbourState::Reachable => (Phase::Settled, Some(now + CONFIRM_EVERY)),
            // Ours or the kernel's own: either way a question is out.
            NeighbourState::Probing => (Phase::Confirming, Some(now + CONFIRM_WITHIN)),
            // Hearsay. What is being confirmed already needs no second question.
            _ if tracked.phase == Phase::Confirming && !changed => (Phase::Confirming, tracked.due),
            _ => (Phase::Settled, Some(now)),
        };
        changed
    }
}

impl Tracked {
    /// How to ask now, and when to ask again.
    fn ask(&mut self, now: Instant) -> ProbeKind {
        let (kind, phase, wait) = match self.phase {
            Phase::Settled => (ProbeKind::Confirm, Phase::Confirming, CONFIRM_WITHIN),
            Phase::Confirming => (ProbeKind::Renew, Phase::Asking(1), Duration::from_secs(1)),
            Phase::Asking(asked) => {
                let asked = SLOWEST.min(asked + 1);
                (ProbeKind::Resolve, Phase::Asking(asked), Duration::from_secs(asked.into()))
            }
        };
        (self.phase, self.due) = (phase, Some(now + wait));
        kind
    }
}

/// The hop that leads to `ip`, if any does.
fn key(ip: IpAddr, path: &Path) -> Option<Key> {
    match path {
        Path::Via(route) => Some((route.ifindex, route.gateway.unwrap_or(ip))),
        Path::Local | Path::Unreachable => None,
    }
}

fn believable(state: NeighbourState) -> bool {
    match state {
        NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Probing | NeighbourState::Static => true,
        NeighbourState::Unresolved | NeighbourState::Failed | NeighbourState::Gone => false,
    }
}

#[cfg(test)]
mod tests;

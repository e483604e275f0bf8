//! The steps from what is in the kernel to what should be.
//!
//! Pure. The order never misdirects a packet: what a packet may be sent to exists before anything points at it, and
//! is taken away after everything that pointed at it. So the plan may end after any step, and every VIP still has
//! only live RIPs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use epiclb_common::{Addr, Hop, Rip, ServiceKey, Snat, Vip, flow};

use crate::{dataplane::Tables, desired::Desired, ring::Ring};

/// One step. Each is one atomic change of the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it: each puts or removes one entry of the table it names")]
pub enum Op {
    AddAddress(Addr),
    PutSnat(u32, Snat),
    PutRip(u32, Rip),
    PutHop(u32, Hop),
    /// Builds and swaps a whole ring. Until [`Op::PutVip`] says what it was made of, nobody knows: a plan that is cut short
    /// in between has it published anew.
    PublishRing(u32, Ring),
    PutVip(u32, Vip),
    PutService(ServiceKey, u32),
    RemoveService(ServiceKey),
    RemoveVip(u32),
    RemoveRip(u32),
    RemoveSnat(u32),
    RemoveAddress(Addr),
}

/// The steps from `actual` to `desired`; none when they are the same.
pub fn plan(actual: &Tables, desired: &Desired) -> Vec<Op> {
    let want = &desired.tables;
    let mut ops = Vec::new();

    // Build up: addresses, RIPs, what may go there, rings, VIPs, services.
    ops.extend(want.addresses.difference(&actual.addresses).copied().map(Op::AddAddress));
    ops.extend(changed(&actual.snats, &want.snats).map(|(id, snat)| Op::PutSnat(id, snat)));
    ops.extend(changed(&actual.rips, &want.rips).map(|(id, rip)| Op::PutRip(id, rip)));
    let (gaining, losing): (Vec<_>, Vec<_>) = hop_changes(actual, want).partition(|change| !change.loses);
    ops.extend(gaining.into_iter().map(|change| Op::PutHop(change.rip, change.to)));
    for (id, vip) in changed(&actual.vips, &want.vips) {
        if actual.vips.get(&id).is_none_or(|old| old.ring != vip.ring)
            && let Some(ring) = desired.rings.get(&id)
        {
            ops.push(Op::PublishRing(id, ring.clone()));
        }
        ops.push(Op::PutVip(id, vip));
    }
    ops.extend(changed(&actual.services, &want.services).map(|(key, vip)| Op::PutService(key, vip)));

    // Take down, in reverse.
    ops.extend(gone(&actual.services, &want.services).map(Op::RemoveService));
    ops.extend(gone(&actual.vips, &want.vips).map(Op::RemoveVip));
    ops.extend(losing.into_iter().map(|change| Op::PutHop(change.rip, change.to)));
    ops.extend(gone(&actual.rips, &want.rips).map(Op::RemoveRip));
    ops.extend(gone(&actual.snats, &want.snats).map(Op::RemoveSnat));
    ops.extend(actual.addresses.difference(&want.addresses).copied().map(Op::RemoveAddress));
    ops
}

/// Entries that are new or different.
fn changed<'a, K: Ord + Copy, V: PartialEq + Copy>(
    actual: &'a BTreeMap<K, V>,
    want: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, V)> + 'a {
    want.iter().filter(|(key, value)| actual.get(key) != Some(value)).map(|(key, value)| (*key, *value))
}

/// Keys that must go.
fn gone<'a, K: Ord + Copy, V>(actual: &'a BTreeMap<K, V>, want: &'a BTreeMap<K, V>) -> impl Iterator<Item = K> + 'a {
    actual.keys().filter(|key| !want.contains_key(key)).copied()
}

struct HopChange {
    rip: u32,
    to: Hop,
    /// Takes a permission away, so rings must have let go of the RIP first.
    loses: bool,
}

fn hop_changes<'a>(actual: &'a Tables, want: &'a Tables) -> impl Iterator<Item = HopChange> + 'a {
    let rips: BTreeSet<u32> = actual.hops.keys().chain(want.hops.keys()).copied().collect();
    rips.into_iter().filter_map(|rip| {
        let from = actual.hops.get(&rip).copied().unwrap_or_default();
        let to = want.hops.get(&rip).copied().unwrap_or_default();
        let loses = [Hop::KNOWN, Hop::FLOWS, Hop::PINNED, Hop::UP].iter().any(|&flag| from.has(flag) && !to.has(flag));
        (from != to).then_some(HopChange { rip, to, loses })
    })
}

/// Labels for ids, to say what an op does in the operator's words.
#[derive(Clone, Debug, Default)]
pub struct Names {
    vips: BTreeMap<u32, String>,
    rips: BTreeMap<u32, String>,
}

impl Names {
    /// The labels that `desired` knows.
    pub fn new(desired: &Desired) -> Self {
        Self::default().and(desired)
    }

    /// Also those of `desired`; they win.
    #[must_use]
    pub fn and(mut self, desired: &Desired) -> Self {
        self.vips.extend(desired.vips.iter().map(|(id, label)| (*id, label.clone())));
        self.rips.extend(desired.rips.iter().map(|(id, name)| (*id, name.to_string())));
        self
    }

    fn vip(&self, id: u32) -> String {
        self.vips.get(&id).cloned().unwrap_or_else(|| format!("VIP {id}"))
    }

    fn rip(&self, id: u32) -> String {
        self.rips.get(&id).cloned().unwrap_or_else(|| format!("retired RIP {id}"))
    }

    /// What an op does, in one line.
    pub fn describe(&self, op: &Op) -> String {
        match op {
            Op::AddAddress(addr) => format!("guard address {addr}"),
            Op::PutSnat(_, snat) => {
                format!("use {} ports {}-{} towards RIPs", snat.addr, snat.first, snat.first + snat.count - 1)
            }
            Op::PutRip(id, rip) => format!("set {} to {} port {}", self.rip(*id), rip.addr, port(rip.port_be as u16)),
            Op::PutHop(id, hop) => format!("let {} take {}", self.rip(*id), permissions(*hop)),
            Op::PublishRing(id, ring) => {
                let live = ring.members.iter().filter(|m| m.live && m.weight > 0).count();
                format!("publish the ring of {}: {live} of {} RIPs take new clients", self.vip(*id), ring.members.len())
            }
            Op::PutVip(id, vip) => match vip.persistence_s {
                0 => format!("set {}", self.vip(*id)),
                seconds => format!("set {}: persistence {seconds} s", self.vip(*id)),
            },
            Op::PutService(key, id) => format!("serve {} by {}", service(key), self.vip(*id)),
            Op::RemoveService(key) => format!("stop serving {}", service(key)),
            Op::RemoveVip(id) => format!("remove {}", self.vip(*id)),
            Op::RemoveRip(id) => format!("remove {}", self.rip(*id)),
            Op::RemoveSnat(id) => format!("stop using SNAT address {id}"),
            Op::RemoveAddress(addr) => format!("release address {addr}"),
        }
    }
}

fn permissions(hop: Hop) -> &'static str {
    match (hop.has(Hop::FLOWS), hop.has(Hop::PINNED), hop.has(Hop::KNOWN)) {
        (false, ..) => "nothing: open connections are reset",
        (true, _, false) => "nothing yet: its MAC is unknown",
        (true, false, true) => "open connections only",
        (true, true, true) => "open connections and pinned clients",
    }
}

fn port(port_be: u16) -> String {
    match u16::from_be(port_be) {
        0 => "as the client used".to_owned(),
        port => port.to_string(),
    }
}

fn service(key: &ServiceKey) -> String {
    let proto = if key.port_proto >> 16 == u32::from(flow::UDP) { "udp" } else { "tcp" };
    format!("{} port {}/{proto}", key.addr, port(key.port_proto as u16))
}

/// Without labels, for errors.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Names::default().describe(self))
    }
}

#[cfg(test)]
mod tests;

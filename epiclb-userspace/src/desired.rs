//! What the data path should hold, from everything that bears on it.
//!
//! Pure: configuration, the operator's admin states, what the probes see, which MACs are known, what is in the
//! kernel now (for ids, which stay with whom they were given to) and how many flows still need what the
//! configuration no longer has. `admin` and `health` stay separate inputs; neither overwrites the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher as _,
    net::IpAddr,
};

use epiclb_common::{
    Addr, Hop, Rip, ServiceKey, Snat, Vip,
    flow::{TCP, UDP},
    hash::Seed,
    maps,
    vip::LOCAL,
};
use siphasher::sip::SipHasher13;

use crate::{
    dataplane::{Tables, Tally},
    model::{self, Admin, AdminStates, Config, Health, Protocol, RipName, Service},
    ring::{Member, Ring},
};

/// Everything the tables depend on.
pub struct Inputs<'a> {
    /// What the operator configured.
    pub config: &'a Config,
    /// What the operator wants of single RIPs.
    pub admin: &'a AdminStates,
    /// What the probes see; a RIP that is absent is unknown.
    pub health: &'a BTreeMap<RipName, Health>,
    /// Next hops by RIP address; an address that is absent has none.
    pub hops: &'a BTreeMap<IpAddr, Hop>,
    /// What is in the kernel.
    pub actual: &'a Tables,
    /// Who still uses what.
    pub tally: &'a Tally,
    /// What the configuration may have dropped too recently for `tally` to know who still needs it.
    pub recent: &'a Retiring,
    /// RIP ids that were in use until a moment ago: pins may still name them.
    pub resting: &'a BTreeSet<u32>,
    /// Ports that SNAT addresses shared with the host must leave to it.
    pub host_ports: HostPorts,
    /// Addresses the host has for itself.
    pub host_addresses: &'a BTreeSet<IpAddr>,
    /// The rings' secret.
    pub seed: Seed,
}

/// The ports that the host takes for its own connections (`net.ipv4.ip_local_port_range`), inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPorts {
    /// First.
    pub first: u16,
    /// Last.
    pub last: u16,
}

impl Default for HostPorts {
    /// Linux's default.
    fn default() -> Self {
        Self { first: 32_768, last: 60_999 }
    }
}

impl HostPorts {
    /// The longer run of ports, first and last, that is left beside the host's own.
    fn longer_rest(self) -> (u32, u32) {
        let below = (FIRST_SNAT_PORT, u32::from(self.first).saturating_sub(1));
        let above = (u32::from(self.last) + 1, u32::from(u16::MAX));
        let length = |(first, last): (u32, u32)| (last + 1).saturating_sub(first);
        if length(below) >= length(above) { below } else { above }
    }

    /// How many ports that run has.
    pub fn left(self) -> u32 {
        let (first, last) = self.longer_rest();
        (last + 1).saturating_sub(first)
    }
}

/// The tables as they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// All but the rings' contents.
    pub tables: Tables,
    /// What each VIP's ring is made of.
    pub rings: BTreeMap<u32, Ring>,
    /// Which RIP an id stands for. Retiring RIPs are not in it.
    pub rips: BTreeMap<u32, RipName>,
    /// Which VIP an id stands for.
    pub vips: BTreeMap<u32, String>,
    /// What of the tables is there for the sake of open connections only.
    pub retiring: Retiring,
}

/// What the configuration no longer has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retiring {
    /// RIPs by id.
    pub rips: BTreeSet<u32>,
    /// Addresses of VIPs and of SNAT.
    pub addresses: BTreeSet<Addr>,
}

/// First of the ports that SNAT uses: above those that services listen on by custom.
const FIRST_SNAT_PORT: u32 = 1_024;

/// Computes the tables.
pub fn desired(inputs: &Inputs) -> Desired {
    let mut out = Desired::default();
    let mut vip_ids = Ids::new(inputs.actual.vips.iter().map(|(id, vip)| (vip.identity, *id)), []);
    let still_named = inputs.tally.pins.keys().chain(inputs.tally.flows.keys()).chain(inputs.resting).copied();
    let mut rip_ids = Ids::new(inputs.actual.rips.iter().map(|(id, rip)| (rip.identity, *id)), still_named);
    let mut snats = Snats::new(inputs);

    for vip in &inputs.config.services.vips {
        let identity = vip_identity(&vip.label);
        let id = vip_ids.id(identity);
        let address = Addr::from(vip.address);
        out.vips.insert(id, vip.label.clone());
        out.tables.addresses.insert(address);
        let proto = match vip.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        for range in &vip.ports {
            for port in range.first.get()..=range.last.get() {
                out.tables.services.insert(ServiceKey::new(address, port.to_be(), u32::from(proto)), id);
            }
        }
        let mut wire = Vip { identity, group: identity, ..Vip::default() };
        match &vip.service {
            Service::Redirect(_) => wire.flags = LOCAL,
            Service::Balance(balance) => {
                wire.persistence_s = balance.persistence.map_or(0, |time| time.as_secs().max(1) as u32);
                (wire.snat_first, wire.snat_count) = snats.range_for(vip.address);
                let ring = balance_rips(inputs, vip, balance, &wire, &mut rip_ids, &mut out);
                wire.ring = ring.digest(inputs.seed);
                out.rings.insert(id, ring);
            }
        }
        out.tables.vips.insert(id, wire);
    }
    out.tables.addresses.extend(snats.own_addresses());
    out.tables.snats = snats.table;
    retire(inputs, &mut out);
    out
}

/// Adds a VIP's RIPs, and returns its ring.
fn balance_rips(
    inputs: &Inputs,
    vip: &model::Vip,
    balance: &model::Balance,
    wire: &Vip,
    ids: &mut Ids,
    out: &mut Desired,
) -> Ring {
    let mut ring = Ring::default();
    for rip in &balance.rips {
        let name = vip.rip_name(rip);
        let identity = rip_identity(&vip.label, rip);
        let id = ids.id(identity);
        let admin = inputs.admin.get(&name).copied().unwrap_or_default();
        let health = inputs.health.get(&name).copied().unwrap_or_default();
        let hop = permissions(admin, health, next_hop(inputs, id, rip.address));
        out.tables.rips.insert(
            id,
            Rip {
                identity,
                group: wire.group,
                addr: rip.address.into(),
                port_be: rip.port.map_or(0, |port| u32::from(port.get().to_be())),
                persistence_s: wire.persistence_s,
            },
        );
        if hop.0 != 0 {
            out.tables.hops.insert(id, hop);
        }
        let live = admin == Admin::Online && hop.has(Hop::PINNED);
        ring.members.push(Member { identity: ring_identity(rip), rip: id, weight: rip.weight, live });
        out.rips.insert(id, name);
    }
    ring
}

/// Where a RIP's frames go: what netlink knows, or else where they have gone until now. Whether anybody is there is for
/// the checks to say.
fn next_hop(inputs: &Inputs, id: u32, address: IpAddr) -> Option<Hop> {
    let last = || inputs.actual.hops.get(&id).filter(|hop| hop.has(Hop::KNOWN));
    let known = inputs.hops.get(&address).copied();
    known.or_else(|| last().map(|hop| Hop::new(hop.mac(), hop.ifindex())))
}

/// What may go to a RIP, and where that is.
///
/// | admin      | new clients | pinned clients | open flows |
/// |------------|-------------|----------------|------------|
/// | online     | yes         | yes            | yes        |
/// | drain      | no          | yes            | yes        |
/// | drain-hard | no          | no             | yes        |
/// | halt       | no          | no             | reset      |
///
/// A RIP that is not up takes neither new nor pinned clients; its open flows go on, since a check may be wrong, but for UDP
/// flows: those are placed anew, since their clients would never find out.
fn permissions(admin: Admin, health: Health, hop: Option<Hop>) -> Hop {
    let flows = if admin == Admin::Halt { 0 } else { Hop::FLOWS };
    let Some(hop) = hop else { return Hop(flows) };
    let clients = match (admin, health) {
        (Admin::Online | Admin::Drain, Health::Up) => Hop::UP | Hop::PINNED,
        (_, Health::Up) => Hop::UP,
        _ => 0,
    };
    hop.with(Hop::KNOWN | flows | clients)
}

/// Keeps what open flows still need of what the configuration no longer has: they finish in peace. Those of a halted RIP
/// are reset as before.
fn retire(inputs: &Inputs, out: &mut Desired) {
    for (id, rip) in &inputs.actual.rips {
        let needed = inputs.tally.flows(*id) > 0 || inputs.recent.rips.contains(id);
        if out.tables.rips.contains_key(id) || !needed {
            continue;
        }
        out.tables.rips.insert(*id, *rip);
        out.retiring.rips.insert(*id);
        // A halted RIP stays so: its id is kept, lest another RIP get it and the flows with it.
        if !inputs.actual.hops.get(id).is_some_and(|hop| hop.has(Hop::FLOWS)) {
            continue;
        }
        let hop = next_hop(inputs, *id, rip.addr.into());
        out.tables.hops.insert(*id, hop.map_or(Hop(Hop::FLOWS), |hop| hop.with(Hop::KNOWN | Hop::FLOWS)));
    }
    for addr in inputs.actual.addresses.difference(&out.tables.addresses) {
        if inputs.tally.addresses.contains(addr) || inputs.recent.addresses.contains(addr) {
            out.retiring.addresses.insert(*addr);
        }
    }
    out.tables.addresses.extend(&out.retiring.addresses);
}

/// Ids by identity: a known identity keeps its id, a new one gets the lowest that nobody has, and that no pin or flow
/// still means someone else by.
struct Ids {
    known: BTreeMap<u64, u32>,
    taken: BTreeSet<u32>,
    next: u32,
}

impl Ids {
    fn new(actual: impl Iterator<Item = (u64, u32)>, named: impl IntoIterator<Item = u32>) -> Self {
        let known: BTreeMap<_, _> = actual.collect();
        Self { taken: known.values().copied().chain(named).collect(), known, next: 1 }
    }

    fn id(&mut self, identity: u64) -> u32 {
        if let Some(id) = self.known.get(&identity) {
            return *id;
        }
        while !self.taken.insert(self.next) {
            self.next += 1;
        }
        self.known.insert(identity, self.next);
        self.next
    }
}

/// The SNAT table: the node's own addresses, or each VIP's address for itself.
struct Snats<'a> {
    inputs: &'a Inputs<'a>,
    ids: BTreeMap<Addr, u32>,
    table: BTreeMap<u32, Snat>,
}

impl<'a> Snats<'a> {
    fn new(inputs: &'a Inputs<'a>) -> Self {
        let ids = inputs.actual.snats.iter().map(|(id, snat)| (snat.addr, *id)).collect();
        Self { inputs, ids, table: BTreeMap::new() }
    }

    /// First index and count of the addresses for a VIP.
    fn range_for(&mut self, vip: IpAddr) -> (u32, u32) {
        let inputs = self.inputs;
        let of_family = inputs.config.node.snat.iter().filter(|snat| snat.is_ipv4() == vip.is_ipv4());
        let mut count = 0;
        let mut first = None;
        for address in of_family {
            // The node's addresses stand in a block of their own per family, in the order of the file.
            let index = Self::block(vip.is_ipv4()) + count;
            self.table.insert(index, self.entry(*address));
            first.get_or_insert(index);
            count += 1;
        }
        if let Some(first) = first {
            return (first, count);
        }
        let addr = Addr::from(vip);
        let id = self.ids.get(&addr).copied().filter(|id| *id < Self::block(true)).unwrap_or_else(|| {
            (0..Self::block(true))
                .find(|id| !self.table.contains_key(id) && !self.inputs.actual.snats.contains_key(id))
                .unwrap_or(0)
        });
        self.ids.insert(addr, id);
        self.table.insert(id, self.entry(vip));
        (id, 1)
    }

    /// Where the node's own addresses of a family start in the table; VIPs' addresses stand below.
    fn block(v4: bool) -> u32 {
        let size = maps::size::SNATS as u32;
        if v4 { size / 2 } else { size / 4 * 3 }
    }

    fn entry(&self, address: IpAddr) -> Snat {
        let (first, last) = if self.inputs.host_addresses.contains(&address) {
            self.inputs.host_ports.longer_rest()
        } else {
            (FIRST_SNAT_PORT, u32::from(u16::MAX))
        };
        Snat { addr: address.into(), first, count: (last + 1).saturating_sub(first).max(1) }
    }

    /// SNAT addresses that are the balancer's alone, hence default-deny.
    fn own_addresses(&self) -> impl Iterator<Item = Addr> + use<> {
        let host = self.inputs.host_addresses;
        let own: Vec<_> =
            self.table.values().map(|snat| snat.addr).filter(|addr| !host.contains(&IpAddr::from(*addr))).collect();
        own.into_iter()
    }
}

/// Names a VIP across restarts and nodes.
pub fn vip_identity(label: &str) -> u64 {
    hash(&[label.as_bytes()])
}

fn rip_identity(vip: &str, rip: &model::Rip) -> u64 {
    hash(&[vip.as_bytes(), rip.address.to_string().as_bytes(), &rip.port.map_or(0, |p| p.get()).to_be_bytes()])
}

/// A RIP's place on its ring depends on where it is, not on what it is called.
fn ring_identity(rip: &model::Rip) -> u64 {
    hash(&[rip.address.to_string().as_bytes(), &rip.port.map_or(0, |p| p.get()).to_be_bytes()])
}

/// Names are not secret: a fixed key, so that they last.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    for part in parts {
        hasher.write_usize(part.len());
        hasher.write(part);
    }
    hasher.finish()
}

#[cfg(test)]
pub(crate) mod tests;

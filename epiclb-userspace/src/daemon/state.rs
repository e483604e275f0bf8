//! Everything the daemon decides with, and the decisions that need no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use epiclb_common::{Addr, Hop, RipStats, flow::idle, hash::Seed, hop::mac_word};

use crate::{
    control::request::{AdminReport, ErrorKind, ErrorReply},
    dataplane::{Tables, Tally},
    desired::{Desired, HostPorts, Inputs, Retiring, desired},
    health::Event as HealthEvent,
    model::{Admin, AdminStates, Config, Health, Rip, RipName, Vip},
    netlink::{
        Address, Link, Path,
        resolve::{self, Resolver},
    },
    plan::Op,
};

/// After this many sweeps everything that was in the tables has been seen: one may have been under way.
const SWEEPS: u32 = 2;

/// How long a handshake may be under way: a RIP must stay for as long, since it may become an open connection.
const HANDSHAKE: Duration = Duration::from_secs(idle::HALF_OPEN as u64);

/// The daemon's mind.
pub(super) struct State {
    pub(super) config: Config,
    pub(super) admin: AdminStates,
    pub(super) health: BTreeMap<RipName, Health>,
    pub(super) resolver: Resolver,
    pub(super) paths: BTreeMap<IpAddr, Path>,
    pub(super) links: BTreeMap<u32, Link>,
    pub(super) addresses: Vec<Address>,
    pub(super) host_ports: HostPorts,
    pub(super) tally: Tally,
    /// RIPs that the configuration no longer has, since when.
    pub(super) leaving_rips: BTreeMap<u32, Duration>,
    /// Addresses that it no longer has, with the sweeps to wait until every flow that uses them is known.
    pub(super) leaving_addresses: BTreeMap<Addr, u32>,
    /// Ids of RIPs that were removed, with the sweeps to wait until no pin and no flow can name them any more.
    pub(super) resting: BTreeMap<u32, u32>,
    /// Traffic of RIPs that were removed, by their VIP's identity: a VIP's counters never fall.
    pub(super) former: BTreeMap<u64, RipStats>,
    pub(super) seed: Seed,
    pub(super) generation: u64,
    pub(super) loaded_at: SystemTime,
    /// Why the last reload was refused.
    pub(super) last_error: Option<String>,
    /// What else is wrong right now, by subject.
    pub(super) faults: BTreeMap<&'static str, String>,
}

impl State {
    /// What the data path should hold, given what it holds.
    pub(super) fn desired(&self, actual: &Tables) -> Desired {
        self.desired_for(&self.config, actual)
    }

    /// The same under another configuration.
    pub(super) fn desired_for(&self, config: &Config, actual: &Tables) -> Desired {
        desired(&Inputs {
            config,
            admin: &self.admin,
            health: &self.health,
            hops: &self.hops(config),
            actual,
            tally: &self.tally,
            recent: &self.recent(actual),
            resting: &self.resting.keys().copied().collect(),
            host_ports: self.host_ports,
            host_addresses: &self.host_addresses(),
            seed: self.seed,
        })
    }

    /// Next hops of the RIPs, by address: those that leave by an interface of ours.
    fn hops(&self, config: &Config) -> BTreeMap<IpAddr, Hop> {
        let ours: BTreeSet<u32> = self.interfaces(config).map(|link| link.ifindex).collect();
        // Also those of RIPs that retire: their addresses stay wanted while flows need them.
        self.paths
            .keys()
            .filter_map(|&address| match self.resolver.hop(address) {
                resolve::Hop::Known { ifindex, mac } if ours.contains(&ifindex) => {
                    Some((address, Hop::new(mac_word(mac), ifindex)))
                }
                _ => None,
            })
            .collect()
    }

    /// The links that the program is attached to, in file order.
    pub(super) fn interfaces<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = &'a Link> {
        let by_name = |name: &String| self.links.values().find(|link| link.name == *name);
        config.node.interfaces.iter().filter_map(by_name)
    }

    /// Addresses that the host has for itself.
    pub(super) fn host_addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.iter().filter(|address| !address.ours).map(|address| address.ip).collect()
    }

    /// What may have connections that no sweep has seen yet, if the configuration no longer has it: all but what was
    /// dropped long enough ago.
    fn recent(&self, actual: &Tables) -> Retiring {
        let now = self.tally.taken;
        let rip = |id: &&u32| self.leaving_rips.get(id).is_none_or(|since| now.saturating_sub(*since) <= HANDSHAKE);
        let address = |addr: &&Addr| self.leaving_addresses.get(addr) != Some(&0);
        Retiring {
            rips: actual.rips.keys().filter(rip).copied().collect(),
            addresses: actual.addresses.iter().filter(address).copied().collect(),
        }
    }

    /// Notes what has been done: which RIPs and addresses are there for open connections only, and which RIP ids are
    /// out of use. `now` is the boot time.
    pub(super) fn done(&mut self, ops: &[Op], retiring: &Retiring, now: Duration) {
        self.leaving_rips.retain(|id, _| retiring.rips.contains(id));
        self.leaving_addresses.retain(|addr, _| retiring.addresses.contains(addr));
        for id in &retiring.rips {
            self.leaving_rips.entry(*id).or_insert(now);
        }
        for addr in &retiring.addresses {
            self.leaving_addresses.entry(*addr).or_insert(SWEEPS);
        }
        let removed = ops.iter().filter_map(|op| if let Op::RemoveRip(id) = op { Some(*id) } else { None });
        self.resting.extend(removed.map(|id| (id, SWEEPS)));
    }

    /// Takes in what a sweep has found. Whether something may go now that had to stay.
    pub(super) fn swept(&mut self, tally: Tally) -> bool {
        self.resting.retain(|id, sweeps| {
            *sweeps = sweeps.saturating_sub(1);
            *sweeps > 0 || tally.flows(*id) > 0
        });
        for sweeps in self.leaving_addresses.values_mut() {
            *sweeps = sweeps.saturating_sub(1);
        }
        self.tally = tally;
        let rip = |(id, since): (&u32, &Duration)| {
            self.tally.flows(*id) == 0 && self.tally.taken.saturating_sub(*since) > HANDSHAKE
        };
        let address = |(addr, sweeps): (&Addr, &u32)| *sweeps == 0 && !self.tally.addresses.contains(addr);
        self.leaving_rips.iter().any(rip) || self.leaving_addresses.iter().any(address)
    }

    /// Makes another configuration the one that counts, and returns the old one. What is known of a RIP stays with the
    /// server it is about: it follows a new label, and does not survive a new address under the old one.
    pub(super) fn configure(&mut self, config: Config) -> Config {
        let old = std::mem::replace(&mut self.config, config);
        let places = |config: &Config| -> BTreeMap<RipName, (String, SocketAddr)> {
            let place =
                |(vip, _, rip): (&Vip, _, &Rip)| (vip.rip_name(rip), (vip.label.clone(), vip.probe_address(rip)));
            config.services.rips().map(place).collect()
        };
        let (before, after) = (places(&old), places(&self.config));
        let old_name = |name: &RipName| match before.get(name) {
            Some(place) if after.get(name) == Some(place) => Some(name.clone()),
            _ => before.iter().find(|(_, place)| after.get(name) == Some(*place)).map(|(name, _)| name.clone()),
        };
        let names: Vec<(RipName, Option<RipName>)> = after.keys().map(|name| (name.clone(), old_name(name))).collect();
        let health = std::mem::take(&mut self.health);
        let admin = std::mem::take(&mut self.admin);
        for (name, old) in names {
            let known = old.as_ref().and_then(|old| health.get(old));
            self.health.extend(known.map(|health| (name.clone(), *health)));
            // An operator who gives a halted server's label to another one has it halted still: labels are what
            // operators speak in.
            let wanted = admin.get(&name).or_else(|| old.as_ref().and_then(|old| admin.get(old)));
            self.admin.extend(wanted.map(|admin| (name, *admin)));
        }
        old
    }

    /// Takes in what a check has found. `false`: nothing has changed, or it is about a RIP that is no more.
    pub(super) fn heard(&mut self, event: &HealthEvent) -> bool {
        let current = self
            .config
            .services
            .rips()
            .any(|(vip, _, rip)| vip.rip_name(rip) == event.rip && vip.probe_address(rip) == event.address);
        current && self.health.insert(event.rip.clone(), event.health) != Some(event.health)
    }

    /// Decides what the operator asks of a RIP.
    pub(super) fn set_admin(&mut self, name: &RipName, admin: Admin, force: bool) -> Result<Admin, ErrorReply> {
        let vip = self.config.services.vips.iter().find(|vip| vip.label == name.vip);
        let Some(vip) = vip else {
            let labels = self.config.services.vips.iter().map(|vip| vip.label.as_str());
            return Err(ErrorReply::unknown("virtual service", &name.vip, labels));
        };
        let Some(balance) = vip.balance() else {
            return Err(ErrorReply::new(ErrorKind::Invalid, format!("{} is a redirect: it has no RIPs", vip.label)));
        };
        if !balance.rips.iter().any(|rip| rip.label == name.rip) {
            let labels = balance.rips.iter().map(|rip| rip.label.as_str());
            return Err(ErrorReply::unknown("real server", &name.rip, labels));
        }
        let takers = |states: &AdminStates| {
            let takes = |rip: &&Rip| {
                let name = vip.rip_name(rip);
                states.get(&name).copied().unwrap_or_default() == Admin::Online
                    && rip.weight > 0
                    && self.health.get(&name) == Some(&Health::Up)
            };
            balance.rips.iter().filter(takes).count()
        };
        let mut states = self.admin.clone();
        let before = states.insert(name.clone(), admin).unwrap_or_default();
        if admin != Admin::Online && !force && takers(&self.admin) > 0 && takers(&states) == 0 {
            let message = format!("{name} is the last RIP of {} that takes new clients", name.vip);
            let help = "`--force` does it all the same; put another RIP online first to keep the service".to_owned();
            return Err(ErrorReply { help: Some(help), ..ErrorReply::new(ErrorKind::Refused, message) });
        }
        self.admin = states;
        Ok(before)
    }

    /// The report on what has been done to a RIP whose id is `id`.
    pub(super) fn admin_report(&self, rip: RipName, before: Admin, after: Admin, id: Option<u32>) -> AdminReport {
        let connections = id.map_or(0, |id| self.tally.flows(id));
        let pins = id.map_or(0, |id| self.tally.pins(id));
        AdminReport { rip, before, after, connections, pins }
    }
}

/// What only this machine can say about a configuration, beyond [`crate::config`]: what is the host's own must stay so.
///
/// # Errors
/// The first thing that is wrong, in words.
pub(super) fn check_against_host(config: &Config, host: &BTreeSet<IpAddr>, ports: HostPorts) -> Result<(), String> {
    if let Some(vip) = config.services.vips.iter().find(|vip| host.contains(&vip.address)) {
        return Err(format!(
            "the address of {}, {}, is this host's own: as a VIP it would answer for its services only, and the host \
             could not be reached there any more. Give the VIP an address of its own",
            vip.label, vip.address
        ));
    }
    if let Some(snat) = config.node.snat.iter().find(|snat| host.contains(snat))
        && ports.left() < MIN_SNAT_PORTS
    {
        let HostPorts { first, last } = ports;
        return Err(format!(
            "the SNAT address {snat} is this host's own, and net.ipv4.ip_local_port_range ({first} {last}) leaves only {} \
             ports beside the host's. Name an address of the balancer's own, or narrow the range",
            ports.left()
        ));
    }
    Ok(())
}

/// Fewer connections to a server at once than this are no use to anybody.
const MIN_SNAT_PORTS: u32 = 4_096;

/// What a reload can't change, with the key that says so.
pub(super) fn needs_restart(old: &crate::model::Node, new: &crate::model::Node) -> Vec<&'static str> {
    let crate::model::Node {
        name: _,
        interfaces,
        xdp_mode,
        snat: _,
        socket,
        state_dir,
        bpffs_dir,
        log_level: _,
        log_client_addresses,
        limits,
    } = new;
    let mut keys = Vec::new();
    let mut differs = |differs: bool, key| {
        if differs {
            keys.push(key);
        }
    };
    differs(*interfaces != old.interfaces, "interfaces");
    differs(*xdp_mode != old.xdp_mode, "xdp_mode");
    differs(*socket != old.socket, "socket");
    differs(*state_dir != old.state_dir, "state_dir");
    differs(*bpffs_dir != old.bpffs_dir, "bpffs_dir");
    differs(*log_client_addresses != old.log_client_addresses, "log_client_addresses");
    differs(*limits != old.limits, "limits");
    keys
}

#[cfg(test)]
mod tests;

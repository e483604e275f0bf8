//! What the daemon says of itself: the overview, counters, flows, pins and explanations.
//!
//! Reads; changes nothing.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use epiclb_common::{
    Addr, Flow, FlowKey, Hop, Pin, PinKey, RipStats,
    flow::{UDP, state},
    hash::{client_hash, reduce},
    verdict::Note,
};

use super::state::State;
use crate::{
    config,
    control::request::{
        CheckStatus, ConfigStatus, Counters, Eligible, ErrorKind, ErrorReply, Explain, FlowRow, FlowState, FlowsTable,
        InterfaceStatus, Method, PinCounters, PinRow, PinScope, PinsTable, Problem, RedirectCounters, RipStatus, Rows,
        Status, TablesStatus, Traffic, VerdictCounters, VipCounters, VipHealth, VipStatus, Why, XdpState,
    },
    dataplane::{Bpf, Tables},
    desired::{Desired, vip_identity},
    health,
    model::{Admin, Balance, Health, Protocol, Rip, RipName, Service, Vip},
    netlink::XdpPlace,
    redirect::server::Counts,
};

/// What a report is made of, besides the state.
pub(super) struct Sources<'a> {
    pub(super) state: &'a State,
    pub(super) bpf: &'a Bpf,
    pub(super) actual: Tables,
    pub(super) desired: Desired,
    pub(super) checks: BTreeMap<RipName, health::State>,
    pub(super) redirects: BTreeMap<std::net::SocketAddr, Counts>,
    /// Boot time.
    pub(super) now: Duration,
    pub(super) started: Instant,
}

impl Sources<'_> {
    pub(super) fn status(&self) -> Status {
        let state = self.state;
        let node = &state.config.node;
        let vips = state.config.services.vips.iter().map(|vip| self.vip_status(vip)).collect();
        Status {
            node: node.name.clone(),
            time: rfc3339(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            alarms: self.alarms(),
            interfaces: node
                .interfaces
                .iter()
                .map(|name| InterfaceStatus { name: name.clone(), xdp: self.xdp(name) })
                .collect(),
            tables: TablesStatus {
                flows: FlowsTable { used: state.tally.held_flows, max: node.limits.flows.into() },
                pins: PinsTable {
                    used: state.tally.held_pins,
                    max: node.limits.pins.into(),
                    evicted: state.tally.evicted_pins,
                },
            },
            config: ConfigStatus {
                generation: state.generation,
                loaded_at: rfc3339(state.loaded_at),
                last_error: state.last_error.clone(),
            },
            vips,
        }
    }

    fn xdp(&self, name: &str) -> XdpState {
        let link = self.state.links.values().find(|link| link.name == name);
        match link.and_then(|link| link.xdp.as_ref()).map(|xdp| &xdp.place) {
            Some(XdpPlace::Native | XdpPlace::Offloaded | XdpPlace::Several) => XdpState::Native,
            Some(XdpPlace::Generic) => XdpState::Generic,
            None => XdpState::None,
        }
    }

    fn alarms(&self) -> Vec<String> {
        let state = self.state;
        let mut alarms: Vec<String> = state.faults.values().cloned().collect();
        alarms.extend(state.last_error.iter().map(|error| format!("the last reload was refused: {error}")));
        for interface in &state.config.node.interfaces {
            if self.xdp(interface) == XdpState::None {
                alarms.push(format!("interface {interface} runs no XDP program: nothing is forwarded there"));
            }
        }
        for (vip, _, rip) in state.config.services.rips() {
            let name = vip.rip_name(rip);
            if state.admin.get(&name) != Some(&Admin::Halt) && state.health.get(&name) == Some(&Health::Down) {
                let reason = self.checks.get(&name).map_or("", |check| check.reason.as_str());
                alarms.push(format!("{name} is down: {reason}"));
            }
            if let Some(why) = self.unreachable(rip.address) {
                alarms.push(format!("{name} can't be reached: {why}"));
            }
        }
        let limits = state.config.node.limits;
        let full = |used: u64, max: u32| used * 10 >= u64::from(max) * 9;
        // Closed flows make room for others by themselves.
        let open = state.tally.flows.values().sum();
        if full(open, limits.flows) {
            alarms.push(format!("the flow table is nearly full: {open} open connections of {}", limits.flows));
        }
        if full(state.tally.held_pins, limits.pins) {
            alarms.push(format!("the pin table is nearly full: {} of {}", state.tally.held_pins, limits.pins));
        }
        if state.tally.evicted_pins > 0 {
            alarms.push(format!("{} pins were lost to a full table", state.tally.evicted_pins));
        }
        alarms
    }

    /// Why no frame can be sent to an address.
    fn unreachable(&self, address: IpAddr) -> Option<String> {
        use crate::netlink::{Path, resolve::Hop};
        match (self.state.paths.get(&address)?, self.state.resolver.hop(address)) {
            (Path::Unreachable, _) => Some(format!("no route to {address}")),
            (Path::Local, _) => Some(format!("{address} is this host's own")),
            (Path::Via(_), Hop::Known { ifindex, .. }) => {
                let ours = self.state.interfaces(&self.state.config).any(|link| link.ifindex == ifindex);
                let name = self.state.links.get(&ifindex).map_or("?", |link| link.name.as_str());
                (!ours).then(|| format!("{address} is behind {name}, which is not in `interfaces` of node.toml"))
            }
            (Path::Via(_), Hop::Unknown | Hop::Unreachable) => Some(format!("nobody answers ARP or ND for {address}")),
        }
    }

    fn vip_status(&self, vip: &Vip) -> VipStatus {
        let (method, mode, persistence, rips) = match &vip.service {
            Service::Redirect(_) => (Method::Redirect, None, None, Vec::new()),
            Service::Balance(balance) => {
                let rips = balance.rips.iter().map(|rip| self.rip_status(vip, rip)).collect();
                (Method::Layer4, Some(balance.mode), balance.persistence, rips)
            }
        };
        let (up, all) = match method {
            Method::Layer4 => (rips.iter().filter(|rip: &&RipStatus| rip.health == Health::Up).count(), rips.len()),
            Method::Redirect => {
                let sockets = |range: &crate::model::PortRange| range.first.get()..=range.last.get();
                let ports: Vec<u16> = vip.ports.iter().flat_map(sockets).collect();
                let open = ports.iter().filter(|port| self.redirects.contains_key(&(vip.address, **port).into()));
                (open.count(), ports.len())
            }
        };
        VipStatus {
            label: vip.label.clone(),
            address: vip.address,
            ports: vip.ports.iter().copied().map(Into::into).collect(),
            protocol: vip.protocol,
            method,
            mode,
            persistence_s: persistence.map(|time| time.as_secs()),
            health: match up {
                0 => VipHealth::Down,
                up if up == all => VipHealth::Up,
                _ => VipHealth::Degraded,
            },
            connections: rips.iter().map(|rip| rip.connections).sum(),
            rips,
        }
    }

    fn rip_status(&self, vip: &Vip, rip: &Rip) -> RipStatus {
        let name = vip.rip_name(rip);
        let id = self.rip_id(&name);
        let only_port = match vip.ports.as_slice() {
            [range] if range.first == range.last => Some(range.first),
            _ => None,
        };
        RipStatus {
            label: rip.label.clone(),
            address: rip.address,
            port: rip.port.or(only_port).map(Into::into),
            weight: rip.weight,
            health: self.state.health.get(&name).copied().unwrap_or_default(),
            admin: self.admin(&name).into(),
            connections: id.map_or(0, |id| self.state.tally.flows(id)),
            pins: id.map_or(0, |id| self.state.tally.pins(id)),
            check: self.checks.get(&name).map(|check| CheckStatus {
                latency_us: check.latency.map(|latency| latency.as_micros() as u64),
                reason: (!check.reason.is_empty()).then(|| check.reason.clone()),
                since_s: check.since.elapsed().as_secs(),
            }),
        }
    }

    fn admin(&self, name: &RipName) -> Admin {
        self.state.admin.get(name).copied().unwrap_or_default()
    }

    pub(super) fn rip_id(&self, name: &RipName) -> Option<u32> {
        self.desired.rips.iter().find(|(_, held)| *held == name).map(|(id, _)| *id)
    }

    pub(super) fn counters(&self) -> Result<Counters> {
        let verdicts = self
            .bpf
            .verdicts()?
            .into_iter()
            .map(|(verdict, counter)| VerdictCounters {
                name: verdict.name().to_owned(),
                action: verdict.action().name().to_owned(),
                packets: counter.packets,
                bytes: counter.bytes,
            })
            .collect();
        let ids: BTreeMap<&RipName, u32> = self.desired.rips.iter().map(|(id, name)| (name, *id)).collect();
        let notes: BTreeMap<&str, u64> =
            self.bpf.notes()?.into_iter().map(|(note, count)| (note.name(), count)).collect();
        let note = |note: Note| notes.get(note.name()).copied().unwrap_or(0);
        let pins = PinCounters {
            made: note(Note::PinInserted),
            moved: note(Note::PinMoved),
            refused: note(Note::PinTableFull),
        };
        let mut counters = Counters { verdicts, pins, ..Counters::default() };
        for vip in &self.state.config.services.vips {
            match &vip.service {
                Service::Balance(balance) => {
                    let stats = |id: u32| self.bpf.rip_stats(id);
                    let rip = |rip: &Rip| {
                        let stats = ids.get(&vip.rip_name(rip)).copied().map(stats).transpose()?;
                        Ok(traffic(&rip.label, stats.unwrap_or_default()))
                    };
                    let rips = balance.rips.iter().map(rip).collect::<Result<_>>()?;
                    // Those that retire, and those that are gone, are the VIP's still.
                    let group = vip_identity(&vip.label);
                    let held = self.actual.rips.iter().filter(|(_, rip)| rip.group == group);
                    let mut all = held.map(|(id, _)| stats(*id)).sum::<Result<RipStats>>()?;
                    all += self.state.former.get(&group).copied().unwrap_or_default();
                    let traffic = traffic(&vip.label, all);
                    counters.vips.push(VipCounters { traffic, rips });
                }
                Service::Redirect(_) => counters.redirects.push(self.redirect_counters(vip)),
            }
        }
        Ok(counters)
    }

    fn redirect_counters(&self, vip: &Vip) -> RedirectCounters {
        let mut sum = RedirectCounters { label: vip.label.clone(), ..RedirectCounters::default() };
        let serves = |port| vip.ports.iter().any(|range| (range.first.get()..=range.last.get()).contains(&port));
        for (socket, counts) in &self.redirects {
            if socket.ip() != vip.address || !serves(socket.port()) {
                continue;
            }
            sum.connections += counts.connections;
            sum.displaced += counts.displaced;
            for (status, count) in &counts.answers {
                if matches!(status, 301 | 308) {
                    sum.redirected += count;
                } else {
                    sum.refused += count;
                }
            }
        }
        sum
    }

    /// Pins that are alive, or held by an open flow.
    pub(super) fn pins(&self, wanted: impl Fn(&str, IpAddr) -> bool, limit: Option<usize>) -> Result<Rows<PinRow>> {
        let mut rows = Vec::new();
        let mut total = 0;
        let vips = self.groups();
        self.bpf.for_each_pin(|key, pin| {
            if let Some(row) = self.pin_row(&vips, key, pin)
                && wanted(&row.vip, row.client)
            {
                total += 1;
                if limit.is_none_or(|limit| rows.len() < limit) {
                    rows.push(row);
                }
            }
        })?;
        rows.sort_by(|a, b| (&a.vip, a.client).cmp(&(&b.vip, b.client)));
        Ok(Rows { total, rows, more: false })
    }

    /// The keys of the pins that `scope` names.
    pub(super) fn pin_keys(&self, scope: &PinScope) -> Result<Vec<PinKey>, ErrorReply> {
        let internal = |error: std::io::Error| ErrorReply::new(ErrorKind::Internal, format!("reading pins: {error}"));
        let mut keys = Vec::new();
        let mut collect = |wanted: &dyn Fn(&PinKey) -> bool| {
            self.bpf.for_each_pin(|key, _| {
                if wanted(key) {
                    keys.push(*key);
                }
            })
        };
        match scope {
            PinScope::All => collect(&|_| true),
            PinScope::Client(client) => {
                let client = Addr::from(*client);
                collect(&|key| key.client == client)
            }
            PinScope::Vip(label) => {
                let vip = self.balanced(label)?.0;
                let group = vip_identity(&vip.label);
                collect(&|key| key.group == group)
            }
        }
        .map_err(internal)?;
        Ok(keys)
    }

    fn groups(&self) -> BTreeMap<u64, (&Vip, &Balance)> {
        let vips = self.state.config.services.vips.iter();
        vips.filter_map(|vip| Some((vip_identity(&vip.label), (vip, vip.balance()?)))).collect()
    }

    fn pin_row(&self, groups: &BTreeMap<u64, (&Vip, &Balance)>, key: &PinKey, pin: &Pin) -> Option<PinRow> {
        let (vip, balance) = groups.get(&key.group)?;
        let persistence = balance.persistence?.as_secs();
        let idle = self.now.saturating_sub(Duration::from_nanos(pin.seen)).as_secs();
        Some(PinRow {
            vip: vip.label.clone(),
            client: key.client.into(),
            rip: self.desired.rips.get(&pin.rip)?.rip.clone(),
            age_s: self.now.as_secs().saturating_sub(pin.since.into()),
            idle_s: idle,
            expires_in_s: persistence.saturating_sub(idle),
        })
    }

    pub(super) fn flows(
        &self,
        vip: Option<&str>,
        client: Option<IpAddr>,
        limit: Option<usize>,
    ) -> Result<Rows<FlowRow>> {
        let client = client.map(Addr::from);
        let mut rows = Vec::new();
        let mut total = 0;
        self.bpf.for_each_flow(|key, flow| {
            if flow.state & state::TO_CLIENT != 0 || client.is_some_and(|client| client != key.src) {
                return;
            }
            let row = self.flow_row(key, flow);
            if vip.is_some_and(|vip| vip != row.vip) {
                return;
            }
            total += 1;
            if limit.is_none_or(|limit| rows.len() < limit) {
                rows.push(row);
            }
        })?;
        rows.sort_by_key(|row| (row.client, row.client_port, row.vip_port));
        Ok(Rows { total, rows, more: false })
    }

    fn flow_row(&self, key: &FlowKey, flow: &Flow) -> FlowRow {
        let (client_port, vip_port) = key.host_ports();
        let snat = FlowKey { ports: flow.ports, ..*key }.host_ports().0;
        let fins = flow.state & (state::CLIENT_FIN | state::RIP_FIN);
        // A RIP that retires is in no configuration; its address names it well enough.
        let name = self
            .desired
            .rips
            .get(&flow.rip)
            .cloned()
            .unwrap_or_else(|| RipName { vip: key.dst.to_string(), rip: format!("{} (removed)", flow.dst) });
        FlowRow {
            vip: name.vip,
            client: key.src.into(),
            client_port,
            vip_port,
            rip: name.rip,
            snat: flow.src.into(),
            snat_port: snat,
            protocol: if key.proto == u32::from(UDP) { Protocol::Udp } else { Protocol::Tcp },
            state: match () {
                () if key.proto == u32::from(UDP) => FlowState::Udp,
                () if flow.is_closed() => FlowState::Closed,
                () if fins != 0 => FlowState::Closing,
                () => FlowState::Established,
            },
            idle_s: self.now.as_secs().saturating_sub(flow.seen.into()),
        }
    }

    fn balanced(&self, label: &str) -> Result<(&Vip, &Balance), ErrorReply> {
        let vips = &self.state.config.services.vips;
        let Some(vip) = vips.iter().find(|vip| vip.label == label) else {
            return Err(ErrorReply::unknown("virtual service", label, vips.iter().map(|vip| vip.label.as_str())));
        };
        vip.balance()
            .map(|balance| (vip, balance))
            .ok_or_else(|| ErrorReply::new(ErrorKind::Invalid, format!("{label} is a redirect: it has no RIPs")))
    }

    /// Which RIP a client gets at a VIP, and why: the data path's own order, on the kernel's own tables.
    pub(super) fn explain(&self, client: IpAddr, label: &str) -> Result<Explain, ErrorReply> {
        let internal = |error: anyhow::Error| ErrorReply::new(ErrorKind::Internal, format!("{error:#}"));
        let (vip, balance) = self.balanced(label)?;
        if client.is_ipv4() != vip.address.is_ipv4() {
            let message = format!("{client} can't reach {label} at {}: another address family", vip.address);
            return Err(ErrorReply::new(ErrorKind::Invalid, message));
        }
        let flows = self.flows(Some(label), Some(client), None).map_err(internal)?;
        let open: Vec<&FlowRow> = flows.rows.iter().filter(|row| row.state != FlowState::Closed).collect();
        let key = PinKey { group: vip_identity(label), client: client.into() };
        let pin = self.bpf.pin(&key).map_err(|error| internal(error.into()))?;
        let pin_row = pin.and_then(|pin| self.pin_row(&self.groups(), &key, &pin));
        let alive = pin.filter(|pin| {
            balance.persistence.is_some_and(|time| !pin.is_expired(self.now.as_nanos() as u64, time.as_secs() as u32))
        });
        let usable = alive.filter(|pin| self.actual.hops.get(&pin.rip).is_some_and(|hop| hop.has(Hop::PINNED)));
        let ring_rip = self.ring_rip(label, client).map_err(internal)?;

        let mut detail = Vec::new();
        if let (Some(row), Some(pin)) = (&pin_row, pin) {
            let idle = humantime::format_duration(Duration::from_secs(row.idle_s));
            let left = humantime::format_duration(Duration::from_secs(row.expires_in_s));
            detail.push(match (alive.is_some(), usable.is_some()) {
                (true, true) => format!("pinned to {}, idle {idle}, expires in {left}", row.rip),
                (true, false) => format!("pinned to {}, which takes no pinned clients now", row.rip),
                (false, _) => format!("was pinned to {}, idle {idle}: expired", row.rip),
            });
            debug_assert_eq!(self.desired.rips.get(&pin.rip).map(|name| &name.rip), Some(&row.rip));
        } else if balance.persistence.is_none() {
            detail.push("persistence is off: the ring decides".to_owned());
        } else {
            detail.push("no pin: this client has not finished a handshake here, or its pin has expired".to_owned());
        }
        let flow_rip = open.first().map(|row| row.rip.clone());
        if let Some(rip) = &flow_rip {
            let count = open.len();
            detail.push(format!("{count} open connection{} to {rip}", if count == 1 { "" } else { "s" }));
        }
        let pin_rip = usable.and_then(|pin| self.desired.rips.get(&pin.rip)).map(|name| name.rip.clone());
        // A new connection follows the pin, then the ring; an open one its own entry.
        let (rip, why) = match (flow_rip, pin_rip, ring_rip.clone()) {
            (Some(rip), _, _) => (Some(rip), Why::Flow),
            (None, Some(rip), _) => (Some(rip), Why::Pin),
            (None, None, Some(rip)) => (Some(rip), Why::Ring),
            (None, None, None) => (None, Why::None),
        };
        let eligible = balance.rips.iter().map(|rip| self.eligible(vip, rip)).collect();
        Ok(Explain { client, vip: label.to_owned(), rip, why, detail, pin: pin_row, ring_rip, eligible })
    }

    fn ring_rip(&self, label: &str, client: IpAddr) -> Result<Option<String>> {
        let identity = vip_identity(label);
        let Some((id, _)) = self.actual.vips.iter().find(|(_, vip)| vip.identity == identity) else { return Ok(None) };
        let slots = self.bpf.ring(*id)?;
        if slots.is_empty() {
            return Ok(None);
        }
        let slot = reduce(client_hash(self.state.seed, &client.into()), slots.len() as u32);
        Ok(self.desired.rips.get(&slots[slot as usize]).map(|name| name.rip.clone()))
    }

    fn eligible(&self, vip: &Vip, rip: &crate::model::Rip) -> Eligible {
        let name = vip.rip_name(rip);
        let health = self.state.health.get(&name).copied().unwrap_or_default();
        let check = self.checks.get(&name);
        let (eligible, reason) = match (self.admin(&name), health) {
            (Admin::Halt, _) => (false, "halted".to_owned()),
            (Admin::Drain, _) => (false, "draining: pinned clients only".to_owned()),
            (Admin::DrainHard, _) => (false, "draining hard: open connections only".to_owned()),
            (Admin::Online, Health::Unknown) => (false, "not checked yet".to_owned()),
            (Admin::Online, Health::Down) => {
                (false, format!("down: {}", check.map_or("", |check| check.reason.as_str())))
            }
            (Admin::Online, Health::Up) => match self.unreachable(rip.address) {
                Some(why) => (false, why),
                None if rip.weight == 0 => (false, "weight 0: pinned clients only".to_owned()),
                None => (true, format!("up, weight {}", rip.weight)),
            },
        };
        Eligible { rip: rip.label.clone(), eligible, reason }
    }
}

/// A configuration's problems as the API has them.
pub(super) fn problems(report: &config::Report) -> Vec<Problem> {
    report
        .problems()
        .map(|problem| Problem {
            severity: problem.severity,
            file: problem.file.clone(),
            line: problem.line,
            column: problem.column,
            key: problem.key.clone(),
            name: problem.name.clone(),
            message: problem.message.clone(),
            help: problem.help.clone(),
        })
        .collect()
}

fn traffic(label: &str, stats: RipStats) -> Traffic {
    let RipStats { packets_in, bytes_in, packets_out, bytes_out, connections, attempts } = stats;
    Traffic { label: label.to_owned(), attempts, connections, packets_in, bytes_in, packets_out, bytes_out }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

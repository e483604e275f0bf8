//! The rules of `services.toml` that look at one VIP at a time.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16, time::Duration};

use super::{
    problem::{Place, Problems, quoted},
    raw,
    table::{At, Field, Scalar},
    value::{self, accept},
};
use crate::model::{self, CheckKind, PortRange, Protocol};

/// VIPs one configuration may have.
pub(super) const MAX_VIPS: usize = 1_024;

/// RIPs one configuration may have, over all VIPs.
pub(super) const MAX_RIPS: usize = 4_096;

/// Ports one configuration may have, over all VIPs, ranges counted in full: each is an entry of the data path's table.
pub(super) const MAX_PORTS: usize = 65_536;

/// Ports one redirect VIP may have: each is a listening socket.
const MAX_REDIRECT_PORTS: usize = 64;

/// Host names one redirect VIP may have.
const MAX_HOSTS: usize = 256;

const SECOND: Duration = Duration::from_secs(1);

/// What is right in `services.toml`; whatever is missing has been reported.
pub(super) struct Services {
    pub(super) root: Place,
    pub(super) vips: Vec<Vip>,
    /// A `vip` was typed, right or wrong.
    pub(super) has_vip: bool,
}

pub(super) struct Vip {
    /// Its header.
    pub(super) place: Place,
    pub(super) label: Option<At<String>>,
    pub(super) address: Option<At<IpAddr>>,
    /// Sorted and disjoint.
    pub(super) ports: Vec<At<PortRange>>,
    pub(super) protocol: Option<Protocol>,
    pub(super) service: Service,
}

pub(super) enum Service {
    Balance(Balance),
    Redirect {
        hosts: Vec<String>,
    },
    /// `force_https` is neither true nor false.
    Unclear,
}

pub(super) struct Balance {
    pub(super) mode: Option<Mode>,
    persistence: Option<Option<Duration>>,
    check: Option<model::Check>,
    pub(super) rips: Vec<Rip>,
}

pub(super) struct Rip {
    /// Its header.
    pub(super) place: Place,
    label: Option<At<String>>,
    pub(super) address: Option<At<IpAddr>>,
    port: Field<NonZeroU16>,
    weight: Field<u16>,
}

/// Every mode that has a name, built or not: the rules of those to come already apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Snat,
    Dr,
    Nat,
    Tunnel,
}

const BUILT: [(&str, Mode); 1] = [("snat", Mode::Snat)];
const TO_COME: [(&str, Mode); 3] = [("dr", Mode::Dr), ("nat", Mode::Nat), ("tunnel", Mode::Tunnel)];

/// Checks every VIP on its own; `cross` compares them.
pub(super) fn check(raw: raw::Services, problems: &mut Problems) -> Services {
    let raw::Services { root, defaults, vips, has_vip } = raw;
    let defaults = Defaults::check(defaults, problems);
    let vips = vips.into_iter().map(|vip| Vip::check(vip, &defaults, problems)).collect();
    Services { root, vips, has_vip }
}

impl Services {
    /// The services' part of the configuration; nothing if a part is missing.
    pub(super) fn build(self) -> Option<model::Services> {
        Some(model::Services { vips: self.vips.into_iter().map(Vip::build).collect::<Option<_>>()? })
    }
}

/// `[defaults]`, read once.
struct Defaults {
    protocol: Field<Protocol>,
    mode: Field<Mode>,
    persistence: Field<Option<Duration>>,
    check: Check,
}

impl Defaults {
    fn check(raw: raw::Defaults, problems: &mut Problems) -> Self {
        let raw::Defaults { protocol, mode, persistence, check } = raw;
        let check = Check::read(check, problems);
        // Compared here once, so that no VIP repeats what is wrong among the defaults.
        check.resolve(&Check::read(raw::Check::absent(), problems), problems);
        Self {
            protocol: read_protocol(protocol, problems),
            mode: read_mode(mode, problems),
            persistence: read_persistence(persistence, problems),
            check,
        }
    }
}

impl Vip {
    fn check(raw: raw::Vip, defaults: &Defaults, problems: &mut Problems) -> Self {
        let raw::Vip {
            place,
            label,
            address,
            ports,
            protocol,
            mode,
            persistence,
            check,
            force_https,
            hosts,
            rips,
            has_rip,
        } = raw;
        let label = required(&place, "label", "a name, such as label = \"MyChart\"", label, problems)
            .and_then(|at| read_at(at, |text| value::label(text), problems));
        let address = required(&place, "address", "for instance address = \"192.168.85.150\"", address, problems)
            .and_then(|at| read_at(at, |text| value::address(text, "VIP"), problems));
        let ports = required(&place, "ports", "for instance ports = [443]", ports, problems)
            .map(|at| check_ports(at, problems))
            .unwrap_or_default();
        let own_protocol = read_protocol(protocol, problems);
        if let (Field::Absent | Field::Typed(At { value: false, .. }), Some(at)) = (&force_https, hosts.place()) {
            problems
                .error(at, "`hosts` says where a redirect may lead; this VIP is none")
                .help("delete `hosts`, or write force_https = true if this VIP shall redirect to HTTPS");
        }
        let (protocol, service) = match &force_https {
            Field::Typed(At { value: true, place: redirect }) => {
                let others = [
                    ("mode", mode.place()),
                    ("persistence", persistence.place()),
                    ("check", check.place.as_ref()),
                    ("rip", rips.first().map(|rip| &rip.place)),
                ];
                for (key, other) in others {
                    let Some(other) = other else { continue };
                    let (message, help) = if key == "rip" {
                        (
                            "a VIP that redirects has no RIPs: epiclb answers itself",
                            "delete the RIPs, or delete force_https if this VIP shall balance",
                        )
                    } else {
                        (
                            "this means nothing for a VIP that redirects: epiclb answers itself",
                            "delete it, or delete force_https if this VIP shall balance",
                        )
                    };
                    problems.error(other, message).help(help).see(redirect, "redirects because of this");
                }
                if let Field::Typed(At { value: Protocol::Udp, place }) = &own_protocol {
                    problems
                        .error(place, "a VIP that redirects speaks HTTP, which is TCP")
                        .help("delete `protocol` or write protocol = \"tcp\"")
                        .see(redirect, "redirects because of this");
                }
                check_redirect_ports(&ports, problems);
                let protocol = match own_protocol {
                    Field::Wrong(_) => None,
                    _ => Some(Protocol::Tcp),
                };
                (protocol, Service::Redirect { hosts: check_hosts(hosts, redirect, problems) })
            }
            Field::Wrong(_) => (None, Service::Unclear),
            Field::Absent | Field::Typed(_) => {
                let protocol = inherit(own_protocol, &defaults.protocol).or_default(Protocol::Tcp);
                let mode = inherit(read_mode(mode, problems), &defaults.mode).or_default(Mode::Snat);
                let persistence = inherit(read_persistence(persistence, problems), &defaults.persistence);
                let check = Check::read(check, problems);
                let place_of_check = check.kind.place().or(check.place.as_ref()).cloned();
                let check = check.resolve(&defaults.check, problems);
                if protocol == Some(Protocol::Udp) && check.as_ref().is_some_and(|check| check.kind == CheckKind::Tcp) {
                    problems
                        .warning(
                            &place_of_check.unwrap_or_else(|| place.clone()),
                            "this UDP service is checked over TCP: a server that takes no TCP on this port counts as down",
                        )
                        .help("write check = { kind = \"none\" } unless the servers answer TCP on the same port");
                }
                let rips: Vec<Rip> = rips.into_iter().map(|rip| Rip::check(rip, problems)).collect();
                check_rips(&place, &ports, mode, &rips, has_rip, problems);
                let persistence = persistence.or_default(Some(Duration::from_secs(3600)));
                (protocol, Service::Balance(Balance { mode, persistence, check, rips }))
            }
        };
        Self { place, label, address, ports, protocol, service }
    }

    /// Its name in a message.
    pub(super) fn shown(&self) -> String {
        self.place.name.clone().unwrap_or_else(|| self.place.key.clone())
    }

    fn build(self) -> Option<model::Vip> {
        Some(model::Vip {
            label: self.label?.value,
            address: self.address?.value,
            ports: self.ports.into_iter().map(|at| at.value).collect(),
            protocol: self.protocol?,
            service: match self.service {
                Service::Unclear => return None,
                Service::Redirect { hosts } => model::Service::Redirect(model::Redirect { hosts }),
                Service::Balance(balance) => model::Service::Balance(balance.build()?),
            },
        })
    }
}

impl Balance {
    fn build(self) -> Option<model::Balance> {
        let mode = match self.mode? {
            Mode::Snat => model::Mode::Snat,
            Mode::Dr | Mode::Nat | Mode::Tunnel => return None,
        };
        let rips = self.rips.into_iter().map(Rip::build).collect::<Option<_>>()?;
        Some(model::Balance { mode, persistence: self.persistence?, check: self.check?, rips })
    }
}

impl Rip {
    fn check(raw: raw::Rip, problems: &mut Problems) -> Self {
        let raw::Rip { place, label, address, port, weight } = raw;
        Self {
            label: required(&place, "label", "a name, such as label = \"MyChart_Srv_1\"", label, problems)
                .and_then(|at| read_at(at, |text| value::label(text), problems)),
            address: required(&place, "address", "for instance address = \"192.168.85.200\"", address, problems)
                .and_then(|at| read_at(at, |text| value::address(text, "RIP"), problems)),
            port: port.and_then(|at| value::port(at.value)),
            weight: weight.and_then(|at| u16::try_from(at.value).ok()),
            place,
        }
    }

    fn build(self) -> Option<model::Rip> {
        let port = match self.port {
            Field::Absent => None,
            Field::Wrong(_) => return None,
            Field::Typed(at) => Some(at.value),
        };
        Some(model::Rip {
            label: self.label?.value,
            address: self.address?.value,
            port,
            weight: self.weight.or_default(100)?,
        })
    }

    /// Where its packets go, if both parts are right: the port of the only one the VIP has, or its own.
    fn socket(&self, ports: &[At<PortRange>]) -> Option<(IpAddr, Option<NonZeroU16>)> {
        let only = match ports {
            [At { value: PortRange { first, last }, .. }] if first == last => Some(*first),
            _ => None,
        };
        let port = match &self.port {
            Field::Absent => only,
            Field::Wrong(_) => return None,
            Field::Typed(at) => Some(at.value),
        };
        Some((self.address.as_ref()?.value, port))
    }
}

/// The rules among the RIPs of one VIP.
fn check_rips(
    vip: &Place,
    ports: &[At<PortRange>],
    mode: Option<Mode>,
    rips: &[Rip],
    has_rip: bool,
    problems: &mut Problems,
) {
    if rips.is_empty() && !has_rip {
        problems
            .error(vip, "this VIP has no RIPs: where should its clients go?")
            .help(
                "add [[vip.rip]] with label and address below it, or force_https = true if it shall redirect to HTTPS",
            )
            .absence();
    }
    let mut labels: BTreeMap<&str, &Place> = BTreeMap::new();
    let mut sockets: BTreeMap<(IpAddr, Option<NonZeroU16>), &Rip> = BTreeMap::new();
    for rip in rips {
        if let Some(label) = &rip.label {
            match labels.get(label.value.as_str()) {
                Some(first) => {
                    problems
                        .error(&label.place, format!("this VIP has two RIPs called {}", quoted(&label.value)))
                        .help("give each its own label")
                        .see(first, "the first is here");
                }
                None => _ = labels.insert(&label.value, &label.place),
            }
        }
        if let (Some(socket), Some(address)) = (rip.socket(ports), &rip.address) {
            match sockets.get(&socket) {
                Some(first) => {
                    let port = socket.1.map(|port| format!(" port {port}")).unwrap_or_default();
                    problems
                        .error(&address.place, format!("this VIP has {}{port} twice among its RIPs", socket.0))
                        .help("delete one of the two; a larger weight gives a server more clients")
                        .see(first.address.as_ref().map_or(&first.place, |at| &at.place), "the first is here");
                }
                None => _ = sockets.insert(socket, rip),
            }
        }
        if let (Some(Mode::Dr), Field::Typed(port)) = (mode, &rip.port) {
            check_dr_port(port, ports, problems);
        }
    }
    let weights: Option<Vec<u16>> = rips.iter().map(|rip| rip.weight.clone().or_default(100)).collect();
    if let (Some(weights), Some(first)) = (weights, rips.first())
        && weights.iter().all(|weight| *weight == 0)
    {
        problems
            .error(
                first.weight.place().unwrap_or(&first.place),
                "every RIP of this VIP has weight 0: no client would be served",
            )
            .help("give at least one a weight from 1 to 256");
    }
}

/// Direct return leaves packets as they are but for the MAC address, so a port can't change on the way.
fn check_dr_port(port: &At<NonZeroU16>, ports: &[At<PortRange>], problems: &mut Problems) {
    let only = match ports {
        [At { value: PortRange { first, last }, .. }] if first == last => Some(*first),
        [] => return,
        _ => None,
    };
    if only == Some(port.value) {
        return;
    }
    let ports = ports.iter().map(|at| at.value.to_string()).collect::<Vec<_>>().join(", ");
    problems
        .error(&port.place, format!("mode dr can't change the port: the VIP has {ports}, this RIP {}", port.value))
        .help("delete `port`, so that the RIP gets the port the client used; or write mode = \"snat\"");
}

fn check_ports(ports: At<Vec<At<Scalar>>>, problems: &mut Problems) -> Vec<At<PortRange>> {
    if ports.value.is_empty() {
        problems.error(&ports.place, "`ports` is empty: where should clients connect?").help("write ports = [443]");
    }
    let ranges = ports
        .value
        .iter()
        .filter_map(|at| Some(At { value: accept(at, value::ports, problems)?, place: at.place.clone() }));
    let mut ranges: Vec<At<PortRange>> = ranges.collect();
    ranges.sort_by_key(|at| at.value);
    let mut disjoint: Vec<At<PortRange>> = Vec::new();
    for range in ranges {
        match disjoint.last() {
            Some(before) if range.value.first <= before.value.last => {
                // The later one in the file is the one to look at.
                let (first, second) =
                    if before.place.span.start < range.place.span.start { (before, &range) } else { (&range, before) };
                problems
                    .error(&second.place, format!("{} is already among the ports of this VIP", second.value))
                    .help("list each port once")
                    .see(&first.place, format!("{} is here", first.value));
                if range.value.last > before.value.last {
                    disjoint.push(range);
                }
            }
            _ => disjoint.push(range),
        }
    }
    disjoint
}

fn check_redirect_ports(ports: &[At<PortRange>], problems: &mut Problems) {
    let count: usize = ports.iter().map(|at| width(at.value)).sum();
    if let Some(first) = ports.first().filter(|_| count > MAX_REDIRECT_PORTS) {
        problems
            .error(&first.place, format!("{count} ports; a VIP that redirects may have {MAX_REDIRECT_PORTS}"))
            .help("write ports = [80]");
    }
    let https = ports.iter().find(|at| (at.value.first.get()..=at.value.last.get()).contains(&443));
    if let Some(at) = https {
        problems
            .error(&at.place, "a redirect on port 443 would lead browsers back to itself")
            .help("write ports = [80]; port 443 belongs to the VIP that balances HTTPS");
    }
}

fn check_hosts(hosts: Field<Vec<At<String>>>, redirect: &Place, problems: &mut Problems) -> Vec<String> {
    let list = match hosts {
        Field::Wrong(_) => return Vec::new(),
        Field::Absent => Vec::new(),
        Field::Typed(At { value: list, place }) => {
            if list.len() > MAX_HOSTS {
                problems.error(&place, format!("{} hosts; {MAX_HOSTS} is the most", list.len())).help("list fewer");
            }
            list
        }
    };
    if list.is_empty() {
        problems
            .warning(redirect, "without `hosts` this redirect sends people to whatever host their request names")
            .help("write for instance hosts = [\"mychart.example.org\"]; the first is used for every other host")
            .absence();
    }
    let mut seen: BTreeMap<String, Place> = BTreeMap::new();
    let mut names = Vec::new();
    for at in &list {
        let Some(name) = accept(at, |text| value::host(text), problems) else { continue };
        if let Some(first) = seen.get(&name) {
            let message = format!("the host {} is listed twice", quoted(&name));
            problems.error(&at.place, message).help("delete one of the two").see(first, "first listed here");
            continue;
        }
        seen.insert(name.clone(), at.place.clone());
        names.push(name);
    }
    names
}

/// The settings of a check, as far as one place gives them.
struct Check {
    place: Option<Place>,
    kind: Field<CheckKind>,
    interval: Field<Duration>,
    timeout: Field<Duration>,
    rise: Field<u32>,
    fall: Field<u32>,
}

impl Check {
    fn read(raw: raw::Check, problems: &mut Problems) -> Self {
        let raw::Check { place, kind, interval, timeout, rise, fall } = raw;
        let kinds = [("tcp", CheckKind::Tcp), ("none", CheckKind::None)];
        let hour = 3600 * SECOND;
        let mut time = |field: Field<String>, least: Duration| {
            field.and_then(|at| accept(at, |text| value::duration(text, least..=hour), problems))
        };
        Self {
            place,
            interval: time(interval, SECOND / 10),
            timeout: time(timeout, SECOND / 100),
            kind: kind.and_then(|at| accept(at, |text| value::word(text, &kinds), problems)),
            rise: rise.and_then(|at| u32::try_from(at.value).ok()),
            fall: fall.and_then(|at| u32::try_from(at.value).ok()),
        }
    }

    /// What is in force with `defaults` behind it, and the built-in values behind those.
    fn resolve(&self, defaults: &Self, problems: &mut Problems) -> Option<model::Check> {
        let built_in = model::Check::default();
        let interval = inherit(self.interval.clone(), &defaults.interval);
        let timeout = inherit(self.timeout.clone(), &defaults.timeout);
        let check = model::Check {
            kind: inherit(self.kind.clone(), &defaults.kind).or_default(built_in.kind)?,
            interval: interval.clone().or_default(built_in.interval)?,
            timeout: timeout.clone().or_default(built_in.timeout)?,
            rise: inherit(self.rise.clone(), &defaults.rise).or_default(built_in.rise)?,
            fall: inherit(self.fall.clone(), &defaults.fall).or_default(built_in.fall)?,
        };
        // Whoever gave one of the two here is the one to look at it; inherited pairs were looked at where they stand.
        let own = self.timeout.place().or(self.interval.place());
        if let Some(own) = own.filter(|_| check.timeout > check.interval) {
            let [shown_timeout, shown_interval] = [check.timeout, check.interval].map(humantime::format_duration);
            let draft = problems.error(
                own,
                format!(
                    "the timeout ({shown_timeout}) is longer than the interval ({shown_interval}): probes would overlap"
                ),
            );
            draft.help(format!("write timeout = \"{shown_interval}\" or less, or a longer interval"));
            for (name, field) in [("interval", &interval), ("timeout", &timeout)] {
                if let Some(place) = field.place().filter(|place| *place != own) {
                    draft.see(place, format!("the {name} is set here"));
                }
            }
        }
        Some(check)
    }
}

/// How many ports a range has.
pub(super) fn width(range: PortRange) -> usize {
    usize::from(range.last.get() - range.first.get()) + 1
}

/// The VIP's own setting, or else that of the defaults.
fn inherit<T: Clone>(own: Field<T>, default: &Field<T>) -> Field<T> {
    match own {
        Field::Absent => default.clone(),
        own => own,
    }
}

/// A key without which there is no VIP or RIP.
fn required<T>(table: &Place, key: &str, help: &str, field: Field<T>, problems: &mut Problems) -> Option<At<T>> {
    if matches!(field, Field::Absent) {
        let place = Place { key: format!("{}.{key}", table.key), ..table.clone() };
        problems.error(&place, format!("`{key}` is missing")).help(format!("add it: {help}")).absence();
    }
    field.typed()
}

fn read_at<T, U>(
    at: At<T>,
    read: impl FnOnce(&T) -> Result<U, value::Wrong>,
    problems: &mut Problems,
) -> Option<At<U>> {
    let value = accept(&at, read, problems)?;
    Some(At { value, place: at.place })
}

fn read_protocol(field: Field<String>, problems: &mut Problems) -> Field<Protocol> {
    let words = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    field.and_then(|at| accept(at, |text| value::word(text, &words), problems))
}

fn read_mode(field: Field<String>, problems: &mut Problems) -> Field<Mode> {
    field.and_then(|at| {
        let Some((word, mode)) = TO_COME.iter().find(|(word, _)| *word == at.value) else {
            return accept(at, |text| value::word(text, &BUILT), problems);
        };
        problems
            .error(&at.place, format!("mode {} is not built yet", quoted(word)))
            .help("write mode = \"snat\", or delete the line");
        // Kept all the same, so that the mode's own rules are applied.
        Some(*mode)
    })
}

fn read_persistence(field: Field<String>, problems: &mut Problems) -> Field<Option<Duration>> {
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
    field.and_then(|at| match at.value.as_str() {
        "off" => Some(None),
        _ => accept(at, |text| value::duration(text, SECOND..=LONGEST), problems).map(Some),
    })
}

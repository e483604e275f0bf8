//! The rules of `node.toml`.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use super::{
    Host,
    problem::{Place, Problems, quoted},
    raw,
    table::{At, Field, did_you_mean},
    value::{self, accept},
};
use crate::model::{self, Limits, LogLevel, XdpMode};

/// Interfaces one node may have.
const MAX_INTERFACES: usize = 64;

/// SNAT addresses one node may have.
const MAX_SNAT: usize = 64;

/// What is right in `node.toml`; whatever is missing has been reported.
pub(super) struct Node {
    name: Option<String>,
    interfaces: Vec<String>,
    xdp_mode: Option<XdpMode>,
    /// Also compared with the VIPs and RIPs.
    pub(super) snat: Vec<At<IpAddr>>,
    socket: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    bpffs_dir: Option<PathBuf>,
    log_level: Option<LogLevel>,
    log_client_addresses: Option<bool>,
    limits: Option<Limits>,
}

/// Checks every key; `host` says which interfaces exist.
pub(super) fn check(raw: raw::Node, host: Option<&Host>, problems: &mut Problems) -> Node {
    let raw::Node {
        root,
        name,
        interfaces,
        xdp_mode,
        snat,
        socket,
        state_dir,
        bpffs_dir,
        log_level,
        log_client_addresses,
        limits,
    } = raw;
    let name = name.and_then(|at| accept(at, |text| value::label(text), problems));
    let host_name = host.and_then(|host| host.name.clone()).unwrap_or_else(|| "localhost".to_owned());
    let modes = [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let default = Limits::default();
    let entries =
        |field: Field<i64>, default: u32| field.and_then(|at| u32::try_from(at.value).ok()).or_default(default);
    let limits = (|| {
        Some(Limits {
            flows: entries(limits.flows, default.flows)?,
            pins: entries(limits.pins, default.pins)?,
            half_open: entries(limits.half_open, default.half_open)?,
        })
    })();
    let mut path = |field: Field<String>, default: &str| {
        field.and_then(|at| accept(at, |text| value::path(text), problems)).or_default(PathBuf::from(default))
    };
    Node {
        name: name.or_default(host_name),
        state_dir: path(state_dir, "/var/lib/epiclb"),
        bpffs_dir: path(bpffs_dir, "/sys/fs/bpf/epiclb"),
        interfaces: check_interfaces(&root, interfaces, host, problems),
        xdp_mode: xdp_mode
            .and_then(|at| accept(at, |text| value::word(text, &modes), problems))
            .or_default(XdpMode::Auto),
        snat: check_snat(snat, problems),
        socket: socket
            .and_then(|at| accept(at, |text| value::socket(text), problems))
            .or_default(PathBuf::from("/run/epiclb/epiclb.sock")),
        log_level: log_level
            .and_then(|at| accept(at, |text| value::word(text, &levels), problems))
            .or_default(LogLevel::Info),
        log_client_addresses: log_client_addresses.or_default(false),
        limits,
    }
}

impl Node {
    /// The node's part of the configuration; nothing if a part is missing.
    pub(super) fn build(self) -> Option<model::Node> {
        Some(model::Node {
            name: self.name?,
            interfaces: self.interfaces,
            xdp_mode: self.xdp_mode?,
            snat: self.snat.into_iter().map(|at| at.value).collect(),
            socket: self.socket?,
            state_dir: self.state_dir?,
            bpffs_dir: self.bpffs_dir?,
            log_level: self.log_level?,
            log_client_addresses: self.log_client_addresses?,
            limits: self.limits?,
        })
    }
}

fn check_interfaces(
    root: &Place,
    interfaces: Field<Vec<At<String>>>,
    host: Option<&Host>,
    problems: &mut Problems,
) -> Vec<String> {
    let At { value: list, place } = match interfaces {
        Field::Absent => {
            let place = Place { key: "interfaces".to_owned(), ..root.clone() };
            problems
                .error(&place, "`interfaces` is missing: on which should epiclb forward?")
                .label("missing")
                .help(format!("write interfaces = [\"eth0\"]{}", present(host)))
                .absence();
            return Vec::new();
        }
        Field::Wrong(_) => return Vec::new(),
        Field::Typed(at) => at,
    };
    if list.is_empty() {
        problems
            .error(&place, "`interfaces` is an empty list: on which should epiclb forward?")
            .help(format!("write interfaces = [\"eth0\"]{}", present(host)));
    }
    if list.len() > MAX_INTERFACES {
        problems.error(&place, format!("{} interfaces; {MAX_INTERFACES} is the most", list.len())).help("list fewer");
    }
    let mut seen: BTreeMap<String, Place> = BTreeMap::new();
    let mut names = Vec::new();
    for at in &list {
        let Some(name) = accept(at, |text| value::interface(text), problems) else { continue };
        if let Some(first) = seen.get(&name) {
            let message = format!("the interface {} is listed twice", quoted(&name));
            problems.error(&at.place, message).help("delete one of the two").see(first, "first listed here");
            continue;
        }
        if let Some(host) = host.filter(|host| !host.interfaces.contains(&name)) {
            let names: Vec<&str> = host.interfaces.iter().map(String::as_str).filter(|name| *name != "lo").collect();
            let hint = did_you_mean(&name, &names).map(|name| format!("did you mean {}? ", quoted(name)));
            problems
                .error(&at.place, format!("there is no interface {} on this machine", quoted(&name)))
                .help(format!("{}write one that exists{}", hint.unwrap_or_default(), present(Some(host))));
        }
        seen.insert(name.clone(), at.place.clone());
        names.push(name);
    }
    names
}

/// "; present: eth0, eth1", as far as it is known.
fn present(host: Option<&Host>) -> String {
    const SHOWN: usize = 20;
    let Some(host) = host else { return String::new() };
    let names: Vec<&str> = host.interfaces.iter().map(String::as_str).filter(|name| *name != "lo").collect();
    match names.len() {
        0 => "; this machine has none but lo".to_owned(),
        n if n > SHOWN => format!("; present: {} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => format!("; present: {}", names.join(", ")),
    }
}

fn check_snat(snat: Field<Vec<At<String>>>, problems: &mut Problems) -> Vec<At<IpAddr>> {
    let Some(At { value: list, place }) = snat.typed() else { return Vec::new() };
    if list.len() > MAX_SNAT {
        problems.error(&place, format!("{} snat addresses; {MAX_SNAT} is the most", list.len())).help("list fewer");
    }
    let mut seen: BTreeMap<IpAddr, Place> = BTreeMap::new();
    let mut addresses = Vec::new();
    for at in &list {
        let Some(address) = accept(at, |text| value::address(text, "snat address"), problems) else { continue };
        if let Some(first) = seen.get(&address) {
            let message = format!("the snat address {address} is listed twice");
            problems.error(&at.place, message).help("delete one of the two").see(first, "first listed here");
            continue;
        }
        seen.insert(address, at.place.clone());
        addresses.push(At { value: address, place: at.place.clone() });
    }
    addresses
}

//! What the operator asked for, in types that cannot be wrong.
//!
//! Owns: the validated configuration and the words of the product (`vip`, `rip`, `admin`, `health`).
//! Deliberately knows nothing of TOML, maps, sockets or the clock. Everything here is plain data and
//! ordered (`BTreeMap`, `Vec`), so that two nodes with the same files compute the same things.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The whole configuration: this machine's part and the part a peer shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `node.toml`.
    pub node: Node,
    /// `services.toml`.
    pub services: Services,
}

/// What belongs to this machine alone (`node.toml`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node's name, shown in `status`.
    pub name: String,
    /// Interfaces that XDP is attached to, in the order given.
    pub interfaces: Vec<String>,
    /// How XDP is attached.
    pub xdp_mode: XdpMode,
    /// Source addresses of `snat` flows. Empty: the VIP's own address.
    pub snat: Vec<IpAddr>,
    /// The control socket.
    pub socket: PathBuf,
    /// Admin state and the ring seed live here.
    pub state_dir: PathBuf,
    /// Where maps, links and programs are pinned.
    pub bpffs_dir: PathBuf,
    /// The log's level of detail.
    pub log_level: LogLevel,
    /// Log whole client addresses instead of the /24 or /48 they belong to.
    pub log_client_addresses: bool,
    /// Table sizes.
    pub limits: Limits,
}

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native where the driver can, else generic.
    #[default]
    Auto,
    /// In the driver; an error where it can't.
    Native,
    /// In the kernel's receive path, after the driver.
    Generic,
}

/// The log's level of detail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Table sizes, in entries. Memory is taken when the daemon starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections that may be open at once (each takes two table entries).
    pub flows: u32,
    /// Clients that may be remembered at once, over all VIPs.
    pub pins: u32,
    /// Table entries for handshakes under way, two to each; the oldest give way.
    pub half_open: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 262_144, pins: 262_144, half_open: 65_536 }
    }
}

/// The virtual services (`services.toml`), in file order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// Every VIP; labels are unique.
    pub vips: Vec<Vip>,
}

/// One virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Unique name.
    pub label: String,
    /// The address clients connect to.
    pub address: IpAddr,
    /// The ports clients connect to: sorted, disjoint, at least one.
    pub ports: Vec<PortRange>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What happens to its traffic.
    pub service: Service,
}

/// What happens to a VIP's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// Layer 4: packets go to one of the RIPs.
    Balance(Balance),
    /// The daemon answers HTTP with a redirect to HTTPS (`force_https`). TCP only.
    Redirect(Redirect),
}

/// A balanced VIP's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The forwarding mode.
    pub mode: Mode,
    /// How long a client is remembered after its last packet; `None` is `"off"`.
    pub persistence: Option<Duration>,
    /// How RIPs are probed.
    pub check: Check,
    /// Real servers; labels are unique within the VIP; at least one.
    pub rips: Vec<Rip>,
}

/// A redirect VIP's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// Host names (lower case, no port) it may send people to. Empty: any valid host.
    pub hosts: Vec<String>,
}

/// One real server of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rip {
    /// Unique within its VIP.
    pub label: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None`: the port the client used.
    pub port: Option<NonZeroU16>,
    /// Share of new clients, 0..=256, relative to the VIP's other RIPs. 0 takes none.
    pub weight: u16,
}

/// An inclusive range of ports; one port is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// First port.
    pub first: NonZeroU16,
    /// Last port, not below `first`.
    pub last: NonZeroU16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// The transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// The forwarding mode of a balanced VIP. Only `Snat` is built so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Full NAT: the server sees the balancer's address.
    Snat,
}

/// How a RIP is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What one probe does.
    pub kind: CheckKind,
    /// Time between the starts of two probes.
    pub interval: Duration,
    /// A probe that takes longer has failed; not above `interval`.
    pub timeout: Duration,
    /// Consecutive successes that bring a RIP up; at least 1.
    pub rise: u32,
    /// Consecutive failures that bring a RIP down; at least 1.
    pub fall: u32,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// What one probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Opens a TCP connection and resets it.
    Tcp,
    /// Nothing is probed: the RIP counts as up. For UDP services until they have a check of their own.
    None,
}

/// Names one RIP of one VIP; unique over the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RipName {
    /// The VIP's label.
    pub vip: String,
    /// The RIP's label.
    pub rip: String,
}

impl fmt::Display for RipName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vip, self.rip)
    }
}

/// What the operator wants of a RIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admin {
    /// Takes its share.
    #[default]
    Online,
    /// Takes no new clients; pinned clients go on, new connections of theirs included.
    Drain,
    /// Only open flows go on.
    DrainHard,
    /// Nothing goes there; open flows are reset.
    Halt,
}

/// What the probes see of a RIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No verdict yet; treated as down.
    #[default]
    Unknown,
    /// `rise` probes in a row succeeded.
    Up,
    /// `fall` probes in a row failed, or the very first one.
    Down,
}

/// Admin state by RIP; a RIP that is absent is online.
pub type AdminStates = BTreeMap<RipName, Admin>;

impl Services {
    /// Every balanced RIP with its VIP, in file order.
    pub fn rips(&self) -> impl Iterator<Item = (&Vip, &Balance, &Rip)> {
        self.vips
            .iter()
            .filter_map(|vip| vip.balance().map(|b| (vip, b)))
            .flat_map(|(vip, b)| b.rips.iter().map(move |rip| (vip, b, rip)))
    }

    /// Every socket a redirect VIP needs, with its settings.
    pub fn redirects(&self) -> BTreeMap<SocketAddr, Redirect> {
        let mut sockets = BTreeMap::new();
        for vip in &self.vips {
            if let Service::Redirect(redirect) = &vip.service {
                for range in &vip.ports {
                    for port in range.first.get()..=range.last.get() {
                        sockets.insert(SocketAddr::new(vip.address, port), redirect.clone());
                    }
                }
            }
        }
        sockets
    }
}

impl Vip {
    /// The Layer-4 settings, unless it is a redirect.
    pub fn balance(&self) -> Option<&Balance> {
        match &self.service {
            Service::Balance(balance) => Some(balance),
            Service::Redirect(_) => None,
        }
    }

    /// The name of one of its RIPs.
    pub fn rip_name(&self, rip: &Rip) -> RipName {
        RipName { vip: self.label.clone(), rip: rip.label.clone() }
    }

    /// Where `rip` is probed: its own port, or the VIP's first.
    pub fn probe_address(&self, rip: &Rip) -> SocketAddr {
        SocketAddr::new(rip.address, rip.port.unwrap_or(self.ports[0].first).get())
    }
}

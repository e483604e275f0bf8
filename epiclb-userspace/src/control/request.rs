//! What can be asked of a running daemon, and what it answers: the product's API.
//!
//! Owns: [`Request`], [`Response`] and their JSON, which is stable: fields are added, never renamed or given another
//! meaning. The CLI's `--json` prints the same structs. Deliberately knows nothing of sockets or of the daemon.
//!
//! Units stand in the names: `_s` whole seconds, `_us` microseconds. Points in time are RFC 3339, UTC.

use std::{fmt, iter, net::IpAddr};

use serde::{Deserialize, Serialize};

pub use crate::config::Severity;
use crate::model::{Admin, Health, Mode, PortRange, Protocol, RipName};

/// One thing asked of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// The whole overview; answered with [`Response::Status`].
    Status,
    /// What a reload would change; answered with [`Response::Plan`].
    Plan,
    /// Reads the configuration anew and applies it, all or nothing; answered with [`Response::Reload`].
    Reload,
    /// Sets what the operator wants of a RIP; answered with [`Response::Admin`].
    SetAdmin {
        /// Which RIP.
        rip: RipName,
        /// What it shall be.
        admin: Admin,
        /// Also where it leaves the VIP without a RIP that takes clients.
        #[serde(default)]
        force: bool,
    },
    /// Shows or clears pins; answered with [`Response::Pins`] or [`Response::Cleared`].
    Pins(PinsRequest),
    /// Open connections; answered with [`Response::Flows`].
    Flows {
        /// Only this VIP's.
        #[serde(default)]
        vip: Option<String>,
        /// Only this client's.
        #[serde(default)]
        client: Option<IpAddr>,
        /// At most so many rows; `None`: all.
        #[serde(default)]
        limit: Option<usize>,
    },
    /// Every counter; answered with [`Response::Counters`].
    Counters,
    /// Which RIP a client would get, and why; answered with [`Response::Explain`].
    Explain {
        /// The client's address.
        client: IpAddr,
        /// The VIP's label.
        vip: String,
    },
    /// Ends the daemon; answered with [`Response::Stopping`], after which the connection stays open until it has gone.
    Stop,
}

/// What is asked about pins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "pins", rename_all = "kebab-case")]
pub enum PinsRequest {
    /// Live pins.
    List {
        /// Only this VIP's.
        #[serde(default)]
        vip: Option<String>,
        /// At most so many rows; `None`: all.
        #[serde(default)]
        limit: Option<usize>,
    },
    /// One client's pins, over all VIPs.
    Show {
        /// The client's address.
        client: IpAddr,
    },
    /// Forgets pins; open connections go on.
    Clear {
        /// Which ones.
        scope: PinScope,
    },
}

/// Which pins to forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinScope {
    /// One client's, over all VIPs.
    Client(IpAddr),
    /// One VIP's, over all clients.
    Vip(String),
    /// Every one.
    All,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant is named as the struct it carries")]
pub enum Response {
    Status(Box<Status>),
    Plan(PlanReport),
    Reload(ReloadReport),
    Admin(AdminReport),
    Pins(Rows<PinRow>),
    Cleared(Cleared),
    Flows(Rows<FlowRow>),
    Counters(Counters),
    Explain(Explain),
    Stopping(Stopping),
    Error(ErrorReply),
}

/// The overview.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node's name.
    pub node: String,
    /// When this was true.
    pub time: String,
    /// The daemon's version.
    pub version: String,
    /// How long the daemon has been running.
    pub uptime_s: u64,
    /// Everything that is wrong right now, one line each, a refused reload included; empty: nothing.
    pub alarms: Vec<String>,
    /// Where packets come in.
    pub interfaces: Vec<InterfaceStatus>,
    /// How full the tables are.
    pub tables: TablesStatus,
    /// Which configuration is running.
    pub config: ConfigStatus,
    /// Every VIP, in file order.
    pub vips: Vec<VipStatus>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// How the program is attached to it now.
    pub xdp: XdpState,
}

/// How the XDP program is attached right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpState {
    /// In the driver.
    Native,
    /// After the driver.
    Generic,
    /// Not at all: an alarm says why.
    None,
}

/// How full the tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablesStatus {
    /// Open connections.
    pub flows: FlowsTable,
    /// Remembered clients.
    pub pins: PinsTable,
}

/// How full the table of flows is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FlowsTable {
    pub used: u64,
    pub max: u64,
}

/// How full the table of pins is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinsTable {
    /// Entries in use.
    pub used: u64,
    /// Entries there is room for.
    pub max: u64,
    /// Live pins that were lost to a full table since the start; anything but 0 is an alarm.
    pub evicted: u64,
}

/// Which configuration is running.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// 1 at the start, one more with each reload that changed something.
    pub generation: u64,
    /// When it was read.
    pub loaded_at: String,
    /// Why the last reload was refused, in one line; `None`: it was not.
    pub last_error: Option<String>,
}

/// One VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// Its label.
    pub label: String,
    /// Where clients connect to.
    pub address: IpAddr,
    /// Ports, as `services.toml` writes them: `[443, "8000-8010"]`.
    pub ports: Vec<PortSpec>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What happens to its traffic.
    pub method: Method,
    /// The forwarding mode; `None` where nothing is forwarded (a redirect).
    pub mode: Option<Mode>,
    /// How long a client is remembered after its last packet; `None`: not at all.
    pub persistence_s: Option<u64>,
    /// Sums up its RIPs (a redirect's: its listeners).
    pub health: VipHealth,
    /// Connections open now.
    pub connections: u64,
    /// Its RIPs, in file order; a redirect has none.
    pub rips: Vec<RipStatus>,
}

/// Ports, as `services.toml` writes them: `443` or `"8000-8010"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortSpec {
    /// One port.
    One(u16),
    /// First and last, joined by a hyphen.
    Range(String),
}

impl From<PortRange> for PortSpec {
    fn from(range: PortRange) -> Self {
        if range.first == range.last { Self::One(range.first.get()) } else { Self::Range(range.to_string()) }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(port) => port.fmt(f),
            Self::Range(range) => range.fmt(f),
        }
    }
}

/// What happens to a VIP's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Packets are forwarded to a RIP.
    Layer4,
    /// The daemon answers with a redirect to HTTPS.
    Redirect,
}

/// A VIP's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VipHealth {
    /// Every RIP is up.
    Up,
    /// Some are.
    Degraded,
    /// None is: clients are not served.
    Down,
}

/// One RIP of a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RipStatus {
    /// Its label.
    pub label: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None`: the one the client used (a VIP of several ports).
    pub port: Option<u16>,
    /// Share of new clients, 0..=256, relative to the VIP's other RIPs.
    pub weight: u16,
    /// What the probes see.
    pub health: Health,
    /// What the operator wants: the fields `admin` and `hard`.
    #[serde(flatten)]
    pub admin: AdminView,
    /// Connections open now.
    pub connections: u64,
    /// Clients that are pinned to it now.
    pub pins: u64,
    /// What its checker knows; `None`: it is not probed.
    pub check: Option<CheckStatus>,
}

/// [`Admin`] as `status` shows it: one of three words, and whether a drain is a hard one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminView {
    /// The word.
    pub admin: AdminWord,
    /// A drain that lets only open connections go on.
    #[serde(default)]
    pub hard: bool,
}

/// The operator's three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "see `Admin`")]
pub enum AdminWord {
    Online,
    Drain,
    Halt,
}

impl From<Admin> for AdminView {
    fn from(admin: Admin) -> Self {
        let word = match admin {
            Admin::Online => AdminWord::Online,
            Admin::Drain | Admin::DrainHard => AdminWord::Drain,
            Admin::Halt => AdminWord::Halt,
        };
        Self { admin: word, hard: admin == Admin::DrainHard }
    }
}

/// What a RIP's checker knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// How long the last successful probe took.
    pub latency_us: Option<u64>,
    /// Why the last probe failed; `None`: it did not.
    pub reason: Option<String>,
    /// How long the RIP's health has been what it is.
    pub since_s: u64,
}

/// What a reload would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReport {
    /// One line per op, in the order they would be applied; empty: nothing would change.
    pub ops: Vec<String>,
    /// What the configuration was warned of.
    pub warnings: Vec<Problem>,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// The generation that runs now.
    pub generation: u64,
    /// One line per op that was applied; empty: nothing had changed.
    pub ops: Vec<String>,
    /// What the configuration was warned of.
    pub warnings: Vec<Problem>,
}

/// What became of a [`Request::SetAdmin`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminReport {
    /// Which RIP.
    pub rip: RipName,
    /// What it was.
    pub before: Admin,
    /// What it is.
    pub after: Admin,
    /// Its connections that go on.
    pub connections: u64,
    /// Clients that are pinned to it.
    pub pins: u64,
}

/// Rows of a list. A long one is sent as several pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows<T> {
    /// How many there are, shown or not.
    pub total: u64,
    /// Those shown.
    pub rows: Vec<T>,
    /// On the wire: another page follows.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
}

/// One client's pin to a RIP of a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRow {
    /// The VIP's label.
    pub vip: String,
    /// The client's address.
    pub client: IpAddr,
    /// The RIP's label.
    pub rip: String,
    /// Since it was made.
    pub age_s: u64,
    /// Since the client's last packet.
    pub idle_s: u64,
    /// Until it is forgotten, should nothing come; 0: held by an open connection.
    pub expires_in_s: u64,
}

/// How many pins were forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the name says it")]
pub struct Cleared {
    pub pins: u64,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// The VIP's label.
    pub vip: String,
    /// Where it comes from.
    pub client: IpAddr,
    /// Where it comes from.
    pub client_port: u16,
    /// The VIP's port it came to.
    pub vip_port: u16,
    /// The RIP's label.
    pub rip: String,
    /// The address the RIP sees.
    pub snat: IpAddr,
    /// The port the RIP sees.
    pub snat_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How far it is.
    pub state: FlowState,
    /// Since its last packet.
    pub idle_s: u64,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    /// Its handshake is under way.
    HalfOpen,
    /// Open.
    Established,
    /// One side has said goodbye.
    Closing,
    /// Both have, or it was reset.
    Closed,
    /// UDP knows no more than that it is there.
    Udp,
}

/// Every counter, since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// How packets left the XDP program, every verdict there is.
    pub verdicts: Vec<VerdictCounters>,
    /// Per Layer-4 VIP, in file order.
    pub vips: Vec<VipCounters>,
    /// Per redirect VIP, in file order.
    pub redirects: Vec<RedirectCounters>,
    /// What became of the clients that finished a handshake.
    #[serde(default)]
    pub pins: PinCounters,
}

/// What became of clients that finished a handshake at a VIP with persistence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinCounters {
    /// They were pinned.
    pub made: u64,
    /// They were pinned to another RIP than before, which could not take them.
    pub moved: u64,
    /// They were not pinned, for want of room: the ring alone places them.
    pub refused: u64,
}

/// One verdict's counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct VerdictCounters {
    pub name: String,
    /// What the program does with such a packet: `pass`, `drop`, `tx`, `redirect` or `aborted`.
    pub action: String,
    pub packets: u64,
    pub bytes: u64,
}

/// A label's traffic. In: from clients; out: to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Traffic {
    pub label: String,
    /// First packets of clients, retransmissions included.
    #[serde(default)]
    pub attempts: u64,
    /// Connections ever opened.
    pub connections: u64,
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
}

/// One VIP's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipCounters {
    /// The VIP's own.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Those of its RIPs, in file order.
    pub rips: Vec<Traffic>,
}

/// One redirect VIP's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectCounters {
    /// The VIP's label.
    pub label: String,
    /// Connections accepted.
    pub connections: u64,
    /// Connections closed to make room for newer ones.
    pub displaced: u64,
    /// Requests answered with a redirect.
    pub redirected: u64,
    /// Requests answered with an error (malformed, oversized, slow).
    pub refused: u64,
}

/// Which RIP a client would get, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explain {
    /// The client's address.
    pub client: IpAddr,
    /// The VIP's label.
    pub vip: String,
    /// The RIP's label; `None`: nobody would serve it.
    pub rip: Option<String>,
    /// What decides.
    pub why: Why,
    /// More, one line each.
    pub detail: Vec<String>,
    /// The client's live pin, whether it decides or not.
    pub pin: Option<PinRow>,
    /// What the ring alone would choose.
    pub ring_rip: Option<String>,
    /// Every RIP of the VIP, in file order.
    pub eligible: Vec<Eligible>,
}

/// What decides a client's RIP, first match first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// It has an open connection.
    Flow,
    /// It is remembered.
    Pin,
    /// Its address falls on this RIP's slot.
    Ring,
    /// Nothing: no RIP may take it.
    None,
}

/// Whether one RIP could take the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Eligible {
    pub rip: String,
    pub eligible: bool,
    /// Why, or why not: "up, weight 100", "down: connection refused", "halted".
    pub reason: String,
}

/// The daemon is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// Its process.
    pub pid: u32,
}

/// Why there is no better answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// Whose fault it is.
    pub kind: ErrorKind,
    /// What went wrong: one line.
    pub message: String,
    /// What may help: one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Everything that is wrong with the configuration, where that is what went wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request or the configuration is wrong.
    Invalid,
    /// It is understood and not done, for the reason given.
    Refused,
    /// There is no such VIP, RIP or client.
    NotFound,
    /// The daemon's own.
    Internal,
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// An error stops the configuration, a warning does not.
    pub severity: Severity,
    /// The file's name.
    pub file: String,
    /// 1-based; `None`: the file as a whole.
    pub line: Option<usize>,
    /// 1-based.
    pub column: Option<usize>,
    /// The key's path: `vip[0].rip[1].weight`; empty at the top level.
    pub key: String,
    /// The VIP (`MyChart`) or RIP (`MyChart/Srv_1`) that the key belongs to, where it has a label.
    #[serde(default)]
    pub name: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What would be accepted.
    pub help: Option<String>,
}

/// Rows on one page: about 200 kB of JSON, so that neither side holds a long list twice.
pub const PAGE_ROWS: usize = 1000;

impl Request {
    /// It changes what the node does, so the log says who asked for it.
    pub fn changes_state(&self) -> bool {
        match self {
            Self::Reload | Self::SetAdmin { .. } | Self::Pins(PinsRequest::Clear { .. }) | Self::Stop => true,
            Self::Pins(PinsRequest::List { .. } | PinsRequest::Show { .. }) => false,
            Self::Status | Self::Plan | Self::Flows { .. } | Self::Counters | Self::Explain { .. } => false,
        }
    }
}

/// As the log says it: labels escaped, since anyone may send any, and client addresses as their /24 or /48, unless
/// the alternate form (`{:#}`) is asked for.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => f.write_str("status"),
            Self::Plan => f.write_str("plan"),
            Self::Reload => f.write_str("reload"),
            Self::SetAdmin { rip, admin, force } => {
                let verb = match admin {
                    Admin::Online => "online",
                    Admin::Drain => "drain",
                    Admin::DrainHard => "drain --hard",
                    Admin::Halt => "halt",
                };
                write!(f, "{verb} {}", rip.to_string().escape_debug())?;
                if *force { f.write_str(" --force") } else { Ok(()) }
            }
            Self::Pins(PinsRequest::List { .. }) => f.write_str("pins list"),
            Self::Pins(PinsRequest::Show { client }) => write!(f, "pins show {}", Masked(*client, f.alternate())),
            Self::Pins(PinsRequest::Clear { scope: PinScope::Client(client) }) => {
                write!(f, "pins clear {}", Masked(*client, f.alternate()))
            }
            Self::Pins(PinsRequest::Clear { scope: PinScope::Vip(vip) }) => {
                write!(f, "pins clear --vip {}", vip.escape_debug())
            }
            Self::Pins(PinsRequest::Clear { scope: PinScope::All }) => f.write_str("pins clear --all"),
            Self::Flows { .. } => f.write_str("flows"),
            Self::Counters => f.write_str("counters"),
            Self::Explain { client, vip } => {
                write!(f, "explain {} {}", Masked(*client, f.alternate()), vip.escape_debug())
            }
            Self::Stop => f.write_str("stop"),
        }
    }
}

impl Response {
    /// The reply as the lines that go out: a long list in pages of [`PAGE_ROWS`], everything else as it is.
    pub fn pages(self) -> Box<dyn Iterator<Item = Response> + Send> {
        match self {
            Self::Pins(rows) => Box::new(rows.pages().map(Self::Pins)),
            Self::Flows(rows) => Box::new(rows.pages().map(Self::Flows)),
            other => Box::new(iter::once(other)),
        }
    }
}

impl<T> Rows<T> {
    /// The first `limit` of `rows`.
    pub fn first(mut rows: Vec<T>, limit: Option<usize>) -> Self {
        let total = rows.len() as u64;
        rows.truncate(limit.unwrap_or(usize::MAX));
        Self { total, rows, more: false }
    }

    fn pages(self) -> impl Iterator<Item = Self> {
        let mut rows = self.rows.into_iter();
        let mut first = true;
        iter::from_fn(move || {
            let page: Vec<T> = rows.by_ref().take(PAGE_ROWS).collect();
            let wanted = first || !page.is_empty();
            first = false;
            wanted.then(|| Self { total: self.total, rows: page, more: rows.len() > 0 })
        })
    }
}

impl ErrorReply {
    /// An error of one line.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None, problems: Vec::new() }
    }

    /// There is no VIP or RIP of that name. Proposes the one of `known` that was probably meant, else lists them.
    pub fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        /// More would be a page, not a hint.
        const LISTED: usize = 10;
        let known: Vec<&str> = known.into_iter().collect();
        let folded = name.to_lowercase();
        let closest = known
            .iter()
            .map(|candidate| (strsim::normalized_damerau_levenshtein(&folded, &candidate.to_lowercase()), candidate))
            .filter(|(likeness, _)| *likeness >= 0.6)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let help = match closest {
            Some((_, candidate)) => Some(format!("did you mean {candidate}?")),
            None if known.is_empty() => None,
            None if known.len() <= LISTED => Some(format!("there are: {}", known.join(", "))),
            None => Some("`epiclb status` lists them all".to_owned()),
        };
        Self { help, ..Self::new(ErrorKind::NotFound, format!("there is no {what} {}", name.escape_debug())) }
    }
}

/// `file:line:column`, as far as they are known.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
        })?;
        f.write_str(&self.file)?;
        for position in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{position}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// A client's address as far as a log may know it: /24 or /48.
struct Masked(IpAddr, bool);

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_canonical() {
            whole if self.1 => whole.fmt(f),
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                write!(f, "{a}.{b}.{c}.0/24")
            }
            IpAddr::V6(v6) => {
                let [a, b, c, ..] = v6.segments();
                write!(f, "{}/48", std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
            }
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<(Request, &'static str)> {
        let client: IpAddr = "2001:db8:7:8::9".parse().unwrap();
        let rip = RipName { vip: "V".into(), rip: "R".into() };
        vec![
            (Request::Status, r#"{"request":"status"}"#),
            (Request::Plan, r#"{"request":"plan"}"#),
            (Request::Reload, r#"{"request":"reload"}"#),
            (
                Request::SetAdmin { rip, admin: Admin::DrainHard, force: true },
                r#"{"request":"set-admin","rip":{"vip":"V","rip":"R"},"admin":"drain-hard","force":true}"#,
            ),
            (
                Request::Pins(PinsRequest::List { vip: Some("V".into()), limit: Some(3) }),
                r#"{"request":"pins","pins":"list","vip":"V","limit":3}"#,
            ),
            (
                Request::Pins(PinsRequest::Show { client }),
                r#"{"request":"pins","pins":"show","client":"2001:db8:7:8::9"}"#,
            ),
            (
                Request::Pins(PinsRequest::Clear { scope: PinScope::Client(client) }),
                r#"{"request":"pins","pins":"clear","scope":{"client":"2001:db8:7:8::9"}}"#,
            ),
            (
                Request::Pins(PinsRequest::Clear { scope: PinScope::All }),
                r#"{"request":"pins","pins":"clear","scope":"all"}"#,
            ),
            (
                Request::Flows { vip: None, client: None, limit: None },
                r#"{"request":"flows","vip":null,"client":null,"limit":null}"#,
            ),
            (Request::Counters, r#"{"request":"counters"}"#),
            (
                Request::Explain { client, vip: "V".into() },
                r#"{"request":"explain","client":"2001:db8:7:8::9","vip":"V"}"#,
            ),
            (Request::Stop, r#"{"request":"stop"}"#),
        ]
    }

    #[test]
    fn every_request_has_the_json_it_always_had() {
        for (request, json) in requests() {
            assert_eq!(serde_json::to_string(&request).unwrap(), json);
            assert_eq!(serde_json::from_str::<Request>(json).unwrap(), request);
        }
    }

    #[test]
    fn what_may_be_left_out_of_a_request_may_be_left_out() {
        let request: Request = serde_json::from_str(r#"{"request":"flows"}"#).unwrap();
        assert_eq!(request, Request::Flows { vip: None, client: None, limit: None });
        let request: Request = serde_json::from_str(r#"{"request":"pins","pins":"list"}"#).unwrap();
        assert_eq!(request, Request::Pins(PinsRequest::List { vip: None, limit: None }));
    }

    #[test]
    fn the_log_never_sees_a_whole_client_address_nor_a_control_character() {
        for (request, _) in requests() {
            assert!(!request.to_string().contains("7:8::9"), "{request}");
        }
        let clear = Request::Pins(PinsRequest::Clear { scope: PinScope::Client("::ffff:10.1.2.3".parse().unwrap()) });
        assert_eq!(clear.to_string(), "pins clear 10.1.2.0/24");
        let forged = Request::Explain { client: "10.1.2.3".parse().unwrap(), vip: "x\nINFO stop".into() };
        assert_eq!(forged.to_string(), r"explain 10.1.2.0/24 x\nINFO stop");
    }

    #[test]
    fn only_requests_that_change_something_are_said_to() {
        let changing: Vec<String> =
            requests().into_iter().filter(|(r, _)| r.changes_state()).map(|(r, _)| r.to_string()).collect();
        assert_eq!(
            changing,
            ["reload", "drain --hard V/R --force", "pins clear 2001:db8:7::/48", "pins clear --all", "stop"]
        );
    }

    #[test]
    fn a_long_list_goes_out_in_pages_and_an_empty_one_in_one() {
        let row = PinRow {
            vip: "V".into(),
            client: "10.0.0.1".parse().unwrap(),
            rip: "R".into(),
            age_s: 1,
            idle_s: 1,
            expires_in_s: 1,
        };
        let sizes = |count: usize| -> Vec<(usize, bool)> {
            Response::Pins(Rows::first(vec![row.clone(); count], None))
                .pages()
                .map(|page| match page {
                    Response::Pins(rows) => (rows.rows.len(), rows.more),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        assert_eq!(sizes(0), [(0, false)]);
        assert_eq!(sizes(PAGE_ROWS), [(PAGE_ROWS, false)]);
        assert_eq!(sizes(PAGE_ROWS + 1), [(PAGE_ROWS, true), (1, false)]);
    }

    #[test]
    fn a_limit_shortens_the_rows_and_not_the_total() {
        assert_eq!(Rows::first(vec![1, 2, 3], Some(2)), Rows { total: 3, rows: vec![1, 2], more: false });
        assert_eq!(Rows::first(vec![1, 2, 3], None).rows.len(), 3);
    }

    #[test]
    fn a_mistyped_name_is_answered_with_the_one_that_was_meant() {
        let known = ["Hyperspace", "MyChart"];
        let help = |name| ErrorReply::unknown("virtual service", name, known).help.unwrap();
        assert_eq!(help("hyperspce"), "did you mean Hyperspace?");
        assert_eq!(help("MYCHART"), "did you mean MyChart?");
        assert_eq!(help("zzz"), "there are: Hyperspace, MyChart");
        assert_eq!(ErrorReply::unknown("real server", "x\u{1b}", []).message, r"there is no real server x\u{1b}");
    }

    #[test]
    fn a_hard_drain_reads_as_a_drain_that_is_hard() {
        let json = |admin: Admin| serde_json::to_string(&AdminView::from(admin)).unwrap();
        assert_eq!(json(Admin::Online), r#"{"admin":"online","hard":false}"#);
        assert_eq!(json(Admin::Drain), r#"{"admin":"drain","hard":false}"#);
        assert_eq!(json(Admin::DrainHard), r#"{"admin":"drain","hard":true}"#);
        assert_eq!(json(Admin::Halt), r#"{"admin":"halt","hard":false}"#);
    }

    #[test]
    fn a_problem_reads_as_one_line_with_its_place() {
        let problem = Problem {
            severity: Severity::Error,
            file: "services.toml".into(),
            line: Some(12),
            column: Some(3),
            key: "vip[0].weight".into(),
            name: None,
            message: "300 is too much".into(),
            help: Some("0 to 256".into()),
        };
        assert_eq!(problem.to_string(), "error: services.toml:12:3: vip[0].weight: 300 is too much (0 to 256)");
    }
}

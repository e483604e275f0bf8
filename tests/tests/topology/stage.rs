//! What the tests share: a lab with a daemon in it, clients that check every byte, load, and the pinned maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    ops::{Deref, Range},
    path::PathBuf,
    process::Output,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::ensure;
use aya::{Pod, maps::MapData};
use epiclb::{dataplane::Table, desired::vip_identity};
use epiclb_common::{Addr, Flow, FlowKey, Pin, PinKey, maps};
use epiclb_tests::{Daemon, Lab, PATIENCE, client, page, until};
use serde_json::Value;

/// The VIP of [`services`] over IPv4, and its ports: TLS, and bare HTTP where TLS does not matter.
pub(crate) const VIP4: &str = "192.168.85.150";
/// Its twin over IPv6.
pub(crate) const VIP6: &str = "fd00:85::150";
/// The port of bare HTTP.
pub(crate) const PLAIN: u16 = 8080;
/// The default tables, for a load that leaves more closed connections behind than those of [`Stage::node_toml`] hold.
pub(crate) const DEFAULT_TABLES: &str = "[limits]\n";
/// The labels of both.
pub(crate) const LABELS: [(&str, &str); 2] = [("Web", VIP4), ("Web6", VIP6)];

/// Probes are quick, so that tests are; and patient, so that no pause of the machine takes a server down.
const HEAD: &str = "[defaults]\ncheck = { kind = \"tcp\", interval = \"1s\", timeout = \"1s\", rise = 1, fall = 3 }\n";

/// The text of one RIP: the `n`-th Hyperspace server (from 1) or, from 4 on, a MyChart server; `more` are its other
/// lines.
pub(crate) fn rip(v6: bool, n: usize, more: &str) -> String {
    let last = [200, 201, 202, 210, 211][n - 1];
    let label = server(n);
    let address = if v6 { format!("fd00:85::{last}") } else { format!("192.168.85.{last}") };
    format!("  [[vip.rip]]\n  label = \"{label}\"\n  address = \"{address}\"\n  {more}\n")
}

/// What the `n`-th server calls itself.
pub(crate) fn server(n: usize) -> &'static str {
    ["Hyperspace_Srv_1", "Hyperspace_Srv_2", "Hyperspace_Srv_3", "MyChart_Srv_1", "MyChart_Srv_2"][n - 1]
}

/// The text of one VIP.
pub(crate) fn vip(label: &str, address: &str, ports: &str, more: &str, rips: &[String]) -> String {
    format!("[[vip]]\nlabel = \"{label}\"\naddress = \"{address}\"\nports = [{ports}]\n{more}\n{}\n", rips.concat())
}

/// services.toml of these VIPs.
pub(crate) fn services(vips: &[String]) -> String {
    format!("{HEAD}{}", vips.concat())
}

/// "Web" and "Web6": the same RIPs, with weights, over both families, on 443 and [`PLAIN`].
pub(crate) fn web(weights: &[(usize, u16)], more: &str) -> String {
    let of = |(label, address): &(&str, &str)| {
        let rips: Vec<String> =
            weights.iter().map(|(n, weight)| rip(address.contains(':'), *n, &format!("weight = {weight}"))).collect();
        vip(label, address, "443, 8080", more, &rips)
    };
    services(&LABELS.iter().map(of).collect::<Vec<_>>())
}

/// [`web`] with three equal RIPs that remember clients for an hour.
pub(crate) fn three() -> String {
    web(&[(1, 100), (2, 100), (3, 100)], "persistence = \"60m\"")
}

/// The socket of bare HTTP at an address.
pub(crate) fn plain(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), PLAIN)
}

/// A lab with a daemon.
pub(crate) struct Stage {
    // Dropped in this order: the daemon takes itself down while its host is still there.
    daemon: Option<Daemon>,
    lab: Lab,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Stage {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Stage {
    /// Lays a lab, without a daemon. `None`: something is missing for it, which has been said.
    pub(crate) fn empty() -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        // A test that failed has cleaned up all the same.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self { lab: Lab::epic_or_skip()?, daemon: None, _turn: turn })
    }

    /// The same with a daemon on this configuration (`node` are lines for node.toml), once every RIP is up and its MAC
    /// is known.
    pub(crate) fn open(node: &str, services: &str) -> Option<Self> {
        let mut stage = Self::empty()?;
        stage.configure(node, services);
        stage.start();
        stage.daemon().wait_all_up(PATIENCE).unwrap();
        until("no alarm", PATIENCE, || {
            let alarms = &stage.daemon().status()?["alarms"];
            ensure!(alarms.as_array().is_some_and(Vec::is_empty), "{alarms}");
            Ok(Some(()))
        })
        .unwrap();
        Some(stage)
    }

    /// Lines for node.toml, with tables that suit a lab unless `more` has its own: the default ones take a while to
    /// lay out, and every test would wait for that.
    pub(crate) fn node_toml(&self, more: &str) -> String {
        let limits = "[limits]\nflows = 16_384\npins = 16_384\nhalf_open = 8_192\n";
        self.lab.node_toml(&[more, if more.contains("[limits]") { "" } else { limits }].join("\n"))
    }

    /// Writes both files.
    pub(crate) fn configure(&self, node: &str, services: &str) -> PathBuf {
        self.write_config(&self.node_toml(node), services).unwrap()
    }

    /// Starts the daemon on what is written.
    pub(crate) fn start(&mut self) {
        let config = self.folder().join("config");
        self.daemon = Some(Daemon::start(&self.lab, &config).unwrap());
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it has been started")
    }

    /// The daemon, to be stopped or killed.
    pub(crate) fn take_daemon(&mut self) -> Daemon {
        self.daemon.take().expect("it has been started")
    }

    /// A command that must succeed.
    pub(crate) fn does(&self, command: &str) -> String {
        let (code, text) = self.says(command);
        assert_eq!(code, 0, "epiclb {command}: {text}");
        text
    }

    /// A command's exit code and everything it says.
    pub(crate) fn says(&self, command: &str) -> (i32, String) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let Output { status, stdout, stderr } = self.daemon().cli(&words).unwrap();
        let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (status.code().expect("it ends by itself"), text)
    }

    /// The packets counted under a verdict.
    pub(crate) fn verdict(&self, name: &str) -> u64 {
        let counters = self.daemon().json(&["counters"]).unwrap();
        let verdicts = counters["verdicts"].as_array().expect("a list");
        let verdict = verdicts.iter().find(|verdict| verdict["name"] == name);
        verdict.unwrap_or_else(|| panic!("no {name}"))["packets"].as_u64().expect("a number")
    }

    /// The pins of a VIP as the CLI lists them: client -> RIP.
    pub(crate) fn pinned(&self, label: &str) -> BTreeMap<IpAddr, String> {
        let list = self.daemon().json(&["pins", "list", "--vip", label, "--limit", "0"]).unwrap();
        let row = |row: &Value| {
            let client = row["client"].as_str().expect("an address").parse().expect("an address");
            (client, row["rip"].as_str().expect("a label").to_owned())
        };
        list["rows"].as_array().expect("rows").iter().map(row).collect()
    }

    /// Asserts that every TCP segment which the clients have sent since the lab was laid (all of them to VIPs) went on
    /// to a RIP: not one SYN had to be sent again for want of a balancer, however quick the second was.
    ///
    /// Linux counts a segment once when it first leaves (`OutSegs`) and each time it is sent again (`RetransSegs`).
    pub(crate) fn nothing_was_lost(&self) {
        until("every segment of a client to be on its way to a RIP", PATIENCE, || {
            let sent = self.clients.tcp_counter("OutSegs") + self.clients.tcp_counter("RetransSegs");
            let forwarded = self.verdict("to_rip");
            ensure!(sent == forwarded, "{sent} segments sent, {forwarded} forwarded");
            Ok(Some(()))
        })
        .unwrap();
    }

    /// The addresses of the clients `range`, of the VIP's family.
    pub(crate) fn sources(&self, vip: SocketAddr, range: Range<u16>) -> Vec<IpAddr> {
        range.map(|n| self.client_for(vip.ip(), n)).collect()
    }

    /// Every client of `range` opens `times` connections and asks for a page on each. Every byte is checked, and
    /// that the client stays with one RIP. Who went where.
    pub(crate) fn visit(&self, vip: SocketAddr, range: Range<u16>, times: usize) -> Homes {
        let sources = self.sources(vip, range);
        let visit = |source: IpAddr| -> Result<String, String> {
            let mut home = None;
            for _ in 0..times {
                let rip = Session::connect(source, vip)
                    .and_then(|mut session| session.ask())
                    .map_err(|error| format!("{source} -> {vip}: {error}"))?;
                if *home.get_or_insert_with(|| rip.clone()) != rip {
                    return Err(format!("{source} went to {home:?}, then to {rip}"));
                }
            }
            Ok(home.expect("at least one visit"))
        };
        let homes: Result<Homes, String> =
            self.clients.within(|| sources.into_iter().map(|source| Ok((source, visit(source)?))).collect());
        homes.unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// The first `clients` each open `times` connections with curl, at once, and read the page over TLS. Every byte is
    /// checked, and that the client stays with one RIP. Who went where.
    pub(crate) fn visit_over_tls(&self, vip: SocketAddr, clients: u16, times: usize) -> Homes {
        let answers = client::crowd_at_once(&self.clients, self.sources(vip, 0..clients), vip, "/page", times).unwrap();
        let (page, mut homes) = (page(), Homes::new());
        for (source, answers) in answers {
            assert_eq!(answers.len(), times);
            for answer in answers {
                assert_eq!((answer.status, answer.error.as_str()), (200, ""), "{source}: {answer:?}");
                let (line, rest) = answer.body.split_once('\n').unwrap();
                assert_eq!(rest, page, "{source}");
                let rip = line.split(' ').next().unwrap();
                let home = homes.entry(source).or_insert_with(|| rip.to_owned());
                assert_eq!(home, rip, "{source} moved");
            }
        }
        assert_eq!(homes.len(), usize::from(clients));
        homes
    }

    /// Opens a connection from the `n`-th client that stays open.
    pub(crate) fn session(&self, vip: SocketAddr, n: u16) -> io::Result<Session> {
        let source = self.client_for(vip.ip(), n);
        self.clients.within(|| Session::connect(source, vip))
    }

    /// Opens one from each client of `range`, and asks once.
    pub(crate) fn sessions(&self, vip: SocketAddr, range: Range<u16>) -> Vec<Session> {
        let sources = self.sources(vip, range);
        self.clients.within(|| {
            let open = |source| {
                let mut session = Session::connect(source, vip)?;
                session.ask()?;
                Ok(session)
            };
            sources.into_iter().map(open).collect::<io::Result<_>>().unwrap()
        })
    }

    /// A pinned map, as the daemon and the program have it.
    pub(crate) fn table<K: Pod + Default, V: Pod + Default>(&self, name: &str) -> Table<K, V> {
        let path = self.bpffs().join(format!("v{}", maps::LAYOUT)).join(name);
        let data = MapData::from_pin(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Table::new(data.fd()).unwrap()
    }

    /// Makes the pins of `clients` look `age` older.
    pub(crate) fn age_pins(&self, label: &str, clients: &[IpAddr], age: Duration) {
        let pins = self.table::<PinKey, Pin>(maps::name::PINS);
        for client in clients {
            let key = PinKey { group: vip_identity(label), client: Addr::from(*client) };
            let mut pin = pins.get(&key).unwrap().unwrap_or_else(|| panic!("{client} has no pin"));
            let seen = pin.seen.checked_sub(age.as_nanos() as u64);
            pin.seen = seen.expect("the machine has been up for as long");
            pins.put(&key, &pin).unwrap();
        }
    }

    /// Makes the flows of `clients` look `age` older.
    pub(crate) fn age_flows(&self, clients: &[IpAddr], age: Duration) {
        let table = self.table::<FlowKey, Flow>(maps::name::FLOWS);
        let clients: BTreeSet<Addr> = clients.iter().copied().map(Addr::from).collect();
        let mut aged = Vec::new();
        table
            .for_each(|key, flow| {
                if clients.contains(&key.src) || clients.contains(&flow.dst) {
                    aged.push((*key, *flow));
                }
            })
            .unwrap();
        assert!(aged.len() >= clients.len() * 2, "only {} entries of {} clients", aged.len(), clients.len());
        for (key, mut flow) in aged {
            flow.seen = flow.seen.checked_sub(age.as_secs() as u32).expect("the machine has been up for as long");
            table.put(&key, &flow).unwrap();
        }
    }

    /// Waits until the last sweep has seen `connections` open flows of a VIP.
    pub(crate) fn wait_connections(&self, label: &str, connections: u64) {
        until(&format!("{connections} connections of {label}"), PATIENCE, || {
            let status = self.daemon().status()?;
            let vip = status["vips"].as_array().and_then(|vips| vips.iter().find(|vip| vip["label"] == label));
            Ok(vip.is_some_and(|vip| vip["connections"] == connections).then_some(()))
        })
        .unwrap();
    }

    /// Clients of `range` connect for as long as it lives.
    pub(crate) fn load(&self, vip: SocketAddr, range: Range<u16>) -> Load {
        self.load_within(PATIENCE, vip, range)
    }

    /// The same, of clients that give up when nothing happens for `limit`.
    pub(crate) fn load_within(&self, limit: Duration, vip: SocketAddr, range: Range<u16>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (sources, stopped) = (self.sources(vip, range), stop.clone());
        let worker = self.clients.thread(move || {
            let mut met = Met::default();
            for source in sources.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let began = Instant::now();
                met.asked += 1;
                match Session::connect_within(limit, *source, vip) {
                    Ok(mut session) => match session.ask() {
                        Ok(rip) => drop(met.homes.entry(*source).or_default().insert(rip)),
                        Err(error) => {
                            let (own, after) = (session.stream().local_addr(), began.elapsed());
                            met.failures.push(format!("{own:?} connected, and {after:?} later: {error}"));
                        }
                    },
                    Err(error) => met.failures.push(format!("{source} after {:?}: {error}", began.elapsed())),
                }
                thread::sleep(PACE.saturating_sub(began.elapsed()));
            }
            met
        });
        Load { stop, worker: Some(worker) }
    }
}

impl Drop for Stage {
    /// A failure is best told with what the packets met.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        if let Some(Ok(counters)) = self.daemon.as_ref().map(|daemon| daemon.json(&["counters"])) {
            let verdicts = counters["verdicts"].as_array().into_iter().flatten();
            for verdict in verdicts.filter(|verdict| verdict["packets"] != 0) {
                eprintln!("{}: {}", verdict["name"], verdict["packets"]);
            }
        }
        for host in self.lab.servers.iter().map(|server| &server.host).chain([&self.lab.clients]) {
            let told = TELLING.map(|name| format!("{name} {}", host.tcp_counter(name)));
            eprintln!("{}: {}", host.name(), told.join(", "));
        }
    }
}

/// Client -> RIP.
pub(crate) type Homes = BTreeMap<IpAddr, String>;

/// How many clients each RIP has.
pub(crate) fn shares(homes: &Homes) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for rip in homes.values() {
        *shares.entry(rip.as_str()).or_default() += 1;
    }
    shares
}

/// Clients that were elsewhere before, with where they were.
pub(crate) fn moved<'h>(before: &'h Homes, after: &Homes) -> Vec<(IpAddr, &'h str)> {
    let elsewhere = |(client, from): &(&IpAddr, &String)| after.get(*client).is_some_and(|to| to != *from);
    before.iter().filter(elsewhere).map(|(client, from)| (*client, from.as_str())).collect()
}

/// One TCP connection to a server, with as many requests on it as one likes.
pub(crate) struct Session {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Session {
    /// Connects; call it within the client's host.
    pub(crate) fn connect(source: IpAddr, vip: SocketAddr) -> io::Result<Self> {
        Self::connect_within(PATIENCE, source, vip)
    }

    /// The same; `limit` holds for each thing that is waited for, later too.
    fn connect_within(limit: Duration, source: IpAddr, vip: SocketAddr) -> io::Result<Self> {
        let stream = client::connect(SocketAddr::new(source, 0), vip, limit)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, rest: Vec::new() })
    }

    /// Asks for the page, checks every byte of it, and returns the RIP that gave it.
    pub(crate) fn ask(&mut self) -> io::Result<String> {
        self.send()?;
        self.hear()
    }

    pub(crate) fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(b"GET /page HTTP/1.1\r\nHost: vip\r\n\r\n")
    }

    pub(crate) fn hear(&mut self) -> io::Result<String> {
        static PAGE: LazyLock<String> = LazyLock::new(page);
        let odd = |what: &str| io::Error::other(what.to_owned());
        let head = loop {
            if let Some(at) = self.rest.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.rest.drain(..at + 4).collect();
                break String::from_utf8(head).map_err(|_| odd("a head that is no text"))?;
            }
            self.more()?;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.and_then(|text| text.parse().ok()).ok_or_else(|| odd(&head))?;
        while self.rest.len() < length {
            self.more()?;
        }
        let body = String::from_utf8(self.rest.drain(..length).collect()).map_err(|_| odd("not the page"))?;
        let (line, rest) = body.split_once('\n').ok_or_else(|| odd("not the page"))?;
        if !head.starts_with("HTTP/1.1 200 ") || rest != *PAGE {
            return Err(odd(&format!("not the page: {head}{body}")));
        }
        line.split(' ').next().map(str::to_owned).ok_or_else(|| odd("no label"))
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 8192];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.rest.extend(&chunk[..n]);
                Ok(())
            }
        }
    }
}

/// The least time between two connections of a [`Load`], so that a quick machine is not a flood.
const PACE: Duration = Duration::from_millis(1);

/// Clients that connect again and again.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<Met>>,
}

/// What came of a load.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) asked: usize,
    pub(crate) failures: Vec<String>,
    pub(crate) homes: BTreeMap<IpAddr, BTreeSet<String>>,
}

impl Load {
    /// Ends it: what came of it.
    pub(crate) fn end(mut self) -> Met {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.take().expect("ended once").join().expect("clients do not panic")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Met {
    /// Asserts that all were served, and at least `least` of them.
    pub(crate) fn all_served(&self, least: usize) {
        let Self { asked, failures, .. } = self;
        assert!(failures.is_empty(), "{} of {asked} failed: {:?}", failures.len(), &failures[..failures.len().min(5)]);
        assert!(*asked >= least, "only {asked} connections: no load");
    }

    /// Clients that met more than one RIP.
    pub(crate) fn restless(&self) -> Vec<(&IpAddr, &BTreeSet<String>)> {
        self.homes.iter().filter(|(_, rips)| rips.len() > 1).collect()
    }
}

/// Counters that say why a kernel has given a connection up.
const TELLING: [&str; 8] = [
    "EstabResets",
    "OutRsts",
    "InCsumErrors",
    "EmbryonicRsts",
    "ListenDrops",
    "TCPAbortOnData",
    "TCPAbortOnClose",
    "TCPChallengeACK",
];

/// How long the machine has been up: pins can't be made to look older than that.
pub(crate) fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("/proc/uptime");
    Duration::from_secs_f64(seconds)
}

//! The kernel does what `netlink` and `guard` say it does, on real veth pairs in network namespaces.
//!
//! Each test has its own pair of namespaces without names: they vanish with the threads that hold them, also after a
//! panic. Needs root, iproute2 and nftables.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use epiclb::{
    guard::{self, Installed},
    netlink::{
        Address, Mac, Neighbour, NeighbourState, NetEvent, Netlink, Path, Route, interface_for,
        resolve::{Hop, Probe, ProbeKind, Resolver},
        subscribe,
    },
};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::socket::{AddressFamily, Shutdown, SockFlag, SockProtocol, SockType, shutdown, socket},
};

const LB4: &str = "192.0.2.1";
const PEER4: &str = "192.0.2.2";
const VIP4: &str = "192.0.2.150";
const LB6: &str = "fd00::1";
const PEER6: &str = "fd00::2";
const VIP6: &str = "fd00::150";
const PEER_MAC: &str = "02:00:00:00:00:02";

/// Ends a wait that has failed; proves nothing about speed.
const PATIENCE: Duration = seconds(60);
/// How many questions it may take to find out one server's MAC. Two do: one that the old MAC leaves unanswered, and a
/// broadcast; the others are for a machine that stalls. When each is asked is proved in the resolver's own tests, whose
/// time is passed in.
const QUESTIONS: usize = 6;

#[test]
fn addresses_are_added_recognised_as_ours_and_removed() {
    in_lab(async |lab| {
        let (net, lb0) = (Netlink::open().unwrap(), lab.ifindex);
        ip("addr add 192.0.2.77/32 dev lb0");
        for (vip, prefix_len) in [(addr(VIP4), 32), (addr(VIP6), 128)] {
            assert!(net.add_address(lb0, vip).await.unwrap(), "{vip}");
            assert!(!net.add_address(lb0, vip).await.unwrap(), "{vip} is there already");
            // A handle that has never heard of it, as after a restart.
            let addresses = Netlink::open().unwrap().addresses().await.unwrap();
            assert!(addresses.contains(&Address { ifindex: lb0, ip: vip, prefix_len, ours: true }), "{addresses:?}");
            assert_eq!(interface_for(vip, &[1, lb0], &addresses), Some(lb0));
        }
        let addresses = net.addresses().await.unwrap();
        let ours: Vec<_> = addresses.iter().filter(|a| a.ours).map(|a| a.ip).collect();
        assert_eq!(ours, [addr(VIP4), addr(VIP6)]);
        assert!(!net.add_address(lb0, addr("192.0.2.77")).await.unwrap(), "the operator's own");
        assert!(addresses.contains(&Address { ifindex: lb0, ip: addr("192.0.2.77"), prefix_len: 32, ours: false }));

        for vip in [addr(VIP4), addr(VIP6)] {
            assert!(net.remove_address(lb0, vip).await.unwrap());
            assert!(!net.remove_address(lb0, vip).await.unwrap(), "{vip} is gone already");
        }
        assert!(!net.addresses().await.unwrap().iter().any(|a| a.ours));
        let refused = async |ifindex, ip| net.add_address(ifindex, ip).await.unwrap_err().to_string();
        assert_eq!(refused(999, addr(VIP4)).await, "adding 192.0.2.150 to interface 999: No such device (os error 19)");
        std::fs::write("/proc/sys/net/ipv6/conf/lb0/disable_ipv6", "1").unwrap();
        assert!(refused(lb0, addr(VIP6)).await.contains("disable_ipv6"));
    });
}

#[test]
fn the_host_never_sends_from_a_vip_that_was_added() {
    in_lab(async |lab| {
        let net = Netlink::open().unwrap();
        for (vip, peer, own) in [(VIP4, PEER4, LB4), (VIP6, PEER6, LB6)] {
            net.add_address(lab.ifindex, addr(vip)).await.unwrap();
            let socket = UdpSocket::bind(SocketAddr::new(unspecified(peer), 0)).unwrap();
            socket.connect(SocketAddr::new(addr(peer), 9)).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), addr(own));
        }
    });
}

#[test]
fn routes_are_on_link_through_a_gateway_local_or_missing() {
    in_lab(async |lab| {
        let net = Netlink::open().unwrap();
        ip("route add 198.51.100.0/24 via 192.0.2.2");
        ip("route add 2001:db8::/32 via fd00::2");
        ip("route add unreachable 203.0.113.0/25");
        ip("route add blackhole 203.0.113.128/26");
        ip("route add prohibit 203.0.113.192/26");
        ip("route add unreachable 2001:db8:1::/48");
        let via = |gateway: Option<&str>, source: &str| {
            Path::Via(Route { ifindex: lab.ifindex, gateway: gateway.map(addr), source: Some(addr(source)) })
        };
        for (destination, path) in [
            (PEER4, via(None, LB4)),
            (PEER6, via(None, LB6)),
            ("198.51.100.7", via(Some(PEER4), LB4)),
            ("2001:db8::7", via(Some(PEER6), LB6)),
            (LB4, Path::Local),
            (LB6, Path::Local),
            ("192.0.2.255", Path::Unreachable),
            ("8.8.8.8", Path::Unreachable),
            ("2001:4860::8", Path::Unreachable),
            ("203.0.113.1", Path::Unreachable),
            ("203.0.113.129", Path::Unreachable),
            ("203.0.113.193", Path::Unreachable),
            ("2001:db8:1::1", Path::Unreachable),
        ] {
            assert_eq!(net.route(addr(destination)).await.unwrap(), path, "{destination}");
        }
    });
}

#[test]
fn links_tell_their_mac_state_and_carrier() {
    in_lab(async |lab| {
        let net = Netlink::open().unwrap();
        let link = net.links().await.unwrap().remove(&lab.ifindex).unwrap();
        assert_eq!((link.name.as_str(), link.mtu, link.up, link.carrier), ("lb0", 1500, true, true));
        assert_eq!((link.mac, link.xdp), (mac("02:00:00:00:00:01"), None));
        lab.peer(|| ip("link set peer0 down"));
        let link = net.links().await.unwrap().remove(&lab.ifindex).unwrap();
        assert_eq!((link.up, link.carrier), (true, false));
    });
}

#[test]
fn a_neighbour_is_resolved_without_traffic() {
    in_lab(async |lab| {
        for peer in [addr(PEER4), addr(PEER6)] {
            let (net, mut events) = (Netlink::open().unwrap(), subscribe().unwrap());
            assert!(net.neighbours().await.unwrap().iter().all(|n| n.ip != peer || n.mac.is_none()));
            net.probe(&Probe { ifindex: lab.ifindex, ip: peer, kind: ProbeKind::Resolve }).await.unwrap();
            let known = Neighbour {
                ifindex: lab.ifindex,
                ip: peer,
                mac: Some(mac(PEER_MAC)),
                state: NeighbourState::Reachable,
            };
            within_patience(async { while events.recv().await.unwrap() != NetEvent::Neighbour(known.clone()) {} })
                .await;
            assert!(net.neighbours().await.unwrap().contains(&known));
        }
    });
}

#[test]
fn a_silent_change_of_a_servers_mac_is_noticed_by_the_resolvers_own_questions() {
    in_lab(async |lab| {
        let servers = [addr(PEER4), addr(PEER6)];
        let mut follower = Follower::new(lab.ifindex, &servers).await;
        let asked = follower.until(&servers, mac(PEER_MAC)).await;
        assert!(asked <= QUESTIONS * servers.len(), "{asked}");
        // Several rounds hit the confirmation cycle at several phases.
        for (round, wait) in [0_u64, 700, 1900, 2900].into_iter().enumerate() {
            follower.run(Instant::now() + Duration::from_millis(wait)).await;
            let new = format!("02:00:00:00:01:{round:02x}");
            lab.peer(|| change_mac_silently(&new));
            let asked = follower.until(&servers, mac(&new)).await;
            println!("round {round}: noticed after {asked} questions");
            assert!(asked <= QUESTIONS * servers.len(), "{asked}");
        }
    });
}

#[test]
fn an_announced_change_of_a_servers_mac_is_noticed_without_a_question() {
    in_lab(async |lab| {
        let servers = [addr(PEER4), addr(PEER6)];
        let mut follower = Follower::new(lab.ifindex, &servers).await;
        follower.until(&servers, mac(PEER_MAC)).await;
        // The kernel believes no second change of an ARP entry within `locktime`, one second.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let new = "02:00:00:00:02:02";
        lab.peer(|| {
            change_mac_silently(new);
            runtime().block_on(async {
                let net = Netlink::open().unwrap();
                let peer0 = ifindex_of(&net, "peer0").await;
                net.announce(&servers.map(|ip| (peer0, ip))).await.unwrap();
            });
        });
        within_patience(async {
            while !follower.all_at(&servers, mac(new)) {
                follower.listen().await;
            }
        })
        .await;
    });
}

#[test]
fn an_administrators_neighbour_entry_stays_one() {
    in_lab(async |lab| {
        let entry = "02:00:00:00:03:03";
        ip(&format!("neigh add {PEER4} lladdr {entry} nud permanent dev lb0"));
        let servers = [addr(PEER4)];
        let mut follower = Follower::new(lab.ifindex, &servers).await;
        assert!(follower.all_at(&servers, mac(entry)), "it needs no question");
        assert_eq!(follower.run(Instant::now() + seconds(4)).await, 0, "nor does it later");
        let known = follower.net.neighbours().await.unwrap().into_iter().find(|n| n.ip == servers[0]).unwrap();
        assert_eq!((known.mac, known.state), (Some(mac(entry)), NeighbourState::Static));
    });
}

#[test]
fn a_moved_vip_reaches_the_peers_neighbour_table_by_its_announcement() {
    in_lab(async |lab| {
        // The peer has learnt the VIP at another machine's MAC.
        lab.peer(|| {
            ip("neigh add 192.0.2.150 lladdr 02:00:00:00:00:99 nud stale dev peer0");
            ip("neigh add fd00::150 lladdr 02:00:00:00:00:99 nud stale dev peer0");
        });
        let net = Netlink::open().unwrap();
        let vips = [addr(VIP4), addr(VIP6)].map(|vip| (lab.ifindex, vip));
        for (ifindex, vip) in vips {
            net.add_address(ifindex, vip).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1100)).await; // `locktime`, as above
        net.announce(&vips).await.unwrap();
        let known = lab.peer(|| runtime().block_on(async { Netlink::open().unwrap().neighbours().await.unwrap() }));
        for (_, vip) in vips {
            let macs: Vec<_> = known.iter().filter(|n| n.ip == vip).map(|n| n.mac).collect();
            assert_eq!(macs, [Some(mac("02:00:00:00:00:01"))], "{vip}");
        }
        let error = net.announce(&[(999, addr(VIP4)), vips[0]]).await.unwrap_err().to_string();
        assert!(error.contains("announcing 192.0.2.150 on interface 999"), "{error}");
    });
}

#[test]
fn changes_of_links_addresses_and_routes_are_told() {
    in_lab(async |lab| {
        let mut events = subscribe().unwrap();
        let mut told = async |wanted: NetEvent| {
            within_patience(async { while events.recv().await.unwrap() != wanted {} }).await;
        };
        Netlink::open().unwrap().add_address(lab.ifindex, addr(VIP4)).await.unwrap();
        told(NetEvent::Address).await;
        ip("route add 198.51.100.0/24 via 192.0.2.2");
        told(NetEvent::Route).await;
        lab.peer(|| ip("link set peer0 down"));
        told(NetEvent::Link).await;
    });
}

#[test]
fn a_flood_of_changes_ends_in_an_overrun_and_the_stream_goes_on() {
    in_lab(async |lab| {
        let mut events = subscribe().unwrap();
        // More distinct neighbours than the queue holds, while nobody listens.
        let entries: String = (0..3000)
            .map(|n| format!("neigh add 10.0.{}.{} lladdr {PEER_MAC} nud permanent dev lb0\n", n / 250, n % 250 + 1))
            .collect();
        let mut child = Command::new("ip").args(["-batch", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(entries.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        within_patience(async { while events.recv().await.unwrap() != NetEvent::Overrun {} }).await;
        let net = Netlink::open().unwrap();
        within_patience(async {
            // An overrun stands for whatever else came with it, so a change may have to be made again.
            loop {
                net.add_address(lab.ifindex, addr(VIP4)).await.unwrap();
                let told = async { while events.recv().await.unwrap() != NetEvent::Address {} };
                if tokio::time::timeout(seconds(1), told).await.is_ok() {
                    break;
                }
                net.remove_address(lab.ifindex, addr(VIP4)).await.unwrap();
            }
        })
        .await;
    });
}

#[test]
fn the_guard_keeps_the_host_silent_on_a_vip_but_for_redirects_and_ping() {
    in_lab(async |lab| {
        let net = Netlink::open().unwrap();
        for (vip, own) in [(VIP4, LB4), (VIP6, LB6)] {
            let (vip, own) = (addr(vip), addr(own));
            net.add_address(lab.ifindex, vip).await.unwrap();
            let at = |port| SocketAddr::new(vip, port);
            let _redirect = serve(at(80));
            let _other = serve(at(8080));
            // Without the guard the host answers for the VIP: a RST, or whatever else listens there.
            assert!(lab.peer(|| eventually(|| connect(at(443)) == Outcome::Reset)));
            assert!(lab.peer(|| eventually(|| connect(at(8080)) == Outcome::Answered)));
            assert!(lab.peer(|| eventually(|| icmp_refuses_udp(at(53)))));

            let spec = guard::Spec::new([vip], [at(80)]);
            guard::install(&spec).unwrap();
            assert_eq!(guard::installed().unwrap(), Installed::Intact(spec.clone()));
            assert_eq!(lab.peer(|| connect(at(443))), Outcome::Silence);
            assert_eq!(lab.peer(|| connect(at(8080))), Outcome::Silence);
            assert!(!lab.peer(|| icmp_refuses_udp(at(53))));
            assert!(lab.peer(|| eventually(|| connect(at(80)) == Outcome::Answered)), "the redirect port");
            assert!(lab.peer(|| eventually(|| ping(vip))), "ping works");
            assert_eq!(connect(at(8080)), Outcome::Answered, "this machine's own traffic");
            let own_refuses = || connect(SocketAddr::new(own, 443)) == Outcome::Reset;
            assert!(lab.peer(|| eventually(own_refuses)), "the host's own address");

            guard::install(&spec).unwrap();
            assert_eq!(guard::installed().unwrap(), Installed::Intact(spec), "installing again replaces");
            guard::remove().unwrap();
            guard::remove().unwrap();
            assert_eq!(guard::installed().unwrap(), Installed::Missing);
            assert!(lab.peer(|| eventually(|| connect(at(443)) == Outcome::Reset)), "removal restores");
        }
    });
}

#[test]
fn the_guard_tells_when_somebody_edits_it_and_never_switches_conntrack_on() {
    in_lab(async |lab| {
        let spec = guard::Spec::new([addr(VIP4)], []);
        guard::install(&spec).unwrap();
        let tracked = || {
            lab.peer(|| icmp_refuses_udp(SocketAddr::new(addr(LB4), 53)));
            std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap().trim().to_owned()
        };
        assert_eq!(tracked(), "0");
        // The control: any table that asks for it switches it on.
        run("nft", "add table inet other");
        run("nft", "add chain inet other input { type filter hook input priority 0; }");
        run("nft", "add rule inet other input ct state new accept");
        assert_ne!(tracked(), "0");
        run("nft", "add element inet epiclb guarded4 { 192.0.2.151 }");
        let wider = guard::Spec::new([addr(VIP4), addr("192.0.2.151")], []);
        assert_eq!(guard::installed().unwrap(), Installed::Intact(wider), "another set is another specification");
        run("nft", "insert rule inet epiclb guarded accept");
        assert_eq!(guard::installed().unwrap(), Installed::Altered);
        guard::install(&spec).unwrap();
        assert_eq!(guard::installed().unwrap(), Installed::Intact(spec));
    });
}

#[test]
fn a_guard_of_thousands_of_addresses_is_one_quick_transaction() {
    in_lab(async |_| {
        let vips: Vec<IpAddr> = (0..5000_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect();
        let redirects = vips.iter().map(|&vip| SocketAddr::new(vip, 80));
        let spec = guard::Spec::new(vips.iter().copied(), redirects);
        let start = Instant::now();
        guard::install(&spec).unwrap();
        println!("installed after {:?}", start.elapsed());
        assert_eq!(guard::installed().unwrap(), Installed::Intact(spec));
        println!("read back after {:?}", start.elapsed());
        assert!(start.elapsed() < seconds(10));
    });
}

/// What the daemon will do with the resolver, in small.
struct Follower {
    net: Netlink,
    events: tokio::sync::mpsc::Receiver<NetEvent>,
    resolver: Resolver,
    ifindex: u32,
}

impl Follower {
    async fn new(ifindex: u32, servers: &[IpAddr]) -> Self {
        let (net, events) = (Netlink::open().unwrap(), subscribe().unwrap());
        let mut resolver = Resolver::default();
        let mut paths = std::collections::BTreeMap::new();
        for &server in servers {
            paths.insert(server, net.route(server).await.unwrap());
        }
        resolver.sync(net.neighbours().await.unwrap(), Instant::now());
        resolver.want(paths, Instant::now());
        Self { net, events, resolver, ifindex }
    }

    fn all_at(&self, servers: &[IpAddr], mac: Mac) -> bool {
        let wanted = Hop::Known { ifindex: self.ifindex, mac };
        servers.iter().all(|&server| self.resolver.hop(server) == wanted)
    }

    /// Runs until every server has the MAC; says how many questions that took.
    async fn until(&mut self, servers: &[IpAddr], mac: Mac) -> usize {
        let end = Instant::now() + PATIENCE;
        let mut asked = 0;
        while !self.all_at(servers, mac) {
            assert!(Instant::now() < end, "{:?}", self.resolver);
            asked += self.step(end).await;
        }
        asked
    }

    async fn run(&mut self, end: Instant) -> usize {
        let mut asked = 0;
        while Instant::now() < end {
            asked += self.step(end).await;
        }
        asked
    }

    /// Asks what is due, then waits for something to happen; says how many questions that were.
    async fn step(&mut self, end: Instant) -> usize {
        let probes = self.resolver.probes(Instant::now());
        for probe in &probes {
            self.net.probe(probe).await.unwrap();
        }
        let wake = self.resolver.next_due().map_or(end, |due| due.min(end));
        // A stalled machine owes the answers that have come already before it owes the next question.
        tokio::select! {
            biased;
            () = self.listen() => {}
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        probes.len()
    }

    /// Takes in what the kernel tells next, without asking anything.
    async fn listen(&mut self) {
        if let NetEvent::Neighbour(neighbour) = self.events.recv().await.unwrap() {
            self.resolver.heard(neighbour, Instant::now());
        }
    }
}

/// Two namespaces with a cable between them: the test's own thread is in the balancer's, with `lb0`; the other end is
/// `peer0`.
struct Lab {
    /// Of `lb0`.
    ifindex: u32,
    peer: File,
}

impl Lab {
    /// Runs something in the peer's namespace.
    fn peer<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.peer, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Runs `test` in a fresh lab, on a thread and a runtime of its own.
fn in_lab(test: impl AsyncFnOnce(&Lab) + Send) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "this test needs root");
        eprintln!("SKIPPED: this test needs root, to make network namespaces");
        return;
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (sender, receiver) = mpsc::channel();
            thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                sender.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            });
            let peer = receiver.recv().unwrap();
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut lab = Lab { ifindex: 0, peer };
            // The peer's half is made there and moved here: this thread's namespace is easy to name.
            let here = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            lab.peer(|| {
                ip(&format!(
                    "link add peer0 address {PEER_MAC} type veth peer name lb0 address 02:00:00:00:00:01 netns {here}"
                ));
                settle("peer0", PEER4, PEER6);
            });
            settle("lb0", LB4, LB6);
            runtime().block_on(async {
                lab.ifindex = ifindex_of(&Netlink::open().unwrap(), "lb0").await;
                test(&lab).await;
            });
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn settle(link: &str, v4: &str, v6: &str) {
    // Without it the first two seconds belong to duplicate address detection, and nothing is resolved.
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_dad"), "0").unwrap();
    ip("link set lo up");
    ip(&format!("link set {link} up"));
    ip(&format!("addr add {v4}/24 dev {link}"));
    ip(&format!("addr add {v6}/64 dev {link} nodad"));
}

/// A new MAC without the gratuitous ARP and the unsolicited advertisements that the kernel may send.
fn change_mac_silently(mac: &str) {
    run("nft", "add table netdev mute");
    run("nft", "add chain netdev mute out { type filter hook egress device peer0 priority 0; policy drop; }");
    ip(&format!("link set peer0 address {mac}"));
    thread::sleep(Duration::from_millis(50));
    run("nft", "delete table netdev mute");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn ifindex_of(net: &Netlink, name: &str) -> u32 {
    net.links().await.unwrap().into_values().find(|link| link.name == name).unwrap().ifindex
}

fn ip(arguments: &str) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether an echo request is answered within two seconds.
fn ping(ip: IpAddr) -> bool {
    // The first is a whole message; the kernel fills in the checksum of the second. What comes in starts with the IP
    // header in IPv4 only.
    let (family, protocol, request, reply_at, reply) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, [8, 0, 0xf7, 0xff, 0, 0, 0, 0], 20, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, [128, 0, 0, 0, 0, 0, 0, 0], 0, 129),
    };
    let socket = UdpSocket::from(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap());
    socket.connect(SocketAddr::new(ip, 0)).unwrap();
    socket.set_read_timeout(Some(seconds(2))).unwrap();
    socket.send(&request).unwrap();
    let mut packet = [0; 64];
    while socket.recv(&mut packet).is_ok() {
        if packet[reply_at] == reply {
            return true;
        }
    }
    false
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    Reset,
    Silence,
}

/// A listener that says one byte to everybody, until it is dropped.
struct Server(TcpListener);

fn serve(at: SocketAddr) -> Server {
    let listener = TcpListener::bind(at).unwrap();
    let ear = listener.try_clone().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = ear.accept() {
            let _ = stream.write_all(b"x");
        }
    });
    Server(listener)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

fn connect(to: SocketAddr) -> Outcome {
    match TcpStream::connect_timeout(&to, Duration::from_millis(700)) {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(seconds(2))).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            Outcome::Answered
        }
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Outcome::Reset,
        Err(e) if e.kind() == ErrorKind::TimedOut => Outcome::Silence,
        Err(e) => panic!("{to}: {e}"),
    }
}

/// What must come may take a while on a busy machine: the kernel looks for duplicates of a new link-local address, and
/// limits its ICMP errors.
fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > end {
            return false;
        }
    }
    true
}

fn icmp_refuses_udp(to: SocketAddr) -> bool {
    let socket = UdpSocket::bind(SocketAddr::new(unspecified(&to.ip().to_string()), 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.send(b"x").unwrap();
    socket.recv(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

async fn within_patience(work: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, work).await.expect("in time");
}

const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn unspecified(like: &str) -> IpAddr {
    if addr(like).is_ipv4() { addr("0.0.0.0") } else { addr("::") }
}

fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

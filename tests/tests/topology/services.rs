//! Services of other shapes: UDP, port ranges, RIPs with ports of their own, shared servers, SNAT addresses.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use epiclb_tests::{Host, PATIENCE, until};

use crate::stage::{LABELS, Stage, VIP4, VIP6, plain, rip, server, services, shares, three, vip, web};

const REMEMBER: &str = "persistence = \"60m\"";

/// Answers each datagram with its own bytes behind a label.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(host: &Host, at: SocketAddr, label: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, label) = (stop.clone(), label.as_bytes().to_owned());
        let socket = host.within(|| UdpSocket::bind(at)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let answer = [&label, b" ".as_slice(), &buffer[..length]].concat();
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Sends `times` datagrams from one socket; who answered them all, byte-exact.
fn udp(source: IpAddr, vip: SocketAddr, times: usize) -> io::Result<BTreeSet<String>> {
    let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(vip)?;
    let mut answers = BTreeSet::new();
    for n in 0..times {
        // Of many lengths, odd ones too: checksums.
        let sent = vec![b'a' + (n % 26) as u8; 1 + n * 37 % 1400];
        socket.send(&sent)?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer)?;
        let at = buffer.iter().position(|byte| *byte == b' ').ok_or(io::ErrorKind::InvalidData)?;
        if buffer[at + 1..length] != sent {
            return Err(io::ErrorKind::InvalidData.into());
        }
        answers.insert(String::from_utf8_lossy(&buffer[..at]).into_owned());
    }
    Ok(answers)
}

#[test]
fn udp_is_balanced_over_both_families_and_both_modes() {
    for mode in ["native", "generic"] {
        let unchecked = "protocol = \"udp\"\npersistence = \"60m\"\ncheck = { kind = \"none\" }";
        let of = |(label, address): (&str, &str)| {
            let v6 = address.contains(':');
            vip(label, address, "5353", unchecked, &[rip(v6, 1, ""), rip(v6, 2, ""), rip(v6, 3, "port = 6000")])
        };
        let text = services(&LABELS.map(of));
        let Some(stage) = Stage::open(&format!("xdp_mode = \"{mode}\""), &text) else { return };
        let mut echoes = Vec::new();
        for n in 1..=3 {
            let machine = stage.server(server(n));
            let port = if n == 3 { 6000 } else { 5353 };
            for address in [IpAddr::from(machine.address), machine.address6.into()] {
                echoes.push(Echo::start(&machine.host, SocketAddr::new(address, port), server(n)));
            }
        }
        for (label, address) in LABELS {
            let vip = SocketAddr::new(address.parse().unwrap(), 5353);
            let sources = stage.sources(vip, 0..60);
            let homes: Vec<_> = stage
                .clients
                .within(|| sources.iter().map(|source| (*source, udp(*source, vip, 20).unwrap())).collect());
            let met: BTreeSet<_> = homes.iter().flat_map(|(_, answers)| answers.clone()).collect();
            assert_eq!(met.len(), 3, "{mode} {label}: {met:?}");
            assert!(homes.iter().all(|(_, answers)| answers.len() == 1), "{mode} {label}");
            // Another socket of the same client meets the same server.
            stage.clients.within(|| {
                for (source, answers) in &homes {
                    assert_eq!(udp(*source, vip, 2).unwrap(), *answers, "{mode} {label}");
                }
            });
            assert_eq!(stage.pinned(label).len(), 60);
        }
    }
}

#[test]
fn a_range_of_ports_and_a_rip_with_a_port_of_its_own() {
    let ranges = |(label, address): (&str, &str)| {
        let v6 = address.contains(':');
        let rips = [rip(v6, 1, "port = 8080"), rip(v6, 2, "port = 80")];
        vip(label, address, "443, \"8075-8085\", 9000", REMEMBER, &rips)
    };
    let Some(stage) = Stage::open("", &services(&LABELS.map(ranges))) else { return };
    for (_, address) in LABELS {
        let mut all = Vec::new();
        for port in [443, 8075, 8080, 8085, 9000] {
            all.push(stage.visit(SocketAddr::new(address.parse().unwrap(), port), 0..20, 1));
        }
        assert!(all.iter().all(|homes| *homes == all[0]), "one client, one server, whatever the port");
        assert_eq!(shares(&all[0]).len(), 2);
        for port in [8074, 8086] {
            let refused = stage.clients.within(|| {
                let source = SocketAddr::new(stage.client_for(address.parse().unwrap(), 0), 0);
                let to = SocketAddr::new(address.parse().unwrap(), port);
                epiclb_tests::client::connect(source, to, Duration::from_millis(150))
            });
            assert!(refused.is_err(), "{port}");
        }
    }
}

/// The source addresses that a server has seen since line `from` of its log, but for those that asked it directly.
fn seen(stage: &Stage, n: usize, from: usize) -> BTreeSet<IpAddr> {
    let log = stage.server(server(n)).access_log().unwrap();
    log[from..].iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn servers_see_the_vips_address_unless_node_toml_names_others() {
    let one = web(&[(1, 100)], REMEMBER);
    let Some(stage) = Stage::open("", &one) else { return };
    stage.visit(plain(VIP4), 0..20, 1);
    stage.visit(plain(VIP6), 0..20, 1);
    assert_eq!(seen(&stage, 1, 0), [VIP4, VIP6].map(|vip| vip.parse().unwrap()).into());

    let lines = stage.server(server(1)).access_log().unwrap().len();
    let mut sessions = stage.sessions(plain(VIP4), 30..40);
    let own = ["192.168.85.20", "192.168.85.21", "fd00:85::20"];
    stage.configure(&format!("snat = {own:?}"), &one);
    stage.does("reload");
    stage.visit(plain(VIP4), 0..40, 1);
    stage.visit(plain(VIP6), 0..40, 1);
    assert_eq!(seen(&stage, 1, lines + 10), own.map(|ip| ip.parse().unwrap()).into());
    sessions.iter_mut().for_each(|session| drop(session.ask().unwrap()));
}

#[test]
fn the_hosts_own_address_serves_as_snat_address_beside_its_own_connections() {
    let one = web(&[(1, 100)], REMEMBER);
    let Some(stage) = Stage::open("snat = [\"192.168.85.10\", \"fd00:85::10\"]", &one) else { return };
    let mut sessions = stage.sessions(plain(VIP4), 0..200);
    stage.visit(plain(VIP6), 0..50, 1);
    assert_eq!(seen(&stage, 1, 0), ["192.168.85.10", "fd00:85::10"].map(|ip| ip.parse().unwrap()).into());
    // Connections of the host itself, to the same server and port.
    let to = SocketAddr::new(stage.server(server(1)).address.into(), 8080);
    let own = "192.168.85.10".parse().unwrap();
    stage.lb1.within(|| {
        for _ in 0..300 {
            let answer = epiclb_tests::client::get(own, to, "/whoami").unwrap();
            assert!(answer.contains("192.168.85.10 "), "{answer}");
        }
    });
    sessions.iter_mut().for_each(|session| drop(session.ask().unwrap()));
    assert!(stage.daemon().rip(&format!("Web/{}", server(1))).unwrap()["health"] == "up");
    let ports = |range: &str| -> Vec<u32> { range.split_whitespace().map(|word| word.parse().unwrap()).collect() };
    let taken = ports(&stage.lb1.run("cat /proc/sys/net/ipv4/ip_local_port_range").unwrap());
    let flows = stage.daemon().json(&["flows", "--limit", "0"]).unwrap();
    for row in flows["rows"].as_array().unwrap() {
        let port = row["snat_port"].as_u64().unwrap() as u32;
        assert!(!(taken[0]..=taken[1]).contains(&port), "{port} is the host's");
    }
}

#[test]
fn health_checks_come_from_the_hosts_own_address_and_are_no_flows() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let host = &stage.server(server(1)).host;
    let checks = host.count_packets("prerouting", "ip saddr 192.168.85.10 tcp dport 443 tcp flags syn").unwrap();
    let checks6 = host.count_packets("prerouting", "ip6 saddr fd00:85::10 tcp dport 443 tcp flags syn").unwrap();
    let as_vip = host.count_packets("prerouting", &format!("ip saddr {VIP4} tcp flags syn")).unwrap();
    until("checks", PATIENCE, || Ok((checks.hits()? > 2 && checks6.hits()? > 2).then_some(()))).unwrap();
    assert_eq!(as_vip.hits().unwrap(), 0);
    assert_eq!(stage.daemon().json(&["flows"]).unwrap()["total"], 0);
    assert_eq!(stage.verdict("to_rip"), 0);
}

#[test]
fn two_services_share_a_server_and_one_of_them_may_be_halted_alone() {
    let second = vip("Second", "192.168.85.152", "8080", REMEMBER, &[rip(false, 1, ""), rip(false, 2, "")]);
    let first = vip("Web", VIP4, "8080", REMEMBER, &[rip(false, 1, ""), rip(false, 2, "")]);
    let Some(stage) = Stage::open("", &services(&[first, second])) else { return };
    let other = plain("192.168.85.152");
    let web = stage.visit(plain(VIP4), 0..40, 1);
    let homes = stage.visit(other, 0..40, 1);
    let mut sessions = stage.sessions(other, 0..40);
    stage.does(&format!("halt Web/{}", server(1)));
    assert_eq!(shares(&stage.visit(plain(VIP4), 0..40, 1)).into_keys().collect::<Vec<_>>(), [server(2)]);
    assert_ne!(shares(&web).len(), 1);
    assert_eq!(stage.visit(other, 0..40, 1), homes);
    for (session, home) in sessions.iter_mut().zip(homes.values()) {
        assert_eq!(session.ask().unwrap(), *home);
    }
}

#[test]
fn a_client_on_the_servers_own_network_is_served_too() {
    let Some(stage) = Stage::open("", &three()) else { return };
    stage.near.within(|| {
        for (_, address) in LABELS {
            let source = if address.contains(':') { "fd00:85::100" } else { "192.168.85.100" };
            let mut session = crate::stage::Session::connect(source.parse().unwrap(), plain(address)).unwrap();
            let home = session.ask().unwrap();
            assert_eq!(session.ask().unwrap(), home);
        }
    });
}

#[test]
fn explain_says_what_happens() {
    let Some(stage) = Stage::open("", &three()) else { return };
    for (label, address) in LABELS {
        let client = stage.client_for(address.parse().unwrap(), 7);
        let explain = || {
            let told = stage.daemon().json(&["explain", &client.to_string(), label]).unwrap();
            (told["rip"].as_str().unwrap().to_owned(), told["why"].as_str().unwrap().to_owned())
        };
        let (foretold, why) = explain();
        assert_eq!(why, "ring");
        let mut session = stage.session(plain(address), 7).unwrap();
        assert_eq!(session.ask().unwrap(), foretold);
        assert_eq!(explain(), (foretold.clone(), "flow".to_owned()));
        drop(session);
        until(
            "the flow to be over",
            PATIENCE,
            || Ok((explain() == (foretold.clone(), "pin".to_owned())).then_some(())),
        )
        .unwrap();
    }
}

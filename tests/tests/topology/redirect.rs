//! Redirect VIPs, and the silence of everything else at a VIP.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use epiclb_tests::{
    PATIENCE,
    client::{self, Forger},
    until,
};
use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder};

use crate::stage::{LABELS, Stage, VIP4, VIP6, plain, three, vip};

/// [`three`] with a redirect beside each VIP; `hosts` are more lines of theirs.
fn with_redirects(hosts: &str) -> String {
    let redirect = |label: &str, address| vip(label, address, "80", &format!("force_https = true\n{hosts}"), &[]);
    three() + &redirect("Web_redirect", VIP4) + &redirect("Web6_redirect", VIP6)
}

/// The answer to a request on port 80, if it comes within `limit`.
fn ask(stage: &Stage, vip: &str, request: &str, limit: Duration) -> std::io::Result<String> {
    let to = SocketAddr::new(vip.parse().unwrap(), 80);
    let from = SocketAddr::new(stage.client_for(to.ip(), 3), 0);
    stage.clients.within(|| {
        let mut stream = client::connect(from, to, limit)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

fn ping(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let header = IcmpEchoHeader { id: 7, seq: 1 };
    let mut packet = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 64);
            builder.icmpv4(Icmpv4Type::EchoRequest(header)).write(&mut packet, b"ping").unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let builder = PacketBuilder::ipv6(from.octets(), to.octets(), 64);
            builder.icmpv6(Icmpv6Type::EchoRequest(header)).write(&mut packet, b"ping").unwrap();
        }
        _ => panic!("two families"),
    }
    packet
}

/// Its answer, to nft.
fn pong(to: IpAddr) -> &'static str {
    if to.is_ipv4() { "icmp type echo-reply" } else { "icmpv6 type echo-reply" }
}

#[test]
fn port_80_redirects_while_everything_else_at_the_vip_is_silent() {
    for mode in ["native", "generic"] {
        let Some(stage) = Stage::open(&format!("xdp_mode = \"{mode}\""), &with_redirects("")) else { return };
        let answers = stage.clients.count_packets("prerouting", "tcp flags & (syn|rst) != 0").unwrap();
        for (_, address) in LABELS {
            let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            let from = stage.client_for(address.parse().unwrap(), 1);
            let url = format!("http://{host}/login?next=%2Fchart");
            let answer = client::curl(&stage.clients, from, &url, 1).unwrap().remove(0);
            assert_eq!((answer.status, answer.location), (301, url.replace("http:", "https:")), "{mode}");
            let posted = ask(
                &stage,
                address,
                "POST /a HTTP/1.1\r\nHost: h.test:80\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                PATIENCE,
            )
            .unwrap();
            assert!(posted.starts_with("HTTP/1.1 308 ") && posted.contains("https://h.test/a\r\n"), "{posted}");

            // No service: no answer of any kind.
            let heard = answers.hits().unwrap();
            let before = stage.verdict("drop_no_service");
            for port in [22, 81, 444, 8081, 60_000] {
                let to = SocketAddr::new(address.parse().unwrap(), port);
                let connect = || client::connect(SocketAddr::new(from, 0), to, Duration::from_millis(150));
                let error = stage.clients.within(connect).unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{mode} {to}: {error}");
            }
            stage.clients.within(|| {
                let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
                // Connected, it would be told of an ICMP error.
                socket.connect(SocketAddr::new(address.parse().unwrap(), 53)).unwrap();
                socket.send(b"?").unwrap();
                assert_eq!(socket.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
            });
            assert_eq!(answers.hits().unwrap(), heard, "{mode}: a closed port answered");
            assert!(stage.verdict("drop_no_service") >= before + 6);
            let pongs = stage.clients.count_packets("prerouting", pong(from)).unwrap();
            stage.clients.within(Forger::open).unwrap().send(&ping(from, address.parse().unwrap())).unwrap();
            until("an echo reply", PATIENCE, || Ok((pongs.hits()? == 1).then_some(()))).unwrap();
        }
        stage.visit(plain(VIP4), 0..20, 1);
    }
}

#[test]
fn redirects_go_on_through_reloads_and_follow_their_configuration() {
    let Some(stage) = Stage::open("", &with_redirects("")) else { return };
    let get_within = |limit, host: &str| {
        ask(&stage, VIP4, &format!("GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"), limit)
    };
    let get = |host: &str| get_within(PATIENCE, host);
    assert!(get("anything.test").unwrap().contains("Location: https://anything.test/x\r\n"));

    stage.configure("", &with_redirects("hosts = [\"mychart.example.org\", \"other.example.org\"]"));
    stage.does("reload");
    for (asked, sent) in [("other.example.org", "other"), ("mychart.example.org", "mychart"), ("evil.test", "mychart")]
    {
        let answer = get(asked).unwrap();
        assert!(answer.contains(&format!("Location: https://{sent}.example.org/x\r\n")), "{asked}: {answer}");
    }

    stage.configure("", &three());
    stage.does("reload");
    let error = get_within(Duration::from_millis(500), "mychart.example.org").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");

    stage.configure("", &with_redirects(""));
    stage.does("reload");
    until("the redirect to be back", PATIENCE, || Ok(get("back.test")?.contains("https://back.test/x").then_some(())))
        .unwrap();
    let status = stage.daemon().status().unwrap();
    let redirect = status["vips"].as_array().unwrap().iter().find(|vip| vip["label"] == "Web_redirect").unwrap();
    assert_eq!((redirect["method"].as_str(), redirect["health"].as_str()), (Some("redirect"), Some("up")));
}

#[test]
fn a_thousand_redirects_beside_balanced_traffic_are_all_answered() {
    let Some(stage) = Stage::open("", &with_redirects("")) else { return };
    let load = stage.load(plain(VIP4), 1_000..1_200);
    let to = SocketAddr::new(VIP4.parse().unwrap(), 80);
    let right = stage.clients.within(|| {
        let ask = |n: &u16| client::get(stage.client(*n % 300).into(), to, "/a").unwrap().contains("301 Moved");
        (0..1_000).filter(ask).count()
    });
    assert_eq!(right, 1_000);
    load.end().all_served(100);
    let counters = stage.daemon().json(&["counters"]).unwrap();
    assert_eq!(counters["redirects"][0]["redirected"], 1_000);
}

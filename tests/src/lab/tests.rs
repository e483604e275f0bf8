//! The lab itself, without a balancer: what the topology tests take for granted.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::*;
use crate::{PATIENCE, client, until};

#[test]
fn every_client_reaches_every_server_directly_over_both_families() {
    let Some(lab) = Lab::epic_or_skip() else { return };
    for server in &lab.servers {
        let sources: [(&Host, IpAddr, String); 4] = [
            (&lab.clients, lab.client(7).into(), server.address.to_string()),
            (&lab.clients, lab.client6(7).into(), format!("[{}]", server.address6)),
            (&lab.near, "192.168.85.100".parse().unwrap(), server.address.to_string()),
            (&lab.near, "fd00:85::100".parse().unwrap(), format!("[{}]", server.address6)),
        ];
        for (host, source, address) in sources {
            let answers = client::curl(host, source, &format!("https://{address}/whoami"), 2).unwrap();
            for answer in answers {
                assert_eq!(answer.rip(), Some(&*server.label), "{source} -> {address}: {answer:?}");
                assert!(answer.body.contains(&format!(" {source} ")), "{source} arrived as {}", answer.body);
            }
        }
    }
}

#[test]
fn hundreds_of_addresses_of_one_host_open_connections_of_their_own() {
    let Some(lab) = Lab::epic_or_skip() else { return };
    let server = &lab.servers[0];
    let sources: Vec<IpAddr> = (0..300).map(|n| lab.client(n).into()).collect();
    let to = SocketAddr::new(server.address.into(), 8080);
    let answers: Vec<String> =
        lab.clients.within(|| sources.iter().map(|source| client::get(*source, to, "/whoami").unwrap()).collect());
    for (source, answer) in sources.iter().zip(&answers) {
        assert!(answer.contains(&format!("{} {source} ", server.label)), "{source}: {answer}");
    }
    assert_eq!(server.access_log().unwrap().len(), 300);
}

#[test]
fn a_download_is_byte_exact() {
    let Some(lab) = Lab::epic_or_skip() else { return };
    let file = lab.folder().join("download");
    let url = format!("https://{}/small", lab.servers[0].address);
    let speed = client::download(&lab.clients, lab.client(0).into(), &url, &file).unwrap();
    assert!(speed > 0.0);
    client::same_bytes(&lab.small().unwrap(), &file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), crate::SMALL_SIZE as u64);
}

#[test]
fn a_killed_server_refuses_and_a_started_one_serves_again() {
    let Some(lab) = Lab::epic_or_skip() else { return };
    let server = lab.server("MyChart_Srv_1");
    let ask = || {
        let url = format!("https://{}/whoami", server.address);
        client::curl(&lab.near, "192.168.85.100".parse().unwrap(), &url, 1).unwrap().remove(0)
    };
    server.kill().unwrap();
    assert!(ask().error.contains("exit code 7"), "{:?}", ask());
    server.start().unwrap();
    assert_eq!(ask().rip(), Some("MyChart_Srv_1"));
}

#[test]
fn faults_hit_what_they_name_and_end_when_they_are_dropped() {
    let Some(lab) = Lab::epic_or_skip() else { return };
    let server = lab.server("Hyperspace_Srv_3");
    let to = SocketAddr::new(server.address.into(), 443);
    let reach = |limit| {
        let from = SocketAddr::new(lab.client(1).into(), 0);
        lab.clients.within(|| client::connect(from, to, limit)).is_ok()
    };
    let refused = || !reach(Duration::from_millis(400));
    assert!(reach(PATIENCE));

    let rule = server.host.drop_packets("input", "tcp dport 443").unwrap();
    assert!(refused());
    assert!(rule.hits().unwrap() > 0);
    drop(rule);
    assert!(reach(PATIENCE));

    lab.plug(&server.host, false).unwrap();
    assert!(refused());
    lab.plug(&server.host, true).unwrap();
    assert!(reach(PATIENCE));

    let old = server.host.mac("eth0").unwrap();
    server.host.change_mac("02:00:00:00:85:99").unwrap();
    assert_ne!(server.host.mac("eth0").unwrap(), old);

    server.freeze(true).unwrap();
    let answers = |limit| {
        let from = SocketAddr::new(lab.near_address(), 0);
        lab.near.within(|| -> std::io::Result<String> {
            use std::io::{Read as _, Write as _};
            let to = SocketAddr::new(server.address.into(), 8080);
            let mut stream = client::connect(from, to, limit)?;
            stream.write_all(b"GET /whoami HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    };
    assert!(answers(Duration::from_secs(1)).is_err(), "a frozen server answered");
    server.freeze(false).unwrap();
    assert!(answers(PATIENCE).unwrap().contains("Hyperspace_Srv_3"));
}

#[test]
fn forged_packets_arrive_from_whom_they_claim() {
    use etherparse::PacketBuilder;
    let Some(lab) = Lab::epic_or_skip() else { return };
    let server = lab.server("MyChart_Srv_2");
    let seen = [
        server.host.drop_packets("input", "ip saddr 203.0.113.0/24 tcp flags syn").unwrap(),
        server.host.drop_packets("input", "ip6 saddr 2001:db8::/32 tcp flags syn").unwrap(),
    ];
    let forger = lab.clients.within(client::Forger::open).unwrap();
    for n in 1..=200 {
        let mut packet = Vec::new();
        let ip = PacketBuilder::ipv4([203, 0, 113, n], server.address.octets(), 64);
        ip.tcp(1024 + u16::from(n), 443, 7, 65_000).syn().write(&mut packet, &[]).unwrap();
        forger.send(&packet).unwrap();

        packet.clear();
        let mut source = [0; 16];
        source[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        source[15] = n;
        let ip = PacketBuilder::ipv6(source, server.address6.octets(), 64);
        ip.tcp(1024 + u16::from(n), 443, 7, 65_000).syn().write(&mut packet, &[]).unwrap();
        forger.send(&packet).unwrap();
    }
    let hits = || seen.iter().map(|rule| rule.hits()).collect::<Result<Vec<_>>>();
    until("400 forged packets", PATIENCE, || Ok((hits()? == [200, 200]).then_some(()))).unwrap();
    assert!(forger.send(b"").is_err() && forger.send(&[0x45; 10]).is_err());
}

#[test]
fn the_far_end_of_the_balancers_cable_delivers_what_native_xdp_sends() {
    let Some(lab) = Lab::epic_or_skip() else { return };
    let link = lab.switch.ip("-d link show p-lb1").unwrap();
    assert!(link.contains("prog/xdp") && link.contains(" xdp "), "{link}");
}

#[test]
fn nothing_is_left_of_a_dropped_lab() {
    let Some(lab) = Lab::epic_or_skip() else { return };
    let (prefix, folder, bpffs) = (lab.prefix().to_owned(), lab.folder().to_owned(), lab.bpffs().to_owned());
    assert!(folder.exists() && bpffs.exists());
    drop(lab);
    let namespaces = std::fs::read_dir("/run/netns").unwrap().flatten();
    let left: Vec<_> = namespaces.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!folder.exists() && !bpffs.exists());
}

//! MACs that change, and who sends to whom from where.

use std::time::{Duration, Instant};

use epiclb_tests::{PATIENCE, until};

use crate::stage::{LABELS, Stage, VIP4, plain, server, three};

/// The resolver asks every 3 s and renews after 1 s (`netlink::resolve`); TCP may then wait for its next retransmission,
/// 6.2, 12.6 or 25.4 s after the first (RFC 6298, 5.5, from 200 ms on).
const SECONDS: Duration = Duration::from_secs(30);

#[test]
fn a_servers_new_mac_heals_within_seconds_under_open_connections() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let mut sessions: Vec<_> = LABELS.iter().flat_map(|(_, address)| stage.sessions(plain(address), 0..30)).collect();
    let homes: Vec<String> = sessions.iter_mut().map(|session| session.ask().unwrap()).collect();
    let host = &stage.server(server(1)).host;
    // Nobody announces it: the kernel would, if asked (arp_notify, ndisc_notify), and a replaced server may not.
    host.sysctl("net/ipv4/conf/eth0/arp_notify", "0").unwrap();
    host.change_mac("02:00:00:00:85:99").unwrap();
    let changed = Instant::now();
    for (session, home) in sessions.iter_mut().zip(&homes) {
        session.stream().set_read_timeout(Some(SECONDS)).unwrap();
        assert_eq!(session.ask().unwrap(), *home);
    }
    eprintln!("all 60 connections go on {:?} after the change", changed.elapsed());
    assert!(changed.elapsed() < SECONDS);
    for (label, address) in LABELS {
        // A check may have missed it for a moment.
        stage.daemon().wait_for(&format!("{label}/{}", server(1)), "up", PATIENCE).unwrap();
        stage.visit(plain(address), 100..160, 1);
    }
}

#[test]
fn a_gateways_new_mac_is_learnt_from_the_clients_own_packets() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let mut sessions: Vec<_> = LABELS.iter().flat_map(|(_, address)| stage.sessions(plain(address), 0..30)).collect();
    stage.gateway.change_mac("02:00:00:00:85:01").unwrap();
    let changed = Instant::now();
    for session in &mut sessions {
        session.stream().set_read_timeout(Some(SECONDS)).unwrap();
        session.ask().unwrap();
    }
    eprintln!("all 60 connections go on {:?} after the change", changed.elapsed());
    assert!(changed.elapsed() < SECONDS);
    stage.visit(plain(VIP4), 100..160, 1);
}

#[test]
fn frames_that_are_flooded_past_the_balancer_are_not_its_own() {
    let Some(stage) = Stage::open("", &three()) else { return };
    // The switch knows nobody and floods everything, as a hub does.
    stage.switch.ip("link set br0 type bridge ageing_time 0").unwrap();
    let others = stage.verdict("pass_other_mac");
    let forwarded = stage.verdict("to_rip");
    let to = (stage.server(server(1)).address, 8080).into();
    let direct = stage.clients.within(|| epiclb_tests::client::get(stage.client(0).into(), to, "/whoami")).unwrap();
    assert!(direct.contains(&format!("{} {} ", server(1), stage.client(0))), "{direct}");
    until("flooded frames to be seen", PATIENCE, || Ok((stage.verdict("pass_other_mac") > others + 3).then_some(())))
        .unwrap();
    assert_eq!(stage.verdict("to_rip"), forwarded);
    let before = stage.server(server(1)).access_log().unwrap().len();
    stage.visit(plain(VIP4), 0..30, 1);
    assert!(stage.server(server(1)).access_log().unwrap().len() <= before + 30, "nobody was served twice");
}

#[test]
fn a_server_that_comes_back_with_another_network_card_goes_on_with_its_connections() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let mut sessions = stage.sessions(plain(VIP4), 0..30);
    let host = &stage.server(server(2)).host;
    host.sysctl("net/ipv4/conf/eth0/arp_notify", "1").unwrap();
    host.ip("link set eth0 down").unwrap();
    host.change_mac("02:00:00:00:85:98").unwrap();
    host.ip("link set eth0 up").unwrap();
    until("every connection to go on", SECONDS, || {
        Ok(sessions.iter_mut().all(|session| session.ask().is_ok()).then_some(()))
    })
    .unwrap();
}

//! Who goes where: stickiness, spread, exactness, and that nobody is reset. And how fast.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use epiclb_tests::{PATIENCE, client, fixtures};
use serde_json::json;

use crate::stage::{DEFAULT_TABLES, Homes, LABELS, Stage, VIP4, plain, server, shares, three, web};

/// Clients and connections of each in the reference round.
const CLIENTS: u16 = 300;
const CONNECTIONS: usize = 5;
/// Clients that bring TLS where the reference configuration is not meant: over IPv6, and in generic mode.
const FEW: u16 = 60;
/// A ring places clients by a hash, so 300 of them stray by chance as lots do; 15 % is five standard deviations of
/// the smallest share from about this number on.
const MANY: u16 = 2_000;

#[test]
fn two_thousand_clients_stick_to_one_rip_each_and_spread_evenly_natively() {
    everybody_sticks("native");
}

#[test]
fn two_thousand_clients_stick_to_one_rip_each_and_spread_evenly_in_generic_mode() {
    everybody_sticks("generic");
}

fn everybody_sticks(mode: &str) {
    let Some(stage) = Stage::open(&format!("xdp_mode = \"{mode}\""), &three()) else { return };
    assert_eq!(stage.daemon().status().unwrap()["interfaces"][0]["xdp"], mode);
    let before = stage.clients.resets();
    for (label, address) in LABELS {
        let vip = plain(address);
        let homes = stage.visit_over_tls(SocketAddr::new(vip.ip(), 443), FEW, CONNECTIONS);
        assert_eq!(stage.pinned(label), homes, "the pins are where the clients went");
        // Many more over bare TCP.
        let many = stage.visit(vip, 1_000..1_000 + MANY, 1);
        let shares = assert_spread(&many, &[(1, 100), (2, 100), (3, 100)]);
        eprintln!("{mode} {label}: {MANY} clients {shares:?}");
    }
    assert_eq!(stage.clients.resets(), before, "connections were reset");
    assert_eq!(stage.daemon().status().unwrap()["alarms"], json!([]));

    // The count does count.
    let vip = plain(LABELS[0].1);
    let mut session = stage.session(vip, 0).unwrap();
    let home = session.ask().unwrap();
    stage.does(&format!("halt {}/{home}", LABELS[0].0));
    session.ask().unwrap_err();
    assert_eq!(stage.clients.resets(), before + 1);
}

/// The reference configuration as it stands, 300 clients, five connections each.
#[test]
fn the_epic_guides_clients_stick_and_spread_evenly_and_read_every_byte() {
    let Some(mut stage) = Stage::empty() else { return };
    stage.set_secret(fixtures::SECRET).unwrap();
    stage.configure(DEFAULT_TABLES, fixtures::SERVICES);
    stage.start();
    stage.daemon().wait_all_up(PATIENCE).unwrap();
    let resets = stage.clients.resets();
    for (label, address, servers) in [("Hyperspace", VIP4, 1..=3), ("MyChart", "192.168.85.151", 4..=5)] {
        let homes = stage.visit_over_tls(SocketAddr::new(address.parse().unwrap(), 443), CLIENTS, CONNECTIONS);
        assert_eq!(stage.pinned(label), homes, "the pins are where the clients went");
        let weights: Vec<_> = servers.map(|n| (n, 100)).collect();
        eprintln!("{label}: {:?}", assert_spread(&homes, &weights));
    }
    assert_eq!(stage.clients.resets(), resets, "connections were reset");
    assert_eq!(stage.daemon().status().unwrap()["alarms"], json!([]));
}

#[test]
fn unequal_weights_are_kept_within_fifteen_percent() {
    let weights = [(1, 100), (2, 50), (3, 50)];
    let Some(stage) = Stage::open("", &web(&weights, "persistence = \"60m\"")) else { return };
    for (label, address) in LABELS {
        let homes = stage.visit(plain(address), 0..MANY, 1);
        assert_spread(&homes, &weights);
        eprintln!("{label} 100/50/50: {:?}", shares(&homes));
    }
}

#[test]
fn the_same_secret_places_every_client_alike_on_another_node() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let homes = stage.visit(plain(LABELS[0].1), 0..100, 1);
    let secret = std::fs::read_to_string(stage.folder().join("state/secret")).unwrap();
    drop(stage);

    let Some(mut stage) = Stage::empty() else { return };
    stage.set_secret(&secret).unwrap();
    stage.configure("", &three());
    stage.start();
    stage.daemon().wait_all_up(PATIENCE).unwrap();
    assert_eq!(stage.visit(plain(LABELS[0].1), 0..100, 1), homes);
}

/// Asserts that every share is within 15 % of its weight.
fn assert_spread<'h>(homes: &'h Homes, weights: &[(usize, u16)]) -> BTreeMap<&'h str, usize> {
    let shares = shares(homes);
    let all: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let clients = homes.len() as f64;
    for (n, weight) in weights {
        let expected = clients * f64::from(*weight) / all;
        let got = shares.get(server(*n)).copied().unwrap_or(0) as f64;
        assert!((got - expected).abs() <= 0.15 * expected, "{got} of {expected}: {shares:?}");
    }
    shares
}

#[test]
fn a_hundred_megabytes_are_byte_exact_at_half_the_direct_speed_or_more() {
    let Some(stage) = Stage::open("xdp_mode = \"native\"", &three()) else { return };
    let urls = [format!("https://{}/big", stage.servers[0].address), format!("https://{}/big", LABELS[0].1)];
    let source = IpAddr::from(stage.client(0));
    let [direct, through] =
        client::compare_downloads(&stage.clients, source, urls.each_ref().map(String::as_str), &stage.big().unwrap())
            .unwrap();
    eprintln!("{:.0} MB/s through the VIP, {:.0} MB/s without", through / 1e6, direct / 1e6);
    assert!(through >= direct / 2.0, "{through:.0} B/s through the VIP, {direct:.0} B/s without");
}

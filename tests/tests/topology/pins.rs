//! Source-IP persistence across time, deaths, returns and newcomers.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use epiclb_tests::{PATIENCE, until};
use serde_json::json;

use crate::stage::{Homes, LABELS, Stage, VIP4, moved, plain, rip, server, services, shares, three, uptime, vip, web};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// A pin may look this much younger than it is.
const LAG: Duration = Duration::from_secs(3);

/// An hour; less on a machine that was booted less than an hour ago, where nothing can be made to look that old.
fn persistence() -> Duration {
    let most = HOUR.min(uptime().saturating_sub(Duration::from_secs(30)));
    assert!(most > Duration::from_secs(120), "booted just now: no pin can be made to look old");
    if most < HOUR {
        eprintln!("the machine is up for {:?} only: persistence is {most:?} instead of an hour", uptime());
    }
    Duration::from_secs(most.as_secs())
}

/// Ring and pins differ: everyone was placed while the first RIP was halted, which then came back.
fn placed_elsewhere(persistence: Duration) -> Option<(Stage, Vec<(&'static str, Homes)>)> {
    let text = web(&[(1, 100), (2, 100), (3, 100)], &format!("persistence = \"{}s\"", persistence.as_secs()));
    let stage = Stage::open("", &text)?;
    for (label, _) in LABELS {
        stage.does(&format!("halt {label}/{}", server(1)));
    }
    let homes = LABELS.map(|(label, address)| (label, stage.visit(plain(address), 0..60, 1)));
    for (label, homes) in &homes {
        assert!(!shares(homes).contains_key(server(1)));
        stage.does(&format!("online {label}/{}", server(1)));
    }
    Some((stage, homes.into()))
}

#[test]
fn a_pin_outlives_fifty_nine_minutes_of_silence_but_not_sixty() {
    let persistence = persistence();
    let Some((stage, placed)) = placed_elsewhere(persistence) else { return };
    let almost = persistence - Duration::from_secs(60);
    for ((label, homes), (_, address)) in placed.iter().zip(LABELS) {
        let clients: Vec<IpAddr> = homes.keys().copied().collect();
        let (kept, expired) = clients.split_at(30);
        // Flows that are over hold no pin; the sweeper has to see that they are.
        stage.wait_connections(label, 0);
        stage.age_pins(label, kept, almost);
        stage.age_pins(label, expired, persistence + LAG);

        until("expired pins to be swept", PATIENCE, || Ok((stage.pinned(label).len() == kept.len()).then_some(())))
            .unwrap();
        let left: BTreeSet<IpAddr> = stage.pinned(label).into_keys().collect();
        assert_eq!(left, kept.iter().copied().collect());

        let again = stage.visit(plain(address), 0..60, 1);
        let gone: BTreeSet<IpAddr> = expired.iter().copied().collect();
        let movers = moved(homes, &again);
        assert!(movers.iter().all(|(client, _)| gone.contains(client)), "{label}: pinned clients moved: {movers:?}");
        // The ring has a third of them elsewhere, or this proves nothing.
        let to_first = again.iter().filter(|(client, rip)| gone.contains(*client) && *rip == server(1)).count();
        assert!(to_first > 0, "{label}: nobody was placed anew: {again:?}");
        eprintln!(
            "{label}: 30 of 30 stayed after {almost:?}, {} of 30 were placed anew after {persistence:?}",
            movers.len()
        );
    }
}

#[test]
fn traffic_of_an_open_connection_restarts_the_time_of_a_pin() {
    let persistence = persistence();
    let Some((stage, _)) = placed_elsewhere(persistence) else { return };
    let (label, address) = LABELS[0];
    let client = stage.client_for(plain(address).ip(), 0);
    let mut session = stage.session(plain(address), 0).unwrap();
    session.ask().unwrap();
    stage.age_pins(label, &[client], persistence - Duration::from_secs(60));
    // One write a second and pin.
    until("the pin's time to start anew", PATIENCE, || {
        session.ask()?;
        let row = stage.daemon().json(&["pins", "show", &client.to_string()])?;
        Ok((row["rows"][0]["idle_s"].as_u64() <= Some(1)).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_pin_never_expires_under_an_open_silent_connection() {
    let persistence = persistence();
    let Some((stage, placed)) = placed_elsewhere(persistence) else { return };
    for ((label, homes), (_, address)) in placed.iter().zip(LABELS) {
        let vip = plain(address);
        let mut sessions = stage.sessions(vip, 0..60);
        stage.wait_connections(label, 60);
        let clients: Vec<IpAddr> = homes.keys().copied().collect();
        stage.age_flows(&clients, persistence - LAG);
        // As the sweeper would have kept them all along: about to expire, and silent.
        stage.age_pins(label, &clients, persistence - Duration::from_secs(40));
        until("the pins of open connections to be kept", PATIENCE, || {
            let rows = stage.daemon().json(&["pins", "list", "--vip", label])?;
            // A minute or two more each time: they shall not outlive the connection for long.
            let left = |row: &&serde_json::Value| row["expires_in_s"].as_u64() > Some(60);
            Ok((rows["rows"].as_array().expect("rows").iter().filter(left).count() == 60).then_some(()))
        })
        .unwrap();
        assert_eq!(stage.visit(vip, 0..60, 1), *homes, "{label}: new connections of the same clients");
        assert!(sessions.iter_mut().all(|session| session.ask().is_ok()));
    }
}

#[test]
fn a_killed_rips_clients_move_once_others_not_at_all_and_nobody_on_its_return() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let victim = server(2);
    let before = LABELS.map(|(_, address)| stage.visit(plain(address), 0..90, 1));
    stage.server(victim).kill().unwrap();
    for (label, _) in LABELS {
        stage.daemon().wait_for(&format!("{label}/{victim}"), "down", PATIENCE).unwrap();
    }
    let without = LABELS.map(|(_, address)| stage.visit(plain(address), 0..90, 2));
    for (before, without) in before.iter().zip(&without) {
        let movers = moved(before, without);
        assert!(movers.iter().all(|(_, from)| *from == victim), "others moved: {movers:?}");
        assert_eq!(movers.len(), shares(before)[victim]);
        assert!(movers.len() > 10);
    }
    let pinned = LABELS.map(|(label, _)| stage.pinned(label));
    assert_eq!(pinned, without);

    stage.server(victim).start().unwrap();
    stage.daemon().wait_all_up(PATIENCE).unwrap();
    assert_eq!(LABELS.map(|(label, _)| stage.pinned(label)), pinned);
    assert_eq!(
        LABELS.map(|(_, address)| stage.visit(plain(address), 0..90, 2)),
        without,
        "somebody moved on its return"
    );
    // Newcomers take it.
    assert!(shares(&stage.visit(plain(VIP4), 500..590, 1)).contains_key(victim));
}

#[test]
fn a_server_added_by_a_reload_takes_newcomers_and_no_pinned_client() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let before = LABELS.map(|(_, address)| stage.visit(plain(address), 0..200, 1));
    let four = web(&[(1, 100), (2, 100), (3, 100), (4, 100)], "persistence = \"60m\"");
    stage.configure("", &four);
    stage.does("reload");
    stage.daemon().wait_all_up(PATIENCE).unwrap();
    assert_eq!(LABELS.map(|(_, address)| stage.visit(plain(address), 0..200, 1)), before);
    // Their pins forgotten, about a quarter would be elsewhere: the pins held them.
    stage.does("pins clear --all");
    for ((_, address), before) in LABELS.iter().zip(&before) {
        let after = stage.visit(plain(address), 0..200, 1);
        let movers = moved(before, &after);
        assert!((20..=90).contains(&movers.len()), "{} of 200 would have moved", movers.len());
        // Maglev moves a few others too.
        let others = movers.iter().filter(|(client, _)| after[client] != server(4)).count();
        assert!(others <= 10, "{others} moved for no reason: {movers:?}");
    }
}

#[test]
fn without_persistence_the_ring_alone_decides() {
    let Some(stage) = Stage::open("", &web(&[(1, 100), (2, 100), (3, 100)], "persistence = \"off\"")) else { return };
    let (vip, victim) = (plain(VIP4), server(3));
    let before = stage.visit(vip, 0..90, 2);
    assert!(stage.pinned("Web").is_empty());
    stage.server(victim).kill().unwrap();
    stage.daemon().wait_for(&format!("Web/{victim}"), "down", PATIENCE).unwrap();
    let movers = stage.visit(vip, 0..90, 1);
    assert!(moved(&before, &movers).iter().all(|(_, from)| *from == victim));
    stage.server(victim).start().unwrap();
    stage.daemon().wait_all_up(PATIENCE).unwrap();
    // Nothing remembers where they went meanwhile.
    assert_eq!(stage.visit(vip, 0..90, 1), before);
}

#[test]
fn cleared_pins_are_not_reported_as_lost() {
    let Some(stage) = Stage::open("", &three()) else { return };
    stage.visit(plain(VIP4), 0..50, 1);
    let pins = || stage.daemon().status().unwrap()["tables"]["pins"].clone();
    until("50 pins to be seen", PATIENCE, || Ok((pins()["used"] == 50).then_some(()))).unwrap();
    assert!(stage.does("pins clear --vip Web").contains("50"));
    until("their end to be seen", PATIENCE, || Ok((pins()["used"] == 0).then_some(()))).unwrap();
    assert_eq!(pins()["evicted"], 0);
    assert_eq!(stage.daemon().status().unwrap()["alarms"], json!([]));
}

#[test]
fn pins_of_one_service_say_nothing_about_another() {
    let other =
        vip("Other", "192.168.85.152", "8080", "persistence = \"60m\"", &[rip(false, 4, ""), rip(false, 5, "")]);
    let Some(stage) = Stage::open(
        "",
        &services(&[vip("Web", VIP4, "8080", "persistence = \"60m\"", &[rip(false, 1, ""), rip(false, 2, "")]), other]),
    ) else {
        return;
    };
    let web = stage.visit(plain(VIP4), 0..40, 2);
    let other = stage.visit(plain("192.168.85.152"), 0..40, 2);
    assert_eq!((stage.pinned("Web"), stage.pinned("Other")), (web, other));
}

//! The daemon's death and return: packets need none of it.

use std::fs;

use epiclb_tests::{Daemon, PATIENCE, until};

use crate::stage::{DEFAULT_TABLES, LABELS, Stage, VIP4, plain, server, three, web};

#[test]
fn killing_the_daemon_breaks_nothing_and_the_next_one_takes_over_what_is_there_natively() {
    killing_breaks_nothing("native");
}

#[test]
fn killing_the_daemon_breaks_nothing_and_the_next_one_takes_over_what_is_there_in_generic_mode() {
    killing_breaks_nothing("generic");
}

fn killing_breaks_nothing(mode: &str) {
    let Some(mut stage) = Stage::open(&format!("xdp_mode = \"{mode}\"\n{DEFAULT_TABLES}"), &three()) else { return };
    let mut sessions: Vec<_> = LABELS.iter().flat_map(|(_, address)| stage.sessions(plain(address), 0..60)).collect();
    let homes: Vec<String> = sessions.iter_mut().map(|session| session.ask().unwrap()).collect();
    let pinned = LABELS.map(|(label, _)| stage.pinned(label));
    let resets_before = stage.clients.resets();
    let load = LABELS.map(|(_, address)| stage.load(plain(address), 1_000..1_200));

    for round in 0..2 {
        let counted = stage.verdict("to_rip");
        stage.take_daemon().kill().unwrap();
        let addresses = stage.lb1.ip("addr show dev eth0").unwrap();
        assert!(LABELS.iter().all(|(_, vip)| addresses.contains(vip)), "{addresses}");
        for (session, home) in sessions.iter_mut().zip(&homes) {
            assert_eq!(session.ask().unwrap(), *home, "round {round}: open connections without a daemon");
        }
        for ((_, address), pinned) in LABELS.iter().zip(&pinned) {
            assert_eq!(stage.visit(plain(address), 0..60, 1), *pinned, "round {round}: new ones, too");
        }
        let newcomers = 400 + round * 20..420 + round * 20;
        let placed = stage.visit(plain(VIP4), newcomers, 1);

        // Nobody has refreshed what the host knows of its neighbours meanwhile.
        if round > 0 {
            stage.lb1.ip("neigh flush dev eth0").unwrap();
            assert!(!stage.lb1.ip("neigh show dev eth0").unwrap().contains("192.168.85.200 lladdr"));
        }
        stage.start();
        assert!(stage.verdict("to_rip") > counted, "the counters go on");
        let now = stage.pinned("Web");
        assert!(placed.iter().all(|(client, rip)| now.get(client) == Some(rip)), "pinned while nobody was there");
        for ((_, address), pinned) in LABELS.iter().zip(&pinned) {
            assert_eq!(stage.visit(plain(address), 0..60, 1), *pinned, "round {round}: clients moved");
        }
        for (session, home) in sessions.iter_mut().zip(&homes) {
            assert_eq!(session.ask().unwrap(), *home, "round {round}: open connections after the start");
        }
        stage.daemon().wait_all_up(PATIENCE).unwrap();
        assert_eq!(stage.daemon().status().unwrap()["interfaces"][0]["xdp"], mode);
    }

    for met in load.map(|load| load.end()) {
        met.all_served(200);
        assert!(met.restless().is_empty(), "{:?}", met.restless());
    }
    stage.nothing_was_lost();
    assert_eq!(stage.clients.resets(), resets_before);
}

#[test]
fn a_server_that_died_while_nobody_watched_goes_down_soon_after_the_start() {
    let Some(mut stage) = Stage::open("", &three()) else { return };
    let homes = stage.visit(plain(VIP4), 0..60, 1);
    stage.take_daemon().kill().unwrap();
    stage.server(server(2)).kill().unwrap();
    stage.start();
    for (label, _) in LABELS {
        stage.daemon().wait_for(&format!("{label}/{}", server(2)), "down", PATIENCE).unwrap();
    }
    let after = stage.visit(plain(VIP4), 0..60, 1);
    for (client, home) in homes {
        assert_eq!(after[&client] == home, home != server(2), "{client}");
    }
}

#[test]
fn a_start_on_a_changed_configuration_takes_over_what_still_fits() {
    let Some(mut stage) = Stage::open("", &three()) else { return };
    let homes = stage.visit(plain(VIP4), 0..60, 1);
    let mut sessions = stage.sessions(plain(VIP4), 0..60);
    stage.take_daemon().kill().unwrap();
    stage.configure("", &web(&[(1, 100), (3, 100), (4, 100)], "persistence = \"60m\""));
    stage.start();
    stage.daemon().wait_all_up(PATIENCE).unwrap();
    for (session, home) in sessions.iter_mut().zip(homes.values()) {
        assert_eq!(session.ask().unwrap(), *home, "also those to the RIP that is gone");
    }
    let after = stage.visit(plain(VIP4), 0..60, 1);
    for (client, home) in &homes {
        assert_eq!(after[client] == *home, home != server(2), "{client}");
    }
}

#[test]
fn a_clean_stop_after_a_crash_removes_what_the_crash_left() {
    let Some(mut stage) = Stage::empty() else { return };
    let dump = |stage: &Stage| {
        let lines =
            ["ip -o addr show", "ip -o -d link show", "nft list tables"].map(|line| stage.lb1.run(line).unwrap());
        (lines, fs::read_dir(stage.bpffs()).unwrap().count())
    };
    let before = dump(&stage);
    stage.configure("", &three());
    stage.start();
    stage.take_daemon().kill().unwrap();
    assert_ne!(dump(&stage), before);
    stage.start();
    assert!(stage.take_daemon().stop().unwrap().success());
    assert_eq!(dump(&stage), before);
}

#[test]
fn limits_that_do_not_fit_what_a_crash_left_are_refused_and_leave_it_running() {
    let Some(mut stage) = Stage::open(DEFAULT_TABLES, &three()) else { return };
    let mut sessions = stage.sessions(plain(VIP4), 0..20);
    stage.take_daemon().kill().unwrap();
    let config = stage.configure("[limits]\npins = 5000\n", &three());
    let error = format!("{:#}", Daemon::start(&stage, &config).unwrap_err());
    assert!(error.contains("limits") && error.contains("PINS"), "{error}");
    sessions.iter_mut().for_each(|session| drop(session.ask().unwrap()));
    stage.visit(plain(VIP4), 0..20, 1);

    stage.configure(DEFAULT_TABLES, &three());
    stage.start();
    until("a stop", PATIENCE, || Ok(stage.session(plain(VIP4), 0)?.ask().ok())).unwrap();
}

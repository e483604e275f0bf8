//! Reload under load, and reloads that must not happen.

use std::{
    fs,
    time::{Duration, Instant},
};

use epiclb_tests::{PATIENCE, until};
use nix::sys::signal::Signal;

use crate::stage::{DEFAULT_TABLES, LABELS, Stage, VIP4, VIP6, plain, rip, server, services, three, vip, web};

const REMEMBER: &str = "persistence = \"60m\"";

#[test]
fn reloads_under_load_fail_no_connection_and_touch_no_open_one() {
    let Some(stage) = Stage::open(DEFAULT_TABLES, &three()) else { return };
    let mut sessions: Vec<_> = LABELS.iter().flat_map(|(_, address)| stage.sessions(plain(address), 0..40)).collect();
    let homes: Vec<String> = sessions.iter_mut().map(|session| session.ask().unwrap()).collect();
    let load = LABELS.map(|(_, address)| stage.load(plain(address), 1_000..1_400));

    let more = |text: String, other: &str| {
        text + &vip("More", other, "8080", REMEMBER, &[rip(false, 4, ""), rip(false, 5, "")])
    };
    let steps = [
        web(&[(1, 100), (2, 100), (3, 100), (4, 100)], REMEMBER),
        web(&[(1, 100), (3, 100), (4, 100)], REMEMBER),
        web(&[(1, 10), (3, 200), (4, 100)], REMEMBER),
        more(web(&[(1, 10), (2, 100), (3, 200), (4, 100)], REMEMBER), "192.168.85.152"),
        more(web(&[(2, 100), (3, 200), (5, 100)], "persistence = \"off\""), "192.168.85.153"),
        web(&[(1, 100), (2, 100), (3, 0)], REMEMBER),
        three(),
    ];
    for _ in 0..3 {
        for step in &steps {
            stage.configure(DEFAULT_TABLES, step);
            stage.does("reload");
            for (session, home) in sessions.iter_mut().zip(&homes) {
                assert_eq!(session.ask().unwrap(), *home);
            }
            // New RIPs have to prove themselves; until then nobody is sent there.
            stage.daemon().wait_all_up(PATIENCE).unwrap();
        }
    }
    let met = load.map(|load| load.end());
    for met in &met {
        met.all_served(1_000);
    }
    stage.nothing_was_lost();
    eprintln!("{} reloads, {} + {} connections", steps.len() * 3, met[0].asked, met[1].asked);
    assert_eq!(stage.daemon().status().unwrap()["config"]["generation"], 1 + steps.len() * 3);
}

#[test]
fn connections_opened_just_before_their_rip_or_vip_is_removed_finish_in_peace() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let without = services(&[
        vip("Web", VIP4, "443, 8080", REMEMBER, &[rip(false, 3, "")]),
        vip("Other", "192.168.85.152", "8080", REMEMBER, &[rip(false, 3, "")]),
    ]);
    stage.configure("", &without);
    // No sweep has seen these.
    let mut sessions = stage.sessions(plain(VIP4), 0..30);
    let mut sixes = stage.sessions(plain(VIP6), 0..30);
    stage.does("reload");
    for round in 0..3 {
        for session in sessions.iter_mut().chain(&mut sixes) {
            session.ask().unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        let seen = Instant::now();
        until("another two sweeps", PATIENCE, || Ok((seen.elapsed() > Duration::from_millis(2_500)).then_some(())))
            .unwrap();
    }
    // The address of the VIP that is gone stays for them, and serves nobody else.
    assert!(stage.lb1.ip("-6 addr show dev eth0").unwrap().contains(VIP6));
    let before = stage.verdict("drop_no_service");
    assert!(stage.clients.within(|| {
        let source = (stage.client6(99), 0).into();
        epiclb_tests::client::connect(source, plain(VIP6), Duration::from_millis(300)).is_err()
    }));
    assert!(stage.verdict("drop_no_service") > before);

    drop(sixes);
    until("the address to go with its last connection", PATIENCE, || {
        Ok((!stage.lb1.ip("-6 addr show dev eth0")?.contains(VIP6)).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_vips_counters_do_not_fall_when_a_server_is_taken_out() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let connections = || {
        let counters = stage.daemon().json(&["counters"]).unwrap();
        let vip = counters["vips"].as_array().unwrap().iter().find(|vip| vip["label"] == "Web").unwrap().clone();
        let rips = vip["rips"].as_array().unwrap().iter().map(|rip| rip["connections"].as_u64().unwrap()).sum::<u64>();
        (vip["connections"].as_u64().unwrap(), rips)
    };
    stage.visit(plain(VIP4), 0..60, 1);
    assert_eq!(connections(), (60, 60));
    stage.configure("", &web(&[(2, 100), (3, 100)], REMEMBER));
    stage.does("reload");
    let (vip, rips) = connections();
    assert!(vip == 60 && rips < 60, "{vip} of the VIP, {rips} of its present RIPs");
}

#[test]
fn an_invalid_file_changes_nothing_and_is_told() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let before = stage.daemon().status().unwrap();
    let bad = three().replace("weight = 100", "weihgt = 100");
    stage.configure("", &bad);
    for command in ["reload", "plan"] {
        let (code, text) = stage.says(command);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("weihgt") && text.contains("services.toml"), "{text}");
    }
    let after = stage.daemon().status().unwrap();
    assert_eq!(after["config"]["generation"], before["config"]["generation"]);
    assert!(after["config"]["last_error"].as_str().unwrap().contains("weihgt"), "{after}");
    stage.visit(plain(VIP4), 0..10, 1);

    stage.configure("", &three());
    stage.does("reload");
    assert!(stage.daemon().status().unwrap()["config"]["last_error"].is_null());
}

#[test]
fn sighup_reloads() {
    let Some(stage) = Stage::open("", &three()) else { return };
    stage.configure("", &web(&[(1, 100), (4, 100)], REMEMBER));
    // nsenter executes the daemon in its own place.
    stage.daemon().process().signal(Signal::SIGHUP).unwrap();
    stage.daemon().wait_for(&format!("Web/{}", server(4)), "up", PATIENCE).unwrap();
    assert!(stage.daemon().rip(&format!("Web/{}", server(2))).is_err());
}

#[test]
fn what_needs_a_restart_is_refused_by_name() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let config = stage.configure("[limits]\npins = 5000\n", &web(&[(1, 100)], REMEMBER));
    let (code, text) = stage.says("reload");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("limits") && text.contains("restart"), "{text}");
    assert_eq!(stage.says("plan").0, 1);
    stage.daemon().rip(&format!("Web/{}", server(3))).expect("nothing has changed");
    fs::write(config.join("node.toml"), stage.node_toml("xdp_mode = \"generic\"")).unwrap();
    assert!(stage.says("reload").1.contains("xdp_mode"));
    fs::write(config.join("node.toml"), stage.node_toml("log_level = \"debug\"")).unwrap();
    stage.does("reload");
}

#[test]
fn a_plan_says_what_a_reload_would_do_and_does_nothing() {
    let Some(stage) = Stage::open("", &three()) else { return };
    assert_eq!(stage.daemon().json(&["plan"]).unwrap()["ops"], serde_json::json!([]));
    stage.configure("", &web(&[(1, 100), (2, 50)], REMEMBER));
    let ops = stage.daemon().json(&["plan"]).unwrap()["ops"].clone();
    assert!(ops.to_string().contains("publish the ring of Web:"), "{ops}");
    assert_eq!(stage.daemon().json(&["plan"]).unwrap()["ops"], ops);
    stage.daemon().rip(&format!("Web/{}", server(3))).expect("nothing has changed");
    assert_eq!(stage.daemon().json(&["reload"]).unwrap()["ops"], ops);
    assert_eq!(stage.daemon().json(&["plan"]).unwrap()["ops"], serde_json::json!([]));
}

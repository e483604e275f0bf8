//! Whom the daemon refuses to fight, and what it leaves behind: nothing.

use std::{fs, process::Output};

use epiclb_tests::{Daemon, PATIENCE, binary, until};

use crate::stage::{LABELS, Stage, VIP4, plain, three, vip};

/// Everything the daemon may touch on its host, as text.
fn dump(stage: &Stage) -> String {
    let commands = ["ip -o addr show", "ip -o -d link show", "ip route show table all", "nft list ruleset"];
    let told = commands.map(|command| stage.lb1.run(command).unwrap());
    let pins: Vec<_> = fs::read_dir(stage.bpffs()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    // Lifetimes tick.
    let told = told.concat().lines().filter(|line| !line.contains("expires")).collect::<Vec<_>>().join("\n");
    format!("{told}\n{pins:?}\nsocket {}", stage.socket().exists())
}

#[test]
fn a_clean_stop_leaves_the_host_as_it_was() {
    let Some(mut stage) = Stage::empty() else { return };
    let before = dump(&stage);
    let services = three() + &vip("Web_redirect", VIP4, "80", "force_https = true", &[]);
    stage.configure("", &services);
    for stopped_by in ["SIGTERM", "epiclb stop"] {
        stage.start();
        stage.daemon().wait_all_up(PATIENCE).unwrap();
        stage.visit(plain(VIP4), 0..20, 1);
        let open = stage.sessions(plain(VIP4), 0..5);
        assert_ne!(dump(&stage), before);
        if stopped_by == "SIGTERM" {
            assert!(stage.take_daemon().stop().unwrap().success());
        } else {
            stage.does("stop");
            // `stop` waits for the end.
            assert_eq!(dump(&stage), before, "{stopped_by}");
            assert!(stage.take_daemon().process().signal(nix::sys::signal::Signal::SIGTERM).is_ok());
        }
        assert_eq!(dump(&stage), before, "{stopped_by}");
        drop(open);
    }
}

#[test]
fn another_xdp_program_on_the_interface_is_named_and_left_alone() {
    let Some(stage) = Stage::empty() else { return };
    let foreign = epiclb_tests::foreign_program(&stage.lb1, "eth0").unwrap();
    let before = dump(&stage);
    let config = stage.configure("", &three());
    let output = run_to_the_end(&stage, &config);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("eth0") && text.contains("another XDP program") && text.contains("lab_pass"), "{text}");
    assert_eq!(dump(&stage), before);
    drop(foreign);
    drop(Daemon::start(&stage, &config).unwrap());
}

#[test]
fn a_second_daemon_is_refused_and_disturbs_nothing() {
    let Some(stage) = Stage::open("", &three()) else { return };
    let mut sessions = stage.sessions(plain(VIP4), 0..20);
    let before = dump(&stage);
    let config = stage.folder().join("config");
    let output = run_to_the_end(&stage, &config);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another epiclb") && text.contains("epiclb.sock"), "{text}");

    // Nor may it come by another door.
    let other = stage.folder().join("other.sock");
    let output = stage
        .lb1
        .command("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .arg(binary().unwrap())
        .args(["run", "--config"])
        .arg(&config)
        .arg("--socket")
        .arg(&other)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another epiclb"), "{text}");

    assert_eq!(dump(&stage), before);
    sessions.iter_mut().for_each(|session| drop(session.ask().unwrap()));
    assert!(LABELS.iter().all(|(_, address)| stage.session(plain(address), 99).unwrap().ask().is_ok()));
}

#[test]
fn an_invalid_configuration_does_not_start_and_leaves_nothing_behind() {
    let Some(stage) = Stage::empty() else { return };
    let before = dump(&stage);
    let config = stage.configure("interface = 3", &three());
    let output = run_to_the_end(&stage, &config);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(dump(&stage), before);
}

#[test]
fn what_somebody_else_takes_away_is_put_back() {
    let Some(stage) = Stage::open("", &three()) else { return };
    stage.lb1.ip(&format!("addr del {VIP4}/32 dev eth0")).unwrap();
    until("the address to be back", PATIENCE, || Ok(stage.lb1.ip("addr show dev eth0")?.contains(VIP4).then_some(())))
        .unwrap();
    stage.visit(plain(VIP4), 0..10, 1);
}

fn run_to_the_end(stage: &Stage, config: &std::path::Path) -> Output {
    stage
        .lb1
        .command("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .arg(binary().unwrap())
        .args(["run", "--config"])
        .arg(config)
        .output()
        .unwrap()
}

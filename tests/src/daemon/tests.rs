//! That the harness speaks to the daemon as an operator does, and passes on what it complains of.

use super::*;
use crate::fixtures;

#[test]
fn the_daemon_answers_its_cli_and_ends_on_sigterm() {
    let Some(lab) = Lab::epic_or_skip() else { return };
    let config = lab.write_config(&lab.node_toml(""), fixtures::SERVICES).unwrap();
    let daemon = Daemon::start(&lab, &config).unwrap();
    daemon.wait_all_up(PATIENCE).unwrap();
    assert_eq!(daemon.status().unwrap()["node"], "lb1");
    assert_eq!(daemon.rip("MyChart/MyChart_Srv_1").unwrap()["address"], "192.168.85.210");
    assert!(daemon.rip("MyChart/Nobody").is_err());
    let unknown = daemon.cli(&["drain", "MyChart/Nobody"]).unwrap();
    assert_ne!(unknown.status.code(), Some(0));
    assert!(daemon.stop().unwrap().success());
}

#[test]
fn a_daemon_that_cannot_start_is_quoted() {
    let Some(lab) = Lab::epic_or_skip() else { return };
    let config = lab.write_config(&lab.node_toml("no_such_key = 1"), fixtures::SERVICES).unwrap();
    let error = Daemon::start(&lab, &config).unwrap_err().to_string();
    assert!(error.contains("ended with exit status: 2") && error.contains("no_such_key"), "{error}");
}

use super::*;
use crate::config::{self, Source};

const NODE: &str = "name = \"lb1\"\ninterfaces = [\"eth0\"]\n";

fn config(node: &str, services: &str) -> Config {
    config::parse(Source::new("node.toml", node), Source::new("services.toml", services), None).unwrap().config
}

/// One VIP with these RIPs: label and address.
fn web(rips: &[(&str, &str)]) -> Config {
    let rips: String =
        rips.iter().map(|(label, ip)| format!("[[vip.rip]]\nlabel = \"{label}\"\naddress = \"{ip}\"\n")).collect();
    config(
        NODE,
        &format!("[[vip]]\nlabel = \"Web\"\naddress = \"192.0.2.150\"\nports = [443]\nmode = \"snat\"\n{rips}"),
    )
}

fn state(config: Config) -> State {
    State {
        health: config.services.rips().map(|(vip, _, rip)| (vip.rip_name(rip), Health::Up)).collect(),
        config,
        admin: AdminStates::new(),
        resolver: Resolver::default(),
        paths: BTreeMap::new(),
        links: BTreeMap::new(),
        addresses: Vec::new(),
        host_ports: HostPorts::default(),
        tally: Tally::default(),
        leaving_rips: BTreeMap::new(),
        leaving_addresses: BTreeMap::new(),
        resting: BTreeMap::new(),
        former: BTreeMap::new(),
        seed: Seed(7, 11),
        generation: 1,
        loaded_at: SystemTime::UNIX_EPOCH,
        last_error: None,
        faults: BTreeMap::new(),
    }
}

fn name(rip: &str) -> RipName {
    RipName { vip: "Web".into(), rip: rip.into() }
}

#[test]
fn a_server_keeps_its_health_and_its_halt_under_a_new_label() {
    let mut state = state(web(&[("old", "192.0.2.1"), ("b", "192.0.2.2")]));
    state.set_admin(&name("old"), Admin::Halt, false).unwrap();
    state.configure(web(&[("new", "192.0.2.1"), ("b", "192.0.2.2")]));
    assert_eq!(state.health.get(&name("new")), Some(&Health::Up));
    assert_eq!(state.admin, AdminStates::from([(name("new"), Admin::Halt)]));
    assert!(!state.health.contains_key(&name("old")));
}

#[test]
fn another_server_under_an_old_label_is_not_up_before_it_was_probed() {
    let mut state = state(web(&[("a", "192.0.2.1"), ("b", "192.0.2.2")]));
    state.configure(web(&[("a", "192.0.2.9"), ("b", "192.0.2.2")]));
    assert_eq!(state.health.get(&name("a")), None);
    assert_eq!(state.health.get(&name("b")), Some(&Health::Up));
}

#[test]
fn what_is_known_of_a_removed_server_is_forgotten() {
    let mut state = state(web(&[("a", "192.0.2.1"), ("b", "192.0.2.2")]));
    state.set_admin(&name("a"), Admin::Drain, false).unwrap();
    state.configure(web(&[("b", "192.0.2.2")]));
    state.configure(web(&[("a", "192.0.2.1"), ("b", "192.0.2.2")]));
    assert!(state.admin.is_empty());
    assert_eq!(state.health.get(&name("a")), None);
}

#[test]
fn the_last_rip_that_takes_new_clients_needs_force() {
    let mut state = state(web(&[("a", "192.0.2.1"), ("b", "192.0.2.2")]));
    state.health.insert(name("b"), Health::Down);
    for admin in [Admin::Drain, Admin::DrainHard, Admin::Halt] {
        let refusal = state.set_admin(&name("a"), admin, false).unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::Refused);
        assert!(refusal.help.unwrap().contains("--force"));
    }
    assert!(state.admin.is_empty(), "a refusal changes nothing");
    assert_eq!(state.set_admin(&name("b"), Admin::Halt, false).unwrap(), Admin::Online, "it takes none anyway");
    assert_eq!(state.set_admin(&name("a"), Admin::Halt, true).unwrap(), Admin::Online);
    assert_eq!(state.set_admin(&name("a"), Admin::Online, false).unwrap(), Admin::Halt);
}

#[test]
fn an_unknown_name_is_told_what_was_probably_meant() {
    let mut state = state(web(&[("Srv_1", "192.0.2.1")]));
    let refusal = state.set_admin(&name("srv_1"), Admin::Drain, true).unwrap_err();
    assert_eq!((refusal.kind, refusal.help.as_deref()), (ErrorKind::NotFound, Some("did you mean Srv_1?")));
}

#[test]
fn a_late_event_about_a_former_address_changes_nothing() {
    let mut state = state(web(&[("a", "192.0.2.1")]));
    let event = |address: &str| HealthEvent {
        rip: name("a"),
        address: address.parse().unwrap(),
        health: Health::Down,
        reason: String::new(),
        latency: None,
    };
    assert!(!state.heard(&event("192.0.2.9:443")));
    assert!(state.heard(&event("192.0.2.1:443")));
    assert!(!state.heard(&event("192.0.2.1:443")), "nothing new");
}

#[test]
fn the_hosts_own_address_can_not_be_a_vip() {
    let host = BTreeSet::from(["192.0.2.150".parse().unwrap()]);
    let error = check_against_host(&web(&[("a", "192.0.2.1")]), &host, HostPorts::default()).unwrap_err();
    assert!(error.contains("Web") && error.contains("192.0.2.150"), "{error}");
    check_against_host(&web(&[("a", "192.0.2.1")]), &BTreeSet::new(), HostPorts::default()).unwrap();
}

#[test]
fn a_host_that_uses_nearly_all_ports_itself_can_not_lend_its_address_to_snat() {
    let node = format!("{NODE}snat = [\"192.0.2.2\"]\n");
    let services = "[[vip]]\nlabel = \"Web\"\naddress = \"192.0.2.150\"\nports = [443]\nmode = \"snat\"\n\
                    [[vip.rip]]\nlabel = \"a\"\naddress = \"192.0.2.1\"\n";
    let config = config(&node, services);
    let host = BTreeSet::from(["192.0.2.2".parse().unwrap()]);
    check_against_host(&config, &host, HostPorts::default()).unwrap();
    let error = check_against_host(&config, &host, HostPorts { first: 1_024, last: 65_535 }).unwrap_err();
    assert!(error.contains("ip_local_port_range") && error.contains("0 ports"), "{error}");
    check_against_host(&config, &BTreeSet::new(), HostPorts { first: 1_024, last: 65_535 }).unwrap();
}

#[test]
fn what_a_reload_can_not_change_is_named() {
    let old = web(&[("a", "192.0.2.1")]).node;
    let mut new = old.clone();
    new.name = "lb2".into();
    new.snat = vec!["192.0.2.2".parse().unwrap()];
    assert!(needs_restart(&old, &new).is_empty());
    new.interfaces.push("eth1".into());
    new.limits.pins = 2_048;
    assert_eq!(needs_restart(&old, &new), ["interfaces", "limits"]);
}

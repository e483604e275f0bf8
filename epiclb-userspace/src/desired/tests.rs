//! A small hospital, and what becomes of it under every state and change; [`any_node`] invents others.

use std::{num::NonZeroU16, path::PathBuf, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Balance, Check, Limits, LogLevel, Mode, Node, PortRange, Redirect, Services, XdpMode},
    plan::plan,
};

pub(crate) const SEED: Seed = Seed(7, 11);

/// Everything that [`desired`] looks at, owned.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) admin: AdminStates,
    pub(crate) health: BTreeMap<RipName, Health>,
    pub(crate) hops: BTreeMap<IpAddr, Hop>,
    pub(crate) actual: Tables,
    pub(crate) tally: Tally,
    pub(crate) resting: BTreeSet<u32>,
    pub(crate) host_ports: HostPorts,
    pub(crate) host_addresses: BTreeSet<IpAddr>,
}

/// The id of the VIP that a RIP belongs to.
fn vip_of(desired: &Desired, rip: u32) -> u32 {
    *desired.vips.iter().find(|(_, label)| **label == desired.rips[&rip].vip).unwrap().0
}

impl State {
    pub(crate) fn desired(&self) -> Desired {
        desired(&Inputs {
            config: &self.config,
            admin: &self.admin,
            health: &self.health,
            hops: &self.hops,
            actual: &self.actual,
            tally: &self.tally,
            recent: &Retiring::default(),
            resting: &self.resting,
            host_ports: self.host_ports,
            host_addresses: &self.host_addresses,
            seed: SEED,
        })
    }

    /// Takes what is desired for what is there.
    fn settle(&mut self) -> Desired {
        let desired = self.desired();
        self.actual = desired.tables.clone();
        desired
    }

    fn id(&self, vip: &str, rip: &str) -> u32 {
        let desired = self.desired();
        let name = RipName { vip: vip.into(), rip: rip.into() };
        *desired.rips.iter().find(|(_, n)| **n == name).unwrap_or_else(|| panic!("no {name}")).0
    }

    fn balance(&mut self, vip: &str) -> &mut Balance {
        let vip = self.config.services.vips.iter_mut().find(|v| v.label == vip).unwrap();
        let Service::Balance(balance) = &mut vip.service else { panic!("{} is a redirect", vip.label) };
        balance
    }
}

fn rip(label: &str, address: &str, weight: u16) -> model::Rip {
    model::Rip { label: label.into(), address: address.parse().unwrap(), port: None, weight }
}

fn vip(label: &str, address: &str, port: u16, rips: Vec<model::Rip>) -> model::Vip {
    let port = NonZeroU16::new(port).unwrap();
    model::Vip {
        label: label.into(),
        address: address.parse().unwrap(),
        ports: vec![PortRange { first: port, last: port }],
        protocol: Protocol::Tcp,
        service: Service::Balance(Balance {
            mode: Mode::Snat,
            persistence: Some(Duration::from_secs(3600)),
            check: Check::default(),
            rips,
        }),
    }
}

fn node(vips: Vec<model::Vip>) -> State {
    let services = Services { vips };
    let mac = |address: IpAddr| match address {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => u64::from(v6.segments()[7]) << 8,
    };
    State {
        admin: AdminStates::new(),
        health: services.rips().map(|(vip, _, rip)| (vip.rip_name(rip), Health::Up)).collect(),
        hops: services.rips().map(|(_, _, rip)| (rip.address, Hop::new(mac(rip.address), 2))).collect(),
        config: Config {
            node: Node {
                name: "lb1".into(),
                interfaces: vec!["eth0".into()],
                xdp_mode: XdpMode::Auto,
                snat: Vec::new(),
                socket: PathBuf::new(),
                state_dir: PathBuf::new(),
                bpffs_dir: PathBuf::new(),
                log_level: LogLevel::Info,
                log_client_addresses: false,
                limits: Limits::default(),
            },
            services,
        },
        actual: Tables::default(),
        tally: Tally::default(),
        resting: BTreeSet::new(),
        host_ports: HostPorts::default(),
        host_addresses: BTreeSet::new(),
    }
}

fn hospital() -> State {
    node(vec![
        vip(
            "web",
            "10.0.0.1",
            443,
            vec![rip("a", "10.0.1.1", 100), rip("b", "10.0.1.2", 100), rip("c", "10.0.1.3", 0)],
        ),
        vip("app", "10.0.0.2", 443, vec![rip("a", "10.0.1.1", 100), rip("b", "10.0.1.2", 50)]),
        vip("six", "2001:db8::1", 443, vec![rip("a", "2001:db8:1::1", 100)]),
    ])
}

#[test]
fn admin_and_health_together_say_who_may_come() {
    use Admin::{Drain, DrainHard, Halt, Online};
    use Health::{Down, Unknown, Up};
    // (admin, health, new clients, pinned clients, open flows)
    for (admin, health, new, pinned, flows) in [
        (Online, Up, true, true, true),
        (Online, Down, false, false, true),
        (Online, Unknown, false, false, true),
        (Drain, Up, false, true, true),
        (Drain, Down, false, false, true),
        (Drain, Unknown, false, false, true),
        (DrainHard, Up, false, false, true),
        (DrainHard, Down, false, false, true),
        (DrainHard, Unknown, false, false, true),
        (Halt, Up, false, false, false),
        (Halt, Down, false, false, false),
        (Halt, Unknown, false, false, false),
    ] {
        for mac_known in [true, false] {
            let mut state = hospital();
            let name = RipName { vip: "web".into(), rip: "a".into() };
            state.admin.insert(name.clone(), admin);
            state.health.insert(name, health);
            if !mac_known {
                state.hops.remove(&"10.0.1.1".parse().unwrap());
            }
            let (id, desired) = (state.id("web", "a"), state.desired());
            let hop = desired.tables.hops.get(&id).copied().unwrap_or_default();
            let web = vip_of(&desired, id);
            let takes = desired.rings[&web].table(SEED).contains(&id);
            let case = format!("{admin:?}, {health:?}, MAC known: {mac_known}");
            assert_eq!(takes, new && mac_known, "new clients: {case}");
            assert_eq!(hop.has(Hop::PINNED), pinned && mac_known, "pinned clients: {case}");
            assert_eq!(hop.has(Hop::FLOWS), flows, "open flows: {case}");
            assert_eq!(hop.has(Hop::KNOWN), mac_known, "{case}");
            // The same server at another VIP has states of its own.
            assert!(!mac_known || desired.tables.hops[&state.id("app", "a")].has(Hop::PINNED), "{case}");
        }
    }
}

#[test]
fn a_rip_that_was_never_probed_takes_nobody() {
    let mut state = hospital();
    state.health.clear();
    let desired = state.desired();
    assert!(desired.rings.values().all(|ring| ring.table(SEED).is_empty()));
    assert!(desired.tables.hops.values().all(|hop| !hop.has(Hop::PINNED)));
}

#[test]
fn weight_0_takes_no_new_clients_and_keeps_the_pinned_ones() {
    let state = hospital();
    let (id, desired) = (state.id("web", "c"), state.desired());
    assert!(!desired.rings[&vip_of(&desired, id)].table(SEED).contains(&id));
    assert!(desired.tables.hops[&id].has(Hop::PINNED));
}

#[test]
fn ids_stay_with_whom_they_were_given_to() {
    let mut state = hospital();
    let before = state.settle();
    let names = |d: &Desired| d.rips.iter().map(|(id, name)| (name.clone(), *id)).collect::<BTreeMap<_, _>>();
    state.config.services.vips.reverse();
    state.balance("web").rips.reverse();
    state.config.services.vips.insert(0, vip("new", "10.0.0.9", 1, vec![rip("a", "10.0.1.1", 1)]));
    let after = state.settle();
    for (name, id) in names(&before) {
        assert_eq!(names(&after)[&name], id, "{name}");
    }
    assert_eq!(after.rips.len(), before.rips.len() + 1);
    assert!(before.vips.iter().all(|(id, label)| after.vips[id] == *label));
}

#[test]
fn a_rip_under_another_name_is_the_same_rip_and_at_another_address_another() {
    let mut state = hospital();
    let id = state.id("web", "a");
    state.settle();
    state.balance("web").rips[0].label = "renamed".into();
    assert_eq!(state.id("web", "renamed"), id);
    state.balance("web").rips[0].address = "10.0.1.77".parse().unwrap();
    assert_ne!(state.id("web", "renamed"), id);
}

#[test]
fn a_rip_that_is_removed_and_added_again_is_where_it_was() {
    let mut state = hospital();
    let (id, ring) = (state.id("web", "b"), state.settle().rings);
    let b = state.balance("web").rips.remove(1);
    state.tally.flows.insert(id, 3);
    let without = state.settle();
    assert_eq!(without.tables.hops[&id].0 & !Hop::new(u64::MAX, u32::MAX).0, Hop::KNOWN | Hop::FLOWS, "flows alone");
    assert!(!without.rips.contains_key(&id));
    state.balance("web").rips.push(b);
    assert_eq!(state.id("web", "b"), id);
    let again = state.settle();
    let web = vip_of(&again, id);
    assert_eq!(again.rings[&web].table(SEED), ring[&web].table(SEED));
}

#[test]
fn what_has_no_flows_left_goes() {
    let mut state = hospital();
    let id = state.id("web", "b");
    state.settle();
    state.balance("web").rips.remove(1);
    state.tally.flows.insert(id, 1);
    assert!(state.settle().tables.rips.contains_key(&id));
    state.tally.flows.clear();
    let desired = state.settle();
    assert!(!desired.tables.rips.contains_key(&id) && !desired.tables.hops.contains_key(&id));
}

#[test]
fn a_retiring_rip_follows_its_mac_and_never_has_one_made_up() {
    let mut state = hospital();
    let id = state.id("web", "b");
    let address: IpAddr = "10.0.1.2".parse().unwrap();
    state.settle();
    state.balance("web").rips.remove(1);
    state.tally.flows.insert(id, 1);
    state.hops.insert(address, Hop::new(0xabc, 3));
    assert_eq!(state.settle().tables.hops[&id], Hop::new(0xabc, 3).with(Hop::KNOWN | Hop::FLOWS));
    // Nobody looks for its neighbour entry any more: the last one known serves.
    state.hops.remove(&address);
    assert_eq!(state.settle().tables.hops[&id], Hop::new(0xabc, 3).with(Hop::KNOWN | Hop::FLOWS));
    // Where there never was one, there is none.
    state.actual.hops.insert(id, Hop(Hop::FLOWS));
    assert_eq!(state.settle().tables.hops[&id], Hop(Hop::FLOWS));
}

#[test]
fn a_halted_rip_that_retires_stays_halted_and_keeps_its_id() {
    let mut state = hospital();
    let id = state.id("web", "b");
    state.admin.insert(RipName { vip: "web".into(), rip: "b".into() }, Admin::Halt);
    state.hops.remove(&"10.0.1.2".parse().unwrap());
    state.settle();
    state.balance("web").rips.remove(1);
    state.tally.flows.insert(id, 1);
    let desired = state.settle();
    assert!(desired.tables.rips.contains_key(&id), "its flows still name it");
    assert!(!desired.tables.hops.contains_key(&id));
}

#[test]
fn an_id_that_pins_still_mean_someone_by_is_not_given_away() {
    let mut state = hospital();
    let id = state.id("web", "b");
    state.settle();
    state.balance("web").rips.remove(1);
    state.settle();
    state.tally.pins.insert(id, 4);
    state.balance("web").rips.push(rip("d", "10.0.1.4", 100));
    assert_ne!(state.id("web", "d"), id);
    state.tally.pins.clear();
    assert_eq!(state.id("web", "d"), id);
}

#[test]
fn addresses_that_flows_still_use_stay_guarded() {
    let mut state = hospital();
    state.settle();
    let address = Addr::from("10.0.0.2".parse::<IpAddr>().unwrap());
    state.tally.addresses.insert(address);
    // Someone else's flow says nothing: only what was ours is kept.
    state.tally.addresses.insert(Addr::from("10.9.9.9".parse::<IpAddr>().unwrap()));
    state.config.services.vips.retain(|vip| vip.label != "app");
    let desired = state.settle();
    assert!(desired.tables.addresses.contains(&address));
    assert_eq!(desired.tables.addresses.len(), 3);
    state.tally.addresses.clear();
    assert!(!state.settle().tables.addresses.contains(&address));
}

#[test]
fn snat_addresses_are_the_vips_own_or_the_nodes_and_never_the_hosts_ports() {
    let mut state = hospital();
    let snat = |state: &State, label: &str| {
        let desired = state.desired();
        let vip = desired.vips.iter().find(|(_, l)| *l == label).map(|(id, _)| desired.tables.vips[id]).unwrap();
        let range = vip.snat_first..vip.snat_first + vip.snat_count;
        range.map(|i| desired.tables.snats[&i]).map(|s| (s.addr.to_string(), s.first, s.count)).collect::<Vec<_>>()
    };
    assert_eq!(snat(&state, "web"), [("10.0.0.1".into(), 1024, 64_512)]);
    assert_eq!(snat(&state, "six"), [("2001:db8::1".into(), 1024, 64_512)]);

    state.config.node.snat = ["10.0.0.8", "10.0.0.9", "2001:db8::8"].map(|a| a.parse().unwrap()).into();
    state.host_addresses.insert("10.0.0.9".parse().unwrap());
    let both = [("10.0.0.8".into(), 1024, 64_512), ("10.0.0.9".into(), 1024, 31_744)];
    assert_eq!(snat(&state, "web"), both);
    assert_eq!(snat(&state, "app"), both);
    assert_eq!(snat(&state, "six"), [("2001:db8::8".into(), 1024, 64_512)]);
    // What is the balancer's alone is guarded; the host's own address is the host's.
    let addresses: Vec<_> = state.desired().tables.addresses.iter().map(Addr::to_string).collect();
    assert!(addresses.contains(&"10.0.0.8".into()) && !addresses.contains(&"10.0.0.9".into()), "{addresses:?}");

    state.host_ports = HostPorts { first: 1025, last: 40_000 };
    assert_eq!(snat(&state, "web")[1], ("10.0.0.9".into(), 40_001, 25_535));
}

#[test]
fn a_redirect_has_its_ports_and_nothing_else() {
    let mut state = hospital();
    let mut redirect = vip("redirect", "10.0.0.1", 80, Vec::new());
    redirect.service = Service::Redirect(Redirect::default());
    state.config.services.vips.push(redirect);
    let desired = state.desired();
    let id = desired.vips.iter().find(|(_, label)| *label == "redirect").map(|(id, _)| *id).unwrap();
    assert_eq!(desired.tables.vips[&id].flags, LOCAL);
    assert!(!desired.rings.contains_key(&id));
    let key = ServiceKey::new("10.0.0.1".parse::<IpAddr>().unwrap().into(), 80_u16.to_be(), u32::from(TCP));
    assert_eq!(desired.tables.services[&key], id);
}

#[test]
fn every_port_of_every_range_is_a_service() {
    let mut state = hospital();
    let port = |n| NonZeroU16::new(n).unwrap();
    let web = &mut state.config.services.vips[0];
    web.ports =
        vec![PortRange { first: port(443), last: port(443) }, PortRange { first: port(8000), last: port(8010) }];
    web.protocol = Protocol::Udp;
    let address = Addr::from(web.address);
    let desired = state.desired();
    let of_web: Vec<_> = desired.tables.services.keys().filter(|key| key.addr == address).collect();
    assert_eq!(of_web.len(), 12);
    assert!(of_web.iter().all(|key| key.port_proto >> 16 == u32::from(UDP)));
}

// ---- invented nodes ----

/// Few names and addresses, so that nodes share them.
fn any_rip() -> impl Strategy<Value = model::Rip> {
    (
        0..5_u8,
        proptest::option::weighted(0.3, 8000..8003_u16),
        prop_oneof![Just(0_u16), Just(1), Just(100), 0..=256_u16],
    )
        .prop_map(|(n, port, weight)| model::Rip {
            label: format!("r{n}"),
            address: IpAddr::from([10, 0, 1, n]),
            port: port.and_then(NonZeroU16::new),
            weight,
        })
}

fn any_vip() -> impl Strategy<Value = model::Vip> {
    let rips = proptest::collection::vec(any_rip(), 1..5);
    let balance =
        (rips, prop_oneof![Just(None), Just(Some(60)), Just(Some(3600))]).prop_map(|(mut rips, persistence)| {
            let mut labels = BTreeSet::new();
            rips.retain(|rip| labels.insert(rip.label.clone()));
            Service::Balance(Balance {
                mode: Mode::Snat,
                persistence: persistence.map(Duration::from_secs),
                check: Check::default(),
                rips,
            })
        });
    let service = prop_oneof![4 => balance, 1 => Just(Service::Redirect(Redirect::default()))];
    (0..4_u8, 0..3_u8, 1..4_u16, 0..3_u16, service).prop_map(|(label, address, first, more, service)| {
        let port = |n| NonZeroU16::new(n).unwrap();
        model::Vip {
            label: format!("v{label}"),
            address: IpAddr::from([10, 0, 0, address]),
            ports: vec![PortRange { first: port(first), last: port(first + more) }],
            protocol: Protocol::Tcp,
            service,
        }
    })
}

/// A node with a valid configuration and any states, with nothing in its kernel yet.
pub(crate) fn any_node() -> impl Strategy<Value = State> {
    let admin = prop_oneof![
        3 => Just(Admin::Online), 1 => Just(Admin::Drain), 1 => Just(Admin::DrainHard), 1 => Just(Admin::Halt)
    ];
    let health = prop_oneof![3 => Just(Health::Up), 1 => Just(Health::Down), 1 => Just(Health::Unknown)];
    (
        proptest::collection::vec(any_vip(), 0..5),
        proptest::collection::vec((admin, health), 20),
        proptest::collection::vec(proptest::option::weighted(0.8, 1..4_u64), 5),
        proptest::collection::vec(0..4_u8, 0..3),
        proptest::collection::btree_map(1..12_u32, 0..3_u64, 0..6),
    )
        .prop_map(|(mut vips, states, macs, snat, flows)| {
            let (mut labels, mut ports) = (BTreeSet::new(), BTreeSet::new());
            vips.retain(|vip| {
                let range = vip.ports[0].first.get()..=vip.ports[0].last.get();
                let free = range.clone().all(|port| !ports.contains(&(vip.address, port)));
                free && labels.insert(vip.label.clone()) && {
                    ports.extend(range.map(|port| (vip.address, port)));
                    true
                }
            });
            let mut state = node(vips);
            let names: Vec<_> = state.health.keys().cloned().collect();
            for (name, (admin, health)) in names.into_iter().zip(states) {
                state.admin.insert(name.clone(), admin);
                state.health.insert(name, health);
            }
            for (n, mac) in (0..).zip(macs) {
                let address = IpAddr::from([10, 0, 1, n]);
                match mac {
                    Some(mac) if state.hops.contains_key(&address) => state.hops.insert(address, Hop::new(mac, 2)),
                    _ => state.hops.remove(&address),
                };
            }
            state.config.node.snat = snat.iter().map(|n| IpAddr::from([10, 0, 2, *n])).collect();
            state.config.node.snat.dedup();
            state.tally.flows = flows;
            state
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_there_as_desired_is_desired_as_it_is(first in any_node(), mut second in any_node()) {
        second.actual = first.desired().tables;
        let once = second.settle();
        let twice = second.desired();
        prop_assert_eq!(&once, &twice);
        prop_assert_eq!(plan(&second.actual, &twice), []);
    }

    #[test]
    fn two_nodes_with_other_ids_choose_the_same_rip_for_every_slot(
        node in any_node(),
        mut other in any_node(),
        turn in 0..5_usize,
    ) {
        // The other node has another history, and its file another order. Both know the same MACs: a node that has never
        // heard of a server can't send anyone there.
        let mut services = node.config.services.clone();
        other.actual = other.desired().tables;
        other.actual.hops.clear();
        services.vips.reverse();
        for vip in &mut services.vips {
            if let Service::Balance(balance) = &mut vip.service {
                let turn = turn % balance.rips.len();
                balance.rips.rotate_left(turn);
            }
        }
        other.config.services = services;
        other.admin = node.admin.clone();
        other.health = node.health.clone();
        other.hops = node.hops.clone();

        let slots = |state: &State| -> BTreeMap<String, Vec<(IpAddr, u32)>> {
            let desired = state.desired();
            let place = |id: &u32| (IpAddr::from(desired.tables.rips[id].addr), desired.tables.rips[id].port_be);
            let rings = desired.rings.iter();
            rings.map(|(vip, ring)| (desired.vips[vip].clone(), ring.table(SEED).iter().map(place).collect())).collect()
        };
        let (here, there) = (slots(&node), slots(&other));
        prop_assert!(here == there, "the rings differ");
        let groups = |state: &State| state.desired().tables.vips.values().map(|vip| vip.group).collect::<BTreeSet<_>>();
        prop_assert_eq!(groups(&node), groups(&other), "pins have the same keys");
    }

    #[test]
    fn no_two_share_an_id_and_nothing_names_what_is_not_there(first in any_node(), mut second in any_node()) {
        second.actual = first.desired().tables;
        let desired = second.desired();
        let tables = &desired.tables;
        let identities: BTreeSet<_> = tables.rips.values().map(|rip| rip.identity).collect();
        prop_assert_eq!(identities.len(), tables.rips.len());
        prop_assert!(tables.services.values().all(|vip| tables.vips.contains_key(vip)));
        prop_assert!(tables.services.keys().all(|key| tables.addresses.contains(&key.addr)));
        prop_assert!(tables.hops.keys().all(|rip| tables.rips.contains_key(rip)));
        for (id, name) in &desired.rips {
            prop_assert_eq!(tables.rips[id].group, vip_identity(&name.vip));
        }
        for (vip, ring) in &desired.rings {
            prop_assert!(ring.members.iter().all(|member| desired.rips[&member.rip].vip == desired.vips[vip]));
            let wire = &tables.vips[vip];
            prop_assert!((0..wire.snat_count).all(|n| tables.snats.contains_key(&(wire.snat_first + n))));
        }
    }
}

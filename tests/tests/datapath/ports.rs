//! SNAT ports: never one that the RIP knows under another client.

use std::{collections::BTreeSet, time::Duration};

use epiclb::desired::HostPorts;
use epiclb_common::Verdict;

use crate::{
    frame::from,
    world::{World, key},
};

/// A VIP with one RIP, so that all clients meet there.
const VIP: &str = "192.168.85.153:443";
const ADDRESS: &str = "192.168.85.153";

/// So many ports, the first being 1024.
fn with_ports(count: u16) -> Option<World> {
    let mut world = World::new()?;
    world.host(ADDRESS, HostPorts { first: 1024 + count, last: u16::MAX });
    Some(world)
}

#[test]
fn two_clients_that_meet_at_a_port_part_again() {
    let Some(mut world) = with_ports(2) else { return };
    // Of two clients, one finds the other's port half the time.
    for n in 0..20 {
        let pair = [0, 1].map(|i| format!("10.20.{n}.{i}:40001"));
        let [a, b] = pair.map(|client| world.connect(client.as_str(), VIP));
        assert_eq!([a.snat.port(), b.snat.port()].into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([1024, 1025]));
        assert_eq!(world.to_client(a.response(b"a")).dst, a.client);
        assert_eq!(world.to_client(b.response(b"b")).dst, b.client);
        for connection in [a, b] {
            world.to_rip(from(connection.client).to(VIP).rst(connection.seq));
        }
        world.sweep(Duration::from_secs(11));
        assert!(world.flows().is_empty());
    }
}

#[test]
fn when_all_ports_are_taken_a_new_client_is_dropped_and_no_live_flow_disturbed() {
    let Some(mut world) = with_ports(1) else { return };
    let first = world.connect("10.20.0.7:40001", VIP);
    assert_eq!(first.snat.port(), 1024);
    let flows = world.flows();
    for n in 0..20 {
        world.expect(Verdict::DropSnatPorts, from(format!("10.20.1.{n}:40001").as_str()).to(VIP).syn(1));
        world.expect(Verdict::DropSnatPorts, from(format!("10.20.0.7:{}", 50_000 + n).as_str()).to(VIP).syn(1));
    }
    assert_eq!(world.flows(), flows);
    assert_eq!(world.to_client(first.response(b"x")).dst, first.client);

    // The closed flow keeps its port for as long as the RIP may know it.
    world.to_client(first.rip_fin());
    world.to_rip(first.client_fin());
    world.sweep_after(Duration::from_secs(62));
    world.expect(Verdict::DropSnatPorts, from("10.20.0.8:40001").to(VIP).syn(1));
    world.sweep(Duration::from_secs(65));
    world.connect("10.20.0.8:40001", VIP);
}

#[test]
fn a_port_of_a_handshake_under_way_is_taken_until_the_handshake_is_stale() {
    let Some(mut world) = with_ports(1) else { return };
    let first = world.half_connect("10.20.0.7:40001", VIP);
    world.age_half_open(Duration::from_secs(60));
    world.expect(Verdict::DropSnatPorts, from("10.20.0.8:40001").to(VIP).syn(1));
    world.age_half_open(Duration::from_secs(6));
    let second = world.connect("10.20.0.8:40001", VIP);
    assert_eq!(second.snat, first.snat);
    // The first one comes too late: what it had is the second one's now.
    world.expect(Verdict::DropNoFlow, from(first.client).to(VIP).ack(first.seq, first.ack));
    assert_eq!(world.to_client(second.response(b"x")).dst, second.client);
    assert_eq!(world.flows().len(), 2);
}

#[test]
fn a_handshake_whose_port_was_lost_to_another_flow_does_not_get_its_answers() {
    let Some(mut world) = with_ports(1) else { return };
    let first = world.half_connect("10.20.0.7:40001", VIP);
    // A flood has pushed the entry of the way back out of the table.
    let back = key(first.rip, first.snat, 6);
    assert!(world.map::<_, epiclb_common::HalfOpen>(epiclb_common::maps::name::HALF_OPEN).remove(&back).unwrap());
    let second = world.connect("10.20.0.8:40001", VIP);
    assert_eq!(second.snat, first.snat);
    world.expect(Verdict::DropSnatPorts, from(first.client).to(VIP).ack(first.seq, first.ack));
    assert_eq!(world.to_client(second.response(b"x")).dst, second.client);
    assert_eq!(world.flows().len(), 2);
    assert_eq!(world.pins().len(), 1);
}

#[test]
fn each_rip_and_each_protocol_has_ports_of_its_own() {
    let Some(mut world) = World::new() else { return };
    world.host("192.168.85.150", HostPorts { first: 1025, last: u16::MAX });
    let mut rips = BTreeSet::new();
    for n in 0..30 {
        let client = format!("10.20.2.{n}:40001");
        let outcome = world.send(from(client.as_str()).to("192.168.85.150:443").syn(1));
        if outcome.verdict == Verdict::ToRip {
            assert!(rips.insert(outcome.seen().dst), "one client to a RIP");
            assert_eq!(outcome.seen().src.port(), 1024);
        } else {
            assert_eq!(outcome.verdict, Verdict::DropSnatPorts);
        }
    }
    assert_eq!(rips.len(), 3);
    assert_eq!(world.to_rip(from("10.20.0.7:5353").to("192.168.85.150:53").udp(b"?")).src.port(), 1024);
}

#[test]
fn ports_that_the_host_uses_for_itself_are_left_to_it() {
    let Some(mut world) = World::new() else { return };
    world.host(ADDRESS, HostPorts { first: 2_000, last: 65_000 });
    for n in 0..200 {
        let seen = world.to_rip(from(format!("10.20.3.{n}:40001").as_str()).to(VIP).syn(1));
        assert!((1024..2000).contains(&seen.src.port()), "{}", seen.src);
    }
}

#[test]
fn in_a_half_full_range_nobody_goes_without_a_port() {
    let Some(mut world) = with_ports(1000) else { return };
    let connect = |world: &mut World, n: u32| {
        let client = format!("10.30.{}.{}:40001", n / 250, n % 250);
        let outcome = world.send(from(client.as_str()).to(VIP).syn(1));
        matches!(outcome.verdict, Verdict::ToRip)
    };
    let served = (0..500).filter(|n| connect(&mut world, *n)).count();
    assert_eq!(served, 500, "{served} of 500");
    let ports: BTreeSet<_> = world.half_open().keys().map(|key| key.host_ports().1).collect();
    assert_eq!(ports.len(), served, "all of them different");
}

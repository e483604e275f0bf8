//! Where frames go: MACs that change on either side.

use std::time::Duration;

use epiclb::{model::Admin, plan::Op};
use epiclb_common::{Hop, Verdict};

use crate::{
    frame::{OWN_MAC, ROUTER_MAC, from},
    world::World,
};

const CLIENT: &str = "10.20.0.7:40001";
const VIP: &str = "192.168.85.150:443";
const NEW: [u8; 6] = [2, 9, 9, 9, 9, 9];

#[test]
fn a_server_with_a_new_mac_gets_the_next_packet_there() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    world.neighbour(&connection.rip.ip().to_string(), Some(NEW));
    assert_eq!(world.to_rip(connection.request(b"x")).macs, (OWN_MAC, NEW));
    assert_eq!(world.connect("10.20.0.7:40002", VIP).rip, connection.rip);
}

#[test]
fn the_way_back_follows_the_client_to_another_router() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    assert_eq!(world.to_client(connection.response(b"x")).macs.1, ROUTER_MAC);
    // The first packet of a new second is looked at closely.
    world.age_flow(&connection.key(), Duration::ZERO);
    world.to_rip(connection.request(b"x").sent_by(NEW));
    assert_eq!(world.to_client(connection.response(b"x")).macs, (OWN_MAC, NEW));
    world.age_flow(&connection.key(), Duration::ZERO);
    world.to_rip(connection.request(b"x"));
    assert_eq!(world.to_client(connection.response(b"x")).macs, (OWN_MAC, ROUTER_MAC));
}

#[test]
fn a_server_does_not_change_its_own_mac_by_sending_from_another() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let before = world.to_rip(connection.request(b"x")).macs;
    let back = world.both(&connection).0.other_key(6);
    world.age_flow(&back, Duration::ZERO);
    assert_eq!(world.to_client(connection.response(b"x").sent_by(NEW)).macs.1, ROUTER_MAC);
    assert_eq!(world.to_rip(connection.request(b"x")).macs, before);
    assert_eq!(world.to_client(connection.response(b"x")).macs.1, ROUTER_MAC);
}

#[test]
fn a_server_that_answers_no_arp_is_sent_to_where_it_was_until_another_mac_is_known() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let rip = connection.rip.ip().to_string();
    let before = world.to_rip(connection.request(b"x")).macs;
    world.neighbour(&rip, None);
    assert_eq!(world.to_rip(connection.request(b"x")).macs, before);
    world.to_client(connection.response(b"the way back is known"));
    world.neighbour(&rip, Some(NEW));
    assert_eq!(world.to_rip(connection.request(b"x")).macs.1, NEW);
}

#[test]
fn nothing_is_sent_to_a_server_whose_mac_was_never_known() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    for id in world.bpf.actual().unwrap().hops.into_keys() {
        world.bpf.apply(&Op::PutHop(id, Hop(Hop::FLOWS))).unwrap();
    }
    world.expect(Verdict::DropNoNeighbour, connection.request(b"x"));
    world.to_client(connection.response(b"the way back is known"));
    world.expect(Verdict::DropNoNeighbour, from("10.20.0.8:40001").to(VIP).syn(1));
}

#[test]
fn an_interface_that_is_not_ours_is_not_sent_from() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, "192.168.85.153:443");
    world.bpf.set_interface(crate::world::FAR, 0).unwrap();
    world.expect(Verdict::DropNoNeighbour, connection.request(b"x"));
    world.expect(Verdict::DropNoNeighbour, from("10.20.0.8:40001").to("192.168.85.153:443").syn(1));
}

#[test]
fn a_halted_servers_client_is_reset_at_the_mac_it_sends_from() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    world.admin(&world.name_at("web", connection.rip.ip()), Admin::Halt);
    let outcome = world.expect(Verdict::ResetSent, connection.request(b"x").sent_by(NEW));
    assert_eq!(outcome.seen().macs, (OWN_MAC, NEW));
}

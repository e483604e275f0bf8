//! Halted and retiring RIPs: who is told with a RST (RFC 9293, 3.5.2), and what goes on.

use std::time::Duration;

use epiclb::model::{Admin, Health};
use epiclb_common::{Verdict, flow::state};

use crate::{
    frame::{OWN_MAC, ROUTER_MAC, Seen, Sums, flag, from, mac_of},
    world::{Connection, World, action, balance},
};

const CLIENT: &str = "10.20.0.7:40001";
const VIP: &str = "192.168.85.150:443";
const CLIENT6: &str = "[2001:db8:20::7]:40001";
const VIP6: &str = "[2001:db8:85::150]:443";

fn halt(world: &mut World, vip: &str, connection: &Connection) {
    world.admin(&world.name_at(vip, connection.rip.ip()), Admin::Halt);
}

/// The RST that answers a frame; everything about it but the numbers is checked here.
#[track_caller]
fn reset(world: &mut World, frame: crate::frame::Packet) -> Seen {
    let outcome = world.expect(Verdict::ResetSent, &frame);
    let seen = outcome.seen();
    assert_eq!(outcome.action, action::TX, "back to where it came from");
    assert_eq!(outcome.frame.len(), if frame.src.is_ipv4() { 54 } else { 74 }, "nothing but headers");
    assert!(Sums::of(&outcome.frame).unwrap().are_right());
    assert_eq!((seen.src, seen.dst), (frame.dst, frame.src));
    assert_eq!(seen.macs.0, OWN_MAC);
    assert_eq!(seen.ttl, 64);
    assert!(seen.payload.is_empty());
    seen
}

#[test]
fn both_sides_of_an_open_flow_are_reset_over_ipv4() {
    let Some(mut world) = World::new() else { return };
    both_sides_are_reset(&mut world, "web", CLIENT, VIP);
}

#[test]
fn both_sides_of_an_open_flow_are_reset_over_ipv6() {
    let Some(mut world) = World::new() else { return };
    both_sides_are_reset(&mut world, "web6", CLIENT6, VIP6);
}

fn both_sides_are_reset(world: &mut World, vip: &str, client: &str, address: &str) {
    let connection = world.connect(client, address);
    halt(world, vip, &connection);

    // "If the incoming segment has an ACK field, the reset takes its sequence number from the ACK field"
    let to_client = reset(world, connection.request(&[7; 1400]).tos(0xb8).ttl(1));
    assert_eq!(to_client.tcp, (flag::RST, connection.ack, 0));
    assert_eq!(to_client.macs.1, ROUTER_MAC);
    let to_rip = reset(world, connection.response(&[7; 1401]));
    assert_eq!(to_rip.tcp, (flag::RST, connection.seq, 0));
    assert_eq!(to_rip.macs.1, mac_of(connection.rip.ip()));

    let (there, back) = world.both(&connection);
    assert_ne!(there.state & back.state & state::RESET, 0);
    assert_eq!(there.idle_limit(6), 10);
}

#[test]
fn a_client_that_waits_is_reset_when_its_halted_server_speaks() {
    let Some(mut world) = World::new() else { return };
    for (vip, client, address) in [("web", CLIENT, VIP), ("web6", CLIENT6, VIP6)] {
        let connection = world.connect(client, address);
        halt(&mut world, vip, &connection);
        let response = connection.response(&[7; 1400]);
        let outcome = world.expect(Verdict::ResetSent, &response);
        let seen = outcome.seen();
        assert!(Sums::of(&outcome.frame).unwrap().are_right());
        assert_eq!((seen.src, seen.dst), (address.parse().unwrap(), client.parse().unwrap()));
        // What the client expects next, or it would not believe it (RFC 5961, 3.2).
        assert_eq!(seen.tcp, (flag::RST | flag::ACK, connection.ack, connection.seq));
        assert_eq!(seen.macs, (OWN_MAC, ROUTER_MAC));
        // The server is told when it speaks again, and so is the client.
        assert_eq!(reset(&mut world, connection.response(b"x")).tcp.0, flag::RST);
        assert_eq!(reset(&mut world, connection.request(b"x")).tcp, (flag::RST, connection.ack, 0));
    }
}

#[test]
fn a_segment_without_an_ack_is_answered_with_what_it_takes_up() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    halt(&mut world, "web", &connection);
    // "otherwise, the reset has sequence number zero and the ACK field is set to the sum of the sequence number and
    // segment length of the incoming segment"
    let segment = |flags, seq, payload: &[u8]| from(CLIENT).to(VIP).tcp(flags, seq, 0).payload(payload);
    for (flags, seq, payload, ack) in [
        (0, 5000, &b""[..], 5000),
        (0, 5000, b"four", 5004),
        (flag::PSH, 5000, b"odd", 5003),
        (flag::FIN, 5000, b"four", 5005),
        (0, u32::MAX, b"four", 3),
    ] {
        let seen = reset(&mut world, segment(flags, seq, payload));
        assert_eq!(seen.tcp, (flag::RST | flag::ACK, 0, ack), "flags {flags:05b} {payload:?}");
    }
    let optioned = segment(0, 5000, b"four").tcp_options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(reset(&mut world, optioned).tcp, (flag::RST | flag::ACK, 0, 5004), "options are no payload");
}

#[test]
fn ethernet_padding_is_no_payload() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    halt(&mut world, "web", &connection);
    let mut frame = from(CLIENT).to(VIP).tcp(0, 5000, 0).bytes();
    frame.resize(60, 0xee);
    let outcome = world.expect(Verdict::ResetSent, frame);
    assert_eq!(outcome.seen().tcp, (flag::RST | flag::ACK, 0, 5000));
    assert_eq!(outcome.frame.len(), 54);
}

#[test]
fn a_reset_is_never_answered() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    halt(&mut world, "web", &connection);
    for flags in [flag::RST, flag::RST | flag::ACK, flag::RST | flag::FIN] {
        world.expect(Verdict::DropHalted, from(CLIENT).to(VIP).tcp(flags, connection.seq, connection.ack));
        let answer = from(connection.rip).to(connection.snat).tcp(flags, connection.ack, connection.seq);
        world.expect(Verdict::DropHalted, answer);
    }
}

#[test]
fn a_new_connection_from_the_same_port_goes_elsewhere_at_once() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    halt(&mut world, "web", &connection);
    let new = world.to_rip(from(CLIENT).to(VIP).syn(77));
    assert_ne!(new.dst, connection.rip);
    assert!(world.flows().is_empty());
}

#[test]
fn open_flows_of_a_rip_that_is_draining_hard_or_down_go_on() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let name = world.name_at("web", connection.rip.ip());
    world.admin(&name, Admin::DrainHard);
    world.to_rip(connection.request(b"x"));
    world.to_client(connection.response(b"x"));
    world.admin(&name, Admin::Online);
    world.health(&name, Health::Down);
    world.to_rip(connection.request(b"x"));
    world.to_client(connection.response(b"x"));
}

#[test]
fn a_syn_on_an_open_flow_of_a_rip_that_is_down_goes_elsewhere() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    world.health(&world.name_at("web", connection.rip.ip()), Health::Down);
    assert_ne!(world.to_rip(from(CLIENT).to(VIP).syn(77)).dst, connection.rip);
    assert!(world.flows().is_empty());
}

#[test]
fn a_rip_removed_from_the_configuration_finishes_its_flows_and_gets_no_others() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let name = world.name_at("web", connection.rip.ip());
    let id = world.id(&name);
    world.sweep(Duration::ZERO);
    world.reload(|config| balance(config, "web").rips.retain(|rip| rip.address != connection.rip.ip()));
    world.to_rip(connection.request(b"still here"));
    world.to_client(connection.response(b"so am I"));
    assert_ne!(world.choice("10.20.0.7:40002", VIP), connection.rip.ip());

    // With its last flow it goes.
    world.to_rip(connection.client_fin());
    world.to_client(connection.rip_fin());
    world.sweep(Duration::from_secs(11));
    world.reconcile();
    assert!(!world.bpf.actual().unwrap().rips.contains_key(&id));
}

#[test]
fn a_vip_removed_from_the_configuration_finishes_its_flows_and_gets_no_others() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, "192.168.85.152:443");
    world.sweep(Duration::ZERO);
    world.reload(|config| config.services.vips.retain(|vip| vip.label != "app"));
    world.to_rip(connection.request(b"still here"));
    world.to_client(connection.response(b"so am I"));
    // The address is still ours, so nothing of it falls to the host.
    world.expect(Verdict::DropNoService, from("10.20.0.7:40002").to("192.168.85.152:443").syn(1));
    world.sweep(Duration::from_secs(8000));
    world.sweep(Duration::from_secs(8000));
    world.reconcile();
    world.expect(Verdict::PassNotOurs, from("10.20.0.7:40002").to("192.168.85.152:443").syn(1));
}

#[test]
fn a_handshake_that_a_halt_cuts_off_is_answered_with_a_reset() {
    let Some(mut world) = World::new() else { return };
    // The client has seen the SYN-ACK, so it believes that it is connected.
    let connection = world.half_connect(CLIENT, VIP);
    halt(&mut world, "web", &connection);
    let seen = reset(&mut world, from(CLIENT).to(VIP).ack(connection.seq, connection.ack));
    assert_eq!(seen.tcp, (flag::RST, connection.ack, 0));
    assert!(world.half_open().is_empty() && world.flows().is_empty() && world.pins().is_empty());

    // Another one has not; its SYN, sent again, goes elsewhere.
    let other = "10.20.0.8:40001";
    world.admin("web/a", Admin::Online);
    world.admin("web/b", Admin::Online);
    world.admin("web/c", Admin::Online);
    let syn = world.to_rip(from(other).to(VIP).syn(1));
    world.admin(&world.name_at("web", syn.dst.ip()), Admin::Halt);
    world.expect(Verdict::DropHalted, from(syn.dst).to(syn.src).syn_ack(1, 2));
    assert_ne!(world.to_rip(from(other).to(VIP).syn(1)).dst, syn.dst);
}

#[test]
fn a_halted_rip_stays_halted_when_it_is_removed_from_the_configuration() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    halt(&mut world, "web", &connection);
    world.sweep(Duration::ZERO);
    world.reload(|config| balance(config, "web").rips.retain(|rip| rip.address != connection.rip.ip()));
    reset(&mut world, connection.request(b"still here?"));
}

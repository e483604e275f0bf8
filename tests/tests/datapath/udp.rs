//! UDP: flows without handshakes.

use std::time::Duration;

use epiclb::{
    desired::HostPorts,
    model::{Admin, Health},
};
use epiclb_common::{FlowKey, HalfOpen, Verdict, maps::name};

use crate::{
    frame::{Sums, from},
    world::{World, balance, key},
};

const CLIENT: &str = "10.20.0.7:5353";
const VIP: &str = "192.168.85.150:53";

#[test]
fn a_flow_and_a_pin_are_made_when_the_client_goes_on_after_an_answer() {
    let Some(mut world) = World::new() else { return };
    let question = world.to_rip(from(CLIENT).to(VIP).udp(b"question"));
    assert_eq!((question.dst.port(), question.payload.as_slice()), (53, &b"question"[..]));
    assert_eq!((world.flows().len(), world.pins().len(), world.half_open().len()), (0, 0, 2));
    let answer = world.to_client(from(question.dst).to(question.src).udp(b"answer"));
    assert_eq!((answer.src.to_string().as_str(), answer.dst.to_string().as_str()), (VIP, CLIENT));
    assert_eq!((world.flows().len(), world.pins().len()), (0, 0));
    let more = world.to_rip(from(CLIENT).to(VIP).udp(b"more"));
    assert_eq!((more.src, more.dst), (question.src, question.dst));
    assert_eq!((world.flows().len(), world.pins().len(), world.half_open().len()), (2, 1, 0));
    assert_eq!(world.pinned_to("dns", "10.20.0.7"), Some(question.dst.ip()));
    world.to_client(from(question.dst).to(question.src).udp(b"answer"));
    assert_eq!(world.flow(&key(CLIENT, VIP, 17)).unwrap().idle_limit(17), 300);
}

#[test]
fn udp_over_ipv6_goes_both_ways() {
    let Some(mut world) = World::new() else { return };
    let (client, vip) = ("[2001:db8:20::7]:5353", "[2001:db8:85::150]:53");
    for _ in 0..2 {
        let question = world.to_rip(from(client).to(vip).udp(b"question"));
        let answer = world.to_client(from(question.dst).to(question.src).udp(b"answer"));
        assert_eq!((answer.src.to_string().as_str(), answer.dst.to_string().as_str()), (vip, client));
    }
    assert_eq!((world.flows().len(), world.pins().len()), (2, 0), "persistence is off");
}

#[test]
fn an_absent_checksum_stays_absent() {
    let Some(mut world) = World::new() else { return };
    let out = world.expect(Verdict::ToRip, from(CLIENT).to(VIP).udp(b"question").without_checksum());
    assert_eq!(out.frame[40..42], [0, 0]);
    let question = out.seen();
    let out = world.expect(Verdict::ToClient, from(question.dst).to(question.src).udp(b"answer").without_checksum());
    assert_eq!(out.frame[40..42], [0, 0]);
}

#[test]
fn a_checksum_never_becomes_absent() {
    let Some(mut world) = World::new() else { return };
    // Of 65,536 payloads, one makes the checksum come out as zero, which is sent as ones.
    let mut ones = 0;
    for n in 0..=u16::MAX {
        let mut input = from(CLIENT).to(VIP).udp(&n.to_be_bytes()).bytes();
        if input[40..42] == [0, 0] {
            input[40..42].copy_from_slice(&[0xff, 0xff]);
        }
        let (_, frame) = world.run(&input);
        assert_ne!(frame[40..42], [0, 0], "payload {n:04x}");
        ones += u32::from(frame[40..42] == [0xff, 0xff]);
        if n % 509 == 0 || frame[40..42] == [0xff, 0xff] {
            assert!(Sums::of(&frame).unwrap().are_right(), "payload {n:04x}");
        }
    }
    assert_eq!(ones, 1);
}

#[test]
fn one_way_traffic_keeps_its_port_and_pins_nobody() {
    let Some(mut world) = World::new() else { return };
    let first = world.to_rip(from(CLIENT).to(VIP).udp(b"1"));
    for _ in 0..20 {
        assert_eq!(world.to_rip(from(CLIENT).to(VIP).udp(b"2")).src, first.src);
    }
    assert_eq!((world.flows().len(), world.pins().len(), world.half_open().len()), (0, 0, 2));
}

#[test]
fn an_answer_after_a_long_silence_reaches_who_asked() {
    let Some(mut world) = World::new() else { return };
    let question = world.to_rip(from(CLIENT).to(VIP).udp(b"question"));
    world.age_half_open(Duration::from_secs(66));
    world.to_client(from(question.dst).to(question.src).udp(b"answer"));
    // The next question starts afresh.
    world.to_rip(from(CLIENT).to(VIP).udp(b"question"));
    assert!(world.flows().is_empty());
}

#[test]
fn a_halt_before_the_flow_is_open_moves_the_client_too() {
    let Some(mut world) = World::new() else { return };
    let question = world.to_rip(from(CLIENT).to(VIP).udp(b"1"));
    world.admin(&world.name_at("dns", question.dst.ip()), Admin::Halt);
    world.expect(Verdict::DropHalted, from(question.dst).to(question.src).udp(b"answer"));
    assert_ne!(world.to_rip(from(CLIENT).to(VIP).udp(b"2")).dst, question.dst);
}

#[test]
fn a_halted_rips_clients_go_elsewhere_and_its_own_datagrams_end() {
    let Some(mut world) = World::new() else { return };
    let question = world.to_rip(from(CLIENT).to(VIP).udp(b"1"));
    let answer = || from(question.dst).to(question.src).udp(b"answer");
    world.to_client(answer());
    world.to_rip(from(CLIENT).to(VIP).udp(b"2"));
    assert_eq!(world.flows().len(), 2);
    world.admin(&world.name_at("dns", question.dst.ip()), Admin::Halt);
    world.expect(Verdict::DropHalted, answer());
    // There is no RST in UDP by which the client could be told to start afresh.
    let moved = world.to_rip(from(CLIENT).to(VIP).udp(b"3"));
    assert_ne!(moved.dst, question.dst);
    world.to_client(from(moved.dst).to(moved.src).udp(b"answer"));
    world.to_rip(from(CLIENT).to(VIP).udp(b"4"));
    assert_eq!(world.pinned_to("dns", "10.20.0.7"), Some(moved.dst.ip()));
}

#[test]
fn a_client_that_never_stops_sending_leaves_a_rip_that_is_down_or_removed_but_not_one_that_drains() {
    for leave in [
        |world: &mut World, rip: &str| world.health(rip, Health::Down),
        |world: &mut World, rip: &str| {
            let label = rip.split_once('/').unwrap().1.to_owned();
            world.reload(|config| balance(config, "dns").rips.retain(|rip| rip.label != label));
        },
    ] {
        let Some(mut world) = World::new() else { return };
        let first = world.to_rip(from(CLIENT).to(VIP).udp(b"1"));
        world.to_client(from(first.dst).to(first.src).udp(b"answer"));
        world.to_rip(from(CLIENT).to(VIP).udp(b"2"));
        let name = world.name_at("dns", first.dst.ip());
        for admin in [Admin::Drain, Admin::DrainHard, Admin::Online] {
            world.admin(&name, admin);
            assert_eq!(world.to_rip(from(CLIENT).to(VIP).udp(b"3")).dst, first.dst, "{admin:?}");
        }
        leave(&mut world, &name);
        assert_ne!(world.to_rip(from(CLIENT).to(VIP).udp(b"4")).dst, first.dst);
    }
}

#[test]
fn one_way_traffic_does_not_lose_its_port_to_another_client_after_a_minute() {
    let Some(mut world) = World::new() else { return };
    // One port: the second client can only have what the first one leaves.
    world.host("2001:db8:85::150", HostPorts { first: 1025, last: u16::MAX });
    let vip = "[2001:db8:85::150]:53";
    let (log, other) = (from("[2001:db8:20::7]:514"), from("[2001:db8:20::8]:514"));
    world.to_rip(log.clone().to(vip).udp(b"a line"));
    for _ in 0..3 {
        world.age_half_open(Duration::from_secs(40));
        world.to_rip(log.clone().to(vip).udp(b"a line"));
    }
    world.expect(Verdict::DropSnatPorts, other.clone().to(vip).udp(b"a line"));
    world.age_half_open(Duration::from_secs(66));
    world.to_rip(other.to(vip).udp(b"a line"));
}

#[test]
fn a_question_whose_way_back_was_pushed_out_of_the_table_gets_another() {
    let Some(mut world) = World::new() else { return };
    let question = world.to_rip(from(CLIENT).to(VIP).udp(b"question"));
    let back = key(question.dst, question.src, 17);
    assert!(world.map::<FlowKey, HalfOpen>(name::HALF_OPEN).remove(&back).unwrap());
    world.expect(Verdict::DropNoService, from(question.dst).to(question.src).udp(b"answer"));
    let again = world.to_rip(from(CLIENT).to(VIP).udp(b"question"));
    world.to_client(from(again.dst).to(again.src).udp(b"answer"));
}

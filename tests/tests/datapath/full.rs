//! Full tables: who is refused, and that nobody who is in suffers.

use std::time::Duration;

use epiclb::model::Limits;
use epiclb_common::{Flow, FlowKey, Verdict, maps::name, verdict::Note};

use crate::{
    frame::from,
    world::{Connection, World, boot, hour},
};

const VIP: &str = "192.168.85.150:443";

fn client(n: u32) -> String {
    format!("10.20.{}.{}:40001", n / 250, n % 250)
}

#[test]
fn at_the_limit_of_pins_none_is_added_none_evicted_and_the_ring_serves() {
    let Some(mut world) = World::with(Limits { flows: 8192, pins: 20, half_open: 1024 }, |_| {}) else { return };
    for n in 0..20 {
        world.connect(client(n).as_str(), VIP);
    }
    let pins = world.pins();
    assert_eq!((pins.len(), world.note(Note::PinTableFull)), (20, 0));
    let places: Vec<_> = (20..60).map(|n| world.connect(client(n).as_str(), VIP).rip).collect();
    assert_eq!(world.note(Note::PinTableFull), 40);
    assert_eq!(world.pins(), pins, "not one of them touched");
    for (n, rip) in (20..60).zip(places) {
        let again = from(client(n).replace("40001", "40002").as_str()).to(VIP).syn(1);
        assert_eq!(world.to_rip(again).dst, rip, "the ring's choice lasts");
    }
    // Who is in can still move.
    let mover = client(3);
    let old = world.pins()[&crate::world::pin_key("web", "10.20.0.3")].rip;
    let name = world.name_at("web", world.address_of(old));
    world.admin(&name, epiclb::model::Admin::DrainHard);
    let moved = world.connect(mover.replace("40001", "40003").as_str(), VIP);
    assert_eq!(world.pinned_to("web", "10.20.0.3"), Some(moved.rip.ip()));
    world.admin(&name, epiclb::model::Admin::Online);

    // Room made by expiry is room for others, once the sweeper has said so.
    world.age_pin("web", "10.20.0.3", hour() + Duration::from_secs(3));
    let flows = world.flows();
    let table = world.map::<FlowKey, Flow>(name::FLOWS);
    flows.keys().for_each(|key| drop(table.remove(key)));
    let swept = world.sweep(Duration::ZERO);
    assert_eq!((swept.pins, swept.tally.held_pins, swept.tally.evicted_pins), (1, 19, 0));
    world.connect(client(70).as_str(), VIP);
    world.connect(client(71).as_str(), VIP);
    assert!(world.pin("web", "10.20.0.70").is_some());
    assert!(world.pin("web", "10.20.0.71").is_none());
}

#[test]
fn clients_of_udp_leave_the_last_tenth_of_the_pins_to_verified_ones() {
    let Some(mut world) = World::with(Limits { flows: 8192, pins: 20, half_open: 1024 }, |_| {}) else { return };
    for n in 0..30 {
        let (client, vip) = (client(n), "192.168.85.150:53");
        let question = world.to_rip(from(client.as_str()).to(vip).udp(b"1"));
        world.to_client(from(question.dst).to(question.src).udp(b"answer"));
        world.to_rip(from(client.as_str()).to(vip).udp(b"2"));
    }
    assert_eq!((world.pins().len(), world.note(Note::PinTableFull)), (18, 12));
    for n in 30..40 {
        world.connect(client(n).as_str(), VIP);
    }
    assert_eq!(world.pins().len(), 20);
}

#[test]
fn a_full_flow_table_refuses_and_takes_up_again_what_it_refused() {
    let Some(mut world) = World::with(Limits { flows: 10, pins: 4096, half_open: 1024 }, |_| {}) else { return };
    let open: Vec<_> = (0..10).map(|n| world.connect(client(n).as_str(), VIP)).collect();
    let refused = world.half_connect(client(10).as_str(), VIP);
    let ack = || from(refused.client).to(VIP).ack(refused.seq, refused.ack);
    world.expect(Verdict::DropFlowTableFull, ack());
    world.expect(Verdict::DropFlowTableFull, ack());
    assert_eq!((world.flows().len(), world.pins().len()), (20, 10));
    all_go_on(&mut world, &open);

    // One ends; the refused one's retransmission gets in.
    world.to_rip(from(open[0].client).to(VIP).rst(open[0].seq));
    world.sweep(Duration::from_secs(11));
    world.to_rip(refused.request(b"first data"));
    world.to_client(refused.response(b"answer"));
    assert_eq!((world.flows().len(), world.pins().len()), (20, 11));
    all_go_on(&mut world, &open[1..]);
}

#[test]
fn half_a_flow_is_never_left_in_a_full_table() {
    let Some(mut world) = World::with(Limits { flows: 2, pins: 4096, half_open: 1024 }, |_| {}) else { return };
    world.connect(client(0).as_str(), VIP);
    // One entry of some other flow: an odd number is in.
    let stray = Flow { seen: boot().as_secs() as u32, ..Flow::default() };
    world.bpf.put_flow(&FlowKey::default(), &stray).unwrap();
    let refused = world.half_connect(client(1).as_str(), VIP);
    world.expect(Verdict::DropFlowTableFull, from(refused.client).to(VIP).ack(refused.seq, refused.ack));
    assert_eq!(world.flows().len(), 3);
    assert!(world.pin("web", "10.20.0.1").is_none());
}

#[track_caller]
fn all_go_on(world: &mut World, open: &[Connection]) {
    for connection in open {
        assert_eq!(world.to_rip(connection.request(b"x")).dst, connection.rip);
        assert_eq!(world.to_client(connection.response(b"x")).dst, connection.client);
    }
}

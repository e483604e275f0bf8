//! Four times the pin table's size of spoofed sources, a few packets each: nobody who was there notices.

use std::{collections::BTreeMap, time::Duration};

use epiclb_common::{Verdict, verdict::Note};

use crate::{
    frame::{flag, from},
    world::{RIP_ISN, SMALL, World, action},
};

const VIP: &str = "192.168.85.150:443";
const CLINICIANS: u32 = 500;
const SPOOFED: u32 = 4 * SMALL.pins;

fn clinician(n: u32, port: u16) -> String {
    format!("10.20.{}.{}:{port}", n / 250, n % 250)
}

/// One spoofed source: two SYNs, the RIP's answer that it never sees, and an ACK made up.
fn spoof(world: &mut World, n: u32) {
    let source = format!("172.20.{}.{}:{}", n / 250, n % 250, 1024 + n % 50_000);
    let source = || from(source.as_str()).to(VIP);
    let (action, frame) = world.run(&source().syn(n).bytes());
    assert_eq!(action, action::TX);
    let syn = crate::frame::see(&frame);
    assert_eq!(world.run(&from(syn.dst).to(syn.src).syn_ack(RIP_ISN, n + 1).bytes()).0, action::TX);
    assert_eq!(world.run(&source().syn(n).bytes()).0, action::TX);
    assert_eq!(world.run(&source().tcp(flag::ACK, n + 1, 0xdead_0000 ^ n).bytes()).0, action::DROP);
}

#[test]
fn a_flood_of_spoofed_sources_moves_no_client_and_ends_no_flow() {
    let Some(mut world) = World::new() else { return };
    let open: Vec<_> = (0..CLINICIANS).map(|n| world.connect(clinician(n, 40_001).as_str(), VIP)).collect();
    world.sweep(Duration::ZERO);
    let (pins, flows) = (world.pins(), world.flows());
    assert_eq!((pins.len(), flows.len()), (500, 1000));

    // Meanwhile, others arrive: between their SYN and their ACK there are a hundred packets of the flood.
    let mut arrived = BTreeMap::new();
    for n in 0..SPOOFED {
        if n % 256 == 200 {
            let honest = world.half_connect(clinician(1000 + n / 256, 40_001).as_str(), VIP);
            (0..25).for_each(|i| spoof(&mut world, SPOOFED + n + i));
            world.to_rip(from(honest.client).to(honest.vip).ack(honest.seq, honest.ack));
            arrived.insert(honest.client, honest);
        }
        spoof(&mut world, n);
    }

    let after = world.pins();
    assert_eq!(after.len(), 500 + arrived.len(), "no source of the flood is pinned");
    for (client, pin) in &pins {
        assert_eq!(after.get(client), Some(pin), "{}", client.client);
    }
    let after = world.flows();
    assert_eq!(after.len(), flows.len() + 2 * arrived.len());
    for (key, flow) in &flows {
        assert_eq!(after.get(key), Some(flow));
    }
    assert_eq!(world.note(Note::PinTableFull), 0);
    assert_eq!(world.sweep(Duration::ZERO).tally.evicted_pins, 0);

    for (n, connection) in open.iter().chain(arrived.values()).enumerate() {
        assert_eq!(world.to_rip(connection.request(b"order")).dst, connection.rip);
        assert_eq!(world.to_client(connection.response(b"result")).dst, connection.client);
        if n % 5 == 0 {
            let mut next = connection.client;
            next.set_port(40_002);
            assert_eq!(world.connect(next, VIP).rip, connection.rip, "{next} did not move");
        }
    }
    assert_eq!(world.verdict(Verdict::DropInternal), 0);
    assert!(world.verdict(Verdict::DropUnverified) + world.verdict(Verdict::DropNoFlow) >= u64::from(SPOOFED));
}

#[test]
fn a_flood_of_udp_moves_no_client_either() {
    let Some(mut world) = World::new() else { return };
    let open: Vec<_> = (0..100).map(|n| world.connect(clinician(n, 40_001).as_str(), VIP)).collect();
    let (pins, flows) = (world.pins(), world.flows());
    for n in 0..SPOOFED {
        let source = format!("172.20.{}.{}:{}", n / 250, n % 250, 1024 + n % 50_000);
        for _ in 0..2 {
            assert_eq!(world.run(&from(source.as_str()).to("192.168.85.150:53").udp(b"?").bytes()).0, action::TX);
        }
    }
    assert_eq!((world.pins(), world.flows()), (pins, flows), "without an answer there is nothing to remember");
    for connection in &open {
        world.to_rip(connection.request(b"order"));
    }
}

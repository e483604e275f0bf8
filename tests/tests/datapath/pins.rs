//! Source-IP persistence: when a client's RIP is remembered, used, moved and forgotten.

use std::{net::IpAddr, time::Duration};

use epiclb::{
    model::{Admin, Health, Protocol},
    plan::Op,
};
use epiclb_common::{Verdict, verdict::Note};

use crate::{
    frame::from,
    world::{World, balance, boot, hour, vip},
};

const CLIENT: &str = "10.20.0.7";
const VIP: &str = "192.168.85.150:443";

fn at(port: u16) -> String {
    format!("{CLIENT}:{port}")
}

/// A RIP of `web` that the ring would not choose for the client.
fn not_the_rings(world: &mut World) -> (String, IpAddr) {
    let ring = world.choice(at(39_999).as_str(), VIP);
    let name = ["web/a", "web/b"].into_iter().find(|name| world.address_of(world.id(name)) != ring).unwrap();
    (name.into(), world.address_of(world.id(name)))
}

#[test]
fn a_pin_comes_before_the_ring() {
    let Some(mut world) = World::new() else { return };
    let (name, address) = not_the_rings(&mut world);
    world.pin_to(CLIENT, &name);
    assert_eq!(world.connect(at(40_001).as_str(), VIP).rip.ip(), address);
    assert_eq!(world.pinned_to("web", CLIENT), Some(address));
    assert_eq!(world.note(Note::PinMoved), 0);
}

#[test]
fn a_pin_is_kept_for_59_minutes_and_the_60th_and_is_gone_after_it() {
    let Some(mut world) = World::new() else { return };
    let (name, address) = not_the_rings(&mut world);
    let ring = world.choice(at(39_998).as_str(), VIP);
    for (silence, expected) in
        [(hour() * 59 / 60, address), (hour(), address), (hour() + Duration::from_secs(3), ring), (hour() * 2, ring)]
    {
        world.pin_to(CLIENT, &name);
        world.age_pin("web", CLIENT, silence);
        assert_eq!(world.choice(at(40_000).as_str(), VIP), expected, "after {silence:?}");
    }
}

#[test]
fn an_expired_pin_starts_anew_with_the_next_verified_handshake() {
    let Some(mut world) = World::new() else { return };
    let (name, old) = not_the_rings(&mut world);
    world.pin_to(CLIENT, &name);
    world.age_pin("web", CLIENT, hour() + Duration::from_secs(3));
    let connection = world.half_connect(at(40_001).as_str(), VIP);
    assert_eq!(world.pinned_to("web", CLIENT), Some(old), "not before the handshake is verified");
    world.to_rip(from(connection.client).to(VIP).ack(connection.seq, connection.ack));
    assert_eq!(world.pinned_to("web", CLIENT), Some(connection.rip.ip()));
    let pin = world.pin("web", CLIENT).unwrap();
    assert!(boot().as_nanos() as u64 - pin.seen < 5_000_000_000);
    assert_eq!(world.pins().len(), 1);
}

#[test]
fn a_clients_traffic_restarts_its_time_at_most_once_a_second() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(at(40_001).as_str(), VIP);
    let (mut kept, mut renewed) = (0, 0);
    while kept < 50 || renewed < 1 {
        world.age_pin("web", CLIENT, hour() / 2);
        let aged = world.pin("web", CLIENT).unwrap().seen;
        let stamp = world.both(&connection).0.stamp;
        world.to_rip(connection.request(b"more"));
        let same_second = world.both(&connection).0.stamp == stamp;
        assert_eq!(world.pin("web", CLIENT).unwrap().seen == aged, same_second);
        if same_second {
            kept += 1
        } else {
            renewed += 1
        }
        if kept == 50 && renewed == 0 {
            // The next second, without waiting for it.
            world.age_flow(&connection.key(), Duration::ZERO);
        }
    }
}

#[test]
fn a_rips_traffic_does_not_restart_its_clients_time() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(at(40_001).as_str(), VIP);
    world.age_pin("web", CLIENT, hour() / 2);
    let aged = world.pin("web", CLIENT).unwrap();
    let back = world.both(&connection).0.other_key(6);
    world.age_flow(&back, Duration::ZERO);
    world.to_client(connection.response(b"x"));
    assert_ne!(world.flow(&back).unwrap().stamp, 0, "the flow itself is refreshed");
    assert_eq!(world.pin("web", CLIENT), Some(aged));
}

#[test]
fn a_drained_rip_keeps_its_pinned_clients_and_gets_no_new_ones() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(at(40_001).as_str(), VIP);
    let name = world.name_at("web", connection.rip.ip());
    world.admin(&name, Admin::Drain);
    assert_eq!(world.connect(at(40_002).as_str(), VIP).rip, connection.rip);
    for n in 0..50 {
        assert_ne!(world.choice(format!("10.21.0.{n}:40001").as_str(), VIP), connection.rip.ip());
    }
}

#[test]
fn clients_of_a_rip_that_may_not_have_them_move_once_and_stay_where_they_went() {
    let Some(mut world) = World::new() else { return };
    type Change = fn(&mut World, &str);
    let cases: [(&str, Change, Change); 3] = [
        ("drain --hard", |w, r| w.admin(r, Admin::DrainHard), |w, r| w.admin(r, Admin::Online)),
        ("down", |w, r| w.health(r, Health::Down), |w, r| w.health(r, Health::Up)),
        ("halt", |w, r| w.admin(r, Admin::Halt), |w, r| w.admin(r, Admin::Online)),
    ];
    for (n, (sentence, away, back)) in cases.into_iter().enumerate() {
        let client = format!("10.20.3.{n}");
        let at = |port| format!("{client}:{port}");
        let old = world.connect(at(40_001).as_str(), VIP).rip;
        let name = world.name_at("web", old.ip());
        let moved = world.note(Note::PinMoved);

        away(&mut world, &name);
        let half = world.half_connect(at(40_002).as_str(), VIP);
        assert_ne!(half.rip, old, "{sentence}");
        assert_eq!(world.pinned_to("web", &client), Some(old.ip()), "{sentence}: not before it is verified");
        world.to_rip(from(half.client).to(VIP).ack(half.seq, half.ack));
        assert_eq!(world.pinned_to("web", &client), Some(half.rip.ip()), "{sentence}");
        assert_eq!(world.note(Note::PinMoved), moved + 1, "{sentence}");
        let pin = world.pin("web", &client).unwrap();
        assert!(boot().as_secs() as u32 - pin.since <= 2, "{sentence}: pinned there since now");

        back(&mut world, &name);
        assert_eq!(world.connect(at(40_003).as_str(), VIP).rip, half.rip, "{sentence}: it stays");
        assert_eq!(world.note(Note::PinMoved), moved + 1, "{sentence}");
    }
}

#[test]
fn a_rip_that_goes_down_moves_its_own_clients_and_no_others() {
    let Some(mut world) = World::new() else { return };
    let clients: Vec<_> = (0..60).map(|n| format!("10.20.4.{n}:40001")).collect();
    let before: Vec<_> = clients.iter().map(|client| world.choice(client.as_str(), VIP)).collect();
    world.health("web/b", Health::Down);
    let b: IpAddr = "192.168.85.202".parse().unwrap();
    for (client, old) in clients.iter().zip(&before) {
        let new = world.choice(client.as_str(), VIP);
        assert_eq!(new == *old, *old != b, "{client} went from {old} to {new}");
    }
    world.health("web/b", Health::Up);
    let after: Vec<_> = clients.iter().map(|client| world.choice(client.as_str(), VIP)).collect();
    assert_eq!(before, after, "the ring gives everyone back");
}

#[test]
fn weights_are_the_shares_of_new_clients_and_weight_0_keeps_its_pinned_ones() {
    let Some(mut world) = World::new() else { return };
    world.reload(|config| {
        balance(config, "web").rips[0].weight = 200;
        balance(config, "web").rips[2].weight = 0;
    });
    let mut count = std::collections::BTreeMap::<_, u32>::new();
    for n in 0..600_u32 {
        let client = format!("10.22.{}.{}:40001", n / 250, n % 250);
        *count.entry(world.choice(client.as_str(), VIP).to_string()).or_default() += 1;
    }
    assert_eq!(count.len(), 2, "{count:?}");
    assert!((340..=460).contains(&count["192.168.85.201"]), "two thirds of 600: {count:?}");
    world.pin_to(CLIENT, "web/c");
    assert_eq!(world.choice(at(40_001).as_str(), VIP).to_string(), "192.168.85.203");
}

#[test]
fn switching_persistence_off_forgets_without_a_restart() {
    let Some(mut world) = World::new() else { return };
    let (name, pinned) = not_the_rings(&mut world);
    world.pin_to(CLIENT, &name);
    world.reload(|config| balance(config, "web").persistence = None);
    assert_ne!(world.connect(at(40_001).as_str(), VIP).rip.ip(), pinned);
    world.age_pin("web", CLIENT, Duration::from_secs(3));
    world.sweep(Duration::ZERO);
    assert!(world.pins().is_empty());
}

#[test]
fn without_a_rip_to_go_to_new_clients_are_dropped_and_pinned_ones_of_a_draining_rip_served() {
    let Some(mut world) = World::new() else { return };
    world.pin_to(CLIENT, "web/a");
    for rip in ["web/a", "web/b", "web/c"] {
        world.admin(rip, Admin::Drain);
    }
    world.expect(Verdict::DropNoRip, from("10.20.0.8:40001").to(VIP).syn(1));
    world.connect(at(40_001).as_str(), VIP);
    world.health("web/a", Health::Down);
    world.expect(Verdict::DropNoRip, from(at(40_002).as_str()).to(VIP).syn(1));
    world.health("web/a", Health::Unknown);
    world.expect(Verdict::DropNoRip, from(at(40_002).as_str()).to(VIP).syn(1));
}

#[test]
fn a_pin_of_a_removed_rip_does_not_lead_to_another_vips_rip_that_got_its_id() {
    let Some(mut world) = World::new() else { return };
    world.pin_to(CLIENT, "web/c");
    let id = world.id("web/c");
    world.reload(|config| balance(config, "web").rips.truncate(2));
    world.neighbour("192.168.85.240", Some([2, 4, 0, 0, 0, 240]));
    world.reload(|config| {
        config.services.vips.push(vip("hl7", "192.168.85.160", 2575..=2575, Protocol::Tcp, None, &["192.168.85.240"]));
    });
    world.health("hl7/a", Health::Up);
    assert_eq!(world.id("hl7/a"), id, "the id was free");
    let chosen = world.choice(at(40_001).as_str(), VIP).to_string();
    assert!(["192.168.85.201", "192.168.85.202"].contains(&chosen.as_str()), "went to {chosen}");
}

#[test]
fn a_ring_that_was_swapped_by_a_daemon_killed_right_after_is_not_taken_for_the_old_one() {
    let Some(mut world) = World::new() else { return };
    let clients: Vec<_> = (0..30).map(|n| format!("10.20.5.{n}:40001")).collect();
    let before: Vec<_> = clients.iter().map(|client| world.choice(client.as_str(), VIP)).collect();
    balance(&mut world.config, "web").rips[0].weight = 0;
    world.apply_until(|op| matches!(op, Op::PublishRing(..)));
    // The next daemon finds the configuration as it was.
    world.reload(|config| balance(config, "web").rips[0].weight = 100);
    let after: Vec<_> = clients.iter().map(|client| world.choice(client.as_str(), VIP)).collect();
    assert_eq!(before, after);
}

#[test]
fn a_connection_left_at_the_old_rip_keeps_the_pin_to_the_new_one_alive() {
    let Some(mut world) = World::new() else { return };
    let old = world.connect(at(40_001).as_str(), VIP);
    world.admin(&world.name_at("web", old.rip.ip()), Admin::DrainHard);
    let new = world.connect(at(40_002).as_str(), VIP);
    assert_ne!(new.rip, old.rip);
    world.to_rip(from(new.client).to(VIP).rst(new.seq));

    // An hour of work on the old connection, with the new one long closed.
    world.age_pin("web", CLIENT, hour() * 59 / 60);
    world.age_flow(&old.key(), Duration::ZERO);
    world.to_rip(old.request(b"still typing"));
    let pin = world.pin("web", CLIENT).unwrap();
    assert!(boot().as_nanos() as u64 - pin.seen < 5_000_000_000, "its time has restarted");
    assert_eq!(world.pinned_to("web", CLIENT), Some(new.rip.ip()), "and it did not move");
}

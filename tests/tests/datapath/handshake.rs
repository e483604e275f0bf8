//! TCP: from the first SYN to a closed flow.

use epiclb_common::{Verdict, flow::state, headers::tcp};

use crate::{
    frame::{OWN_MAC, Packet, ROUTER_MAC, flag, from, mac_of},
    world::{CLIENT_ISN, Connection, FAR_MAC, RIP_ISN, World, action},
};

const CLIENT: &str = "10.20.0.7:40001";
const VIP: &str = "192.168.85.150:443";
const CLIENT6: &str = "[2001:db8:20::7]:40001";
const VIP6: &str = "[2001:db8:85::150]:443";

#[test]
fn a_handshake_makes_a_flow_and_a_pin_and_data_goes_both_ways_over_ipv4() {
    let Some(mut world) = World::new() else { return };
    a_handshake_makes_a_flow_and_a_pin(&mut world, "web", CLIENT, VIP);
}

#[test]
fn a_handshake_makes_a_flow_and_a_pin_and_data_goes_both_ways_over_ipv6() {
    let Some(mut world) = World::new() else { return };
    a_handshake_makes_a_flow_and_a_pin(&mut world, "web6", CLIENT6, VIP6);
}

fn a_handshake_makes_a_flow_and_a_pin(world: &mut World, vip: &str, client: &str, address: &str) {
    let client_ip = client.parse::<std::net::SocketAddr>().unwrap().ip().to_string();

    let syn = world.to_rip(from(client).to(address).syn(CLIENT_ISN));
    assert_eq!(syn.macs, (OWN_MAC, mac_of(syn.dst.ip())), "the RIP's MAC comes from the neighbour table");
    assert_eq!(
        syn.src.ip().to_string() + ":443",
        address.replace(['[', ']'], ""),
        "the VIP's own address is the source"
    );
    assert!(syn.src.port() >= 1024);
    assert_eq!(syn.dst.port(), 443, "a RIP without a port has the VIP's");
    assert_eq!(syn.tcp, (flag::SYN, CLIENT_ISN, 0));
    assert!(world.flows().is_empty() && world.pins().is_empty(), "a SYN proves nothing");
    assert_eq!(world.half_open().len(), 1);

    let syn_ack = world.to_client(from(syn.dst).to(syn.src).syn_ack(RIP_ISN, CLIENT_ISN + 1));
    assert_eq!(syn_ack.macs, (OWN_MAC, ROUTER_MAC), "the way back is where the SYN came from");
    assert_eq!((syn_ack.src.to_string().as_str(), syn_ack.dst.to_string().as_str()), (address, client));
    assert!(world.flows().is_empty() && world.pins().is_empty(), "nor does a SYN-ACK");
    assert_eq!(world.half_open().len(), 2);

    let connection = Connection {
        client: syn_ack.dst,
        vip: syn_ack.src,
        snat: syn.src,
        rip: syn.dst,
        seq: CLIENT_ISN + 1,
        ack: RIP_ISN.wrapping_add(1),
    };
    let ack = world.to_rip(from(client).to(address).ack(connection.seq, connection.ack));
    assert_eq!((ack.src, ack.dst), (syn.src, syn.dst));
    assert_eq!(world.flows().len(), 2, "both directions");
    assert!(world.half_open().is_empty());
    assert_eq!(world.pinned_to(vip, &client_ip), Some(syn.dst.ip()));
    assert_eq!(world.pins().len(), 1);

    let request = world.to_rip(connection.request(b"GET / HTTP/1.1\r\n\r\n"));
    assert_eq!(
        (request.src, request.dst, request.payload.as_slice()),
        (syn.src, syn.dst, &b"GET / HTTP/1.1\r\n\r\n"[..])
    );
    let response = world.to_client(connection.response(b"HTTP/1.1 200 OK\r\n\r\n"));
    assert_eq!((response.src, response.dst), (syn_ack.src, syn_ack.dst));
    assert_eq!(response.payload, b"HTTP/1.1 200 OK\r\n\r\n");

    let stats = world.stats(&world.name_at(vip, syn.dst.ip()));
    assert_eq!((stats.attempts, stats.connections), (1, 1));
    assert_eq!((stats.packets_in, stats.packets_out), (3, 2));
    let sent = |packets: &[Packet]| packets.iter().map(|p| p.bytes().len() as u64).sum::<u64>();
    let syn = from(client).to(address).syn(CLIENT_ISN);
    let ack = from(client).to(address).ack(connection.seq, connection.ack);
    assert_eq!(stats.bytes_in, sent(&[syn, ack, connection.request(b"GET / HTTP/1.1\r\n\r\n")]));
}

#[test]
fn a_rip_with_a_port_of_its_own_is_reached_there_and_answers_from_the_vips() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, "192.168.85.152:443");
    assert_eq!(connection.rip.port(), 8443);
    let response = world.to_client(connection.response(b"hello"));
    assert_eq!(response.src.to_string(), "192.168.85.152:443");
}

#[test]
fn every_port_of_a_range_is_served_and_kept() {
    let Some(mut world) = World::new() else { return };
    for port in 8000..=8010 {
        let connection = world.connect(CLIENT, format!("192.168.85.151:{port}").as_str());
        assert_eq!(connection.rip.port(), port);
    }
    for port in [7999, 8011] {
        world.expect(Verdict::DropNoService, from(CLIENT).to(format!("192.168.85.151:{port}").as_str()).syn(1));
    }
    assert!(world.pins().is_empty(), "persistence is off");
}

#[test]
fn a_rip_on_another_interface_is_reached_through_it() {
    let Some(mut world) = World::new() else { return };
    let out = world.expect(Verdict::ToRip, from(CLIENT).to("192.168.85.153:443").syn(CLIENT_ISN));
    assert_eq!(out.action, action::REDIRECT);
    assert_eq!(out.seen().macs.0, FAR_MAC, "frames leave with the MAC of the interface they leave by");
    let near = world.expect(Verdict::ToRip, from(CLIENT).to(VIP).syn(CLIENT_ISN));
    assert_eq!(near.action, action::TX);
}

#[test]
fn snat_addresses_of_the_node_are_used_and_spread() {
    let ours = ["192.168.85.10", "192.168.85.11", "2001:db8:85::10"];
    let edit = |config: &mut epiclb::model::Config| config.node.snat = ours.map(|a| a.parse().unwrap()).into();
    let Some(mut world) = World::with(crate::world::SMALL, edit) else { return };
    let mut seen = std::collections::BTreeSet::new();
    for port in 40_000..40_040 {
        seen.insert(world.connect(format!("10.20.0.7:{port}").as_str(), VIP).snat.ip().to_string());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ours[..2]);
    let six = world.connect(CLIENT6, VIP6);
    assert_eq!(six.snat.ip().to_string(), ours[2]);
    world.to_client(six.response(b"x"));
}

#[test]
fn a_flow_closed_by_both_sides_lets_stragglers_through_and_a_syn_starts_afresh() {
    let Some(mut world) = World::new() else { return };
    let old = world.connect(CLIENT, VIP);
    world.to_rip(old.client_fin());
    let (there, back) = world.both(&old);
    assert_eq!((there.state, back.state), (state::CLIENT_FIN, state::CLIENT_FIN | state::TO_CLIENT));
    assert!(!there.is_closed());
    world.to_client(old.response(b"the rest"));
    world.to_client(old.rip_fin());
    let (there, back) = world.both(&old);
    assert!(there.is_closed() && back.is_closed());
    assert_eq!(there.state & state::RIP_FIRST, 0, "the client closed first, so the TIME-WAIT is its");
    world.to_rip(from(old.client).to(old.vip).ack(old.seq + 1, old.ack.wrapping_add(1)));
    world.to_client(old.rip_fin());

    let new = world.to_rip(from(CLIENT).to(VIP).syn(CLIENT_ISN + 70_000));
    assert!(world.flows().is_empty(), "the old flow is gone with both directions");
    assert_eq!(new.dst, old.rip, "by its pin");
    assert_ne!(new.src, old.snat, "a port that the RIP may still know is not used at once");
}

#[test]
fn who_closed_first_is_remembered() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    world.to_client(connection.rip_fin());
    world.to_rip(connection.client_fin());
    world.to_client(connection.rip_fin());
    let (there, back) = world.both(&connection);
    assert!(there.is_closed());
    assert_ne!(there.state & back.state & state::RIP_FIRST, 0);
    assert_eq!((there.idle_limit(6), back.idle_limit(6)), (63, 63));
}

#[test]
fn a_reset_from_either_side_goes_through_and_closes_the_flow() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    world.to_rip(from(connection.client).to(connection.vip).rst(connection.seq));
    let (there, back) = world.both(&connection);
    assert_ne!(there.state & back.state & state::RESET, 0);

    let other = world.connect("10.20.0.7:40002", VIP);
    world.to_client(from(other.rip).to(other.snat).rst(other.ack));
    let (there, back) = world.both(&other);
    assert!(there.is_closed() && back.is_closed());
    world.to_rip(from(other.client).to(other.vip).syn(9));
    assert_eq!(world.flow(&other.key()), None, "the closed flow has given way");
}

#[test]
fn a_syn_on_an_open_flow_of_a_healthy_rip_is_the_rips_to_answer() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let seen = world.to_rip(from(CLIENT).to(VIP).syn(5));
    assert_eq!((seen.src, seen.dst), (connection.snat, connection.rip));
    // It answers with a challenge ACK (RFC 5961, 4), the client with a RST, and the next SYN starts afresh.
    world.to_client(from(connection.rip).to(connection.snat).ack(connection.ack, connection.seq));
    world.to_rip(from(CLIENT).to(VIP).rst(connection.seq));
    assert_ne!(world.to_rip(from(CLIENT).to(VIP).syn(5)).src, connection.snat);
}

#[test]
fn a_retransmitted_syn_keeps_its_port_before_and_after_the_answer() {
    let Some(mut world) = World::new() else { return };
    let first = world.to_rip(from(CLIENT).to(VIP).syn(CLIENT_ISN));
    let again = world.to_rip(from(CLIENT).to(VIP).syn(CLIENT_ISN));
    assert_eq!(first, again);
    assert_eq!(world.half_open().len(), 1);
    world.to_client(from(first.dst).to(first.src).syn_ack(RIP_ISN, CLIENT_ISN + 1));
    let late = world.to_rip(from(CLIENT).to(VIP).syn(CLIENT_ISN));
    assert_eq!(first, late);
    world.to_client(from(first.dst).to(first.src).syn_ack(RIP_ISN, CLIENT_ISN + 1));
    assert_eq!(world.half_open().len(), 2);
    world.to_rip(from(CLIENT).to(VIP).ack(CLIENT_ISN + 1, RIP_ISN.wrapping_add(1)));
    assert_eq!((world.flows().len(), world.pins().len()), (2, 1));
}

#[test]
fn a_syn_with_another_sequence_number_is_another_connection() {
    let Some(mut world) = World::new() else { return };
    let old = world.half_connect(CLIENT, VIP);
    let new = world.to_rip(from(CLIENT).to(VIP).syn(CLIENT_ISN + 1));
    assert_eq!(new.dst, old.rip);
    assert_ne!(new.src, old.snat);
    // The old handshake can't be finished any more.
    world.expect(Verdict::DropNoFlow, from(CLIENT).to(VIP).ack(old.seq, old.ack));
    assert!(world.pins().is_empty());
    // The new one can.
    world.to_client(from(new.dst).to(new.src).syn_ack(7, CLIENT_ISN + 2));
    world.to_rip(from(CLIENT).to(VIP).ack(CLIENT_ISN + 2, 8));
    assert_eq!(world.pins().len(), 1);
}

#[test]
fn an_ack_that_does_not_fit_the_handshake_proves_nothing() {
    let Some(mut world) = World::new() else { return };
    let ack = |seq, ack| from(CLIENT).to(VIP).ack(seq, ack);
    world.expect(Verdict::DropNoFlow, ack(1, 1));
    let handshake = world.to_rip(from(CLIENT).to(VIP).syn(CLIENT_ISN));
    // Before the SYN-ACK, nothing can fit. There is no entry for this direction yet.
    world.expect(Verdict::DropNoFlow, ack(CLIENT_ISN + 1, 0));
    world.to_client(from(handshake.dst).to(handshake.src).syn_ack(RIP_ISN, CLIENT_ISN + 1));
    let (seq, right) = (CLIENT_ISN + 1, RIP_ISN.wrapping_add(1));
    for (sentence, packet) in [
        ("the sequence number is one short", ack(seq - 1, right)),
        ("the sequence number is beyond a first flight", ack(seq + 65_536, right)),
        ("the acknowledgement is one short", ack(seq, right.wrapping_sub(1))),
        ("the acknowledgement is one too many", ack(seq, right.wrapping_add(1))),
        ("there is no ACK bit", from(CLIENT).to(VIP).tcp(flag::PSH, seq, right)),
        ("there are no bits at all", from(CLIENT).to(VIP).tcp(0, seq, right)),
        ("it is a SYN-ACK", from(CLIENT).to(VIP).syn_ack(seq - 1, right.wrapping_sub(1))),
        ("it is a FIN without an ACK", from(CLIENT).to(VIP).tcp(flag::FIN, seq, right)),
    ] {
        let outcome = world.send(packet);
        assert_eq!(outcome.verdict, Verdict::DropUnverified, "{sentence}");
        assert!(world.flows().is_empty() && world.pins().is_empty(), "{sentence}");
    }
    // None of these has done any harm.
    world.to_rip(ack(seq, right));
    assert_eq!((world.flows().len(), world.pins().len()), (2, 1));
}

#[test]
fn a_lost_ack_is_made_up_for_by_the_data_behind_it() {
    let Some(mut world) = World::new() else { return };
    let connection = world.half_connect(CLIENT, VIP);
    // The first flight's second packet comes first.
    let seen = world.to_rip(from(CLIENT).to(VIP).data(connection.seq + 1460, connection.ack, b"second"));
    assert_eq!((seen.src, seen.dst), (connection.snat, connection.rip));
    assert_eq!((world.flows().len(), world.pins().len()), (2, 1));
    world.to_rip(connection.request(b"first"));
}

#[test]
fn a_handshake_that_ends_with_a_fin_is_a_closing_flow() {
    let Some(mut world) = World::new() else { return };
    let connection = world.half_connect(CLIENT, VIP);
    world.to_rip(connection.client_fin());
    let (there, back) = world.both(&connection);
    assert_eq!((there.idle_limit(6), back.idle_limit(6)), (240, 240));
}

#[test]
fn a_refused_connection_is_forgotten() {
    let Some(mut world) = World::new() else { return };
    let syn = world.to_rip(from(CLIENT).to(VIP).syn(CLIENT_ISN));
    let refused = world.to_client(from(syn.dst).to(syn.src).tcp(flag::RST | flag::ACK, 0, CLIENT_ISN + 1));
    assert_eq!(refused.tcp.0, flag::RST | flag::ACK);
    assert!(world.half_open().is_empty() && world.flows().is_empty() && world.pins().is_empty());
}

#[test]
fn a_client_that_gives_up_a_handshake_tells_the_rip() {
    let Some(mut world) = World::new() else { return };
    let connection = world.half_connect(CLIENT, VIP);
    world.to_rip(from(CLIENT).to(VIP).rst(connection.seq));
    assert!(world.half_open().is_empty() && world.pins().is_empty());
}

#[test]
fn a_challenge_ack_reaches_the_client_and_proves_nothing() {
    let Some(mut world) = World::new() else { return };
    let syn = world.to_rip(from(CLIENT).to(VIP).syn(CLIENT_ISN));
    // The RIP is in TIME-WAIT for this port (RFC 9293, 3.10.7.4): it answers with what it last sent.
    world.to_client(from(syn.dst).to(syn.src).ack(500, 600));
    world.expect(Verdict::DropUnverified, from(CLIENT).to(VIP).ack(CLIENT_ISN + 1, 501));
    world.to_rip(from(CLIENT).to(VIP).rst(600));
    assert!(world.flows().is_empty() && world.pins().is_empty());
}

#[test]
fn without_a_flow_only_a_bare_syn_of_all_256_flag_bytes_opens_one() {
    let Some(mut world) = World::new() else { return };
    for flags in 0..=255_u8 {
        let client = format!("10.20.1.{flags}:40001");
        let outcome = world.send(from(client.as_str()).to(VIP).tcp(flags, 1, 1));
        let control = flags & (tcp::SYN | tcp::ACK | tcp::FIN | tcp::RST);
        let expected = match control {
            tcp::SYN => Verdict::ToRip,
            _ if control & tcp::SYN != 0 && control & (tcp::FIN | tcp::RST) != 0 => Verdict::DropMalformed,
            _ => Verdict::DropNoFlow,
        };
        assert_eq!(outcome.verdict, expected, "flags {flags:08b}");
    }
    assert!(world.flows().is_empty() && world.pins().is_empty());
}

#[test]
fn of_all_256_flag_bytes_only_those_of_a_fitting_ack_finish_a_handshake() {
    let Some(mut world) = World::new() else { return };
    for flags in 0..=255_u8 {
        let client = format!("10.20.1.{flags}:40001");
        let connection = world.half_connect(client.as_str(), VIP);
        let outcome = world.send(from(connection.client).to(VIP).tcp(flags, connection.seq, connection.ack));
        let bit = |bit| flags & bit != 0;
        let (syn, ack, fin, rst) = (bit(tcp::SYN), bit(tcp::ACK), bit(tcp::FIN), bit(tcp::RST));
        let (expected, verified) = match () {
            () if syn && (fin || rst) => (Verdict::DropMalformed, false),
            () if rst => (Verdict::ToRip, false),
            // Another SYN (this sequence number is one higher): another connection.
            () if syn && !ack => (Verdict::ToRip, false),
            // A SYN-ACK from a client (simultaneous open, RFC 9293, 3.5) is passed on, if anything fits; here it is
            // what proves that the client has seen the RIP's SYN-ACK.
            () if ack => (Verdict::ToRip, true),
            () => (Verdict::DropUnverified, false),
        };
        assert_eq!(outcome.verdict, expected, "flags {flags:08b}");
        let pinned = world.pin("web", client.split(':').next().unwrap()).is_some();
        assert_eq!(pinned, verified, "flags {flags:08b}");
        assert_eq!(world.flow(&connection.key()).is_some(), verified, "flags {flags:08b}");
    }
}

#[test]
fn all_256_flag_bytes_go_through_an_open_flow_but_for_contradictions() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let pins = world.pins().len();
    for flags in 0..=255_u8 {
        let contradiction = flags & tcp::SYN != 0 && flags & (tcp::FIN | tcp::RST) != 0;
        // FIN and RST would close the flow for the next round.
        if flags & (tcp::FIN | tcp::RST) != 0 && !contradiction {
            continue;
        }
        let both = [
            from(connection.client).to(connection.vip).tcp(flags, connection.seq, connection.ack),
            from(connection.rip).to(connection.snat).tcp(flags, connection.ack, connection.seq),
        ];
        let expected = if contradiction { [Verdict::DropMalformed; 2] } else { [Verdict::ToRip, Verdict::ToClient] };
        assert_eq!(both.map(|packet| world.send(packet).verdict), expected, "flags {flags:08b}");
    }
    assert_eq!(world.flows().len(), 2);
    assert_eq!(world.pins().len(), pins);
}

#[test]
fn options_priority_and_odd_lengths_survive_the_rewrite() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    for len in (0..64).chain([1459, 1460]) {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        let time_stamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let request = connection.request(&payload).tcp_options(&time_stamps).tos(0xb9);
        assert_eq!(world.to_rip(request).payload, payload);
        assert_eq!(world.to_client(connection.response(&payload).tos(3)).payload, payload);
    }
}

#[test]
fn padding_behind_a_short_packet_is_passed_on() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let mut frame = from(connection.client).to(connection.vip).ack(connection.seq, connection.ack).bytes();
    frame.resize(60, 0);
    assert_eq!(world.expect(Verdict::ToRip, frame).frame.len(), 60);
}

#[test]
fn two_vips_know_the_same_client_apart() {
    let Some(mut world) = World::new() else { return };
    let web = world.connect(CLIENT, VIP);
    let app = world.connect(CLIENT, "192.168.85.152:443");
    assert_eq!(world.pins().len(), 2);
    assert_eq!(world.to_client(web.response(b"web")).src, web.vip);
    assert_eq!(world.to_client(app.response(b"app")).src, app.vip);
    assert_eq!(world.flows().len(), 4);
}

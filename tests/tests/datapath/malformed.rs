//! Frames that are cut off, contradict themselves, or hide what they are: each ends under its own name.

use epiclb::model::Admin;
use epiclb_common::{Action, Verdict};

use crate::{
    frame::{Packet, from, set_checksum, set_ip_checksum},
    world::World,
};

const CLIENT: &str = "10.20.0.7:40001";
const VIP: &str = "192.168.85.150:443";
const CLIENT6: &str = "[2001:db8:20::7]:40001";
const VIP6: &str = "[2001:db8:85::150]:443";
/// The shortest frame that the kernel takes for a test run: an Ethernet header.
const SHORTEST: usize = 14;

/// Frames of every kind that the program forwards, with what they need to be forwarded already there. `net` is a network
/// of clients that were not used before.
pub(crate) fn golden(world: &mut World, net: u8) -> Vec<(&'static str, Vec<u8>)> {
    let four = |host: u8, port: u16| from(format!("10.20.{net}.{host}:{port}").as_str());
    let six = |host: u8, port: u16| from(format!("[2001:db8:20::{net:x}:{host:x}]:{port}").as_str());
    let open = world.connect(four(7, 40_001).src, VIP);
    let open6 = world.connect(six(7, 40_001).src, VIP6);
    let half = world.half_connect(four(8, 40_001).src, VIP);
    for rip in ["bulk/a", "bulk/b"] {
        world.admin(rip, Admin::Online);
    }
    let halted = world.connect(four(9, 40_001).src, "192.168.85.151:8000");
    world.admin(&world.name_at("bulk", halted.rip.ip()), Admin::Halt);
    let question = four(7, 5353).to("192.168.85.150:53").udp(b"question");
    let sent = world.to_rip(&question);
    let question6 = six(7, 5353).to("[2001:db8:85::150]:53").udp(b"question");
    vec![
        ("a SYN", four(10, 40_001).to(VIP).syn(1).bytes()),
        ("a SYN over IPv6", six(10, 40_001).to(VIP6).syn(1).bytes()),
        ("a SYN, sent again", from(half.client).to(VIP).syn(half.seq - 1).bytes()),
        ("a SYN-ACK", from(half.rip).to(half.snat).syn_ack(half.ack.wrapping_sub(1), half.seq).bytes()),
        ("a request", open.request(b"GET / HTTP/1.1\r\n").bytes()),
        ("a response", open.response(b"HTTP/1.1 200 OK\r\n").bytes()),
        ("a request over IPv6", open6.request(b"GET / HTTP/1.1\r\n").bytes()),
        ("a response over IPv6", open6.response(b"HTTP/1.1 200 OK\r\n").bytes()),
        ("a question", question.bytes()),
        ("an answer", from(sent.dst).to(sent.src).udp(b"answer").bytes()),
        ("a question over IPv6", question6.bytes()),
        ("a question without a checksum", question.without_checksum().bytes()),
        ("a request to a halted RIP", halted.request(b"GET / HTTP/1.1\r\n").bytes()),
    ]
}

#[test]
fn every_golden_frame_is_forwarded_whole_and_at_no_shorter_length() {
    let Some(mut world) = World::new() else { return };
    for (sentence, frame) in golden(&mut world, 0) {
        let whole = world.send(frame.clone());
        assert_eq!(whole.verdict.action(), Action::Forward, "{sentence}");
        for len in SHORTEST..frame.len() {
            let outcome = world.send(&frame[..len]);
            assert_eq!(outcome.verdict, Verdict::DropTruncated, "{sentence}, cut to {len} bytes");
        }
    }
}

#[test]
fn a_frame_cut_off_that_is_not_ours_passes_once_its_address_shows_it() {
    let Some(mut world) = World::new() else { return };
    let frame = from(CLIENT).to("192.168.85.9:22").syn(1).bytes();
    for len in SHORTEST..frame.len() {
        let expected = if len < 34 { Verdict::DropTruncated } else { Verdict::PassNotOurs };
        assert_eq!(world.send(&frame[..len]).verdict, expected, "cut to {len} bytes");
    }
}

/// A frame with one thing wrong.
fn bent(packet: &Packet, bend: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = packet.bytes();
    bend(&mut frame);
    frame
}

#[test]
fn headers_that_contradict_themselves_or_the_frame_are_dropped() {
    let Some(mut world) = World::new() else { return };
    let four = world.connect(CLIENT, VIP).request(b"payload");
    let six = world.connect(CLIENT6, VIP6).request(b"payload");
    let udp = from("10.20.0.7:5353").to("192.168.85.150:53").udp(b"question");
    use Verdict::{DropMalformed, DropTruncated};
    for (sentence, frame, verdict) in [
        ("IP version 0", bent(&four, |f| f[14] = 0x05), DropMalformed),
        ("IP version 5", bent(&four, |f| f[14] = 0x55), DropMalformed),
        ("IP version 6 in an IPv4 frame", bent(&four, |f| f[14] = 0x65), DropMalformed),
        ("a header of four words", bent(&four, |f| f[14] = 0x44), DropMalformed),
        ("a header of no words", bent(&four, |f| f[14] = 0x40), DropMalformed),
        ("a total length of 0", bent(&four, |f| f[16..18].copy_from_slice(&[0, 0])), DropMalformed),
        ("a total length below the header's", bent(&four, |f| f[16..18].copy_from_slice(&[0, 19])), DropMalformed),
        ("a total length of the header's", bent(&four, |f| f[16..18].copy_from_slice(&[0, 20])), DropMalformed),
        ("half a TCP header", bent(&four, |f| f[16..18].copy_from_slice(&[0, 39])), DropMalformed),
        ("a total length beyond the frame", bent(&four, |f| f[17] += 1), DropTruncated),
        ("a total length far beyond the frame", bent(&four, |f| f[16] = 0xff), DropTruncated),
        ("a TCP header of four words", bent(&four, |f| f[46] = 0x40), DropMalformed),
        ("a TCP header of no words", bent(&four, |f| f[46] = 0), DropMalformed),
        ("a TCP header longer than the packet", bent(&four, |f| f[46] = 0xf0), DropMalformed),
        ("SYN and FIN", bent(&four, |f| f[47] = 0x03), DropMalformed),
        ("SYN and RST", bent(&four, |f| f[47] = 0x06), DropMalformed),
        ("all control bits", bent(&four, |f| f[47] = 0xff), DropMalformed),
        ("a UDP length of 0", bent(&udp, |f| f[38..40].copy_from_slice(&[0, 0])), DropMalformed),
        ("a UDP length below its header's", bent(&udp, |f| f[38..40].copy_from_slice(&[0, 7])), DropMalformed),
        ("a UDP length beyond the packet", bent(&udp, |f| f[39] += 1), DropMalformed),
        ("IP version 4 in an IPv6 frame", bent(&six, |f| f[14] = 0x45), DropMalformed),
        ("an IPv6 payload beyond the frame", bent(&six, |f| f[19] += 1), DropTruncated),
        ("an IPv6 payload of 0", bent(&six, |f| f[18..20].copy_from_slice(&[0, 0])), DropMalformed),
        ("an IPv6 payload of 19", bent(&six, |f| f[18..20].copy_from_slice(&[0, 19])), DropMalformed),
    ] {
        assert_eq!(world.send(frame).verdict, verdict, "{sentence}");
    }
}

#[test]
fn ip_options_are_dropped_for_a_vip_and_pass_otherwise() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    for options in [&[1, 1, 1, 0][..], &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0x94, 4, 0, 0], &[1; 40]] {
        world.expect(Verdict::DropIpOptions, from(CLIENT).to(VIP).syn(1).ip_options(options));
        world.expect(Verdict::DropIpOptions, connection.request(b"x").ip_options(options));
        world.expect(Verdict::DropIpOptions, connection.response(b"x").ip_options(options));
        world.expect(Verdict::PassNotOurs, from(CLIENT).to("192.168.85.9:22").syn(1).ip_options(options));
    }
}

#[test]
fn fragments_are_dropped_for_a_vip_and_pass_otherwise() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let not_ours = from(CLIENT).to("192.168.85.9:443").syn(1);
    let fragment = |packet: &Packet, flags: u16| {
        let mut frame = packet.bytes();
        frame[20..22].copy_from_slice(&flags.to_be_bytes());
        set_ip_checksum(&mut frame);
        frame
    };
    for (sentence, flags) in [
        ("the first", 0x2000),
        ("one in the middle", 0x2001),
        ("the last", 0x0001),
        ("one far behind", 0x1fff),
        ("the first, and don't-fragment", 0x6000),
    ] {
        for packet in [connection.request(b"x"), connection.response(b"x"), from(CLIENT).to(VIP).syn(1)] {
            assert_eq!(world.send(fragment(&packet, flags)).verdict, Verdict::DropFragment, "{sentence}");
        }
        assert_eq!(world.send(fragment(&not_ours, flags)).verdict, Verdict::PassNotOurs, "{sentence}");
    }
    for (sentence, flags) in [("may be fragmented", 0), ("may not", 0x4000), ("with the reserved bit", 0x8000)] {
        assert_eq!(world.send(fragment(&connection.request(b"x"), flags)).verdict, Verdict::ToRip, "{sentence}");
    }
}

#[test]
fn ipv6_extension_headers_are_dropped_for_a_vip_and_pass_otherwise() {
    let Some(mut world) = World::new() else { return };
    for next in [0, 43, 50, 51, 60, 135, 139, 140] {
        let frame = crate::frame::ip("2001:db8:20::7", "2001:db8:85::150", next, &[6, 0, 1, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(world.send(frame).verdict, Verdict::DropExtensionHeader, "{next}");
        let frame = crate::frame::ip("2001:db8:20::7", "2001:db8:85::9", next, &[6, 0, 1, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(world.send(frame).verdict, Verdict::PassNotOurs, "{next}");
    }
    let fragment = crate::frame::ip("2001:db8:20::7", "2001:db8:85::150", 44, &[6, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(world.send(fragment).verdict, Verdict::DropFragment);
}

#[test]
fn a_mapped_ipv4_address_on_the_wire_is_not_taken_for_ipv4() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let mapped = |addr: std::net::SocketAddr| {
        let std::net::IpAddr::V4(v4) = addr.ip() else { unreachable!() };
        std::net::SocketAddr::new(v4.to_ipv6_mapped().into(), addr.port())
    };
    let (client, vip) = (mapped(connection.client), mapped(connection.vip));
    world.expect(Verdict::DropMalformed, from(client).to(vip).data(connection.seq, connection.ack, b"x"));
    world.expect(Verdict::DropMalformed, from(client).to(VIP6).syn(1));
    world.expect(Verdict::DropMalformed, from(CLIENT6).to(vip).syn(1));
    world.expect(Verdict::PassNotOurs, from(client).to("[2001:db8:85::9]:22").syn(1));
    world.expect(Verdict::PassNotOurs, from(CLIENT6).to("[::ffff:192.168.85.9]:22").syn(1));
}

#[test]
fn a_packet_without_hops_left_to_live_ends_here() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let half = world.half_connect("10.20.0.8:40001", VIP);
    let six = world.connect(CLIENT6, VIP6);
    for packet in [
        from("10.20.0.9:40001").to(VIP).syn(1),
        from(half.client).to(VIP).ack(half.seq, half.ack),
        from(half.rip).to(half.snat).syn_ack(1, half.seq),
        connection.request(b"x"),
        connection.response(b"x"),
        six.request(b"x"),
        six.response(b"x"),
        from("10.20.0.7:5353").to("192.168.85.150:53").udp(b"?"),
    ] {
        for ttl in [0, 1] {
            world.expect(Verdict::DropTtl, packet.clone().ttl(ttl));
        }
        assert_eq!(world.send(packet.ttl(2)).seen().ttl, 1);
    }
    world.expect(Verdict::PassNotOurs, from(CLIENT).to("192.168.85.9:22").syn(1).ttl(1));
}

#[test]
fn a_wrong_checksum_is_not_made_right() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect(CLIENT, VIP);
    let wrong = bent(&connection.request(b"payload"), |frame| frame[60] ^= 1);
    let mut forwarded = world.expect(Verdict::ToRip, wrong).frame;
    let stated = forwarded.clone();
    set_checksum(&mut forwarded);
    assert_ne!(stated[50..52], forwarded[50..52], "the RIP will see that it is wrong");

    let wrong = bent(&connection.request(b"payload"), |frame| frame[24] ^= 1);
    let mut forwarded = world.expect(Verdict::ToRip, wrong).frame;
    let stated = forwarded.clone();
    set_ip_checksum(&mut forwarded);
    assert_ne!(stated[24..26], forwarded[24..26]);
}

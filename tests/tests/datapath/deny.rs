//! Default-deny: what of a VIP's traffic the host may see, and that it sees all of the rest untouched.

use epiclb_common::Verdict;
use etherparse::{EtherType, Icmpv4Type, Icmpv6Type};

use crate::{
    frame::{Mac, OWN_MAC, ROUTER_MAC, ethernet, flag, from, ip},
    world::{FAR_MAC, INGRESS, World},
};

const CLIENT: &str = "10.20.0.7";
const VIP: &str = "192.168.85.150";
const CLIENT6: &str = "2001:db8:20::7";
const VIP6: &str = "2001:db8:85::150";

fn tcp_to(dst: &str) -> crate::frame::Packet {
    from("10.20.0.7:40001").to(dst)
}

fn icmp(kind: u8) -> Vec<u8> {
    ip(CLIENT, VIP, 1, &[kind, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4])
}

fn icmp6(kind: u8) -> Vec<u8> {
    ip(CLIENT6, VIP6, 58, &[kind, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4])
}

fn other(ether_type: u16, dst: Mac) -> Vec<u8> {
    let mut frame = ethernet(ROUTER_MAC, dst, EtherType(ether_type));
    frame.extend([0x5a; 46]);
    frame
}

#[test]
fn everything_for_a_vip_that_no_service_takes_is_dropped() {
    let Some(mut world) = World::new() else { return };
    for (sentence, frame, verdict) in [
        ("a SYN to a port without a service", tcp_to("192.168.85.150:22").syn(1).bytes(), Verdict::DropNoService),
        ("UDP to a TCP service's port", tcp_to("192.168.85.150:443").udp(b"quic").bytes(), Verdict::DropNoService),
        ("TCP to a UDP service's port", tcp_to("192.168.85.150:53").syn(1).bytes(), Verdict::DropNoService),
        ("an ACK to a port without a service", tcp_to("192.168.85.150:22").ack(1, 1).bytes(), Verdict::DropNoFlow),
        ("an ACK to a service", tcp_to("192.168.85.150:443").ack(1, 1).bytes(), Verdict::DropNoFlow),
        ("a RST to a service", tcp_to("192.168.85.150:443").rst(1).bytes(), Verdict::DropNoFlow),
        ("a SYN-ACK to a service", tcp_to("192.168.85.150:443").syn_ack(1, 1).bytes(), Verdict::DropNoFlow),
        (
            "a SYN to a service over the other family",
            from("[2001:db8:20::7]:40001").to("[2001:db8:85::150]:80").syn(1).bytes(),
            Verdict::DropNoService,
        ),
        ("GRE", ip(CLIENT, VIP, 47, &[0; 20]), Verdict::DropProtocol),
        ("SCTP", ip(CLIENT, VIP, 132, &[0; 20]), Verdict::DropProtocol),
        ("IP in IP", ip(CLIENT, VIP, 4, &[0; 20]), Verdict::DropProtocol),
        ("OSPF", ip(CLIENT, VIP, 89, &[0; 20]), Verdict::DropProtocol),
        ("UDP-Lite", ip(CLIENT6, VIP6, 136, &[0; 20]), Verdict::DropProtocol),
        ("no next header", ip(CLIENT6, VIP6, 59, &[]), Verdict::DropProtocol),
    ] {
        assert_eq!(world.send(frame).verdict, verdict, "{sentence}");
    }
    assert!(world.flows().is_empty() && world.half_open().is_empty() && world.pins().is_empty());
}

#[test]
fn the_host_answers_echo_and_neighbour_discovery_and_no_other_icmp() {
    let Some(mut world) = World::new() else { return };
    for kind in 0..=255 {
        let expected = if kind == 8 { Verdict::PassIcmp } else { Verdict::DropIcmp };
        assert_eq!(world.send(icmp(kind)).verdict, expected, "ICMP {kind}");
        let expected = if [128, 135, 136].contains(&kind) { Verdict::PassIcmp } else { Verdict::DropIcmp };
        assert_eq!(world.send(icmp6(kind)).verdict, expected, "ICMPv6 {kind}");
    }
    // The two numbers as etherparse knows them.
    let echo = Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 });
    assert_eq!(etherparse::Icmpv4Header::new(echo).to_bytes()[0], 8);
    let echo = Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 });
    assert_eq!(etherparse::Icmpv6Header::new(echo).to_bytes()[0], 128);
}

#[test]
fn the_redirect_vip_is_the_hosts() {
    let Some(mut world) = World::new() else { return };
    for packet in [
        tcp_to("192.168.85.150:80").syn(1),
        tcp_to("192.168.85.150:80").ack(2, 1),
        tcp_to("192.168.85.150:80").data(2, 1, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        tcp_to("192.168.85.150:80").fin(9, 1),
        tcp_to("192.168.85.150:80").rst(9),
    ] {
        world.expect(Verdict::PassRedirect, packet);
    }
    world.expect(Verdict::DropNoService, tcp_to("192.168.85.150:80").udp(b"x"));
    assert!(world.half_open().is_empty());
}

#[test]
fn what_is_not_for_a_vip_passes_untouched() {
    let Some(mut world) = World::new() else { return };
    let broadcast = [0xff; 6];
    for (sentence, frame, verdict) in [
        ("the host's own SSH", tcp_to("192.168.85.9:22").syn(1).bytes(), Verdict::PassNotOurs),
        ("an ACK of the host's own", tcp_to("192.168.85.9:22").ack(1, 1).bytes(), Verdict::PassNotOurs),
        ("the host's own over IPv6", ip(CLIENT6, "2001:db8:85::9", 6, &[0; 40]), Verdict::PassNotOurs),
        ("a VIP of someone else", tcp_to("192.168.85.99:443").syn(1).bytes(), Verdict::PassNotOurs),
        ("routed through us", tcp_to("203.0.113.9:443").syn(1).bytes(), Verdict::PassNotOurs),
        ("UDP of the host's own", tcp_to("192.168.85.9:123").udp(b"ntp").bytes(), Verdict::PassNotOurs),
        (
            "a health check's answer",
            from("192.168.85.201:443").to("192.168.85.9:50000").syn_ack(1, 1).bytes(),
            Verdict::PassNotOurs,
        ),
        ("GRE of the host's own", ip(CLIENT, "192.168.85.9", 47, &[0; 20]), Verdict::PassNotOurs),
        ("ICMP of the host's own", ip(CLIENT, "192.168.85.9", 1, &[3, 4, 0, 0, 0, 0, 0, 0]), Verdict::PassNotOurs),
        ("VRRP to our MAC", ip("192.168.85.8", "224.0.0.18", 112, &[0; 20]), Verdict::PassNotOurs),
        ("a router advertisement to our MAC", ip("fe80::1", "ff02::1", 58, &[134; 16]), Verdict::PassNotOurs),
        ("ARP to us", other(0x0806, OWN_MAC), Verdict::PassNotIp),
        ("ARP to all", other(0x0806, broadcast), Verdict::PassOtherMac),
        ("LLDP", other(0x88cc, [1, 0x80, 0xc2, 0, 0, 0x0e]), Verdict::PassOtherMac),
        ("STP (its length where others have a type)", other(38, [1, 0x80, 0xc2, 0, 0, 0]), Verdict::PassOtherMac),
        ("VLAN-tagged", other(0x8100, OWN_MAC), Verdict::PassNotIp),
        ("EAPOL", other(0x888e, OWN_MAC), Verdict::PassNotIp),
        ("PTP", other(0x88f7, OWN_MAC), Verdict::PassNotIp),
    ] {
        assert_eq!(world.send(frame).verdict, verdict, "{sentence}");
    }
}

#[test]
fn frames_that_are_flooded_past_us_are_not_ours() {
    let Some(mut world) = World::new() else { return };
    let connection = world.connect("10.20.0.7:40001", "192.168.85.150:443");
    let vrrp_multicast = [1, 0, 0x5e, 0, 0, 18];
    for mac in [[2, 0, 0, 0, 0, 2], FAR_MAC, [0xff; 6], vrrp_multicast, [0; 6]] {
        for packet in [
            tcp_to("192.168.85.150:443").syn(1),
            tcp_to("192.168.85.150:22").syn(1),
            connection.request(b"x"),
            connection.response(b"x"),
        ] {
            world.expect(Verdict::PassOtherMac, packet.sent_to(mac));
        }
    }
    let mut close = OWN_MAC;
    for byte in 0..6 {
        close[byte] ^= 1;
        world.expect(Verdict::PassOtherMac, connection.request(b"x").sent_to(close));
        close = OWN_MAC;
    }
}

#[test]
fn on_an_interface_that_is_not_ours_everything_passes() {
    let Some(mut world) = World::new() else { return };
    world.bpf.set_interface(INGRESS, 0).unwrap();
    world.expect(Verdict::PassOtherMac, tcp_to("192.168.85.150:443").syn(1));
    world.expect(Verdict::PassOtherMac, tcp_to("192.168.85.150:443").syn(1).sent_to([0; 6]));
}

#[test]
fn sources_that_cannot_be_clients_are_dropped() {
    let Some(mut world) = World::new() else { return };
    let ours: Vec<_> = ["192.168.85.150", "192.168.85.151"].map(|a| format!("{a}:443")).into();
    let martians = ["0.0.0.0:1", "0.1.2.3:1", "127.0.0.1:1", "127.255.255.255:1", "224.0.0.1:1", "239.1.1.1:1"];
    let others = ["240.0.0.1:1", "255.255.255.255:1"];
    for source in martians.into_iter().chain(others).chain(ours.iter().map(String::as_str)) {
        world.expect(Verdict::DropBadSource, from(source).to("192.168.85.150:443").syn(1));
        world.expect(Verdict::DropBadSource, from(source).to("192.168.85.150:53").udp(b"?"));
    }
    for source in ["[::]:1", "[::1]:1", "[ff02::1]:1", "[ff0e::9]:1", "[2001:db8:85::150]:443"] {
        world.expect(Verdict::DropBadSource, from(source).to("[2001:db8:85::150]:443").syn(1));
        world.expect(Verdict::DropBadSource, from(source).to("[2001:db8:85::150]:53").udp(b"?"));
    }
    for source in ["1.0.0.1:1", "126.255.255.255:1", "128.0.0.1:1", "223.255.255.255:1", "192.168.85.201:1"] {
        world.to_rip(from(source).to("192.168.85.150:443").syn(1));
    }
    for source in ["[::2]:1", "[fe80::9]:1", "[fd00::1]:1", "[2001:db8:85::201]:1"] {
        world.to_rip(from(source).to("[2001:db8:85::150]:443").syn(1));
    }
}

#[test]
fn a_rips_packets_without_a_flow_never_reach_the_host_at_the_vips_address() {
    let Some(mut world) = World::new() else { return };
    let rip = from("192.168.85.201:443").to("192.168.85.150:5000");
    world.expect(Verdict::DropNoFlow, rip.clone().syn_ack(1, 1));
    world.expect(Verdict::DropNoFlow, rip.clone().tcp(flag::RST | flag::ACK, 1, 1));
    world.expect(Verdict::DropNoService, rip.clone().udp(b"x"));
    world.expect(Verdict::DropNoService, rip.syn(1));
}

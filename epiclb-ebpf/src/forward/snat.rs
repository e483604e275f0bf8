//! Full NAT: both addresses and both ports change, and one hop less is left to live, as a router would have it.

use epiclb_common::{
    Flow, Hop, Verdict,
    checksum::{apply, apply_udp},
    headers::{Eth, Ipv4, Ipv6, Tcp, Udp},
};

use crate::{
    packet::Frame,
    parse::{L3, L4_V4, L4_V6, Packet},
};

/// Turns the packet into the one that its flow's entry describes.
#[inline(always)]
pub(crate) fn rewrite(frame: &Frame, packet: &Packet, flow: &Flow, hop: Hop) -> Result<(), Verdict> {
    let source = super::source_mac(frame, packet, hop.ifindex())?;
    if packet.v4 {
        let ip: &mut Ipv4 = frame.at(L3).ok_or(Verdict::DropInternal)?;
        ip.ttl = packet.ttl - 1;
        ip.checksum = apply(ip.checksum, flow.ip_delta);
        ip.src = flow.src.v4_word();
        ip.dst = flow.dst.v4_word();
        transport(frame, packet, flow, L4_V4)?;
    } else {
        let ip: &mut Ipv6 = frame.at(L3).ok_or(Verdict::DropInternal)?;
        ip.hop_limit = packet.ttl - 1;
        ip.src = flow.src.words;
        ip.dst = flow.dst.words;
        transport(frame, packet, flow, L4_V6)?;
    }
    let eth: &mut Eth = frame.at(0).ok_or(Verdict::DropInternal)?;
    eth.set(hop.mac(), source);
    Ok(())
}

#[inline(always)]
fn transport(frame: &Frame, packet: &Packet, flow: &Flow, offset: usize) -> Result<(), Verdict> {
    if packet.is_tcp() {
        let tcp: &mut Tcp = frame.at(offset).ok_or(Verdict::DropInternal)?;
        tcp.ports = flow.ports;
        tcp.checksum = apply(tcp.checksum, flow.l4_delta);
    } else {
        let udp: &mut Udp = frame.at(offset).ok_or(Verdict::DropInternal)?;
        udp.ports = flow.ports;
        udp.checksum = apply_udp(udp.checksum, flow.l4_delta);
    }
    Ok(())
}

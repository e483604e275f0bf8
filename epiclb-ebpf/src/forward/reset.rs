//! A TCP RST in answer to a packet that has nowhere to go, so that its sender reconnects at once instead of hanging.

use epiclb_common::{
    Flow, Hop, Verdict,
    checksum::Delta,
    headers::{Eth, Ipv4, Ipv6, Tcp, tcp},
};

use super::Sent;
use crate::{
    packet::Frame,
    parse::{L3, L4_V4, L4_V6, Packet},
};

const TCP_LEN: u16 = size_of::<Tcp>() as u16;
/// Hops of a packet of our own (RFC 1700's default, and Linux's).
const TTL: u8 = 64;
/// IPv4's don't-fragment flag, in network order.
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();

/// Ends a flow with a RST: for the client of `onward` in the RIP's name, or else for whoever sent the packet, as RFC 9293
/// (3.5.2) wants it. A RST is never answered, nor is UDP.
#[inline(always)]
pub(crate) fn reset(frame: &Frame, packet: &Packet, onward: Option<&Flow>) -> Result<Sent, Verdict> {
    if !packet.is_tcp() || packet.flags & tcp::RST != 0 {
        return Err(Verdict::DropHalted);
    }
    let received: &Tcp = frame.at(packet.l4_offset()).ok_or(Verdict::DropInternal)?;
    let eth: &Eth = frame.at(0).ok_or(Verdict::DropInternal)?;
    let key = &packet.key;
    let (src, dst, ports, hop) = match onward {
        Some(flow) => (&flow.src, &flow.dst, flow.ports, Hop(flow.hop)),
        None => (&key.dst, &key.src, key.ports.rotate_left(16), Hop::new(eth.src(), frame.ingress())),
    };
    let (seq, ack, flags) = if onward.is_some() {
        // What the RIP would have sent next is what the client expects next.
        (received.seq, received.ack, tcp::RST | packet.flags & tcp::ACK)
    } else if packet.flags & tcp::ACK != 0 {
        (received.ack, 0, tcp::RST)
    } else {
        let payload = u32::from(packet.l4_len) - u32::from(received.data_offset >> 4) * 4;
        let controls = u32::from(packet.flags & tcp::SYN != 0) + u32::from(packet.flags & tcp::FIN != 0);
        let next = u32::from_be(received.seq).wrapping_add(payload).wrapping_add(controls);
        (0, next.to_be(), tcp::RST | tcp::ACK)
    };
    let source = super::source_mac(frame, packet, hop.ifindex())?;
    let len = packet.l4_offset() as u64 + u64::from(TCP_LEN);
    if !frame.truncate(len) {
        return Err(Verdict::DropInternal);
    }

    let header = Tcp { ports, seq, ack, data_offset: 5 << 4, flags, window: 0, checksum: 0, urgent: 0 };
    let checksum = tcp_checksum(
        Delta::default()
            .add_words(&src.words)
            .add_words(&dst.words)
            // The mapped form's 0xffff, twice for IPv4, is zero to a one's-complement sum.
            .add(u32::from(TCP_LEN.to_be()))
            .add(u32::from((key.proto as u16).to_be())),
        &header,
    );
    if packet.v4 {
        let ip: &mut Ipv4 = frame.at(L3).ok_or(Verdict::DropInternal)?;
        let (src, dst) = (src.v4_word(), dst.v4_word());
        let total = size_of::<Ipv4>() as u16 + TCP_LEN;
        *ip = Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_len: total.to_be(),
            id: 0,
            fragment: DONT_FRAGMENT,
            ttl: TTL,
            proto: key.proto as u8,
            checksum: 0,
            src,
            dst,
        };
        let sum = Delta::default()
            .add(u32::from(u16::from_be_bytes([0x45, 0]).to_be()))
            .add(u32::from(total.to_be()))
            .add(u32::from(DONT_FRAGMENT))
            .add(u32::from(u16::from_be_bytes([TTL, key.proto as u8]).to_be()))
            .add(src)
            .add(dst);
        ip.checksum = !sum.fold();
        write(frame, L4_V4, header, checksum)?;
    } else {
        let ip: &mut Ipv6 = frame.at(L3).ok_or(Verdict::DropInternal)?;
        *ip = Ipv6 {
            version_class_label: (6_u32 << 28).to_be(),
            payload_len: TCP_LEN.to_be(),
            next: key.proto as u8,
            hop_limit: TTL,
            src: src.words,
            dst: dst.words,
        };
        write(frame, L4_V6, header, checksum)?;
    }
    let eth: &mut Eth = frame.at(0).ok_or(Verdict::DropInternal)?;
    eth.set(hop.mac(), source);
    Ok(Sent { verdict: Verdict::ResetSent, ifindex: hop.ifindex() })
}

#[inline(always)]
fn write(frame: &Frame, offset: usize, header: Tcp, checksum: u16) -> Result<(), Verdict> {
    let out: &mut Tcp = frame.at(offset).ok_or(Verdict::DropInternal)?;
    *out = header;
    out.checksum = checksum;
    Ok(())
}

/// The checksum of a bare TCP header behind a pseudo-header (RFC 9293, 3.1).
#[inline(always)]
fn tcp_checksum(pseudo: Delta, header: &Tcp) -> u16 {
    let controls = u16::from_be_bytes([header.data_offset, header.flags]).to_be();
    !pseudo.add(header.ports).add(header.seq).add(header.ack).add(u32::from(controls)).fold()
}

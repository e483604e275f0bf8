//! Frame to [`Packet`], once. What can't be a client's or a server's packet is decided here.
//!
//! The destination MAC comes first: frames that are flooded past us are not ours. After that only packets for a
//! VIP or SNAT address are ever dropped; everything else passes to the kernel untouched.

use core::mem::size_of;

use epiclb_common::{
    Addr, FlowKey, Verdict,
    flow::{TCP, UDP},
    headers::{
        ETH_IPV4, ETH_IPV6, Eth, ICMP, ICMP_ECHO, ICMPV6, ICMPV6_ECHO, IPV4_FRAGMENT, IPV6_FRAGMENT, Icmp, Ipv4, Ipv6,
        ND_ADVERT, ND_SOLICIT, Tcp, Udp, is_ipv6_extension, tcp,
    },
};

use crate::{maps, packet::Frame};

/// Offset of the IP header.
pub(crate) const L3: usize = size_of::<Eth>();
/// Offset of the transport header behind IPv4 (without options).
pub(crate) const L4_V4: usize = L3 + size_of::<Ipv4>();
/// Offset of the transport header behind IPv6 (without extension headers).
pub(crate) const L4_V6: usize = L3 + size_of::<Ipv6>();

/// A TCP or UDP packet, whole and consistent.
pub(crate) struct Packet {
    /// Its five-tuple.
    pub(crate) key: FlowKey,
    /// Whether it is IPv4.
    pub(crate) v4: bool,
    /// Bytes of the transport header and payload.
    pub(crate) l4_len: u16,
    /// Hops left to live.
    pub(crate) ttl: u8,
    /// TCP control bits; 0 for UDP.
    pub(crate) flags: u8,
    /// The interface's MAC, which the frame was sent to.
    pub(crate) own_mac: u64,
}

impl Packet {
    /// Whether it asks for a new TCP connection.
    #[inline(always)]
    pub(crate) fn is_bare_syn(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
    }

    /// Whether it is TCP.
    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        self.key.proto == TCP as u32
    }

    /// A TCP packet's sequence and acknowledgement numbers, host order; zeros for UDP.
    #[inline(always)]
    pub(crate) fn seq_ack(&self, frame: &Frame) -> Result<(u32, u32), Verdict> {
        if !self.is_tcp() {
            return Ok((0, 0));
        }
        let tcp: &Tcp = frame.at(self.l4_offset()).ok_or(Verdict::DropInternal)?;
        Ok((u32::from_be(tcp.seq), u32::from_be(tcp.ack)))
    }

    /// Offset of its transport header.
    #[inline(always)]
    pub(crate) fn l4_offset(&self) -> usize {
        if self.v4 { L4_V4 } else { L4_V6 }
    }
}

/// Parses a frame, or says why it goes no further here.
#[inline(always)]
pub(crate) fn parse(frame: &Frame) -> Result<Packet, Verdict> {
    let eth: &Eth = frame.at(0).ok_or(Verdict::DropTruncated)?;
    let own_mac = maps::interface(frame.ingress());
    if own_mac == 0 || eth.dst() != own_mac {
        return Err(Verdict::PassOtherMac);
    }
    match eth.ether_type {
        ETH_IPV4 => ipv4(frame, own_mac),
        ETH_IPV6 => ipv6(frame, own_mac),
        _ => Err(Verdict::PassNotIp),
    }
}

#[inline(always)]
fn ipv4(frame: &Frame, own_mac: u64) -> Result<Packet, Verdict> {
    let ip: &Ipv4 = frame.at(L3).ok_or(Verdict::DropTruncated)?;
    let (src, dst, proto) = (Addr::from_v4_word(ip.src), Addr::from_v4_word(ip.dst), ip.proto);
    if ip.version_ihl != 0x45 {
        let why = if ip.version_ihl > 0x45 && ip.version_ihl < 0x50 {
            Verdict::DropIpOptions
        } else {
            Verdict::DropMalformed
        };
        return Err(if_ours(&dst, why));
    }
    if ip.fragment & IPV4_FRAGMENT != 0 {
        return Err(if_ours(&dst, Verdict::DropFragment));
    }
    let total_len = u16::from_be(ip.total_len);
    if u64::from(total_len) + L3 as u64 > frame.len() {
        return Err(if_ours(&dst, Verdict::DropTruncated));
    }
    let Some(l4_len) = total_len.checked_sub(size_of::<Ipv4>() as u16) else {
        return Err(if_ours(&dst, Verdict::DropMalformed));
    };
    let (ports, flags) = match proto {
        TCP | UDP => transport(frame, L4_V4, proto, l4_len).map_err(|why| if_ours(&dst, why))?,
        ICMP => return Err(if_ours(&dst, icmp(frame, L4_V4, |kind| kind == ICMP_ECHO))),
        _ => return Err(if_ours(&dst, Verdict::DropProtocol)),
    };
    let key = FlowKey { src, dst, ports, proto: u32::from(proto) };
    Ok(Packet { key, v4: true, l4_len, ttl: ip.ttl, flags, own_mac })
}

#[inline(always)]
fn ipv6(frame: &Frame, own_mac: u64) -> Result<Packet, Verdict> {
    let ip: &Ipv6 = frame.at(L3).ok_or(Verdict::DropTruncated)?;
    let (src, dst, proto) = (Addr { words: ip.src }, Addr { words: ip.dst }, ip.next);
    // A mapped IPv4 address has no place on the wire (RFC 4942, 2.2) and would meet the flows of IPv4 here.
    if u32::from_be(ip.version_class_label) >> 28 != 6 || src.is_v4() || dst.is_v4() {
        return Err(if_ours(&dst, Verdict::DropMalformed));
    }
    let l4_len = u16::from_be(ip.payload_len);
    if u64::from(l4_len) + L4_V6 as u64 > frame.len() {
        return Err(if_ours(&dst, Verdict::DropTruncated));
    }
    let (ports, flags) = match proto {
        TCP | UDP => transport(frame, L4_V6, proto, l4_len).map_err(|why| if_ours(&dst, why))?,
        ICMPV6 => {
            let host = |kind| matches!(kind, ICMPV6_ECHO | ND_SOLICIT | ND_ADVERT);
            return Err(if_ours(&dst, icmp(frame, L4_V6, host)));
        }
        IPV6_FRAGMENT => return Err(if_ours(&dst, Verdict::DropFragment)),
        next if is_ipv6_extension(next) => return Err(if_ours(&dst, Verdict::DropExtensionHeader)),
        _ => return Err(if_ours(&dst, Verdict::DropProtocol)),
    };
    let key = FlowKey { src, dst, ports, proto: u32::from(proto) };
    Ok(Packet { key, v4: false, l4_len, ttl: ip.hop_limit, flags, own_mac })
}

/// Ports and TCP control bits, once the header is whole.
#[inline(always)]
fn transport(frame: &Frame, offset: usize, proto: u8, l4_len: u16) -> Result<(u32, u8), Verdict> {
    if proto == TCP {
        let tcp: &Tcp = frame.at(offset).ok_or(Verdict::DropTruncated)?;
        let header = u16::from(tcp.data_offset >> 4) * 4;
        let contradiction = tcp.flags & tcp::SYN != 0 && tcp.flags & (tcp::FIN | tcp::RST) != 0;
        if header < size_of::<Tcp>() as u16 || header > l4_len || contradiction {
            return Err(Verdict::DropMalformed);
        }
        Ok((tcp.ports, tcp.flags))
    } else {
        let udp: &Udp = frame.at(offset).ok_or(Verdict::DropTruncated)?;
        let len = u16::from_be(udp.len);
        if len < size_of::<Udp>() as u16 || len > l4_len {
            return Err(Verdict::DropMalformed);
        }
        Ok((udp.ports, 0))
    }
}

/// The verdict on an ICMP message for a VIP: the host answers what `host` names.
#[inline(always)]
fn icmp(frame: &Frame, offset: usize, host: impl Fn(u8) -> bool) -> Verdict {
    match frame.at::<Icmp>(offset) {
        Some(icmp) if host(icmp.kind) => Verdict::PassIcmp,
        Some(_) => Verdict::DropIcmp,
        None => Verdict::DropTruncated,
    }
}

/// `verdict` for a packet to one of our addresses; any other packet passes.
#[inline(always)]
fn if_ours(dst: &Addr, verdict: Verdict) -> Verdict {
    if maps::is_ours(dst) { verdict } else { Verdict::PassNotOurs }
}

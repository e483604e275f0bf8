//! One tracked connection, as two table entries: one for each direction.
//!
//! A packet that matches an entry is rewritten from that entry alone. Each entry holds what the other one's key
//! is made of (the rewritten packet, turned round), so neither needs to store it.

use crate::{addr::Addr, checksum::Delta, wire::wire};

/// IPPROTO_TCP (RFC 9293).
pub const TCP: u8 = 6;
/// IPPROTO_UDP (RFC 768).
pub const UDP: u8 = 17;

wire! {
    /// A packet's five-tuple, as the packet has it.
    pub struct FlowKey {
        /// Source address.
        pub src: Addr,
        /// Destination address.
        pub dst: Addr,
        /// Both ports as one load from the transport header.
        pub ports: u32,
        /// IP protocol number.
        pub proto: u32,
    }
}

impl FlowKey {
    /// The same tuple seen from the other end.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, ports: swap_ports(self.ports), proto: self.proto }
    }

    /// The destination port in network order, as the low bits of a [`crate::ServiceKey`] want it.
    #[inline(always)]
    pub const fn dst_port_be(&self) -> u16 {
        split_ports(self.ports).1
    }

    /// (source, destination) ports in host order.
    pub const fn host_ports(&self) -> (u16, u16) {
        let (src, dst) = split_ports(self.ports);
        (u16::from_be(src), u16::from_be(dst))
    }
}

/// Both ports, each in network order, as they stand in the transport header.
#[inline(always)]
pub const fn join_ports(src_be: u16, dst_be: u16) -> u32 {
    if cfg!(target_endian = "little") {
        src_be as u32 | (dst_be as u32) << 16
    } else {
        (src_be as u32) << 16 | dst_be as u32
    }
}

/// The inverse of [`join_ports`].
#[inline(always)]
pub const fn split_ports(ports: u32) -> (u16, u16) {
    if cfg!(target_endian = "little") {
        (ports as u16, (ports >> 16) as u16)
    } else {
        ((ports >> 16) as u16, ports as u16)
    }
}

#[inline(always)]
const fn swap_ports(ports: u32) -> u32 {
    ports.rotate_left(16)
}

wire! {
    /// How packets of one direction are rewritten, and what is known of their flow.
    pub struct Flow {
        /// New source address.
        pub src: Addr,
        /// New destination address.
        pub dst: Addr,
        /// To the client: where frames go. To the RIP: where the client's frames came from, to notice a change.
        pub hop: u64,
        /// New ports, as in [`FlowKey::ports`].
        pub ports: u32,
        /// The flow's RIP.
        pub rip: u32,
        /// [`state`] bits.
        pub state: u32,
        /// Boot time of the last packet of this direction, in seconds, at most one second behind.
        pub seen: u32,
        /// Coarse clock's second at which `seen` was last written.
        pub stamp: u32,
        /// Folded [`Delta`] of the transport checksum (addresses and ports).
        pub l4_delta: u16,
        /// Folded [`Delta`] of the IPv4 header checksum (addresses, and one hop less to live).
        pub ip_delta: u16,
    }
}

/// Bits of [`Flow::state`]. The closing bits are kept alike in both entries of a flow.
pub mod state {
    /// The entry of the direction RIP to client.
    pub const TO_CLIENT: u32 = 1 << 0;
    /// Half-open only: the RIP has answered.
    pub const ANSWERED: u32 = 1 << 1;
    /// The client has sent its FIN.
    pub const CLIENT_FIN: u32 = 1 << 2;
    /// The RIP has sent its FIN.
    pub const RIP_FIN: u32 = 1 << 3;
    /// The RIP's FIN came first, so the TIME-WAIT is the RIP's (RFC 9293, 3.6).
    pub const RIP_FIRST: u32 = 1 << 4;
    /// The client has sent a RST.
    pub const CLIENT_RESET: u32 = 1 << 5;
    /// The RIP has sent a RST.
    pub const RIP_RESET: u32 = 1 << 6;
    /// Either has; or, both set, the balancer has.
    pub const RESET: u32 = CLIENT_RESET | RIP_RESET;
}

/// How long a flow may be idle before its entries are removed, in seconds.
pub mod idle {
    /// Open TCP: above the 2 h 4 min of RFC 5382, REQ-5, so that a keepalive every two hours holds a connection.
    pub const OPEN: u32 = 7_800;
    /// One side has closed: the transitory time of RFC 5382, REQ-5.
    pub const CLOSING: u32 = 240;
    /// Both sides have closed and the TIME-WAIT is the RIP's: Linux's TCP_TIMEWAIT_LEN of 60 s (include/net/tcp.h), and
    /// what time stamps may lag. Until then the RIP would refuse the SNAT port to another client.
    pub const RIP_TIME_WAIT: u32 = 63;
    /// Both sides have closed, or one has reset: time for retransmissions to drain.
    pub const CLOSED: u32 = 10;
    /// UDP: the recommended default of RFC 4787, REQ-5.
    pub const UDP: u32 = 300;
    /// A handshake that did not finish: above the 63 s that Linux's default of six SYN retransmissions takes at most
    /// to the last but one (net.ipv4.tcp_syn_retries).
    pub const HALF_OPEN: u32 = 64;
}

impl Flow {
    /// The key of the other direction's entry: this direction's rewritten packet, turned round.
    #[inline(always)]
    pub const fn other_key(&self, proto: u32) -> FlowKey {
        FlowKey { src: self.src, dst: self.dst, ports: self.ports, proto }.reversed()
    }

    /// Whether the flow is over: what still arrives is a straggler, and a SYN starts afresh.
    #[inline(always)]
    pub const fn is_closed(&self) -> bool {
        let fins = state::CLIENT_FIN | state::RIP_FIN;
        self.state & state::RESET != 0 || self.state & fins == fins
    }

    /// How long the flow may be idle, in seconds ([`idle`]).
    pub const fn idle_limit(&self, proto: u8) -> u32 {
        if proto == UDP {
            idle::UDP
        } else if self.state & state::RESET != 0 {
            idle::CLOSED
        } else if self.is_closed() {
            if self.state & state::RIP_FIRST != 0 { idle::RIP_TIME_WAIT } else { idle::CLOSED }
        } else if self.state & (state::CLIENT_FIN | state::RIP_FIN) != 0 {
            idle::CLOSING
        } else {
            idle::OPEN
        }
    }

    /// Makes this the entry that turns packets of `key` into packets of `new`, or of `new` turned round.
    ///
    /// In place, field by field: the BPF stack has no room for a second copy.
    #[inline(always)]
    pub fn rewrite(&mut self, key: &FlowKey, new: &FlowKey, turn: bool) {
        if turn {
            self.src = new.dst;
            self.dst = new.src;
            self.ports = swap_ports(new.ports);
        } else {
            self.src = new.src;
            self.dst = new.dst;
            self.ports = new.ports;
        }
        let addresses = Delta::default()
            .remove_words(&key.src.words)
            .remove_words(&key.dst.words)
            .add_words(&new.src.words)
            .add_words(&new.dst.words);
        // One's-complement sums don't see that the ports have changed places.
        self.l4_delta = addresses.remove(key.ports).add(new.ports).fold();
        self.ip_delta = addresses.remove(TTL_ONE).fold();
    }
}

/// One hop less to live, as the IPv4 header's word of TTL and protocol shows it.
const TTL_ONE: u32 = 0x0100_u16.to_be() as u32;

wire! {
    /// A handshake under way. For TCP it becomes a flow when the client's ACK fits, for UDP when the client goes on
    /// after an answer.
    pub struct HalfOpen {
        /// The entry to be.
        pub flow: Flow,
        /// The sequence number the client must send next (network order is host order here: already swapped).
        pub client_next: u32,
        /// The acknowledgement number the client must send next; valid with [`state::ANSWERED`].
        pub rip_next: u32,
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn key(src: &str, sport: u16, dst: &str, dport: u16) -> FlowKey {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        FlowKey {
            src: addr(src),
            dst: addr(dst),
            ports: join_ports(sport.to_be(), dport.to_be()),
            proto: u32::from(TCP),
        }
    }

    #[test]
    fn each_entry_knows_the_key_of_the_other() {
        let to_rip = key("10.0.0.1", 40_000, "192.0.2.1", 443);
        let at_rip = key("192.0.2.1", 2_000, "192.0.2.9", 8443);
        let (mut there, mut back) = (Flow::default(), Flow::default());
        there.rewrite(&to_rip, &at_rip, false);
        back.rewrite(&at_rip.reversed(), &to_rip, true);
        assert_eq!(there.other_key(u32::from(TCP)), at_rip.reversed());
        assert_eq!(back.other_key(u32::from(TCP)), to_rip);
    }

    #[test]
    fn ports_split_into_what_was_joined() {
        let key = key("10.0.0.1", 40_000, "192.0.2.1", 443);
        assert_eq!(key.host_ports(), (40_000, 443));
        assert_eq!(key.reversed().host_ports(), (443, 40_000));
        assert_eq!(key.dst_port_be(), 443_u16.to_be());
    }

    #[test]
    fn a_flow_that_the_rip_closed_first_keeps_its_snat_port_through_the_rips_time_wait() {
        let mut flow = Flow { state: state::CLIENT_FIN | state::RIP_FIN, ..Flow::default() };
        assert_eq!(flow.idle_limit(TCP), idle::CLOSED);
        flow.state |= state::RIP_FIRST;
        assert_eq!(flow.idle_limit(TCP), idle::RIP_TIME_WAIT);
        flow.state |= state::RESET;
        assert_eq!(flow.idle_limit(TCP), idle::CLOSED);
    }

    #[test]
    fn both_directions_of_an_open_connection_fit_in_320_bytes() {
        // 48: struct htab_elem without its key (kernel/bpf/hashtab.c).
        let entry = 48 + size_of::<FlowKey>() + size_of::<Flow>();
        assert!(2 * entry <= 320, "{entry}");
    }
}

//! Header layouts, as overlays on packet bytes.
//!
//! Fields are in network order unless the name says otherwise. All are made of bytes and two-byte aligned integers
//! at most where the wire aligns them no better: XDP frames start two-byte aligned at best, and BPF loads need not
//! be aligned on the architectures epiclb supports, so the overlays are `packed`.

/// Ethernet II.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Eth {
    /// Destination MAC: first four bytes.
    pub dst_hi: u32,
    /// Destination MAC: last two bytes.
    pub dst_lo: u16,
    /// Source MAC: first two bytes.
    pub src_hi: u16,
    /// Source MAC: last four bytes.
    pub src_lo: u32,
    /// EtherType.
    pub ether_type: u16,
}

/// EtherType of IPv4, in network order.
pub const ETH_IPV4: u16 = 0x0800_u16.to_be();
/// EtherType of IPv6, in network order.
pub const ETH_IPV6: u16 = 0x86dd_u16.to_be();

impl Eth {
    /// Destination MAC as [`crate::hop::mac_word`] has it.
    #[inline(always)]
    pub const fn dst(&self) -> u64 {
        (self.dst_hi.to_le() as u64) | (self.dst_lo.to_le() as u64) << 32
    }

    /// Source MAC as [`crate::hop::mac_word`] has it.
    #[inline(always)]
    pub const fn src(&self) -> u64 {
        (self.src_hi.to_le() as u64) | (self.src_lo.to_le() as u64) << 16
    }

    /// Sets both MACs.
    #[inline(always)]
    pub const fn set(&mut self, dst: u64, src: u64) {
        self.dst_hi = u32::from_le(dst as u32);
        self.dst_lo = u16::from_le((dst >> 32) as u16);
        self.src_hi = u16::from_le(src as u16);
        self.src_lo = u32::from_le((src >> 16) as u32);
    }
}

/// IPv4 without options (RFC 791).
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Hops left to live.
    pub ttl: u8,
    /// Protocol.
    pub proto: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
}

/// More-fragments flag and offset of [`Ipv4::fragment`], in network order: any bit set means a fragment.
pub const IPV4_FRAGMENT: u16 = 0x3fff_u16.to_be();

/// IPv6 (RFC 8200).
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_label: u32,
    /// Length of what follows this header.
    pub payload_len: u16,
    /// Next header.
    pub next: u8,
    /// Hops left to live.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u32; 4],
    /// Destination address.
    pub dst: [u32; 4],
}

/// ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;
/// IPv6 fragment header (RFC 8200, 4.5).
pub const IPV6_FRAGMENT: u8 = 44;

/// Whether a next-header value is an IPv6 extension header other than the fragment header (RFC 8200, 4; RFC 4302;
/// RFC 4303; RFC 6275; RFC 7401; RFC 5533).
#[inline(always)]
pub const fn is_ipv6_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 50 | 51 | 60 | 135 | 139 | 140)
}

/// TCP without options (RFC 9293).
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Tcp {
    /// Both ports.
    pub ports: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Header length in words, in the high half.
    pub data_offset: u8,
    /// Control bits.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Checksum.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

/// TCP control bits (RFC 9293, 3.1).
pub mod tcp {
    #![expect(missing_docs, reason = "the RFC's own names")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// UDP (RFC 768).
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Udp {
    /// Both ports.
    pub ports: u32,
    /// Length of header and payload.
    pub len: u16,
    /// Checksum; zero: none.
    pub checksum: u16,
}

/// The start of every ICMP and ICMPv6 message.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub checksum: u16,
}

/// ICMP echo request.
pub const ICMP_ECHO: u8 = 8;
/// ICMPv6 echo request.
pub const ICMPV6_ECHO: u8 = 128;
/// ICMPv6 neighbour solicitation (RFC 4861).
pub const ND_SOLICIT: u8 = 135;
/// ICMPv6 neighbour advertisement (RFC 4861).
pub const ND_ADVERT: u8 = 136;

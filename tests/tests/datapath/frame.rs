//! Frames as sentences: `from("10.20.0.7:40001").to("192.168.85.150:443").syn(1000)`.
//!
//! Builds them, and takes what came out apart again, with etherparse: a second opinion on every header and checksum
//! that the program writes.

use std::net::{IpAddr, SocketAddr};

use epiclb_common::hop::mac_word;
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket, TcpHeader, TransportSlice,
    UdpHeader,
};

/// A MAC address.
pub(crate) type Mac = [u8; 6];

/// The balancer's interface.
pub(crate) const OWN_MAC: Mac = [2, 0, 0, 0, 0, 1];
/// The router that clients are behind.
pub(crate) const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 0xfe];

/// TCP control bits.
pub(crate) mod flag {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const PSH: u8 = 8;
    pub(crate) const ACK: u8 = 16;
}

/// The MAC behind which an address is found: a server's own, or the router's.
pub(crate) fn mac_of(ip: IpAddr) -> Mac {
    match ip {
        IpAddr::V4(v4) if v4.octets()[..3] == [192, 168, 85] => [2, 4, 0, 0, 0, v4.octets()[3]],
        IpAddr::V6(v6) if v6.segments()[..3] == [0x2001, 0xdb8, 0x85] => {
            let [high, low] = v6.segments()[7].to_be_bytes();
            [2, 6, 0, 0, high, low]
        }
        _ => ROUTER_MAC,
    }
}

/// The same as a word, as hops and interfaces have it.
pub(crate) fn word(mac: Mac) -> u64 {
    mac_word(mac)
}

/// Something that names an address and port.
pub(crate) trait At {
    fn at(self) -> SocketAddr;
}

impl At for &str {
    fn at(self) -> SocketAddr {
        self.parse().unwrap_or_else(|_| panic!("{self} is no address with a port"))
    }
}

impl At for SocketAddr {
    fn at(self) -> SocketAddr {
        self
    }
}

/// Starts a sentence.
pub(crate) fn from(src: impl At) -> Packet {
    let src = src.at();
    Packet {
        src,
        dst: src,
        macs: (mac_of(src.ip()), OWN_MAC),
        ttl: 64,
        tos: 0,
        ip_options: Vec::new(),
        body: Body::Tcp { flags: 0, seq: 0, ack: 0, options: Vec::new() },
        payload: Vec::new(),
    }
}

/// A TCP or UDP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    macs: (Mac, Mac),
    ttl: u8,
    tos: u8,
    ip_options: Vec<u8>,
    body: Body,
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Body {
    Tcp { flags: u8, seq: u32, ack: u32, options: Vec<u8> },
    Udp { checksum: bool },
}

impl Packet {
    pub(crate) fn to(mut self, dst: impl At) -> Self {
        self.dst = dst.at();
        self
    }

    /// TCP with any control bits.
    pub(crate) fn tcp(mut self, flags: u8, seq: u32, ack: u32) -> Self {
        // What Linux sends: a SYN with MSS, SACK, window scale, the rest with time stamps or without options.
        let options = if flags & flag::SYN != 0 { vec![2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1] } else { Vec::new() };
        self.body = Body::Tcp { flags, seq, ack, options };
        self
    }

    pub(crate) fn syn(self, seq: u32) -> Self {
        self.tcp(flag::SYN, seq, 0)
    }

    pub(crate) fn syn_ack(self, seq: u32, ack: u32) -> Self {
        self.tcp(flag::SYN | flag::ACK, seq, ack)
    }

    pub(crate) fn ack(self, seq: u32, ack: u32) -> Self {
        self.tcp(flag::ACK, seq, ack)
    }

    pub(crate) fn data(self, seq: u32, ack: u32, payload: &[u8]) -> Self {
        self.tcp(flag::ACK | flag::PSH, seq, ack).payload(payload)
    }

    pub(crate) fn fin(self, seq: u32, ack: u32) -> Self {
        self.tcp(flag::FIN | flag::ACK, seq, ack)
    }

    pub(crate) fn rst(self, seq: u32) -> Self {
        self.tcp(flag::RST, seq, 0)
    }

    pub(crate) fn udp(mut self, payload: &[u8]) -> Self {
        self.body = Body::Udp { checksum: true };
        self.payload(payload)
    }

    /// UDP over IPv4 without a checksum (RFC 768).
    pub(crate) fn without_checksum(mut self) -> Self {
        self.body = Body::Udp { checksum: false };
        self
    }

    pub(crate) fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub(crate) fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub(crate) fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    pub(crate) fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_options = options.to_vec();
        self
    }

    /// TCP options other than the customary ones.
    pub(crate) fn tcp_options(mut self, bytes: &[u8]) -> Self {
        if let Body::Tcp { options, .. } = &mut self.body {
            *options = bytes.to_vec();
        }
        self
    }

    /// Comes from another machine on the link.
    pub(crate) fn sent_by(mut self, mac: Mac) -> Self {
        self.macs.0 = mac;
        self
    }

    /// Goes to another machine on the link.
    pub(crate) fn sent_to(mut self, mac: Mac) -> Self {
        self.macs.1 = mac;
        self
    }

    /// The frame, with every length and checksum as it should be.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut segment = match &self.body {
            Body::Tcp { flags, seq, ack, options } => {
                let mut tcp = TcpHeader::new(self.src.port(), self.dst.port(), *seq, 0xfaf0);
                tcp.acknowledgment_number = *ack;
                tcp.set_options_raw(options).expect("options fit");
                let mut bytes = tcp.to_bytes().to_vec();
                bytes[13] = *flags;
                bytes
            }
            Body::Udp { .. } => {
                let len = (UdpHeader::LEN + self.payload.len()) as u16;
                let udp = UdpHeader {
                    source_port: self.src.port(),
                    destination_port: self.dst.port(),
                    length: len,
                    checksum: 0,
                };
                udp.to_bytes().to_vec()
            }
        };
        segment.extend(&self.payload);
        let protocol = match self.body {
            Body::Tcp { .. } => IpNumber::TCP,
            Body::Udp { .. } => IpNumber::UDP,
        };
        let ip = ip_header(self.src.ip(), self.dst.ip(), protocol, segment.len(), self);
        let ether_type = if self.src.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let mut frame = ethernet(self.macs.0, self.macs.1, ether_type);
        frame.extend(ip);
        frame.extend(segment);
        if !matches!(self.body, Body::Udp { checksum: false }) {
            set_checksum(&mut frame);
        }
        frame
    }
}

fn ip_header(src: IpAddr, dst: IpAddr, protocol: IpNumber, payload_len: usize, packet: &Packet) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = Ipv4Header::new(payload_len as u16, packet.ttl, protocol, src.octets(), dst.octets())
                .expect("the payload fits");
            ip.identification = 0x1234;
            ip.dont_fragment = true;
            ip.options = packet.ip_options.as_slice().try_into().expect("options fit");
            ip.set_payload_len(payload_len).expect("the payload fits");
            let mut bytes = ip.to_bytes().to_vec();
            bytes[1] = packet.tos;
            let (mut ip, _) = Ipv4Header::from_slice(&bytes).expect("it was just made");
            ip.header_checksum = ip.calc_header_checksum();
            ip.to_bytes().to_vec()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ipv6Header {
            traffic_class: packet.tos,
            flow_label: 0x12345.try_into().expect("20 bits"),
            payload_length: payload_len as u16,
            next_header: protocol,
            hop_limit: packet.ttl,
            source: src.octets(),
            destination: dst.octets(),
        }
        .to_bytes()
        .to_vec(),
        _ => panic!("{src} and {dst} are of two families"),
    }
}

/// An Ethernet header.
pub(crate) fn ethernet(src: Mac, dst: Mac, ether_type: EtherType) -> Vec<u8> {
    Ethernet2Header { source: src, destination: dst, ether_type }.to_bytes().to_vec()
}

/// An IP packet with any protocol and payload.
pub(crate) fn ip(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().expect("an address"), dst.parse().expect("an address"));
    let packet = from(SocketAddr::new(src, 0));
    let ether_type = if src.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
    let mut frame = ethernet(mac_of(src), OWN_MAC, ether_type);
    frame.extend(ip_header(src, dst, IpNumber(protocol), payload.len(), &packet));
    frame.extend(payload);
    frame
}

/// Sets the transport checksum of a whole frame.
pub(crate) fn set_checksum(frame: &mut [u8]) {
    let Some(sums) = Sums::of(frame) else { panic!("no frame with a transport checksum") };
    frame[sums.transport_at..sums.transport_at + 2].copy_from_slice(&sums.transport.to_be_bytes());
}

/// Sets the IPv4 header's checksum of a whole frame.
pub(crate) fn set_ip_checksum(frame: &mut [u8]) {
    let header_len = usize::from(frame[14] & 0xf) * 4;
    let (ip, _) = Ipv4Header::from_slice(&frame[14..14 + header_len]).expect("an IPv4 header");
    frame[24..26].copy_from_slice(&ip.calc_header_checksum().to_be_bytes());
}

/// What a frame's checksums should be, and are.
#[derive(Debug)]
pub(crate) struct Sums {
    transport_at: usize,
    transport: u16,
    stated_transport: u16,
    udp: bool,
    ip: Option<(u16, u16)>,
}

impl Sums {
    /// `None` where there is no whole TCP or UDP packet in the frame.
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let ip = match packet.net.as_ref()? {
            NetSlice::Ipv4(v4) => {
                let header = v4.header().to_header();
                Some((header.calc_header_checksum(), header.header_checksum))
            }
            NetSlice::Ipv6(_) => None,
            NetSlice::Arp(_) => return None,
        };
        let at = |slice: &[u8]| slice.as_ptr() as usize - frame.as_ptr() as usize;
        match packet.transport? {
            TransportSlice::Tcp(tcp) => {
                let sum = match packet.net.as_ref()? {
                    NetSlice::Ipv4(v4) => tcp.calc_checksum_ipv4(v4.header().source(), v4.header().destination()),
                    NetSlice::Ipv6(v6) => tcp.calc_checksum_ipv6(v6.header().source(), v6.header().destination()),
                    NetSlice::Arp(_) => return None,
                };
                let (transport_at, stated_transport) = (at(tcp.slice()) + 16, tcp.checksum());
                Some(Self { transport_at, transport: sum.ok()?, stated_transport, udp: false, ip })
            }
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                let sum = match packet.net.as_ref()? {
                    NetSlice::Ipv4(v4) => {
                        header.calc_checksum_ipv4_raw(v4.header().source(), v4.header().destination(), udp.payload())
                    }
                    NetSlice::Ipv6(v6) => {
                        header.calc_checksum_ipv6_raw(v6.header().source(), v6.header().destination(), udp.payload())
                    }
                    NetSlice::Arp(_) => return None,
                };
                let transport_at = at(udp.slice()) + 6;
                Some(Self { transport_at, transport: sum.ok()?, stated_transport: udp.checksum(), udp: true, ip })
            }
            _ => None,
        }
    }

    /// Whether both are right; a UDP checksum may be left out over IPv4.
    pub(crate) fn are_right(&self) -> bool {
        let left_out = self.udp && self.stated_transport == 0 && self.ip.is_some();
        let transport = left_out || self.transport == self.stated_transport;
        transport && self.ip.is_none_or(|(right, stated)| right == stated)
    }
}

/// A frame taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) macs: (Mac, Mac),
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) ttl: u8,
    /// (flags, sequence number, acknowledgement number); zeros for UDP.
    pub(crate) tcp: (u8, u32, u32),
    pub(crate) payload: Vec<u8>,
}

/// Takes a frame apart.
pub(crate) fn see(frame: &[u8]) -> Seen {
    let packet = SlicedPacket::from_ethernet(frame).unwrap_or_else(|error| panic!("{error} in {frame:02x?}"));
    let (src, dst, ttl): (IpAddr, IpAddr, u8) = match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(v4) => {
            let header = v4.header();
            (header.source_addr().into(), header.destination_addr().into(), header.ttl())
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header();
            (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
        }
        NetSlice::Arp(_) => panic!("ARP has no transport"),
    };
    let (ports, tcp, payload) = match packet.transport.expect("a transport header") {
        TransportSlice::Tcp(tcp) => (
            (tcp.source_port(), tcp.destination_port()),
            (tcp.slice()[13], tcp.sequence_number(), tcp.acknowledgment_number()),
            tcp.payload().to_vec(),
        ),
        TransportSlice::Udp(udp) => ((udp.source_port(), udp.destination_port()), (0, 0, 0), udp.payload().to_vec()),
        other => panic!("{other:?} is not for a balancer"),
    };
    Seen {
        macs: (frame[6..12].try_into().expect("six bytes"), frame[..6].try_into().expect("six bytes")),
        src: SocketAddr::new(src, ports.0),
        dst: SocketAddr::new(dst, ports.1),
        ttl,
        tcp,
        payload,
    }
}

impl From<Packet> for Vec<u8> {
    fn from(packet: Packet) -> Self {
        packet.bytes()
    }
}

impl From<&Packet> for Vec<u8> {
    fn from(packet: &Packet) -> Self {
        packet.bytes()
    }
}

//! The frames that tell a link where an address now lives, and the packet socket that sends them.
//!
//! The frames are pure functions of MAC and address. The kernel has no interface that sends them on request: it announces
//! an address by itself only when a link comes up or changes its MAC.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket};

use super::Mac;

const BROADCAST: Mac = [0xff; 6];
/// All IPv6 nodes on the link (RFC 4291 section 2.7.1) and the MAC that stands for them (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const ICMPV6: u8 = 58;

/// The frames of one announcement. IPv4 takes two: hosts learn from either form of a gratuitous ARP, some switches and
/// firewalls only from one of them.
pub(super) fn frames(mac: Mac, ip: IpAddr) -> Vec<Vec<u8>> {
    match ip {
        IpAddr::V4(ip) => vec![gratuitous_arp(mac, ip, ARP_REQUEST), gratuitous_arp(mac, ip, ARP_REPLY)],
        IpAddr::V6(ip) => vec![neighbour_advertisement(mac, ip)],
    }
}

/// A socket that only sends: protocol 0 receives nothing.
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Packet, SockType::Raw, flags, None)?)
}

/// Sends a whole Ethernet frame out of an interface.
pub(super) fn send(socket: BorrowedFd<'_>, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    sendto(socket.as_raw_fd(), frame, &link_address(ifindex)?, MsgFlags::empty())?;
    Ok(())
}

fn link_address(ifindex: u32) -> io::Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: ifindex.try_into().map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer and the length describe `address`, a whole `sockaddr_ll` that outlives the call; nix copies it.
    let copied = unsafe {
        LinkAddr::from_raw((&raw const address).cast(), Some(size_of::<libc::sockaddr_ll>() as libc::socklen_t))
    };
    copied.ok_or(io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// RFC 5227 section 2.3: sender and target address are both the announced one.
fn gratuitous_arp(mac: Mac, ip: Ipv4Addr, operation: u16) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, libc::ETH_P_ARP);
    frame.extend([0, 1, 8, 0, 6, 4]); // Ethernet and IPv4, and the lengths of their addresses
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend(if operation == ARP_REPLY { mac } else { Mac::default() });
    frame.extend(ip.octets());
    frame
}

/// RFC 4861 section 4.4, unsolicited, with the override flag and the sender's MAC.
fn neighbour_advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    message.extend([2, 1]); // target link-layer address, one unit of 8 bytes
    message.extend(mac);
    let checksum = icmpv6_checksum(ip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = ethernet(ALL_NODES_MAC, mac, libc::ETH_P_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, 255]); // the hop limit proves that no router has passed it on
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(destination: Mac, source: Mac, protocol: i32) -> Vec<u8> {
    [&destination[..], &source, &(protocol as u16).to_be_bytes()].concat()
}

/// RFC 8200 section 8.1, over a message of even length.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo_header = source.segments().into_iter().chain(destination.segments());
    let words = message.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let sum: u32 = pseudo_header.chain(words).map(u32::from).sum::<u32>() + message.len() as u32 + u32::from(ICMPV6);
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 0x0a];

    #[test]
    fn a_gratuitous_arp_asks_everybody_for_its_own_address() {
        let frames = frames(MAC, "192.0.2.1".parse().unwrap());
        #[rustfmt::skip]
        let request = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0x0a, 0x08, 0x06,
            0, 1, 8, 0, 6, 4, 0, 1,
            2, 0, 0, 0, 0, 0x0a, 192, 0, 2, 1,
            0, 0, 0, 0, 0, 0, 192, 0, 2, 1,
        ];
        assert_eq!(frames[0], request);
        assert_eq!(frames[1][20..22], [0, 2], "and answers it");
        assert_eq!(frames[1][32..38], MAC);
    }

    #[test]
    fn a_neighbour_advertisement_overrides_and_its_checksum_is_right() {
        let [frame] = &frames(MAC, "fd00::1".parse().unwrap())[..] else { panic!("one frame") };
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x0a, 0x86, 0xdd]);
        assert_eq!(frame[18..22], [0, 32, 58, 255]);
        assert_eq!(frame[54], 136);
        assert_eq!(frame[58], 0x20, "override, neither router nor solicited");
        assert_eq!(frame[78..], [2, 1, 2, 0, 0, 0, 0, 0x0a]);
        // Summed over what was sent, a right checksum leaves nothing (RFC 1071 section 1).
        assert_eq!(icmpv6_checksum("fd00::1".parse().unwrap(), ALL_NODES, &frame[54..]), 0);
    }
}

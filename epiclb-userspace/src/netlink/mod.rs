//! What the kernel's network stack knows, and the few things epiclb changes in it.
//!
//! Owns: links, addresses, routes and neighbours as plain ordered data ([`Netlink`]), the stream of their changes
//! ([`subscribe`]), the announcement of an address that has just arrived ([`Netlink::announce`]), and the pure
//! bookkeeping that turns routes and neighbours into next-hop MACs ([`resolve`]). Deliberately knows nothing of VIPs,
//! RIPs or maps, and remembers nothing: every answer is read from the kernel.
//!
//! **Namespaces.** A socket belongs to the network namespace of the thread that opens it: call [`Netlink::open`],
//! [`subscribe`] and `announce` on a thread that is in the wanted one. A daemon that never changes its namespace need
//! not care; tests use a current-thread runtime per namespace.

mod announce;
pub mod resolve;
mod watch;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use futures_util::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo},
    link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp, XdpAttached},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState as Nud},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use self::resolve::{Probe, ProbeKind};
pub use self::watch::{NetEvent, subscribe};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Marks an address as added by epiclb: its route metric (`IFA_RT_PRIORITY`), "EPLB" in ASCII.
///
/// The kernel uses the metric for the address's connected subnet only, which a /32 or /128 has not, and shows it in
/// every dump since 4.18. `IFA_PROTO` is meant for this, but only exists since 5.18, too late for RHEL 9 (5.14) and
/// Ubuntu 22.04 (5.15), where a daemon that was killed would not know its own addresses again.
pub const ADDRESS_MARK: u32 = 0x4550_4c42;

/// How often an announcement is sent, since it is never acknowledged.
const ANNOUNCEMENTS: usize = 3;
/// The time between two of them.
const ANNOUNCEMENT_GAP: Duration = Duration::from_millis(100);
/// How often a dump that the kernel marks as torn by a concurrent change is read anew before the last one is taken.
const DUMP_TRIES: usize = 5;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; zeros where it has none (loopback, tunnels).
    pub mac: Mac,
    /// The largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Whether an administrator has switched it on.
    pub up: bool,
    /// Whether the cable (or its like) is in.
    pub carrier: bool,
    /// The XDP program on it, whoever put it there.
    pub xdp: Option<Xdp>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// The kernel's number for the program (`bpftool prog show id`); of the first if there are several.
    pub prog_id: u32,
    /// Where it runs.
    pub place: XdpPlace,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpPlace {
    /// In the driver.
    Native,
    /// In the kernel's receive path, after the driver.
    Generic,
    /// In the network card.
    Offloaded,
    /// In more than one of these places.
    Several,
}

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The interface that has it.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// The length of its subnet's prefix in bits.
    pub prefix_len: u8,
    /// Whether epiclb added it ([`ADDRESS_MARK`]), now or in an earlier life.
    pub ours: bool,
}

/// The way to an address, as the kernel's routing table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// Out of an interface.
    Via(Route),
    /// It is an address of this machine.
    Local,
    /// There is no route, or one that forbids; also multicast and broadcast addresses.
    Unreachable,
}

/// A usable route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// The router it goes through; `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The address this machine would send from.
    pub source: Option<IpAddr>,
}

/// What the kernel knows of another machine on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The link.
    pub ifindex: u32,
    /// The other machine's address.
    pub ip: IpAddr,
    /// Its Ethernet address, if one is known.
    pub mac: Option<Mac>,
    /// How good that knowledge is.
    pub state: NeighbourState,
}

/// How good the kernel's knowledge of a neighbour is: its NUD states, as far as they differ to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Nobody has been asked, or nobody has answered yet (`NONE`, `INCOMPLETE`).
    Unresolved,
    /// Confirmed within the last half a minute or so.
    Reachable,
    /// Not confirmed lately, or only heard of (`STALE`, `DELAY`).
    Stale,
    /// Being asked at its last address (`PROBE`).
    Probing,
    /// Was asked and did not answer.
    Failed,
    /// An administrator's entry, or a link without address resolution (`PERMANENT`, `NOARP`). Never to be probed: that
    /// would turn it into an ordinary one.
    Static,
    /// The kernel has dropped the entry.
    Gone,
}

/// The kernel refused something, or could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub struct Error {
    doing: String,
    source: io::Error,
}

impl Error {
    fn new(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { doing: doing.into(), source: source.into() }
    }

    /// The kernel's error number, if it is one of the kernel's.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// A handle to one network namespace. Cheap to clone; clones share the socket.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace and serves it by a task of the current tokio runtime,
    /// until the last clone is dropped.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|e| Error::new("opening a netlink socket", e))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Every interface, by its number.
    pub async fn links(&self) -> Result<BTreeMap<u32, Link>, Error> {
        let answers = self.dump("reading the interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
        let links = answers.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => Some(link(message)),
            _ => None,
        });
        Ok(links.map(|link| (link.ifindex, link)).collect())
    }

    /// Every IPv4 and IPv6 address, sorted.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let answers =
            self.dump("reading the addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?;
        let mut addresses: Vec<_> = answers
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => address(message),
                _ => None,
            })
            .collect();
        addresses.sort();
        Ok(addresses)
    }

    /// Adds `ip` as a /32 or /128 of ours. `false`: the interface had exactly this address, and [`Self::addresses`]
    /// tells whose it is.
    ///
    /// An IPv6 address is usable at once (no duplicate address detection: a VIP may not wait for it) and deprecated,
    /// so that the kernel never chooses it as the source of a connection of its own: by RFC 6724 rule 8 the /128 would
    /// otherwise be the best match for servers nearby, and the guard would drop their answers. IPv4 needs no such
    /// care, it prefers the address whose subnet holds the next hop.
    pub async fn add_address(&self, ifindex: u32, ip: IpAddr) -> Result<bool, Error> {
        let mut message = address_message(ifindex, ip);
        message.attributes.push(AddressAttribute::RoutePriority(ADDRESS_MARK));
        if ip.is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        match self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).await {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => {
                let hint = match e.raw_os_error() {
                    Some(libc::EACCES) if ip.is_ipv6() => ", where IPv6 is off (net.ipv6.conf.*.disable_ipv6)",
                    _ => "",
                };
                Err(Error::new(format!("adding {ip} to interface {ifindex}{hint}"), e))
            }
        }
    }

    /// Removes the /32 or /128 `ip`. `false`: it was not there.
    pub async fn remove_address(&self, ifindex: u32, ip: IpAddr) -> Result<bool, Error> {
        match self.request(RouteNetlinkMessage::DelAddress(address_message(ifindex, ip)), 0).await {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(false),
            Err(e) => Err(Error::new(format!("removing {ip} from interface {ifindex}"), e)),
        }
    }

    /// The way that this machine's own packets to `destination` would take now, policy routing included.
    pub async fn route(&self, destination: IpAddr) -> Result<Path, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination);
        message.header.destination_prefix_length = host_prefix(destination);
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        match self.request(RouteNetlinkMessage::GetRoute(message), 0).await {
            Ok(Some(RouteNetlinkMessage::NewRoute(message))) => Ok(path(message)),
            Ok(_) => Ok(Path::Unreachable),
            // The last two are how `prohibit` and `blackhole` routes answer.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
                ) =>
            {
                Ok(Path::Unreachable)
            }
            Err(e) => Err(Error::new(format!("looking up the route to {destination}"), e)),
        }
    }

    /// Every IPv4 and IPv6 neighbour the kernel knows of, on every link.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        let answers =
            self.dump("reading the neighbours", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())).await?;
        let neighbours = answers.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => neighbour(message),
            _ => None,
        });
        Ok(neighbours.collect())
    }

    /// Makes the kernel ask who has an address, without any traffic to it. The answer arrives as
    /// [`NetEvent::Neighbour`].
    ///
    /// Not `NTF_EXT_MANAGED` (5.16): it keeps an entry from going unresolved, but leaves a reachable one alone for up
    /// to 45 s, so that a changed MAC would go unnoticed for that long, and it must be removed again by someone.
    pub async fn probe(&self, probe: &Probe) -> Result<(), Error> {
        let Probe { ifindex, ip, kind } = *probe;
        let entry = |state: Nud, flags: NeighbourFlags| {
            let mut message = NeighbourMessage::default();
            message.header.family = family(ip);
            message.header.ifindex = ifindex;
            message.header.state = state;
            message.header.flags = flags;
            message.attributes.push(NeighbourAttribute::Destination(ip.into()));
            RouteNetlinkMessage::NewNeighbour(message)
        };
        let set = async |state| self.request(entry(state, NeighbourFlags::empty()), NLM_F_REPLACE).await;
        let asked = match kind {
            ProbeKind::Resolve => false,
            // The timer of an entry that enters PROBE fires at once: a unicast question leaves now.
            ProbeKind::Confirm => set(Nud::Probe).await.is_ok(),
            // Only from FAILED does the kernel ask everybody again; if there is no entry, that is as good.
            ProbeKind::Renew => {
                let _ = set(Nud::Failed).await;
                false
            }
        };
        if !asked {
            self.request(entry(Nud::None, NeighbourFlags::Use), NLM_F_CREATE)
                .await
                .map_err(|e| Error::new(format!("asking for the MAC of {ip} on interface {ifindex}"), e))?;
        }
        Ok(())
    }

    /// Tells the links that these addresses are now here: a burst of gratuitous ARP (RFC 5227 section 3) or unsolicited
    /// neighbour advertisements (RFC 4861 section 7.2.6). Takes 0.2 s. Frames get lost: repeat it after a few seconds if
    /// the addresses may have moved here from another machine.
    ///
    /// An address that can't be announced does not keep the others from it; the error is the last one met.
    pub async fn announce(&self, vips: &[(u32, IpAddr)]) -> Result<(), Error> {
        let links = self.links().await?;
        let socket = announce::open().map_err(|e| Error::new("opening a packet socket", e))?;
        let mut outcome = Ok(());
        for round in 0..ANNOUNCEMENTS {
            if round > 0 {
                tokio::time::sleep(ANNOUNCEMENT_GAP).await;
            }
            for &(ifindex, ip) in vips {
                if let Err(e) = announce_one(&socket, &links, ifindex, ip) {
                    outcome = Err(Error::new(format!("announcing {ip} on interface {ifindex}"), e));
                }
            }
        }
        outcome
    }

    /// Reads a whole table.
    async fn dump(&self, doing: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut answers = Vec::new();
        for _ in 0..DUMP_TRIES {
            let torn;
            (answers, torn) = self.exchange(message.clone(), NLM_F_DUMP).await.map_err(|e| Error::new(doing, e))?;
            if !torn {
                break;
            }
        }
        Ok(answers)
    }

    /// Asks for one thing or changes one thing; the acknowledgement ends the exchange.
    async fn request(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
        let (answers, _) = self.exchange(message, NLM_F_ACK | flags).await?;
        Ok(answers.into_iter().next())
    }

    /// The answers, and whether the table changed while it was read.
    async fn exchange(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut stream = self.handle.clone().request(request).map_err(io::Error::other)?;
        let (mut answers, mut torn) = (Vec::new(), false);
        while let Some(answer) = stream.next().await {
            torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok((answers, torn))
    }
}

/// The interface among `candidates` whose subnet holds `ip` (the longest prefix wins, then the order given), else the
/// first of them. Addresses of ours do not count: they are where an earlier choice put them.
pub fn interface_for(ip: IpAddr, candidates: &[u32], addresses: &[Address]) -> Option<u32> {
    let prefix = |ifindex: u32| {
        addresses
            .iter()
            .filter(|a| a.ifindex == ifindex && !a.ours && subnet_holds(a.ip, a.prefix_len, ip))
            .map(|a| a.prefix_len)
            .max()
    };
    // `max_by_key` takes the last of equals.
    candidates.iter().rev().copied().max_by_key(|&ifindex| prefix(ifindex))
}

fn subnet_holds(net: IpAddr, prefix_len: u8, ip: IpAddr) -> bool {
    let host_bits = u32::from(host_prefix(net).saturating_sub(prefix_len));
    match (net, ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) => (net.to_bits() ^ ip.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0,
        (IpAddr::V6(net), IpAddr::V6(ip)) => (net.to_bits() ^ ip.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0,
        _ => false,
    }
}

fn announce_one(socket: &OwnedFd, links: &BTreeMap<u32, Link>, ifindex: u32, ip: IpAddr) -> io::Result<()> {
    let link = links.get(&ifindex).ok_or(io::Error::from_raw_os_error(libc::ENODEV))?;
    announce::frames(link.mac, ip).iter().try_for_each(|frame| announce::send(socket.as_fd(), ifindex, frame))
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The prefix length that means one address.
fn host_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn address_message(ifindex: u32, ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = host_prefix(ip);
    message.header.index = ifindex;
    message.attributes.extend([AddressAttribute::Local(ip), AddressAttribute::Address(ip)]);
    message
}

fn link(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        mac: Mac::default(),
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        xdp: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Xdp(attributes) => link.xdp = xdp(&attributes),
            _ => {}
        }
    }
    link
}

fn xdp(attributes: &[LinkXdp]) -> Option<Xdp> {
    let place = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(XdpPlace::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpPlace::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(XdpPlace::Offloaded),
        LinkXdp::Attached(XdpAttached::Multiple) => Some(XdpPlace::Several),
        _ => None,
    })?;
    let prog_id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => Some(*id),
        _ => None,
    })?;
    Some(Xdp { prog_id, place })
}

fn address(message: AddressMessage) -> Option<Address> {
    // On a point-to-point link `Address` is the other end, and `Local` is ours.
    let (mut ip, mut local, mut ours) = (None, None, false);
    for attribute in &message.attributes {
        match *attribute {
            AddressAttribute::Address(address) => ip = Some(address),
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::RoutePriority(metric) => ours = metric == ADDRESS_MARK,
            _ => {}
        }
    }
    Some(Address { ifindex: message.header.index, ip: local.or(ip)?, prefix_len: message.header.prefix_len, ours })
}

fn path(message: RouteMessage) -> Path {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Path::Local,
        _ => return Path::Unreachable,
    }
    let (mut ifindex, mut gateway, mut source) = (None, None, None);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(index),
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            // An IPv4 destination behind an IPv6 router (RFC 5549).
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(address.into()),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some(address.into()),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            _ => {}
        }
    }
    match ifindex {
        Some(ifindex) => Path::Via(Route { ifindex, gateway, source }),
        None => Path::Unreachable,
    }
}

fn ip_of(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// `None` for what is no IPv4 or IPv6 neighbour, such as a bridge's forwarding entries.
fn neighbour(message: NeighbourMessage) -> Option<Neighbour> {
    let state = match message.header.state {
        Nud::Reachable => NeighbourState::Reachable,
        Nud::Stale | Nud::Delay => NeighbourState::Stale,
        Nud::Probe => NeighbourState::Probing,
        Nud::Failed => NeighbourState::Failed,
        Nud::Permanent | Nud::Noarp => NeighbourState::Static,
        _ => NeighbourState::Unresolved,
    };
    let (mut ip, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => ip = Some(IpAddr::from(address)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => ip = Some(IpAddr::from(address)),
            NeighbourAttribute::LinkLocalAddress(bytes) => mac = Mac::try_from(bytes).ok().filter(is_unicast),
            _ => {}
        }
    }
    Some(Neighbour { ifindex: message.header.ifindex, ip: ip?, mac, state })
}

/// A frame can be sent to it, and to it alone.
fn is_unicast(mac: &Mac) -> bool {
    mac[0] & 1 == 0 && *mac != Mac::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ifindex: u32, cidr: &str, ours: bool) -> Address {
        let (ip, prefix_len) = cidr.split_once('/').unwrap();
        Address { ifindex, ip: ip.parse().unwrap(), prefix_len: prefix_len.parse().unwrap(), ours }
    }

    #[test]
    fn a_vip_goes_where_its_subnet_is_and_else_to_the_first_interface() {
        let addresses = [
            address(1, "127.0.0.1/8", false),
            address(2, "10.0.0.5/8", false),
            address(3, "10.1.0.5/16", false),
            address(3, "fd00::5/64", false),
            address(4, "0.0.0.0/0", false),
        ];
        let place = |ip: &str, candidates: &[u32]| interface_for(ip.parse().unwrap(), candidates, &addresses);
        assert_eq!(place("10.9.9.9", &[2, 3]), Some(2));
        assert_eq!(place("10.1.9.9", &[2, 3]), Some(3), "the longest prefix wins");
        assert_eq!(place("fd00::9", &[2, 3]), Some(3));
        assert_eq!(place("192.0.2.1", &[3, 2]), Some(3), "no subnet: the first");
        assert_eq!(place("192.0.2.1", &[3, 4]), Some(4), "a prefix of no bits holds everything");
        assert_eq!(place("127.0.0.9", &[2]), Some(2), "only candidates count");
        assert_eq!(place("10.9.9.9", &[]), None);
    }

    #[test]
    fn an_address_of_ours_does_not_decide_where_it_belongs() {
        let addresses = [address(2, "192.0.2.5/24", false), address(3, "192.0.2.9/32", true)];
        assert_eq!(interface_for("192.0.2.9".parse().unwrap(), &[3, 2], &addresses), Some(2));
    }

    #[test]
    fn an_xdp_program_is_named_by_its_number_and_place() {
        assert_eq!(xdp(&[LinkXdp::Attached(XdpAttached::None)]), None);
        assert_eq!(
            xdp(&[LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(7), LinkXdp::SkbProgId(7)]),
            Some(Xdp { prog_id: 7, place: XdpPlace::Generic })
        );
        assert_eq!(
            xdp(&[LinkXdp::Attached(XdpAttached::Multiple), LinkXdp::DrvProgId(8), LinkXdp::SkbProgId(9)]),
            Some(Xdp { prog_id: 8, place: XdpPlace::Several })
        );
    }
}

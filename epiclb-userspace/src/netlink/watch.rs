//! The stream of changes in links, addresses, routes and neighbours.
//!
//! A flapping route or a thousand confirmed neighbours must not become a thousand wake-ups of the daemon: what arrives
//! within [`COALESCE`] is told once. Links, addresses and routes are told without content, since whoever cares reads the
//! table anew; neighbours with their last state.

use std::{collections::BTreeMap, io, net::IpAddr, time::Duration};

use futures_util::FutureExt;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;
use tracing::error;

use super::{Error, Neighbour, NeighbourState, neighbour};

/// Events that may wait for the daemon. When they are full, the rest of the batch is dropped and [`NetEvent::Overrun`]
/// takes its place as soon as there is room.
const QUEUE: usize = 1024;
/// The delay that the first change of a batch suffers, waiting for others.
const COALESCE: Duration = Duration::from_millis(10);
/// The kernel's queue in bytes (it caps this at `net.core.rmem_max`); when it is full, the kernel drops and says so.
const RECEIVE_BUFFER: i32 = 1 << 20;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Something has changed in the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// Some interface: came, went, up, down, MAC, MTU, XDP.
    Link,
    /// Some address of this machine.
    Address,
    /// Some route.
    Route,
    /// This neighbour.
    Neighbour(Neighbour),
    /// Events were lost, or one was not understood: read every table again.
    Overrun,
}

/// Listens in the calling thread's network namespace, by a task of the current tokio runtime that ends with the
/// receiver. The stream ends only if the socket fails for good.
pub fn subscribe() -> Result<mpsc::Receiver<NetEvent>, Error> {
    let socket = open().map_err(|e| Error::new("listening for network changes", e))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(watch(socket, sender));
    Ok(receiver)
}

fn open() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = GROUPS.iter().fold(0, |mask, &group| mask | 1 << (group as u32 - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    socket.socket_ref().set_rx_buf_sz(RECEIVE_BUFFER)?;
    Ok(socket)
}

async fn watch(socket: TokioSocket, events: mpsc::Sender<NetEvent>) {
    loop {
        let mut batch = Batch::default();
        let first = tokio::select! {
            () = events.closed() => return,
            datagram = socket.recv_from_full() => datagram,
        };
        let mut next = Some(first);
        tokio::time::sleep(COALESCE).await;
        while let Some(datagram) = next {
            match datagram {
                Ok((bytes, _)) => batch.add(&bytes),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => batch.overrun = true,
                Err(e) => return error!("network changes can no longer be followed: {e}"),
            }
            next = socket.recv_from_full().now_or_never();
        }
        tell(&events, batch.into_events()).await;
    }
}

/// Never waits but for the room that an overrun needs. Meanwhile the kernel's queue takes what happens.
async fn tell(queue: &mpsc::Sender<NetEvent>, events: Vec<NetEvent>) {
    for event in events {
        if let Err(mpsc::error::TrySendError::Full(_)) = queue.try_send(event) {
            let _ = queue.send(NetEvent::Overrun).await;
            return;
        }
    }
}

/// What has changed since the last events were told. Bounded by the kernel's neighbour table.
#[derive(Default)]
struct Batch {
    link: bool,
    address: bool,
    route: bool,
    neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    overrun: bool,
}

impl Batch {
    /// Adds the messages of one datagram.
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else {
                self.overrun = true;
                return;
            };
            let length = (message.header.length as usize).next_multiple_of(4);
            bytes = bytes.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(message) => self.change(message),
                NetlinkPayload::Overrun(_) => self.overrun = true,
                _ => {}
            }
        }
    }

    fn change(&mut self, message: RouteNetlinkMessage) {
        use RouteNetlinkMessage as M;
        match message {
            M::NewLink(_) | M::DelLink(_) => self.link = true,
            M::NewAddress(_) | M::DelAddress(_) => self.address = true,
            M::NewRoute(_) | M::DelRoute(_) => self.route = true,
            M::NewNeighbour(message) => self.neighbour(neighbour(message)),
            M::DelNeighbour(message) => self.neighbour(neighbour(message).map(|known| Neighbour {
                mac: None,
                state: NeighbourState::Gone,
                ..known
            })),
            _ => {}
        }
    }

    fn neighbour(&mut self, neighbour: Option<Neighbour>) {
        if let Some(neighbour) = neighbour {
            self.neighbours.insert((neighbour.ifindex, neighbour.ip), neighbour);
        }
    }

    fn into_events(self) -> Vec<NetEvent> {
        if self.overrun {
            return vec![NetEvent::Overrun];
        }
        let tables = [(self.link, NetEvent::Link), (self.address, NetEvent::Address), (self.route, NetEvent::Route)];
        let tables = tables.into_iter().filter_map(|(changed, event)| changed.then_some(event));
        tables.chain(self.neighbours.into_values().map(NetEvent::Neighbour)).collect()
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{
        AddressFamily,
        link::LinkMessage,
        neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState as Nud},
        route::RouteMessage,
    };

    use super::*;

    fn datagram(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> Vec<u8> {
        let mut datagram = Vec::new();
        for message in messages {
            let mut message = NetlinkMessage::from(message);
            message.finalize();
            let start = datagram.len();
            datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut datagram[start..]);
        }
        datagram
    }

    fn entry(state: Nud, mac: u8) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 2;
        message.header.state = state;
        message.attributes.push(NeighbourAttribute::Destination("192.0.2.9".parse::<IpAddr>().unwrap().into()));
        message.attributes.push(NeighbourAttribute::LinkLocalAddress(vec![2, 0, 0, 0, 0, mac]));
        message
    }

    #[test]
    fn changes_of_a_batch_are_told_once_and_neighbours_by_their_last_state() {
        use RouteNetlinkMessage as M;
        let mut batch = Batch::default();
        batch.add(&datagram([
            M::NewRoute(RouteMessage::default()),
            M::NewNeighbour(entry(Nud::Probe, 1)),
            M::DelRoute(RouteMessage::default()),
            M::NewLink(LinkMessage::default()),
        ]));
        batch.add(&datagram([M::NewNeighbour(entry(Nud::Reachable, 2))]));
        let known = Neighbour {
            ifindex: 2,
            ip: "192.0.2.9".parse().unwrap(),
            mac: Some([2, 0, 0, 0, 0, 2]),
            state: NeighbourState::Reachable,
        };
        assert_eq!(batch.into_events(), [NetEvent::Link, NetEvent::Route, NetEvent::Neighbour(known.clone())]);

        let mut batch = Batch::default();
        batch.add(&datagram([M::DelNeighbour(entry(Nud::Failed, 2))]));
        let gone = Neighbour { mac: None, state: NeighbourState::Gone, ..known };
        assert_eq!(batch.into_events(), [NetEvent::Neighbour(gone)]);
    }

    #[tokio::test]
    async fn events_that_find_the_queue_full_become_an_overrun() {
        let (sender, mut receiver) = mpsc::channel(2);
        let storm = vec![NetEvent::Link, NetEvent::Address, NetEvent::Route, NetEvent::Route];
        let listen = async {
            tokio::task::yield_now().await;
            [receiver.recv().await, receiver.recv().await, receiver.recv().await].map(Option::unwrap)
        };
        let ((), told) = tokio::join!(tell(&sender, storm), listen);
        assert_eq!(told, [NetEvent::Link, NetEvent::Address, NetEvent::Overrun]);
        tell(&sender, vec![NetEvent::Route]).await;
        assert_eq!(receiver.recv().await, Some(NetEvent::Route), "and on it goes");
    }

    #[test]
    fn what_is_not_understood_asks_for_a_fresh_look_at_everything() {
        let mut batch = Batch::default();
        batch.add(&datagram([RouteNetlinkMessage::NewLink(LinkMessage::default())]));
        batch.add(&[1, 2, 3, 4, 5]);
        assert_eq!(batch.into_events(), [NetEvent::Overrun]);
    }
}

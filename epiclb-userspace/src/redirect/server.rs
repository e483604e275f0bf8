//! One listening socket of the redirect responder and its connections.
//!
//! Owns: time limits, connection limits, counters. Deliberately knows nothing of what the answers say; that is
//! [`http`](super::http)'s.
//!
//! A client gets [`HEAD_LIMIT`] for a whole request head, however it trickles in, and [`IDLE_LIMIT`] between two
//! requests. A connection that never sends a byte is closed without a word: it is a browser's pre-connect or a
//! scan, and an answer to no request confuses the former.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::debug;

use super::http::{self, Answer, MAX_HEAD, Status, Step};
use crate::model::Redirect;

/// Connections open at once on one listener. Above it the oldest gives way: an honest client needs milliseconds, so
/// what is oldest is slow or idle. Each takes a file descriptor and 3 to 11 KiB.
pub const MAX_CONNECTIONS: usize = 4096;

/// Bytes a connection starts with for its request heads; most are shorter. Grows up to [`MAX_HEAD`].
const FIRST_BUFFER: usize = 1024;

/// Time for a request head to arrive whole.
pub const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Time that a kept-alive connection may be silent.
pub const IDLE_LIMIT: Duration = Duration::from_secs(15);

/// Requests on one connection; the last is answered with `Connection: close`.
pub const MAX_REQUESTS: u32 = 100;

/// Time for a client to take an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// How long, and how many bytes, are thrown away after the last answer, so that a client that is still sending reads
/// the answer instead of a reset (RFC 9112 §9.6).
const LINGER_LIMIT: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;

/// Handshakes the kernel completes ahead of us; more are left to the client's next try.
const BACKLOG: u32 = 1024;

/// Pause after an error of `accept`, which would come again at once, as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The same where a connection of our own was closed to free one: time for that to happen.
const DISPLACE_PAUSE: Duration = Duration::from_millis(1);

/// A listening socket that answers. Dropping it closes the socket and its connections a moment later;
/// [`close`](Self::close) waits until that is done.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    settings: watch::Sender<Arc<Redirect>>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

/// What one listener has done since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Connections closed to make room for newer ones.
    pub displaced: u64,
    /// Connections the kernel could not hand over.
    pub accept_errors: u64,
    /// Answers sent, by status code.
    pub answers: BTreeMap<u16, u64>,
}

impl Listener {
    /// Opens the socket in the network namespace of the calling thread, and answers on it.
    ///
    /// The address need not exist yet: VIP addresses are added and fail over independently of this socket. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// What the kernel says, `AddrInUse` for one where another program holds the port.
    pub fn open(address: SocketAddr, redirect: Redirect) -> io::Result<Self> {
        Self::open_with_room_for(MAX_CONNECTIONS, address, redirect)
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes where it sends people, from the next request on; open connections stay.
    pub fn configure(&self, redirect: &Redirect) {
        self.settings.send_if_modified(|current| {
            let changed = **current != *redirect;
            if changed {
                *current = Arc::new(redirect.clone());
            }
            changed
        });
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Whether it still accepts connections; false only after a bug, as nothing else ends it.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Closes the socket and its connections; the port is free when this returns.
    pub async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    fn open_with_room_for(connections: usize, address: SocketAddr, redirect: Redirect) -> io::Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let (settings, current) = watch::channel(Arc::new(redirect));
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(accept(listener, connections, address.ip(), current, Arc::clone(&counters)));
        Ok(Self { address, settings, counters, task })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    socket.set_reuseaddr(true)?;
    // Covers IPv6 too: the kernel hands SOL_IP options of a TCP socket to the common code, which keeps one flag for both.
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The plain atomics behind [`Counts`].
#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    displaced: AtomicU64,
    accept_errors: AtomicU64,
    answers: [AtomicU64; Status::ALL.len()],
}

impl Counters {
    fn answered(&self, status: Status) {
        add_one(&self.answers[status as usize]);
    }

    fn read(&self) -> Counts {
        let Self { connections, displaced, accept_errors, answers } = self;
        Counts {
            connections: connections.load(Ordering::Relaxed),
            displaced: displaced.load(Ordering::Relaxed),
            accept_errors: accept_errors.load(Ordering::Relaxed),
            answers: Status::ALL
                .iter()
                .map(|status| (status.code(), answers[*status as usize].load(Ordering::Relaxed)))
                .collect(),
        }
    }
}

fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Accepts for ever. Dropping the future closes the socket and, with the [`Connections`], all that came through it.
async fn accept(
    listener: TcpListener,
    room: usize,
    vip: IpAddr,
    settings: watch::Receiver<Arc<Redirect>>,
    counters: Arc<Counters>,
) {
    let mut connections = Connections::with_room_for(room);
    loop {
        let error = match listener.accept().await {
            Ok((stream, _client)) => {
                add_one(&counters.connections);
                if connections.make_room() {
                    add_one(&counters.displaced);
                }
                let (settings, counters) = (settings.clone(), Arc::clone(&counters));
                connections.add(async move { serve_tcp(stream, vip, &settings, &counters).await });
                continue;
            }
            Err(error) => error,
        };
        add_one(&counters.accept_errors);
        debug!(%error, "cannot accept a connection");
        match error.raw_os_error().map(Errno::from_raw) {
            // The client was gone before we came: nothing to wait for.
            Some(Errno::ECONNABORTED) => {}
            // The newest is served rather than the oldest, here as above.
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) if connections.displace_oldest() => {
                add_one(&counters.displaced);
                sleep(DISPLACE_PAUSE).await;
            }
            _ => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// The open connections of one listener, oldest first.
struct Connections {
    room: usize,
    tasks: JoinSet<()>,
    /// Ended ones stay in line until they come to the front or the line is twice as long as there is room.
    by_age: VecDeque<AbortHandle>,
}

impl Connections {
    fn with_room_for(room: usize) -> Self {
        Self { room, tasks: JoinSet::new(), by_age: VecDeque::new() }
    }

    /// Closes the oldest connection if there is no room for one more; says whether it had to.
    fn make_room(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.len() >= self.room && self.displace_oldest()
    }

    fn displace_oldest(&mut self) -> bool {
        while let Some(oldest) = self.by_age.pop_front() {
            if !oldest.is_finished() {
                oldest.abort();
                return true;
            }
        }
        false
    }

    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        if self.by_age.len() >= 2 * self.room {
            self.by_age.retain(|task| !task.is_finished());
        }
        self.by_age.push_back(self.tasks.spawn(connection));
    }
}

async fn serve_tcp(stream: TcpStream, vip: IpAddr, settings: &watch::Receiver<Arc<Redirect>>, counters: &Counters) {
    // Answers to pipelined requests are separate small writes, which Nagle would hold back.
    let _ = stream.set_nodelay(true);
    // What breaks here is one client's connection: nobody's news.
    let _ = serve(stream, vip, settings, counters).await;
}

/// Serves one connection to its end.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    vip: IpAddr,
    settings: &watch::Receiver<Arc<Redirect>>,
    counters: &Counters,
) -> io::Result<()> {
    let mut received = Received { buffer: vec![0; FIRST_BUFFER], filled: 0 };
    for served in 1..=MAX_REQUESTS {
        let silence = if served == 1 { HEAD_LIMIT } else { IDLE_LIMIT };
        let opened = Instant::now();
        if received.filled == 0 && !received.read_before(opened + silence, &mut stream).await? {
            return Ok(());
        }
        // The first head's time runs from the connection's start, a later one's from its first byte.
        let deadline = if served == 1 { opened } else { Instant::now() } + HEAD_LIMIT;
        let mut answer = loop {
            let redirect = Arc::clone(&settings.borrow());
            if let Step::Answer(answer) = http::respond(received.bytes(), vip, &redirect) {
                break answer;
            }
            match timeout_at(deadline, received.read(&mut stream)).await {
                Ok(Ok(0)) => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => break Answer::refusal(Status::RequestTimeout),
            }
        };
        answer.keep_alive &= served < MAX_REQUESTS;
        counters.answered(answer.status);
        timeout(WRITE_LIMIT, stream.write_all(&answer.to_bytes())).await??;
        if !answer.keep_alive {
            return received.linger(stream).await;
        }
        received.consume(answer.head_len);
    }
    Ok(())
}

/// What a client has sent and has not been answered to. Never full while a head is incomplete: at [`MAX_HEAD`] bytes
/// [`http::respond`] gives up on it.
struct Received {
    buffer: Vec<u8>,
    filled: usize,
}

impl Received {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        if self.filled == self.buffer.len() {
            self.buffer.resize((2 * self.filled).min(MAX_HEAD), 0);
        }
        let count = stream.read(&mut self.buffer[self.filled..]).await?;
        self.filled += count;
        Ok(count)
    }

    /// Reads once; false where the client is silent or gone.
    async fn read_before(&mut self, deadline: Instant, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        match timeout_at(deadline, self.read(stream)).await {
            Ok(count) => Ok(count? > 0),
            Err(_) => Ok(false),
        }
    }

    fn consume(&mut self, count: usize) {
        self.buffer.copy_within(count..self.filled, 0);
        self.filled -= count;
    }

    /// Ends our side, then throws away what the client still sends. Closing at once would make the kernel answer it
    /// with a reset, which can overtake our answer.
    async fn linger(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        stream.shutdown().await?;
        let discard = async {
            let mut left = LINGER_BYTES;
            while left > 0 {
                match stream.read(&mut self.buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => left = left.saturating_sub(count),
                }
            }
        };
        let _ = timeout(LINGER_LIMIT, discard).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

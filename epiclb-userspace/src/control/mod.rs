//! The one door to a running daemon: a unix socket that speaks JSON lines.
//!
//! Owns: the requests and replies ([`request`]), the listener ([`server`]) and the caller ([`client`]).
//! Deliberately knows nothing of what a request does: the daemon gets each as a [`server::Call`] and answers it.
//!
//! On the wire a connection carries one request, one line of JSON, and gets its reply as one or more lines: long
//! lists come in pages, each a line of its own. `printf '{"request":"status"}\n' | nc -U SOCKET` is a valid client.

pub mod client;
pub mod request;
pub mod server;

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};

/// Connects at once or not at all: `WouldBlock` where the daemon's queue is full, since it is frozen or swamped. A plain
/// connect(2) would then wait for ever.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

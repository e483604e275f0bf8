//! Opens a TCP connection and resets it.
//!
//! Owns: the meaning of what the kernel says of a connect. The reset (a linger time of zero) leaves no TIME_WAIT on
//! either side: thousands of probes would otherwise fill the server's table and use up our ports.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use tokio::{
    net::TcpSocket,
    time::{Instant, timeout},
};

use super::ProbeResult;

/// Connects to `address`, from `source` if given, within `limit`.
pub async fn probe(address: SocketAddr, source: Option<IpAddr>, limit: Duration) -> ProbeResult {
    let socket = match open(address, source) {
        Ok(socket) => socket,
        Err(error) => return ProbeResult::Inconclusive { reason: error.to_string() },
    };
    let started = Instant::now();
    match timeout(limit, socket.connect(address)).await {
        Ok(Ok(_connection)) => ProbeResult::Success { latency: started.elapsed() },
        Ok(Err(error)) => explain(&error),
        Err(_) => ProbeResult::Failure { reason: format!("no answer within {}", humantime::format_duration(limit)) },
    }
}

fn open(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_zero_linger()?;
    if let Some(source) = source {
        // The port is chosen at connect time, so that one port serves many RIPs at once.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}

/// Tells the RIP's faults from this host's own.
fn explain(error: &io::Error) -> ProbeResult {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return ProbeResult::Failure { reason: error.to_string() };
    };
    let reason = match errno {
        Errno::ECONNREFUSED => "connection refused".into(),
        Errno::ETIMEDOUT => "the kernel gave up waiting for an answer".into(),
        // No ARP or neighbour answer, or a router said so.
        Errno::EHOSTUNREACH => "host unreachable".into(),
        Errno::ENETUNREACH => "no route to its network".into(),
        Errno::ENETDOWN => "the interface to it is down".into(),
        Errno::ECONNRESET => "connection reset".into(),
        _ => error.to_string(),
    };
    match errno {
        Errno::EMFILE
        | Errno::ENFILE
        | Errno::ENOBUFS
        | Errno::ENOMEM
        | Errno::EAGAIN
        | Errno::EADDRNOTAVAIL
        | Errno::EADDRINUSE
        | Errno::EACCES
        | Errno::EPERM => ProbeResult::Inconclusive { reason },
        _ => ProbeResult::Failure { reason },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr},
        os::fd::AsRawFd,
    };

    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket};
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn failure(reason: &str) -> ProbeResult {
        ProbeResult::Failure { reason: reason.into() }
    }

    #[tokio::test]
    async fn a_listening_server_succeeds_over_ipv4_and_ipv6() {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let server = TcpListener::bind((address, 0)).await.unwrap();
            let result = probe(server.local_addr().unwrap(), None, LIMIT).await;
            assert!(matches!(result, ProbeResult::Success { latency } if latency < LIMIT), "{result:?}");
        }
    }

    #[tokio::test]
    async fn the_connection_is_reset_so_that_the_server_keeps_no_time_wait() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (result, accepted) = tokio::join!(probe(server.local_addr().unwrap(), None, LIMIT), server.accept());
        assert!(matches!(result, ProbeResult::Success { .. }));
        let error = accepted.unwrap().0.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_closed_port_fails_as_refused() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        drop(server);
        assert_eq!(probe(address, None, LIMIT).await, failure("connection refused"));
    }

    // Time is paused: nothing can wake the runtime but the limit itself.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_fails_at_the_limit() {
        let server = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
        bind(server.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&server, Backlog::new(0).unwrap()).unwrap();
        let server = std::net::TcpListener::from(server);
        let address = server.local_addr().unwrap();
        // One connection fills a queue of length zero, and the kernel drops the SYNs that follow.
        let _queued = std::net::TcpStream::connect(address).unwrap();
        let started = Instant::now();
        assert_eq!(probe(address, None, LIMIT).await, failure("no answer within 1s"));
        assert_eq!(started.elapsed(), LIMIT);
    }

    #[tokio::test]
    async fn an_address_without_a_route_fails_as_such() {
        // TCP can't be routed to a group, whatever routes there are.
        let result = probe("224.0.0.1:80".parse().unwrap(), None, LIMIT).await;
        assert_eq!(result, failure("no route to its network"));
    }

    #[tokio::test]
    async fn the_source_address_is_the_one_asked_for() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = Ipv4Addr::new(127, 0, 0, 9).into();
        let (result, accepted) =
            tokio::join!(probe(server.local_addr().unwrap(), Some(source), LIMIT), server.accept());
        assert!(matches!(result, ProbeResult::Success { .. }));
        assert_eq!(accepted.unwrap().1.ip(), source);
    }

    #[tokio::test]
    async fn a_source_address_this_host_lacks_says_nothing_of_the_rip() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let result = probe(server.local_addr().unwrap(), Some("192.0.2.1".parse().unwrap()), LIMIT).await;
        assert!(matches!(result, ProbeResult::Inconclusive { .. }), "{result:?}");
    }

    #[test]
    fn faults_of_this_host_are_inconclusive_and_those_of_the_rip_are_failures() {
        use Errno::*;
        for errno in [EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL, EPERM] {
            let result = explain(&errno.into());
            assert!(matches!(result, ProbeResult::Inconclusive { .. }), "{errno}: {result:?}");
        }
        for errno in [ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ENETDOWN, ECONNRESET, EPROTO] {
            let result = explain(&errno.into());
            assert!(matches!(result, ProbeResult::Failure { .. }), "{errno}: {result:?}");
        }
        assert_eq!(explain(&EHOSTUNREACH.into()), failure("host unreachable"));
    }
}

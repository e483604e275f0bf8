//! Time limits against an in-memory stream with paused time, limits and sockets against the loopback interface.

use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::io::{DuplexStream, duplex};

use super::*;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 85, 151));
const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// One served connection, seen from the client.
struct Client {
    stream: DuplexStream,
    counters: Arc<Counters>,
    settings: watch::Sender<Arc<Redirect>>,
    server: JoinHandle<io::Result<()>>,
}

impl Client {
    fn connect() -> Self {
        let (stream, other_end) = duplex(64 * 1024);
        let counters = Arc::new(Counters::default());
        let (settings, current) = watch::channel(Arc::default());
        let server = tokio::spawn({
            let counters = Arc::clone(&counters);
            async move { serve(other_end, VIP, &current, &counters).await }
        });
        Self { stream, counters, settings, server }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads one answer, up to the end of its head; empty if the server has closed.
    async fn answer(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            match self.stream.read_u8().await {
                Ok(byte) => text.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(text).unwrap()
    }

    /// Waits for the server to close its side and says when that was.
    async fn closed_after(&mut self, start: Instant) -> Duration {
        assert_eq!(self.stream.read(&mut [0; 16]).await.unwrap(), 0, "nothing more is sent");
        start.elapsed()
    }

    fn answered(&self, status: Status) -> u64 {
        self.counters.read().answers[&status.code()]
    }
}

/// Paused time moves in steps of a millisecond at most.
fn about(expected: Duration, actual: Duration) -> bool {
    actual >= expected && actual < expected + Duration::from_millis(10)
}

#[tokio::test(start_paused = true)]
async fn a_head_that_stops_half_way_gets_408_after_10_seconds() {
    let mut client = Client::connect();
    let start = Instant::now();
    client.send(b"GET / HTTP/1.1\r\nHo").await;
    assert!(client.answer().await.starts_with("HTTP/1.1 408 "));
    assert!(about(HEAD_LIMIT, start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(client.answered(Status::RequestTimeout), 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_in_gets_no_more_time_than_one_that_stops() {
    let client = Client::connect();
    let start = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    let trickle = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain([b'x'; 100].iter()) {
            writer.write_all(&[*byte]).await.unwrap();
            sleep(Duration::from_millis(900)).await;
        }
    });
    let mut first = [0; 12];
    reader.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 408");
    assert!(about(HEAD_LIMIT, start.elapsed()), "{:?}", start.elapsed());
    trickle.abort();
    client.server.abort();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_sends_a_byte_is_closed_without_a_word() {
    let mut client = Client::connect();
    let closed = client.closed_after(Instant::now()).await;
    assert!(about(HEAD_LIMIT, closed), "{closed:?}");
    assert_eq!(client.answered(Status::RequestTimeout), 0);
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_answers_again_and_ends_after_15_silent_seconds() {
    let mut client = Client::connect();
    for _ in 0..3 {
        client.send(GET).await;
        assert!(client.answer().await.contains("Location: https://a.example/a\r\n"));
        sleep(IDLE_LIMIT - Duration::from_secs(1)).await;
    }
    client.send(GET).await;
    client.answer().await;
    let closed = client.closed_after(Instant::now()).await;
    assert!(about(IDLE_LIMIT, closed), "{closed:?}");
    assert_eq!(client.answered(Status::MovedPermanently), 4);
}

#[tokio::test(start_paused = true)]
async fn a_later_head_has_10_seconds_from_its_first_byte() {
    let mut client = Client::connect();
    client.send(GET).await;
    client.answer().await;
    sleep(Duration::from_secs(9)).await;
    let start = Instant::now();
    client.send(b"G").await;
    assert!(client.answer().await.starts_with("HTTP/1.1 408 "));
    assert!(about(HEAD_LIMIT, start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order() {
    let mut client = Client::connect();
    client
        .send(b"GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a.example\r\n\r\nHEAD /3 HT")
        .await;
    assert!(client.answer().await.contains("https://a.example/1\r\n"));
    assert!(client.answer().await.contains("308 Permanent Redirect\r\nLocation: https://a.example/2\r\n"));
    client.send(b"TP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(client.answer().await.contains("https://a.example/3\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_head_above_8_kib_gets_431_before_it_ends() {
    let mut client = Client::connect();
    client.send(&[b"GET / HTTP/1.1\r\nX: ", [b'x'; 9000].as_slice()].concat()).await;
    assert!(client.answer().await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test(start_paused = true)]
async fn the_hundredth_request_is_the_last() {
    let mut client = Client::connect();
    for _ in 1..MAX_REQUESTS {
        client.send(GET).await;
        assert!(client.answer().await.contains("Connection: keep-alive\r\n"));
    }
    client.send(GET).await;
    assert!(client.answer().await.contains("Connection: close\r\n"));
    assert_eq!(client.answer().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_sending_reads_its_answer_and_is_cut_after_two_seconds() {
    let mut client = Client::connect();
    client.send(b"POST /f HTTP/1.1\r\nHost: a.example\r\nContent-Length: 900000\r\n\r\n").await;
    client.send(&[b'x'; 50_000]).await;
    assert!(client.answer().await.starts_with("HTTP/1.1 308 "));
    let start = Instant::now();
    assert!(client.server.await.unwrap().is_ok());
    assert!(about(LINGER_LIMIT, start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_without_end_is_cut_after_a_mebibyte() {
    let mut client = Client::connect();
    client.send(b"POST /f HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.answer().await;
    let mut sent = 0;
    while client.stream.write_all(&[b'x'; 1024]).await.is_ok() {
        sent += 1024;
    }
    // More than is read may sit in the stream's own buffer.
    assert!((LINGER_BYTES..LINGER_BYTES + 100_000).contains(&sent), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_answers_is_cut_after_10_seconds() {
    let (mut client, other_end) = duplex(256);
    let (_settings, current) = watch::channel(Arc::default());
    let start = Instant::now();
    let server = tokio::spawn(async move { serve(other_end, VIP, &current, &Counters::default()).await });
    for _ in 0..4 {
        client.write_all(GET).await.unwrap();
    }
    assert_eq!(server.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(about(WRITE_LIMIT, start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn new_settings_hold_from_the_next_request_of_an_open_connection() {
    let mut client = Client::connect();
    client.send(GET).await;
    assert!(client.answer().await.contains("https://a.example/a"));
    client.settings.send_replace(Arc::new(Redirect { hosts: vec!["b.example".into()] }));
    client.send(GET).await;
    assert!(client.answer().await.contains("https://b.example/a"));
}

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn ask(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(GET).await?;
    let mut text = vec![0; 1024];
    let length = stream.read(&mut text).await?;
    text.truncate(length);
    Ok(String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_real_client_is_answered_over_ipv4_and_ipv6() {
    for address in [LOOPBACK, SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0)] {
        let listener = Listener::open(address, Redirect::default()).unwrap();
        let mut client = TcpStream::connect(listener.address()).await.unwrap();
        assert!(ask(&mut client).await.unwrap().contains("Location: https://a.example/a\r\n"));
        let counts = listener.counts();
        assert_eq!((counts.connections, counts.answers[&301], counts.answers[&400]), (1, 1, 0));
        listener.close().await;
    }
}

#[tokio::test]
async fn a_client_that_sends_a_body_reads_the_answer_and_no_reset() {
    let listener = Listener::open(LOOPBACK, Redirect::default()).unwrap();
    let mut client = TcpStream::connect(listener.address()).await.unwrap();
    client.write_all(b"POST /f HTTP/1.1\r\nHost: a.example\r\nContent-Length: 300000\r\n\r\n").await.unwrap();
    for _ in 0..300 {
        client.write_all(&[b'x'; 1000]).await.unwrap();
    }
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 308 ") && answer.contains("Connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn when_there_is_no_room_the_oldest_connection_gives_way() {
    let listener = Listener::open_with_room_for(2, LOOPBACK, Redirect::default()).unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(listener.address()).await.unwrap();
        assert!(ask(&mut client).await.unwrap().starts_with("HTTP/1.1 301 "), "every new one is served");
        clients.push(client);
    }
    assert_eq!(listener.counts().displaced, 1);
    assert!(matches!(clients[0].read(&mut [0; 8]).await, Ok(0) | Err(_)), "the oldest is closed");
    for client in &mut clients[1..] {
        assert!(ask(client).await.unwrap().starts_with("HTTP/1.1 301 "), "the others are not");
    }
}

#[tokio::test]
async fn ended_connections_take_no_room() {
    let listener = Listener::open_with_room_for(3, LOOPBACK, Redirect::default()).unwrap();
    let mut oldest = TcpStream::connect(listener.address()).await.unwrap();
    ask(&mut oldest).await.unwrap();
    for _ in 0..20 {
        let mut client = TcpStream::connect(listener.address()).await.unwrap();
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
    }
    assert!(ask(&mut oldest).await.unwrap().starts_with("HTTP/1.1 301 "));
    assert_eq!(listener.counts().displaced, 0);
}

#[tokio::test]
async fn a_closed_listener_frees_its_port_and_ends_its_connections() {
    let listener = Listener::open(LOOPBACK, Redirect::default()).unwrap();
    let address = listener.address();
    let mut client = TcpStream::connect(address).await.unwrap();
    ask(&mut client).await.unwrap();
    listener.close().await;
    assert!(TcpStream::connect(address).await.is_err(), "refused");
    assert!(matches!(client.read(&mut [0; 8]).await, Ok(0) | Err(_)), "closed");
    let again = Listener::open(address, Redirect::default()).unwrap();
    assert_eq!(again.address(), address);
}

#[tokio::test]
async fn an_address_this_host_does_not_have_yet_can_be_listened_on() {
    for address in ["192.0.2.80:0", "[2001:db8::80]:0"] {
        let listener = Listener::open(address.parse().unwrap(), Redirect::default());
        assert!(listener.is_ok(), "{address}: {listener:?}");
    }
}

#[tokio::test]
async fn an_ipv6_listener_leaves_the_port_to_an_ipv4_one() {
    let v6 = Listener::open("[::]:0".parse().unwrap(), Redirect::default()).unwrap();
    let v4 = Listener::open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), v6.address().port()), Redirect::default());
    assert!(v4.is_ok(), "{v4:?}");
}

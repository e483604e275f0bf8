use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// Addresses whose port was free a moment ago; each test has a loopback address of its own.
fn free(address: Ipv4Addr, count: usize) -> Vec<SocketAddr> {
    let held: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind((address, 0)).unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

fn to(host: &str) -> Redirect {
    Redirect { hosts: vec![host.into()] }
}

async fn location(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x.example\r\n\r\n").await.unwrap();
    let mut text = vec![0; 1024];
    let length = stream.read(&mut text).await.unwrap();
    let text = str::from_utf8(&text[..length]).unwrap();
    text.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().to_owned()
}

#[tokio::test]
async fn sockets_come_stay_and_go_with_the_configuration() {
    let sockets = free(Ipv4Addr::new(127, 0, 80, 1), 3);
    let mut set = RedirectSet::default();

    let done = set.reconcile(&BTreeMap::from([(sockets[0], to("a.example")), (sockets[1], to("b.example"))])).await;
    assert_eq!((done.opened.len(), done.closed.len(), done.failed.len()), (2, 0, 0));
    let mut kept = TcpStream::connect(sockets[1]).await.unwrap();
    assert_eq!(location(&mut kept).await, "https://b.example/");

    let done = set.reconcile(&BTreeMap::from([(sockets[1], to("new.example")), (sockets[2], to("c.example"))])).await;
    assert_eq!((done.opened, done.closed), (vec![sockets[2]], vec![sockets[0]]));
    assert_eq!(location(&mut kept).await, "https://new.example/", "an open connection stays and is told the new host");
    assert_eq!(set.counts()[&sockets[1]].answers[&301], 2, "counters stay");
    assert!(TcpStream::connect(sockets[0]).await.is_err(), "what is gone is closed");
    assert_eq!(location(&mut TcpStream::connect(sockets[2]).await.unwrap()).await, "https://c.example/");

    let done = set.reconcile(&BTreeMap::new()).await;
    assert_eq!(done.closed.len(), 2);
    assert!(set.counts().is_empty());
}

#[tokio::test]
async fn a_second_reconcile_with_the_same_configuration_does_nothing() {
    let desired: BTreeMap<_, _> =
        free(Ipv4Addr::new(127, 0, 80, 2), 2).into_iter().map(|socket| (socket, Redirect::default())).collect();
    let mut set = RedirectSet::default();
    set.reconcile(&desired).await;
    let done = set.reconcile(&desired).await;
    assert!(done.opened.is_empty() && done.closed.is_empty() && done.failed.is_empty(), "{done:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_fails_alone_and_is_tried_again() {
    let sockets = free(Ipv4Addr::new(127, 0, 80, 3), 2);
    let other_program = std::net::TcpListener::bind(sockets[0]).unwrap();
    let desired = BTreeMap::from([(sockets[0], to("a.example")), (sockets[1], to("b.example"))]);
    let mut set = RedirectSet::default();

    let done = set.reconcile(&desired).await;
    assert_eq!(done.opened, [sockets[1]]);
    assert_eq!(done.failed[0].source.kind(), io::ErrorKind::AddrInUse);
    assert!(done.failed[0].to_string().starts_with(&format!("cannot listen on {}: ", sockets[0])));

    drop(other_program);
    let done = set.reconcile(&desired).await;
    assert_eq!((done.opened, done.failed.len()), (vec![sockets[0]], 0));
}

#[tokio::test]
async fn a_dropped_set_closes_its_sockets() {
    let sockets = free(Ipv4Addr::new(127, 0, 80, 4), 1);
    let mut set = RedirectSet::default();
    set.reconcile(&BTreeMap::from([(sockets[0], Redirect::default())])).await;
    drop(set);
    tokio::task::yield_now().await;
    assert!(TcpStream::connect(sockets[0]).await.is_err());
}

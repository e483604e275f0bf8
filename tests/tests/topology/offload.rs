//! What happens where a host on the balancer's wire leaves checksums to hardware that is not there.

use std::{io::ErrorKind, net::IpAddr, time::Duration};

use epiclb_tests::{Host, client};

use crate::stage::{LABELS, Session, Stage, plain, three};

/// TCP segments that a host refused for their checksum.
fn bad_checksums(host: &Host) -> u64 {
    host.tcp_counter("InCsumErrors")
}

#[test]
fn unfinished_checksums_do_not_survive_native_xdp_so_connections_fail_and_nothing_is_misforwarded() {
    let Some(stage) = Stage::open("xdp_mode = \"native\"", &three()) else { return };
    let source = |address: &str| -> IpAddr {
        if address.contains(':') { "fd00:85::100" } else { "192.168.85.100" }.parse().unwrap()
    };
    let ask = |address: &str| {
        stage.near.within(|| Session::connect(source(address), plain(address)).and_then(|mut session| session.ask()))
    };
    let homes = LABELS.map(|(_, address)| ask(address).unwrap());

    // What is still closing must not be caught in it.
    LABELS.iter().for_each(|(label, _)| stage.wait_connections(label, 0));

    stage.near.offloads("eth0", true).unwrap();
    for ((_, address), home) in LABELS.iter().zip(&homes) {
        let refused = || stage.servers.iter().map(|server| (server.label.clone(), bad_checksums(&server.host)));
        let before: Vec<_> = refused().collect();
        let from = (source(address), 0).into();
        let error = stage
            .near
            .within(|| client::connect(from, plain(address), Duration::from_millis(1_500)))
            .expect_err("the SYN's checksum is not valid");
        assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");
        // It reached the one server that it was for, which refused it; nobody else got anything.
        for ((label, before), (_, after)) in before.iter().zip(refused()) {
            assert_eq!(after > *before, label == home, "{address}: {label} refused {} segments", after - before);
        }
        // Other clients do not notice.
        stage.visit(plain(address), 0..20, 1);
    }
    stage.near.offloads("eth0", false).unwrap();
    assert_eq!(LABELS.map(|(_, address)| ask(address).unwrap()), homes);
}

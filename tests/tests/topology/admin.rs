//! drain, drain --hard, halt and online, with live connections.

use std::{
    io::{ErrorKind, Read as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use epiclb_tests::{PATIENCE, until};

use crate::stage::{Homes, LABELS, Session, Stage, VIP4, moved, plain, server, shares, three, web};

/// A client of each RIP, by the RIP's number.
fn one_of_each(homes: &Homes) -> Vec<IpAddr> {
    let client = |n| *homes.iter().find(|(_, rip)| *rip == server(n)).expect("every RIP has a client").0;
    (1..=3).map(client).collect()
}

fn open(stage: &Stage, source: IpAddr, vip: SocketAddr) -> Session {
    let mut session = stage.clients.within(|| Session::connect(source, vip)).unwrap();
    session.ask().unwrap();
    session
}

#[test]
fn a_draining_rip_keeps_its_connections_and_pinned_clients_and_takes_no_new_ones() {
    let Some(stage) = Stage::open("", &three()) else { return };
    for (label, address) in LABELS {
        let vip = plain(address);
        let homes = stage.visit(vip, 0..60, 1);
        let mut sessions = stage.sessions(vip, 0..60);
        stage.does(&format!("drain {label}/{}", server(1)));

        assert_eq!(stage.visit(vip, 0..60, 2), homes, "pinned clients stay, new connections of theirs included");
        for session in &mut sessions {
            session.ask().unwrap();
        }
        let newcomers = stage.visit(vip, 100..220, 1);
        assert!(!shares(&newcomers).contains_key(server(1)), "{:?}", shares(&newcomers));

        stage.does(&format!("online {label}/{}", server(1)));
        assert_eq!(stage.visit(vip, 100..220, 1), newcomers, "nobody moves back");
        assert!(shares(&stage.visit(vip, 300..420, 1)).contains_key(server(1)));
    }
}

#[test]
fn a_hard_drain_keeps_open_connections_only() {
    let Some(stage) = Stage::open("", &three()) else { return };
    for (label, address) in LABELS {
        let vip = plain(address);
        let homes = stage.visit(vip, 0..60, 1);
        let mut sessions = stage.sessions(vip, 0..60);
        stage.does(&format!("drain --hard {label}/{}", server(1)));

        let after = stage.visit(vip, 0..60, 1);
        let movers = moved(&homes, &after);
        assert!(movers.iter().all(|(_, from)| *from == server(1)));
        assert_eq!(movers.len(), shares(&homes)[server(1)]);
        for (session, home) in sessions.iter_mut().zip(homes.values()) {
            assert_eq!(session.ask().unwrap(), *home, "an open connection goes on where it is");
        }
        stage.does(&format!("online {label}/{}", server(1)));
    }
}

#[test]
fn a_halt_resets_open_connections_on_their_next_packet_and_no_others() {
    let Some(stage) = Stage::open("", &three()) else { return };
    for (label, address) in LABELS {
        let vip = plain(address);
        let homes = stage.visit(vip, 0..60, 1);
        let clients = one_of_each(&homes);
        let mut sessions: Vec<Session> = clients.iter().map(|client| open(&stage, *client, vip)).collect();
        let resets = stage.clients.count_packets("prerouting", "tcp flags & rst == rst").unwrap();
        stage.does(&format!("halt {label}/{}", server(1)));

        sessions[0].send().unwrap();
        let error = sessions[0].hear().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        assert_eq!(resets.hits().unwrap(), 1);
        for session in &mut sessions[1..] {
            session.ask().unwrap();
        }
        let after = stage.visit(vip, 0..60, 1);
        assert!(moved(&homes, &after).iter().all(|(_, from)| *from == server(1)));
        assert!(!shares(&after).contains_key(server(1)));

        stage.does(&format!("online {label}/{}", server(1)));
        assert_eq!(stage.visit(vip, 0..60, 1), after, "nobody moves back");
    }
    assert!(stage.verdict("reset_sent") >= 2);
}

#[test]
fn a_halted_server_that_talks_first_has_its_waiting_client_reset_and_then_itself() {
    let Some(stage) = Stage::open("", &web(&[(1, 100), (2, 100)], "persistence = \"60m\"")) else { return };
    let vip = plain(VIP4);
    let homes = stage.visit(vip, 0..20, 1);
    let client = *homes.iter().find(|(_, rip)| *rip == server(1)).unwrap().0;
    let session = open(&stage, client, vip);
    let at_server = stage.server(server(1)).host.count_packets("prerouting", "tcp flags & rst == rst").unwrap();
    stage.does(&format!("halt Web/{}", server(1)));
    // The server's side: its process ends, so it has something to say.
    let before = at_server.hits().unwrap();
    stage.server(server(1)).kill().unwrap();
    until("the server's FIN to be answered by a reset", PATIENCE, || Ok((at_server.hits()? > before).then_some(())))
        .unwrap();
    // The client has said nothing: it need not find out by itself.
    let mut byte = [0];
    assert_eq!(session.stream().read(&mut byte).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_last_rip_of_a_vip_needs_force_and_the_exit_codes_say_so() {
    let Some(stage) = Stage::open("", &web(&[(1, 100), (2, 100)], "persistence = \"60m\"")) else { return };
    let [first, last] = [1, 2].map(|n| format!("Web/{}", server(n)));
    stage.does(&format!("drain {first}"));
    for word in ["drain", "drain --hard", "halt"] {
        let (code, text) = stage.says(&format!("{word} {last}"));
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("last RIP") && text.contains("--force"), "{text}");
    }
    assert!(stage.session(plain(VIP4), 0).unwrap().ask().is_ok(), "a refusal changes nothing");
    stage.does(&format!("halt {last} --force"));
    stage.does(&format!("halt {first} --force"));
    let before = stage.verdict("drop_no_rip");
    let refused = stage.clients.within(|| {
        let source = SocketAddr::new(stage.client(500).into(), 0);
        epiclb_tests::client::connect(source, plain(VIP4), Duration::from_millis(300))
    });
    assert!(refused.is_err() && stage.verdict("drop_no_rip") > before);

    assert_eq!(stage.says("online Web/Nobody").0, 1);
    assert_eq!(stage.says("online Nobody/Nobody").0, 1);
    assert_eq!(stage.says("online Web").0, 2);
    assert_eq!(stage.says("status --socket /nowhere").0, 3);
    stage.does(&format!("online {first}"));
    assert!(stage.session(plain(VIP4), 0).unwrap().ask().is_ok());
}

#[test]
fn what_the_operator_wants_survives_a_restart() {
    let Some(mut stage) = Stage::open("", &three()) else { return };
    stage.does(&format!("halt Web/{}", server(1)));
    stage.does(&format!("drain Web/{}", server(2)));
    stage.does(&format!("drain --hard Web6/{}", server(3)));
    let admins = |stage: &Stage| {
        let admin = |name: String| {
            let rip = stage.daemon().rip(&name).unwrap();
            (rip["admin"].as_str().unwrap().to_owned(), rip["hard"].as_bool())
        };
        [admin(format!("Web/{}", server(1))), admin(format!("Web/{}", server(2))), admin(format!("Web6/{}", server(3)))]
    };
    let before = admins(&stage);
    assert_eq!(before.each_ref().map(|(word, _)| word.as_str()), ["halt", "drain", "drain"]);
    assert!(stage.take_daemon().stop().unwrap().success());
    stage.start();
    stage.daemon().wait_all_up(PATIENCE).unwrap();
    assert_eq!(admins(&stage), before);
    let homes = stage.visit(plain(VIP4), 0..40, 1);
    assert_eq!(shares(&homes).into_keys().collect::<Vec<_>>(), [server(3)]);
}

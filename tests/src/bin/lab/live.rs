//! The open lab: steady traffic, an overview that is never older than two seconds, and servers to take away.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead as _, IsTerminal as _},
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use epiclb_tests::{Daemon, Lab, binary, client};

use crate::{
    story::{VIPS, rips},
    view::{self, Row},
};

const REFRESH: Duration = Duration::from_secs(2);
/// Without a terminal nobody watches; a table a minute is enough for a log.
const REFRESH_LOG: Duration = Duration::from_secs(60);
/// Moves kept for show.
const MOVES: usize = 6;

/// Shows the lab until it is ended from the keyboard (`q`) or by a signal, which does not return here.
pub(crate) fn show(lab: &Lab, daemon: &Daemon, clients: u16) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let keys = std::io::stdin().is_terminal().then(keys);
    let seen = Mutex::new(Seen::default());
    let over = AtomicBool::new(false);
    let mut running = vec![true; lab.servers.len()];
    thread::scope(|scope| {
        scope.spawn(|| traffic(lab, clients, &seen, &over));
        let mut paint = || -> Result<()> {
            let mut message = String::new();
            loop {
                overview(lab, daemon, &seen, &message, terminal, keys.is_some());
                let patience = if terminal { REFRESH } else { REFRESH_LOG };
                let key = match &keys {
                    Some(keys) => keys.recv_timeout(patience).ok(),
                    None => {
                        thread::sleep(patience);
                        None
                    }
                };
                match key.as_deref() {
                    None | Some("") => {}
                    Some("q") => return Ok(()),
                    Some(key) => match key.parse::<usize>() {
                        Ok(n) if (1..=running.len()).contains(&n) => {
                            let server = &lab.servers[n - 1];
                            if running[n - 1] {
                                server.kill()?
                            } else {
                                server.start()?
                            }
                            running[n - 1] = !running[n - 1];
                            let verb = if running[n - 1] { "started" } else { "killed" };
                            message = format!("{verb} {}", server.label);
                        }
                        _ => message = format!("{key:?} is none of the keys"),
                    },
                }
            }
        };
        let ended = paint();
        over.store(true, Ordering::Relaxed);
        ended
    })
}

/// What the driver saw so far.
#[derive(Debug, Default)]
struct Seen {
    homes: BTreeMap<(&'static str, IpAddr), String>,
    requests: BTreeMap<String, usize>,
    moves: VecDeque<String>,
    redirects: usize,
    failures: usize,
}

/// One request after the other: every client to every service, and now and then to port 80.
fn traffic(lab: &Lab, clients: u16, seen: &Mutex<Seen>, over: &AtomicBool) {
    for n in (0..clients).cycle() {
        for (vip, address) in VIPS {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let source = IpAddr::from(lab.client(n));
            let Ok(answers) = client::curl(&lab.clients, source, &format!("https://{address}/whoami"), 1) else {
                return;
            };
            let redirect = (n % 10 == 0)
                .then(|| client::curl(&lab.clients, source, &format!("http://{address}/"), 1).ok())
                .flatten();
            let mut seen = seen.lock().expect("no panic while held");
            for answer in redirect.into_iter().flatten() {
                if answer.status == 301 { seen.redirects += 1 } else { seen.failures += 1 }
            }
            let Some(rip) = answers[0].rip().map(str::to_owned) else {
                seen.failures += 1;
                continue;
            };
            *seen.requests.entry(rip.clone()).or_default() += 1;
            if let Some(before) = seen.homes.insert((vip, source), rip.clone())
                && before != rip
            {
                seen.moves.push_front(format!("{source}: {before} -> {rip}"));
                seen.moves.truncate(MOVES);
            }
        }
    }
}

fn overview(lab: &Lab, daemon: &Daemon, seen: &Mutex<Seen>, message: &str, terminal: bool, keys: bool) {
    let status = daemon.status();
    if terminal {
        view::clear();
    }
    view::heading("epiclb lab, open until Ctrl-C");
    let status = match status {
        Ok(status) => status,
        Err(error) => return view::line(&format!("the daemon does not answer: {error:#}")),
    };
    let seen = seen.lock().expect("no panic while held");
    let mut rows = Vec::new();
    for (vip, _) in VIPS {
        for rip in rips(&status, vip) {
            let mut row = Row::from_status(vip, rip);
            row.clients = seen.homes.iter().filter(|((of, _), home)| *of == vip && **home == row.rip).count();
            row.requests = seen.requests.get(&row.rip).copied().unwrap_or(0);
            rows.push(row);
        }
    }
    view::table(&rows);
    view::line(&format!("redirects answered: {}   requests failed: {}", seen.redirects, seen.failures));
    for moved in &seen.moves {
        view::line(&format!("moved: {moved}"));
    }
    for alarm in status["alarms"].as_array().into_iter().flatten().filter_map(|alarm| alarm.as_str()) {
        view::line(&format!("alarm: {alarm}"));
    }
    view::heading("Try it from another terminal (as root)");
    let clients = lab.clients.netns();
    view::line(&format!(
        "nsenter --net={} curl -k --interface 10.20.99.1 https://{}/whoami",
        clients.display(),
        VIPS[0].1
    ));
    if let Ok(binary) = binary() {
        let socket = lab.socket();
        for command in ["status", "pins list", "explain 10.20.99.1 Hyperspace", "drain Hyperspace/Hyperspace_Srv_1"] {
            view::line(&format!("{} --socket {} {command}", binary.display(), socket.display()));
        }
    }
    view::line(&format!("nsenter --net={} tcpdump -ni eth0 tcp port 443", lab.lb1.netns().display()));
    if keys {
        let names: Vec<String> =
            lab.servers.iter().enumerate().map(|(n, server)| format!("{} {}", n + 1, server.label)).collect();
        view::heading("Keys, each with Enter: kill or start a server, or q to end");
        view::line(&names.join("   "));
        view::line(message);
    }
}

/// Lines from the keyboard.
fn keys() -> mpsc::Receiver<String> {
    // One line is taken at a time, and a person types them: two waiting are plenty, more are dropped.
    let (sender, receiver) = mpsc::sync_channel(2);
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if let Err(mpsc::TrySendError::Disconnected(_)) = sender.try_send(line.trim().to_owned()) {
                return;
            }
        }
    });
    receiver
}

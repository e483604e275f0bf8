//! What the demonstration does, in order, and what must come of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use anyhow::{Context as _, Result};
use epiclb_tests::{BIG_SIZE, Daemon, Lab, PATIENCE, client, until};
use serde_json::Value;

use crate::view::{self, Report, Row};

/// How many client addresses connect to each virtual service, unless told otherwise.
pub(crate) const CLIENTS: u16 = 300;
/// Connections each client address opens to a virtual service, all at once.
const CONNECTIONS: usize = 5;
/// And when it comes again: enough to see whether it stays where it went.
const AGAIN: usize = 2;

/// A balanced VIP of the reference configuration.
pub(crate) const VIPS: [(&str, &str); 2] = [("Hyperspace", "192.168.85.150"), ("MyChart", "192.168.85.151")];
const VICTIM: &str = "Hyperspace_Srv_2";

/// Runs the whole demonstration; what held and what did not goes to `report`.
pub(crate) fn tell(lab: &Lab, daemon: &Daemon, clients: u16, report: &mut Report) -> Result<()> {
    let mut homes = BTreeMap::new();
    for (vip, address) in VIPS {
        view::heading(&format!("{clients} clients open {CONNECTIONS} TLS connections each to {vip} ({address}:443)"));
        let resets = lab.clients.resets();
        let round = drive(lab, address, clients, CONNECTIONS)?;
        let resets = lab.clients.resets() - resets;
        show(&round, &settled(&round, daemon, vip)?, vip);
        report.check(
            round.failures.is_empty() && resets == 0,
            &format!(
                "{vip}: {} of {} TLS requests answered, {resets} connections reset{}",
                round.answered(),
                round.asked,
                first(&round.failures, ", first failure: ")
            ),
        );
        report.check(
            round.restless.is_empty(),
            &format!(
                "{vip}: {} of {clients} clients stayed with one server",
                usize::from(clients) - round.restless.len()
            ),
        );
        let (even, shares) = spread(&round, &daemon.status()?, vip);
        report.check(even, &format!("{vip}: clients by server {shares}, by weight"));
        homes.insert(vip, round.homes);
    }
    redirects(lab, clients, report)?;
    pins(daemon, &homes, report)?;
    kill_and_return(lab, daemon, clients, &homes["Hyperspace"], report)?;
    big_download(lab, report)
}

/// What came of one round of connections.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// Where each client was served last.
    pub(crate) homes: BTreeMap<IpAddr, String>,
    /// Requests by server.
    pub(crate) requests: BTreeMap<String, usize>,
    /// Clients that were served by more than one.
    pub(crate) restless: Vec<IpAddr>,
    /// What went wrong, in words.
    pub(crate) failures: Vec<String>,
    /// Requests made.
    pub(crate) asked: usize,
}

impl Round {
    fn answered(&self) -> usize {
        self.requests.values().sum()
    }

    fn clients_of(&self, rip: &str) -> usize {
        self.homes.values().filter(|home| *home == rip).count()
    }
}

fn drive(lab: &Lab, address: &str, clients: u16, connections: usize) -> Result<Round> {
    let sources = (0..clients).map(|n| IpAddr::from(lab.client(n)));
    let vip = SocketAddr::new(address.parse()?, 443);
    let answers = client::crowd_at_once(&lab.clients, sources, vip, "/whoami", connections)?;
    let mut round = Round::default();
    for (source, answers) in answers {
        for answer in answers {
            round.asked += 1;
            let Some(rip) = answer.rip() else {
                round.failures.push(format!("{source}: status {} {}", answer.status, answer.error));
                continue;
            };
            *round.requests.entry(rip.into()).or_default() += 1;
            let before = round.homes.insert(source, rip.into());
            if before.is_some_and(|before| before != rip) && !round.restless.contains(&source) {
                round.restless.push(source);
            }
        }
    }
    Ok(round)
}

fn redirects(lab: &Lab, clients: u16, report: &mut Report) -> Result<()> {
    view::heading("clients ask for http:// and are sent to https://");
    for (vip, address) in VIPS {
        let asked = clients.min(20);
        let sources = (0..asked).map(|n| IpAddr::from(lab.client(n)));
        let path = "/login?next=%2Fchart";
        let answers = client::crowd(&lab.clients, sources, &format!("http://{address}{path}"), 1)?;
        let expected = format!("https://{address}{path}");
        let right = answers.values().flatten().filter(|a| a.status == 301 && a.location == expected).count();
        let wrong = answers.values().flatten().find(|a| a.status != 301 || a.location != expected);
        view::line(&format!("http://{address}{path}  ->  301 {expected}   {right} times"));
        report.check(
            right == usize::from(asked),
            &format!(
                "{vip}_redirect: {right} of {asked} requests on port 80 redirected{}",
                wrong.map_or_else(String::new, |a| format!(", but: {} {:?} {}", a.status, a.location, a.error))
            ),
        );
    }
    Ok(())
}

fn pins(daemon: &Daemon, homes: &BTreeMap<&str, BTreeMap<IpAddr, String>>, report: &mut Report) -> Result<()> {
    let list = daemon.json(&["pins", "list"])?;
    let rows = list["rows"].as_array().context("`pins list --json` has rows")?;
    let pinned: BTreeMap<(&str, &str), &str> = rows
        .iter()
        .filter_map(|row| Some(((row["vip"].as_str()?, row["client"].as_str()?), row["rip"].as_str()?)))
        .collect();
    let expected: usize = homes.values().map(BTreeMap::len).sum();
    let agreeing = homes
        .iter()
        .flat_map(|(vip, homes)| homes.iter().map(move |(client, rip)| (vip, client.to_string(), rip)))
        .filter(|(vip, client, rip)| pinned.get(&(**vip, client.as_str())) == Some(&rip.as_str()))
        .count();
    report.check(agreeing == expected, &format!("{agreeing} of {expected} clients are pinned to the server they met"));
    Ok(())
}

fn kill_and_return(
    lab: &Lab,
    daemon: &Daemon,
    clients: u16,
    before: &BTreeMap<IpAddr, String>,
    report: &mut Report,
) -> Result<()> {
    let (vip, address) = VIPS[0];
    let name = format!("{vip}/{VICTIM}");
    view::heading(&format!("{VICTIM} is killed"));
    let killed = Instant::now();
    lab.server(VICTIM).kill()?;
    daemon.wait_for(&name, "down", PATIENCE)?;
    view::line(&format!("seen down after {:.1} s; all clients connect again", killed.elapsed().as_secs_f64()));
    let without = drive(lab, address, clients, AGAIN)?;
    show(&without, &settled(&without, daemon, vip)?, vip);
    let hit = before.values().filter(|rip| *rip == VICTIM).count();
    let moves = moves(before, &without.homes);
    let of_others = moves.iter().filter(|(_, from, _)| *from != VICTIM).count();
    view::line(&format!("{} clients moved, {of_others} of them from servers that live", moves.len()));
    report.check(
        without.failures.is_empty() && without.restless.is_empty(),
        &format!(
            "{VICTIM} down: {} of {} requests answered by the others{}",
            without.answered(),
            without.asked,
            first(&without.failures, ", first failure: ")
        ),
    );
    report.check(
        moves.len() - of_others == hit && of_others == 0,
        &format!("{VICTIM} down: its {hit} clients moved once, {of_others} others moved"),
    );

    view::heading(&format!("{VICTIM} returns"));
    let returned = Instant::now();
    lab.server(VICTIM).start()?;
    daemon.wait_for(&name, "up", PATIENCE)?;
    view::line(&format!("seen up after {:.1} s; all clients connect again", returned.elapsed().as_secs_f64()));
    let again = drive(lab, address, clients, AGAIN)?;
    show(&again, &settled(&again, daemon, vip)?, vip);
    let moved = self::moves(&without.homes, &again.homes).len();
    report.check(
        moved == 0 && again.failures.is_empty(),
        &format!("{VICTIM} back: {moved} clients moved{}", first(&again.failures, ", first failure: ")),
    );
    Ok(())
}

fn big_download(lab: &Lab, report: &mut Report) -> Result<()> {
    let big = lab.big()?;
    let source = IpAddr::from(lab.client(0));
    view::heading(&format!("a download of {} MB, through the balancer and without it", BIG_SIZE / 1_000_000));
    let urls = [format!("https://{}/big", lab.servers[0].address), format!("https://{}/big", VIPS[0].1)];
    match client::compare_downloads(&lab.clients, source, urls.each_ref().map(String::as_str), &big) {
        Ok([direct, through]) => {
            view::line(&format!("{:.0} MB/s through it, {:.0} MB/s without", through / 1e6, direct / 1e6));
            let percent = 100.0 * through / direct;
            report.check(
                through >= direct / 2.0,
                &format!("100 MB through the VIP: byte-exact, at {percent:.0} % of the speed without a balancer"),
            );
        }
        Err(error) => report.check(false, &format!("100 MB through the VIP: {error:#}")),
    }
    Ok(())
}

/// Whether every server has its share of the clients, and the shares in words.
///
/// 15 % either way, or four standard deviations of drawing lots where there are too few clients for that.
fn spread(round: &Round, status: &Value, vip: &str) -> (bool, String) {
    let rips: Vec<(&str, f64)> =
        rips(status, vip).filter_map(|rip| Some((rip["label"].as_str()?, rip["weight"].as_f64()?))).collect();
    let weights: f64 = rips.iter().map(|(_, weight)| weight).sum();
    let clients = round.homes.len() as f64;
    let mut even = !rips.is_empty();
    let mut words = Vec::new();
    for (label, weight) in rips {
        let share = weight / weights;
        let (expected, got) = (clients * share, round.clients_of(label));
        let chance = if clients < f64::from(CLIENTS) { 4.0 * (clients * share * (1.0 - share)).sqrt() } else { 0.0 };
        let allowed = (0.15 * expected).max(chance);
        even &= (got as f64 - expected).abs() <= allowed;
        words.push(got.to_string());
    }
    (even, words.join("/"))
}

fn show(round: &Round, status: &Value, vip: &str) {
    let rows = rips(status, vip).map(|rip| {
        let label = rip["label"].as_str().unwrap_or("?");
        Row {
            clients: round.clients_of(label),
            requests: round.requests.get(label).copied().unwrap_or(0),
            ..Row::from_status(vip, rip)
        }
    });
    view::table(&rows.collect::<Vec<_>>());
}

/// The status once its pins are counted anew, which the daemon does every few seconds; should they stay different from
/// what the clients saw, as they are.
fn settled(round: &Round, daemon: &Daemon, vip: &str) -> Result<Value> {
    let agrees = |status: &Value| {
        let pins = |rip: &Value| rip["pins"].as_u64().and_then(|pins| usize::try_from(pins).ok());
        rips(status, vip).all(|rip| pins(rip) == Some(round.clients_of(rip["label"].as_str().unwrap_or("?"))))
    };
    let counted = until("pins to be counted", PATIENCE, || {
        let status = daemon.status()?;
        Ok(agrees(&status).then_some(status))
    });
    counted.or_else(|_| daemon.status())
}

/// The RIPs of one VIP in a status.
pub(crate) fn rips<'s>(status: &'s Value, vip: &str) -> impl Iterator<Item = &'s Value> {
    let vips = status["vips"].as_array().into_iter().flatten();
    let wanted = vip.to_owned();
    vips.filter(move |vip| vip["label"] == wanted.as_str()).flat_map(|vip| vip["rips"].as_array().into_iter().flatten())
}

/// Who was elsewhere before: client, from, to.
fn moves<'h>(
    before: &'h BTreeMap<IpAddr, String>,
    after: &'h BTreeMap<IpAddr, String>,
) -> Vec<(IpAddr, &'h str, &'h str)> {
    let both = before.iter().filter_map(|(client, from)| Some((*client, from, after.get(client)?)));
    both.filter(|(_, from, to)| from != to).map(|(client, from, to)| (client, from.as_str(), to.as_str())).collect()
}

fn first(failures: &[String], lead: &str) -> String {
    failures.first().map_or_else(String::new, |failure| format!("{lead}{failure}"))
}

//! What replies look like, to the letter.

use anstream::adapter::strip_str;

use super::*;
use crate::{
    control::request::{Cleared, Eligible, ErrorKind, RedirectCounters, VerdictCounters, VipCounters},
    model::RipName,
};

const STATUS: &str = include_str!("../fixtures/status.json");

fn fixture() -> Status {
    serde_json::from_str(STATUS).unwrap()
}

fn plain(reply: &Response) -> String {
    strip_str(&response(reply)).to_string()
}

/// Compares line by line, since a table that differs is hard to read in one string.
fn assert_text(actual: &str, expected: &str) {
    assert!(actual == expected.trim_start_matches('\n'), "got\n{actual}\nexpected\n{expected}");
}

#[test]
fn the_status_reads_as_the_guides_overview() {
    assert_text(
        &plain(&Response::Status(Box::new(fixture()))),
        r"
lb1  epiclb 0.1.0, up 3h 12m 13s, configuration 4 of 2026-03-01T08:00:00Z
XDP eth0 native, eth1 generic · flows 1204 of 262144 · pins 300 of 262144
! MyChart/MyChart_Srv_2 is down for 1m 5s: connection refused

VIRTUAL SERVICE      IP              PORTS   CONNS  PROTOCOL  METHOD    MODE        HEALTH
  REAL SERVER        IP              PORT    CONNS  WEIGHT    PINS      ADMIN       HEALTH
Hyperspace           192.168.85.150  443      1050  tcp       layer4    snat        ▲ up
  Hyperspace_Srv_1   192.168.85.200  443       612  100       150       online      ▲ up
  Hyperspace_Srv_2   192.168.85.201  443       437  100       101       drain       ▲ up
  Hyperspace_Srv_3   192.168.85.202  443         1  50        0         drain hard  ? unknown
Hyperspace_redirect  192.168.85.150  80          0  tcp       redirect  -           ▲ up
MyChart              2001:db8::151   443,+4    154  tcp       layer4    snat        ◆ degraded
  MyChart_Srv_1      2001:db8::210   -         154  256       49        online      ▲ up
  MyChart_Srv_2      2001:db8::211   -           0  0         0         halt        ▼ down
",
    );
}

#[test]
fn a_status_fits_into_a_hundred_columns() {
    let text = plain(&Response::Status(Box::new(fixture())));
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 100, "{widest}\n{text}");
}

#[test]
fn the_status_as_json_is_the_one_that_was_promised() {
    let text = json(&Response::Status(Box::new(fixture())), true).unwrap();
    let expected: serde_json::Value = serde_json::from_str(STATUS).unwrap();
    let actual: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(actual, expected);
}

#[test]
fn the_json_of_a_status_keeps_its_keys_in_reading_order() {
    let text = json(&Response::Status(Box::new(fixture())), false).unwrap();
    assert!(text.starts_with(r#"{"node":"lb1","time":"#), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn without_its_colours_a_reply_says_the_same() {
    let coloured = response(&Response::Status(Box::new(fixture())));
    assert!(coloured.contains("\u{1b}[31m▼ down") || coloured.contains("\u{1b}[1m\u{1b}[31m▼ down"), "{coloured:?}");
    assert!(plain(&Response::Status(Box::new(fixture()))).contains("▼ down"));
}

#[test]
fn an_eviction_and_a_lost_attachment_are_seen_at_once() {
    let mut status = fixture();
    status.tables.pins.evicted = 3;
    status.interfaces[1].xdp = XdpState::None;
    let text = plain(&Response::Status(Box::new(status)));
    assert!(text.contains("pins 300 of 262144, 3 evicted"), "{text}");
    assert!(text.contains("eth1 ▼ not attached"), "{text}");
}

#[test]
fn words_from_elsewhere_can_neither_colour_nor_break_a_line() {
    let mut status = fixture();
    status.alarms = vec!["x\u{1b}[2Jy\nz".to_owned()];
    let text = response(&Response::Status(Box::new(status)));
    assert!(text.contains("! x\u{fffd}[2Jy\u{fffd}z"), "{text}");
}

fn pin(client: &str, expires_in_s: u64) -> PinRow {
    PinRow {
        vip: "Hyperspace".into(),
        client: client.parse().unwrap(),
        rip: "Hyperspace_Srv_2".into(),
        age_s: 724,
        idle_s: 48,
        expires_in_s,
    }
}

#[test]
fn pins_say_when_they_expire_and_that_a_list_was_cut_short() {
    let rows = Rows { total: 3, rows: vec![pin("10.1.2.3", 3552), pin("2001:db8::7", 0)], more: false };
    assert_text(
        &plain(&Response::Pins(rows)),
        r"
VIRTUAL SERVICE  CLIENT       REAL SERVER          AGE  IDLE  EXPIRES IN
Hyperspace       10.1.2.3     Hyperspace_Srv_2  12m 4s   48s     59m 12s
Hyperspace       2001:db8::7  Hyperspace_Srv_2  12m 4s   48s      in use
2 of 3 shown; `--limit 0` shows all
",
    );
    assert_eq!(plain(&Response::Pins(Rows::first(vec![], None))), "no pins\n");
    assert_eq!(plain(&Response::Cleared(Cleared { pins: 1 })), "1 pin forgotten\n");
}

#[test]
fn flows_show_both_sides_of_the_nat() {
    let flow = FlowRow {
        vip: "MyChart".into(),
        client: "2001:db8::7".parse().unwrap(),
        client_port: 40001,
        vip_port: 443,
        rip: "MyChart_Srv_1".into(),
        snat: "192.168.85.2".parse().unwrap(),
        snat_port: 20010,
        protocol: Protocol::Tcp,
        state: FlowState::HalfOpen,
        idle_s: 3600,
    };
    assert_text(
        &plain(&Response::Flows(Rows::first(vec![flow], None))),
        r"
VIRTUAL SERVICE  PROTO  CLIENT               PORT  REAL SERVER    SEEN THERE AS       STATE      IDLE
MyChart          tcp    [2001:db8::7]:40001  443   MyChart_Srv_1  192.168.85.2:20010  half-open    1h
",
    );
    assert_eq!(plain(&Response::Flows(Rows::first(vec![], None))), "no connections\n");
}

#[test]
fn counters_leave_out_verdicts_that_never_happened() {
    let verdict = |name: &str, action: &str, packets| VerdictCounters {
        name: name.into(),
        action: action.into(),
        packets,
        bytes: packets * 100,
    };
    let traffic = |label: &str, connections| Traffic {
        label: label.into(),
        attempts: connections + 1,
        connections,
        packets_in: 10,
        bytes_in: 1000,
        packets_out: 20,
        bytes_out: 123_456,
    };
    let counters = Counters {
        verdicts: vec![verdict("snat-out", "tx", 12345), verdict("fragment", "drop", 0)],
        vips: vec![VipCounters { traffic: traffic("Hyperspace", 9), rips: vec![traffic("Hyperspace_Srv_1", 9)] }],
        redirects: vec![RedirectCounters {
            label: "Hyperspace_redirect".into(),
            connections: 4,
            displaced: 0,
            redirected: 3,
            refused: 1,
        }],
        pins: PinCounters { made: 7, moved: 2, refused: 0 },
    };
    assert_text(
        &plain(&Response::Counters(counters)),
        r"
VERDICT   ACTION  PACKETS    BYTES
snat-out  tx        12345  1234500

VIRTUAL SERVICE / REAL SERVER  CONNS  PACKETS IN  BYTES IN  PACKETS OUT  BYTES OUT
Hyperspace                         9          10      1000           20     123456
  Hyperspace_Srv_1                 9          10      1000           20     123456

REDIRECT             CONNS  DISPLACED  REDIRECTED  REFUSED
Hyperspace_redirect      4          0           3        1

pins: 7 made, 2 moved to another server, 0 refused by a full table
",
    );
    assert_eq!(plain(&Response::Counters(Counters::default())), "no packets yet\n");
}

#[test]
fn an_explanation_names_the_cause_the_alternatives_and_the_time_left() {
    let eligible = |rip: &str, eligible, reason: &str| Eligible { rip: rip.into(), eligible, reason: reason.into() };
    let explained = Explain {
        client: "10.1.2.3".parse().unwrap(),
        vip: "Hyperspace".into(),
        rip: Some("Hyperspace_Srv_2".into()),
        why: Why::Pin,
        detail: vec!["draining: its pinned clients may stay".into()],
        pin: Some(pin("10.1.2.3", 3552)),
        ring_rip: Some("Hyperspace_Srv_1".into()),
        eligible: vec![
            eligible("Hyperspace_Srv_1", true, "up, weight 100"),
            eligible("Hyperspace_Srv_2", true, "draining, but the client is pinned to it"),
            eligible("Hyperspace_Srv_3", false, "down: connection refused"),
        ],
    };
    assert_text(
        &plain(&Response::Explain(explained.clone())),
        r"
10.1.2.3 -> Hyperspace: Hyperspace_Srv_2, since it is pinned there
  pin: Hyperspace_Srv_2, made 12m 4s ago, idle for 48s, expires in 59m 12s unless it comes back
  the ring alone would choose Hyperspace_Srv_1
  draining: its pinned clients may stay

REAL SERVER       COULD TAKE IT  WHY
Hyperspace_Srv_1  yes            up, weight 100
Hyperspace_Srv_2  yes            draining, but the client is pinned to it
Hyperspace_Srv_3  no             down: connection refused
",
    );
    let nobody = Explain { rip: None, why: Why::None, detail: vec![], pin: None, ring_rip: None, ..explained };
    assert!(plain(&Response::Explain(nobody)).starts_with("10.1.2.3 -> Hyperspace: no real server, since none may"));
}

#[test]
fn each_admin_state_says_what_becomes_of_clients() {
    let said = |before, after| {
        let rip = RipName { vip: "V".into(), rip: "R".into() };
        plain(&Response::Admin(AdminReport { rip, before, after, connections: 1, pins: 2 }))
    };
    use Admin::{Drain, DrainHard, Halt, Online};
    assert_eq!(said(Halt, Online), "V/R takes its share of clients\n");
    assert_eq!(said(Drain, Drain), "V/R takes no new clients; 1 connection and 2 pinned clients go on (as before)\n");
    assert_eq!(
        said(Online, DrainHard),
        "V/R takes nothing new; 1 connection may end, 2 pinned clients move with their next one\n"
    );
    assert_eq!(said(Online, Halt), "V/R is out: 1 connection reset, 2 pinned clients move with their next one\n");
}

#[test]
fn a_plan_lists_warnings_first_and_says_what_to_do_next() {
    let warning = Problem {
        severity: Severity::Warning,
        file: "services.toml".into(),
        line: Some(7),
        column: Some(1),
        key: "vip[0]".into(),
        name: None,
        message: "no port-80 twin".into(),
        help: None,
    };
    let report = PlanReport { ops: vec!["add RIP V/R".into()], warnings: vec![warning.clone()] };
    assert_eq!(
        plain(&Response::Plan(report)),
        "warning: services.toml:7:1: vip[0]: no port-80 twin\nadd RIP V/R\n1 change; `epiclb reload` applies them\n"
    );
    assert_eq!(plain(&Response::Plan(PlanReport::default())), "nothing would change\n");
    let report = ReloadReport { generation: 5, ops: vec!["a".into(), "b".into()], warnings: vec![] };
    assert_eq!(plain(&Response::Reload(report)), "a\nb\n2 changes applied: configuration 5 runs\n");
    assert_eq!(plain(&Response::Reload(ReloadReport::default())), "nothing had changed\n");

    let refused = ErrorReply {
        problems: vec![Problem { severity: Severity::Error, ..warning }],
        ..ErrorReply::new(ErrorKind::Invalid, "the configuration is invalid; the old one goes on")
    };
    assert_eq!(
        plain(&Response::Error(refused)),
        "error: the configuration is invalid; the old one goes on\n\
         error: services.toml:7:1: vip[0]: no port-80 twin\n"
    );
}

#[test]
fn durations_are_told_as_people_tell_them() {
    assert_eq!(duration(0), "0s");
    assert_eq!(duration(3552), "59m 12s");
    assert_eq!(duration(90061), "1day 1h 1m 1s");
}

//! Replies as people read them: tables and sentences.
//!
//! Owns: what stands in which column. Deliberately knows nothing of terminals: the text always carries colours, and
//! whoever prints it takes them out where they are not wanted. Colour never says anything that the words don't.
//!
//! Tables are laid out as plain text and coloured afterwards, so that colours can't shift a column.

use std::{fmt::Write as _, time::Duration};

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::{
    control::request::{
        AdminReport, AdminView, AdminWord, Counters, ErrorReply, Explain, FlowRow, FlowState, Method, PinCounters,
        PinRow, PlanReport, Problem, ReloadReport, Response, RipStatus, Rows, Severity, Status, Traffic, VipHealth,
        VipStatus, Why, XdpState,
    },
    model::{Admin, Health, Protocol},
};

const HEADER: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const ODD: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// Arrow and word of each health, and its colour.
const HEALTHS: [(&str, Style); 4] = [("▲ up", GOOD), ("▼ down", BAD), ("◆ degraded", ODD), ("? unknown", ODD)];

/// Any reply, as text that ends in a newline.
pub(super) fn response(response: &Response) -> String {
    match response {
        Response::Status(s) => status(s),
        Response::Plan(report) => plan(report),
        Response::Reload(report) => reload(report),
        Response::Admin(report) => admin(report),
        Response::Pins(rows) => pins(rows),
        Response::Cleared(cleared) => format!("{} forgotten\n", count(cleared.pins, "pin")),
        Response::Flows(rows) => flows(rows),
        Response::Counters(all) => counters(all),
        Response::Explain(explained) => explain(explained),
        Response::Stopping(stopping) => format!("the daemon (process {}) has stopped\n", stopping.pid),
        Response::Error(error) => error_reply(error),
    }
}

/// Any reply, as JSON that ends in a newline: the struct itself, without the wire's `response` tag.
pub(super) fn json(response: &Response, pretty: bool) -> serde_json::Result<String> {
    fn text(value: &impl serde::Serialize, pretty: bool) -> serde_json::Result<String> {
        let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        text.map(|text| text + "\n")
    }
    match response {
        Response::Status(value) => text(value, pretty),
        Response::Plan(value) => text(value, pretty),
        Response::Reload(value) => text(value, pretty),
        Response::Admin(value) => text(value, pretty),
        Response::Pins(value) => text(value, pretty),
        Response::Cleared(value) => text(value, pretty),
        Response::Flows(value) => text(value, pretty),
        Response::Counters(value) => text(value, pretty),
        Response::Explain(value) => text(value, pretty),
        Response::Stopping(value) => text(value, pretty),
        Response::Error(value) => text(&serde_json::json!({ "error": value }), pretty),
    }
}

/// Why the daemon did not do it.
pub(super) fn error_reply(error: &ErrorReply) -> String {
    let mut out = format!("{BAD}error:{BAD:#} {}\n", clean(&error.message));
    for problem in &error.problems {
        out += &problem_line(problem);
    }
    if let Some(help) = &error.help {
        let _ = writeln!(out, "  {}", clean(help));
    }
    out
}

/// Why it was not done, in other cases.
pub(super) fn error(error: &impl ToString) -> String {
    format!("{BAD}error:{BAD:#} {}\n", clean(&error.to_string()))
}

fn status(status: &Status) -> String {
    let mut out = format!(
        "{HEADER}{}{HEADER:#}  epiclb {}, up {}, configuration {} of {}\n",
        clean(&status.node),
        clean(&status.version),
        duration(status.uptime_s),
        status.config.generation,
        clean(&status.config.loaded_at),
    );
    let interfaces: Vec<String> = status
        .interfaces
        .iter()
        .map(|interface| {
            let xdp = match interface.xdp {
                XdpState::Native => "native".to_owned(),
                XdpState::Generic => "generic".to_owned(),
                XdpState::None => format!("{BAD}▼ not attached{BAD:#}"),
            };
            format!("{} {xdp}", clean(&interface.name))
        })
        .collect();
    let tables = &status.tables;
    let _ = write!(
        out,
        "XDP {} · flows {} of {} · pins {} of {}",
        interfaces.join(", "),
        tables.flows.used,
        tables.flows.max,
        tables.pins.used,
        tables.pins.max,
    );
    if tables.pins.evicted > 0 {
        let _ = write!(out, ", {BAD}{} evicted{BAD:#}", tables.pins.evicted);
    }
    out.push('\n');
    for alarm in &status.alarms {
        let _ = writeln!(out, "{BAD}! {}{BAD:#}", clean(alarm));
    }
    out.push('\n');

    let mut rows = Vec::new();
    for vip in &status.vips {
        rows.push(vip_row(vip));
        rows.extend(vip.rips.iter().map(rip_row));
    }
    let header = [
        ["VIRTUAL SERVICE", "IP", "PORTS", "CONNS", "PROTOCOL", "METHOD", "MODE", "HEALTH"],
        ["  REAL SERVER", "IP", "PORT", "CONNS", "WEIGHT", "PINS", "ADMIN", "HEALTH"],
    ];
    out += &table(&header, &[3], rows);
    out
}

fn vip_row(vip: &VipStatus) -> Vec<Cell> {
    /// Characters for ports; those that find no room are only counted, so that the table stays one.
    const ROOM: usize = 9;
    let mut ports = String::new();
    for (index, port) in vip.ports.iter().map(ToString::to_string).enumerate() {
        if index > 0 && ports.len() + port.len() >= ROOM {
            let _ = write!(ports, ",+{}", vip.ports.len() - index);
            break;
        }
        ports = ports + if index > 0 { "," } else { "" } + &port;
    }
    vec![
        text(&vip.label),
        text(vip.address),
        text(ports),
        number(vip.connections),
        text(protocol(vip.protocol)),
        text(match vip.method {
            Method::Layer4 => "layer4",
            Method::Redirect => "redirect",
        }),
        text(match vip.mode {
            Some(crate::model::Mode::Snat) => "snat",
            None => "-",
        }),
        text(match vip.health {
            VipHealth::Up => "▲ up",
            VipHealth::Degraded => "◆ degraded",
            VipHealth::Down => "▼ down",
        }),
    ]
}

fn rip_row(rip: &RipStatus) -> Vec<Cell> {
    vec![
        text(format!("  {}", rip.label)),
        text(rip.address),
        rip.port.map_or_else(|| text("-"), text),
        number(rip.connections),
        text(rip.weight),
        text(rip.pins),
        text(match rip.admin {
            AdminView { admin: AdminWord::Online, .. } => "online",
            AdminView { admin: AdminWord::Drain, hard: false } => "drain",
            AdminView { admin: AdminWord::Drain, hard: true } => "drain hard",
            AdminView { admin: AdminWord::Halt, .. } => "halt",
        }),
        text(match rip.health {
            Health::Unknown => "? unknown",
            Health::Up => "▲ up",
            Health::Down => "▼ down",
        }),
    ]
}

fn plan(report: &PlanReport) -> String {
    let mut out = warnings(&report.warnings);
    if report.ops.is_empty() {
        out += "nothing would change\n";
    } else {
        out += &lines(&report.ops, "");
        let _ = writeln!(out, "{}; `epiclb reload` applies them", count(report.ops.len() as u64, "change"));
    }
    out
}

fn reload(report: &ReloadReport) -> String {
    let mut out = warnings(&report.warnings);
    out += &lines(&report.ops, "");
    match report.ops.len() {
        0 => out += "nothing had changed\n",
        n => {
            let _ = writeln!(out, "{} applied: configuration {} runs", count(n as u64, "change"), report.generation);
        }
    }
    out
}

fn admin(report: &AdminReport) -> String {
    let (connections, pins) = (count(report.connections, "connection"), count(report.pins, "pinned client"));
    let mut out = match report.after {
        Admin::Online => format!("{} takes its share of clients", report.rip),
        Admin::Drain => format!("{} takes no new clients; {connections} and {pins} go on", report.rip),
        Admin::DrainHard => {
            format!("{} takes nothing new; {connections} may end, {pins} move with their next one", report.rip)
        }
        Admin::Halt => format!("{} is out: {connections} reset, {pins} move with their next one", report.rip),
    };
    if report.before == report.after {
        out += " (as before)";
    }
    clean(&out) + "\n"
}

fn pins(rows: &Rows<PinRow>) -> String {
    if rows.total == 0 {
        return "no pins\n".to_owned();
    }
    let cells = rows.rows.iter().map(|pin| {
        vec![
            text(&pin.vip),
            text(pin.client),
            text(&pin.rip),
            number(duration(pin.age_s)),
            number(duration(pin.idle_s)),
            number(expiry(pin)),
        ]
    });
    let header = ["VIRTUAL SERVICE", "CLIENT", "REAL SERVER", "AGE", "IDLE", "EXPIRES IN"];
    table(&[header], &[3, 4, 5], cells.collect()) + &shown(rows)
}

fn flows(rows: &Rows<FlowRow>) -> String {
    if rows.total == 0 {
        return "no connections\n".to_owned();
    }
    let cells = rows.rows.iter().map(|flow| {
        vec![
            text(&flow.vip),
            text(protocol(flow.protocol)),
            text(std::net::SocketAddr::new(flow.client, flow.client_port)),
            text(flow.vip_port),
            text(&flow.rip),
            text(std::net::SocketAddr::new(flow.snat, flow.snat_port)),
            text(match flow.state {
                FlowState::HalfOpen => "half-open",
                FlowState::Established => "established",
                FlowState::Closing => "closing",
                FlowState::Closed => "closed",
                FlowState::Udp => "udp",
            }),
            number(duration(flow.idle_s)),
        ]
    });
    let header = ["VIRTUAL SERVICE", "PROTO", "CLIENT", "PORT", "REAL SERVER", "SEEN THERE AS", "STATE", "IDLE"];
    table(&[header], &[7], cells.collect()) + &shown(rows)
}

fn counters(counters: &Counters) -> String {
    let verdicts = counters
        .verdicts
        .iter()
        .filter(|verdict| verdict.packets > 0)
        .map(|v| vec![text(&v.name), text(&v.action), number(v.packets), number(v.bytes)])
        .collect::<Vec<_>>();
    let mut out = if verdicts.is_empty() {
        "no packets yet\n".to_owned()
    } else {
        table(&[["VERDICT", "ACTION", "PACKETS", "BYTES"]], &[2, 3], verdicts)
    };

    let traffic = |indent: &str, t: &Traffic| {
        let label = text(format!("{indent}{}", t.label));
        let numbers = [t.connections, t.packets_in, t.bytes_in, t.packets_out, t.bytes_out];
        std::iter::once(label).chain(numbers.map(number)).collect::<Vec<_>>()
    };
    let vips: Vec<Vec<Cell>> = counters
        .vips
        .iter()
        .flat_map(|vip| std::iter::once(traffic("", &vip.traffic)).chain(vip.rips.iter().map(|rip| traffic("  ", rip))))
        .collect();
    if !vips.is_empty() {
        let header = ["VIRTUAL SERVICE / REAL SERVER", "CONNS", "PACKETS IN", "BYTES IN", "PACKETS OUT", "BYTES OUT"];
        out = out + "\n" + &table(&[header], &[1, 2, 3, 4, 5], vips);
    }

    let redirects: Vec<Vec<Cell>> = counters
        .redirects
        .iter()
        .map(|r| {
            let numbers = [r.connections, r.displaced, r.redirected, r.refused];
            std::iter::once(text(&r.label)).chain(numbers.map(number)).collect()
        })
        .collect();
    if !redirects.is_empty() {
        let header = ["REDIRECT", "CONNS", "DISPLACED", "REDIRECTED", "REFUSED"];
        out = out + "\n" + &table(&[header], &[1, 2, 3, 4], redirects);
    }
    let PinCounters { made, moved, refused } = counters.pins;
    if made + moved + refused > 0 {
        out += &format!("\npins: {made} made, {moved} moved to another server, {refused} refused by a full table\n");
    }
    out
}

fn explain(explained: &Explain) -> String {
    let rip = explained.rip.as_deref().unwrap_or("no real server");
    let why = match explained.why {
        Why::Flow => "it has an open connection there",
        Why::Pin => "it is pinned there",
        Why::Ring => "its address falls on that slot of the ring",
        Why::None => "none may take it",
    };
    let mut out =
        format!("{} -> {}: {HEADER}{}{HEADER:#}, since {why}\n", explained.client, clean(&explained.vip), clean(rip));
    if let Some(pin) = &explained.pin {
        let expires = match pin.expires_in_s {
            0 => "held by an open connection".to_owned(),
            left => format!("expires in {} unless it comes back", duration(left)),
        };
        let _ = writeln!(
            out,
            "  pin: {}, made {} ago, idle for {}, {expires}",
            clean(&pin.rip),
            duration(pin.age_s),
            duration(pin.idle_s),
        );
    }
    if let Some(ring) = &explained.ring_rip {
        let _ = writeln!(out, "  the ring alone would choose {}", clean(ring));
    }
    out += &lines(&explained.detail, "  ");
    if !explained.eligible.is_empty() {
        out.push('\n');
        let rows = explained
            .eligible
            .iter()
            .map(|rip| vec![text(&rip.rip), text(if rip.eligible { "yes" } else { "no" }), text(&rip.reason)]);
        out += &table(&[["REAL SERVER", "COULD TAKE IT", "WHY"]], &[], rows.collect());
    }
    out
}

/// "59m 12s". Zero is "0s".
fn duration(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

fn expiry(pin: &PinRow) -> String {
    if pin.expires_in_s == 0 { "in use".to_owned() } else { duration(pin.expires_in_s) }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// "1 pin", "2 pins".
fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Says so where a list was cut short.
fn shown<T>(rows: &Rows<T>) -> String {
    match rows.rows.len() as u64 {
        all if all >= rows.total => String::new(),
        some => format!("{some} of {} shown; `--limit 0` shows all\n", rows.total),
    }
}

fn warnings(problems: &[Problem]) -> String {
    problems.iter().map(problem_line).collect()
}

fn problem_line(problem: &Problem) -> String {
    let style = match problem.severity {
        Severity::Error => BAD,
        Severity::Warning => ODD,
    };
    format!("{style}{}{style:#}\n", clean(&problem.to_string()))
}

fn lines(lines: &[String], indent: &str) -> String {
    lines.iter().map(|line| format!("{indent}{}\n", clean(line))).collect()
}

/// Text from elsewhere, fit for a terminal: no escape sequence and no second line.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn text(content: impl ToString) -> Cell {
    Cell::new(clean(&content.to_string()))
}

fn number(content: impl ToString) -> Cell {
    text(content).set_alignment(CellAlignment::Right)
}

/// Columns without lines, as wide as what is in them; those of `numbers` have their headers to the right.
fn table<const COLUMNS: usize>(header: &[[&str; COLUMNS]], numbers: &[usize], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for row in header {
        table.add_row(row.iter().enumerate().map(
            |(column, title)| {
                if numbers.contains(&column) { number(title) } else { text(title) }
            },
        ));
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }

    let mut out = String::new();
    for (index, line) in table.lines().enumerate() {
        let line = line.trim_end();
        if index < header.len() {
            let _ = writeln!(out, "{HEADER}{line}{HEADER:#}");
            continue;
        }
        match HEALTHS.into_iter().find_map(|(word, style)| Some((line.strip_suffix(word)?, word, style))) {
            Some((line, word, style)) => {
                let _ = writeln!(out, "{line}{style}{word}{style:#}");
            }
            None => {
                let _ = writeln!(out, "{line}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;

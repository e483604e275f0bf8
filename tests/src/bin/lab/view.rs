//! How the demonstration looks: steps with their time, tables, and the result. Colours only where they are seen.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde_json::Value;

/// `println!` that does not mind a terminal that has gone: the lab must be removed all the same.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(anstream::stdout(), $($text)*);
    }};
}

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Runs one step of the preparations, saying what it is, whether it worked and how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let terminal = std::io::stdout().is_terminal();
    if terminal {
        let _ = write!(anstream::stdout(), "  {DIM}…{DIM:#} {what}");
        let _ = std::io::stdout().flush();
    }
    let started = Instant::now();
    let done = work();
    let (style, mark) = if done.is_ok() { (GOOD, "✔") } else { (BAD, "✘") };
    let back = if terminal { "\r" } else { "" };
    say!("{back}  {style}{mark}{style:#} {what} {DIM}{:.1} s{DIM:#}", started.elapsed().as_secs_f64());
    done
}

/// Starts a new screen on a terminal.
pub(crate) fn clear() {
    let _ = write!(std::io::stdout(), "\x1b[H\x1b[2J");
}

/// A new chapter.
pub(crate) fn heading(text: &str) {
    say!("\n{BOLD}{text}{BOLD:#}");
}

/// A line within a chapter.
pub(crate) fn line(text: &str) {
    say!("  {text}");
}

/// Something said in passing.
pub(crate) fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{DIM}lab: {text}{DIM:#}");
}

/// Why there is no result.
pub(crate) fn failed(error: &anyhow::Error) {
    let _ = writeln!(anstream::stderr(), "{BAD}error{BAD:#}: {error:#}");
}

/// One real server's row of the overview.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) vip: String,
    pub(crate) rip: String,
    pub(crate) address: String,
    pub(crate) health: String,
    pub(crate) admin: String,
    pub(crate) clients: usize,
    pub(crate) requests: usize,
    pub(crate) connections: u64,
    pub(crate) pins: u64,
}

impl Row {
    /// The columns that the daemon knows; clients and requests are the driver's to add.
    pub(crate) fn from_status(vip: &str, rip: &Value) -> Self {
        let text = |key: &str| rip[key].as_str().unwrap_or("?").to_owned();
        let number = |key: &str| rip[key].as_u64().unwrap_or(0);
        Self {
            vip: vip.into(),
            rip: text("label"),
            address: text("address"),
            health: text("health"),
            admin: text("admin"),
            connections: number("connections"),
            pins: number("pins"),
            ..Self::default()
        }
    }
}

/// Who went where.
pub(crate) fn table(rows: &[Row]) {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header([
        "virtual service",
        "real server",
        "address",
        "health",
        "admin",
        "clients",
        "requests",
        "open",
        "pins",
    ]);
    for row in rows {
        table.add_row([
            row.vip.clone(),
            row.rip.clone(),
            row.address.clone(),
            row.health.clone(),
            row.admin.clone(),
            row.clients.to_string(),
            row.requests.to_string(),
            row.connections.to_string(),
            row.pins.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let text = table.to_string();
    let mut lines = text.lines();
    say!("  {DIM}{}{DIM:#}", lines.next().unwrap_or_default());
    for line in lines {
        let coloured =
            line.replace(" up ", &format!(" {GOOD}up{GOOD:#} ")).replace(" down ", &format!(" {BAD}down{BAD:#} "));
        say!("  {coloured}");
    }
}

/// What held and what did not.
#[derive(Debug, Default)]
pub(crate) struct Report {
    checks: Vec<(bool, String)>,
}

impl Report {
    /// Notes one thing that held, or did not.
    pub(crate) fn check(&mut self, passed: bool, text: &str) {
        self.checks.push((passed, text.into()));
    }

    /// Whether everything held, and there was something.
    pub(crate) fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|(passed, _)| *passed)
    }

    /// The result block.
    pub(crate) fn show(&self, took: Duration) {
        heading("Result");
        for (passed, text) in &self.checks {
            let (style, word) = if *passed { (GOOD, "PASS") } else { (BAD, "FAIL") };
            say!("  {style}{word}{style:#}  {text}");
        }
        let failed = self.checks.iter().filter(|(passed, _)| !passed).count();
        let style = if failed == 0 { GOOD } else { BAD };
        say!("  {style}{} passed, {failed} failed{style:#} in {:.0} s", self.checks.len() - failed, took.as_secs_f64());
    }
}

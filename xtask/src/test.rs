//! `cargo xtask test`: every test there is, and one number at the end.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xtask::ebpf::workspace;

use crate::{
    run::built,
    setup,
    ui::{self, as_root},
};

/// What `test` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Only unit and property tests: no root, no namespaces.
    #[arg(long)]
    quick: bool,
}

/// Runs everything; fails if anything did.
pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    let started = Instant::now();
    setup::ensure(if arguments.quick { setup::Use::Build } else { setup::Use::Lab })?;

    let mut phases = vec![phase("Unit and property tests", || units(arguments.filter.as_deref()))];
    if !arguments.quick {
        phases.push(phase("Packet tables and network namespaces", || suite(arguments.filter.as_deref())));
    }
    Ok(conclude(&phases, started.elapsed()))
}

/// What the lines of libtest add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// What failed, by name.
    names: Vec<String>,
}

impl Tally {
    /// Takes notice of one line of output, colours and all.
    fn see(&mut self, line: &str) {
        let line = ui::strip(line);
        if let Some(result) = line.strip_prefix("test result: ") {
            for part in result.split([';', '.']) {
                match part.split_whitespace().collect::<Vec<_>>()[..] {
                    [number, "passed"] => self.passed += number.parse().unwrap_or(0),
                    [number, "failed"] => self.failed += number.parse().unwrap_or(0),
                    _ => {}
                }
            }
        } else if line.starts_with("SKIPPED: ") {
            self.skipped += 1;
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.names.push(name.to_owned());
        }
    }

    /// A run that ended badly without naming a test (it did not compile, or crashed) is a failure all the same.
    fn ended(&mut self, failed_before: u64, what: &str, success: bool) {
        if !success && self.failed == failed_before {
            self.failed += 1;
            self.names.push(what.to_owned());
        }
    }
}

struct Phase {
    name: &'static str,
    tally: Tally,
    took: Duration,
}

fn phase(name: &'static str, run: impl FnOnce() -> Result<Tally>) -> Phase {
    ui::heading(name);
    let started = Instant::now();
    let tally = run().unwrap_or_else(|error| {
        ui::error(&format!("{error:#}"));
        Tally { failed: 1, names: vec![format!("{name} did not run")], ..Tally::default() }
    });
    Phase { name, tally, took: started.elapsed() }
}

fn units(filter: Option<&str>) -> Result<Tally> {
    let mut command = ui::cargo();
    command.args(["test", "--workspace", "--exclude", "epiclb-tests", "--no-fail-fast"]).args(filter);
    let mut tally = Tally::default();
    watch(&mut command, "cargo test", &mut tally)?;
    Ok(tally)
}

/// Builds as whoever runs this, and runs the test programs as root.
fn suite(filter: Option<&str>) -> Result<Tally> {
    ui::task("building epiclb", ui::cargo().args(["build", "--package", "epiclb", "--bin", "epiclb"]))?;
    let epiclb = built("epiclb")?;
    let threads = std::env::var_os("RUST_TEST_THREADS").unwrap_or_else(|| "1".into());
    let mut tally = Tally::default();
    for program in test_programs()? {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // One lab at a time: throughput and timing are measured in some of them.
        let mut variables: Vec<(&str, &OsStr)> =
            vec![("EPICLB_BIN", epiclb.as_os_str()), ("RUST_TEST_THREADS", &threads), ("RUST_BACKTRACE", "1".as_ref())];
        let ci = std::env::var_os("CI");
        variables.extend(ci.as_deref().map(|ci| ("CI", ci)));
        let mut command = as_root(&program, &variables);
        command.current_dir(workspace().join("tests")).args(filter);
        watch(&mut command, &name, &mut tally)?;
    }
    Ok(tally)
}

fn test_programs() -> Result<Vec<PathBuf>> {
    let output = ui::cargo()
        .args(["test", "--package", "epiclb-tests", "--no-run", "--message-format=json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the suite does not compile");
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The test programs among cargo's messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| message["executable"].as_str().map(|path| Path::new(path).to_owned()))
        .collect()
}

/// Runs a command, shows what it writes and counts.
fn watch(command: &mut Command, what: &str, tally: &mut Tally) -> Result<()> {
    let before = tally.failed;
    let status = ui::lines(command, |line| {
        if let Some(line) = line {
            tally.see(&line);
            ui::plain(&line);
        }
    })?;
    tally.ended(before, &format!("{what}: {status}"), status.success());
    Ok(())
}

fn conclude(phases: &[Phase], took: Duration) -> ExitCode {
    ui::heading("Result");
    let (mut passed, mut failed) = (0, 0);
    for Phase { name, tally, took } in phases {
        let Tally { passed: good, failed: bad, skipped, names } = tally;
        passed += good;
        failed += bad;
        let skipped =
            if *skipped == 0 { String::new() } else { format!(", {skipped} SKIPPED for want of a prerequisite") };
        let line = format!("{name}: {good} passed, {bad} failed{skipped} in {}", ui::seconds(*took));
        if *bad == 0 {
            ui::good(&line)
        } else {
            ui::bad(&line)
        }
        for name in names {
            ui::plain(&format!("      {name}"));
        }
    }
    ui::plain(&format!("  all in {}", ui::seconds(took)));
    ui::plain(&format!("{passed} passed, {failed} failed"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_runs_add_up_whatever_their_colours() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s",
            "test result: \u{1b}[32mok\u{1b}(B\u{1b}[m. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
            "SKIPPED: not root",
        ] {
            tally.see(line);
        }
        assert_eq!(tally, Tally { passed: 42, failed: 1, skipped: 1, names: vec!["a::c".into()] });
    }

    #[test]
    fn a_run_that_crashed_counts_as_failed_once() {
        let mut tally = Tally::default();
        tally.ended(0, "cargo test: exit status: 101", false);
        assert_eq!((tally.failed, tally.names.len()), (1, 1));
        tally.see("test result: FAILED. 0 passed; 2 failed; 0 ignored");
        tally.ended(1, "second", false);
        assert_eq!(tally.failed, 3);
        tally.ended(3, "third", true);
        assert_eq!(tally.failed, 3);
    }

    #[test]
    fn only_test_programs_are_taken_from_cargos_messages() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"profile\":{\"test\":false},\"executable\":\"/t/lab\"}\n",
            "{\"reason\":\"compiler-artifact\",\"profile\":{\"test\":true},\"executable\":\"/t/deps/topology-1\"}\n",
            "{\"reason\":\"compiler-artifact\",\"profile\":{\"test\":true},\"executable\":null}\n",
            "{\"reason\":\"build-finished\",\"success\":true}\nnot json\n",
        );
        assert_eq!(executables(messages), [Path::new("/t/deps/topology-1")]);
    }
}

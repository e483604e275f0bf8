//! `cargo xtask test`: every test there is, and one number at the end.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;
use xtask::ebpf::workspace;

use crate::{
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
    let Built { units, suite, epiclb } = build(arguments.quick)?;

    let filter = arguments.filter.as_deref();
    let mut phases = vec![phase("Unit and property tests", |tally| {
        units.iter().try_for_each(|program| {
            let mut command = Command::new(&program.path);
            watch(command.current_dir(&program.folder).args(filter), &program.name(), tally)
        })
    })];
    if !arguments.quick {
        phases.push(phase("Packet tables and network namespaces", |tally| {
            let epiclb = epiclb.context("cargo has built no epiclb")?;
            suite
                .iter()
                .try_for_each(|program| watch(as_in_the_lab(program, &epiclb).args(filter), &program.name(), tally))
        }));
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

fn phase(name: &'static str, run: impl FnOnce(&mut Tally) -> Result<()>) -> Phase {
    ui::heading(name);
    let started = Instant::now();
    let mut tally = Tally::default();
    if let Err(error) = run(&mut tally) {
        ui::error(&format!("{error:#}"));
        tally.failed += 1;
        tally.names.push(format!("{name} did not run to the end"));
    }
    Phase { name, tally, took: started.elapsed() }
}

/// A test program.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    /// Its package's folder, where cargo would run it.
    folder: PathBuf,
}

impl Program {
    /// Its name without cargo's hash.
    fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        name.rsplit_once('-').map_or(&*name, |(name, _)| name).to_owned()
    }
}

/// What cargo has built.
#[derive(Debug, Default, PartialEq, Eq)]
struct Built {
    /// Tests that need no root and no namespaces.
    units: Vec<Program>,
    /// Those of the package `epiclb-tests`.
    suite: Vec<Program>,
    /// The daemon they test.
    epiclb: Option<PathBuf>,
}

/// Builds everything at once, as whoever runs this: cargo chooses features for all that is named in one command, so
/// that a second command would build the daemon again.
fn build(quick: bool) -> Result<Built> {
    ui::heading("Building");
    let mut command = ui::cargo();
    command.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    if quick {
        command.args(["--exclude", SUITE]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    Ok(programs(&String::from_utf8_lossy(&output.stdout)))
}

/// The package whose tests lay networks.
const SUITE: &str = "epiclb-tests";

/// The programs among cargo's messages.
fn programs(messages: &str) -> Built {
    let mut built = Built::default();
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |value: &Value| value.as_str().map(PathBuf::from);
        let (Some(path), Some(manifest)) = (text(&message["executable"]), text(&message["manifest_path"])) else {
            continue;
        };
        let folder = manifest.parent().unwrap_or(Path::new("/")).to_owned();
        if message["profile"]["test"] == true {
            // The package `epiclb-tests` lies in `tests`.
            let part = if folder == workspace().join("tests") { &mut built.suite } else { &mut built.units };
            part.push(Program { path, folder });
        } else if message["target"]["name"] == "epiclb" {
            built.epiclb = Some(path);
        }
    }
    built
}

/// A program of the suite, as root. One lab at a time: throughput and timing are measured in some of them.
fn as_in_the_lab(program: &Program, epiclb: &Path) -> Command {
    let threads = std::env::var_os("RUST_TEST_THREADS").unwrap_or_else(|| "1".into());
    let mut variables: Vec<(&str, &OsStr)> =
        vec![("EPICLB_BIN", epiclb.as_os_str()), ("RUST_TEST_THREADS", &threads), ("RUST_BACKTRACE", "1".as_ref())];
    let ci = std::env::var_os("CI");
    variables.extend(ci.as_deref().map(|ci| ("CI", ci)));
    let mut command = as_root(&program.path, &variables);
    command.current_dir(&program.folder);
    command
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
    fn programs_are_told_apart_by_cargos_messages() {
        let line = |package: &str, name: &str, test: bool, executable: Value| {
            let manifest = workspace().join(package).join("Cargo.toml");
            let (target, profile) = (serde_json::json!({ "name": name }), serde_json::json!({ "test": test }));
            serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": manifest, "target": target, "profile": profile,
                "executable": executable,
            })
            .to_string()
        };
        let messages = [
            line("tests", "lab", false, "/t/lab".into()),
            line("tests", "topology", true, "/t/deps/topology-1".into()),
            line("xtask", "xtask", true, "/t/deps/xtask-2".into()),
            line("epiclb-userspace", "epiclb", true, Value::Null),
            line("epiclb-userspace", "epiclb", false, "/t/epiclb".into()),
            "{\"reason\":\"build-finished\",\"success\":true}\nnot json".to_owned(),
        ];
        let program = |path: &str, folder| Program { path: path.into(), folder: workspace().join(folder) };
        let built = programs(&messages.join("\n"));
        assert_eq!(built.units, [program("/t/deps/xtask-2", "xtask")]);
        assert_eq!(built.suite, [program("/t/deps/topology-1", "tests")]);
        assert_eq!(built.epiclb, Some("/t/epiclb".into()));
        assert_eq!(built.suite[0].name(), "topology");
    }
}

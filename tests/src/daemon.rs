//! The real daemon, run in the lab as an operator runs it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{Host, Lab, PATIENCE, Spawned, host::succeeded, until};

/// `epiclb run` on lb1. Ended by SIGTERM when dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Spawned,
    host: Host,
    socket: PathBuf,
}

impl Daemon {
    /// Starts it on the configuration folder `config` and waits until its socket answers. An error holds its log.
    pub fn start(lab: &Lab, config: &Path) -> Result<Self> {
        let binary = binary()?;
        let config = config.to_str().context("a configuration folder with a plain name")?;
        let binary_name = binary.to_str().context("a binary with a plain name")?;
        let log = lab.folder().join("epiclb.log");
        let process = lab.lb1.spawn(binary_name, &["run", "--config", config], &log)?;
        let mut daemon = Self { process, host: lab.lb1.clone(), socket: lab.socket() };
        let answered = until("the daemon's first status", PATIENCE, || {
            if let Some(status) = daemon.process.ended()? {
                return Ok(Some(Err(status)));
            }
            daemon.status().map(|_| Some(Ok(())))
        });
        match answered {
            Ok(Ok(())) => Ok(daemon),
            Ok(Err(status)) => Err(daemon.explain(&anyhow!("the daemon ended with {status}"))),
            Err(error) => Err(daemon.explain(&error)),
        }
    }

    /// `epiclb status --json`.
    pub fn status(&self) -> Result<Value> {
        self.json(&["status"])
    }

    /// A CLI command's `--json` answer; an error unless it exits with 0.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        let text = succeeded(self.cli(&with_json)?).with_context(|| format!("epiclb {}", with_json.join(" ")))?;
        serde_json::from_str(&text).with_context(|| format!("epiclb {}: no JSON: {text}", with_json.join(" ")))
    }

    /// Runs a CLI command (`["drain", "Hyperspace/Hyperspace_Srv_1"]`), whatever its exit code.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.host
            .command(binary()?)
            .arg("--socket")
            .arg(&self.socket)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run epiclb {}", arguments.join(" ")))
    }

    /// One RIP's part of the status, by `VIP/RIP`.
    pub fn rip(&self, name: &str) -> Result<Value> {
        let status = self.status()?;
        let found = rips(&status).find(|(vip, rip)| format!("{vip}/{}", rip["label"].as_str().unwrap_or("")) == name);
        Ok(found.with_context(|| format!("no {name} in {status}"))?.1.clone())
    }

    /// Waits until the RIP `VIP/RIP` has this `health` (`up`, `down`).
    pub fn wait_for(&self, name: &str, health: &str, limit: Duration) -> Result<()> {
        until(&format!("{name} to be {health}"), limit, || Ok((self.rip(name)?["health"] == health).then_some(())))
            .map_err(|error| self.explain(&error))
    }

    /// Waits until every RIP is up.
    pub fn wait_all_up(&self, limit: Duration) -> Result<()> {
        until("every RIP to be up", limit, || {
            let status = self.status()?;
            let (mut all, mut up) = (0, 0);
            for (_, rip) in rips(&status) {
                all += 1;
                up += usize::from(rip["health"] == "up");
            }
            ensure!(all > 0, "no RIP in {status}");
            ensure!(up == all, "{up} of {all} are up");
            Ok(Some(()))
        })
        .map_err(|error| self.explain(&error))
    }

    /// The running process: its id, for signals.
    pub fn process(&self) -> &Spawned {
        &self.process
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it by SIGTERM, as an init system does, and returns its exit status.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(PATIENCE).map_err(|error| self.explain(&error))
    }

    /// Ends it by SIGKILL: nothing of it gets to clean up.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(PATIENCE).map(drop)
    }

    fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}. {}", self.told())
    }

    fn told(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(40)..];
        if last.is_empty() { "It logged nothing.".into() } else { format!("Its log ends:\n{}", last.join("\n")) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.process.ended() {
            let _ = self.process.signal(Signal::SIGTERM);
            if let Err(error) = self.process.wait(Duration::from_secs(5)) {
                complain!("the daemon does not stop: {error:#}");
            }
        }
        if std::thread::panicking() {
            complain!("{}", self.told());
        }
    }
}

/// The `epiclb` binary: what `EPICLB_BIN` names, else what cargo builds from this workspace.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BINARY.get_or_init(|| find_binary().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => bail!("{error}"),
    }
}

fn find_binary() -> Result<PathBuf> {
    if let Some(named) = env::var_os("EPICLB_BIN") {
        return fs::canonicalize(&named).with_context(|| format!("EPICLB_BIN: {}", named.display()));
    }
    // target/debug/deps/<test> or target/debug/lab
    let own = env::current_exe()?;
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).context("no folder of its own")?;
    if let Some(cargo) = env::var_os("CARGO") {
        // Under `cargo test` nobody else builds the binary, and a stale one would prove nothing.
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "epiclb", "--bin", "epiclb"]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        succeeded(build.output().context("cannot run cargo")?).context("cannot build epiclb")?;
    }
    let binary = folder.join("epiclb");
    ensure!(binary.exists(), "{} is missing: build it with `cargo build`, or set EPICLB_BIN", binary.display());
    Ok(binary)
}

fn rips(status: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let vips = status["vips"].as_array().into_iter().flatten();
    vips.flat_map(|vip| {
        let label = vip["label"].as_str().unwrap_or("");
        vip["rips"].as_array().into_iter().flatten().map(move |rip| (label, rip))
    })
}

#[cfg(test)]
mod tests;

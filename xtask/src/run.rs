//! `cargo xtask run`: the lab, or the daemon on a real interface.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xtask::ebpf::workspace;

use crate::{
    setup,
    ui::{self, as_root},
};

/// What `run` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Show the lab once and exit with 0 or 1, instead of leaving it open until Ctrl-C.
    #[arg(long, conflicts_with_all = ["interface", "config"])]
    once: bool,
    /// How many client addresses connect to each virtual service in the lab.
    #[arg(long, value_name = "N")]
    clients: Option<u16>,
    /// How XDP is attached in the lab: auto, native or generic.
    #[arg(long, value_name = "MODE")]
    xdp_mode: Option<String>,
    /// No lab: run the daemon on this interface, in place of those that node.toml names.
    #[arg(long, value_name = "NAME", requires = "config")]
    interface: Option<String>,
    /// No lab: run the daemon on this configuration folder.
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
}

/// Builds what is needed and becomes it.
pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.config {
        Some(config) => on_interface(config, arguments.interface.as_deref()),
        None => lab(arguments),
    }
}

/// `cargo xtask run -- --interface eth0` means the same without its `--`.
pub(crate) fn without_separator(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if arguments.get(1).is_some_and(|verb| verb == "run")
        && let Some(separator) = arguments.iter().position(|argument| argument == "--")
    {
        arguments.remove(separator);
    }
    arguments
}

fn lab(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure(setup::Use::Lab)?;
    // In one command: cargo may choose other features for each alone, and build the daemon twice.
    let packages = ["--package", "epiclb", "--package", "epiclb-tests", "--bin", "epiclb", "--bin", "lab"];
    ui::task("building epiclb and the lab", ui::cargo().arg("build").args(packages))?;
    let epiclb = built("epiclb")?;
    let mut command = as_root(&built("lab")?, &[("EPICLB_BIN", epiclb.as_os_str())]);
    if arguments.once {
        command.arg("--once");
    }
    if let Some(clients) = arguments.clients {
        command.args(["--clients", &clients.to_string()]);
    }
    if let Some(mode) = &arguments.xdp_mode {
        command.args(["--xdp-mode", mode]);
    }
    become_it(&mut command)
}

fn on_interface(config: &Path, interface: Option<&str>) -> Result<ExitCode> {
    setup::ensure(setup::Use::Build)?;
    ui::task("building epiclb", ui::cargo().args(["build", "--release", "--package", "epiclb", "--bin", "epiclb"]))?;
    let mut folder = fs::canonicalize(config).with_context(|| format!("no folder {}", config.display()))?;
    if let Some(interface) = interface {
        folder = with_interface(&folder, interface)?;
        ui::plain(&format!("running on {interface}, with the configuration copied to {}", folder.display()));
    }
    let epiclb = target_dir()?.join("release/epiclb");
    become_it(as_root(&epiclb, &[]).args([OsStr::new("run"), OsStr::new("--config"), folder.as_os_str()]))
}

/// A copy of the configuration whose `interfaces` is this one.
fn with_interface(folder: &Path, interface: &str) -> Result<PathBuf> {
    let node = folder.join("node.toml");
    let text = fs::read_to_string(&node).with_context(|| format!("cannot read {}", node.display()))?;
    let copy = target_dir()?.join("run-config");
    fs::create_dir_all(&copy)?;
    fs::write(copy.join("node.toml"), replace_interfaces(&text, interface).context(node.display().to_string())?)?;
    fs::copy(folder.join("services.toml"), copy.join("services.toml"))
        .with_context(|| format!("cannot copy {}", folder.join("services.toml").display()))?;
    Ok(copy)
}

fn replace_interfaces(node: &str, interface: &str) -> Result<String> {
    let mut table: toml::Table = node.parse()?;
    table.insert("interfaces".into(), toml::Value::Array(vec![interface.into()]));
    Ok(toml::to_string(&table)?)
}

fn built(binary: &str) -> Result<PathBuf> {
    Ok(target_dir()?.join("debug").join(binary))
}

/// cargo's target folder: wherever this program was built into.
fn target_dir() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("xtask lies in <target>/debug")?;
    Ok(if target.is_dir() { target.to_owned() } else { workspace().join("target") })
}

/// Replaces this process, so that Ctrl-C, the terminal and the exit code are the command's own.
fn become_it(command: &mut Command) -> Result<ExitCode> {
    let program = PathBuf::from(command.get_program());
    bail!("cannot run {}: {}", program.display(), command.exec());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_separator_of_run_may_stand_or_not() {
        let strip = |line: &str| without_separator(line.split(' ').map(OsString::from));
        assert_eq!(strip("xtask run -- --interface eth0"), ["xtask", "run", "--interface", "eth0"]);
        assert_eq!(strip("xtask run --once"), ["xtask", "run", "--once"]);
        assert_eq!(strip("xtask test -- x"), ["xtask", "test", "--", "x"]);
    }

    #[test]
    fn only_the_interfaces_of_a_configuration_are_replaced() {
        let got = replace_interfaces("name = \"lb1\"\ninterfaces = [\"eth0\", \"eth1\"]\n", "enp3s0").unwrap();
        let table: toml::Table = got.parse().unwrap();
        assert_eq!(table["name"].as_str(), Some("lb1"));
        assert_eq!(table["interfaces"].as_array().unwrap(), &[toml::Value::from("enp3s0")]);
        assert!(replace_interfaces("name = ", "eth0").is_err());
    }
}

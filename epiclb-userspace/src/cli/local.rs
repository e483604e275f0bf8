//! The commands that need the product's inside instead of a running daemon: `run`, `check` and `init`.
//!
//! Owns: nothing but the three calls, so that the rest of the command line depends on no more than these.

use std::path::Path;

use anyhow::Context;

use super::{Failure, args::Profile};
use crate::{
    config::{self, Host},
    daemon,
};

/// Everything `check` found.
#[derive(Debug)]
pub(super) struct Checked {
    /// It may be used.
    pub(super) valid: bool,
    /// For people: each problem with its line; empty where there is none.
    pub(super) text: String,
    /// An array with one object per problem.
    pub(super) problems: serde_json::Value,
}

/// Runs the daemon until it is stopped. `socket` overrides the one of node.toml.
pub(super) fn run(folder: &Path, socket: Option<&Path>) -> Result<(), Failure> {
    daemon::run(folder, socket).map_err(|failure| match failure {
        daemon::Failure::Configuration(report) => {
            Failure::Configuration(Checked { valid: false, text: report.render(true), problems: report.to_json() })
        }
        daemon::Failure::Other(error) => error.into(),
    })
}

/// Checks both files; `elsewhere`: without the rules that depend on this machine.
pub(super) fn check(folder: &Path, elsewhere: bool) -> Result<Checked, Failure> {
    let host = if elsewhere { None } else { Some(Host::from_system().context("can't look at this machine")?) };
    let (valid, report) = match config::load(folder, host.as_ref()) {
        Ok(loaded) => (true, loaded.warnings),
        Err(report) => (false, report),
    };
    Ok(Checked { valid, text: report.render(true), problems: report.to_json() })
}

/// The text of node.toml and services.toml.
pub(super) fn example(profile: Profile) -> (String, String) {
    config::example(match profile {
        Profile::Minimal => config::Profile::Minimal,
        Profile::Epic => config::Profile::Epic,
    })
}

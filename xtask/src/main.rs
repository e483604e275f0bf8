//! `cargo xtask`: the verbs that cargo lacks.
#![forbid(unsafe_code)]

mod run;
mod setup;
mod test;
mod ui;

use std::process::ExitCode;

use clap::Parser;

/// cargo's missing verbs for epiclb.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
enum Verb {
    /// Install what is missing to build, test and run: says what and why; safe to repeat.
    Setup,
    /// Lay a lab of network namespaces, run epiclb in it and show what it does; or run it on a real interface.
    Run(run::Arguments),
    /// Unit and property tests, packet tables, and real traffic in network namespaces.
    Test(test::Arguments),
}

fn main() -> ExitCode {
    let ended = match Verb::parse_from(run::without_separator(std::env::args_os())) {
        Verb::Setup => setup::verb(),
        Verb::Run(arguments) => run::verb(&arguments),
        Verb::Test(arguments) => test::verb(&arguments),
    };
    ended.unwrap_or_else(|error| {
        ui::error(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

//! The command line as one clap tree: parsing, help, completions and man pages all come from it.
//!
//! Owns: the words an operator types. Deliberately knows nothing of what a command does.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::model::RipName;

/// Below a command's own options.
const EVERYWHERE: &str = "Options of every command";

/// A Layer-4 load balancer for hospitals.
#[derive(Debug, Parser)]
#[command(
    name = "epiclb",
    version,
    max_term_width = 100,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage or invalid configuration; 3 no daemon answers.\n\n\
                  Example:\n  epiclb init --profile epic && epiclb check && epiclb run"
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command understands.
#[derive(Args, Debug)]
pub(super) struct Global {
    /// The folder of node.toml and services.toml.
    #[arg(long, help_heading = EVERYWHERE, global = true, value_name = "DIR", default_value = "/etc/epiclb",
          value_hint = ValueHint::DirPath)]
    pub(super) config: PathBuf,

    /// The daemon's control socket [default: `socket` in node.toml, else /run/epiclb/epiclb.sock].
    #[arg(long, help_heading = EVERYWHERE, global = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(super) socket: Option<PathBuf>,

    /// Print JSON.
    #[arg(long, help_heading = EVERYWHERE, global = true)]
    pub(super) json: bool,

    /// When to use colours; `auto` is on a terminal, unless NO_COLOR is set.
    #[arg(long, visible_alias = "color", help_heading = EVERYWHERE, global = true, value_name = "WHEN",
          default_value = "auto")]
    pub(super) colour: Colour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon in the foreground, until `epiclb stop` or SIGTERM.
    ///
    /// SIGHUP reloads the configuration.
    #[command(after_help = "Example:\n  epiclb run --config /etc/epiclb")]
    Run,

    /// Check the configuration: every problem at once, each with its line.
    #[command(after_help = "Example:\n  epiclb check --config ./site && echo fine")]
    Check {
        /// The files are for another machine: skip what depends on this one, such as which interfaces exist.
        #[arg(long)]
        elsewhere: bool,
    },

    /// Show what a reload would change, and change nothing.
    #[command(after_help = "Example:\n  epiclb plan && epiclb reload")]
    Plan,

    /// Read the configuration anew and apply it: all of it or, where something is wrong, none.
    ///
    /// Open connections are not touched.
    #[command(after_help = "Example:\n  epiclb reload")]
    Reload,

    /// Show the virtual services and their real servers.
    #[command(after_help = "Example:\n  epiclb status --json | jq '.vips[] | select(.health != \"up\")'")]
    Status {
        /// Show it again and again, every SECONDS.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
              value_parser = clap::value_parser!(u16).range(1..))]
        watch: Option<u16>,
    },

    /// Give a real server no new clients; those it has go on.
    ///
    /// Clients that are pinned to it stay, new connections of theirs included, until their persistence runs out. With
    /// --hard only open connections go on, and pinned clients move with their next one.
    #[command(after_help = "Example:\n  epiclb drain Hyperspace/Hyperspace_Srv_2")]
    Drain {
        #[command(flatten)]
        rip: RipArg,
        /// Move pinned clients as well, with their next connection.
        #[arg(long)]
        hard: bool,
        #[command(flatten)]
        force: Force,
    },

    /// Take a real server out at once: its open connections are reset.
    #[command(after_help = "Example:\n  epiclb halt Hyperspace/Hyperspace_Srv_2")]
    Halt {
        #[command(flatten)]
        rip: RipArg,
        #[command(flatten)]
        force: Force,
    },

    /// Undo a drain or a halt.
    #[command(after_help = "Example:\n  epiclb online Hyperspace/Hyperspace_Srv_2")]
    Online {
        #[command(flatten)]
        rip: RipArg,
    },

    /// Show or forget which real server each client is pinned to.
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Example:\n  epiclb pins list --vip Hyperspace --limit 20\n  epiclb pins show 10.20.30.40\n  \
                      epiclb pins clear 10.20.30.40"
    )]
    Pins(Pins),

    /// Show open connections.
    #[command(after_help = "Example:\n  epiclb flows --client 10.20.30.40")]
    Flows {
        /// Only this virtual service's.
        #[arg(long)]
        vip: Option<String>,
        /// Only this client's.
        #[arg(long, value_name = "ADDRESS")]
        client: Option<IpAddr>,
        #[command(flatten)]
        limit: Limit,
    },

    /// Show every counter: per verdict, virtual service and real server.
    #[command(after_help = "Example:\n  epiclb counters --json | jq '.verdicts[] | select(.packets > 0)'")]
    Counters,

    /// Say which real server a client would get, and why.
    #[command(after_help = "Example:\n  epiclb explain 10.20.30.40 Hyperspace")]
    Explain {
        /// The client's address.
        client: IpAddr,
        /// The virtual service's label.
        vip: String,
    },

    /// Write a commented example configuration.
    #[command(after_help = "Example:\n  epiclb init --profile epic ./site")]
    Init {
        /// Where to [default: the folder of --config].
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
        /// What it is an example of.
        #[arg(long, value_name = "PROFILE", default_value = "minimal")]
        profile: Profile,
        /// Replace the files that are there.
        #[arg(long)]
        force: bool,
    },

    /// Stop the daemon and wait until it has gone.
    ///
    /// It takes away what it added: addresses, programs, rules. Clients are not served until it runs again.
    #[command(after_help = "Example:\n  epiclb stop")]
    Stop,

    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  epiclb completions bash > /usr/share/bash-completion/completions/epiclb")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },

    /// Print the manual page, or write one per command into a folder.
    #[command(after_help = "Example:\n  epiclb man | man -l -\n  epiclb man /usr/local/share/man/man1")]
    Man {
        /// Where to write the pages.
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub(super) struct RipArg {
    /// Virtual service and real server, as in `epiclb status`: Hyperspace/Hyperspace_Srv_1.
    #[arg(value_name = "VIP/RIP", value_parser = rip_name)]
    pub(super) rip: RipName,
}

#[derive(Args, Debug)]
pub(super) struct Force {
    /// Also where it leaves the virtual service without a real server that takes clients.
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Args, Debug)]
pub(super) struct Limit {
    /// Show at most so many rows; 0 shows all.
    #[arg(long, value_name = "ROWS", default_value_t = 1000)]
    limit: usize,
}

impl Limit {
    /// The number of rows, `None` for all.
    pub(super) fn rows(&self) -> Option<usize> {
        (self.limit > 0).then_some(self.limit)
    }
}

#[derive(Args, Debug)]
pub(super) struct Pins {
    #[command(subcommand)]
    pub(super) action: Option<PinsAction>,
    #[command(flatten)]
    pub(super) list: PinsList,
}

#[derive(Debug, Subcommand)]
pub(super) enum PinsAction {
    /// Show the pins (as `epiclb pins` alone does).
    #[command(after_help = "Example:\n  epiclb pins list --vip Hyperspace")]
    List(PinsList),
    /// Show one client's pins.
    #[command(after_help = "Example:\n  epiclb pins show 10.20.30.40")]
    Show {
        /// The client's address.
        client: IpAddr,
    },
    /// Forget pins; open connections go on.
    #[command(after_help = "Example:\n  epiclb pins clear 10.20.30.40\n  epiclb pins clear --vip Hyperspace")]
    Clear(PinsClear),
}

#[derive(Args, Debug)]
pub(super) struct PinsList {
    /// Only this virtual service's.
    #[arg(long)]
    pub(super) vip: Option<String>,
    #[command(flatten)]
    pub(super) limit: Limit,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct PinsClear {
    /// This client's, over all virtual services.
    pub(super) client: Option<IpAddr>,
    /// This virtual service's, over all clients.
    #[arg(long)]
    pub(super) vip: Option<String>,
    /// Every one.
    #[arg(long)]
    pub(super) all: bool,
}

/// What `init` writes an example of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Profile {
    /// One virtual service and its redirect, every key explained.
    Minimal,
    /// Epic EHR as its deployment guide lays it out.
    Epic,
}

fn rip_name(text: &str) -> Result<RipName, String> {
    match text.split_once('/') {
        Some((vip, rip)) if !vip.is_empty() && !rip.is_empty() && !rip.contains('/') => {
            Ok(RipName { vip: vip.to_owned(), rip: rip.to_owned() })
        }
        _ => Err("expected VIP/RIP, such as Hyperspace/Hyperspace_Srv_1".to_owned()),
    }
}

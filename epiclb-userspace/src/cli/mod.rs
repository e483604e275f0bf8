//! The command line: what an operator types, sees and gets as an exit code.
//!
//! Owns: the commands ([`args`]), how replies are shown ([`render`]), colours, broken pipes and exit codes.
//! Deliberately knows nothing of maps, packets or probes: what a running daemon knows is asked for through
//! [`control`](crate::control), by the same door as everyone.

mod args;
mod local;
mod render;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Context;
use clap::{CommandFactory, Parser};
use serde::Deserialize;

use crate::{
    control::{
        client::{self, CallError},
        request::{ErrorKind, ErrorReply, PinScope, PinsRequest, Request, Response},
    },
    model::Admin,
};
use args::{Cli, Colour, Command, Global, Pins, PinsAction, PinsClear, PinsList, Profile};

/// The control socket, unless node.toml says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/epiclb/epiclb.sock";

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures (0); wrong usage is (2). Nothing is left to do if nobody reads it.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    match cli.global.colour {
        Colour::Auto => anstream::ColorChoice::Auto,
        Colour::Always => anstream::ColorChoice::AlwaysAnsi,
        Colour::Never => anstream::ColorChoice::Never,
    }
    .write_global();

    let json = cli.global.json;
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output had seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            if json {
                let _ = print(&failure.json());
            }
            let _ = write!(anstream::stderr(), "{}", failure.text());
            ExitCode::from(failure.code())
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
enum Failure {
    /// The daemon says why.
    Reply(ErrorReply),
    /// The daemon says nothing.
    Call(CallError),
    /// The configuration is invalid; the report that says so.
    Configuration(local::Checked),
    /// Our own output could not be written.
    Output(io::Error),
    /// Everything else.
    Other(anyhow::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        const FAILED: u8 = 1;
        const INVALID: u8 = 2;
        const NOT_REACHABLE: u8 = 3;
        match self {
            Self::Reply(ErrorReply { kind: ErrorKind::Invalid, .. }) | Self::Configuration(_) => INVALID,
            Self::Reply(ErrorReply {
                kind: ErrorKind::Refused | ErrorKind::NotFound | ErrorKind::Internal, ..
            }) => FAILED,
            Self::Call(CallError::NotReachable { .. }) => NOT_REACHABLE,
            Self::Call(CallError::NotUnderstood { .. } | CallError::StillThere { .. }) => FAILED,
            Self::Output(_) | Self::Other(_) => FAILED,
        }
    }

    /// For people; ends in a newline.
    fn text(&self) -> String {
        match self {
            Self::Reply(reply) => render::error_reply(reply),
            Self::Configuration(checked) => checked.text.clone(),
            Self::Call(error) => render::error(error),
            Self::Output(error) => render::error(error),
            Self::Other(error) => render::error(&format_args!("{error:#}")),
        }
    }

    /// The same for programs: `{"error": {"kind", "message", …}}`, except for `check`'s own report.
    fn json(&self) -> String {
        let error = |kind: &str, message: String| serde_json::json!({"error": {"kind": kind, "message": message}});
        let value = match self {
            Self::Reply(reply) => serde_json::json!({ "error": reply }),
            Self::Configuration(checked) => checked.json(),
            Self::Call(call @ CallError::NotReachable { .. }) => error("not_reachable", call.to_string()),
            Self::Call(call) => error("internal", call.to_string()),
            Self::Output(output) => error("internal", output.to_string()),
            Self::Other(other) => error("internal", format!("{other:#}")),
        };
        format!("{value:#}\n")
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

fn dispatch(Cli { global, command }: Cli) -> Result<(), Failure> {
    let request = match command {
        Command::Run => return local::run(&global.config, global.socket.as_deref()),
        Command::Check { elsewhere } => return check(&global, elsewhere),
        Command::Init { dir, profile, force } => return init(dir.as_ref().unwrap_or(&global.config), profile, force),
        Command::Completions { shell } => return completions(shell),
        Command::Man { dir } => return man(dir.as_deref()),
        Command::Status { watch: Some(seconds) } => {
            return watch(&global, Duration::from_secs(seconds.into()));
        }

        Command::Status { watch: None } => Request::Status,
        Command::Plan => Request::Plan,
        Command::Reload => Request::Reload,
        Command::Stop => Request::Stop,
        Command::Counters => Request::Counters,
        Command::Drain { rip, hard, force } => {
            let admin = if hard { Admin::DrainHard } else { Admin::Drain };
            Request::SetAdmin { rip: rip.rip, admin, force: force.force }
        }
        Command::Halt { rip, force } => Request::SetAdmin { rip: rip.rip, admin: Admin::Halt, force: force.force },
        Command::Online { rip } => Request::SetAdmin { rip: rip.rip, admin: Admin::Online, force: false },
        Command::Flows { vip, client, limit } => Request::Flows { vip, client, limit: limit.rows() },
        Command::Explain { client, vip } => Request::Explain { client, vip },
        Command::Pins(Pins { action, list }) => Request::Pins(match action.unwrap_or(PinsAction::List(list)) {
            PinsAction::List(PinsList { vip, limit }) => PinsRequest::List { vip, limit: limit.rows() },
            PinsAction::Show { client } => PinsRequest::Show { client },
            PinsAction::Clear(clear) => PinsRequest::Clear { scope: scope(clear) },
        }),
    };
    let reply = ask(&global, &request)?;
    print(&shown(&global, &reply, true)?)
}

/// Asks the daemon; its own refusal is a failure like any other.
fn ask(global: &Global, request: &Request) -> Result<Response, Failure> {
    let socket = global.socket.clone().unwrap_or_else(|| configured_socket(&global.config));
    match client::call(&socket, request)? {
        Response::Error(reply) => Err(Failure::Reply(reply)),
        reply => Ok(reply),
    }
}

fn shown(global: &Global, reply: &Response, pretty: bool) -> Result<String, Failure> {
    if global.json {
        Ok(render::json(reply, pretty).context("the reply as JSON")?)
    } else {
        Ok(render::response(reply))
    }
}

/// The socket that node.toml names. It is read leniently: a daemon must be reachable while its files are being edited.
fn configured_socket(folder: &Path) -> PathBuf {
    #[derive(Deserialize)]
    struct Node {
        socket: Option<PathBuf>,
    }
    fs::read_to_string(folder.join("node.toml"))
        .ok()
        .and_then(|text| toml::from_str::<Node>(&text).ok()?.socket)
        .unwrap_or_else(|| DEFAULT_SOCKET.into())
}

/// clap sees to it that exactly one is given.
fn scope(PinsClear { client, vip, all: _ }: PinsClear) -> PinScope {
    match (client, vip) {
        (Some(client), _) => PinScope::Client(client),
        (None, Some(vip)) => PinScope::Vip(vip),
        (None, None) => PinScope::All,
    }
}

/// Shows the status until interrupted, or until the daemon no longer answers. JSON: one line each time.
fn watch(global: &Global, pause: Duration) -> Result<(), Failure> {
    /// Home, and clear to the end: the picture stands still. anstream takes it out where there is no terminal.
    const CLEAR: &str = "\x1b[H\x1b[2J";
    loop {
        let text = shown(global, &ask(global, &Request::Status)?, false)?;
        print(&if global.json { text } else { format!("{CLEAR}{text}") })?;
        thread::sleep(pause);
    }
}

fn check(global: &Global, elsewhere: bool) -> Result<(), Failure> {
    let checked = local::check(&global.config, elsewhere)?;
    if !checked.valid {
        return Err(Failure::Configuration(checked));
    }
    if global.json {
        print(&format!("{:#}\n", checked.json()))
    } else {
        let _ = write!(anstream::stderr(), "{}", checked.text);
        print("the configuration is valid\n")
    }
}

impl local::Checked {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({"valid": self.valid, "problems": self.problems})
    }
}

fn init(folder: &Path, profile: Profile, force: bool) -> Result<(), Failure> {
    let (node, services) = local::example(profile);
    let files = [(folder.join("node.toml"), node), (folder.join("services.toml"), services)];
    // Both are looked at before either is written.
    if let Some((path, _)) = files.iter().find(|(path, _)| !force && fs::symlink_metadata(path).is_ok()) {
        return Err(anyhow::anyhow!("{} is there already; --force replaces it", path.display()).into());
    }
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let mut said = String::new();
    for (path, text) in &files {
        write_file(path, text, force).with_context(|| format!("can't write {}", path.display()))?;
        said += &format!("wrote {}\n", path.display());
    }
    said += &format!("next: set `interfaces` and the addresses, then `epiclb check --config {}`\n", folder.display());
    print(&said)
}

fn write_file(path: &Path, text: &str, force: bool) -> io::Result<()> {
    let mut file = if force { fs::File::create(path) } else { fs::File::create_new(path) }?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "epiclb", &mut script);
    print_bytes(&script)
}

fn man(folder: Option<&Path>) -> Result<(), Failure> {
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).context("the manual page")?;
        return print_bytes(&page);
    };
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .with_context(|| format!("can't write the manual pages to {}", folder.display()))?;
    Ok(())
}

/// Prints text with colours as far as they are wanted.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Prints as it is: a script or a manual page.
fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests;

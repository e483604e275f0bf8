//! How xtask talks: one line per thing done, with its time, alive while it lasts. Colours only where they are seen.

use std::{
    env,
    io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result, bail};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const WARN: Style = AnsiColor::Yellow.on_default().bold();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Lines waiting to be shown; a child that writes faster than they are shown waits.
const LINES: usize = 256;
/// Where nobody watches a spinner, a sign of life this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// `println!` that does not mind a reader that has gone.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(anstream::stdout(), $($text)*);
    }};
}

pub(crate) fn heading(text: &str) {
    say!("\n{BOLD}{text}{BOLD:#}");
}

pub(crate) fn good(text: &str) {
    say!("  {GOOD}✔{GOOD:#} {text}");
}

pub(crate) fn bad(text: &str) {
    say!("  {BAD}✘{BAD:#} {text}");
}

pub(crate) fn warn(text: &str) {
    say!("  {WARN}!{WARN:#} {text}");
}

pub(crate) fn plain(text: &str) {
    say!("{text}");
}

pub(crate) fn error(text: &str) {
    let _ = std::io::stdout().flush();
    let _ = writeln!(anstream::stderr(), "{BAD}error{BAD:#}: {text}");
}

/// Seconds, as a person reads them.
pub(crate) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} min {:02.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}

/// Runs a command behind one line that shows what it is doing; its output is shown only if it fails.
pub(crate) fn task(what: &str, command: &mut Command) -> Result<()> {
    const SPINNER: [&str; 8] = ["⠋", "⠙", "⠸", "⠴", "⠦", "⠧", "⠇", "⠏"];
    let terminal = std::io::stdout().is_terminal();
    let started = Instant::now();
    let mut log = Vec::new();
    let mut turn = 0;
    let mut spoke = started;
    if !terminal {
        say!("  … {what}");
    }
    let status = lines(command, |line| {
        log.extend(line.map(|line| strip(&line)));
        turn += 1;
        if terminal {
            let last: String = log.last().map_or("", String::as_str).trim().chars().take(60).collect();
            let mark = SPINNER[turn % SPINNER.len()];
            let _ = write!(
                anstream::stdout(),
                "\r\x1b[2K  {mark} {what} {DIM}{} {last}{DIM:#}",
                seconds(started.elapsed())
            );
            let _ = std::io::stdout().flush();
        } else if spoke.elapsed() > SIGN_OF_LIFE {
            spoke = Instant::now();
            say!("    … {what}, {} so far", seconds(started.elapsed()));
        }
    });
    let back = if terminal { "\r\x1b[2K" } else { "" };
    let took = seconds(started.elapsed());
    match status {
        Ok(status) if status.success() => {
            say!("{back}  {GOOD}✔{GOOD:#} {what} {DIM}{took}{DIM:#}");
            Ok(())
        }
        Ok(status) => {
            say!("{back}  {BAD}✘{BAD:#} {what} {DIM}{took}{DIM:#}");
            for line in &log[log.len().saturating_sub(30)..] {
                say!("    {line}");
            }
            bail!("{what}: {status}")
        }
        Err(error) => {
            say!("{back}  {BAD}✘{BAD:#} {what}");
            Err(error)
        }
    }
}

/// Runs a command and hands over each line of its two outputs as it comes, and `None` every 100 ms of silence.
pub(crate) fn lines(command: &mut Command, mut see: impl FnMut(Option<String>)) -> Result<ExitStatus> {
    let program = PathBuf::from(command.get_program());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let (sender, receiver) = mpsc::sync_channel(LINES);
    let outputs: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|out| Box::new(out) as _), child.stderr.take().map(|err| Box::new(err) as _)];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { return };
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => see(Some(line)),
            Err(RecvTimeoutError::Timeout) => see(None),
            Err(RecvTimeoutError::Disconnected) => return Ok(child.wait()?),
        }
    }
}

/// A line without its colours.
pub(crate) fn strip(line: &str) -> String {
    anstream::adapter::strip_str(line).to_string()
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(xtask::ebpf::workspace());
    if std::io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}

/// A command as root: as it is for root, else through sudo, with the variables named in `variables` set for it.
pub(crate) fn as_root(program: &Path, variables: &[(&str, &std::ffi::OsStr)]) -> Command {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        return command;
    }
    let mut command = Command::new("sudo");
    command.arg("env");
    for (name, value) in variables {
        let mut assignment = std::ffi::OsString::from(format!("{name}="));
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    command
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    // /proc/self belongs to the effective user.
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Where a program lies, if it does: on PATH, or where root's programs are.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_of_a_command_are_seen_line_by_line() {
        let mut seen = Vec::new();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo one; echo two >&2; printf three; exit 4"]);
        let status = lines(&mut shell, |line| seen.extend(line)).unwrap();
        seen.sort();
        assert_eq!(seen, ["one", "three", "two"]);
        assert_eq!(status.code(), Some(4));
    }

    #[test]
    fn times_read_as_a_person_says_them() {
        assert_eq!(seconds(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}

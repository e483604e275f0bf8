//! The `epiclb` binary as a shell sees it: output, exit code, and a daemon's socket that is real though the daemon is not.

use std::{
    fs::{self, File},
    io::Read,
    net::IpAddr,
    os::unix::{fs::PermissionsExt, net::UnixListener, process::CommandExt},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use epiclb::{
    control::{
        request::{
            AdminReport, Cleared, ErrorKind, ErrorReply, PinRow, PinScope, PinsRequest, Request, Response, Rows,
            Status, Stopping,
        },
        server::{Call, MAX_CALLS, Server},
    },
    model::{Admin, RipName},
};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

const STATUS: &str = include_str!("../src/cli/fixtures/status.json");

/// A daemon that has a socket and answers from a closure.
struct Daemon {
    dir: TempDir,
    asked: Arc<Mutex<Vec<Request>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn new(answer: impl Fn(&Request) -> Response + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("epiclb.sock");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let asked_there = Arc::clone(&asked);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(&path).unwrap();
                ready.send(()).unwrap();
                let (tx, mut rx) = mpsc::channel::<Call>(MAX_CALLS);
                let answering = async {
                    while let Some(call) = rx.recv().await {
                        let response = answer(&call.request);
                        asked_there.lock().unwrap().push(call.request);
                        let _ = call.reply.send(response);
                    }
                };
                tokio::select! {
                    _ = server.run(tx) => {}
                    _ = answering => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Self { dir, asked, stop: Some(stop), thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("epiclb.sock")
    }

    /// Runs a command against this daemon.
    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = epiclb(line);
        command.arg("--socket").arg(self.socket());
        command
    }

    fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The thread may have ended on its own.
        let _ = self.stop.take().unwrap().send(());
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

fn epiclb(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epiclb"));
    command.args(line.split_whitespace());
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn status() -> Response {
    Response::Status(Box::new(serde_json::from_str::<Status>(STATUS).unwrap()))
}

fn refusing(kind: ErrorKind) -> Daemon {
    Daemon::new(move |_| Response::Error(ErrorReply::new(kind, "no such luck")))
}

#[test]
fn a_status_is_printed_plain_where_there_is_no_terminal() {
    let daemon = Daemon::new(|_| status());
    let output = daemon.run("status");
    assert_eq!((code(&output), stderr(&output)), (0, ""));
    assert!(stdout(&output).contains("\nHyperspace           192.168.85.150  443      1050  tcp"), "{output:?}");
    assert!(!stdout(&output).contains('\x1b'));
    assert_eq!(daemon.asked(), [Request::Status]);
}

#[test]
fn colours_can_be_asked_for_and_no_color_is_honoured_otherwise() {
    let daemon = Daemon::new(|_| status());
    assert!(stdout(&daemon.run("status --colour always")).contains("\x1b["));
    assert!(stdout(&daemon.run("status --color=always")).contains("\x1b["));
    assert!(!stdout(&daemon.run("status --colour never")).contains('\x1b'));
    let output = daemon.command("status").env("NO_COLOR", "1").env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(!stdout(&output).contains('\x1b'), "{output:?}");
}

#[test]
fn the_status_as_json_has_the_promised_keys() {
    let daemon = Daemon::new(|_| status());
    let output = daemon.run("--json status");
    assert_eq!(code(&output), 0);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json, serde_json::from_str::<serde_json::Value>(STATUS).unwrap());
    let has = |value: &serde_json::Value, keys: &[&str]| {
        for key in keys {
            assert!(value.get(key).is_some(), "{key} in {value}");
        }
    };
    has(&json, &["node", "time", "interfaces", "vips"]);
    has(&json["interfaces"][0], &["name", "xdp"]);
    let vip = &json["vips"][0];
    has(vip, &["label", "address", "ports", "protocol", "method", "mode", "health", "connections", "rips"]);
    has(&vip["rips"][0], &["label", "address", "port", "weight", "health", "admin", "connections", "pins"]);
}

#[test]
fn a_watched_status_goes_on_until_the_daemon_is_gone() {
    let daemon = Daemon::new(|_| status());
    let mut child =
        daemon.command("status --watch 1 --json").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = vec![0; 10];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(daemon);
    let mut rest = String::new();
    child.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(&first, br#"{"node":"l"#);
    assert!(rest.contains("not_reachable"), "{rest}");
}

#[test]
fn each_kind_of_refusal_has_its_exit_code() {
    for (kind, expected) in
        [(ErrorKind::Invalid, 2), (ErrorKind::Refused, 1), (ErrorKind::NotFound, 1), (ErrorKind::Internal, 1)]
    {
        let output = refusing(kind).run("reload");
        assert_eq!(code(&output), expected, "{output:?}");
        assert_eq!((stdout(&output), stderr(&output)), ("", "error: no such luck\n"));
    }
}

#[test]
fn a_failure_as_json_is_an_object_on_standard_output() {
    let output = refusing(ErrorKind::Refused).run("plan --json");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json, serde_json::json!({"error": {"kind": "refused", "message": "no such luck"}}));
    assert_eq!(code(&output), 1);

    let output = epiclb("plan --json --socket /nonexistent/epiclb.sock").output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["error"]["kind"], "not_reachable");
    assert_eq!(code(&output), 3);
}

#[test]
fn wrong_usage_exits_with_two_and_help_with_zero() {
    for line in ["", "fly", "drain Hyperspace", "explain nobody Hyperspace", "pins clear", "status --watch 0"] {
        let output = epiclb(line).output().unwrap();
        assert_eq!(code(&output), 2, "{line}: {output:?}");
        assert_eq!(stdout(&output), "", "{line}");
    }
    for line in ["--help", "help drain", "drain --help", "--version", "pins clear --help"] {
        let output = epiclb(line).output().unwrap();
        assert_eq!(code(&output), 0, "{line}: {output:?}");
        assert_ne!(stdout(&output), "", "{line}");
    }
}

#[test]
fn an_absent_a_dead_and_a_mute_daemon_are_not_reachable() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let run = || epiclb("status").arg("--socket").arg(&socket).output().unwrap();

    let output = run();
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("is `epiclb run` running?"), "{output:?}");

    // A killed daemon leaves its socket behind.
    let listener = UnixListener::bind(&socket).unwrap();
    let mute = thread::spawn(move || drop(listener.accept().unwrap()));
    let output = run();
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("hung up"), "{output:?}");
    mute.join().unwrap();

    let output = run();
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("is dead"), "{output:?}");
}

#[test]
fn a_daemon_that_speaks_another_language_is_a_failure_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let stranger = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 8];
        stream.read_exact(&mut request).unwrap();
        std::io::Write::write_all(&mut stream, b"220 welcome\r\n").unwrap();
    });
    let output = epiclb("status").arg("--socket").arg(&socket).output().unwrap();
    stranger.join().unwrap();
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("does not understand"), "{output:?}");
}

#[test]
fn a_stranger_on_the_machine_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let daemon = Daemon::new(|_| status());
    // The stranger must be able to reach both the program and the socket's folder.
    let program = daemon.dir.path().join("epiclb");
    fs::copy(env!("CARGO_BIN_EXE_epiclb"), &program).unwrap();
    fs::set_permissions(daemon.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&program)
        .args(["status", "--socket"])
        .arg(daemon.socket())
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("only its owner and group may connect"), "{output:?}");
    assert_eq!(daemon.asked(), []);
}

#[test]
fn the_words_of_the_command_line_reach_the_daemon() {
    let daemon = Daemon::new(|request| match request {
        Request::SetAdmin { rip, admin, .. } => Response::Admin(AdminReport {
            rip: rip.clone(),
            before: Admin::Online,
            after: *admin,
            connections: 0,
            pins: 0,
        }),
        Request::Pins(PinsRequest::Clear { .. }) => Response::Cleared(Cleared { pins: 7 }),
        _ => Response::Error(ErrorReply::new(ErrorKind::Internal, "")),
    });
    for line in ["drain V/R", "drain --hard V/R --force", "halt V/R", "online V/R", "pins clear 10.0.0.1"] {
        let output = daemon.run(line);
        assert_eq!(code(&output), 0, "{line}: {output:?}");
    }
    daemon.run("explain 2001:db8::1 V");
    daemon.run("flows --vip V --limit 0");
    let rip = || RipName { vip: "V".into(), rip: "R".into() };
    let client: IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(
        daemon.asked(),
        [
            Request::SetAdmin { rip: rip(), admin: Admin::Drain, force: false },
            Request::SetAdmin { rip: rip(), admin: Admin::DrainHard, force: true },
            Request::SetAdmin { rip: rip(), admin: Admin::Halt, force: false },
            Request::SetAdmin { rip: rip(), admin: Admin::Online, force: false },
            Request::Pins(PinsRequest::Clear { scope: PinScope::Client(client) }),
            Request::Explain { client: "2001:db8::1".parse().unwrap(), vip: "V".into() },
            Request::Flows { vip: Some("V".into()), client: None, limit: None },
        ]
    );
}

#[test]
fn a_mistyped_name_is_answered_with_a_proposal() {
    let daemon = Daemon::new(|_| {
        Response::Error(ErrorReply::unknown("virtual service", "Hyperspce", ["Hyperspace", "MyChart"]))
    });
    let output = daemon.run("explain 10.0.0.1 Hyperspce");
    assert_eq!(code(&output), 1);
    assert_eq!(stderr(&output), "error: there is no virtual service Hyperspce\n  did you mean Hyperspace?\n");
}

fn many_pins(count: u32) -> Daemon {
    Daemon::new(move |_| {
        let row = |n: u32| PinRow {
            vip: "Hyperspace".into(),
            client: IpAddr::from((0x0a00_0000 + n).to_be_bytes()),
            rip: "Hyperspace_Srv_1".into(),
            age_s: 9,
            idle_s: 4,
            expires_in_s: 3552,
        };
        Response::Pins(Rows::first((0..count).map(row).collect(), None))
    })
}

#[test]
fn a_long_list_arrives_whole() {
    let output = many_pins(2_500).run("pins --limit 0 --json");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &json["total"], json.get("more")), (2_500, &2_500.into(), None));
    assert_eq!(rows[2_499]["client"], "10.0.9.195");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for (daemon, line) in
        [(many_pins(20_000), "pins"), (many_pins(20_000), "pins --json"), (many_pins(1), "completions bash")]
    {
        let mut child = daemon.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((code(&output), stderr(&output)), (0, ""), "{line}");
    }
}

#[test]
fn output_that_is_lost_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = many_pins(1).command("pins").stdout(full).output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("No space left"), "{output:?}");
}

#[test]
fn stop_returns_when_the_daemon_has_gone() {
    let mut daemon = Daemon::new(|_| Response::Stopping(Stopping { pid: 4711 }));
    let mut child = daemon.command("stop").stdout(Stdio::piped()).spawn().unwrap();
    while daemon.asked().is_empty() {
        thread::yield_now();
    }
    assert_eq!(child.try_wait().unwrap(), None, "the daemon is still there");
    let (unused, _) = oneshot::channel();
    let _ = daemon.stop.replace(unused).unwrap().send(());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), "the daemon (process 4711) has stopped\n"));
    let socket = daemon.socket();
    drop(daemon);
    assert!(!socket.exists());
}

#[test]
fn the_socket_of_node_toml_is_used_unless_another_is_given() {
    let daemon = Daemon::new(|_| status());
    let config = tempfile::tempdir().unwrap();
    fs::write(config.path().join("node.toml"), format!("socket = {:?}\n", daemon.socket())).unwrap();
    let run = |more: &[&str]| epiclb("status --config").arg(config.path()).args(more).output().unwrap();
    assert_eq!(code(&run(&[])), 0);
    assert_eq!(code(&run(&["--socket", "/nonexistent/s"])), 3);
}

#[test]
fn completions_and_manual_pages_come_from_the_binary() {
    for shell in ["bash", "zsh", "fish"] {
        let output = epiclb("completions").arg(shell).output().unwrap();
        assert!(code(&output) == 0 && stdout(&output).contains("explain"), "{shell}");
    }
    let output = epiclb("man").output().unwrap();
    assert!(stdout(&output).contains(".TH"), "{output:?}");
    let dir = tempfile::tempdir().unwrap();
    let output = epiclb("man").arg(dir.path().join("man1")).output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    let page = |name: &str| dir.path().join("man1").join(name).is_file();
    assert!(page("epiclb.1") && page("epiclb-drain.1") && page("epiclb-pins-clear.1"));
}

#[test]
fn what_init_writes_is_a_configuration_that_check_accepts() {
    for profile in ["minimal", "epic"] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("made/site");
        let output = epiclb("init --profile").arg(profile).arg(&folder).output().unwrap();
        assert_eq!((code(&output), stderr(&output)), (0, ""), "{profile}");
        let output = epiclb("check --elsewhere --config").arg(&folder).output().unwrap();
        assert_eq!(code(&output), 0, "{profile}: {output:?}");
        assert_eq!(stdout(&output), "the configuration is valid\n");
        let output = epiclb("check --elsewhere --json --config").arg(&folder).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["valid"], true);
        assert!(json["problems"].as_array().unwrap().iter().all(|problem| problem["severity"] == "warning"));
    }
}

#[test]
fn init_replaces_nothing_unless_it_is_forced_to() {
    let dir = tempfile::tempdir().unwrap();
    let services = dir.path().join("services.toml");
    fs::write(&services, "precious").unwrap();
    let output = epiclb("init").arg(dir.path()).output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("--force replaces it"), "{output:?}");
    assert_eq!(fs::read_to_string(&services).unwrap(), "precious");
    assert!(!dir.path().join("node.toml").exists(), "neither file is written where one can't be");

    let output = epiclb("init --force --config").arg(dir.path()).output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    assert_ne!(fs::read_to_string(&services).unwrap(), "precious");
}

#[test]
fn an_invalid_configuration_exits_with_two_and_names_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = || ["--config".into(), dir.path().as_os_str().to_owned()];
    epiclb("init").args(config()).output().unwrap();
    let services = dir.path().join("services.toml");
    let text = fs::read_to_string(&services).unwrap();
    fs::write(&services, format!("colour = 7\nshape = 8\n{text}")).unwrap();

    let output = epiclb("check --elsewhere").args(config()).output().unwrap();
    assert_eq!((code(&output), stdout(&output)), (2, ""));
    assert!(stderr(&output).contains("colour") && stderr(&output).contains("shape"), "{output:?}");
    assert!(!stderr(&output).contains('\x1b'));

    let output = epiclb("check --elsewhere --json").args(config()).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &json["valid"]), (2, &false.into()));
    let lines: Vec<_> = json["problems"].as_array().unwrap().iter().map(|problem| &problem["line"]).collect();
    assert!(lines.contains(&&1.into()) && lines.contains(&&2.into()), "{json}");
}

#[test]
fn a_missing_configuration_is_invalid_and_says_which_file() {
    let output = epiclb("check --config /nonexistent").output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("/nonexistent/node.toml"), "{output:?}");
}

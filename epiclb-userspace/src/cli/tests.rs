//! The command line itself: words, help, completions.

use clap::{CommandFactory, error::ErrorKind as ClapError};

use super::*;

fn parsed(line: &str) -> Cli {
    Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refused(line: &str) -> clap::Error {
    Cli::try_parse_from(line.split_whitespace()).map(|cli| panic!("{line}: {cli:?}")).unwrap_err()
}

#[test]
fn the_tree_of_commands_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_commands_help_has_an_example() {
    fn visit(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Example:\n  epiclb "), "{}", command.get_name());
        command.get_subcommands().for_each(visit);
    }
    visit(&Cli::command());
}

#[test]
fn every_example_in_the_help_is_a_command_that_parses() {
    fn visit(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines().filter_map(|line| line.strip_prefix("  ")) {
            for example in line.split("&&").filter(|part| part.trim().starts_with("epiclb")) {
                parsed(example.split(['|', '>']).next().unwrap());
            }
        }
        command.get_subcommands().for_each(visit);
    }
    visit(&Cli::command());
}

#[test]
fn completions_of_the_usual_shells_and_the_manual_know_every_command() {
    use clap_complete::Shell;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "epiclb", &mut script);
        let script = String::from_utf8(script).unwrap();
        for command in ["status", "drain", "explain", "pins"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).unwrap();
    assert!(String::from_utf8(page).unwrap().contains("epiclb\\-status(1)"));
}

#[test]
fn a_rip_is_named_by_its_vip_and_its_label() {
    for line in ["epiclb drain V/R --hard --force", "epiclb drain --force --hard V/R"] {
        let Command::Drain { rip, hard: true, force: args::Force { force: true } } = parsed(line).command else {
            panic!("{line}");
        };
        assert_eq!(rip.rip.to_string(), "V/R");
    }
    for line in ["epiclb drain V", "epiclb halt /R", "epiclb online V/", "epiclb halt V/R/S", "epiclb drain"] {
        assert_eq!(refused(line).exit_code(), 2, "{line}");
    }
    assert!(refused("epiclb halt V").to_string().contains("expected VIP/RIP"));
}

#[test]
fn pins_alone_lists_them_and_clear_wants_to_know_which() {
    let list = |line| match parsed(line).command {
        Command::Pins(Pins { action: None, list })
        | Command::Pins(Pins { action: Some(PinsAction::List(list)), .. }) => (list.vip, list.limit.rows()),
        other => panic!("{other:?}"),
    };
    assert_eq!(list("epiclb pins"), (None, Some(1000)));
    assert_eq!(list("epiclb pins --vip V --limit 0"), (Some("V".into()), None));
    assert_eq!(list("epiclb pins list --vip V --limit 7"), (Some("V".into()), Some(7)));

    let clear = |line| match parsed(line).command {
        Command::Pins(Pins { action: Some(PinsAction::Clear(clear)), .. }) => scope(clear),
        other => panic!("{other:?}"),
    };
    assert_eq!(clear("epiclb pins clear 10.0.0.1"), PinScope::Client("10.0.0.1".parse().unwrap()));
    assert_eq!(clear("epiclb pins clear --vip V"), PinScope::Vip("V".into()));
    assert_eq!(clear("epiclb pins clear --all"), PinScope::All);
    assert_eq!(refused("epiclb pins clear").kind(), ClapError::MissingRequiredArgument);
    assert_eq!(refused("epiclb pins clear 10.0.0.1 --all").kind(), ClapError::ArgumentConflict);
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    for line in [
        "epiclb --json --socket /s --config /c --color never status",
        "epiclb status --json --socket /s --config /c --colour never",
    ] {
        let global = parsed(line).global;
        assert!(global.json);
        assert_eq!(global.socket.as_deref(), Some(Path::new("/s")));
        assert_eq!(global.config, Path::new("/c"));
        assert_eq!(global.colour, Colour::Never);
    }
}

#[test]
fn the_socket_is_the_one_of_node_toml_even_where_the_rest_of_it_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(configured_socket(dir.path()), Path::new(DEFAULT_SOCKET));
    let node = dir.path().join("node.toml");
    fs::write(&node, "name = 7\nsocket = \"/run/other.sock\"\ntypo = []\n").unwrap();
    assert_eq!(configured_socket(dir.path()), Path::new("/run/other.sock"));
    fs::write(&node, "name = \"lb1\"\n").unwrap();
    assert_eq!(configured_socket(dir.path()), Path::new(DEFAULT_SOCKET));
    fs::write(&node, "this is no toml").unwrap();
    assert_eq!(configured_socket(dir.path()), Path::new(DEFAULT_SOCKET));
}

#[test]
fn a_broken_answer_fails_and_only_an_absent_daemon_is_not_reachable() {
    let reply = |kind| Failure::Reply(ErrorReply::new(kind, "x")).code();
    assert_eq!(reply(ErrorKind::Invalid), 2);
    assert_eq!(reply(ErrorKind::Refused), 1);
    assert_eq!(reply(ErrorKind::NotFound), 1);
    assert_eq!(reply(ErrorKind::Internal), 1);
    let socket = || PathBuf::from("/s");
    let absent = CallError::NotReachable { socket: socket(), source: io::ErrorKind::NotFound.into() };
    assert_eq!(Failure::Call(absent).code(), 3);
    assert_eq!(Failure::Call(CallError::NotUnderstood { socket: socket(), what: String::new() }).code(), 1);
}

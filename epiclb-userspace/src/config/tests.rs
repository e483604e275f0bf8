use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::model::{
    Balance, Check, CheckKind, Config, Limits, LogLevel, Mode, Node, Protocol, Redirect, Rip, Service, Services, Vip,
    XdpMode,
};

mod mistakes;

const EPIC_NODE: &str = include_str!("../../tests/fixtures/epic/node.toml");
const EPIC_SERVICES: &str = include_str!("../../tests/fixtures/epic/services.toml");

/// A `node.toml` with nothing wrong.
const NODE: &str = "interfaces = [\"eth0\"]\n";

/// A `services.toml` with nothing wrong and nothing to warn of.
const SERVICES: &str = r#"
[[vip]]
label = "A"
address = "10.0.0.1"
ports = [8443]
[[vip.rip]]
label = "A1"
address = "10.0.1.1"
"#;

fn host() -> Host {
    Host {
        name: Some("lb7".to_owned()),
        interfaces: ["lo", "eth0", "eth1"].map(str::to_owned).into(),
        addresses: ["127.0.0.1", "192.168.85.10"].map(|text| text.parse().unwrap()).into(),
    }
}

fn read(node: &str, services: &str) -> Result<Loaded, Report> {
    parse(Source::new("node.toml", node), Source::new("services.toml", services), Some(&host()))
}

/// A problem as a case expects it; its place is where the case's text has a `«`.
struct Expected {
    severity: Severity,
    key: &'static str,
    /// All of them are in the message or the help.
    words: &'static [&'static str],
}

fn error(key: &'static str, words: &'static [&'static str]) -> Expected {
    Expected { severity: Severity::Error, key, words }
}

fn warning(key: &'static str, words: &'static [&'static str]) -> Expected {
    Expected { severity: Severity::Warning, key, words }
}

/// Takes the marks out of a text and says on which line and column they stood.
fn marked(text: &str) -> (String, Vec<(usize, usize)>) {
    let mut places = Vec::new();
    let (mut line, mut column) = (1, 1);
    for c in text.chars() {
        match c {
            '«' => places.push((line, column)),
            '\n' => (line, column) = (line + 1, 1),
            _ => column += 1,
        }
    }
    (text.replace('«', ""), places)
}

/// Exactly the expected problems are reported, each at its mark.
#[track_caller]
fn assert_problems(sentence: &str, node: &str, services: &str, expected: &[Expected]) {
    let (node, node_places) = marked(node);
    let (services, services_places) = marked(services);
    let report = match read(&node, &services) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    };
    let shown = report.render(false);
    let places = node_places.iter().map(|at| ("node.toml", at));
    let places: Vec<_> = places.chain(services_places.iter().map(|at| ("services.toml", at))).collect();
    assert_eq!(places.len(), expected.len(), "{sentence}: as many marks as expectations");
    let found: Vec<&Problem> = report.problems().collect();
    assert_eq!(found.len(), expected.len(), "{sentence}:\n{shown}");
    for ((problem, expected), (file, (line, column))) in found.iter().zip(expected).zip(places) {
        let place = (problem.file.as_str(), problem.line, problem.column);
        assert_eq!(place, (file, Some(*line), Some(*column)), "{sentence}:\n{shown}");
        assert_eq!((problem.severity, problem.key.as_str()), (expected.severity, expected.key), "{sentence}:\n{shown}");
        let text = format!("{} | {}", problem.message, problem.help.as_deref().unwrap_or_default());
        for word in expected.words {
            assert!(text.contains(word), "{sentence}: {word:?} is not in {text:?}");
        }
        assert!(problem.help.is_some(), "{sentence}: says what to type instead\n{shown}");
        assert!(!problem.message.contains(['\n', '\r']), "{sentence}: one line");
        assert!(shown.contains(&format!("{file}:{line}:{column}")), "{sentence}: the report names the place\n{shown}");
    }
}

/// A VIP with one line more or another one, on lines 2 to 8.
fn vip_with(line: &str) -> String {
    format!(
        "\n[[vip]]\nlabel = \"A\"\naddress = \"10.0.0.1\"\nports = [8443]\n{line}\n[[vip.rip]]\nlabel = \"A1\"\naddress = \"10.0.1.1\"\n"
    )
}

fn vip_at(address: &str) -> String {
    SERVICES.replace("\"10.0.0.1\"", address)
}

fn rip_at(address: &str) -> String {
    SERVICES.replace("\"10.0.1.1\"", address)
}

fn ports(ports: &str) -> String {
    SERVICES.replace("[8443]", ports)
}

#[test]
fn the_reference_configuration_is_accepted_as_it_stands() {
    let loaded = read(EPIC_NODE, EPIC_SERVICES).expect("no error");
    let rip = |label: &str, address: &str| Rip {
        label: label.to_owned(),
        address: address.parse().unwrap(),
        port: None,
        weight: 100,
    };
    let vip = |label: &str, address: &str, port: u16, service| Vip {
        label: label.to_owned(),
        address: address.parse().unwrap(),
        ports: vec![range(port, port)],
        protocol: Protocol::Tcp,
        service,
    };
    let balance = |rips| {
        Service::Balance(Balance {
            mode: Mode::Snat,
            persistence: Some(Duration::from_secs(3600)),
            check: Check {
                kind: CheckKind::Tcp,
                interval: Duration::from_secs(2),
                timeout: Duration::from_secs(1),
                rise: 2,
                fall: 3,
            },
            rips,
        })
    };
    let redirect = || Service::Redirect(Redirect { hosts: vec![] });
    let expected = Config {
        node: Node {
            name: "lb1".to_owned(),
            interfaces: vec!["eth0".to_owned()],
            xdp_mode: XdpMode::Auto,
            snat: vec![],
            socket: "/run/epiclb/epiclb.sock".into(),
            state_dir: "/var/lib/epiclb".into(),
            bpffs_dir: "/sys/fs/bpf/epiclb".into(),
            log_level: LogLevel::Info,
            log_client_addresses: false,
            limits: Limits::default(),
        },
        services: Services {
            vips: vec![
                vip(
                    "Hyperspace",
                    "192.168.85.150",
                    443,
                    balance(vec![
                        rip("Hyperspace_Srv_1", "192.168.85.200"),
                        rip("Hyperspace_Srv_2", "192.168.85.201"),
                        rip("Hyperspace_Srv_3", "192.168.85.202"),
                    ]),
                ),
                vip("Hyperspace_redirect", "192.168.85.150", 80, redirect()),
                vip(
                    "MyChart",
                    "192.168.85.151",
                    443,
                    balance(vec![rip("MyChart_Srv_1", "192.168.85.210"), rip("MyChart_Srv_2", "192.168.85.211")]),
                ),
                vip("MyChart_redirect", "192.168.85.151", 80, redirect()),
            ],
        },
    };
    assert_eq!(loaded.config, expected);
    let warnings: Vec<_> = loaded.warnings.problems().map(|problem| (problem.line, problem.name.as_deref())).collect();
    assert_eq!(warnings, [(Some(34), Some("Hyperspace_redirect")), (Some(58), Some("MyChart_redirect"))]);
}

#[test]
fn examples_parse_with_nothing_but_the_reminder_to_set_hosts() {
    for profile in [Profile::Minimal, Profile::Epic] {
        let (node, services) = example(profile);
        let loaded = read(&node, &services).unwrap_or_else(|report| panic!("{profile:?}: {report}"));
        for problem in loaded.warnings.problems() {
            assert!(problem.message.contains("`hosts`"), "{profile:?}: {}", loaded.warnings);
        }
    }
}

#[test]
fn what_the_examples_call_a_default_is_one() {
    // Keys behind a # come alive, but for those that show no default.
    let uncommented = |text: &str| -> String {
        let shows_default = |line: &str| {
            let key = line.split_once(" = ").map_or("", |(key, _)| key.trim());
            let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            line.starts_with('[') || (is_key && !matches!(key, "snat" | "hosts" | "port"))
        };
        let line = |line: &str| match line.trim_start().strip_prefix("# ") {
            Some(rest) if shows_default(rest) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    };
    for profile in [Profile::Minimal, Profile::Epic] {
        let (node, services) = example(profile);
        let (all_node, all_services) = (uncommented(&node), uncommented(&services));
        assert_ne!(node, all_node);
        let all = read(&all_node, &all_services).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(all.config, read(&node, &services).unwrap().config, "{profile:?}");
    }
}

#[test]
fn the_epic_example_is_the_reference_configuration_with_comments() {
    let (_, services) = example(Profile::Epic);
    let reference = read(EPIC_NODE, EPIC_SERVICES).unwrap().config;
    assert_eq!(read(EPIC_NODE, &services).unwrap().config, reference);
}

fn range(first: u16, last: u16) -> crate::model::PortRange {
    crate::model::PortRange { first: first.try_into().unwrap(), last: last.try_into().unwrap() }
}

#[test]
fn every_key_means_what_it_says() {
    let node = r#"
name = "lb2"
interfaces = ["eth1", "eth0"]
xdp_mode = "generic"
snat = ["192.168.85.11", "2001:db8::11"]
socket = "/tmp/e.sock"
state_dir = "/tmp/state"
bpffs_dir = "/sys/fs/bpf/two"
log_level = "debug"
log_client_addresses = true
[limits]
flows = 1_024
pins = 16_777_216
half_open = 4_194_304
"#;
    let services = r#"
[defaults]
protocol = "udp"
persistence = "off"
check = { kind = "none", fall = 7 }
[[vip]]
label = "Dns"
address = "2001:db8::53"
ports = ["8000-8010", 53, 5353]
[vip.check]
rise = 5
interval = "500ms"
timeout = "100ms"
[[vip.rip]]
label = "Dns_1"
address = "2001:db8::1"
port = 5300
weight = 256
[[vip.rip]]
label = "Dns_2"
address = "2001:db8::2"
weight = 0
[[vip]]
label = "Web"
address = "10.0.0.1"
ports = [80]
force_https = true
hosts = ["MyChart.Example.ORG", "10.0.0.1", "2001:DB8::1", "[2001:db8:0::2]"]
[[vip]]
label = "Tcp"
address = "10.0.0.1"
protocol = "tcp"
persistence = "1h 30m"
ports = [9000]
rip = [{ label = "One", address = "10.0.1.1" }]
"#;
    let Config { node, services } = read(node, services).unwrap_or_else(|report| panic!("{report}")).config;
    let expected = Node {
        name: "lb2".to_owned(),
        interfaces: vec!["eth1".to_owned(), "eth0".to_owned()],
        xdp_mode: XdpMode::Generic,
        snat: ["192.168.85.11", "2001:db8::11"].map(|text| text.parse().unwrap()).into(),
        socket: "/tmp/e.sock".into(),
        state_dir: "/tmp/state".into(),
        bpffs_dir: "/sys/fs/bpf/two".into(),
        log_level: LogLevel::Debug,
        log_client_addresses: true,
        limits: Limits { flows: 1_024, pins: 16_777_216, half_open: 4_194_304 },
    };
    assert_eq!(node, expected);
    let [dns, web, tcp] = &services.vips[..] else { panic!("three VIPs") };
    assert_eq!(dns.ports, [range(53, 53), range(5353, 5353), range(8000, 8010)]);
    assert_eq!(dns.protocol, Protocol::Udp);
    let balance = dns.balance().unwrap();
    let check = Check {
        kind: CheckKind::None,
        interval: Duration::from_millis(500),
        timeout: Duration::from_millis(100),
        rise: 5,
        fall: 7,
    };
    assert_eq!((&balance.check, balance.persistence), (&check, None));
    assert_eq!(dns.probe_address(&balance.rips[0]), "[2001:db8::1]:5300".parse::<SocketAddr>().unwrap());
    assert_eq!((balance.rips[0].weight, balance.rips[1].weight, balance.rips[1].port), (256, 0, None));
    // A redirect is TCP whatever the defaults say.
    assert_eq!(web.protocol, Protocol::Tcp);
    let hosts = ["mychart.example.org", "10.0.0.1", "[2001:db8::1]", "[2001:db8::2]"].map(str::to_owned);
    assert_eq!(web.service, Service::Redirect(Redirect { hosts: hosts.into() }));
    assert_eq!(tcp.balance().unwrap().persistence, Some(Duration::from_secs(5400)));
    assert_eq!(tcp.balance().unwrap().check.kind, CheckKind::None);
}

#[test]
fn a_node_without_a_name_is_called_like_its_host() {
    assert_eq!(read(NODE, SERVICES).unwrap().config.node.name, "lb7");
}

#[test]
fn without_a_host_the_rules_that_need_one_are_skipped() {
    let node = Source::new("node.toml", "interfaces = [\"eth9\"]");
    let loaded = parse(node, Source::new("services.toml", SERVICES), None).unwrap();
    assert_eq!(
        (loaded.config.node.interfaces, loaded.config.node.name),
        (vec!["eth9".to_owned()], "localhost".to_owned())
    );
}

#[test]
fn this_machine_has_a_loopback_interface_and_address() {
    let host = Host::from_system().unwrap();
    assert!(host.interfaces.contains("lo"), "{host:?}");
    assert!(host.name.is_some());
}

#[test]
fn text_that_is_no_toml_is_pointed_at() {
    let cases: &[(&str, String, &[Expected])] = &[
        (
            "a text without its closing quote",
            vip_at("«\"10.0.0.1"),
            &[error("vip[0].address", &["no closing quote", "close it"])],
        ),
        (
            "a word without quotes, and the next mistake too",
            vip_with("mode = «snat\nprotocol = «tpc\npersistence = «\"60\""),
            &[
                error("vip[0].mode", &["needs quotes", "write \"snat\""]),
                error("vip[0].protocol", &["needs quotes"]),
                error("vip[0].persistence", &["no unit"]),
            ],
        ),
        ("a time without quotes", vip_with("persistence = «60m"), &[error("vip[0].persistence", &["write \"60m\""])]),
        ("an address without quotes", vip_at("«10.0.0.1"), &[error("vip[0].address", &["write \"10.0.0.1\""])]),
        ("a range without quotes", ports("[«8000-8010]"), &[error("vip[0].ports", &["write \"8000-8010\""])]),
        ("nothing after the sign", vip_with("persistence = «"), &[error("vip[0].persistence", &["no value"])]),
        ("zeros in front", ports("[«0443]"), &[error("vip[0].ports", &["leading zero"])]),
        ("an unknown escape", vip_with("mode = «\"sn\\at\""), &[error("vip[0].mode", &["not TOML", "\\\\"])]),
        (
            "a key without a value",
            vip_with("mode «\"snat\""),
            &[error("", &["key with no value", "has not been checked"])],
        ),
        ("two values", ports("[1] «2"), &[error("", &["not TOML"])]),
        (
            "a list that is not closed, before another key",
            ports("[8443\n«protocol = \"tcp\""),
            &[error("", &["not TOML", "has not been checked"])],
        ),
        ("a header that is not closed", "[[vip«\nlabel = \"A\"\n".to_owned(), &[error("", &["unclosed"])]),
        (
            "a key given twice",
            vip_with("mode = \"snat\"\n«mode = \"snat\""),
            &[error("vip[0].mode", &["\"mode\" is given twice", "delete one"])],
        ),
        (
            "a key given twice in braces",
            vip_with("check = { rise = 2, «rise = 3 }"),
            &[error("vip[0].check.rise", &["given twice"])],
        ),
        (
            "a table given twice",
            format!("[defaults]\nmode = \"snat\"\n[«defaults]\npersistence = \"60m\"\n{SERVICES}"),
            &[error("defaults", &["given twice"])],
        ),
    ];
    for (sentence, services, expected) in cases {
        assert_problems(sentence, NODE, services, expected);
    }
}

#[test]
fn a_key_given_twice_shows_both_places() {
    let report = read(NODE, &vip_with("mode = \"snat\"\nmode = \"snat\"")).unwrap_err().render(false);
    assert!(report.contains("6 | mode = \"snat\"\n  | ---- first given here"), "{report}");
    assert!(report.contains("7 | mode = \"snat\"\n  | ^^^^ given again"), "{report}");
    let twice = format!("[defaults]\nmode = \"snat\"\n[defaults]\n{SERVICES}");
    let report = read(NODE, &twice).unwrap_err().render(false);
    assert!(report.contains("1 | [defaults]\n  | ---------- first given here"), "{report}");
}

#[test]
fn a_bracket_that_is_never_closed_is_shown_where_it_opens() {
    let report = read(NODE, &ports("[8443")).unwrap_err();
    let shown = report.render(false);
    assert_eq!(report.problems().count(), 1, "{shown}");
    assert!(shown.contains("is the bracket opened here closed?"), "{shown}");
    assert!(shown.contains("the rest of this file has not been checked"), "{shown}");
}

#[test]
fn a_problem_between_two_files_shows_both() {
    let node = "interfaces = [\"eth0\"]\nsnat = [\"10.0.0.1\"]\n";
    let report = read(node, SERVICES).unwrap_err().render(false);
    assert!(report.contains("node.toml:2:9"), "{report}");
    assert!(report.contains("services.toml:4"), "{report}");
    assert!(report.contains("the VIP is here"), "{report}");
}

#[test]
fn every_problem_of_both_files_is_told_at_once() {
    let services = "vip = 3\nmode = \"x\n[defaults]\nmode = \"snta\"\n";
    let report = read("interfaces = [\"eth9\"\nname = 3\n", services).unwrap_err();
    let places: Vec<_> = report.problems().map(|p| (p.file.as_str(), p.line.unwrap_or(0))).collect();
    assert!(places.iter().any(|(file, _)| *file == "node.toml"), "{report}");
    assert!([1, 2, 4].iter().all(|line| places.contains(&("services.toml", *line))), "{report}");
}

#[test]
fn limits_on_numbers_say_how_many_were_given() {
    let vips = |count: usize, rips: usize, ports: &str| -> String {
        let rip = |rip| format!("{{ label = \"s{rip}\", address = \"10.1.{}.{}\" }}", rip / 200, rip % 200 + 1);
        let rips = (0..rips).map(rip).collect::<Vec<_>>().join(", ");
        let vip = |vip| {
            let address = format!("10.0.{}.{}", vip / 200, vip % 200 + 1);
            format!("[[vip]]\nlabel = \"v{vip}\"\naddress = \"{address}\"\nports = {ports}\nrip = [{rips}]\n")
        };
        (0..count).map(vip).collect()
    };
    let most = read(NODE, &vips(1_024, 4, "[\"1-64\"]"));
    assert!(most.is_ok(), "{}", most.unwrap_err());
    let message = |services: &str| {
        let report = read(NODE, services).unwrap_err();
        assert_eq!(report.errors().count(), 1, "{report}");
        report.errors().next().unwrap().message.clone()
    };
    assert_eq!(message(&vips(1_025, 1, "[1]")), "1025 VIPs; 1024 is the most");
    assert_eq!(message(&vips(1_024, 5, "[1]")), "5120 RIPs; 4096 is the most");
    assert_eq!(message(&vips(2, 1, "[\"100-65535\"]")), "130872 ports over all VIPs; 65536 is the most");
}

#[test]
fn a_report_shows_twenty_problems_and_counts_the_rest() {
    let services: String = (0..3_000).map(|n| format!("key{n} = 1\n")).collect::<String>() + SERVICES;
    let report = read(NODE, &services).unwrap_err();
    let shown = report.render(false);
    assert_eq!(shown.matches("error: ").count(), MAX_SHOWN);
    assert!(shown.ends_with("and 2980 more; 1000 errors, 2000 further problems\n"), "{shown}");
}

#[test]
fn errors_are_shown_before_warnings() {
    let shown = read(NODE, &(ports("[443]") + "weight = 300\n")).unwrap_err().render(false);
    assert!(shown.find("error: ").unwrap() < shown.find("warning: ").unwrap(), "{shown}");
    assert!(shown.ends_with("1 error, 1 warning\n"), "{shown}");
}

#[test]
fn colours_come_only_when_asked_for() {
    let report = read(NODE, &ports("[0]")).unwrap_err();
    assert!(!report.render(false).contains('\u{1b}'));
    assert!(report.render(true).contains('\u{1b}'));
    // What a user typed can't bring its own.
    let report = read(NODE, &ports("[\"\\u001b[31m\"]").replace("\"A\"", "\"\\u001b[31m\"")).unwrap_err();
    assert!(!report.render(false).contains('\u{1b}'), "{report}");
    let report = read("\u{1b}[31m = 1\n\u{1b}", SERVICES).unwrap_err();
    assert!(!report.render(false).contains('\u{1b}'), "{report}");
}

#[test]
fn the_report_reads_like_this() {
    let services = SERVICES.replace("label = \"A\"", "label = \"Web\"") + "weight = 1000\n";
    let expected = "\
error: `weight` is 1000, out of range
 --> services.toml:9:10
  |
9 | weight = 1000
  |          ^^^^ vip[0].rip[0].weight of Web/A1
  |
  = help: write a number from 0 to 256

1 error
";
    assert_eq!(read(NODE, &services).unwrap_err().render(false), expected);
}

#[test]
fn problems_are_available_as_data() {
    let report = read(NODE, &(SERVICES.to_owned() + "weight = 1000\n")).unwrap_err();
    let expected = serde_json::json!([{
        "severity": "error",
        "file": "services.toml",
        "line": 9,
        "column": 10,
        "key": "vip[0].rip[0].weight",
        "name": "A/A1",
        "message": "`weight` is 1000, out of range",
        "help": "write a number from 0 to 256",
    }]);
    assert_eq!(report.to_json(), expected);
}

#[test]
fn what_looks_like_a_secret_is_not_printed() {
    let secrets = [
        "cluster_secret = \"hunter2ä\"",
        "password = \"hunter2ä\" \"",
        "x = { API_TOKEN = \"hunter2ä\" }",
        "private_key = \"\"\"\nhunter2ä\n\"\"\"",
        "psk = hunter2ä",
        "secret = [\"a\", \"hunter2ä\", ]]",
        "secret = [\n\"hunter2ä\" oops\n]",
        "secret\n= hunter2ä",
    ];
    for secret in secrets {
        let report = read(&format!("{NODE}{secret}\n"), SERVICES).unwrap_err();
        for shown in [report.render(false), report.render(true), report.to_json().to_string()] {
            assert!(!shown.contains("hunter2"), "{secret}: {shown}");
        }
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_problem() {
    let services = format!("\u{feff}{}", SERVICES.replace('\n', "\r\n"));
    assert!(read(&format!("\u{feff}{NODE}"), &services).is_ok());
    let marked = "\u{feff}«nmae = \"x\"\r\ninterfaces = [\"eth0\"]\r\n".replace('\u{feff}', "");
    assert_problems("columns do not count the mark", &marked, SERVICES, &[error("nmae", &["`name`"])]);
}

#[test]
fn what_is_no_text_is_said_in_words() {
    let utf16: Vec<u8> = std::iter::once(0xfeff).chain(NODE.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    type Position = Option<(usize, usize)>;
    let cases: [(&[u8], &str, Position); 4] = [
        (&utf16, "node.toml is UTF-16 text", None),
        (b"name = \"x\"\n# a\0", "node.toml holds a NUL byte", Some((2, 4))),
        (b"# ok\n# M\xfcller", "node.toml is not UTF-8 text: byte 0xfc", Some((2, 4))),
        (b"\xff\xff", "node.toml is not UTF-8 text", Some((1, 1))),
    ];
    for (bytes, words, position) in cases {
        let services = Source::new("services.toml", ports("[0]"));
        let report = parse(Source::new("node.toml", bytes), services, Some(&host())).unwrap_err();
        let problems: Vec<&Problem> = report.problems().collect();
        assert!(problems[0].message.contains(words), "{report}");
        assert_eq!(problems[0].line.zip(problems[0].column), position, "{report}");
        // And the other file is read all the same.
        assert_eq!((problems.len(), problems[1].key.as_str()), (2, "vip[0].ports[0]"), "{report}");
        assert!(report.render(false).contains("node.toml"));
    }
}

#[test]
fn files_that_cannot_be_read_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let services = folder.path().join("services.toml");
    let node = folder.path().join("node.toml");
    let message = || {
        let report = load(folder.path(), Some(&host())).unwrap_err();
        let text = report.render(false);
        assert!(text.contains(&services.display().to_string()), "{text}");
        report.problems().last().unwrap().message.clone()
    };
    let report = load(&folder.path().join("none"), None).unwrap_err();
    assert_eq!(report.errors().count(), 2);
    assert!(report.problems().all(|problem| problem.message.contains("nor does the folder")), "{report}");

    fs::write(&node, NODE).unwrap();
    assert!(message().contains("services.toml does not exist"), "{}", message());
    fs::create_dir(&services).unwrap();
    assert!(message().contains("is a folder"), "{}", message());
    fs::remove_dir(&services).unwrap();
    symlink("nowhere", &services).unwrap();
    assert!(message().contains("link to a file that does not exist"), "{}", message());
    fs::remove_file(&services).unwrap();
    symlink("services.toml", &services).unwrap();
    assert!(message().contains("leads back to itself"), "{}", message());
    fs::remove_file(&services).unwrap();
    nix::unistd::mkfifo(&services, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(message().contains("not a regular file"), "{}", message());
    fs::remove_file(&services).unwrap();
    fs::write(&services, vec![b'#'; MAX_FILE_BYTES as usize + 1]).unwrap();
    assert!(message().contains("has 4194305 bytes"), "{}", message());
    fs::write(&services, SERVICES).unwrap();
    assert!(load(folder.path(), Some(&host())).is_ok());
}

#[test]
fn the_time_for_nonsense_grows_with_its_size_and_not_with_the_square() {
    let nonsense = |size: usize| {
        let fill = |text: &str| text.repeat(size / text.len());
        [
            fill("="),
            fill("a=x\n"),
            fill("a=1\n"),
            fill("["),
            fill("[["),
            fill("a."),
            fill("[a]\n"),
            fill("[[vip]]\n"),
            fill("\""),
            fill("{"),
            fill("a={"),
            fill("é"),
            fill("[[vip]]\nlabel='a'\n"),
            fill("[[vip.rip]]\n"),
            format!("ports = [{}", fill("1,")),
            format!("vip = [{}]", fill("{},")),
            format!("a = \"{}\n", fill("x")),
            format!("[[vip]]\nports = [{}]\n", fill("1,")),
            format!("[[vip]]\nforce_https = true\nhosts = [\"a{}\"]\n", fill(":")),
            (0..size / 12).map(|n| format!("k{n} = x\n")).collect(),
        ]
    };
    let time = |text: &str| {
        let started = Instant::now();
        let report = read(NODE, text).unwrap_err();
        assert!(report.render(true).len() < 100_000, "{text:.40}");
        started.elapsed()
    };
    const SMALL: usize = 4 << 10;
    const TIMES: u32 = 16;
    for (small, large) in nonsense(SMALL).iter().zip(nonsense(TIMES as usize * SMALL)) {
        // Both sides of the comparison take about as long, so that a machine that pauses stretches both. What grew with
        // the square would take sixteen times as long in one piece as in sixteen. One quick run is proof enough.
        let quick = (0..20).any(|_| {
            let in_pieces: Duration = (0..TIMES).map(|_| time(small)).sum();
            time(&large) < 6 * in_pieces
        });
        assert!(quick, "{small:.40}: in one piece it takes over six times as long as in {TIMES}, twenty times");
    }
}

/// Either a configuration, or at least one error; and both can be shown.
fn assert_law(node: &[u8], services: &[u8]) {
    let report = match parse(Source::new("n", node), Source::new("s", services), Some(&host())) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings.errors().count(), 0);
            loaded.warnings
        }
        Err(report) => {
            assert!(report.errors().count() > 0);
            report
        }
    };
    for problem in report.problems() {
        assert!(problem.line.is_none_or(|line| line >= 1) && problem.column.is_none_or(|column| column >= 1));
    }
    report.render(true);
    report.render(false);
    report.to_json();
}

/// One change to a valid file.
#[derive(Clone, Debug)]
enum Mutation {
    Delete(prop::sample::Index, usize),
    Insert(prop::sample::Index, &'static str),
    Copy(prop::sample::Index, prop::sample::Index, usize),
    SetByte(prop::sample::Index, u8),
}

impl Mutation {
    fn apply(&self, text: &mut Vec<u8>) {
        let end = text.len() + 1;
        match self {
            Self::Delete(at, length) => {
                let start = at.index(end);
                text.drain(start..(start + length).min(text.len()));
            }
            Self::Insert(at, what) => {
                let start = at.index(end);
                text.splice(start..start, what.bytes());
            }
            Self::Copy(from, to, length) => {
                let (start, to) = (from.index(end), to.index(end));
                let copy = text[start..(start + length).min(text.len())].to_vec();
                text.splice(to..to, copy);
            }
            Self::SetByte(at, byte) => {
                if let Some(place) = text.get_mut(at.index(end)) {
                    *place = *byte;
                }
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    const PIECES: &[&str] = &[
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        "\"",
        "'",
        "\"\"\"",
        "'''",
        "\n",
        "\r\n",
        "\r",
        ",",
        ".",
        "#",
        "-",
        "é",
        "🔒",
        "\t",
        "\u{feff}",
        "\\u0000",
        "0",
        "vip",
        "[[vip]]\n",
        "[[vip.rip]]\n",
        "[vip]\n",
        "[defaults]\n",
        "check.kind = 1\n",
        "ports = []\n",
        "rip = []\n",
        "\"\" = 1\n",
        "a.b.c = {}\n",
        "secret = \"\"\"\n",
    ];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), 0_usize..40).prop_map(|(at, length)| Mutation::Delete(at, length)),
        (index(), prop::sample::select(PIECES)).prop_map(|(at, what)| Mutation::Insert(at, what)),
        (index(), index(), 1_usize..200).prop_map(|(from, to, length)| Mutation::Copy(from, to, length)),
        (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::SetByte(at, byte)),
    ]
}

fn mutated(text: &str, mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
    bytes
}

proptest! {
    #[test]
    fn no_bytes_make_the_loader_panic(node: Vec<u8>, services: Vec<u8>) {
        assert_law(&node, &services);
    }

    #[test]
    fn no_text_makes_the_loader_panic(
        node in "[\\[\\]{}=\"'\n\r\t #.,a-z0-9é\u{1b}_-]{0,200}",
        services in ".{0,200}",
    ) {
        assert_law(node.as_bytes(), services.as_bytes());
    }

    #[test]
    fn no_change_to_a_valid_file_makes_the_loader_panic(
        node in prop::collection::vec(mutation(), 0..6),
        services in prop::collection::vec(mutation(), 0..6),
    ) {
        assert_law(&mutated(EPIC_NODE, &node), &mutated(EPIC_SERVICES, &services));
    }
}

//! One table per kind of thing: a sentence, a file with a `«` in front of each mistake, what is said of it.

use super::*;

#[test]
fn each_mistake_in_node_toml_is_named() {
    let with = |line: &str| format!("{NODE}{line}\n");
    let interfaces = |list: &str| format!("interfaces = {list}\n");
    let long_socket = with(&format!("socket = «\"/run/{}.sock\"", "x".repeat(110)));
    let cases: &[(&str, String, &[Expected])] = &[
        (
            "no interfaces",
            "«name = \"lb1\"\n".to_owned(),
            &[error("interfaces", &["missing", "interfaces = [\"eth0\"]", "present: eth0, eth1"])],
        ),
        ("an empty file", "«".to_owned(), &[error("interfaces", &["missing"])]),
        ("an empty list", interfaces("«[]"), &[error("interfaces", &["empty list"])]),
        (
            "one interface without its list",
            interfaces("«\"eth0\""),
            &[error("interfaces", &["text in quotes", "a list", "interfaces = [\"eth0\"]"])],
        ),
        ("a number among the interfaces", interfaces("[\"eth0\", «7]"), &[error("interfaces[1]", &["a number"])]),
        (
            "an interface that does not exist",
            interfaces("[«\"eth9\"]"),
            &[error("interfaces[0]", &["no interface \"eth9\"", "did you mean", "present: eth0, eth1"])],
        ),
        ("the loopback interface", interfaces("[«\"lo\"]"), &[error("interfaces[0]", &["loopback"])]),
        (
            "an interface name too long",
            interfaces("[«\"enp0s31f6u1u2u3x\"]"),
            &[error("interfaces[0]", &["16 characters", "15 at most"])],
        ),
        ("an interface twice", interfaces("[\"eth0\", «\"eth0\"]"), &[error("interfaces[1]", &["listed twice"])]),
        ("a path as interface", interfaces("[«\"../eth0\"]"), &[error("interfaces[0]", &["can't be the name"])]),
        (
            "an alias as interface",
            interfaces("[«\"eth0:1\"]"),
            &[error("interfaces[0]", &["alias", "write the interface: \"eth0\""])],
        ),
        (
            "an unknown key",
            with("«log_levle = \"info\""),
            &[error("log_levle", &["unknown key", "did you mean `log_level`"])],
        ),
        ("an unknown table", with("[«limit]\nflows = 2048"), &[error("limit", &["did you mean `limits`"])]),
        ("a key of the other file", with("[[«vip]]"), &[error("vip", &["belongs into services.toml"])]),
        (
            "an unknown xdp mode",
            with("xdp_mode = «\"nativ\""),
            &[error("xdp_mode", &["did you mean \"native\"", "\"generic\""])],
        ),
        ("an unknown log level", with("log_level = «\"verbose\""), &[error("log_level", &["\"debug\"", "\"trace\""])]),
        ("a number as log level", with("log_level = «3"), &[error("log_level", &["a number", "log_level = \"info\""])]),
        (
            "a quoted boolean",
            with("log_client_addresses = «\"true\""),
            &[error("log_client_addresses", &["text in quotes", "true or false"])],
        ),
        (
            "a relative socket path",
            with("socket = «\"run/epiclb.sock\""),
            &[error("socket", &["relative", "starting with /"])],
        ),
        ("a relative folder", with("state_dir = «\"./state\""), &[error("state_dir", &["relative"])]),
        ("a socket path too long", long_socket, &[error("socket", &["107 is the most"])]),
        (
            "a folder as socket",
            with("socket = «\"/run/epiclb/\""),
            &[error("socket", &["folder", "/run/epiclb/epiclb.sock"])],
        ),
        (
            "a control character in a path",
            with("bpffs_dir = «\"/sys/\\u0000\""),
            &[error("bpffs_dir", &["control character"])],
        ),
        ("a name with a space", with("name = «\"lb 1\""), &[error("name", &["a space", "\"lb_1\""])]),
        ("too few flows", with("[limits]\nflows = «1_023"), &[error("limits.flows", &["1023", "1024 to 16777216"])]),
        ("too many pins", with("[limits]\npins = «16_777_217"), &[error("limits.pins", &["out of range"])]),
        (
            "too many half open",
            with("[limits]\nhalf_open = «99999999999999999999"),
            &[error("limits.half_open", &["more than 64 bits hold", "4194304"])],
        ),
        ("a fraction", with("[limits]\npins = «1e6"), &[error("limits.pins", &["a number with a fraction"])]),
        ("a name as snat address", with("snat = [«\"lb1\"]"), &[error("snat[0]", &["is a name"])]),
        (
            "a loopback snat address",
            with("snat = [«\"127.0.0.1\"]"),
            &[error("snat[0]", &["loopback", "snat address"])],
        ),
        ("a snat address twice", with("snat = [\"10.9.9.9\", «\"10.9.9.9\"]"), &[error("snat[1]", &["listed twice"])]),
        (
            "a snat address that is a VIP",
            with("snat = [«\"10.0.0.1\"]"),
            &[error("snat[0]", &["the address of the VIP \"A\"", "leave `snat` out"])],
        ),
        (
            "a snat address that is a RIP",
            with("snat = [«\"10.0.1.1\"]"),
            &[error("snat[0]", &["the address of a RIP"])],
        ),
        (
            "no snat address of the VIP's family",
            with("snat = [«\"2001:db8::1\"]"),
            &[error("snat[0]", &["no IPv4 address", "the VIP \"A\"", "add an IPv4 address"])],
        ),
    ];
    for (sentence, node, expected) in cases {
        assert_problems(sentence, node, SERVICES, expected);
    }
}

#[test]
fn each_mistake_in_the_layout_of_services_toml_is_named() {
    let cases: &[(&str, String, &[Expected])] = &[
        ("no VIP at all", "«# nothing\n".to_owned(), &[warning("", &["no VIP", "add [[vip]]"])]),
        ("an empty file", "«".to_owned(), &[warning("", &["no VIP"])]),
        ("an empty list of VIPs", "«vip = []\n".to_owned(), &[warning("", &["no VIP"])]),
        (
            "single brackets",
            "«[vip]\nlabel = \"A\"\n".to_owned(),
            &[error("vip", &["write [[vip]], with double brackets"])],
        ),
        ("a VIP that is a number", "vip = «7\n".to_owned(), &[error("vip", &["a number", "[[vip]]"])]),
        ("a list of numbers as VIPs", "vip = [«7]\n".to_owned(), &[error("vip[0]", &["a number", "[[vip]]"])]),
        (
            "a misspelt table",
            format!("[[«vipp]]\n{SERVICES}"),
            &[error("vipp", &["unknown key", "did you mean `vip`"])],
        ),
        ("a RIP outside a VIP", format!("[[«rip]]\nlabel = \"x\"\n{SERVICES}"), &[error("rip", &["[[vip.rip]]"])]),
        ("a key of the other file", format!("«snat = []\n{SERVICES}"), &[error("snat", &["belongs into node.toml"])]),
        (
            "a misspelt key",
            vip_with("«persistance_minutes = 60"),
            &[error("vip[0].persistance_minutes", &["did you mean `persistence`", "Known here:"])],
        ),
        ("port instead of ports", vip_with("«port = 443"), &[error("vip[0].port", &["did you mean `ports`", "[443]"])]),
        (
            "a VIP without anything",
            "«««[[vip]]\n[[vip.rip]]\nlabel = \"x\"\naddress = \"10.0.1.1\"\n".to_owned(),
            &[
                error("vip[0].label", &["missing"]),
                error("vip[0].address", &["missing", "address = \"192.168.85.150\""]),
                error("vip[0].ports", &["missing", "ports = [443]"]),
            ],
        ),
    ];
    for (sentence, services, expected) in cases {
        assert_problems(sentence, NODE, services, expected);
    }
}

#[test]
fn each_mistake_in_a_label_is_named() {
    let label = |label: &str| SERVICES.replace("\"A\"", &format!("«{label}"));
    let cases: &[(&str, String, &[&str])] = &[
        ("an empty label", label("\"\""), &["empty"]),
        ("a slash", label("\"A/B\""), &["\"/\"", "\"A_B\""]),
        ("a space", label("\"A B\""), &["a space", "\"A_B\""]),
        ("like an option", label("\"-A\""), &["starts with"]),
        ("an umlaut", label("\"Ä\""), &["the character \"Ä\""]),
        ("too long", label(&format!("\"{}\"", "x".repeat(64))), &["64 bytes", "63"]),
        ("a number", label("5"), &["a number", "in quotes"]),
    ];
    for (sentence, services, words) in cases {
        let expected = Expected { severity: Severity::Error, key: "vip[0].label", words: words.to_vec().leak() };
        assert_problems(sentence, NODE, services, &[expected]);
    }
}

#[test]
fn each_mistake_in_an_address_is_named() {
    let cases: &[(&str, &'static [&'static str])] = &[
        ("10.0.0.300", &["not an IP address", "0 to 255"]),
        ("010.0.0.1", &["\"10.0.0.1\"", "leading zeros"]),
        ("lb.hospital.org", &["is a name", "getent hosts lb.hospital.org"]),
        ("10.0.0.1/24", &["prefix length", "\"10.0.0.1\""]),
        ("fe80::1%eth0", &["zone"]),
        ("10.0.0.1:443", &["has a port", "\"10.0.0.1\""]),
        ("[2001:db8::1]:443", &["has a port", "\"2001:db8::1\""]),
        ("[2001:db8::1]", &["brackets", "\"2001:db8::1\""]),
        (" 10.0.0.1", &["spaces", "\"10.0.0.1\""]),
        ("a b", &["not an IP address", "2001:db8::150"]),
        ("", &["not an IP address"]),
        ("10.0.0", &["not an IP address"]),
        ("::ffff:10.0.0.1", &["write \"10.0.0.1\""]),
        ("127.0.0.1", &["loopback", "can't be a VIP"]),
        ("::1", &["loopback"]),
        ("0.0.0.0", &["unspecified"]),
        ("0.0.0.1", &["this network"]),
        ("::", &["unspecified"]),
        ("224.0.0.5", &["multicast"]),
        ("ff02::1", &["multicast"]),
        ("255.255.255.255", &["broadcast"]),
        ("fe80::1", &["link-local"]),
        ("169.254.1.1", &["link-local"]),
        ("240.0.0.1", &["reserved"]),
    ];
    for (address, words) in cases {
        let services = vip_at(&format!("«\"{address}\""));
        assert_problems(address, NODE, &services, &[error("vip[0].address", words)]);
    }
}

#[test]
fn each_mistake_in_a_list_of_ports_is_named() {
    let cases: &[(&str, String, &[Expected])] = &[
        ("no port", ports("«[]"), &[error("vip[0].ports", &["empty", "ports = [443]"])]),
        ("a port without its list", ports("«443"), &[error("vip[0].ports", &["a number", "ports = [443"])]),
        (
            "ports out of range",
            ports("[«0, «70000, «-1]"),
            &[
                error("vip[0].ports[0]", &["port 0 is out of range", "1 to 65535"]),
                error("vip[0].ports[1]", &["port 70000"]),
                error("vip[0].ports[2]", &["port -1"]),
            ],
        ),
        (
            "ports of a wrong shape",
            ports("[«\"443\", «\"http\", «\"8000-\", «443.5]"),
            &[
                error("vip[0].ports[0]", &["no quotes", "write 443"]),
                error("vip[0].ports[1]", &["not a port"]),
                error("vip[0].ports[2]", &["not a range"]),
                error("vip[0].ports[3]", &["fraction"]),
            ],
        ),
        ("a range backwards", ports("[«\"8010-8000\"]"), &[error("vip[0].ports[0]", &["backwards", "\"8000-8010\""])]),
        ("a range from 0", ports("[«\"0-80\"]"), &[error("vip[0].ports[0]", &["not a range"])]),
        ("a port twice", ports("[8443, «8443]"), &[error("vip[0].ports[1]", &["8443 is already", "once"])]),
        ("ranges that overlap", ports("[\"8000-8010\", «\"8010-8020\"]"), &[error("vip[0].ports[1]", &["8010-8020"])]),
        (
            "a range around a port given before",
            ports("[8005, «\"8000-8010\"]"),
            &[error("vip[0].ports[1]", &["8000-8010 is already"])],
        ),
    ];
    for (sentence, services, expected) in cases {
        assert_problems(sentence, NODE, services, expected);
    }
}

#[test]
fn each_mistake_in_a_mode_is_named() {
    let cases: &[(&str, String, &[Expected])] = &[
        (
            "an unknown protocol",
            vip_with("protocol = «\"tpc\""),
            &[error("vip[0].protocol", &["did you mean \"tcp\"", "\"udp\""])],
        ),
        ("an unknown mode", vip_with("mode = «\"snta\""), &[error("vip[0].mode", &["did you mean \"snat\""])]),
        ("nat", vip_with("mode = «\"nat\""), &[error("vip[0].mode", &["\"nat\" is not built yet", "\"snat\""])]),
        ("tunnel", vip_with("mode = «\"tunnel\""), &[error("vip[0].mode", &["not built yet"])]),
        (
            "dr with another port",
            vip_with("mode = «\"dr\"") + "port = «9443\n",
            &[
                error("vip[0].mode", &["not built yet"]),
                error("vip[0].rip[0].port", &["can't change the port", "8443", "9443", "mode = \"snat\""]),
            ],
        ),
        (
            "dr with the same port",
            vip_with("mode = «\"dr\"") + "port = 8443\n",
            &[error("vip[0].mode", &["not built yet"])],
        ),
        (
            "dr, several ports, one RIP port",
            (vip_with("mode = «\"dr\"") + "port = «8443\n").replace("[8443]", "[8443, 9443]"),
            &[error("vip[0].mode", &["not built yet"]), error("vip[0].rip[0].port", &["8443, 9443", "delete `port`"])],
        ),
        (
            "dr among the defaults",
            format!("[defaults]\nmode = «\"dr\"\n{SERVICES}port = «9443\n"),
            &[error("defaults.mode", &["not built yet"]), error("vip[0].rip[0].port", &["can't change"])],
        ),
        (
            "dr and another family",
            vip_with("mode = «\"dr\"").replace("\"10.0.1.1\"", "«\"2001:db8::1\""),
            &[error("vip[0].mode", &["not built yet"]), error("vip[0].rip[0].address", &["IPv6 RIP", "IPv4 VIP"])],
        ),
    ];
    for (sentence, services, expected) in cases {
        assert_problems(sentence, NODE, services, expected);
    }
}

#[test]
fn each_mistake_in_a_persistence_is_named() {
    let cases: &[(&str, &'static [&'static str])] = &[
        ("3600", &["a number", "with its unit", "persistence = \"60m\""]),
        ("false", &["false", "\"off\""]),
        ("\"60\"", &["no unit", "\"60m\""]),
        ("\"60M\"", &["M is a month", "7days"]),
        ("\"long\"", &["is not a time", "\"500ms\""]),
        ("\"\"", &["is not a time"]),
        ("\"-5m\"", &["is not a time"]),
        ("\"500ms\"", &["out of range", "\"1s\""]),
        ("\"0s\"", &["out of range"]),
        ("\"8d\"", &["8days", "out of range"]),
        ("\"99999999999999999999h\"", &["is not a time"]),
        ("\"18446744073709551615s 1000ms\"", &["is not a time"]),
    ];
    for (persistence, words) in cases {
        let services = vip_with(&format!("persistence = «{persistence}"));
        assert_problems(persistence, NODE, &services, &[error("vip[0].persistence", words)]);
    }
}

#[test]
fn each_mistake_in_a_redirect_is_named() {
    let redirect = |lines: &str| {
        let head = "[[vip]]\nlabel = \"R\"\naddress = \"10.0.0.1\"\nports = [80]\nforce_https = true\n";
        format!("{head}hosts = [\"a.org\"]\n{lines}\n")
    };
    let rip = "«[[vip.rip]]\nlabel = \"x\"\naddress = \"10.0.1.1\"";
    let cases: &[(&str, String, &[Expected])] = &[
        (
            "hosts on a balanced VIP",
            vip_with("hosts = «[\"a.org\"]"),
            &[error("vip[0].hosts", &["this VIP is none", "force_https = true"])],
        ),
        (
            "a quoted force_https",
            vip_with("force_https = «\"yes\""),
            &[error("vip[0].force_https", &["true or false"])],
        ),
        (
            "no RIPs",
            "«[[vip]]\nlabel = \"A\"\naddress = \"10.0.0.1\"\nports = [1]\n".to_owned(),
            &[error("vip[0]", &["no RIPs", "[[vip.rip]]", "force_https"])],
        ),
        (
            "RIPs and settings of a balanced VIP",
            redirect(&format!("mode = «\"snat\"\npersistence = «\"off\"\ncheck = «{{ kind = \"tcp\" }}\n{rip}")),
            &[
                error("vip[0].mode", &["redirects", "delete it"]),
                error("vip[0].persistence", &["redirects"]),
                error("vip[0].check", &["redirects"]),
                error("vip[0].rip[0]", &["no RIPs", "delete the RIPs"]),
            ],
        ),
        ("UDP", redirect("protocol = «\"udp\""), &[error("vip[0].protocol", &["HTTP, which is TCP"])]),
        (
            "port 443",
            redirect("").replace("[80]", "[80, «443]"),
            &[error("vip[0].ports[1]", &["back to itself", "ports = [80]"])],
        ),
        (
            "many ports",
            redirect("").replace("[80]", "[«\"1000-1064\"]"),
            &[error("vip[0].ports[0]", &["65 ports", "64"])],
        ),
        (
            "no hosts",
            redirect("").replace("force_https = true", "force_https = «true").replace("hosts = [\"a.org\"]\n", ""),
            &[warning("vip[0].force_https", &["without `hosts`", "hosts = [\"mychart.example.org\"]"])],
        ),
    ];
    for (sentence, services, expected) in cases {
        assert_problems(sentence, NODE, services, expected);
    }
    let hosts: &[(&str, &'static [&'static str])] = &[
        ("*", &["pattern"]),
        ("*.example.org", &["pattern"]),
        ("", &["empty"]),
        ("a b", &["not a host name"]),
        ("x\\r\\ny", &["not a host name", "\\r"]),
        ("a.org:443", &["has a port", "\"a.org\""]),
        ("[2001:db8::1]:443", &["has a port", "\"[2001:db8::1]\""]),
        ("https://a.org/x", &["URL", "write \"a.org\""]),
        ("a.org.", &["ends in a dot"]),
        ("a..org", &["two dots"]),
        ("my_chart.org", &["\"_\" can't"]),
        ("user@a.org", &["\"@\" can't"]),
        ("müller.org", &["xn--"]),
        ("a-.org", &["dash"]),
        ("10.0.0.300", &["nor an IPv4 address"]),
    ];
    for (host, words) in hosts {
        let services = redirect("").replace("\"a.org\"", &format!("«\"{host}\""));
        assert_problems(host, NODE, &services, &[error("vip[0].hosts[0]", words)]);
    }
    let twice = redirect("").replace("\"a.org\"", "\"a.org\", «\"A.ORG\"");
    assert_problems("a host twice", NODE, &twice, &[error("vip[0].hosts[1]", &["listed twice"])]);
}

#[test]
fn each_mistake_in_a_check_is_named() {
    let check = |check: &str| vip_with(&format!("check = {check}"));
    let cases: &[(&str, String, &[Expected])] = &[
        ("a word", check("«\"tcp\""), &[error("vip[0].check", &["a table", "{ kind = \"tcp\""])]),
        ("an unknown kind", check("{ kind = «\"http\" }"), &[error("vip[0].check.kind", &["\"tcp\", \"none\""])]),
        (
            "an unknown key",
            check("{ «intervall = \"2s\" }"),
            &[error("vip[0].check.intervall", &["did you mean `interval`"])],
        ),
        (
            "a number",
            check("{ interval = «2 }"),
            &[error("vip[0].check.interval", &["with its unit", "interval = \"2s\""])],
        ),
        (
            "too fast",
            check("{ interval = «\"99ms\", timeout = \"50ms\" }"),
            &[error("vip[0].check.interval", &["99ms", "\"100ms\" to \"1h\""])],
        ),
        ("too slow", check("{ interval = «\"61m\" }"), &[error("vip[0].check.interval", &["1h 1m", "out of range"])]),
        ("no time to answer", check("{ timeout = «\"0s\" }"), &[error("vip[0].check.timeout", &["out of range"])]),
        (
            "a timeout beyond the interval",
            check("{ interval = \"2s\", timeout = «\"3s\" }"),
            &[error("vip[0].check.timeout", &["timeout (3s)", "interval (2s)", "timeout = \"2s\" or less"])],
        ),
        (
            "an interval below the timeout of the defaults",
            format!("[defaults.check]\ntimeout = \"2s\"\n{}", check("{ interval = «\"1s\" }")),
            &[error("vip[0].check.interval", &["timeout (2s)", "interval (1s)"])],
        ),
        (
            "an interval below the built-in timeout",
            check("{ interval = «\"500ms\" }"),
            &[error("vip[0].check.interval", &["timeout = \"500ms\""])],
        ),
        (
            "a mistake among the defaults is told once",
            format!("[defaults.check]\ntimeout = «\"3s\"\n{}", check("{ rise = 1 }")),
            &[error("defaults.check.timeout", &["longer than the interval"])],
        ),
        ("rise 0", check("{ rise = «0 }"), &[error("vip[0].check.rise", &["1 to 100"])]),
        ("fall 101", check("{ fall = «101 }"), &[error("vip[0].check.fall", &["101", "1 to 100"])]),
        (
            "TCP checks of a UDP service",
            vip_with("protocol = \"udp\"\ncheck = { kind = «\"tcp\" }"),
            &[warning("vip[0].check.kind", &["checked over TCP", "kind = \"none\""])],
        ),
        (
            "TCP checks of a UDP service by default",
            vip_with("protocol = \"udp\"").replace("[[vip]]", "«[[vip]]"),
            &[warning("vip[0]", &["checked over TCP"])],
        ),
    ];
    for (sentence, services, expected) in cases {
        assert_problems(sentence, NODE, services, expected);
    }
}

#[test]
fn each_mistake_in_a_rip_is_named() {
    let with = |line: &str| format!("{SERVICES}{line}\n");
    let second = |lines: &str| format!("{SERVICES}[[vip.rip]]\n{lines}\n");
    let cases: &[(&str, String, &[Expected])] = &[
        (
            "single brackets",
            SERVICES.replace("[[vip.rip]]", "«[vip.rip]"),
            &[error("vip[0].rip", &["[[vip.rip]], with double"])],
        ),
        (
            "an empty list",
            "«[[vip]]\nlabel = \"A\"\naddress = \"10.0.0.1\"\nports = [1]\nrip = []\n".to_owned(),
            &[error("vip[0]", &["no RIPs", "[[vip.rip]]"])],
        ),
        (
            "nothing in it",
            format!("{SERVICES}««[[vip.rip]]\n"),
            &[error("vip[0].rip[1].label", &["missing"]), error("vip[0].rip[1].address", &["missing"])],
        ),
        ("a weight too large", with("weight = «257"), &[error("vip[0].rip[0].weight", &["257", "0 to 256"])]),
        ("a negative weight", with("weight = «-1"), &[error("vip[0].rip[0].weight", &["-1"])]),
        (
            "a quoted weight",
            with("weight = «\"100\""),
            &[error("vip[0].rip[0].weight", &["text in quotes", "weight = 100"])],
        ),
        (
            "only weights of 0",
            with("weight = «0"),
            &[error("vip[0].rip[0].weight", &["no client would be served", "1 to 256"])],
        ),
        ("port 0", with("port = «0"), &[error("vip[0].rip[0].port", &["1 to 65535"])]),
        ("ports instead of port", with("«ports = [443]"), &[error("vip[0].rip[0].ports", &["did you mean `port`"])]),
        (
            "a check of its own",
            with("«check = { kind = \"none\" }"),
            &[error("vip[0].rip[0].check", &["below [[vip]]"])],
        ),
        ("a name", rip_at("«\"srv1.hospital.org\""), &[error("vip[0].rip[0].address", &["is a name"])]),
        ("a loopback address", rip_at("«\"127.0.0.1\""), &[error("vip[0].rip[0].address", &["can't be a RIP"])]),
        (
            "another family",
            rip_at("«\"2001:db8::1\""),
            &[error("vip[0].rip[0].address", &["IPv6 RIP", "IPv4 VIP", "second VIP"])],
        ),
        (
            "the VIP's address",
            rip_at("«\"10.0.0.1\""),
            &[error("vip[0].rip[0].address", &["the VIP \"A\"", "circles"])],
        ),
        (
            "an address of this machine",
            rip_at("«\"192.168.85.10\""),
            &[warning("vip[0].rip[0].address", &["this machine"])],
        ),
        (
            "a label twice",
            second("label = «\"A1\"\naddress = \"10.0.1.2\""),
            &[error("vip[0].rip[1].label", &["two RIPs called \"A1\""])],
        ),
        (
            "a server twice",
            second("label = \"A2\"\naddress = «\"10.0.1.1\""),
            &[error("vip[0].rip[1].address", &["10.0.1.1 port 8443 twice"])],
        ),
        (
            "a server twice, once with the VIP's port",
            second("label = \"A2\"\nport = 8443\naddress = «\"10.0.1.1\""),
            &[error("vip[0].rip[1].address", &["twice among its RIPs"])],
        ),
    ];
    for (sentence, services, expected) in cases {
        assert_problems(sentence, NODE, services, expected);
    }
}

#[test]
fn vips_that_get_in_each_others_way_are_both_named() {
    let vip = |label: &str, address: &str, ports: &str, more: &str| {
        let rip = "rip = [{ label = \"s\", address = \"10.0.1.1\" }]";
        format!("[[vip]]\nlabel = {label}\naddress = \"{address}\"\nports = {ports}\n{more}\n{rip}\n")
    };
    let redirect = |ports: &str| {
        let hosts = "force_https = true\nhosts = [\"a.org\"]";
        format!("[[vip]]\nlabel = \"R\"\naddress = \"10.0.0.1\"\nports = {ports}\n{hosts}\n")
    };
    let a = |ports: &str| vip("\"A\"", "10.0.0.1", ports, "");
    let b = |ports: &str| vip("\"B\"", "10.0.0.1", ports, "");
    let cases: &[(&str, String, &[Expected])] = &[
        (
            "one label twice",
            a("[1]") + &vip("«\"A\"", "10.0.0.2", "[1]", ""),
            &[error("vip[1].label", &["two VIPs called \"A\""])],
        ),
        (
            "one port twice",
            a("[1, 2]") + &b("[3, «2]"),
            &[error("vip[1].ports[1]", &["\"B\" and \"A\" both want 10.0.0.1 TCP port 2"])],
        ),
        (
            "a range within a range",
            a("[\"5-9\"]") + &b("[«\"1-20\"]"),
            &[error("vip[1].ports[0]", &["\"B\" and \"A\"", "port 5-9"])],
        ),
        (
            "a wide range and several others within it",
            a("[\"1-100\"]") + &b("[«\"5-9\"]") + &vip("\"C\"", "10.0.0.1", "[«50]", ""),
            &[error("vip[1].ports[0]", &["\"B\" and \"A\""]), error("vip[2].ports[0]", &["\"C\" and \"A\""])],
        ),
        (
            "a redirect on the port of another VIP",
            a("[80]") + &redirect("[«80]"),
            &[error("vip[1].ports[0]", &["\"R\" and \"A\""])],
        ),
        (
            "TCP and UDP side by side",
            a("[1]") + &vip("\"B\"", "10.0.0.1", "[1]", "protocol = \"udp\"\ncheck = { kind = \"none\" }"),
            &[],
        ),
        (
            "a RIP that is another VIP",
            a("[1]").replace("\"10.0.1.1\"", "«\"10.0.0.2\"") + &vip("\"B\"", "10.0.0.2", "[1]", ""),
            &[error("vip[0].rip[0].address", &["the VIP \"B\""])],
        ),
        (
            "443 without a twin on 80",
            a("[«443]"),
            &[warning("vip[0].ports[0]", &["port 80 of 10.0.0.1", "label = \"A_redirect\"", "force_https = true"])],
        ),
        ("443 with its twin", a("[443]") + &redirect("[80]"), &[]),
        ("one RIP port for several VIP ports", a("[1, 2]").replace("\"s\"", "\"s\", port = 9"), &[]),
    ];
    for (sentence, services, expected) in cases {
        assert_problems(sentence, NODE, services, expected);
    }
}

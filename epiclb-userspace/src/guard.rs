//! The VIP guard: an nftables table that keeps the host's own stack from answering for a VIP.
//!
//! While the XDP program forwards, VIP traffic never gets here. When it is missing, if only for the milliseconds of a
//! repair, the kernel owns the VIP and would reset every connection it does not know. The guard drops such packets
//! instead, so that clients and servers merely retransmit. It also makes VIPs default-deny whatever XDP lets through.
//!
//! Owns: the table's text ([`script`], pure), its installation through the `nft` program in one transaction, and reading
//! it back for the audit. Deliberately knows nothing of configuration and interfaces.
//!
//! * **Hook:** prerouting at priority `raw`. That is before a DNAT rule of a container runtime could answer in the VIP's
//!   name, before the packet could be routed out again on a host that forwards, and before conntrack, so that a flood of
//!   VIP traffic leaves no entries there. The table itself holds no conntrack expression, so it never switches conntrack
//!   on. Fragments are not reassembled there, unless something else has switched conntrack on: a
//!   fragmented ping of a VIP may go unanswered.
//! * **Loopback is exempt:** what this machine sends to its own VIPs arrives by `lo`.
//! * **ICMP errors pass**, for the redirect listeners' path MTU discovery. To accept only those that belong to a
//!   connection would take conntrack; the kernel's stack makes that check itself.
//! * **The namespace** is the calling thread's: the child process inherits it. Calls block for some ten milliseconds.

use std::{
    collections::BTreeSet,
    fmt::{Display, Write as _},
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
};

use serde_json::Value;

/// The table's name, in the family `inet`.
pub const TABLE: &str = "epiclb";

/// What the guard does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    guarded: BTreeSet<IpAddr>,
    redirects: BTreeSet<SocketAddr>,
}

impl Spec {
    /// Guards `addresses`. `redirects` are the sockets of the daemon's listeners. An address that the host has for itself
    /// must not be among them: replies to the host's own connections arrive there.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>, redirects: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { guarded: addresses.into_iter().collect(), redirects: redirects.into_iter().collect() }
    }
}

/// What the kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// No table of that name.
    Missing,
    /// A table whose rules are not those of this version: somebody has edited it, or an older epiclb has left it.
    Altered,
    /// The table of this specification.
    Intact(Spec),
}

/// The guard could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `nft` program.
    #[error("the program `nft` was not found: install the package `nftables`")]
    NoProgram,
    /// `nft` could not be run or talked to.
    #[error("running `nft`")]
    Io(#[from] io::Error),
    /// `nft` refused; its own words.
    #[error("`nft` failed: {0}")]
    Refused(String),
    /// `nft` printed something else than what it documents.
    #[error("the output of `nft --json` was not understood")]
    Output(#[from] serde_json::Error),
}

/// Puts the guard of `spec` in place of whatever guard there is, in one transaction: no packet meets half of it.
pub fn install(spec: &Spec) -> Result<(), Error> {
    run("nft", &["-f", "-"], &script(spec)).map(drop)
}

/// Removes the guard, if there is one.
pub fn remove() -> Result<(), Error> {
    run("nft", &["-f", "-"], &clear()).map(drop)
}

/// Reads the guard back from the kernel.
pub fn installed() -> Result<Installed, Error> {
    match run("nft", &["--json", "list", "table", "inet", TABLE], "") {
        Ok(listing) => Ok(parse(&serde_json::from_str(&listing)?)),
        Err(Error::Refused(message)) if message.contains("No such file or directory") => Ok(Installed::Missing),
        Err(e) => Err(e),
    }
}

/// The input of `nft -f` that installs `spec`.
pub fn script(spec: &Spec) -> String {
    let mut text = clear();
    writeln!(text, "table inet {TABLE} {{").expect("a String takes everything");
    set(&mut text, "guarded4", "ipv4_addr", spec.guarded.iter().filter(|ip| ip.is_ipv4()));
    set(&mut text, "guarded6", "ipv6_addr", spec.guarded.iter().filter(|ip| ip.is_ipv6()));
    let redirect = |s: &SocketAddr| format!("{} . {}", s.ip(), s.port());
    let (redirects4, redirects6): (Vec<_>, Vec<_>) = spec.redirects.iter().partition(|s| s.is_ipv4());
    set(&mut text, "redirects4", "ipv4_addr . inet_service", redirects4.into_iter().map(redirect));
    set(&mut text, "redirects6", "ipv6_addr . inet_service", redirects6.into_iter().map(redirect));
    for (chain, hook) in CHAINS {
        writeln!(text, "\tchain {chain} {{").expect("a String takes everything");
        if let Some(hook) = hook {
            writeln!(text, "\t\ttype filter hook {hook} priority raw; policy accept;")
                .expect("a String takes everything");
        }
        for (_, rule, comment) in RULES.iter().filter(|(of, ..)| *of == chain) {
            writeln!(text, "\t\t{rule} comment \"{comment}\"").expect("a String takes everything");
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

/// Each chain with its hook.
const CHAINS: [(&str, Option<&str>); 2] = [("arriving", Some("prerouting")), ("guarded", None)];

/// Each rule: its chain, its text, and the comment by which it is recognised when it is read back. `nft` prints a rule
/// differently from version to version, but a comment as it was.
const RULES: [(&str, &str, &str); 9] = [
    ("arriving", "iif lo accept", "from this machine"),
    ("arriving", "ip daddr @guarded4 goto guarded", "to a guarded IPv4 address"),
    ("arriving", "ip6 daddr @guarded6 goto guarded", "to a guarded IPv6 address"),
    ("guarded", "ip daddr . tcp dport @redirects4 accept", "IPv4 redirect listeners"),
    ("guarded", "ip6 daddr . tcp dport @redirects6 accept", "IPv6 redirect listeners"),
    (
        "guarded",
        "icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept",
        "IPv4 ping and errors",
    ),
    ("guarded", "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept", "IPv6 neighbours"),
    (
        "guarded",
        "icmpv6 type { echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept",
        "IPv6 ping and errors",
    ),
    ("guarded", "counter drop", "everything else"),
];

/// Removes the table, and is no error if there is none: it is added first.
fn clear() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn set(text: &mut String, name: &str, kind: &str, elements: impl Iterator<Item = impl Display>) {
    writeln!(text, "\tset {name} {{\n\t\ttype {kind}").expect("a String takes everything");
    let elements: Vec<_> = elements.map(|element| format!("\t\t\t{element}")).collect();
    if !elements.is_empty() {
        writeln!(text, "\t\telements = {{\n{}\n\t\t}}", elements.join(",\n")).expect("a String takes everything");
    }
    text.push_str("\t}\n");
}

/// Understands `nft --json list table` (libnftables-json(5)).
fn parse(listing: &Value) -> Installed {
    let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_kind = |kind: &'static str| objects.iter().filter_map(move |object| object.get(kind));

    let hooks = of_kind("chain").map(|chain| (chain["name"].as_str(), chain["hook"].as_str()));
    let rules = of_kind("rule").map(|rule| (rule["chain"].as_str(), rule["comment"].as_str()));
    let awake = of_kind("table").all(|table| table.get("flags").is_none());
    if !awake
        || !hooks.eq(CHAINS.map(|(chain, hook)| (Some(chain), hook)))
        || !rules.eq(RULES.map(|(chain, _, comment)| (Some(chain), Some(comment))))
    {
        return Installed::Altered;
    }

    let elements = |name: &'static str| {
        of_kind("set")
            .filter(move |set| set["name"] == name)
            .flat_map(|set| set["elem"].as_array().map(Vec::as_slice).unwrap_or_default())
    };
    let guarded = elements("guarded4").chain(elements("guarded6")).map(address).collect();
    let redirects = elements("redirects4").chain(elements("redirects6")).map(socket).collect();
    match (guarded, redirects) {
        (Some(guarded), Some(redirects)) => Installed::Intact(Spec { guarded, redirects }),
        _ => Installed::Altered,
    }
}

fn address(element: &Value) -> Option<IpAddr> {
    element.as_str()?.parse().ok()
}

fn socket(element: &Value) -> Option<SocketAddr> {
    let pair = &element["concat"];
    Some(SocketAddr::new(address(&pair[0])?, pair[1].as_u64()?.try_into().ok()?))
}

/// Runs `nft` (the program is named for the tests' sake) and gives back what it prints.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| if e.kind() == io::ErrorKind::NotFound { Error::NoProgram } else { Error::Io(e) })?;
    // It reads all of its input before it prints anything, and a child that has died early says why on stderr.
    let written = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(Error::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    written?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Spec {
        let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<BTreeSet<IpAddr>>();
        Spec::new(
            ips(&["192.0.2.150", "fd00::150", "192.0.2.99"]),
            ["192.0.2.150:80", "[fd00::150]:80"].map(|s| s.parse().unwrap()),
        )
    }

    #[test]
    fn the_script_replaces_the_table_and_names_every_address() {
        assert_eq!(
            script(&spec()),
            r#"add table inet epiclb
delete table inet epiclb
table inet epiclb {
	set guarded4 {
		type ipv4_addr
		elements = {
			192.0.2.99,
			192.0.2.150
		}
	}
	set guarded6 {
		type ipv6_addr
		elements = {
			fd00::150
		}
	}
	set redirects4 {
		type ipv4_addr . inet_service
		elements = {
			192.0.2.150 . 80
		}
	}
	set redirects6 {
		type ipv6_addr . inet_service
		elements = {
			fd00::150 . 80
		}
	}
	chain arriving {
		type filter hook prerouting priority raw; policy accept;
		iif lo accept comment "from this machine"
		ip daddr @guarded4 goto guarded comment "to a guarded IPv4 address"
		ip6 daddr @guarded6 goto guarded comment "to a guarded IPv6 address"
	}
	chain guarded {
		ip daddr . tcp dport @redirects4 accept comment "IPv4 redirect listeners"
		ip6 daddr . tcp dport @redirects6 accept comment "IPv6 redirect listeners"
		icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept comment "IPv4 ping and errors"
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept comment "IPv6 neighbours"
		icmpv6 type { echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept comment "IPv6 ping and errors"
		counter drop comment "everything else"
	}
}
"#
        );
    }

    #[test]
    fn an_empty_set_has_no_elements_line() {
        assert!(!script(&Spec::default()).contains("elements"));
    }

    #[test]
    fn a_snat_address_that_is_the_hosts_own_is_not_guarded() {
        let spec = spec();
        assert!(!spec.guarded.contains(&"192.0.2.2".parse().unwrap()));
        assert!(spec.guarded.contains(&"192.0.2.99".parse().unwrap()));
    }

    fn listing() -> Value {
        let mut objects = vec![
            json!({"metainfo": {"json_schema_version": 1}}),
            json!({"table": {"family": "inet", "name": "epiclb", "handle": 2}}),
            json!({"set": {"name": "guarded4", "elem": ["192.0.2.99", "192.0.2.150"]}}),
            json!({"set": {"name": "guarded6", "elem": ["fd00::150"]}}),
            json!({"set": {"name": "redirects4", "elem": [{"concat": ["192.0.2.150", 80]}]}}),
            json!({"set": {"name": "redirects6", "elem": [{"concat": ["fd00::150", 80]}]}}),
        ];
        objects.extend(CHAINS.map(|(name, hook)| match hook {
            Some(hook) => json!({"chain": {"name": name, "hook": hook, "policy": "accept"}}),
            None => json!({"chain": {"name": name}}),
        }));
        objects.extend(RULES.map(|(chain, _, comment)| json!({"rule": {"chain": chain, "comment": comment}})));
        json!({ "nftables": objects })
    }

    #[test]
    fn a_listing_is_read_back_as_the_spec_that_made_it() {
        assert_eq!(parse(&listing()), Installed::Intact(spec()));
    }

    #[test]
    fn a_missing_program_names_the_package_and_a_failing_one_is_quoted() {
        let error = run("no-such-nft", &[], "").unwrap_err();
        assert!(error.to_string().contains("install the package `nftables`"), "{error}");
        // It fails before it has read all of its input.
        let error = run("sh", &["-c", "echo no such luck >&2; exit 1"], &"x".repeat(1 << 20)).unwrap_err();
        assert_eq!(error.to_string(), "`nft` failed: no such luck");
    }

    #[test]
    fn a_table_that_somebody_edited_is_altered() {
        let altered = |edit: &dyn Fn(&mut Vec<Value>)| {
            let mut listing = listing();
            edit(listing["nftables"].as_array_mut().unwrap());
            assert_eq!(parse(&listing), Installed::Altered);
        };
        altered(&|objects| drop(objects.pop()));
        altered(&|objects| objects.push(json!({"rule": {"chain": "guarded", "comment": null}})));
        altered(&|objects| objects[1] = json!({"table": {"flags": "dormant"}}));
        altered(&|objects| objects[2] = json!({"set": {"name": "guarded4", "elem": [{"prefix": {}}]}}));
        assert_eq!(parse(&json!({})), Installed::Altered);
    }
}

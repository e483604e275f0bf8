//! What was typed: the keys of both files with their types checked, and nothing else.

use super::{
    problem::{Place, Problems},
    table::{At, Field, Scalar, Table, Wanted},
};

const TEXT: Wanted = Wanted { what: "a name in quotes", example: "\"MyChart\"" };
const ADDRESS: Wanted = Wanted { what: "an IP address in quotes", example: "\"192.168.85.150\"" };
const PATH: Wanted = Wanted { what: "a path in quotes", example: "\"/var/lib/epiclb\"" };
const PORTS: Wanted = Wanted { what: "a list of ports and ranges of ports", example: "[443, \"8000-8010\"]" };
const PORT: Wanted = Wanted { what: "a port number without quotes", example: "8443" };
const COUNT: Wanted = Wanted { what: "a whole number without quotes", example: "3" };
const ENTRIES: Wanted = Wanted { what: "a number of entries without quotes", example: "262_144" };
const WEIGHT: Wanted = Wanted { what: "a whole number without quotes", example: "100" };
const TIME: Wanted = Wanted { what: "a time with its unit, in quotes", example: "\"2s\"" };
const PERSISTENCE: Wanted = Wanted { what: "a time with its unit or \"off\", in quotes", example: "\"60m\"" };
const CHECK: Wanted =
    Wanted { what: "a table", example: "{ kind = \"tcp\", interval = \"2s\", timeout = \"1s\", rise = 2, fall = 3 }" };

/// `node.toml`.
pub(super) struct Node {
    pub(super) root: Place,
    pub(super) name: Field<String>,
    pub(super) interfaces: Field<Vec<At<String>>>,
    pub(super) xdp_mode: Field<String>,
    pub(super) snat: Field<Vec<At<String>>>,
    pub(super) socket: Field<String>,
    pub(super) state_dir: Field<String>,
    pub(super) bpffs_dir: Field<String>,
    pub(super) log_level: Field<String>,
    pub(super) log_client_addresses: Field<bool>,
    pub(super) limits: Limits,
}

/// `[limits]`.
pub(super) struct Limits {
    pub(super) flows: Field<i64>,
    pub(super) pins: Field<i64>,
    pub(super) half_open: Field<i64>,
}

/// `services.toml`.
pub(super) struct Services {
    pub(super) root: Place,
    pub(super) defaults: Defaults,
    pub(super) vips: Vec<Vip>,
    /// Whether there is something called `vip`, be it right or wrong.
    pub(super) has_vip: bool,
}

/// `[defaults]`: what a VIP that doesn't say otherwise gets.
pub(super) struct Defaults {
    pub(super) protocol: Field<String>,
    pub(super) mode: Field<String>,
    pub(super) persistence: Field<String>,
    pub(super) check: Check,
}

/// `[[vip]]`.
pub(super) struct Vip {
    /// The header.
    pub(super) place: Place,
    pub(super) label: Field<String>,
    pub(super) address: Field<String>,
    pub(super) ports: Field<Vec<At<Scalar>>>,
    pub(super) protocol: Field<String>,
    pub(super) mode: Field<String>,
    pub(super) persistence: Field<String>,
    pub(super) check: Check,
    pub(super) force_https: Field<bool>,
    pub(super) hosts: Field<Vec<At<String>>>,
    pub(super) rips: Vec<Rip>,
    /// Whether there is something called `rip`, be it right or wrong.
    pub(super) has_rip: bool,
}

/// `check = { … }`.
pub(super) struct Check {
    /// Where it stands, if it does.
    pub(super) place: Option<Place>,
    pub(super) kind: Field<String>,
    pub(super) interval: Field<String>,
    pub(super) timeout: Field<String>,
    pub(super) rise: Field<i64>,
    pub(super) fall: Field<i64>,
}

/// `[[vip.rip]]`.
pub(super) struct Rip {
    /// The header.
    pub(super) place: Place,
    pub(super) label: Field<String>,
    pub(super) address: Field<String>,
    pub(super) port: Field<i64>,
    pub(super) weight: Field<i64>,
}

impl Node {
    pub(super) fn read(mut table: Table<'_>, problems: &mut Problems) -> Self {
        let p = problems;
        let node = Self {
            root: table.place.clone(),
            name: table.string("name", Wanted { example: "\"lb1\"", ..TEXT }, p),
            interfaces: table.strings(
                "interfaces",
                Wanted { what: "a list of interface names in quotes", example: "[\"eth0\"]" },
                p,
            ),
            xdp_mode: table.string("xdp_mode", Wanted { what: "a word in quotes", example: "\"auto\"" }, p),
            snat: table.strings(
                "snat",
                Wanted { what: "a list of IP addresses in quotes", example: "[\"192.168.85.11\"]" },
                p,
            ),
            socket: table.string("socket", Wanted { example: "\"/run/epiclb/epiclb.sock\"", ..PATH }, p),
            state_dir: table.string("state_dir", PATH, p),
            bpffs_dir: table.string("bpffs_dir", Wanted { example: "\"/sys/fs/bpf/epiclb\"", ..PATH }, p),
            log_level: table.string("log_level", Wanted { what: "a word in quotes", example: "\"info\"" }, p),
            log_client_addresses: table.boolean("log_client_addresses", p),
            limits: Limits::read(
                table.table("limits", Wanted { what: "a table", example: "{ flows = 262_144 }" }, p).typed(),
                p,
            ),
        };
        const THERE: &str = "this belongs into services.toml";
        let hints = [
            ("vip", THERE),
            ("defaults", THERE),
            ("rip", THERE),
            ("interface", "write interfaces = [\"eth0\"], a list"),
            ("flows", "write it below [limits]"),
            ("pins", "write it below [limits]"),
            ("half_open", "write it below [limits]"),
        ];
        table.finish(&hints, p);
        node
    }
}

impl Limits {
    fn read(table: Option<At<Table<'_>>>, problems: &mut Problems) -> Self {
        let Some(At { value: mut table, .. }) = table else {
            return Self { flows: Field::Absent, pins: Field::Absent, half_open: Field::Absent };
        };
        let limits = Self {
            flows: table.integer("flows", 1_024..=16_777_216, ENTRIES, problems),
            pins: table.integer("pins", 1_024..=16_777_216, ENTRIES, problems),
            half_open: table.integer("half_open", 1_024..=4_194_304, ENTRIES, problems),
        };
        table.finish(&[], problems);
        limits
    }
}

impl Services {
    pub(super) fn read(mut table: Table<'_>, problems: &mut Problems) -> Self {
        let root = table.place.clone();
        let wanted = Wanted { what: "a table", example: "{ persistence = \"60m\" }" };
        let defaults = Defaults::read(table.table("defaults", wanted, problems).typed(), problems);
        let has_vip = table.has("vip");
        let vips = table.tables("vip", "[[vip]]", problems);
        let vips = vips.into_iter().map(|table| Vip::read(table, problems)).collect();
        const THERE: &str = "this belongs into node.toml";
        let mut hints = vec![
            ("rip", "write [[vip.rip]] below the [[vip]] it belongs to"),
            ("check", "write it below [defaults] or below a [[vip]]"),
        ];
        let node_keys = [
            "name",
            "interfaces",
            "xdp_mode",
            "snat",
            "socket",
            "state_dir",
            "bpffs_dir",
            "log_level",
            "log_client_addresses",
            "limits",
        ];
        hints.extend(node_keys.map(|key| (key, THERE)));
        table.finish(&hints, problems);
        Self { root, defaults, vips, has_vip }
    }
}

impl Defaults {
    fn read(table: Option<At<Table<'_>>>, problems: &mut Problems) -> Self {
        let Some(At { value: mut table, .. }) = table else {
            return Self {
                protocol: Field::Absent,
                mode: Field::Absent,
                persistence: Field::Absent,
                check: Check::absent(),
            };
        };
        let defaults = Self {
            protocol: protocol(&mut table, problems),
            mode: mode(&mut table, problems),
            persistence: table.string("persistence", PERSISTENCE, problems),
            check: Check::read(&mut table, problems),
        };
        table.finish(&[("weight", "write it below each [[vip.rip]]; without it a RIP has 100")], problems);
        defaults
    }
}

impl Vip {
    fn read(mut table: Table<'_>, problems: &mut Problems) -> Self {
        let label = table.string("label", TEXT, problems);
        if let Field::Typed(label) = &label {
            table.set_name(shown(&label.value));
        }
        let name = table.place.name.clone();
        let has_rip = table.has("rip");
        let rips = table.tables("rip", "[[vip.rip]]", problems);
        let vip = Self {
            place: table.place.clone(),
            label,
            address: table.string("address", ADDRESS, problems),
            ports: table.scalars("ports", PORTS, problems),
            protocol: protocol(&mut table, problems),
            mode: mode(&mut table, problems),
            persistence: table.string("persistence", PERSISTENCE, problems),
            check: Check::read(&mut table, problems),
            force_https: table.boolean("force_https", problems),
            hosts: table.strings(
                "hosts",
                Wanted { what: "a list of host names in quotes", example: "[\"mychart.example.org\"]" },
                problems,
            ),
            rips: rips.into_iter().map(|table| Rip::read(table, name.as_deref(), problems)).collect(),
            has_rip,
        };
        table.finish(&[("port", "did you mean `ports`? Write ports = [443]")], problems);
        vip
    }
}

impl Rip {
    fn read(mut table: Table<'_>, vip: Option<&str>, problems: &mut Problems) -> Self {
        let label = table.string("label", Wanted { example: "\"MyChart_Srv_1\"", ..TEXT }, problems);
        match (vip, &label) {
            (Some(vip), Field::Typed(label)) => table.set_name(format!("{vip}/{}", shown(&label.value))),
            (Some(vip), _) => table.set_name(vip.to_owned()),
            (None, _) => {}
        }
        let rip = Self {
            place: table.place.clone(),
            label,
            address: table.string("address", Wanted { example: "\"192.168.85.200\"", ..ADDRESS }, problems),
            port: table.integer("port", 1..=65_535, PORT, problems),
            weight: table.integer("weight", 0..=256, WEIGHT, problems),
        };
        let whole_vip = "write it below [[vip]]; it holds for all RIPs of the VIP";
        let hints = [
            ("ports", "did you mean `port`? A RIP has one port, or none for the VIP's own"),
            ("check", whole_vip),
            ("mode", whole_vip),
            ("persistence", whole_vip),
            ("protocol", whole_vip),
        ];
        table.finish(&hints, problems);
        rip
    }
}

impl Check {
    pub(super) fn absent() -> Self {
        Self {
            place: None,
            kind: Field::Absent,
            interval: Field::Absent,
            timeout: Field::Absent,
            rise: Field::Absent,
            fall: Field::Absent,
        }
    }

    fn read(parent: &mut Table<'_>, problems: &mut Problems) -> Self {
        let mut table = match parent.table("check", CHECK, problems) {
            Field::Absent => return Self::absent(),
            Field::Wrong(place) => return Self { place: Some(place), ..Self::absent() },
            Field::Typed(at) => at.value,
        };
        let check = Self {
            place: Some(table.place.clone()),
            kind: table.string("kind", Wanted { what: "a word in quotes", example: "\"tcp\"" }, problems),
            interval: table.string("interval", TIME, problems),
            timeout: table.string("timeout", Wanted { example: "\"1s\"", ..TIME }, problems),
            rise: table.integer("rise", 1..=100, COUNT, problems),
            fall: table.integer("fall", 1..=100, COUNT, problems),
        };
        table.finish(&[("port", "a RIP is checked on its own port, or on the VIP's first")], problems);
        check
    }
}

fn protocol(table: &mut Table<'_>, problems: &mut Problems) -> Field<String> {
    table.string("protocol", Wanted { what: "a word in quotes", example: "\"tcp\"" }, problems)
}

fn mode(table: &mut Table<'_>, problems: &mut Problems) -> Field<String> {
    table.string("mode", Wanted { what: "a word in quotes", example: "\"snat\"" }, problems)
}

/// A label as the report names it: it may be too long or hold anything.
fn shown(label: &str) -> String {
    label.chars().take(63).flat_map(char::escape_debug).collect()
}

//! The text of single values: addresses, ports, times, names. Each either is one or says what to type instead.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use super::{
    problem::{Problems, quoted},
    table::{At, Scalar, did_you_mean, number},
};
use crate::model::PortRange;

/// Why a value is refused, and what would be accepted.
#[derive(Debug)]
pub(super) struct Wrong {
    message: String,
    help: String,
}

/// The value, or a problem at its place.
pub(super) fn accept<T, U>(
    at: &At<T>,
    read: impl FnOnce(&T) -> Result<U, Wrong>,
    problems: &mut Problems,
) -> Option<U> {
    match read(&at.value) {
        Ok(value) => Some(value),
        Err(Wrong { message, help }) => {
            problems.error(&at.place, message).help(help);
            None
        }
    }
}

fn wrong<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { message: message.into(), help: help.into() })
}

/// A unicast address that packets can be forwarded to or answered from. `role` is "VIP", "RIP" or "snat address".
pub(super) fn address(text: &str, role: &str) -> Result<IpAddr, Wrong> {
    let address = text.parse::<IpAddr>().or_else(|_| not_an_address(text))?;
    let kind = match address {
        IpAddr::V4(v4) => kind_of_v4(v4),
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4_mapped() {
                return wrong(
                    format!("{} is an IPv4 address in IPv6 clothing", quoted(text)),
                    format!("write \"{v4}\""),
                );
            }
            kind_of_v6(v6)
        }
    };
    match kind {
        None => Ok(address),
        Some(kind) => wrong(
            format!("{address} is {kind}; it can't be a {role}"),
            format!("write the unicast address that the {role} has in your network"),
        ),
    }
}

/// RFC 6890 and RFC 1112 section 4: what can't be the address of a server.
fn kind_of_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, 0, 0, 0] => Some("the unspecified address"),
        [0, ..] => Some("an address of \"this network\" (0.0.0.0/8)"),
        [127, ..] => Some("a loopback address"),
        [169, 254, ..] => Some("a link-local address"),
        [224..=239, ..] => Some("a multicast address"),
        [255, 255, 255, 255] => Some("the broadcast address"),
        [240..=255, ..] => Some("a reserved address (240.0.0.0/4)"),
        _ => None,
    }
}

/// RFC 4291 section 2.4.
fn kind_of_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address.is_unicast_link_local() {
        Some("a link-local address")
    } else {
        None
    }
}

/// Says what a text is that looks like an address to people only.
fn not_an_address(text: &str) -> Result<IpAddr, Wrong> {
    let shown = quoted(text);
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    if text.trim() != text && is_address(text.trim()) {
        return wrong(format!("{shown} has spaces around the address"), format!("write {}", quoted(text.trim())));
    }
    if let Some((address, _)) = text.split_once('/').filter(|(address, _)| is_address(address)) {
        return wrong(
            format!("{shown} has a prefix length"),
            format!("write one address, without it: {}", quoted(address)),
        );
    }
    if let Some((address, _)) = text.split_once('%').filter(|(address, _)| is_address(address)) {
        return wrong(
            format!("{shown} has a zone (what follows the %)"),
            format!("write an address that needs none; {address} is good on one link only"),
        );
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare != text && is_address(bare) {
        return wrong(format!("{shown} has brackets"), format!("write {}", quoted(bare)));
    }
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        let address = socket.ip();
        return wrong(format!("{shown} has a port"), format!("write \"{address}\", and the port under its own key"));
    }
    let octets: Vec<&str> = text.split('.').collect();
    let numbers = octets.iter().all(|octet| !octet.is_empty() && octet.bytes().all(|b| b.is_ascii_digit()));
    if numbers && octets.len() == 4 {
        let help = match octets.iter().map(|octet| octet.parse::<u8>()).collect::<Result<Vec<_>, _>>() {
            // Only leading zeros are left as a reason; other programs read them as octal.
            Ok(octets) => {
                format!(
                    "write \"{}\", without leading zeros",
                    Ipv4Addr::from([octets[0], octets[1], octets[2], octets[3]])
                )
            }
            Err(_) => "each of the four numbers is 0 to 255".to_owned(),
        };
        return wrong(format!("{shown} is not an IP address"), help);
    }
    if host_name(text).is_ok() && !numbers {
        return wrong(
            format!("{shown} is a name; names are not looked up here, because the answer may change or fail"),
            format!("write the IP address it stands for (`getent hosts {text}`)"),
        );
    }
    wrong(format!("{shown} is not an IP address"), "write one such as \"192.168.85.150\" or \"2001:db8::150\"")
}

/// A time with its unit, within a range.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, Wrong> {
    let show = |duration: &Duration| humantime::format_duration(*duration).to_string();
    let limits = format!("from \"{}\" to \"{}\"", show(range.start()), show(range.end()));
    let trimmed = text.trim();
    if !trimmed.is_empty() && trimmed.bytes().all(|byte| byte.is_ascii_digit()) {
        return wrong(
            format!("{} has no unit", quoted(text)),
            format!("write \"{trimmed}s\" or \"{trimmed}m\"; {limits}"),
        );
    }
    // humantime 2.4 panics at a sum just beyond 64 bits, as in "18446744073709551615s 1000ms". So many digits write every
    // time that any key takes, to the nanosecond, and end far below.
    const DIGITS: usize = 16;
    let few = text.bytes().filter(u8::is_ascii_digit).count() <= DIGITS;
    match few.then(|| humantime::parse_duration(text)) {
        Some(Ok(duration)) if range.contains(&duration) => Ok(duration),
        Some(Ok(duration)) => {
            // humantime's M is a month; people who mean minutes should see that.
            let month = if text.contains('M') { " (M is a month, m a minute)" } else { "" };
            wrong(
                format!("{} is {}, out of range{month}", quoted(text), show(&duration)),
                format!("write a time {limits}"),
            )
        }
        Some(Err(_)) | None => wrong(
            format!("{} is not a time", quoted(text)),
            format!("write it like \"500ms\", \"2s\" or \"60m\"; {limits}"),
        ),
    }
}

/// An element of `ports`: 443 or "8000-8010".
pub(super) fn ports(typed: &Scalar) -> Result<PortRange, Wrong> {
    const ACCEPTED: &str = "write a number from 1 to 65535, or a range in quotes such as \"8000-8010\"";
    match typed {
        Scalar::Integer(typed) => match port(*typed) {
            Some(port) => Ok(PortRange { first: port, last: port }),
            None => wrong(format!("port {} is out of range", number(*typed)), ACCEPTED),
        },
        Scalar::Text(text) => {
            if let Some(port) = text.trim().parse::<i64>().ok().and_then(port) {
                return wrong(format!("a single port has no quotes: {}", quoted(text)), format!("write {port}"));
            }
            let Some((first, last)) = text.split_once('-') else {
                return wrong(format!("{} is not a port or a range of ports", quoted(text)), ACCEPTED);
            };
            let end = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                digits.then(|| text.parse::<i64>().ok().and_then(port)).flatten()
            };
            match (end(first), end(last)) {
                (Some(first), Some(last)) if first <= last => Ok(PortRange { first, last }),
                (Some(first), Some(last)) => {
                    wrong(format!("the range {} runs backwards", quoted(text)), format!("write \"{last}-{first}\""))
                }
                _ => wrong(format!("{} is not a range of ports", quoted(text)), ACCEPTED),
            }
        }
    }
}

/// 1 to 65535.
pub(super) fn port(number: i64) -> Option<NonZeroU16> {
    u16::try_from(number).ok().and_then(NonZeroU16::new)
}

/// A VIP's, RIP's or node's name. The CLI joins two with a slash and takes them as arguments, so no slash, no space and
/// no leading dash.
pub(super) fn label(text: &str) -> Result<String, Wrong> {
    const LONGEST: usize = 63;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let help = "a name has 1 to 63 of a-z A-Z 0-9 _ - . and starts with none of - .";
    if text.is_empty() {
        return wrong("this name is empty", help);
    }
    if text.len() > LONGEST {
        return wrong(format!("this name has {} bytes; {LONGEST} is the most", text.len()), help);
    }
    if let Some(other) = text.chars().find(|c| !allowed(*c)) {
        let suggestion: String = text.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
        let suggestion = suggestion.trim_start_matches(['-', '.']);
        let what = match other {
            ' ' => "a space".to_owned(),
            other => format!("the character {}", quoted(&other.to_string())),
        };
        return wrong(
            format!("the name {} has {what} in it", quoted(text)),
            format!("write for instance {}; {help}", quoted(suggestion)),
        );
    }
    if text.starts_with(['-', '.']) {
        return wrong(format!("the name {} starts with {}", quoted(text), quoted(&text[..1])), help);
    }
    Ok(text.to_owned())
}

/// Where a redirect may send people: a host name (RFC 1123 section 2.1) in lower case, an IPv4 address, or an IPv6
/// address as it stands in a URL, in brackets (RFC 3986 section 3.2.2). No port.
pub(super) fn host(text: &str) -> Result<String, Wrong> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(v6) = bare.parse::<Ipv6Addr>() {
        return Ok(format!("[{v6}]"));
    }
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        return Ok(v4.to_string());
    }
    let shown = quoted(text);
    if text.contains('*') {
        return wrong(
            format!("{shown} is a pattern, not a host name"),
            "write every name out, for instance \"mychart.example.org\"",
        );
    }
    if let Some((_, rest)) = text.split_once("://") {
        let name = rest.split(['/', ':']).next().unwrap_or_default();
        return wrong(format!("{shown} is a URL, not a host name"), format!("write {}", quoted(name)));
    }
    if let Some((name, port)) = text.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
        // One port: of a hundred thousand colons each would lead a call deeper.
        && (!name.contains(':') || name.ends_with(']'))
        && host(name).is_ok()
    {
        return wrong(format!("{shown} has a port"), format!("write {}; HTTPS is on port 443", quoted(name)));
    }
    host_name(text)
}

/// RFC 1123 section 2.1, and RFC 1035 section 2.3.4 for the lengths.
fn host_name(text: &str) -> Result<String, Wrong> {
    const HELP: &str = "write a host name such as \"mychart.example.org\"";
    let shown = quoted(text);
    if text.is_empty() {
        return wrong("this host name is empty", HELP);
    }
    if let Some(name) = text.strip_suffix('.').filter(|name| !name.is_empty()) {
        return wrong(format!("{shown} ends in a dot"), format!("write {}", quoted(name)));
    }
    if let Some(other) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.')) {
        let help = if other.is_ascii() { HELP } else { "write the name as DNS has it, starting with xn--" };
        return wrong(format!("{shown} is not a host name: {} can't be in one", quoted(&other.to_string())), help);
    }
    if text.len() > 253 {
        return wrong(format!("{shown} is not a host name: it has {} characters; 253 is the most", text.len()), HELP);
    }
    for part in text.split('.') {
        let fault = match part {
            "" => "two dots in a row, or a dot at the start",
            part if part.len() > 63 => "more than 63 characters between two dots",
            part if part.starts_with('-') || part.ends_with('-') => "a dash next to a dot or at an end",
            _ => continue,
        };
        return wrong(format!("{shown} is not a host name: {fault}"), HELP);
    }
    // A last part of digits only would be taken for an IPv4 address (RFC 3696 section 2).
    if text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return wrong(format!("{shown} is neither a host name nor an IPv4 address"), HELP);
    }
    Ok(text.to_ascii_lowercase())
}

/// The name of a network interface, by the kernel's rules (dev_valid_name() in net/core/dev.c).
pub(super) fn interface(text: &str) -> Result<String, Wrong> {
    const LONGEST: usize = 15;
    const HELP: &str = "`ip -brief link` lists the interfaces";
    let shown = quoted(text);
    if text.is_empty() {
        return wrong("this interface name is empty", HELP);
    }
    if text == "lo" {
        return wrong(
            "lo is the loopback interface; no client is behind it",
            "write the interface that clients come in by",
        );
    }
    if text.len() > LONGEST {
        return wrong(format!("{shown} has {} characters; an interface name has {LONGEST} at most", text.len()), HELP);
    }
    if let Some((interface, _)) = text.split_once(':') {
        return wrong(
            format!("{shown} is an address alias, not an interface"),
            format!("write the interface: {}", quoted(interface)),
        );
    }
    let odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if text == "." || text == ".." || text.contains(odd) {
        return wrong(format!("{shown} can't be the name of an interface"), HELP);
    }
    Ok(text.to_owned())
}

/// An absolute path without surprises.
pub(super) fn path(text: &str) -> Result<PathBuf, Wrong> {
    let shown = quoted(text);
    if text.contains(char::is_control) {
        return wrong(format!("the path {shown} has a control character in it"), "write a plain path");
    }
    if !text.starts_with('/') {
        return wrong(
            format!("the path {shown} is relative"),
            "write it from the root, starting with /; a daemon has no folder of its own",
        );
    }
    Ok(PathBuf::from(text))
}

/// The path of a unix socket: what fits into `sun_path` with its end (unix(7)).
pub(super) fn socket(text: &str) -> Result<PathBuf, Wrong> {
    const LONGEST: usize = 107;
    let path = path(text)?;
    if text.len() > LONGEST {
        return wrong(
            format!("this socket path has {} bytes; {LONGEST} is the most", text.len()),
            "write a shorter one, such as \"/run/epiclb/epiclb.sock\"",
        );
    }
    if text.ends_with('/') {
        return wrong("this socket path is a folder", format!("write {}", quoted(&format!("{text}epiclb.sock"))));
    }
    Ok(path)
}

/// One of a few words.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Wrong> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let list = names.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", ");
    let help = match did_you_mean(text, &names) {
        Some(similar) if names.len() > 1 => format!("did you mean {}? One of {list}", quoted(similar)),
        Some(similar) => format!("did you mean {}? There is no other yet", quoted(similar)),
        None if names.len() == 1 => format!("write {list}; there is no other yet"),
        None => format!("write one of {list}"),
    };
    wrong(format!("{} is not known here", quoted(text)), help)
}

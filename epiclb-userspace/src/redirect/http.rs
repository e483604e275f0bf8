//! One request head in, one answer out: bytes to bytes, no socket, no clock.
//!
//! Owns: every decision about what a client is told, and the proof that nothing it sent can leave again except a
//! checked host and a percent-encoded path. Deliberately knows nothing of connections and time limits.
//!
//! The answers:
//! - `301` to GET and HEAD, `308` to every other method (so that a POST stays a POST, RFC 9110 §15.4.9), with
//!   `Location: https://HOST/PATH?QUERY`;
//! - `400` to anything malformed, to a `Host` that is not a plain name or address or that comes twice (RFC 9112
//!   §3.2), to CONNECT and to `OPTIONS *`, which name nothing that could be redirected;
//! - `431` to a head above [`MAX_HEAD`] or with more than [`MAX_HEADERS`] fields, `408` to one that does not arrive in
//!   time (the server's clock decides), `505` to any version but HTTP/1.0 and HTTP/1.1, HTTP/2's preface included.
//!
//! HOST is chosen so: an absolute-form request names its own (RFC 9112 §3.2.2), else it is the `Host` field's. Its
//! port is dropped, whichever it was: the HTTPS VIP is on 443. Where `hosts` is configured, a host that is not in it
//! becomes the first of them. Without any host (HTTP/1.0, or an empty field) it is the first of `hosts`, else the
//! VIP's own address.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::model::Redirect;

/// The longest request head that is read, in bytes; also what one connection may hold in memory.
pub const MAX_HEAD: usize = 8 * 1024;

/// The most header fields a request may carry.
pub const MAX_HEADERS: usize = 100;

/// What is to be done with the bytes received so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The head has not ended yet: read on.
    ReadMore,
    /// Send this.
    Answer(Answer),
}

/// An answer and what becomes of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status line.
    pub status: Status,
    /// The `Location` field, with [`Status::MovedPermanently`] and [`Status::PermanentRedirect`].
    pub location: Option<String>,
    /// Length of the request head in bytes; the next request starts behind it.
    pub head_len: usize,
    /// Whether another request may follow on the connection.
    pub keep_alive: bool,
}

/// The statuses this responder can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// 301, to GET and HEAD.
    MovedPermanently,
    /// 308, to the other methods.
    PermanentRedirect,
    /// 400.
    BadRequest,
    /// 408.
    RequestTimeout,
    /// 431.
    HeadTooLarge,
    /// 505.
    VersionNotSupported,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::MovedPermanently,
        Self::PermanentRedirect,
        Self::BadRequest,
        Self::RequestTimeout,
        Self::HeadTooLarge,
        Self::VersionNotSupported,
    ];

    /// The three digits.
    pub fn code(self) -> u16 {
        match self {
            Self::MovedPermanently => 301,
            Self::PermanentRedirect => 308,
            Self::BadRequest => 400,
            Self::RequestTimeout => 408,
            Self::HeadTooLarge => 431,
            Self::VersionNotSupported => 505,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::MovedPermanently => "Moved Permanently",
            Self::PermanentRedirect => "Permanent Redirect",
            Self::BadRequest => "Bad Request",
            Self::RequestTimeout => "Request Timeout",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::VersionNotSupported => "HTTP Version Not Supported",
        }
    }
}

impl Answer {
    /// An answer that ends the connection without sending anyone anywhere.
    pub fn refusal(status: Status) -> Self {
        Self { status, location: None, head_len: 0, keep_alive: false }
    }

    /// The bytes to send.
    ///
    /// `no-store`, because a 301 may otherwise be kept for ever (RFC 9110 §15.4.2): a browser must not go on
    /// following a redirect that the operator has taken back. There is no `Date`, as this module has no clock
    /// (RFC 9110 §6.6.1), and no `Server`, which would only help an attacker. No answer has a body, HEAD or not.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status.code(), self.status.reason());
        if let Some(location) = &self.location {
            let _ = write!(text, "Location: {location}\r\n");
        }
        let connection = if self.keep_alive { "keep-alive" } else { "close" };
        let _ = write!(text, "Content-Length: 0\r\nCache-Control: no-store\r\nConnection: {connection}\r\n\r\n");
        text.into_bytes()
    }
}

/// Decides what a client of the redirect VIP at `vip` is told, given everything it has sent of its current request
/// (and perhaps of later ones).
pub fn respond(received: &[u8], vip: IpAddr, redirect: &Redirect) -> Step {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let answer = match request.parse(received) {
        Ok(httparse::Status::Partial) if received.len() < MAX_HEAD => return Step::ReadMore,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => Answer::refusal(Status::HeadTooLarge),
        Ok(httparse::Status::Complete(head_len)) if head_len > MAX_HEAD => Answer::refusal(Status::HeadTooLarge),
        Ok(httparse::Status::Complete(head_len)) => {
            redirection(&request, head_len, vip, redirect).unwrap_or(Answer::refusal(Status::BadRequest))
        }
        Err(httparse::Error::Version) if names_other_version(received) => Answer::refusal(Status::VersionNotSupported),
        Err(_) => Answer::refusal(Status::BadRequest),
    };
    Step::Answer(answer)
}

/// The redirect that a well-formed request head asks for; `None` where it must be refused.
fn redirection(
    request: &httparse::Request<'_, '_>,
    head_len: usize,
    vip: IpAddr,
    redirect: &Redirect,
) -> Option<Answer> {
    let host_field = host_field(request)?;
    let has_body = has_body(request)?;
    let (uri_host, path) = split_target(request.path?)?;
    let host = match uri_host.or(host_field) {
        Some(host) if redirect.hosts.is_empty() || redirect.hosts.contains(&host) => host,
        _ => redirect.hosts.first().cloned().unwrap_or_else(|| in_uri(vip)),
    };
    let status = match request.method? {
        "CONNECT" => return None,
        "GET" | "HEAD" => Status::MovedPermanently,
        _ => Status::PermanentRedirect,
    };
    Some(Answer {
        status,
        location: Some(format!("https://{host}{}", percent_encoded(path)?)),
        head_len,
        // A body would have to be read to its end before the next request can be told from it: closing is simpler
        // and cannot be smuggled through. HTTP/1.0 closes anyway.
        keep_alive: request.version == Some(1) && !has_body && !asks_to_close(request),
    })
}

/// The host of the one `Host` field: `Some(None)` where it is missing or empty, `None` where it is invalid or repeated.
fn host_field(request: &httparse::Request<'_, '_>) -> Option<Option<String>> {
    let mut values = fields(request, "host");
    match (values.next(), values.next()) {
        (None | Some(b""), None) => Some(None),
        (Some(value), None) => Some(Some(host_of(value)?)),
        (_, Some(_)) => None,
    }
}

/// Whether a body follows the head; `None` where its length makes no sense.
fn has_body(request: &httparse::Request<'_, '_>) -> Option<bool> {
    let mut body = fields(request, "transfer-encoding").next().is_some();
    for length in fields(request, "content-length") {
        if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
            return None;
        }
        body |= length.iter().any(|&digit| digit != b'0');
    }
    Some(body)
}

fn asks_to_close(request: &httparse::Request<'_, '_>) -> bool {
    fields(request, "connection")
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

fn fields<'r>(request: &'r httparse::Request<'_, '_>, name: &'static str) -> impl Iterator<Item = &'r [u8]> {
    request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// Splits a request target into the host it names (absolute-form only) and path with query, which always starts
/// with `/` or is to be read as if it did. `None` for every other form (RFC 9112 §3.2).
fn split_target(target: &str) -> Option<(Option<String>, &str)> {
    if target.starts_with('/') {
        // `//evil.example/` included: behind `https://host` it is a path and nothing else.
        return Some((None, target));
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    Some((Some(host_of(authority.as_bytes())?), path))
}

/// The path and query as they may stand in a URI: what RFC 3986 §3.3 and §3.4 allow stays, any other visible
/// character is percent-encoded, as RFC 9112 §3.2 suggests for a redirect. `%` stays even where no two hex digits
/// follow, since old IIS applications write `%u00e4`. `None` for control and non-ASCII characters.
fn percent_encoded(path: &str) -> Option<String> {
    let mut encoded = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        encoded.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => encoded.push(char::from(byte)),
            _ if b"-._~!$&'()*+,;=:@/?%".contains(&byte) => encoded.push(char::from(byte)),
            0x21..=0x7e => {
                let _ = write!(encoded, "%{byte:02X}");
            }
            _ => return None,
        }
    }
    Some(encoded)
}

/// The host of `host [":" port]`, in lower case and without a final dot; `None` unless it is an IPv4 address, an IPv6
/// literal or a name of letters, digits and hyphens. User information has no place here and fails with the rest.
fn host_of(authority: &[u8]) -> Option<String> {
    let authority = str::from_utf8(authority).ok()?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (literal, port) = bracketed.split_once(']')?;
            (in_uri(literal.parse::<Ipv6Addr>().ok()?.into()), port)
        }
        None => {
            let (name, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (plain_name(name)?, port)
        }
    };
    // RFC 3986 §3.2.3: the digits may be missing.
    let port_is_valid = match port.strip_prefix(':') {
        Some(digits) => {
            digits.is_empty() || digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
        None => port.is_empty(),
    };
    port_is_valid.then_some(host)
}

/// A name by RFC 1123 §2.1, or an IPv4 address.
fn plain_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return None;
    }
    // Browsers read a name that ends in a number as an IPv4 address, also `0x7f.1`; only the usual spelling passes.
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|b| b.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    (!is_number || name.parse::<Ipv4Addr>().is_ok()).then_some(name)
}

/// An address as a URI's host: IPv6 in brackets.
fn in_uri(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Tells `GET / HTTP/2.0` from a request line that is merely broken (`GET /a b HTTP/1.1`), which the parser reports as
/// the same error.
fn names_other_version(received: &[u8]) -> bool {
    let line = received.trim_ascii_start();
    let version = line.splitn(3, |&byte| byte == b' ').nth(2);
    version.is_some_and(|version| version.starts_with(b"HTTP/"))
}

#[cfg(test)]
mod tests;

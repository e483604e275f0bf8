//! Each row: a sentence, a request head, the answer.

use proptest::prelude::*;

use super::*;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 85, 151));

fn any_host() -> Redirect {
    Redirect::default()
}

fn only(hosts: &[&str]) -> Redirect {
    Redirect { hosts: hosts.iter().map(ToString::to_string).collect() }
}

fn respond_to(head: &[u8], redirect: &Redirect) -> Step {
    respond(head, VIP, redirect)
}

/// `STATUS LOCATION keep|close`, or `more`: short enough for a table.
fn told(head: &[u8], redirect: &Redirect) -> String {
    match respond_to(head, redirect) {
        Step::ReadMore => "more".into(),
        Step::Answer(answer) => {
            let end = if answer.keep_alive { "keep" } else { "close" };
            format!("{} {} {end}", answer.status.code(), answer.location.as_deref().unwrap_or("-"))
        }
    }
}

/// Rows of a sentence, the request line, the fields, and what the client is told.
#[track_caller]
fn table(redirect: &Redirect, rows: &[(&str, &str, &str, &str)]) {
    let wrong: Vec<String> = rows
        .iter()
        .map(|&(sentence, line, fields, expected)| {
            let line_end = if fields.is_empty() { "" } else { "\r\n" };
            let head = format!("{line}\r\n{fields}{line_end}\r\n");
            (sentence, told(head.as_bytes(), redirect), expected)
        })
        .filter(|(_, actual, expected)| actual != expected)
        .map(|(sentence, actual, expected)| format!("{sentence}:\n  expected {expected}\n  was      {actual}"))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

const BAD: &str = "400 - close";

#[test]
fn any_valid_host_is_sent_to_its_own_https_where_no_hosts_are_listed() {
    table(
        &any_host(),
        &[
            ("GET is 301", "GET / HTTP/1.1", "Host: a.example", "301 https://a.example/ keep"),
            ("HEAD is 301", "HEAD / HTTP/1.1", "Host: a.example", "301 https://a.example/ keep"),
            ("POST is 308", "POST /f HTTP/1.1", "Host: a.example", "308 https://a.example/f keep"),
            ("PUT is 308", "PUT /f HTTP/1.1", "Host: a.example", "308 https://a.example/f keep"),
            ("DELETE is 308", "DELETE /f HTTP/1.1", "Host: a.example", "308 https://a.example/f keep"),
            ("an unknown method is 308", "BREW /pot HTTP/1.1", "Host: a.example", "308 https://a.example/pot keep"),
            ("methods are case-sensitive", "get / HTTP/1.1", "Host: a.example", "308 https://a.example/ keep"),
            ("OPTIONS with a path is 308", "OPTIONS /x HTTP/1.1", "Host: a.example", "308 https://a.example/x keep"),
            (
                "path and query stay",
                "GET /a/b;c?d=e&f=%20 HTTP/1.1",
                "Host: a.example",
                "301 https://a.example/a/b;c?d=e&f=%20 keep",
            ),
            ("an empty query stays", "GET /a? HTTP/1.1", "Host: a.example", "301 https://a.example/a? keep"),
            ("dot segments stay", "GET /a/../b HTTP/1.1", "Host: a.example", "301 https://a.example/a/../b keep"),
            ("port 80 is dropped", "GET / HTTP/1.1", "Host: a.example:80", "301 https://a.example/ keep"),
            ("any port is dropped", "GET / HTTP/1.1", "Host: a.example:8080", "301 https://a.example/ keep"),
            ("an empty port is dropped", "GET / HTTP/1.1", "Host: a.example:", "301 https://a.example/ keep"),
            ("upper case is folded", "GET / HTTP/1.1", "Host: MyChart.EXAMPLE", "301 https://mychart.example/ keep"),
            ("a final dot is dropped", "GET / HTTP/1.1", "Host: a.example.", "301 https://a.example/ keep"),
            (
                "a final dot before a port is dropped",
                "GET / HTTP/1.1",
                "Host: a.example.:80",
                "301 https://a.example/ keep",
            ),
            ("a single label will do", "GET / HTTP/1.1", "Host: mychart", "301 https://mychart/ keep"),
            (
                "a punycode name will do",
                "GET / HTTP/1.1",
                "Host: xn--mnchen-3ya.example",
                "301 https://xn--mnchen-3ya.example/ keep",
            ),
            ("an IPv4 address will do", "GET / HTTP/1.1", "Host: 192.168.85.151", "301 https://192.168.85.151/ keep"),
            ("an IPv6 literal will do", "GET / HTTP/1.1", "Host: [2001:DB8:0::1]", "301 https://[2001:db8::1]/ keep"),
            (
                "an IPv6 literal's port is dropped",
                "GET / HTTP/1.1",
                "Host: [2001:db8::1]:80",
                "301 https://[2001:db8::1]/ keep",
            ),
            ("a field name has no case", "GET / HTTP/1.1", "hOsT:   a.example  ", "301 https://a.example/ keep"),
            ("a missing host is the VIP's address", "GET /a HTTP/1.1", "", "301 https://192.168.85.151/a keep"),
            ("an empty host is the VIP's address", "GET /a HTTP/1.1", "Host:", "301 https://192.168.85.151/a keep"),
            ("HTTP/1.0 without a host too, and it closes", "GET /a HTTP/1.0", "", "301 https://192.168.85.151/a close"),
            (
                "HTTP/1.0 closes even if asked not to",
                "GET / HTTP/1.0",
                "Host: a.example\r\nConnection: keep-alive",
                "301 https://a.example/ close",
            ),
        ],
    );
}

#[test]
fn only_listed_hosts_are_ever_a_destination() {
    table(
        &only(&["mychart.example.org", "portal.example.org"]),
        &[
            (
                "the first is kept",
                "GET /a HTTP/1.1",
                "Host: mychart.example.org",
                "301 https://mychart.example.org/a keep",
            ),
            (
                "the second is kept",
                "GET /a HTTP/1.1",
                "Host: portal.example.org",
                "301 https://portal.example.org/a keep",
            ),
            (
                "case, port and final dot are no difference",
                "GET /a HTTP/1.1",
                "Host: Portal.Example.ORG.:80",
                "301 https://portal.example.org/a keep",
            ),
            (
                "another host gets the first",
                "GET /a HTTP/1.1",
                "Host: evil.example",
                "301 https://mychart.example.org/a keep",
            ),
            (
                "a longer name gets the first",
                "GET /a HTTP/1.1",
                "Host: portal.example.org.evil.example",
                "301 https://mychart.example.org/a keep",
            ),
            (
                "a name that ends alike gets the first",
                "GET /a HTTP/1.1",
                "Host: evilportal.example.org",
                "301 https://mychart.example.org/a keep",
            ),
            (
                "an address gets the first",
                "GET /a HTTP/1.1",
                "Host: 192.168.85.151",
                "301 https://mychart.example.org/a keep",
            ),
            ("no host gets the first", "GET /a HTTP/1.0", "", "301 https://mychart.example.org/a close"),
            (
                "an absolute form's host gets the first",
                "GET http://evil.example/a HTTP/1.1",
                "Host: portal.example.org",
                "301 https://mychart.example.org/a keep",
            ),
            (
                "an invalid host is refused all the same",
                "GET /a HTTP/1.1",
                "Host: portal.example.org@evil.example",
                BAD,
            ),
        ],
    );
}

#[test]
fn an_absolute_form_names_its_own_host() {
    table(
        &any_host(),
        &[
            (
                "it wins over the field",
                "GET http://b.example/x?y HTTP/1.1",
                "Host: a.example",
                "301 https://b.example/x?y keep",
            ),
            (
                "its port is dropped",
                "GET http://b.example:80/x HTTP/1.1",
                "Host: a.example",
                "301 https://b.example/x keep",
            ),
            (
                "its path may be missing",
                "GET http://b.example HTTP/1.1",
                "Host: a.example",
                "301 https://b.example/ keep",
            ),
            (
                "a query may follow at once",
                "GET http://b.example?y HTTP/1.1",
                "Host: a.example",
                "301 https://b.example/?y keep",
            ),
            (
                "its scheme has no case",
                "GET HTTP://b.example/ HTTP/1.1",
                "Host: a.example",
                "301 https://b.example/ keep",
            ),
            ("https will do", "GET https://b.example/ HTTP/1.1", "Host: a.example", "301 https://b.example/ keep"),
            ("an IPv6 literal will do", "GET http://[::1]:80/ HTTP/1.1", "Host: a.example", "301 https://[::1]/ keep"),
            ("no field is needed", "GET http://b.example/ HTTP/1.1", "", "301 https://b.example/ keep"),
            ("another scheme is refused", "GET ftp://b.example/ HTTP/1.1", "Host: a.example", BAD),
            ("user information is refused", "GET http://a.example@b.example/ HTTP/1.1", "Host: a.example", BAD),
            ("an empty host is refused", "GET http:///x HTTP/1.1", "Host: a.example", BAD),
            ("a backslash is no separator", "GET http://b.example\\@a.example/ HTTP/1.1", "Host: a.example", BAD),
            ("an invalid field is refused all the same", "GET http://b.example/ HTTP/1.1", "Host: a b", BAD),
        ],
    );
}

#[test]
fn a_path_never_becomes_a_host() {
    table(
        &any_host(),
        &[
            (
                "two slashes",
                "GET //evil.example/ HTTP/1.1",
                "Host: a.example",
                "301 https://a.example//evil.example/ keep",
            ),
            (
                "a slash and a backslash",
                "GET /\\evil.example HTTP/1.1",
                "Host: a.example",
                "301 https://a.example/%5Cevil.example keep",
            ),
            (
                "an at sign",
                "GET /@evil.example HTTP/1.1",
                "Host: a.example",
                "301 https://a.example/@evil.example keep",
            ),
            ("an at sign without a slash", "GET @evil.example HTTP/1.1", "Host: a.example", BAD),
            ("a dot without a slash", "GET .evil.example HTTP/1.1", "Host: a.example", BAD),
            ("a port without a slash", "GET :443@evil.example HTTP/1.1", "Host: a.example", BAD),
            (
                "a URL in the query",
                "GET /?u=http://evil.example/ HTTP/1.1",
                "Host: a.example",
                "301 https://a.example/?u=http://evil.example/ keep",
            ),
        ],
    );
}

#[test]
fn what_a_uri_may_not_hold_is_percent_encoded() {
    table(
        &any_host(),
        &[
            (
                "angle brackets and quotes",
                "GET /<b>\"' HTTP/1.1",
                "Host: a.example",
                "301 https://a.example/%3Cb%3E%22' keep",
            ),
            ("a fragment sign", "GET /a#b HTTP/1.1", "Host: a.example", "301 https://a.example/a%23b keep"),
            (
                "brackets, braces, bar, caret, grave",
                "GET /?a[]={|^`} HTTP/1.1",
                "Host: a.example",
                "301 https://a.example/?a%5B%5D=%7B%7C%5E%60%7D keep",
            ),
            (
                "encoded line ends stay encoded",
                "GET /%0d%0aSet-Cookie:x HTTP/1.1",
                "Host: a.example",
                "301 https://a.example/%0d%0aSet-Cookie:x keep",
            ),
            ("an old IIS escape stays", "GET /%u00e4 HTTP/1.1", "Host: a.example", "301 https://a.example/%u00e4 keep"),
        ],
    );
}

#[test]
fn an_invalid_host_is_refused() {
    let long_label = format!("{}.example", "a".repeat(64));
    let long_name = format!("{}example", "abcdefg.".repeat(32));
    let hosts = [
        ("a label of 64", long_label.as_str()),
        ("a name above 253", &long_name),
        ("two fields", "a.example\r\nHost: a.example"),
        ("two fields, one empty", "\r\nHost: a.example"),
        ("a list", "a.example, b.example"),
        ("user information", "user@evil.example"),
        ("user and password", "a:b@evil.example"),
        ("a path", "a.example/evil"),
        ("a query", "a.example?x"),
        ("a fragment", "a.example#x"),
        ("a backslash", "a.example\\x"),
        ("a space", "a example"),
        ("a tab", "a\texample"),
        ("a NUL", "a\0.example"),
        ("a lone CR", "a\rX: y"),
        ("an escape character", "a\x1b[31m.example"),
        ("DEL", "a\x7f.example"),
        ("a letter beyond ASCII", "münchen.example"),
        ("an escaped letter", "a%2eexample"),
        ("an underscore", "a_b.example"),
        ("a tag", "<script>"),
        ("a label that starts with a hyphen", "-a.example"),
        ("a label that ends with a hyphen", "a-.example"),
        ("an empty label", "a..example"),
        ("two final dots", "a.example.."),
        ("a lone dot", "."),
        ("a port that is no number", "a.example:http"),
        ("a port with a sign", "a.example:+80"),
        ("a port above 65535", "a.example:65536"),
        ("two ports", "a.example:80:80"),
        ("a lone port", ":80"),
        ("an IPv4 address with an octet of 256", "1.2.3.256"),
        ("an IPv4 address of three parts", "1.2.3"),
        ("a lone number", "2130706433"),
        ("a hexadecimal address", "0x7f.0x1"),
        ("an IPv6 address without brackets", "2001:db8::1"),
        ("a broken IPv6 literal", "[2001:db8::g]"),
        ("an open IPv6 literal", "[2001:db8::1"),
        ("an IPv6 literal with a zone", "[fe80::1%25eth0]"),
        ("text behind an IPv6 literal", "[::1]evil.example"),
        ("a future literal", "[v1.a]"),
    ];
    for (sentence, host) in hosts {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(told(head.as_bytes(), &any_host()), BAD, "{sentence}");
        assert_eq!(told(head.as_bytes(), &only(&["mychart.example.org"])), BAD, "{sentence}, with hosts listed");
    }
}

#[test]
fn a_malformed_head_is_refused() {
    table(
        &any_host(),
        &[
            ("CONNECT", "CONNECT a.example:443 HTTP/1.1", "Host: a.example", BAD),
            ("CONNECT with a path", "CONNECT / HTTP/1.1", "Host: a.example", BAD),
            ("OPTIONS *", "OPTIONS * HTTP/1.1", "Host: a.example", BAD),
            ("GET *", "GET * HTTP/1.1", "Host: a.example", BAD),
            ("a target without a slash", "GET index.html HTTP/1.1", "Host: a.example", BAD),
            ("a space in the target", "GET /a b HTTP/1.1", "Host: a.example", BAD),
            ("a control character in the target", "GET /a\x01 HTTP/1.1", "Host: a.example", BAD),
            ("a NUL in the target", "GET /a\0b HTTP/1.1", "Host: a.example", BAD),
            ("a letter beyond ASCII in the target", "GET /ä HTTP/1.1", "Host: a.example", BAD),
            ("no target", "GET  HTTP/1.1", "Host: a.example", BAD),
            ("no version", "GET /", "", BAD),
            ("a method that is no token", "G(T / HTTP/1.1", "", BAD),
            ("a colon ahead of its name", "GET / HTTP/1.1", ": a", BAD),
            ("a space before the colon", "GET / HTTP/1.1", "Host : a.example", BAD),
            ("a folded line", "GET / HTTP/1.1", "Host: a.example\r\n b.example", BAD),
            ("a field without a colon", "GET / HTTP/1.1", "Host", BAD),
            ("a control character in any field", "GET / HTTP/1.1", "Host: a.example\r\nX: \x02", BAD),
            ("a negative length", "POST / HTTP/1.1", "Host: a.example\r\nContent-Length: -1", BAD),
            ("a length that is a list", "POST / HTTP/1.1", "Host: a.example\r\nContent-Length: 1, 1", BAD),
            ("an empty length", "POST / HTTP/1.1", "Host: a.example\r\nContent-Length:", BAD),
        ],
    );
    assert_eq!(told(b"\x16\x03\x01\x02\0\x01\0\x01", &any_host()), BAD, "TLS on the plain port");
    assert_eq!(told(b"GET /\xff HTTP/1.1\r\nHost: a.example\r\n\r\n", &any_host()), BAD);
    assert_eq!(told(b"GET / HTTP/1.1\r\nHost: \xff.example\r\n\r\n", &any_host()), BAD);
}

#[test]
fn versions_but_1_0_and_1_1_are_not_supported() {
    let no = "505 - close";
    table(
        &any_host(),
        &[
            ("HTTP/2's preface", "PRI * HTTP/2.0", "\r\nSM", no),
            ("HTTP/2 without a minor version", "GET / HTTP/2", "Host: a.example", no),
            ("HTTP/3", "GET / HTTP/3.0", "Host: a.example", no),
            ("HTTP/1.2", "GET / HTTP/1.2", "Host: a.example", no),
            ("HTTP/0.9", "GET / HTTP/0.9", "", no),
            ("another protocol is malformed", "GET / ICY/1.0", "", BAD),
            ("a version in lower case is malformed", "GET / http/1.1", "", BAD),
        ],
    );
}

#[test]
fn a_connection_is_kept_only_if_the_next_request_is_sure_to_be_found() {
    table(
        &any_host(),
        &[
            ("no body", "POST /f HTTP/1.1", "Host: a.example\r\nContent-Length: 0", "308 https://a.example/f keep"),
            (
                "a body",
                "POST /f HTTP/1.1",
                "Host: a.example\r\nContent-Length: 9\r\n\r\nhello",
                "308 https://a.example/f close",
            ),
            (
                "a GET with a body",
                "GET /f HTTP/1.1",
                "Host: a.example\r\nContent-Length: 1",
                "301 https://a.example/f close",
            ),
            (
                "a body that is yet to come",
                "PUT /f HTTP/1.1",
                "Host: a.example\r\nContent-Length: 9\r\nExpect: 100-continue",
                "308 https://a.example/f close",
            ),
            (
                "two lengths, one of them not 0",
                "POST /f HTTP/1.1",
                "Host: a.example\r\nContent-Length: 0\r\nContent-Length: 7",
                "308 https://a.example/f close",
            ),
            (
                "a length beyond all numbers",
                "POST /f HTTP/1.1",
                "Host: a.example\r\nContent-Length: 99999999999999999999999",
                "308 https://a.example/f close",
            ),
            (
                "chunks",
                "POST /f HTTP/1.1",
                "Host: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0",
                "308 https://a.example/f close",
            ),
            (
                "a length of 0 beside chunks",
                "POST /f HTTP/1.1",
                "Host: a.example\r\nContent-Length: 0\r\nTransfer-Encoding: chunked",
                "308 https://a.example/f close",
            ),
            (
                "the client wants to close",
                "GET / HTTP/1.1",
                "Host: a.example\r\nConnection: close",
                "301 https://a.example/ close",
            ),
            (
                "close in a list",
                "GET / HTTP/1.1",
                "Host: a.example\r\nConnection: upgrade , CLOSE",
                "301 https://a.example/ close",
            ),
            (
                "close in a second field",
                "GET / HTTP/1.1",
                "Host: a.example\r\nConnection: x\r\nConnection: close",
                "301 https://a.example/ close",
            ),
            (
                "a token that only looks like close",
                "GET / HTTP/1.1",
                "Host: a.example\r\nConnection: closed",
                "301 https://a.example/ keep",
            ),
        ],
    );
}

#[test]
fn a_head_is_read_on_until_it_ends() {
    let head = b"GET /a?b HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n";
    for end in 0..head.len() {
        assert_eq!(respond_to(&head[..end], &any_host()), Step::ReadMore, "after {end} bytes");
    }
    assert_eq!(told(head, &any_host()), "301 https://a.example/a?b keep");
}

#[test]
fn line_ends_are_read_as_leniently_as_rfc_9112_section_2_2_allows() {
    assert_eq!(told(b"GET / HTTP/1.1\nHost: a.example\n\n", &any_host()), "301 https://a.example/ keep", "bare LF");
    let late = b"\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    assert_eq!(told(late, &any_host()), "301 https://a.example/ keep", "empty lines ahead");
}

#[test]
fn a_second_request_behind_the_first_is_left_for_later() {
    let first = "GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let both = format!("{first}GET /2 HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    let Step::Answer(answer) = respond_to(both.as_bytes(), &any_host()) else { panic!("incomplete") };
    assert_eq!((answer.location.as_deref(), answer.head_len), (Some("https://a.example/1"), first.len()));
}

#[test]
fn a_head_above_8_kib_is_too_large() {
    let head_of = |length: usize| {
        let frame = "GET / HTTP/1.1\r\nHost: a.example\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a.example\r\nX: {}\r\n\r\n", "x".repeat(length - frame))
    };
    assert_eq!(told(head_of(MAX_HEAD).as_bytes(), &any_host()), "301 https://a.example/ keep");
    assert_eq!(told(head_of(MAX_HEAD + 1).as_bytes(), &any_host()), "431 - close");
    assert_eq!(told(&head_of(9000).as_bytes()[..MAX_HEAD], &any_host()), "431 - close", "before its end came");
    let long_path = format!("GET /{}", "x".repeat(MAX_HEAD));
    assert_eq!(told(&long_path.as_bytes()[..MAX_HEAD], &any_host()), "431 - close", "within the request line");
    assert_eq!(told(&[b'\n'; MAX_HEAD], &any_host()), "431 - close", "nothing but empty lines");
}

#[test]
fn a_head_of_more_than_100_fields_is_too_large() {
    let head_of = |fields: usize| format!("GET / HTTP/1.1\r\nHost: a.example\r\n{}\r\n", "X: y\r\n".repeat(fields - 1));
    assert_eq!(told(head_of(100).as_bytes(), &any_host()), "301 https://a.example/ keep");
    assert_eq!(told(head_of(101).as_bytes(), &any_host()), "431 - close");
}

#[test]
fn without_a_host_an_ipv6_vip_names_itself_in_brackets() {
    let Step::Answer(answer) = respond(b"GET /a HTTP/1.0\r\n\r\n", "2001:db8::50".parse().unwrap(), &any_host()) else {
        panic!("incomplete")
    };
    assert_eq!(answer.location.as_deref(), Some("https://[2001:db8::50]/a"));
}

#[test]
fn the_answer_is_these_bytes() {
    let Step::Answer(mut answer) = respond_to(b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n", &any_host()) else {
        panic!("incomplete")
    };
    assert_eq!(
        String::from_utf8(answer.to_bytes()).unwrap(),
        "HTTP/1.1 301 Moved Permanently\r\nLocation: https://a.example/a\r\nContent-Length: 0\r\n\
         Cache-Control: no-store\r\nConnection: keep-alive\r\n\r\n"
    );
    answer.status = Status::PermanentRedirect;
    assert!(answer.to_bytes().starts_with(b"HTTP/1.1 308 Permanent Redirect\r\n"));
    assert_eq!(
        String::from_utf8(Answer::refusal(Status::RequestTimeout).to_bytes()).unwrap(),
        "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    );
}

/// Requests that are nearly right, with anything at all in the places a client fills in.
fn near_requests() -> impl Strategy<Value = Vec<u8>> {
    let piece = || {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..24),
            "[ -~]{0,24}".prop_map(String::into_bytes),
            "[a-z0-9.:@/\\[\\]\r\n\0-]{0,24}".prop_map(String::into_bytes),
            Just(b"mychart.example.org".to_vec()),
        ]
    };
    (prop_oneof!["GET", "POST", "[A-Z]{1,8}"], piece(), piece(), piece()).prop_map(|(method, target, host, more)| {
        let slash = if target.starts_with(b"h") { &b""[..] } else { b"/" };
        [method.as_bytes(), b" ", slash, &target, b" HTTP/1.1\r\nHost: ", &host, b"\r\nX: ", &more, b"\r\n\r\n"]
            .concat()
    })
}

/// What must hold of every answer, whatever was sent.
fn check_answer(answer: &Answer, redirect: &Redirect) -> Result<(), TestCaseError> {
    let bytes = answer.to_bytes();
    let text = str::from_utf8(&bytes).expect("ASCII");
    prop_assert!(text.ends_with("\r\n\r\n"));
    let lines: Vec<&str> = text.strip_suffix("\r\n\r\n").unwrap().split("\r\n").collect();
    prop_assert_eq!(lines.len(), 4 + usize::from(answer.location.is_some()));
    prop_assert!(lines.iter().all(|line| line.bytes().all(|byte| (0x20..0x7f).contains(&byte))), "{text:?}");
    let redirects = matches!(answer.status, Status::MovedPermanently | Status::PermanentRedirect);
    prop_assert_eq!(answer.location.is_some(), redirects);
    if let Some(location) = &answer.location {
        let rest = location.strip_prefix("https://").expect("https");
        let (host, path) = rest.split_at(rest.find('/').expect("a path"));
        prop_assert!(!path.contains([' ', '<', '>', '"', '\\', '#']), "{location}");
        if redirect.hosts.is_empty() {
            prop_assert_eq!(host_of(host.as_bytes()), Some(host.to_owned()), "a host reads as itself");
        } else {
            prop_assert!(redirect.hosts.iter().any(|allowed| allowed == host), "{host}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_byte_string_panics_or_breaks_out_of_an_answer(head in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Step::Answer(answer) = respond_to(&head, &any_host()) {
            check_answer(&answer, &any_host())?;
        }
    }

    #[test]
    fn no_client_chooses_a_host_that_is_not_listed(head in near_requests()) {
        let listed = only(&["mychart.example.org", "portal.example.org"]);
        for redirect in [any_host(), listed] {
            if let Step::Answer(answer) = respond_to(&head, &redirect) {
                check_answer(&answer, &redirect)?;
            }
        }
    }

    #[test]
    fn a_head_that_arrives_in_pieces_is_answered_like_one_that_does_not(head in near_requests(), cut in 0.0..1.0) {
        let whole = respond_to(&head, &any_host());
        let cut = (head.len() as f64 * cut) as usize;
        match respond_to(&head[..cut], &any_host()) {
            Step::ReadMore => {}
            // A fault that shows early may be reported early, and a head may end within the piece.
            Step::Answer(early) => prop_assert_eq!(Step::Answer(early), whole),
        }
    }
}

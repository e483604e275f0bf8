//! Clients: curl for TLS as people use it, and bare TCP for connections by the thousand.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect as nix_connect,
        sendto, setsockopt, socket, sockopt,
    },
    time::TimeVal,
};

use crate::{Host, PATIENCE, host::succeeded};

/// How many curl processes [`crowd`] keeps going at once.
const CURLS_AT_ONCE: usize = 8;
/// How many sources each of them asks for in turn: starting curl costs more than a request.
const SOURCES_OF_A_CURL: usize = 10;
/// Seconds after which curl gives a request up.
const CURL_PATIENCE: &str = "60";

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status; 0 if there was no answer.
    pub status: u16,
    /// The body.
    pub body: String,
    /// Where it redirects to, as an absolute URL; empty if nowhere.
    pub location: String,
    /// Why there was no answer, in curl's words; empty if there was one.
    pub error: String,
}

impl Answer {
    /// The server's label, from a whole answer to `/whoami`.
    pub fn rip(&self) -> Option<&str> {
        let mut words = self.body.split_whitespace();
        let label = words.next()?;
        (self.status == 200 && self.error.is_empty() && words.count() == 2).then_some(label)
    }
}

/// Requests `url` `times` times with curl from `source`, each on a connection of its own that the server closes.
/// Certificates are not checked: the lab's are self-signed. An `Err` means that curl could not be run; failed
/// requests are answers.
pub fn curl(host: &Host, source: IpAddr, url: &str, times: usize) -> Result<Vec<Answer>> {
    let mut answers = run_curl(host, &[source], CLOSED_BY_SERVER, &vec![url.to_owned(); times])?;
    answers.pop().map(|(_, answers)| answers).context("one source was asked for")
}

/// [`curl`] from many sources, several at a time.
pub fn crowd(
    host: &Host,
    sources: impl IntoIterator<Item = IpAddr>,
    url: &str,
    times: usize,
) -> Result<BTreeMap<IpAddr, Vec<Answer>>> {
    let urls = vec![url.to_owned(); times];
    by_many(sources, |sources| run_curl(host, sources, CLOSED_BY_SERVER, &urls))
}

/// Requests `path` from `vip` over TLS, on `times` connections of each source that are open at once and that curl
/// closes: nothing has a reason to be reset.
pub fn crowd_at_once(
    host: &Host,
    sources: impl IntoIterator<Item = IpAddr>,
    vip: SocketAddr,
    path: &str,
    times: usize,
) -> Result<BTreeMap<IpAddr, Vec<Answer>>> {
    // curl keeps connections by name, so each name has its own.
    let urls: Vec<String> = (0..times).map(|n| format!("https://connection-{n}.test{path}")).collect();
    by_many(sources, |sources| run_curl(host, sources, &["--connect-to", &format!("::{vip}")], &urls))
}

const CLOSED_BY_SERVER: &[&str] = &["--header", "Connection: close"];

/// Requests all `urls` from each source in turn, in one process.
fn run_curl(host: &Host, sources: &[IpAddr], more: &[&str], urls: &[String]) -> Result<Vec<(IpAddr, Vec<Answer>)>> {
    let mut command = host.command("curl");
    for (n, source) in sources.iter().enumerate() {
        // What stands behind --next has none of the options before it.
        command.args((n > 0).then_some("--next"));
        // Unit and record separators (ASCII) never occur in what the lab serves as text.
        command
            .args(["--silent", "--insecure", "--globoff", "--http1.1", "--max-time", CURL_PATIENCE])
            .args(["--interface", &source.to_string()])
            .args(["--write-out", "\u{1f}%{http_code}\u{1f}%{redirect_url}\u{1f}%{exitcode}\u{1f}%{errormsg}\u{1e}"])
            .args(more)
            .args(urls);
    }
    let output = command.output().context("cannot run curl")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<Answer> = text.split_terminator('\u{1e}').map(answer).collect::<Result<_>>()?;
    let asked = sources.len() * urls.len();
    ensure!(answers.len() == asked, "curl gave {} answers instead of {asked} to {urls:?}: {text}", answers.len());
    Ok(sources.iter().copied().zip(answers.chunks(urls.len()).map(<[Answer]>::to_vec)).collect())
}

fn by_many(
    sources: impl IntoIterator<Item = IpAddr>,
    ask: impl Fn(&[IpAddr]) -> Result<Vec<(IpAddr, Vec<Answer>)>> + Sync,
) -> Result<BTreeMap<IpAddr, Vec<Answer>>> {
    let sources: Vec<IpAddr> = sources.into_iter().collect();
    let waiting = Mutex::new(sources.chunks(SOURCES_OF_A_CURL));
    let answers = Mutex::new(BTreeMap::new());
    let next = || waiting.lock().expect("no panic while held").next();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CURLS_AT_ONCE)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(sources) = next() {
                        let got = ask(sources)?;
                        answers.lock().expect("no panic while held").extend(got);
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("curl threads do not panic"))
    })?;
    Ok(answers.into_inner().expect("no panic while held"))
}

/// Downloads `url` into `file` with curl; its speed in bytes a second.
pub fn download(host: &Host, source: IpAddr, url: &str, file: &Path) -> Result<f64> {
    let output = host
        .command("curl")
        .args(["--silent", "--show-error", "--fail", "--insecure", "--globoff", "--max-time", "300"])
        .args(["--interface", &source.to_string(), "--write-out", "%{speed_download}", "--output"])
        .arg(file)
        .arg(url)
        .output()
        .context("cannot run curl")?;
    let speed = succeeded(output).with_context(|| format!("downloading {url} from {source}"))?;
    speed.trim().parse().with_context(|| format!("curl named no speed: {speed}"))
}

/// The speeds of two URLs that serve what is in `expected`, in bytes a second: the medians of downloads in turn, so that
/// whatever else the machine does hits both alike. Three of each; three more, up to fifteen, as long as the second stays
/// below half of the first, which chance may have done to it. Every byte of every download is compared.
pub fn compare_downloads(host: &Host, source: IpAddr, urls: [&str; 2], expected: &Path) -> Result<[f64; 2]> {
    // Beside it, so that it goes with the lab.
    let file = expected.with_extension("downloaded");
    let mut speeds = [Vec::new(), Vec::new()];
    loop {
        for _ in 0..3 {
            for (url, speeds) in urls.iter().zip(&mut speeds) {
                speeds.push(download(host, source, url, &file)?);
                same_bytes(expected, &file).with_context(|| format!("{url} is not what was expected"))?;
            }
        }
        let medians = speeds.each_mut().map(|speeds| {
            speeds.sort_by(f64::total_cmp);
            speeds[speeds.len() / 2]
        });
        if medians[1] >= medians[0] / 2.0 || speeds[0].len() >= 15 {
            return Ok(medians);
        }
    }
}

/// An error naming the first difference, unless both files hold the same bytes.
pub fn same_bytes(expected: &Path, got: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).with_context(|| format!("cannot open {}", path.display()));
    let (mut left, mut right) = (open(expected)?, open(got)?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut offset = 0;
    loop {
        a.clear();
        b.clear();
        Read::by_ref(&mut left).take(1 << 20).read_to_end(&mut a)?;
        Read::by_ref(&mut right).take(1 << 20).read_to_end(&mut b)?;
        if a != b {
            let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            bail!("{} differs from {} at byte {}", got.display(), expected.display(), offset + same);
        }
        if a.is_empty() {
            return Ok(());
        }
        offset += a.len();
    }
}

/// Opens a TCP connection from `source` (port 0: any) within `limit`; reads and writes keep the same limit. Call it
/// on a thread that has entered the client's host ([`Host::within`]).
pub fn connect(source: SocketAddr, destination: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let family = if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::new(limit.as_secs().cast_signed(), i64::from(limit.subsec_micros()));
    // For a blocking socket the send timeout bounds connect(2) too (socket(7)).
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(source))?;
    match nix_connect(socket.as_raw_fd(), &SockaddrStorage::from(destination)) {
        Err(nix::errno::Errno::EINPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
        connected => Ok(connected.map(|()| TcpStream::from(socket))?),
    }
}

/// One request over a fresh connection (HTTP/1.0); the whole answer, head and body.
pub fn get(source: IpAddr, destination: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = connect(SocketAddr::new(source, 0), destination, PATIENCE)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {destination}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Sends whole IP packets, whoever they claim to come from: floods, strays and fragments.
#[derive(Debug)]
pub struct Forger {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Forger {
    /// Opens its sockets. Call it on a thread that has entered the host the packets shall come from
    /// ([`Host::within`]); it may then be used anywhere.
    pub fn open() -> io::Result<Self> {
        let raw = |family| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        Ok(Self { v4: raw(AddressFamily::Inet)?, v6: raw(AddressFamily::Inet6)? })
    }

    /// Sends one packet, from its IP header on, to where it says. The kernel fills in an IPv4 header's checksum, and
    /// nothing else; the transport's is the caller's.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidInput);
        let (socket, to) = match packet.first().map(|byte| byte >> 4) {
            Some(4) => {
                (&self.v4, IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20).ok_or_else(malformed)?).unwrap()))
            }
            Some(6) => {
                (&self.v6, IpAddr::from(<[u8; 16]>::try_from(packet.get(24..40).ok_or_else(malformed)?).unwrap()))
            }
            _ => return Err(malformed()),
        };
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty())?;
        Ok(())
    }
}

fn answer(record: &str) -> Result<Answer> {
    let mut fields = record.rsplitn(5, '\u{1f}');
    let mut field = || fields.next().with_context(|| format!("curl wrote {record:?}"));
    let (error, code, location, status, body) = (field()?, field()?, field()?, field()?, field()?);
    let error = if code == "0" { String::new() } else { format!("{error} (curl exit code {code})") };
    Ok(Answer { status: status.parse().unwrap_or(0), body: body.into(), location: location.into(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_its_rip_only_if_it_is_whole() {
        let whole = answer("Srv_1 10.20.0.1 4711\n\u{1f}200\u{1f}\u{1f}0\u{1f}").unwrap();
        assert_eq!(whole.rip(), Some("Srv_1"));
        let cut = answer("Srv_1 10.2\u{1f}200\u{1f}\u{1f}18\u{1f}transfer closed").unwrap();
        assert_eq!(cut.rip(), None);
        assert_eq!(cut.error, "transfer closed (curl exit code 18)");
        let refused = answer("\u{1f}000\u{1f}\u{1f}7\u{1f}Failed to connect").unwrap();
        assert_eq!((refused.status, refused.rip()), (0, None));
        let redirect = answer("\u{1f}301\u{1f}https://a/b\u{1f}0\u{1f}").unwrap();
        assert_eq!((redirect.status, redirect.location.as_str()), (301, "https://a/b"));
    }

    #[test]
    fn files_that_differ_are_told_apart_at_the_first_byte() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, vec![7; 3 << 20]).unwrap();
        let mut other = vec![7; 3 << 20];
        std::fs::write(&b, &other).unwrap();
        same_bytes(&a, &b).unwrap();
        other[(1 << 20) + 5] = 8;
        std::fs::write(&b, &other).unwrap();
        assert!(same_bytes(&a, &b).unwrap_err().to_string().ends_with("at byte 1048581"));
        std::fs::write(&b, &other[..1 << 20]).unwrap();
        assert!(same_bytes(&a, &b).unwrap_err().to_string().ends_with("at byte 1048576"));
    }
}

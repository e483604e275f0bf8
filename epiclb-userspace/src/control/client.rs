//! The caller's end of the control socket.
//!
//! Owns: connecting, one request, and putting the pages of its reply together. Blocking, since a command has nothing
//! else to do. Deliberately knows nothing of how a reply is shown.

use std::{
    io::{self, BufRead, BufReader, ErrorKind as IoErrorKind, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    request::{Request, Response, Rows},
    server,
};

/// How long a reply may take: a little more than the daemon allows itself, so that its own words arrive.
pub const REPLY_LIMIT: Duration = server::ANSWER_LIMIT.saturating_add(Duration::from_secs(5));

/// A reply's longest line, in bytes: thousands of VIPs.
const MAX_LINE: u64 = 64 * 1024 * 1024;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No daemon answers there.
    #[error("no daemon answers on {}: {}", socket.display(), reason(source))]
    NotReachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It answered something else than a reply: another version, or another program.
    #[error("the daemon on {} answered something this version does not understand: {what}", socket.display())]
    NotUnderstood {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It said that it would stop and has not.
    #[error("the daemon (process {pid}) has not stopped within {} s", REPLY_LIMIT.as_secs())]
    StillThere {
        /// The daemon's process.
        pid: u32,
    },
}

/// Asks the daemon on `socket`. The pages of a long list come back as one; a [`Request::Stop`] returns when the daemon
/// has gone.
pub fn call(socket: &Path, request: &Request) -> Result<Response, CallError> {
    let not_reachable = |source| CallError::NotReachable { socket: socket.to_owned(), source };
    let not_understood = |what| CallError::NotUnderstood { socket: socket.to_owned(), what };

    let mut stream = super::connect(socket).map_err(|error| {
        not_reachable(match error.kind() {
            IoErrorKind::WouldBlock => IoErrorKind::ResourceBusy.into(),
            _ => error,
        })
    })?;
    stream.set_read_timeout(Some(REPLY_LIMIT)).map_err(not_reachable)?;
    stream.set_write_timeout(Some(REPLY_LIMIT)).map_err(not_reachable)?;
    let mut line = serde_json::to_vec(request).map_err(|error| not_understood(error.to_string()))?;
    line.push(b'\n');
    // A daemon that refuses a request may do so without reading it: its reply counts, not our failure to write.
    let _ = stream.write_all(&line);

    let mut reader = BufReader::new(stream);
    let mut reply: Option<Response> = None;
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(not_reachable)?;
        if line.last() != Some(&b'\n') {
            return Err(not_reachable(IoErrorKind::UnexpectedEof.into()));
        }
        let page: Response = serde_json::from_slice(&line).map_err(|error| not_understood(error.to_string()))?;
        let more = match (&mut reply, page) {
            (None, page) => {
                let more = matches!(&page, Response::Pins(Rows { more: true, .. }))
                    || matches!(&page, Response::Flows(Rows { more: true, .. }));
                reply = Some(page);
                more
            }
            (Some(Response::Pins(rows)), Response::Pins(page)) => rows.append(page),
            (Some(Response::Flows(rows)), Response::Flows(page)) => rows.append(page),
            (Some(_), _) => return Err(not_understood("its pages are of different kinds".to_owned())),
        };
        if !more {
            break;
        }
    }
    let reply = reply.expect("the loop ends with a page");
    if let Response::Stopping(stopping) = &reply {
        match reader.read(&mut [0]) {
            // A reset is an end as well.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), IoErrorKind::WouldBlock | IoErrorKind::TimedOut) => {
                return Err(CallError::StillThere { pid: stopping.pid });
            }
            Err(_) => {}
        }
    }
    Ok(reply)
}

impl<T> Rows<T> {
    /// Takes in the next page; says whether another follows.
    fn append(&mut self, page: Self) -> bool {
        self.rows.extend(page.rows);
        self.more = page.more;
        self.more
    }
}

/// What the operator should know about why nobody answers.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        IoErrorKind::NotFound => "there is no such socket; is `epiclb run` running?".to_owned(),
        IoErrorKind::ConnectionRefused => "the daemon that made the socket is dead".to_owned(),
        IoErrorKind::PermissionDenied => "only its owner and group may connect; try as root".to_owned(),
        IoErrorKind::UnexpectedEof | IoErrorKind::ConnectionReset => {
            "it hung up before its reply was complete".to_owned()
        }
        IoErrorKind::ResourceBusy => "it is too busy, or frozen".to_owned(),
        IoErrorKind::WouldBlock | IoErrorKind::TimedOut => {
            format!("it takes connections but has been silent for {} s", REPLY_LIMIT.as_secs())
        }
        _ => error.to_string(),
    }
}

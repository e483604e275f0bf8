//! The daemon's end of the control socket.
//!
//! Owns: the socket file, who may connect to it, how long a caller may take, and turning bytes into a [`Request`].
//! Deliberately knows nothing of what a request does: each becomes a [`Call`] in the daemon's queue.
//!
//! The file is never accessible to anyone but its owner and group, not for an instant; a live daemon's is never taken
//! away; nothing but a dead daemon's socket is ever removed.

use std::{
    fs,
    io::{self, ErrorKind as IoErrorKind},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::{
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket,
            sockopt::PeerCredentials,
        },
        stat::{Mode, fchmod},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::request::{ErrorKind, ErrorReply, Request, Response};

/// One request, for the daemon to answer.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub peer: Peer,
    /// Where the answer goes. Dropping it tells the caller that the daemon failed.
    pub reply: oneshot::Sender<Response>,
}

/// Who is at the other end, as the kernel tells it (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The process; `None` where it lives in a pid namespace that is not ours.
    pub pid: Option<i32>,
}

/// Calls that may wait for the daemon; make its queue this long. More callers than [`MAX_CONNECTIONS`] can't be.
pub const MAX_CALLS: usize = MAX_CONNECTIONS;

/// Connections served at once. Further ones wait in the kernel's queue: all are short, since each is limited in time.
pub const MAX_CONNECTIONS: usize = 64;

/// A request's longest line, in bytes. A longer one is refused.
pub const MAX_REQUEST: u64 = 1024 * 1024;

/// How long a caller may take to send its request, and to read each line of the reply.
pub const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// How long the daemon may take to answer; a reload with many VIPs is the longest.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A live daemon has it.
    #[error("another epiclb {} on {}; `epiclb stop` ends it", match pid {
        Some(pid) => format!("(process {pid}) answers"),
        None => "answers".to_owned(),
    }, path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The daemon's process, where it can be known.
        pid: Option<i32>,
    },
    /// Something else is there, and is left alone.
    #[error("{} is {what}, where the control socket should be; remove it, or set another `socket`", path.display())]
    Occupied {
        /// What should be the socket.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The system refused.
    #[error("can't {action} the control socket {}: {source}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The listening control socket. Its file goes when this goes.
#[derive(Debug)]
pub struct Server {
    // Before the listener, so that it is dropped first: the name goes while it still answers, and a daemon that starts
    // just then never takes it for a dead one's.
    file: SocketFile,
    listener: UnixListener,
    whole_addresses: bool,
}

impl Server {
    /// Opens the socket: mode 0660, in a folder that is made if only it is missing. Call it inside a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let system = |action| move |source: io::Error| BindError::System { path: path.to_owned(), action, source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
            fs::DirBuilder::new().mode(0o755).create(folder).map_err(system("make the folder of"))?;
        }
        let _lock = lock(path).map_err(system("lock"))?;
        clear_the_way(path)?;

        let listener = listen_at(path).map_err(system("open"))?;
        let file = SocketFile::of(path).map_err(system("look at"))?;
        let listener = UnixListener::from_std(listener).map_err(system("listen on"))?;
        Ok(Self { file, listener, whole_addresses: false })
    }

    /// Whether the log names clients by their whole address; by default it masks them.
    #[must_use]
    pub fn log_clients(self, whole_addresses: bool) -> Self {
        Self { whole_addresses, ..self }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Serves callers for as long as it is polled. Dropping the future hangs up on all of them and removes the file.
    pub async fn run(self, calls: mpsc::Sender<Call>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve(stream, calls.clone(), self.whole_addresses));
                    }
                    Err(error) => {
                        warn!("control socket: {error}");
                        // Out of file descriptors, most likely: trying at once would spin.
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

/// The socket's name in the file system, and the inode it named when we made it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: inode(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have put something else in its place; that is theirs.
        if inode(&self.path).is_ok_and(|id| id == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode; a symbolic link's own.
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Two daemons that start at once both see a dead one's socket: only one at a time may look, remove and bind.
///
/// The lock is a file of its own, which stays: a folder can be locked by everyone who may list it.
fn lock(path: &Path) -> io::Result<Flock<fs::File>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(name)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

/// Removes a dead daemon's socket, and nothing else.
fn clear_the_way(path: &Path) -> Result<(), BindError> {
    let system = |action| move |source| BindError::System { path: path.to_owned(), action, source };
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("look at")(error)),
    };
    if !kind.is_socket() {
        let what = match () {
            () if kind.is_symlink() => "a symbolic link",
            () if kind.is_dir() => "a folder",
            () if kind.is_file() => "a regular file",
            () => "a special file",
        };
        return Err(BindError::Occupied { path: path.to_owned(), what });
    }
    match super::connect(path) {
        Ok(stream) => {
            let pid = getsockopt(&stream, PeerCredentials).ok().map(|peer| peer.pid()).filter(|pid| *pid > 0);
            Err(BindError::InUse { path: path.to_owned(), pid })
        }
        // It is there, and so busy that it takes no more.
        Err(error) if error.kind() == IoErrorKind::WouldBlock => {
            Err(BindError::InUse { path: path.to_owned(), pid: None })
        }
        // Nobody has it open: unix(7).
        Err(error) if error.kind() == IoErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(system("remove the dead"))
        }
        Err(error) => Err(system("ask for the owner of")(error)),
    }
}

fn listen_at(path: &Path) -> io::Result<StdListener> {
    const ACCESS: u32 = 0o660;
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // Linux creates the file with the socket's own mode, less the umask (unix_bind in net/unix/af_unix.c): it is born
    // with at most these rights. The umask belongs to the whole process and is none of ours.
    fchmod(&socket, Mode::from_bits_truncate(ACCESS))?;
    let address = UnixAddr::new(path).map_err(|errno| match errno {
        Errno::ENAMETOOLONG => io::Error::other("its path is longer than 107 bytes"),
        other => other.into(),
    })?;
    bind(socket.as_raw_fd(), &address)?;
    // Gives back what a tight umask took; nobody can connect before `listen`.
    fs::set_permissions(path, fs::Permissions::from_mode(ACCESS))?;
    listen(&socket, Backlog::new(128)?)?;
    Ok(socket.into())
}

/// One caller, from its request to its reply.
async fn serve(mut stream: UnixStream, calls: mpsc::Sender<Call>, whole_addresses: bool) {
    let peer = match stream.peer_cred() {
        Ok(cred) => Peer { uid: cred.uid(), pid: cred.pid() },
        Err(error) => return warn!("control socket: a caller without credentials: {error}"),
    };
    let line = match timeout(IDLE_LIMIT, read_line(&mut stream)).await {
        Ok(Ok(line)) => line,
        Ok(Err(_)) => return,
        Err(_) => return send(&mut stream, refusal("no request came in time")).await,
    };
    // Someone only asked whether anybody is here.
    if line.is_empty() {
        return;
    }
    let request = match decode(&line) {
        Ok(request) => request,
        Err(reply) => return send(&mut stream, Response::Error(reply)).await,
    };
    // Kept for the log: the request itself goes to the daemon.
    let said = || if whole_addresses { format!("{request:#}") } else { request.to_string() };
    let said = request.changes_state().then(said);
    let stopping = request == Request::Stop;

    let response = ask(&calls, request, peer).await;
    if let Some(said) = said {
        let pid = peer.pid.unwrap_or_default();
        match &response {
            Response::Error(error) => {
                info!(uid = peer.uid, pid, "{said}: not done: {}", error.message.escape_debug());
            }
            _ => info!(uid = peer.uid, pid, "{said}"),
        }
    }
    let stays = stopping && !matches!(response, Response::Error(_));
    send(&mut stream, response).await;
    if stays {
        // The end of this connection is how the caller learns that the daemon has gone.
        let _ = stream.read(&mut [0]).await;
    }
}

/// Hands the request to the daemon and waits for its answer.
async fn ask(calls: &mpsc::Sender<Call>, request: Request, peer: Peer) -> Response {
    let (reply, answer) = oneshot::channel();
    let answered = timeout(ANSWER_LIMIT, async {
        calls.send(Call { request, peer, reply }).await.ok()?;
        answer.await.ok()
    })
    .await;
    let message = match answered {
        Ok(Some(response)) => return response,
        Ok(None) => "the daemon is stopping".to_owned(),
        Err(_) => format!("the daemon did not answer within {} s", ANSWER_LIMIT.as_secs()),
    };
    Response::Error(ErrorReply::new(ErrorKind::Internal, message))
}

/// Reads up to and including the newline, the end, or one byte more than is allowed.
async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_REQUEST + 1)).read_until(b'\n', &mut line).await?;
    Ok(line)
}

/// One line of bytes as a request, or the reply that says what is wrong with it.
fn decode(line: &[u8]) -> Result<Request, ErrorReply> {
    let invalid = |message| ErrorReply::new(ErrorKind::Invalid, message);
    if line.len() as u64 > MAX_REQUEST {
        return Err(invalid(format!("the request is longer than {MAX_REQUEST} bytes")));
    }
    serde_json::from_slice(line).map_err(|error| invalid(format!("the request makes no sense: {error}")))
}

fn refusal(message: &str) -> Response {
    Response::Error(ErrorReply::new(ErrorKind::Refused, message))
}

/// Sends the reply, line by line. A caller that is gone or too slow gets no more.
async fn send(stream: &mut UnixStream, response: Response) {
    for page in response.pages() {
        let mut line = match serde_json::to_vec(&page) {
            Ok(line) => line,
            Err(error) => return warn!("control socket: a reply that is no JSON: {error}"),
        };
        line.push(b'\n');
        match timeout(IDLE_LIMIT, stream.write_all(&line)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::control::request::ErrorKind;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// Sends raw bytes, ends the writing side and reads everything that comes back.
    async fn exchange(path: &Path, bytes: &[u8]) -> Vec<Response> {
        let mut stream = UnixStream::connect(path).await.unwrap();
        // A refused caller may be hung up on before it has said everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        reply.split_inclusive(|b| *b == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    fn error_kind(replies: &[Response]) -> ErrorKind {
        match replies {
            [Response::Error(error)] => error.kind,
            other => panic!("{other:?}"),
        }
    }

    /// A server whose calls are all answered with an internal error that names the request.
    fn echo(path: &Path) -> tokio::task::JoinHandle<()> {
        let server = Server::bind(path).unwrap();
        let (tx, mut rx) = mpsc::channel::<Call>(MAX_CALLS);
        tokio::spawn(async move {
            let answer = async {
                while let Some(call) = rx.recv().await {
                    let said = format!("{} by {}", call.request, call.peer.uid);
                    let _ = call.reply.send(Response::Error(ErrorReply::new(ErrorKind::Internal, said)));
                }
            };
            tokio::join!(server.run(tx), answer);
        })
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_and_group_and_goes_with_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/epiclb.sock");
        let server = Server::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o660);
        assert_eq!(server.path(), path);
        drop(server);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file behind, as a killed daemon does");
        let _server = Server::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o660);
    }

    #[tokio::test]
    async fn a_live_daemons_socket_is_left_alone_and_the_daemon_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _first = Server::bind(&path).unwrap();
        let before = inode(&path).unwrap();
        let error = Server::bind(&path).unwrap_err();
        assert!(error.to_string().contains(&format!("(process {}) answers", std::process::id())), "{error}");
        assert_eq!(inode(&path).unwrap(), before);
    }

    #[test]
    fn of_many_daemons_that_start_at_once_over_a_dead_ones_socket_one_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(StdListener::bind(&path).unwrap());
        let bound: Vec<Result<Server, BindError>> = std::thread::scope(|scope| {
            let start = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _guard = runtime.enter();
                Server::bind(&path)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(bound.iter().filter(|result| result.is_ok()).count(), 1);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_daemon_that_is_frozen_with_its_queue_full_is_still_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _frozen = Server::bind(&path).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = super::super::connect(&path) {
            waiting.push(stream);
        }
        assert!(matches!(Server::bind(&path), Err(BindError::InUse { pid: None, .. })));
        let error = crate::control::client::call(&path, &Request::Status).unwrap_err();
        assert!(error.to_string().contains("too busy"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        let socket = dir.path().join("socket");
        drop(StdListener::bind(&socket).unwrap());
        let link = dir.path().join("link");
        symlink(&socket, &link).unwrap();
        let dangling = dir.path().join("dangling");
        symlink(dir.path().join("nowhere"), &dangling).unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        for (path, what) in [
            (&file, "a regular file"),
            (&link, "a symbolic link"),
            (&dangling, "a symbolic link"),
            (&folder, "a folder"),
        ] {
            let error = Server::bind(path).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert!(fs::symlink_metadata(path).is_ok());
        }
        assert_eq!(fs::read_to_string(file).unwrap(), "precious");
        assert!(socket.exists());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_or_lies_nowhere_is_an_error_that_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = Server::bind(&dir.path().join("x".repeat(120))).unwrap_err();
        assert!(error.to_string().contains("longer than 107 bytes"), "{error}");
        let error = Server::bind(&dir.path().join("a/b/s")).unwrap_err();
        assert!(error.to_string().contains("can't make the folder"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_took_the_sockets_place_survives_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let server = Server::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "theirs").unwrap();
        drop(server);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_request_reaches_the_daemon_with_the_callers_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let server = echo(&path);
        let uid = nix::unistd::getuid();
        for line in [&b"{\"request\":\"reload\"}\n"[..], b"{\"request\":\"reload\"}"] {
            let replies = exchange(&path, line).await;
            assert_eq!(replies, [Response::Error(ErrorReply::new(ErrorKind::Internal, format!("reload by {uid}")))]);
        }
        server.abort();
        let _ = server.await;
        assert!(!path.exists(), "a dropped server takes its file along");
    }

    #[tokio::test]
    async fn nonsense_and_overlong_requests_are_answered_and_silence_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _server = echo(&path);
        for nonsense in [&b"\n"[..], b"{}\n", b"\xff\x00\n", b"{\"request\":\"fly\"}\n", b"[[[[[["] {
            assert_eq!(error_kind(&exchange(&path, nonsense).await), ErrorKind::Invalid);
        }
        let long = vec![b' '; MAX_REQUEST as usize + 1];
        assert_eq!(error_kind(&exchange(&path, &long).await), ErrorKind::Invalid);
        assert_eq!(exchange(&path, b"").await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_says_nothing_is_cut_off_after_ten_seconds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _server = echo(&path);
        let started = tokio::time::Instant::now();
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"{\"request\"").await.unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.unwrap();
        assert_eq!(error_kind(&[serde_json::from_slice(&reply).unwrap()]), ErrorKind::Refused);
        assert_eq!(started.elapsed().as_secs(), IDLE_LIMIT.as_secs());
    }

    #[tokio::test]
    async fn a_daemon_that_drops_a_call_is_an_internal_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let server = Server::bind(&path).unwrap();
        let (tx, rx) = mpsc::channel(1);
        drop(rx);
        tokio::spawn(server.run(tx));
        assert_eq!(error_kind(&exchange(&path, b"{\"request\":\"status\"}\n").await), ErrorKind::Internal);
    }

    #[tokio::test]
    async fn callers_beyond_the_limit_wait_their_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _server = echo(&path);
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        let exchange = exchange(&path, b"{\"request\":\"status\"}\n");
        tokio::pin!(exchange);
        assert!(timeout(Duration::from_millis(50), &mut exchange).await.is_err());
        silent.pop();
        assert_eq!(error_kind(&exchange.await), ErrorKind::Internal);
    }

    /// What was logged while it was the thread's subscriber.
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_log_says_who_changed_something_and_not_who_looked() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _server = echo(&path);
        exchange(&path, b"{\"request\":\"status\"}").await;
        exchange(&path, b"{\"request\":\"pins\",\"pins\":\"clear\",\"scope\":{\"client\":\"10.1.2.3\"}}").await;

        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let uid = nix::unistd::getuid();
        let pid = std::process::id();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains(" INFO ") && log.contains("pins clear 10.1.2.0/24: not done"), "{log}");
        assert!(log.contains(&format!("uid={uid} pid={pid}")), "{log}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_json_like_text_panics_the_decoder(
            text in r#"\{("request":"(status|pins|set-admin|explain|flows)"|"(pins|vip|rip|client|scope|limit)":(-?[0-9e]{1,9}|null|"[a-z.:]{0,9}"|\[\]|\{\})|,){0,8}\}?"#,
        ) {
            let _ = decode(text.as_bytes());
        }

        #[test]
        fn what_the_client_sends_is_what_the_server_decodes(vip in "\\PC{0,40}", client: std::net::IpAddr) {
            let request = Request::Explain { client, vip };
            prop_assert_eq!(decode(&serde_json::to_vec(&request).unwrap()), Ok(request));
        }
    }
}

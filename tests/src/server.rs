//! A real server of the lab: nginx with TLS, telling its own name.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{Host, PATIENCE, Spawned, host::command, until};

/// Bytes of `/big`.
pub const BIG_SIZE: usize = 100_000_000;
/// Bytes of `/small`.
pub const SMALL_SIZE: usize = 10_000;

/// One nginx on a host of its own. Over HTTPS (443) and HTTP (80, 8080), IPv4 and IPv6:
/// `/whoami` answers one line `<label> <client address> <client port>`, `/page` the same line and [`page`] after it,
/// `/small` and `/big` are the same fixed bytes on every server.
#[derive(Debug)]
pub struct Server {
    /// The machine it runs on.
    pub host: Host,
    /// What it calls itself: `Hyperspace_Srv_1`.
    pub label: String,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    pub address6: Ipv6Addr,
    folder: PathBuf,
    nginx: Mutex<Option<Spawned>>,
}

impl Server {
    /// Writes its configuration below `folder` and starts it.
    pub(crate) fn new(
        host: Host,
        label: &str,
        address: Ipv4Addr,
        address6: Ipv6Addr,
        folder: &Path,
        site: &Site,
    ) -> Result<Self> {
        let folder = folder.join(label);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("nginx.conf"), nginx_conf(label, &folder, site))?;
        let server = Self { host, label: label.into(), address, address6, folder, nginx: Mutex::new(None) };
        server.launch()?;
        Ok(server)
    }

    /// Starts nginx again after [`Self::kill`], and waits until it accepts.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Waits until it accepts connections on its HTTPS port.
    pub fn wait_ready(&self) -> Result<()> {
        let socket = SocketAddr::new(self.address.into(), 443);
        until(&format!("{} to accept", self.label), PATIENCE, || {
            let connected = self.host.within(|| TcpStream::connect_timeout(&socket, Duration::from_secs(1)));
            if connected.is_err()
                && let Some(nginx) = &mut *self.nginx.lock().expect("no panic while held")
                && let Some(status) = nginx.ended()?
            {
                anyhow::bail!("nginx ended with {status}: {}", nginx.log());
            }
            Ok(Some(connected?))
        })
        .map(drop)
    }

    /// Fault: kills nginx, master and workers, without a goodbye. Its kernel answers with resets from then on.
    pub fn kill(&self) -> Result<()> {
        let mut running = self.nginx.lock().expect("no panic while held");
        let mut nginx = running.take().with_context(|| format!("{} is not running", self.label))?;
        // The workers would go on without their master.
        let workers = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children", pid = nginx.pid()))?;
        nginx.signal(Signal::SIGKILL)?;
        nginx.wait(PATIENCE)?;
        for worker in workers.split_whitespace() {
            let pid = nix::unistd::Pid::from_raw(worker.parse()?);
            match nix::sys::signal::kill(pid, Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot kill worker {pid}")),
            }
        }
        drop(running);
        until(&format!("{} to be gone", self.label), PATIENCE, || {
            let socket = SocketAddr::new(self.address.into(), 443);
            let refused = self.host.within(|| TcpStream::connect_timeout(&socket, Duration::from_secs(1))).is_err();
            Ok(refused.then_some(()))
        })
    }

    /// Fault: freezes (`true`) or thaws every process of the server. Its kernel still completes handshakes.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let running = self.nginx.lock().expect("no panic while held");
        let nginx = running.as_ref().with_context(|| format!("{} is not running", self.label))?;
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        let workers = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children", pid = nginx.pid()))?;
        nginx.signal(signal)?;
        for worker in workers.split_whitespace() {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker.parse()?), signal)?;
        }
        Ok(())
    }

    /// How many requests it logged: `<client address> <client port> <path>` a line.
    pub fn access_log(&self) -> Result<Vec<String>> {
        Ok(fs::read_to_string(self.folder.join("access.log"))?.lines().map(str::to_owned).collect())
    }

    fn launch(&self) -> Result<()> {
        let mut running = self.nginx.lock().expect("no panic while held");
        ensure!(running.is_none(), "{} is running already", self.label);
        let configuration = self.folder.join("nginx.conf");
        let arguments = ["-p", path(&self.folder), "-c", path(&configuration), "-e", "stderr"];
        *running = Some(self.host.spawn("nginx", &arguments, &self.folder.join("error.log"))?);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.nginx.lock().is_ok_and(|nginx| nginx.is_some())
            && let Err(error) = self.kill()
        {
            complain!("{error:#}");
        }
    }
}

/// What `/page` answers below its first line, on every server: 3,000 characters (three segments) without a pattern.
pub fn page() -> String {
    let mut noise = Noise::new();
    std::iter::repeat_with(|| format!("{:015x}", noise.word() >> 4)).take(200).collect()
}

/// What all servers of a lab share: a self-signed certificate and the files they serve.
#[derive(Debug)]
pub(crate) struct Site {
    folder: PathBuf,
}

impl Site {
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let folder = folder.join("site");
        fs::create_dir_all(folder.join("www"))?;
        fs::write(folder.join("both.pem"), key_and_certificate()?)?;
        write_noise(&folder.join("www/small"), SMALL_SIZE)?;
        Ok(Self { folder })
    }

    /// The file behind `/big`, written on first use.
    pub(crate) fn big(&self) -> Result<PathBuf> {
        self.file("big", BIG_SIZE)
    }

    /// The file behind `/small`.
    pub(crate) fn small(&self) -> Result<PathBuf> {
        self.file("small", SMALL_SIZE)
    }

    fn file(&self, name: &str, size: usize) -> Result<PathBuf> {
        let file = self.folder.join("www").join(name);
        if !file.exists() {
            write_noise(&file, size)?;
        }
        Ok(file)
    }
}

/// A key and a self-signed certificate of it, made once for all labs of this process.
fn key_and_certificate() -> Result<&'static str> {
    static BOTH: OnceLock<String> = OnceLock::new();
    if let Some(both) = BOTH.get() {
        return Ok(both);
    }
    // An elliptic curve: a handshake then costs little, and a thousand of them are a matter of seconds.
    let line = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout - -out -";
    let mut argv: Vec<&str> = line.split(' ').collect();
    argv.extend(["-subj", "/CN=epiclb lab"]);
    let both = command(&argv)?;
    Ok(BOTH.get_or_init(|| both))
}

fn nginx_conf(label: &str, folder: &Path, site: &Site) -> String {
    let (folder, site, page) = (folder.display(), site.folder.display(), page());
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    log_format lab "$remote_addr $remote_port $uri";
    access_log {folder}/access.log lab;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    sendfile on;
    keepalive_timeout 3600s;
    keepalive_requests 100000;
    ssl_certificate {site}/both.pem;
    ssl_certificate_key {site}/both.pem;
    ssl_session_tickets off;
    server {{
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        listen 8080 backlog=4096;
        listen [::]:8080 backlog=4096;
        listen 443 ssl backlog=4096;
        listen [::]:443 ssl backlog=4096;
        root {site}/www;
        location = /whoami {{
            default_type text/plain;
            return 200 "{label} $remote_addr $remote_port\n";
        }}
        location = /page {{
            default_type text/plain;
            return 200 "{label} $remote_addr $remote_port\n{page}";
        }}
    }}
}}
"#
    )
}

fn write_noise(file: &Path, size: usize) -> Result<()> {
    let mut noise = Noise::new();
    let mut out = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(file)?);
    let mut left = size;
    while left > 0 {
        let word = noise.word().to_le_bytes();
        let take = left.min(word.len());
        out.write_all(&word[..take])?;
        left -= take;
    }
    out.flush().with_context(|| format!("cannot write {}", file.display()))
}

/// Bytes without a pattern that a shifted, repeated or swapped segment could hide in (xorshift64*, fixed seed).
struct Noise(u64);

impl Noise {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the lab's folders have plain names")
}

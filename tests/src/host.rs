//! One machine of the lab: a named network namespace with an `eth0`.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A network namespace, `/run/netns/<namespace>`.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    namespace: String,
}

impl Host {
    /// Creates namespaces with nothing in them. `prefix` makes them unique on the machine.
    pub(crate) fn create<const N: usize>(prefix: &str, names: [&str; N]) -> Result<[Self; N]> {
        let hosts = names.map(|name| Self { name: name.into(), namespace: format!("{prefix}{name}") });
        ip_batch(&[], hosts.iter().map(|host| format!("netns add {}", host.namespace)))?;
        for host in &hosts {
            // Duplicate address detection would hold every address back for a second or more.
            host.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
            host.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
            // A spoofed packet must get as far as it would on a network that does not filter.
            host.sysctl("net/ipv4/conf/default/rp_filter", "0")?;
            host.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        }
        Ok(hosts)
    }

    /// The name within the lab: `lb1`, `clients`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the namespace, as `ip netns` lists it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The file that names the namespace: what `nsenter --net=` takes.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.namespace)
    }

    /// A command that will run on this host. Mounts stay the machine's own, so that `/sys/fs/bpf` is what it was
    /// (`ip netns exec` would mount a fresh `/sys`).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns().display())).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a shell line and returns what it wrote; an error unless it exits with 0.
    pub fn run(&self, line: &str) -> Result<String> {
        self.within(|| command(&["sh", "-c", line])).with_context(|| format!("on {}", self.name))
    }

    /// Starts a command that lives until it is dropped. `log` receives both of its outputs.
    pub fn spawn(&self, program: &str, args: &[&str], log: &std::path::Path) -> Result<Spawned> {
        let mut command = self.command(program);
        command.args(args);
        Spawned::new(command, log).with_context(|| format!("on {}: cannot start {program}", self.name))
    }

    /// `ip` with these arguments, in this namespace.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut argv = vec!["ip", "-n", &self.namespace];
        argv.extend(arguments.split_whitespace());
        command(&argv).with_context(|| format!("on {}", self.name))
    }

    /// `ip` with each of these lines in turn, in one process.
    pub(crate) fn ip_lines<L: AsRef<str>>(&self, lines: impl IntoIterator<Item = L>) -> Result<()> {
        ip_batch(&["-n", &self.namespace], lines).with_context(|| format!("on {}", self.name))
    }

    /// Writes a setting below `/proc/sys` as this host sees it, e.g. `net/ipv4/ip_forward`.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/{path}");
        self.within(|| fs::write(&file, value)).with_context(|| format!("on {}: cannot write {file}", self.name))
    }

    /// Runs `task` on a thread that has entered this host, and waits for it. Sockets it opens belong to this host.
    pub fn within<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                self.enter().expect("the namespace exists as long as its Host");
                task()
            });
            match entered.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Like [`Self::within`], without waiting.
    pub fn thread<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let host = self.clone();
        thread::spawn(move || {
            host.enter().expect("the namespace exists as long as its Host");
            task()
        })
    }

    /// A counter of its TCP (RFC 4022 and Linux's own; both families): 0 if the kernel has none of the name.
    pub fn tcp_counter(&self, name: &str) -> u64 {
        let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        let text = self.within(|| ["snmp", "netstat"].map(read).concat());
        let tables = ["Tcp: ", "TcpExt: "].map(|table| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(table));
            (lines.next().unwrap_or(""), lines.next().unwrap_or(""))
        });
        let mut cells = tables.iter().flat_map(|(names, values)| names.split(' ').zip(values.split(' ')));
        cells.find(|(cell, _)| *cell == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    /// How many of its connections were ever reset while they were open. A RST that meets a connection which both
    /// sides have closed (a FIN that was sent twice provokes one) is none.
    pub fn resets(&self) -> u64 {
        self.tcp_counter("EstabResets")
    }

    /// The hardware address of one of its interfaces.
    pub fn mac(&self, interface: &str) -> Result<String> {
        let line = self.ip(&format!("-o link show {interface}"))?;
        let mac = line.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        Ok(mac.with_context(|| format!("no hardware address in {line}"))?.to_owned())
    }

    /// Fault: gives `eth0` another hardware address, as a replaced server would have.
    pub fn change_mac(&self, mac: &str) -> Result<()> {
        self.ip(&format!("link set eth0 address {mac}"))?;
        let now = self.mac("eth0")?;
        ensure!(now.eq_ignore_ascii_case(mac), "{}: asked for {mac}, has {now}", self.name);
        Ok(())
    }

    /// Fault: drops what `matching` describes (`ip saddr 10.20.0.7`, `tcp dport 443`) on the way `hook` (`input`,
    /// `output`, `forward`, `prerouting`) until the returned rule is dropped.
    pub fn drop_packets(&self, hook: &str, matching: &str) -> Result<NftRule> {
        self.rule(hook, matching, "drop")
    }

    /// Counts what `matching` describes on the way `hook`, and does nothing else to it.
    pub fn count_packets(&self, hook: &str, matching: &str) -> Result<NftRule> {
        self.rule(hook, matching, "")
    }

    fn rule(&self, hook: &str, matching: &str, verdict: &str) -> Result<NftRule> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let table = format!("epiclb_lab_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.run(&format!(
            "nft 'table inet {table} {{ chain c {{ type filter hook {hook} priority -300; {matching} counter {verdict}; }}; }}'"
        ))?;
        Ok(NftRule { host: self.clone(), table })
    }

    /// Fault: `address` answers no more, in either direction.
    pub fn isolate_from(&self, address: IpAddr) -> Result<[NftRule; 2]> {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        Ok([
            self.drop_packets("prerouting", &format!("{family} saddr {address}"))?,
            self.drop_packets("output", &format!("{family} daddr {address}"))?,
        ])
    }

    /// Switches checksum and segmentation offloads of an interface, and verifies it. They are off in the lab: they put
    /// unfinished checksums and oversized segments on a virtual wire, which an XDP program then sees.
    pub fn offloads(&self, interface: &str, on: bool) -> Result<()> {
        let word = if on { "on" } else { "off" };
        let ethtool = |argv: &[&str]| self.within(|| command(argv)).with_context(|| format!("on {}", self.name));
        ethtool(&["ethtool", "-K", interface, "tx", word, "tso", word, "gso", word, "gro", word])?;
        let features = ethtool(&["ethtool", "-k", interface])?;
        for feature in ["tx-checksumming", "tcp-segmentation-offload", "generic-segmentation-offload"] {
            ensure!(
                features.lines().any(|line| line.starts_with(&format!("{feature}: {word}"))),
                "{}: {feature} of {interface} is not {word} after `ethtool -K`",
                self.name
            );
        }
        Ok(())
    }

    fn enter(&self) -> Result<()> {
        let file = File::open(self.netns()).with_context(|| format!("no namespace {}", self.namespace))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", self.namespace))
    }
}

/// A rule in force that drops or counts; removed when it goes out of scope.
#[derive(Debug)]
#[must_use = "the rule is removed when this is dropped"]
pub struct NftRule {
    host: Host,
    table: String,
}

impl NftRule {
    /// How many packets it met: a fault that hits nothing proves nothing.
    pub fn hits(&self) -> Result<u64> {
        let text = self.host.run(&format!("nft list table inet {}", self.table))?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).and_then(|n| n.parse().ok()).with_context(|| format!("no counter in {text}"))
    }
}

impl Drop for NftRule {
    fn drop(&mut self) {
        if let Err(error) = self.host.run(&format!("nft delete table inet {}", self.table)) {
            complain!("cannot remove a rule: {error:#}");
        }
    }
}

/// A process of the lab, killed when it goes out of scope.
#[derive(Debug)]
pub struct Spawned {
    child: Child,
    log: PathBuf,
}

impl Spawned {
    pub(crate) fn new(mut command: Command, log: &std::path::Path) -> io::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // A group of its own: Ctrl-C in the terminal is for the lab, which then ends its processes in order.
        command.process_group(0);
        Ok(Self { child: command.spawn()?, log: log.into() })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids fit"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("cannot send {signal} to {}", self.pid()))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end; an error after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("process {} still runs after {limit:?}", self.pid());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        match File::open(&self.log).and_then(|mut file| file.read_to_end(&mut text)) {
            Ok(_) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("(no log at {}: {error})", self.log.display()),
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// `ip` with these options, and with each of these lines in turn.
pub(crate) fn ip_batch<L: AsRef<str>>(options: &[&str], lines: impl IntoIterator<Item = L>) -> Result<()> {
    let lines: Vec<L> = lines.into_iter().collect();
    let text: String = lines.iter().flat_map(|line| [line.as_ref(), "\n"]).collect();
    let mut child = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip")?;
    // It is dropped, and so closed, once everything is written.
    child.stdin.take().context("a pipe was asked for")?.write_all(text.as_bytes())?;
    succeeded(child.wait_with_output()?).with_context(|| format!("ip {} of\n{text}", options.join(" "))).map(drop)
}

/// Runs a command of the machine itself; what it wrote, or an error with what it complained of.
pub(crate) fn command(argv: &[&str]) -> Result<String> {
    let output = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", argv[0]))?;
    succeeded(output).with_context(|| argv.join(" "))
}

pub(crate) fn succeeded(output: Output) -> Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! The network of the Epic guide.
//!
//! ```text
//!   clients ── gateway ──┐ switch (a bridge) ┌── lb1   192.168.85.10   fd00:85::10
//!  10.20.0.0/16  .1      ├───────────────────┼── Hyperspace_Srv_1..3   .200 .201 .202
//!  fd00:20::/64          │                   └── MyChart_Srv_1..2      .210 .211
//!   near  .100 ──────────┘ 192.168.85.0/24, fd00:85::/64
//! ```

use std::{
    fs::{self, Permissions},
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::{
    Host, Server, fixtures,
    server::Site,
    sweep::{self, BPFFS},
    xdp_pass::XdpPass,
};

/// The whole lab. Hosts, servers, pins and files are removed when it is dropped.
#[derive(Debug)]
pub struct Lab {
    /// The bridge everything is plugged into, and the far ends of the cables (`p-<host>`).
    pub switch: Host,
    /// The router between the clients and the servers' network.
    pub gateway: Host,
    /// Where 65,000 IPv4 and 2^64 IPv6 client addresses live; see [`Lab::client`].
    pub clients: Host,
    /// One client on the servers' own network: 192.168.85.100, fd00:85::100.
    pub near: Host,
    /// The balancer.
    pub lb1: Host,
    /// The five real servers, in the order of the reference configuration.
    pub servers: Vec<Server>,
    site: Site,
    passes: Vec<XdpPass>,
    prefix: String,
    folder: PathBuf,
    bpffs: PathBuf,
}

impl Lab {
    /// Lays the network and starts the servers; about a second. Needs root.
    pub fn epic() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ensure!(nix::unistd::geteuid().is_root(), "the lab needs root: it makes network namespaces");
        if NEXT.load(Ordering::Relaxed) == 0 {
            sweep::sweep();
        }
        mount_bpffs()?;
        let prefix = format!("epiclb-{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::lay(&prefix).inspect_err(|_| {
            sweep::remove(&prefix);
        })
    }

    /// [`Self::epic`] for a test. Where something is missing (root, nginx, …) it fails under `CI` and is a loud skip
    /// (`None`) elsewhere; any other failure panics.
    pub fn epic_or_skip() -> Option<Self> {
        if let Some(missing) = missing_prerequisites() {
            assert!(std::env::var_os("CI").is_none(), "cannot test: {missing}");
            // Written past libtest, which would swallow it for a test that passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {missing}. `cargo xtask setup` installs what is missing.");
            return None;
        }
        Some(Self::epic().unwrap_or_else(|error| panic!("cannot lay the lab: {error:?}")))
    }

    /// The `n`-th client behind the gateway: 10.20.0.1 + n. Any of them can be bound on [`Self::clients`].
    pub fn client(&self, n: u16) -> Ipv4Addr {
        let [high, low] = n.checked_add(1).expect("65,534 clients").to_be_bytes();
        Ipv4Addr::new(10, 20, high, low)
    }

    /// The `n`-th IPv6 client behind the gateway: fd00:20::1 + n.
    pub fn client6(&self, n: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, n.checked_add(1).expect("65,534 clients"))
    }

    /// The `n`-th client behind the gateway, of the family of `vip`.
    pub fn client_for(&self, vip: IpAddr, n: u16) -> IpAddr {
        if vip.is_ipv4() { self.client(n).into() } else { self.client6(n).into() }
    }

    /// The address of [`Self::near`]: 192.168.85.100.
    pub fn near_address(&self) -> IpAddr {
        Ipv4Addr::new(192, 168, 85, 100).into()
    }

    /// The server with this label.
    ///
    /// # Panics
    /// There is none.
    pub fn server(&self, label: &str) -> &Server {
        self.servers.iter().find(|server| server.label == label).unwrap_or_else(|| panic!("no server {label}"))
    }

    /// The prefix of everything it made: `epiclb-<pid>-<n>-`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A folder of its own, for configurations, logs and downloads.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder of its own on a real bpffs.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The control socket of the configuration that [`Self::write_config`] writes.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("epiclb.sock")
    }

    /// The bytes behind `/big` ([`crate::BIG_SIZE`]); call it before requesting them, since they are written on
    /// first use.
    pub fn big(&self) -> Result<PathBuf> {
        self.site.big()
    }

    /// The bytes behind `/small` ([`crate::SMALL_SIZE`]).
    pub fn small(&self) -> Result<PathBuf> {
        self.site.small()
    }

    /// The reference `node.toml` with the lab's own paths, and `more` top-level lines (`xdp_mode = "generic"`).
    pub fn node_toml(&self, more: &str) -> String {
        format!(
            "{}\n# The lab's own.\nsocket = {:?}\nstate_dir = {:?}\nbpffs_dir = {:?}\n{more}\n",
            fixtures::NODE.trim_end(),
            self.socket(),
            self.folder.join("state"),
            self.bpffs,
        )
    }

    /// Writes a configuration folder; both texts whole. Returns its path, always the same.
    pub fn write_config(&self, node: &str, services: &str) -> Result<PathBuf> {
        let folder = self.folder.join("config");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("node.toml"), node)?;
        fs::write(folder.join("services.toml"), services)?;
        Ok(folder)
    }

    /// Gives the balancer this secret (64 hexadecimal digits) instead of one of its own: its rings, and so who goes
    /// where, can be repeated. Call it before the daemon's first start.
    pub fn set_secret(&self, secret: &str) -> Result<()> {
        let path = self.folder.join("state/secret");
        fs::write(&path, secret)?;
        Ok(fs::set_permissions(&path, Permissions::from_mode(0o600))?)
    }

    /// Fault: pulls (`false`) or plugs the cable of `host`, at the switch.
    pub fn plug(&self, host: &Host, plugged: bool) -> Result<()> {
        let port = port(host);
        self.switch.ip(&format!("link set {port} {}", if plugged { "up" } else { "down" }))?;
        let state = host.ip("-o link show eth0")?;
        ensure!(state.contains("NO-CARRIER") != plugged, "{} does not see its cable {plugged}: {state}", host.name());
        Ok(())
    }

    /// Removes everything a lab of this prefix made, from outside: for a signal handler that cannot drop it.
    pub fn remove_by_prefix(prefix: &str) -> usize {
        sweep::remove(prefix)
    }

    fn lay(prefix: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("{prefix}lab"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::create_dir_all(folder.join("state"))?;
        let bpffs = Path::new(BPFFS).join(format!("{prefix}lb1"));
        fs::create_dir_all(&bpffs).with_context(|| format!("cannot create {}", bpffs.display()))?;

        let [switch, gateway, clients, near, lb1, s200, s201, s202, s210, s211] = Host::create(
            prefix,
            ["switch", "gateway", "clients", "near", "lb1", "srv200", "srv201", "srv202", "srv210", "srv211"],
        )?;
        // Who is plugged into the switch, and the last part of its addresses.
        let plugged = [
            (&gateway, 1),
            (&near, 100),
            (&lb1, 10),
            (&s200, 200),
            (&s201, 201),
            (&s202, 202),
            (&s210, 210),
            (&s211, 211),
        ];
        cable(&switch, &plugged.map(|(host, _)| host))?;
        for (host, last) in plugged {
            address(host, last)?;
        }
        route(&gateway, &clients)?;

        let site = Site::create(&folder)?;
        let servers: Vec<Server> = [
            (s200, "Hyperspace_Srv_1", 200),
            (s201, "Hyperspace_Srv_2", 201),
            (s202, "Hyperspace_Srv_3", 202),
            (s210, "MyChart_Srv_1", 210),
            (s211, "MyChart_Srv_2", 211),
        ]
        .into_iter()
        .map(|(host, label, last)| {
            let address = format!("192.168.85.{last}").parse().expect("an address");
            let address6 = format!("fd00:85::{last}").parse().expect("an address");
            Server::new(host, label, address, address6, &folder, &site)
        })
        .collect::<Result<_>>()?;
        for server in &servers {
            server.wait_ready()?;
        }
        let passes = vec![XdpPass::attach(&switch, &port(&lb1))?];
        let prefix = prefix.to_owned();
        Ok(Self { switch, gateway, clients, near, lb1, servers, site, passes, prefix, folder, bpffs })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.servers.clear();
        self.passes.clear();
        sweep::remove(&self.prefix);
    }
}

/// What the machine lacks for a lab, in words; `None` if nothing.
pub fn missing_prerequisites() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root, so no network namespaces".into());
    }
    let missing: Vec<&str> = ["ip", "nsenter", "ethtool", "nft", "nginx", "openssl", "curl"]
        .into_iter()
        .filter(|program| {
            !["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/usr/local/sbin"]
                .iter()
                .any(|folder| Path::new(folder).join(program).exists())
        })
        .collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

/// The far end of a host's cable, in the switch.
fn port(host: &Host) -> String {
    format!("p-{}", host.name())
}

/// The switch, and a cable from it to the `eth0` of each host.
fn cable(switch: &Host, hosts: &[&Host]) -> Result<()> {
    switch.ip_lines([
        "link set lo up",
        "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        "link set br0 up",
    ])?;
    // Where the kernel has it, bridge netfilter eats malformed packets before the balancer sees them.
    for family in ["ip", "ip6", "arp"] {
        let setting = format!("net/bridge/bridge-nf-call-{family}tables");
        if switch.within(|| Path::new("/proc/sys").join(&setting).exists()) {
            switch.sysctl(&setting, "0")?;
        }
    }
    switch.ip_lines(hosts.iter().flat_map(|host| {
        let port = port(host);
        [
            format!("link add {port} type veth peer name eth0 netns {}", host.namespace()),
            format!("link set {port} master br0 up"),
        ]
    }))
}

/// The addresses of a host on the switch, and its way to everybody else (the gateway's own excepted).
fn address(host: &Host, last: u8) -> Result<()> {
    host.offloads("eth0", false)?;
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("addr add 192.168.85.{last}/24 dev eth0"),
        format!("addr add fd00:85::{last}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
    ];
    if last != 1 {
        lines.extend(["route add default via 192.168.85.1", "route add default via fd00:85::1"].map(str::to_owned));
    }
    host.ip_lines(lines)
}

/// The clients' machine behind the gateway: its whole network is its own, so any source address can be bound.
fn route(gateway: &Host, clients: &Host) -> Result<()> {
    gateway.ip(&format!("link add eth1 type veth peer name eth0 netns {}", clients.namespace()))?;
    gateway.offloads("eth1", false)?;
    clients.offloads("eth0", false)?;
    gateway.sysctl("net/ipv4/ip_forward", "1")?;
    gateway.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    clients.ip_lines([
        "link set lo up",
        "addr add 10.21.0.2/30 dev eth0",
        "addr add fd00:21::2/64 dev eth0 nodad",
        "link set eth0 up",
        "route add default via 10.21.0.1",
        "route add default via fd00:21::1",
        // Local routes make every address of these networks this host's, without adding 65,000 of them.
        "route add local 10.20.0.0/16 dev lo",
        "route add local fd00:20::/64 dev lo",
    ])?;
    clients.sysctl("net/ipv6/ip_nonlocal_bind", "1")?;
    gateway.ip_lines([
        "addr add 10.21.0.1/30 dev eth1",
        "addr add fd00:21::1/64 dev eth1 nodad",
        "link set eth1 up",
        "route add 10.20.0.0/16 via 10.21.0.2",
        "route add fd00:20::/64 via fd00:21::2",
    ])
}

fn mount_bpffs() -> Result<()> {
    let is_bpf = || statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if is_bpf() {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount a bpffs at {BPFFS}"))?;
    if !is_bpf() {
        bail!("{BPFFS} is no bpffs even after mounting one");
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! The host's side of the VIPs: addresses, the guard, the program on its interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use epiclb_common::{Addr, hop::mac_word};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracing::{info, warn};

use super::state::State;
use crate::{
    config,
    dataplane::{Attached, Bpf, Mode},
    desired::{Desired, HostPorts},
    guard,
    model::{Node, XdpMode},
    netlink::{Address, Link, Mac, Netlink, XdpPlace, interface_for},
};

/// What was done to the host, and the means to do more.
pub(super) struct Host {
    pub(super) net: Netlink,
    pins: PathBuf,
    attached: BTreeMap<u32, Attached>,
    guard: Option<guard::Spec>,
    /// Held for as long as the daemon runs: one daemon to a folder of pins.
    _lock: Flock<File>,
}

impl Host {
    pub(super) fn open(node: &Node) -> Result<Self> {
        let lock = lock(&bpffs(&node.bpffs_dir)?)?;
        let net = Netlink::open().context("opening netlink")?;
        Ok(Self { net, pins: node.bpffs_dir.clone(), attached: BTreeMap::new(), guard: None, _lock: lock })
    }

    pub(super) async fn links(&self) -> Result<BTreeMap<u32, Link>> {
        self.net.links().await.context("listing interfaces")
    }

    pub(super) async fn addresses(&self) -> Result<Vec<Address>> {
        self.net.addresses().await.context("listing addresses")
    }

    /// Tells the program the MACs of its interfaces, and puts it on every one that is there and does not run it: at the
    /// start, and when one comes back. Whether that was any.
    pub(super) fn attach(&mut self, bpf: &mut Bpf, state: &State) -> Result<bool> {
        let mut attached_any = false;
        for link in state.interfaces(&state.config) {
            bpf.set_interface(link.ifindex, mac_word(link.mac))?;
        }
        for link in state.interfaces(&state.config) {
            if self.attached.contains_key(&link.ifindex) && link.xdp.is_some() {
                continue;
            }
            let present = link.xdp.as_ref().map(|xdp| {
                let mode = if matches!(xdp.place, XdpPlace::Generic) { Mode::Generic } else { Mode::Native };
                (xdp.prog_id, mode)
            });
            let mode = mode_for(&link.name, state.config.node.xdp_mode)?;
            let attached = bpf.attach(&link.name, link.ifindex, mode, present, Some(&self.pins))?;
            if !matches!(
                (mode, attached.mode),
                (XdpMode::Auto, _) | (XdpMode::Native, Mode::Native) | (XdpMode::Generic, Mode::Generic)
            ) {
                warn!(
                    interface = link.name,
                    "goes on in {} mode as the daemon before has left it; stop and start to change it", attached.mode
                );
            }
            info!(interface = link.name, mode = %attached.mode, "XDP attached");
            self.attached.insert(link.ifindex, attached);
            attached_any = true;
        }
        Ok(attached_any)
    }

    /// Keeps the host's own stack from ever answering for a guarded address.
    pub(super) fn guard(&mut self, state: &State, desired: &Desired) -> Result<()> {
        let guarded = desired.tables.addresses.iter().map(|addr| IpAddr::from(*addr));
        let redirects = state.config.services.redirects().into_keys();
        let spec = guard::Spec::new(guarded, redirects);
        if self.guard.as_ref() != Some(&spec) {
            self.guard = None;
            guard::install(&spec).context("installing the VIP guard")?;
            self.guard = Some(spec);
        }
        Ok(())
    }

    /// A look at whether the guard is still what it should be, to be taken off the loop: `false` if somebody has flushed
    /// or changed it.
    pub(super) fn guard_audit(&self) -> impl FnOnce() -> bool + Send + 'static {
        let spec = self.guard.clone();
        move || match spec {
            Some(spec) => guard::installed().is_ok_and(|installed| installed == guard::Installed::Intact(spec)),
            None => false,
        }
    }

    /// Has the guard installed again by the next [`Host::guard`].
    pub(super) fn distrust_guard(&mut self) {
        self.guard = None;
    }

    /// Makes the addresses on our interfaces those of `wanted`, and tells the neighbours of new ones.
    pub(super) async fn set_addresses(&mut self, state: &State, wanted: &BTreeSet<Addr>) -> Result<()> {
        let candidates: Vec<u32> = state.interfaces(&state.config).map(|link| link.ifindex).collect();
        let held = self.addresses().await?;
        let present: BTreeSet<IpAddr> = held.iter().map(|address| address.ip).collect();
        let own: Vec<Address> = held.iter().filter(|address| !address.ours).cloned().collect();
        let mut new = Vec::new();
        for ip in wanted.iter().map(|addr| IpAddr::from(*addr)).filter(|ip| !present.contains(ip)) {
            let ifindex = interface_for(ip, &candidates, &own).ok_or_else(|| anyhow!("no interface for {ip}"))?;
            if self.net.add_address(ifindex, ip).await.with_context(|| format!("adding address {ip}"))? {
                info!(%ip, interface = name(state, ifindex), "address added");
                new.push((ifindex, ip));
            }
        }
        if !new.is_empty() {
            // Off the loop: it takes a fifth of a second.
            let net = self.net.clone();
            tokio::spawn(async move {
                if let Err(error) = net.announce(&new).await {
                    warn!("announcing addresses: {error}");
                }
            });
        }
        for address in held.iter().filter(|held| held.ours && !wanted.contains(&Addr::from(held.ip))) {
            self.net
                .remove_address(address.ifindex, address.ip)
                .await
                .with_context(|| format!("removing address {}", address.ip))?;
            info!(ip = %address.ip, interface = name(state, address.ifindex), "address removed");
        }
        Ok(())
    }

    /// Undoes everything, in the order in which nothing answers wrongly: the guard goes last. One step that fails does not
    /// keep the others from being taken.
    pub(super) async fn clean_up(mut self, state: &State, bpf: Bpf) -> Result<()> {
        let mut failed = Vec::new();
        let mut step = |what: &str, result: Result<()>| {
            if let Err(error) = result {
                failed.push(format!("{what}: {error:#}"));
            }
        };
        step("removing addresses", self.set_addresses(state, &BTreeSet::new()).await);
        for attached in std::mem::take(&mut self.attached).into_values() {
            step("detaching XDP", attached.detach().map_err(Into::into));
        }
        drop(bpf);
        step("removing pinned maps", Bpf::remove_pins_under(&self.pins).map_err(Into::into));
        step("removing the VIP guard", guard::remove().map_err(Into::into));
        if failed.is_empty() { Ok(()) } else { Err(anyhow!("{}", failed.join("; "))) }
    }
}

/// One daemon to a folder of pins, whatever their sockets are: two would undo each other's work.
fn lock(dir: &Path) -> Result<Flock<File>> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let folder = File::open(dir).with_context(|| format!("opening {}", dir.display()))?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => anyhow!(
            "another epiclb runs with bpffs_dir {}: stop it first, or give this one a folder and interfaces of its own",
            dir.display()
        ),
        errno => anyhow!("locking {}: {errno}", dir.display()),
    })
}

/// The mode to attach in. Packets of a bond come up with their member's index in native mode, which is not ours.
fn mode_for(interface: &str, mode: XdpMode) -> Result<XdpMode> {
    let is_bond = Path::new("/sys/class/net").join(interface).join("bonding").exists();
    match mode {
        XdpMode::Native if is_bond => bail!(
            "{interface} is a bond, and native XDP on bonds is not built yet: set xdp_mode to \"auto\" or \"generic\""
        ),
        XdpMode::Auto if is_bond => {
            info!(interface, "is a bond: XDP in generic mode");
            Ok(XdpMode::Generic)
        }
        mode => Ok(mode),
    }
}

fn name(state: &State, ifindex: u32) -> &str {
    state.links.get(&ifindex).map_or("?", |link| link.name.as_str())
}

/// A MAC as people write it.
pub(super) fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What validation needs to know of this machine.
pub(super) fn facts() -> io::Result<config::Host> {
    config::Host::from_system()
}

/// The ports that the host takes for its own connections.
pub(super) fn ports() -> Result<HostPorts> {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(HostPorts { first, last }),
        _ => bail!("{path} is not understood: {text:?}"),
    }
}

/// The folder for pins, on a BPF file system: mounted at its usual place if it is not.
pub(super) fn bpffs(dir: &Path) -> Result<PathBuf> {
    const USUAL: &str = "/sys/fs/bpf";
    let is_bpffs = || {
        let there = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(dir);
        statfs(there).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
    };
    if !is_bpffs() && dir.starts_with(USUAL) {
        info!("mounting the BPF file system at {USUAL}");
        mount(Some("bpf"), USUAL, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting the BPF file system at {USUAL}"))?;
    }
    if !is_bpffs() {
        bail!("bpffs_dir {} is not on a BPF file system: `mount -t bpf bpf {USUAL}`", dir.display());
    }
    Ok(dir.to_owned())
}

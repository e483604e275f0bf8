//! The loaded object: maps by name and type, reading them back, and carrying out plans.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Map, MapData, MapInfo, PerCpuArray},
    programs::{SchedClassifier, Xdp},
};
use epiclb_common::{
    Addr, Flow, FlowKey, Hop, Pin, PinKey, Rip, RipStats, ServiceKey, Snat, Verdict, Vip,
    hash::Seed,
    maps::{LAYOUT, RING_SLOTS, name, size},
    verdict::{Counter, Note},
};

use super::{Table, Tables};
use crate::{model::Limits, plan::Op};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/epiclb-xdp"));

/// What the program is built with when it is loaded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Table sizes.
    pub limits: Limits,
    /// The secret behind rings and ports.
    pub seed: Seed,
    /// Where maps are pinned; `None`: nowhere, everything goes with the process.
    pub pins: Option<PathBuf>,
}

/// The loaded data path.
pub struct Bpf {
    seed: Seed,
    pub(super) ebpf: Ebpf,
    interfaces: Table<u32, u64>,
    addresses: Table<Addr, u32>,
    services: Table<ServiceKey, u32>,
    vips: Table<u32, Vip>,
    rings: Table<u32, u32>,
    rips: Table<u32, Rip>,
    hops: Table<u32, u64>,
    snats: Table<u32, Snat>,
    verdicts: PerCpuArray<MapData, Counter>,
    rip_stats: PerCpuArray<MapData, RipStats>,
    shared: Arc<Shared>,
}

/// The maps that packets write, for whoever looks through them beside the daemon's loop.
pub(super) struct Shared {
    pub(super) flows: Table<FlowKey, Flow>,
    pub(super) pins: Table<PinKey, Pin>,
    pub(super) notes: Table<u32, u64>,
    /// Pins that were cleared by hand, so that the sweeper does not take them for evicted.
    pub(super) cleared_pins: AtomicU64,
}

impl Bpf {
    /// Loads the object: verifies the programs, makes the maps, or takes over those that are pinned.
    ///
    /// # Errors
    /// The kernel's reasons, with the verifier's log where it refuses a program; pinned maps of another size.
    pub fn load(settings: &Settings) -> Result<Self> {
        let had_pins = settings.pins.as_ref().is_some_and(|dir| layout_dir(dir).exists());
        let loaded = Self::load_or_take_over(settings);
        // What is there from an earlier run stays; what this one has made goes.
        if let (Err(_), Some(dir)) = (&loaded, &settings.pins)
            && !had_pins
        {
            let _ = Self::remove_pins_under(dir);
        }
        loaded
    }

    fn load_or_take_over(settings: &Settings) -> Result<Self> {
        let limits = settings.limits;
        let sizes: BTreeMap<&str, u32> = BTreeMap::from([
            (name::FLOWS, limits.flows.saturating_mul(2)),
            (name::HALF_OPEN, limits.half_open),
            (name::PINS, limits.pins + pin_headroom(limits.pins)),
        ]);
        let pin_limit = u64::from(limits.pins);
        let mut loader = EbpfLoader::new();
        loader.override_global("SEED_0", &settings.seed.0, true);
        loader.override_global("SEED_1", &settings.seed.1, true);
        loader.override_global("PIN_LIMIT", &pin_limit, true);
        for (name, entries) in &sizes {
            loader.map_max_entries(name, *entries);
        }
        if let Some(dir) = &settings.pins {
            let dir = layout_dir(dir);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            for name in name::ALL {
                let path = dir.join(name);
                check_pinned(&path, sizes.get(name).copied())?;
                loader.map_pin_path(name, path);
            }
        }
        let mut ebpf = loader.load(OBJECT).context("loading the BPF object")?;
        let program: &mut Xdp =
            ebpf.program_mut(PROGRAM).ok_or_else(|| anyhow!("the object has no {PROGRAM}"))?.try_into()?;
        program.load().context("the kernel refused the XDP program")?;
        let toucher: &mut SchedClassifier =
            ebpf.program_mut(TOUCH).ok_or_else(|| anyhow!("the object has no {TOUCH}"))?.try_into()?;
        toucher.load().context("the kernel refused the program that refreshes pins")?;

        let mut take = |name: &str| ebpf.take_map(name).ok_or_else(|| anyhow!("the object has no map {name}"));
        Ok(Self {
            seed: settings.seed,
            verdicts: take(name::VERDICTS)?.try_into()?,
            rip_stats: take(name::RIP_STATS)?.try_into()?,
            interfaces: table(&ebpf, name::INTERFACES)?,
            addresses: table(&ebpf, name::ADDRESSES)?,
            services: table(&ebpf, name::SERVICES)?,
            vips: table(&ebpf, name::VIPS)?,
            rings: table(&ebpf, name::RINGS)?,
            rips: table(&ebpf, name::RIPS)?,
            hops: table(&ebpf, name::HOPS)?,
            snats: table(&ebpf, name::SNATS)?,
            shared: Arc::new(Shared {
                flows: table(&ebpf, name::FLOWS)?,
                pins: table(&ebpf, name::PINS)?,
                notes: table(&ebpf, name::NOTES)?,
                cleared_pins: AtomicU64::new(0),
            }),
            ebpf,
        })
    }

    /// Reads back what the kernel holds.
    ///
    /// # Errors
    /// The kernel's.
    pub fn actual(&self) -> Result<Tables> {
        let mut tables = Tables {
            services: read(&self.services).context("reading SERVICES")?,
            vips: read(&self.vips).context("reading VIPS")?,
            rips: read(&self.rips).context("reading RIPS")?,
            snats: read(&self.snats).context("reading SNATS")?,
            ..Tables::default()
        };
        self.addresses
            .for_each(|addr, _| {
                tables.addresses.insert(*addr);
            })
            .context("reading ADDRESSES")?;
        self.hops
            .for_each(|rip, hop| {
                if *hop != 0 {
                    tables.hops.insert(*rip, Hop(*hop));
                }
            })
            .context("reading HOPS")?;
        Ok(tables)
    }

    /// Carries out one step of a plan.
    ///
    /// # Errors
    /// The kernel's: no room for another entry, for example.
    pub fn apply(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::AddAddress(addr) => self.addresses.put(addr, &0),
            Op::PutSnat(id, snat) => self.snats.put(id, snat),
            Op::PutRip(id, rip) => self.rips.put(id, rip),
            Op::PutHop(id, hop) => self.hops.put(id, &hop.0),
            Op::PublishRing(id, ring) => {
                self.forget_ring(*id).and_then(|()| self.publish_ring(*id, &ring.table(self.seed)))
            }
            Op::PutVip(id, vip) => self.vips.put(id, vip),
            Op::PutService(key, vip) => self.services.put(key, vip),
            Op::RemoveService(key) => self.services.remove(key).map(drop),
            Op::RemoveVip(id) => self.vips.remove(id).and_then(|_| self.publish_ring(*id, &[])),
            Op::RemoveRip(id) => {
                self.reset_stats(*id)?;
                self.rips.remove(id).map(drop)
            }
            Op::RemoveSnat(id) => self.snats.remove(id).map(drop),
            Op::RemoveAddress(addr) => self.addresses.remove(addr).map(drop),
        }
        .with_context(|| format!("could not {op}"))
    }

    /// Takes back what a VIP says its ring is made of.
    fn forget_ring(&self, vip: u32) -> io::Result<()> {
        match self.vips.get(&vip)? {
            Some(wire) if wire.ring != 0 => self.vips.put(&vip, &Vip { ring: 0, ..wire }),
            _ => Ok(()),
        }
    }

    /// Swaps a VIP's ring for one with these slots. Slot 0 holds their number, so that a ring and its length can't
    /// be seen apart.
    fn publish_ring(&self, vip: u32, table: &[u32]) -> io::Result<()> {
        let entries = table.len() as u32 + 1;
        debug_assert!(entries <= RING_SLOTS + 1);
        let ring = Table::inner_array(entries)?;
        let keys: Vec<u32> = (0..entries).collect();
        let values: Vec<u32> = std::iter::once(table.len() as u32).chain(table.iter().copied()).collect();
        ring.put_all(&keys, &values)?;
        self.rings.set_inner(vip, &ring)
    }

    /// A RIP's id may be given to another RIP, which starts from zero.
    fn reset_stats(&mut self, rip: u32) -> Result<()> {
        let zero = vec![RipStats::default(); aya::util::nr_cpus().map_err(|(_, error)| error)?];
        self.rip_stats.set(rip, zero.try_into()?, 0)?;
        Ok(())
    }

    /// Tells the program an interface's MAC, as a word; 0: not ours.
    ///
    /// # Errors
    /// An interface index that the hop words have no room for.
    pub fn set_interface(&mut self, ifindex: u32, mac: u64) -> Result<()> {
        if ifindex >= size::INTERFACES as u32 {
            bail!("interface index {ifindex} is above {}: too many interfaces came and went", size::INTERFACES - 1);
        }
        Ok(self.interfaces.put(&ifindex, &mac)?)
    }

    /// Packets and bytes by verdict, summed over the CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn verdicts(&self) -> Result<Vec<(Verdict, Counter)>> {
        Verdict::ALL
            .iter()
            .map(|verdict| {
                let cpus = self.verdicts.get(&(*verdict as u32), 0)?;
                let sum = cpus.iter().fold(Counter::default(), |sum, cpu| Counter {
                    packets: sum.packets + cpu.packets,
                    bytes: sum.bytes + cpu.bytes,
                });
                Ok((*verdict, sum))
            })
            .collect()
    }

    /// A RIP's traffic, summed over the CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn rip_stats(&self, rip: u32) -> Result<RipStats> {
        Ok(self.rip_stats.get(&rip, 0)?.iter().copied().sum())
    }

    /// The program's other counts.
    ///
    /// # Errors
    /// The kernel's.
    pub fn notes(&self) -> Result<Vec<(Note, u64)>> {
        let mut cells = BTreeMap::new();
        self.shared.notes.for_each(|index, count| {
            cells.insert(*index, *count);
        })?;
        Ok(Note::ALL.iter().map(|note| (*note, cells.get(&(*note as u32)).copied().unwrap_or(0))).collect())
    }

    /// The slots of a VIP's ring, as the kernel has them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ring(&self, vip: u32) -> Result<Vec<u32>> {
        let Some(ring) = self.rings.inner(vip)? else { return Ok(Vec::new()) };
        let mut slots = Vec::new();
        ring.for_each(|_, rip| slots.push(*rip))?;
        slots.remove(0);
        Ok(slots)
    }

    /// Calls `each` with every entry of every flow.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_each_flow(&self, each: impl FnMut(&FlowKey, &Flow)) -> io::Result<()> {
        self.shared.flows.for_each(each)
    }

    /// Calls `each` with every pin, expired ones that were not swept yet included.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_each_pin(&self, each: impl FnMut(&PinKey, &Pin)) -> io::Result<()> {
        self.shared.pins.for_each(each)
    }

    /// A client's pin, expired or not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pin(&self, key: &PinKey) -> io::Result<Option<Pin>> {
        self.shared.pins.get(key)
    }

    /// Forgets clients. Returns how many were remembered.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_pins(&self, keys: &[PinKey]) -> io::Result<usize> {
        // Counted first: a sweep in between rather expects too few than too many.
        self.shared.cleared_pins.fetch_add(keys.len() as u64, Ordering::Relaxed);
        self.shared.pins.remove_all(keys)
    }

    /// The XDP program itself, for a test run.
    ///
    /// # Errors
    /// None in practice: [`Bpf::load`] has found and loaded it.
    pub fn program(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program(PROGRAM).ok_or_else(|| anyhow!("the object has no {PROGRAM}"))?.try_into()?)
    }

    /// Sets a pin, as a test or a restored snapshot has it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put_pin(&self, key: &PinKey, pin: &Pin) -> io::Result<()> {
        self.shared.pins.put(key, pin)
    }

    /// Sets one direction of a flow, as a test has it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put_flow(&self, key: &FlowKey, flow: &Flow) -> io::Result<()> {
        self.shared.flows.put(key, flow)
    }

    /// Removes what is pinned under `dir`: the kernel frees it when nothing uses it any more.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove_pins_under(dir: &Path) -> io::Result<()> {
        let dir = layout_dir(dir);
        match fs::read_dir(&dir) {
            Ok(entries) => {
                for entry in entries {
                    fs::remove_file(entry?.path())?;
                }
                fs::remove_dir(&dir)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What a sweeper needs, to run beside the daemon's loop.
    ///
    /// # Errors
    /// The kernel's, when the program's handle can't be duplicated.
    pub fn sweeper(&mut self, limits: Limits) -> Result<super::Sweeper> {
        let toucher: &mut SchedClassifier =
            self.ebpf.program_mut(TOUCH).ok_or_else(|| anyhow!("the object has no {TOUCH}"))?.try_into()?;
        let touch = toucher.fd()?.as_fd().try_clone_to_owned().context("duplicating a program handle")?;
        Ok(super::Sweeper::new(self.shared.clone(), touch, limits))
    }
}

/// The XDP program's name in the object.
pub(super) const PROGRAM: &str = "epiclb_xdp";
/// Name of the program that refreshes pins for the sweeper.
const TOUCH: &str = "epiclb_touch";

/// The folder of this layout's pins below the configured one.
pub(super) fn layout_dir(dir: &Path) -> PathBuf {
    dir.join(format!("v{LAYOUT}"))
}

/// Room above the limit at which the program stops adding pins: an LRU keeps up to 128 free entries back for each CPU
/// and evicts before it is full (LOCAL_FREE_TARGET, kernel/bpf/bpf_lru_list.c).
fn pin_headroom(pins: u32) -> u32 {
    let cpus = aya::util::nr_cpus().unwrap_or(1) as u32;
    pins / 16 + 256 * cpus
}

/// Refuses a pinned map whose size is not the one asked for: aya would take it silently.
fn check_pinned(path: &Path, entries: Option<u32>) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let info = MapInfo::from_pin(path).with_context(|| format!("{} is not a BPF map", path.display()))?;
    match entries {
        Some(entries) if info.max_entries() != entries => bail!(
            "{} holds {} entries, and [limits] asks for {entries}: tables can't change their size while they are in use. \
             Put the old value back, start, and stop cleanly (`epiclb stop`) before changing it; or, after a crash, remove \
             the folder and lose open connections and pins",
            path.display(),
            info.max_entries(),
        ),
        _ => Ok(()),
    }
}

fn read<K: Pod + Default + Ord, V: Pod + Default>(table: &Table<K, V>) -> io::Result<BTreeMap<K, V>> {
    let mut entries = BTreeMap::new();
    table.for_each(|key, value| {
        entries.insert(*key, *value);
    })?;
    Ok(entries)
}

/// The map `name` of the object, which keeps it alive.
fn table<K: Pod + Default, V: Pod + Default>(ebpf: &Ebpf, name: &str) -> Result<Table<K, V>> {
    let map = ebpf.map(name).ok_or_else(|| anyhow!("the object has no map {name}"))?;
    let (Map::Array(data) | Map::ArrayOfMaps(data) | Map::HashMap(data) | Map::LruHashMap(data)) = map else {
        bail!("map {name} is of another kind: {map:?}");
    };
    Table::new(data.fd()).with_context(|| format!("opening map {name}"))
}

//! Every map, and the few typed functions through which the program uses them.
//!
//! Values are copied out, but for flows, half-open flows and pins: those are refreshed through the looked-up pointer,
//! because a map update would evict others (LRU) or allocate.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray},
    helpers::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns},
    macros::btf_map,
};
use epiclb_common::{
    Addr, Flow, FlowKey, HalfOpen, Hop, Pin, PinKey, Rip, RipStats, ServiceKey, Snat, Verdict, Vip,
    hash::Seed,
    maps::{RING_SLOTS, size},
    verdict::{Counter, Note},
};

/// Flags of a ring: rings of different lengths may stand in one outer map (kernel 5.10).
const BPF_F_INNER_MAP: usize = 1 << 12;

/// Flag of the tables that the daemon writes: a preallocated entry may be reused while a packet reads it, and would then
/// show another key's value.
const BPF_F_NO_PREALLOC: usize = 1;

type Ring = Array<u32, { RING_SLOTS as usize + 1 }, BPF_F_INNER_MAP>;

#[btf_map]
static INTERFACES: Array<u64, { size::INTERFACES }> = Array::new();
#[btf_map]
static ADDRESSES: HashMap<Addr, u32, { size::ADDRESSES }, BPF_F_NO_PREALLOC> = HashMap::new();
#[btf_map]
static SERVICES: HashMap<ServiceKey, u32, { size::SERVICES }, BPF_F_NO_PREALLOC> = HashMap::new();
#[btf_map]
static VIPS: HashMap<u32, Vip, { size::VIPS }, BPF_F_NO_PREALLOC> = HashMap::new();
#[btf_map]
static RINGS: ArrayOfMaps<Ring, { size::RINGS }> = ArrayOfMaps::new();
#[btf_map]
static RIPS: HashMap<u32, Rip, { size::RIPS }, BPF_F_NO_PREALLOC> = HashMap::new();
#[btf_map]
static HOPS: Array<u64, { size::HOPS }> = Array::new();
#[btf_map]
static SNATS: HashMap<u32, Snat, { size::SNATS }, BPF_F_NO_PREALLOC> = HashMap::new();
#[btf_map]
static FLOWS: HashMap<FlowKey, Flow, { size::FLOWS }> = HashMap::new();
#[btf_map]
static HALF_OPEN: LruHashMap<FlowKey, HalfOpen, { size::HALF_OPEN }> = LruHashMap::new();
#[btf_map]
static PINS: LruHashMap<PinKey, Pin, { size::PINS }> = LruHashMap::new();
#[btf_map]
static VERDICTS: PerCpuArray<Counter, { size::VERDICTS }> = PerCpuArray::new();
#[btf_map]
static RIP_STATS: PerCpuArray<RipStats, { size::RIP_STATS }> = PerCpuArray::new();
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
#[btf_map]
static NOTES: Array<u64, { size::NOTES }> = Array::new();

/// Working space for what is too large for the 512-byte stack. One to a CPU is enough: the program runs with bottom
/// halves off, so it never interrupts itself.
#[repr(C)]
pub(crate) struct Scratch {
    /// The key of the RIP's answer.
    pub(crate) answer: FlowKey,
    /// The entry for the way to the RIP.
    pub(crate) there: Flow,
    /// The entry for the way back, or either on its way into the half-open table.
    pub(crate) half: HalfOpen,
}

// Set by the daemon before the program is loaded; constants to the verifier.
#[unsafe(no_mangle)]
static SEED_0: u64 = 0;
#[unsafe(no_mangle)]
static SEED_1: u64 = 0;
/// Pins that may be held before none is added.
#[unsafe(no_mangle)]
static PIN_LIMIT: u64 = u64::MAX;

/// A global as the daemon has set it.
macro_rules! setting {
    ($name:ident) => {{
        // SAFETY: reads a static of this object; volatile, since the compiler would fold the value in this file.
        unsafe { core::ptr::read_volatile(&raw const $name) }
    }};
}

/// This CPU's working space, with whatever the last packet left in it.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's own slot; callers take it once a packet.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// The secret behind rings and ports.
#[inline(always)]
pub(crate) fn seed() -> Seed {
    Seed(setting!(SEED_0), setting!(SEED_1))
}

/// Nanoseconds since boot, suspend included (CLOCK_BOOTTIME). About 25 ns.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// A number that changes about once a second (2^30 ns), cheaply.
#[inline(always)]
pub(crate) fn coarse_second() -> u32 {
    // SAFETY: no arguments.
    unsafe { (bpf_ktime_get_coarse_ns() >> 30) as u32 }
}

/// The MAC of an interface we are attached to, or 0.
#[inline(always)]
pub(crate) fn interface(ifindex: u32) -> u64 {
    INTERFACES.get(ifindex).copied().unwrap_or(0)
}

/// Whether an address is a VIP or a SNAT address of ours.
#[inline(always)]
pub(crate) fn is_ours(addr: &Addr) -> bool {
    ADDRESSES.get_ptr(addr).is_some()
}

/// The VIP that serves `key`, with its id.
#[inline(always)]
pub(crate) fn service(key: &ServiceKey) -> Option<(u32, Vip)> {
    // SAFETY: copied out at once; an update replaces an entry as a whole, and the old one lives until no packet reads it.
    unsafe {
        let id = *SERVICES.get(key)?;
        Some((id, *VIPS.get(id)?))
    }
}

/// The RIP at the ring slot of `hash`. The ring is looked up once: it may be swapped for another at any time.
#[inline(always)]
pub(crate) fn ring(vip: u32, hash: u64) -> Option<u32> {
    let ring = RINGS.get(vip)?;
    let slots = *ring.get(0)?;
    if slots == 0 {
        return None;
    }
    ring.get(epiclb_common::hash::reduce(hash, slots) + 1).copied()
}

/// What is fixed of a RIP.
#[inline(always)]
pub(crate) fn rip(id: u32) -> Option<Rip> {
    // SAFETY: as for `service`.
    unsafe { RIPS.get(id).copied() }
}

/// Where a RIP's frames go now, and what may go there.
#[inline(always)]
pub(crate) fn hop(rip: u32) -> Hop {
    Hop(HOPS.get(rip).copied().unwrap_or(0))
}

/// One SNAT address.
#[inline(always)]
pub(crate) fn snat(index: u32) -> Option<Snat> {
    // SAFETY: as for `service`.
    unsafe { SNATS.get(index).copied() }
}

/// The entry of an open flow, to be read and refreshed in place.
#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> Option<&'static mut Flow> {
    // SAFETY: valid memory until the program ends. Other CPUs may write the same fields, each by one aligned store. The
    // sweeper may remove the entry meanwhile and another flow take its place, but only one that is long over.
    FLOWS.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Adds one direction of a flow, unless the key is taken.
#[inline(always)]
pub(crate) fn add_flow(key: &FlowKey, flow: &Flow) -> Result<(), i32> {
    FLOWS.insert(key, flow, BPF_NOEXIST.into())
}

/// Removes one direction of a flow.
#[inline(always)]
pub(crate) fn remove_flow(key: &FlowKey) {
    // Gone already is as good.
    let _ = FLOWS.remove(key);
}

/// A handshake under way.
#[inline(always)]
pub(crate) fn half_open(key: &FlowKey) -> Option<&'static mut HalfOpen> {
    // SAFETY: as for `flow`.
    HALF_OPEN.get_ptr_mut(key).map(|half| unsafe { &mut *half })
}

/// Adds a handshake, unless the key is taken.
#[inline(always)]
pub(crate) fn add_half_open(key: &FlowKey, half: &HalfOpen) -> Result<(), i32> {
    HALF_OPEN.insert(key, half, BPF_NOEXIST.into())
}

/// Adds or replaces a handshake. An LRU makes room, so it fails only for want of kernel locks: the peer retries.
#[inline(always)]
pub(crate) fn put_half_open(key: &FlowKey, half: &HalfOpen) {
    let _ = HALF_OPEN.insert(key, half, BPF_ANY.into());
}

/// Removes a handshake.
#[inline(always)]
pub(crate) fn remove_half_open(key: &FlowKey) {
    // Gone already is as good.
    let _ = HALF_OPEN.remove(key);
}

/// A client's pin, to be read and refreshed in place.
#[inline(always)]
pub(crate) fn pin(key: &PinKey) -> Option<&'static mut Pin> {
    // SAFETY: as for `flow`.
    PINS.get_ptr_mut(key).map(|pin| unsafe { &mut *pin })
}

/// Remembers a client, as long as there is room: a full LRU would forget others. `verified` clients may use all
/// of the table, others nine tenths. The count is kept by [`Note::PinInserted`] and the daemon's sweeper.
#[inline(always)]
pub(crate) fn add_pin(key: &PinKey, pin: &Pin, verified: bool) {
    let limit = setting!(PIN_LIMIT);
    let limit = if verified { limit } else { limit - limit / 10 };
    if held_pins() >= limit {
        note(Note::PinTableFull);
    } else if PINS.insert(key, pin, BPF_NOEXIST.into()).is_ok() {
        note(Note::PinInserted);
    }
}

/// Slot of [`NOTES`] in which the daemon counts the pins it has removed.
const PINS_REMOVED: u32 = Note::COUNT;

#[inline(always)]
fn held_pins() -> u64 {
    let at = |index| NOTES.get(index).copied().unwrap_or(0);
    at(Note::PinInserted as u32).wrapping_sub(at(PINS_REMOVED))
}

/// Counts a packet under its verdict.
#[inline(always)]
pub(crate) fn count(verdict: Verdict, len: u64) {
    if let Some(counter) = VERDICTS.get_ptr_mut(verdict as u32) {
        // SAFETY: this CPU's own slot.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += len;
        }
    }
}

/// Counts something worth knowing.
#[inline(always)]
pub(crate) fn note(note: Note) {
    if let Some(count) = NOTES.get_ptr_mut(note as u32) {
        atomic_increment(count);
    }
}

/// One atomic addition: the cell is shared by all CPUs. `AtomicU64` has no addition on this architecture, since a
/// compare-and-swap came to it late (kernel 5.12).
#[inline(always)]
fn atomic_increment(cell: *mut u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: `cell` is an aligned u64 of a map value.
    unsafe {
        core::arch::asm!("lock *(u64 *)({cell} + 0) += {one}", cell = in(reg) cell, one = in(reg) 1_u64);
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        *cell += 1;
    }
}

/// This CPU's traffic counters of a RIP.
#[inline(always)]
pub(crate) fn rip_stats(rip: u32, update: impl FnOnce(&mut RipStats)) {
    if let Some(stats) = RIP_STATS.get_ptr_mut(rip) {
        // SAFETY: this CPU's own slot.
        update(unsafe { &mut *stats });
    }
}

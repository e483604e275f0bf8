//! The laws of plans, on an interpreter of their steps.

use epiclb_common::vip::LOCAL;
use proptest::prelude::*;

use super::*;
use crate::desired::tests::{SEED, State, any_node};

/// A data path that keeps its tables in memory.
#[derive(Clone, Default)]
struct Memory {
    tables: Tables,
    /// VIP id -> slots.
    rings: BTreeMap<u32, Vec<u32>>,
}

impl Memory {
    fn apply(&mut self, op: &Op) {
        let tables = &mut self.tables;
        match op {
            Op::AddAddress(addr) => drop(tables.addresses.insert(*addr)),
            Op::PutSnat(id, snat) => drop(tables.snats.insert(*id, *snat)),
            Op::PutRip(id, rip) => drop(tables.rips.insert(*id, *rip)),
            // The kernel's is an array: zero is as good as absent.
            Op::PutHop(id, Hop(0)) => drop(tables.hops.remove(id)),
            Op::PutHop(id, hop) => drop(tables.hops.insert(*id, *hop)),
            Op::PublishRing(id, ring) => {
                if let Some(vip) = tables.vips.get_mut(id) {
                    vip.ring = 0;
                }
                self.rings.insert(*id, ring.table(SEED));
            }
            Op::PutVip(id, vip) => drop(tables.vips.insert(*id, *vip)),
            Op::PutService(key, vip) => drop(tables.services.insert(*key, *vip)),
            Op::RemoveService(key) => drop(tables.services.remove(key)),
            Op::RemoveVip(id) => drop((tables.vips.remove(id), self.rings.remove(id))),
            Op::RemoveRip(id) => drop(tables.rips.remove(id)),
            Op::RemoveSnat(id) => drop(tables.snats.remove(id)),
            Op::RemoveAddress(addr) => drop(tables.addresses.remove(addr)),
        }
    }

    /// Why a packet could be misdirected, if it could.
    fn unsound(&self) -> Result<(), String> {
        let tables = &self.tables;
        for (key, id) in &tables.services {
            let vip =
                tables.vips.get(id).ok_or_else(|| format!("{key:?} is served by VIP {id}, which is not there"))?;
            if !tables.addresses.contains(&key.addr) {
                return Err(format!("{} is served and not guarded", key.addr));
            }
            if vip.flags & LOCAL != 0 {
                continue;
            }
            for n in vip.snat_first..vip.snat_first + vip.snat_count {
                tables.snats.get(&n).ok_or_else(|| format!("VIP {id} has no SNAT address {n}"))?;
            }
            let slots = self.rings.get(id).ok_or_else(|| format!("VIP {id} has no ring"))?;
            for rip in slots.iter().collect::<BTreeSet<_>>() {
                let wire =
                    tables.rips.get(rip).ok_or_else(|| format!("VIP {id}'s ring has RIP {rip}, which is gone"))?;
                if wire.group != vip.group {
                    return Err(format!("VIP {id}'s ring has RIP {rip}, which is another VIP's"));
                }
                let hop = tables.hops.get(rip).copied().unwrap_or_default();
                if !hop.has(Hop::KNOWN | Hop::FLOWS | Hop::PINNED) {
                    return Err(format!("VIP {id}'s ring has RIP {rip}, which may take nobody"));
                }
            }
        }
        Ok(())
    }
}

/// A data path as the first node wants it.
fn settled(state: &State) -> Memory {
    let mut memory = Memory::default();
    plan(&memory.tables, &state.desired()).iter().for_each(|op| memory.apply(op));
    memory
}

/// The second state, with the first one's data path in its kernel.
fn changed_to(first: &State, mut second: State) -> (Memory, State) {
    let memory = settled(first);
    second.actual = memory.tables.clone();
    (memory, second)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_plan_carried_out_is_what_was_desired(first in any_node(), second in any_node()) {
        let (mut memory, second) = changed_to(&first, second);
        let desired = second.desired();
        plan(&memory.tables, &desired).iter().for_each(|op| memory.apply(op));
        prop_assert_eq!(&memory.tables, &desired.tables);
        for (vip, ring) in &desired.rings {
            prop_assert!(memory.rings[vip] == ring.table(SEED), "the ring of VIP {} is another", vip);
        }
        prop_assert_eq!(plan(&memory.tables, &desired), []);
    }

    #[test]
    fn wherever_a_plan_ends_no_packet_is_misdirected(first in any_node(), second in any_node()) {
        let (mut memory, second) = changed_to(&first, second);
        prop_assert_eq!(memory.unsound(), Ok(()));
        let desired = second.desired();
        let ops = plan(&memory.tables, &desired);
        for (n, op) in ops.iter().enumerate() {
            memory.apply(op);
            if let Err(why) = memory.unsound() {
                let ops: Vec<_> = ops.iter().take(n + 1).map(Op::to_string).collect();
                prop_assert!(false, "{why}, after {ops:#?}");
            }
        }
    }

    #[test]
    fn a_plan_that_was_cut_short_is_made_up_for_by_the_next(
        first in any_node(),
        second in any_node(),
        cut: proptest::sample::Index,
    ) {
        let (mut memory, mut second) = changed_to(&first, second);
        let ops = plan(&memory.tables, &second.desired());
        ops.iter().take(cut.index(ops.len() + 1)).for_each(|op| memory.apply(op));
        second.actual = memory.tables.clone();
        let desired = second.desired();
        for op in plan(&memory.tables, &desired) {
            memory.apply(&op);
            prop_assert_eq!(memory.unsound(), Ok(()));
        }
        prop_assert_eq!(&memory.tables, &desired.tables);
        for (vip, ring) in &desired.rings {
            prop_assert!(memory.rings[vip] == ring.table(SEED), "the ring of VIP {} is another", vip);
        }
    }

    #[test]
    fn a_plan_that_was_cut_short_leaves_no_ring_taken_for_another(
        first in any_node(),
        second in any_node(),
        cut: proptest::sample::Index,
    ) {
        // The operator's reload is cut short, and taken back.
        let (mut memory, second) = changed_to(&first, second);
        let ops = plan(&memory.tables, &second.desired());
        ops.iter().take(cut.index(ops.len() + 1)).for_each(|op| memory.apply(op));
        let mut back = first;
        back.actual = memory.tables.clone();
        let desired = back.desired();
        plan(&memory.tables, &desired).iter().for_each(|op| memory.apply(op));
        prop_assert_eq!(memory.unsound(), Ok(()));
        for (vip, ring) in &desired.rings {
            prop_assert!(memory.rings[vip] == ring.table(SEED), "the ring of VIP {} is another", vip);
        }
    }

    #[test]
    fn nothing_is_touched_that_stays_as_it_is(first in any_node(), second in any_node()) {
        let (memory, second) = changed_to(&first, second);
        let desired = second.desired();
        let mut written = BTreeSet::new();
        for op in plan(&memory.tables, &desired) {
            prop_assert!(written.insert(op.to_string()), "{op} twice");
            let same = match &op {
                Op::PutSnat(id, snat) => memory.tables.snats.get(id) == Some(snat),
                Op::PutRip(id, rip) => memory.tables.rips.get(id) == Some(rip),
                Op::PutHop(id, hop) => memory.tables.hops.get(id) == Some(hop),
                Op::PutVip(id, vip) => memory.tables.vips.get(id) == Some(vip),
                Op::PutService(key, vip) => memory.tables.services.get(key) == Some(vip),
                Op::AddAddress(addr) => memory.tables.addresses.contains(addr),
                Op::PublishRing(id, ring) => memory.rings.get(id) == Some(&ring.table(SEED)) && !ring.members.is_empty(),
                _ => false,
            };
            // A ring of the same slots may be of other members: its weights have changed in proportion, for example.
            prop_assert!(!same || matches!(op, Op::PublishRing(..)), "{op} for nothing");
        }
    }
}

//! A VIP's ring: which RIP each slot belongs to.
//!
//! Weighted Maglev (Eisenbud et al., NSDI 2016, 3.4) over all RIPs that have a weight, and then one step of our own:
//! slots of RIPs that can't take clients now are given to the others, by the same permutations, without touching any
//! other slot. So a RIP that goes moves exactly its own slots, and one that comes back gets exactly its own back.
//!
//! Pure: the same members and seed give the same ring on every node. Order of members does not matter.

use epiclb_common::{
    hash::{Seed, reduce, siphash},
    maps::RING_SLOTS,
};

/// What a ring is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// The VIP's RIPs.
    pub members: Vec<Member>,
}

/// One RIP as its ring sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Names the RIP alike on every node; also breaks ties.
    pub identity: u64,
    /// Its id in the data path.
    pub rip: u32,
    /// Its share of new clients relative to the others'; 0 takes none.
    pub weight: u16,
    /// Whether it can take clients now.
    pub live: bool,
}

/// A slot that nobody has claimed.
const FREE: u32 = u32::MAX;

impl Ring {
    /// A number that differs whenever the table would.
    pub fn digest(&self, seed: Seed) -> u64 {
        let mut members = self.members.clone();
        members.sort_unstable();
        members.iter().fold(u64::from(RING_SLOTS), |digest, m| {
            let rest = u64::from(m.rip) | u64::from(m.weight) << 32 | u64::from(m.live) << 48;
            siphash(seed, [digest, m.identity, rest])
        })
    }

    /// The RIP id of every slot; empty when no RIP can take clients.
    pub fn table(&self, seed: Seed) -> Vec<u32> {
        let mut members: Vec<_> = self.members.iter().copied().filter(|m| m.weight > 0).collect();
        members.sort_unstable();
        if members.iter().all(|m| !m.live) {
            return Vec::new();
        }
        let mut table = vec![FREE; RING_SLOTS as usize];
        let all: Vec<_> = (0..members.len()).collect();
        claim(&mut table, &members, &all, seed);
        let live: Vec<_> = all.into_iter().filter(|&i| members[i].live).collect();
        if live.len() < members.len() {
            for slot in &mut table {
                if !members[*slot as usize].live {
                    *slot = FREE;
                }
            }
            claim(&mut table, &members, &live, seed);
        }
        table.iter().map(|&index| members[index as usize].rip).collect()
    }
}

/// Lets `who` (indices into `members`) claim every free slot, in turns by weight. Slots hold such indices.
fn claim(table: &mut [u32], members: &[Member], who: &[usize], seed: Seed) {
    let slots = table.len() as u32;
    let mut free = table.iter().filter(|&&slot| slot == FREE).count();
    let heaviest = who.iter().map(|&i| u32::from(members[i].weight)).max().unwrap_or(1);
    let mut walks: Vec<_> = who.iter().map(|&i| Walk::new(i, &members[i], slots, seed)).collect();
    while free > 0 {
        for walk in &mut walks {
            // A RIP of half the heaviest weight gets every second turn.
            walk.credit += u32::from(members[walk.index].weight);
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            let slot = walk.next_free(table);
            table[slot] = walk.index as u32;
            free -= 1;
            if free == 0 {
                return;
            }
        }
    }
}

/// A RIP's permutation of all slots, and how far it has come.
struct Walk {
    index: usize,
    at: u32,
    skip: u32,
    slots: u32,
    credit: u32,
}

impl Walk {
    fn new(index: usize, member: &Member, slots: u32, seed: Seed) -> Self {
        let hash = siphash(seed, [member.identity]);
        let skip = 1 + reduce(siphash(seed, [member.identity, 1]), slots - 1);
        Self { index, at: reduce(hash, slots), skip, slots, credit: 0 }
    }

    /// The next slot of the permutation that is free; there must be one. Visits every slot, the length being prime.
    fn next_free(&mut self, table: &[u32]) -> usize {
        loop {
            let slot = self.at as usize;
            self.at += self.skip;
            if self.at >= self.slots {
                self.at -= self.slots;
            }
            if table[slot] == FREE {
                return slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SEED: Seed = Seed(7, 11);

    fn ring(weights: &[u16]) -> Ring {
        let member = |(i, &weight): (usize, &u16)| Member {
            identity: siphash(Seed(1, 2), [i as u64]),
            rip: 10 + i as u32,
            weight,
            live: true,
        };
        Ring { members: weights.iter().enumerate().map(member).collect() }
    }

    fn shares(table: &[u32]) -> BTreeMap<u32, f64> {
        let mut count: BTreeMap<u32, f64> = BTreeMap::new();
        table.iter().for_each(|rip| *count.entry(*rip).or_default() += 1.0);
        count.values_mut().for_each(|n| *n /= table.len() as f64);
        count
    }

    fn moved(a: &[u32], b: &[u32]) -> f64 {
        a.iter().zip(b).filter(|(x, y)| x != y).count() as f64 / a.len() as f64
    }

    #[test]
    fn shares_follow_the_weights() {
        let shares = shares(&ring(&[100, 50, 0, 250]).table(SEED));
        assert!((shares[&10] - 0.25).abs() < 0.005, "{shares:?}");
        assert!((shares[&11] - 0.125).abs() < 0.005, "{shares:?}");
        assert!(!shares.contains_key(&12));
        assert!((shares[&13] - 0.625).abs() < 0.005, "{shares:?}");
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let ring = ring(&[100, 50, 70]);
        let mut reversed = ring.clone();
        reversed.members.reverse();
        assert_eq!(ring.table(SEED), reversed.table(SEED));
        assert_eq!(ring.digest(SEED), reversed.digest(SEED));
    }

    #[test]
    fn another_seed_is_another_ring() {
        let ring = ring(&[100, 100, 100]);
        assert!(moved(&ring.table(SEED), &ring.table(Seed(8, 11))) > 0.5);
        assert_ne!(ring.digest(SEED), ring.digest(Seed(8, 11)));
    }

    #[test]
    fn a_ring_without_live_members_is_empty() {
        let mut ring = ring(&[100, 100]);
        ring.members.iter_mut().for_each(|m| m.live = false);
        assert!(ring.table(SEED).is_empty());
        assert!(Ring::default().table(SEED).is_empty());
    }

    #[test]
    fn a_rip_added_to_the_configuration_takes_its_share_and_little_more() {
        let before = ring(&[100; 10]).table(SEED);
        let after = ring(&[100; 11]).table(SEED);
        let ideal = 1.0 / 11.0;
        assert!(moved(&before, &after) < ideal + 0.03, "{}", moved(&before, &after));
    }

    #[test]
    fn a_seventeenth_rip_moves_no_more_than_its_share() {
        let moved = moved(&ring(&[100; 16]).table(SEED), &ring(&[100; 17]).table(SEED));
        assert!(moved < 1.0 / 17.0 + 0.03, "{moved}");
    }

    #[test]
    fn a_changed_weight_moves_little_more_than_the_difference() {
        let before = ring(&[100, 100, 100]).table(SEED);
        let after = ring(&[100, 100, 50]).table(SEED);
        // The third RIP goes from 1/3 to 1/5 of the clients.
        assert!(moved(&before, &after) < (1.0 / 3.0 - 1.0 / 5.0) + 0.05, "{}", moved(&before, &after));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_rip_that_goes_moves_only_its_own_slots_and_gets_them_back(
            weights in proptest::collection::vec(1u16..=256, 2..12),
            gone in proptest::collection::vec(any::<bool>(), 12),
            last: proptest::sample::Index,
        ) {
            let mut ring = ring(&weights);
            ring.members.iter_mut().zip(&gone).for_each(|(m, gone)| m.live = !gone);
            let last = last.index(weights.len());
            ring.members[last].live = true;
            let before = ring.table(SEED);
            prop_assert!(before.iter().all(|rip| ring.members.iter().any(|m| m.rip == *rip && m.live)));

            // All up again, then down again: the table is the same.
            let states: Vec<_> = ring.members.iter().map(|m| m.live).collect();
            ring.members.iter_mut().for_each(|m| m.live = true);
            let full = ring.table(SEED);
            for (slot, rip) in full.iter().enumerate() {
                let was_live = ring.members.iter().zip(&states).any(|(m, live)| m.rip == *rip && *live);
                if was_live {
                    prop_assert_eq!(before[slot], *rip);
                }
            }
        }
    }
}

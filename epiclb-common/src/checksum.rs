//! Internet checksum arithmetic (RFC 1071), full and incremental (RFC 1624).
//!
//! Words are taken as they stand in memory: one's-complement sums do not depend on byte order (RFC 1071, 2(B)),
//! so nothing is swapped on either side.

/// What a rewrite does to a checksum: the one's-complement sum of what comes in, less what goes out.
///
/// Reads as a sentence: `Delta::default().remove(old).add(new)`. It depends only on the rewritten fields, so it is
/// computed once per flow and applied to every packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// A 32-bit field that goes out.
    #[inline(always)]
    #[must_use]
    pub const fn remove(self, old: u32) -> Self {
        self.add(!old)
    }

    /// A 32-bit field that comes in.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, new: u32) -> Self {
        Self(self.0 + new as u64)
    }

    /// Four words that go out.
    #[inline(always)]
    #[must_use]
    pub const fn remove_words(self, w: &[u32; 4]) -> Self {
        self.remove(w[0]).remove(w[1]).remove(w[2]).remove(w[3])
    }

    /// Four words that come in.
    #[inline(always)]
    #[must_use]
    pub const fn add_words(self, w: &[u32; 4]) -> Self {
        self.add(w[0]).add(w[1]).add(w[2]).add(w[3])
    }

    /// The delta as 16 bits, ready to be kept.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        fold(self.0)
    }
}

/// Folds a sum of words into 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Applies a folded delta to a checksum field: RFC 1624's equation 3, `HC' = ~(~HC + ~m + m')`.
#[inline(always)]
pub const fn apply(checksum: u16, delta: u16) -> u16 {
    let sum = (!checksum) as u32 + delta as u32;
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// Applies a folded delta to a UDP checksum, where zero means "none" (RFC 768): none stays none, and a sum that
/// comes out as zero is sent as its other form, all ones.
#[inline(always)]
pub const fn apply_udp(checksum: u16, delta: u16) -> u16 {
    if checksum == 0 {
        return 0;
    }
    match apply(checksum, delta) {
        0 => 0xffff,
        sum => sum,
    }
}

/// The checksum over bytes, from the running sum of what came before (a pseudo-header).
pub fn over(bytes: &[u8], before: u64) -> u16 {
    let mut sum = before;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    !fold(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_rfc_1624_come_out() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285, HC' = 0x0000.
        let delta = Delta::default().remove(0x5555).add(0x3285).fold();
        assert_eq!(apply(0xdd2f, delta), 0x0000);
    }

    #[test]
    fn an_absent_udp_checksum_stays_absent() {
        assert_eq!(apply_udp(0, 0x1234), 0);
    }

    #[test]
    fn a_udp_checksum_never_becomes_absent() {
        let delta = Delta::default().remove(0x5555).add(0x3285).fold();
        assert_eq!(apply_udp(0xdd2f, delta), 0xffff);
    }

    proptest! {
        #[test]
        fn the_incremental_checksum_is_the_full_one(
            mut data in proptest::collection::vec(any::<u8>(), 8..200),
            at in 0usize..40,
            new: u32,
        ) {
            // A header never sums to zero, and there the two forms of zero differ: keep the first byte set.
            data[0] |= 1;
            let at = (at * 4) % (data.len() / 4 * 4 - 4).max(4);
            prop_assume!(at >= 4);
            let before = over(&data, 0);
            let old = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
            data[at..at + 4].copy_from_slice(&new.to_ne_bytes());
            let delta = Delta::default().remove(old).add(new).fold();
            prop_assert_eq!(apply(before, delta), over(&data, 0));
        }

        #[test]
        fn folding_keeps_the_sum(words in proptest::collection::vec(any::<u32>(), 0..20)) {
            let delta = words.iter().fold(Delta::default(), |d, w| d.add(*w));
            let mut bytes = vec![];
            words.iter().for_each(|w| bytes.extend(w.to_ne_bytes()));
            prop_assert_eq!(!delta.fold(), over(&bytes, 0));
        }
    }
}

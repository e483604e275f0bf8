//! The keyed hash that places clients: SipHash-1-3 (Aumasson and Bernstein, 2012; the round counts that hash tables
//! use) over whole 64-bit words.
//!
//! Keyed, because whoever can predict the ring can aim at one server. Our own twenty lines rather than a crate,
//! because the same function must pass the BPF verifier and must stay what it is for as long as two nodes share a
//! seed; the tests hold it against the `siphasher` crate.

use crate::addr::Addr;

/// The 128-bit secret behind every ring and every SNAT port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64, pub u64);

/// SipHash-1-3 of `words`, as of their little-endian bytes.
#[inline(always)]
pub const fn siphash<const N: usize>(seed: Seed, words: [u64; N]) -> u64 {
    let mut v = [
        seed.0 ^ 0x736f_6d65_7073_6575,
        seed.1 ^ 0x646f_7261_6e64_6f6d,
        seed.0 ^ 0x6c79_6765_6e65_7261,
        seed.1 ^ 0x7465_6462_7974_6573,
    ];
    let mut i = 0;
    while i < N {
        v[3] ^= words[i];
        v = round(v);
        v[0] ^= words[i];
        i += 1;
    }
    // The last block holds the length in bytes, modulo 256, in its top byte.
    let last = ((N as u64 * 8) & 0xff) << 56;
    v[3] ^= last;
    v = round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    v = round(round(round(v)));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

/// A client's place on every ring: its address and the secret, nothing else.
#[inline(always)]
pub const fn client_hash(seed: Seed, client: &Addr) -> u64 {
    siphash(seed, client.hash_words())
}

#[inline(always)]
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

/// Maps a hash onto `0..n` without a division (Lemire, "Fast random integer generation in an interval", 2018).
#[inline(always)]
pub const fn reduce(hash: u64, n: u32) -> u32 {
    (((hash >> 32) * n as u64) >> 32) as u32
}

/// The place to try after `place`: anywhere else (a linear congruential generator, Knuth's constants of MMIX), so that
/// tries which meet once part again, and no start leads into a short cycle.
#[inline(always)]
pub const fn next_place(place: u64) -> u64 {
    place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;

    fn reference(seed: Seed, words: &[u64]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(seed.0, seed.1);
        words.iter().for_each(|w| hasher.write(&w.to_le_bytes()));
        hasher.finish()
    }

    proptest! {
        #[test]
        fn it_is_siphash_1_3(k0: u64, k1: u64, words: [u64; 5]) {
            let seed = Seed(k0, k1);
            prop_assert_eq!(siphash(seed, words), reference(seed, &words));
            prop_assert_eq!(siphash(seed, [words[0], words[1]]), reference(seed, &words[..2]));
        }

        #[test]
        fn the_places_tried_one_after_the_other_are_far_apart(start: u64) {
            let mut place = start;
            let mut ports = std::collections::BTreeSet::new();
            for _ in 0..16 {
                ports.insert(reduce(place, 64_512));
                place = next_place(place);
            }
            prop_assert!(ports.len() >= 14, "{ports:?}");
        }

        #[test]
        fn reduction_stays_in_range(hash: u64, n in 1u32..) {
            prop_assert!(reduce(hash, n) < n);
        }
    }
}

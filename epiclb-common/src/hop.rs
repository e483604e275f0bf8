//! Where a frame goes next, in one 64-bit word.

/// A next hop: MAC address, interface and permissions in one word, so that the daemon can replace it in an array
/// with one store and no packet ever sees half of it (multi-word array slots tear).
///
/// Bits 0..48: the MAC, byte 0 lowest. Bits 48..60: the interface index, below [`Hop::INTERFACES`].
/// Bits 60..64: what may use it. The all-zero word is "nothing may go there".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop(pub u64);

impl Hop {
    /// Interface indices end below this.
    pub const INTERFACES: u32 = 1 << 12;
    /// The MAC is known.
    pub const KNOWN: u64 = 1 << 60;
    /// Open flows may go on; without it they are reset.
    pub const FLOWS: u64 = 1 << 61;
    /// Pinned clients may open new flows.
    pub const PINNED: u64 = 1 << 62;
    /// Its checks succeed. UDP flows leave a RIP without it: they have no SYN by which a client would start afresh.
    pub const UP: u64 = 1 << 63;

    const MAC: u64 = (1 << 48) - 1;

    /// A hop without permissions.
    #[inline(always)]
    pub const fn new(mac: u64, ifindex: u32) -> Self {
        Self((mac & Self::MAC) | (((ifindex & (Self::INTERFACES - 1)) as u64) << 48))
    }

    /// The same hop with `flags` added.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, flags: u64) -> Self {
        Self(self.0 | flags)
    }

    /// Whether every one of `flags` is set.
    #[inline(always)]
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }

    /// The MAC, byte 0 in the lowest bits.
    #[inline(always)]
    pub const fn mac(self) -> u64 {
        self.0 & Self::MAC
    }

    /// The interface index.
    #[inline(always)]
    pub const fn ifindex(self) -> u32 {
        ((self.0 >> 48) as u32) & (Self::INTERFACES - 1)
    }
}

/// A MAC as six bytes in wire order, as the low 48 bits of a word.
pub const fn mac_word(b: [u8; 6]) -> u64 {
    u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0])
}

/// The inverse of [`mac_word`].
pub const fn mac_bytes(word: u64) -> [u8; 6] {
    let b = word.to_le_bytes();
    [b[0], b[1], b[2], b[3], b[4], b[5]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_they_went_in() {
        let mac = mac_word([2, 0x42, 0xac, 0x11, 0, 0xfe]);
        let hop = Hop::new(mac, 4095).with(Hop::KNOWN | Hop::FLOWS);
        assert_eq!((hop.mac(), hop.ifindex()), (mac, 4095));
        assert!(hop.has(Hop::KNOWN) && hop.has(Hop::FLOWS) && !hop.has(Hop::PINNED));
        assert_eq!(mac_bytes(mac), [2, 0x42, 0xac, 0x11, 0, 0xfe]);
    }
}

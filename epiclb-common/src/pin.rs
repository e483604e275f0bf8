//! Source-IP persistence: which RIP a client belongs to.

use crate::{addr::Addr, wire::wire};

wire! {
    /// A client, as one VIP (or persistence group) knows it.
    pub struct PinKey {
        /// [`crate::Vip::group`].
        pub group: u64,
        /// The client's address.
        pub client: Addr,
    }
}

wire! {
    /// A client's RIP. Rewritten in place, never through a map update: an update in a full LRU evicts others.
    pub struct Pin {
        /// Boot time of the client's last packet in nanoseconds, at most [`STAMP_LAG_NS`] behind.
        pub seen: u64,
        /// The RIP's id.
        pub rip: u32,
        /// Boot time at which the client was pinned to this RIP, in seconds.
        pub since: u32,
    }
}

/// How far `seen` may lag behind the client's last packet. A flow looks after its pin at most once in 2^30 ns of the coarse
/// clock (which itself lags by up to 10 ms), and leaves it alone if another has done so within 2^30 ns.
pub const STAMP_LAG_NS: u64 = 2_200_000_000;

/// The frame by which the daemon has pins refreshed: [`touch::Touch`]es one after the other, behind a header of zeros.
pub mod touch {
    use super::PinKey;
    use crate::wire::wire;

    /// Bytes before the first: more than the Ethernet header the kernel insists on, and a multiple of eight.
    pub const HEADER: usize = 16;
    /// How many stand in one frame.
    pub const BATCH: usize = 32;

    wire! {
        /// One pin and its new time stamp.
        pub struct Touch {
            /// Which pin.
            pub key: PinKey,
            /// Its new [`super::Pin::seen`], unless it is later already.
            pub seen: u64,
        }
    }
}

impl Pin {
    /// Whether the client has been silent for longer than `persistence_s` seconds. Never early: the lag of the
    /// time stamp is granted on top.
    #[inline(always)]
    pub const fn is_expired(&self, now_ns: u64, persistence_s: u32) -> bool {
        now_ns.saturating_sub(self.seen) > persistence_s as u64 * 1_000_000_000 + STAMP_LAG_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_lives_for_its_time_and_no_more_than_three_seconds_longer() {
        let pin = Pin { seen: 5_000_000_000, ..Pin::default() };
        let at = |s: u64| 5_000_000_000 + s * 1_000_000_000;
        assert!(!pin.is_expired(at(59 * 60), 3600));
        assert!(!pin.is_expired(at(3600), 3600));
        assert!(pin.is_expired(at(3603), 3600));
    }

    #[test]
    fn a_pin_costs_at_most_112_bytes() {
        // 48: struct htab_elem without its key (kernel/bpf/hashtab.c).
        assert!(48 + size_of::<PinKey>() + size_of::<Pin>() <= 112);
    }
}

//! Virtual services, as the data path sees them.

use crate::{addr::Addr, wire::wire};

wire! {
    /// What a packet for a VIP is looked up by.
    pub struct ServiceKey {
        /// The VIP's address.
        pub addr: Addr,
        /// Port (network order) in the low half, IP protocol number in the high half.
        pub port_proto: u32,
    }
}

impl ServiceKey {
    /// The service at `addr`, `port_be` (network order), `proto`.
    #[inline(always)]
    pub const fn new(addr: Addr, port_be: u16, proto: u32) -> Self {
        Self { addr, port_proto: port_be as u32 | proto << 16 }
    }
}

wire! {
    /// One VIP's settings.
    pub struct Vip {
        /// Names the VIP across daemon restarts: a hash of its label.
        pub identity: u64,
        /// What its pins are kept under: the same on every node, and shared by the VIPs of a persistence group.
        pub group: u64,
        /// What its ring was made of, as a digest: a ring is published anew when this differs.
        pub ring: u64,
        /// Persistence in seconds, 0: none.
        pub persistence_s: u32,
        /// [`LOCAL`] or 0.
        pub flags: u32,
        /// First of its SNAT addresses in the table of them.
        pub snat_first: u32,
        /// How many SNAT addresses it has.
        pub snat_count: u32,
    }
}

/// [`Vip::flags`]: the daemon answers itself (redirect); packets pass to the host.
pub const LOCAL: u32 = 1;

wire! {
    /// A source address of `snat` flows and the ports it may use.
    pub struct Snat {
        /// The address.
        pub addr: Addr,
        /// First port, host order.
        pub first: u32,
        /// How many ports.
        pub count: u32,
    }
}

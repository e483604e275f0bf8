//! Real servers, as the data path sees them.

use core::{iter::Sum, ops::AddAssign};

use crate::{addr::Addr, wire::wire};

wire! {
    /// What new flows need of a RIP. An id stands for the same address and port for as long as it is in use; where
    /// frames go, and whether they may, is in its [`crate::Hop`].
    pub struct Rip {
        /// Names the RIP across daemon restarts: a hash of its VIP's label and its own.
        pub identity: u64,
        /// The pins' group ([`crate::Vip::group`]).
        pub group: u64,
        /// Its address.
        pub addr: Addr,
        /// Its port in network order, 0: the port the client used.
        pub port_be: u32,
        /// Persistence in seconds, 0: none.
        pub persistence_s: u32,
    }
}

wire! {
    /// Traffic of one RIP on one CPU.
    pub struct RipStats {
        /// Packets forwarded to the RIP.
        pub packets_in: u64,
        /// Bytes of frames forwarded to the RIP.
        pub bytes_in: u64,
        /// Packets forwarded to clients.
        pub packets_out: u64,
        /// Bytes of frames forwarded to clients.
        pub bytes_out: u64,
        /// Flows opened (handshake verified).
        pub connections: u64,
        /// Flows attempted (first packets).
        pub attempts: u64,
    }
}

impl AddAssign for RipStats {
    fn add_assign(&mut self, other: Self) {
        let Self { packets_in, bytes_in, packets_out, bytes_out, connections, attempts } = other;
        self.packets_in += packets_in;
        self.bytes_in += bytes_in;
        self.packets_out += packets_out;
        self.bytes_out += bytes_out;
        self.connections += connections;
        self.attempts += attempts;
    }
}

impl Sum for RipStats {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

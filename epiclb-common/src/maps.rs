//! Names and sizes of the maps. A size here is what the object is built with; the daemon sets those that depend on
//! the configuration when it loads it.

/// Version of the layout of everything in this crate. Part of the pin path: a daemon never reads another layout.
pub const LAYOUT: u32 = 1;

macro_rules! maps {
    ($($(#[doc = $doc:literal])* $name:ident $size:literal,)*) => {
        /// The maps' names.
        pub mod name {
            $($(#[doc = $doc])* pub const $name: &str = stringify!($name);)*
            /// All of them.
            pub const ALL: &[&str] = &[$($name),*];
        }

        /// The maps' sizes, in entries.
        pub mod size {
            $($(#[doc = $doc])* pub const $name: usize = $size;)*
        }
    };
}

maps! {
    /// Interface index -> MAC of that interface (as a [`crate::Hop`] word); 0: not attached.
    INTERFACES 4096,
    /// VIP and SNAT addresses, default-deny: address -> id of no meaning.
    ADDRESSES 16_384,
    /// [`crate::ServiceKey`] -> VIP id.
    SERVICES 65_536,
    /// VIP id -> [`crate::Vip`].
    VIPS 4096,
    /// VIP id -> ring: an array whose slot 0 holds the number of slots, the rest RIP ids.
    RINGS 4096,
    /// RIP id -> [`crate::Rip`].
    RIPS 16_384,
    /// RIP id -> [`crate::Hop`].
    HOPS 16_384,
    /// SNAT index -> [`crate::Snat`].
    SNATS 4096,
    /// [`crate::FlowKey`] -> [`crate::Flow`]; two entries a flow. Never evicts: full means refused.
    FLOWS 524_288,
    /// [`crate::FlowKey`] -> [`crate::HalfOpen`]; evicts the oldest.
    HALF_OPEN 65_536,
    /// [`crate::PinKey`] -> [`crate::Pin`]. Evicts, but is kept from ever getting there.
    PINS 262_144,
    /// [`crate::Verdict`] -> [`crate::verdict::Counter`], per CPU.
    VERDICTS 64,
    /// RIP id -> [`crate::RipStats`], per CPU.
    RIP_STATS 16_384,
    /// [`crate::verdict::Note`] -> count, shared by all CPUs.
    NOTES 16,
}

/// Slots of every ring. One size for all, since another size would place every client anew; a prime, since Maglev's
/// permutations need it; more than a hundred for each of a hundred RIPs.
pub const RING_SLOTS: u32 = 16_381;

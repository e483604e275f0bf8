//! What both sides of the BPF boundary must agree on, and pure functions worth testing on a host.
//!
//! Owns: the layout of every map key and value, the verdicts, the checksum arithmetic and the keyed hash.
//! Knows nothing of maps, packets in memory or sockets: those are the XDP program's and the daemon's.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod addr;
pub mod checksum;
pub mod flow;
pub mod hash;
pub mod headers;
pub mod hop;
pub mod maps;
pub mod pin;
pub mod rip;
pub mod verdict;
pub mod vip;
mod wire;

pub use addr::Addr;
pub use flow::{Flow, FlowKey, HalfOpen};
pub use hop::Hop;
pub use pin::{Pin, PinKey};
pub use rip::{Rip, RipStats};
pub use verdict::{Action, Verdict};
pub use vip::{ServiceKey, Snat, Vip};

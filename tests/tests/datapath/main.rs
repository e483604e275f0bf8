//! Packet tables: the real XDP program, one frame at a time (BPF_PROG_TEST_RUN).
//!
//! [`world::World`] loads the program and describes a small hospital to it, the way the daemon does (configuration ->
//! `desired` -> `plan` -> apply). Each test pushes frames through and says what must come out: the verdict, the bytes,
//! the state left behind. What every frame must obey whatever it is (one verdict, sound checksums, no byte changed
//! that need not be) is asserted for each in [`world::World::send`], so tests don't repeat it.
//!
//! No real interface is involved, and no time is slept through: the age of an entry is written into it.

mod deny;
mod flood;
mod frame;
mod full;
mod fuzz;
mod halt;
mod handshake;
mod malformed;
mod neighbours;
mod pins;
mod ports;
mod sweep;
mod udp;
mod verifier;
mod world;

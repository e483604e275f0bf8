//! Health: what the probes see of every RIP.
//!
//! Owns: one attempt ([`probe`]), the rise/fall machine ([`checker`], pure), and the actor that runs thousands of
//! them ([`task`]). Deliberately knows nothing of admin state, rings and packets: it says what it sees, and
//! `desired` decides what follows.

pub mod checker;
pub mod probe;
pub mod task;

pub use checker::{Checker, Transition};
pub use probe::ProbeResult;
pub use task::{Event, HealthChecks, Spec, State, Stopped};

//! The laboratory: a hospital's network in namespaces, for the topology tests and for `cargo xtask run`.
//!
//! [`Lab::epic`] lays the network of the Epic guide, with real nginx servers and as many client addresses as one
//! likes; [`Daemon`] runs the real binary in it; [`client`] opens connections from a given source address. Everything
//! is removed on drop, and what a killed run left behind is removed by the next one.
//!
//! Deliberately knows nothing of how the balancer works: it speaks to it as an operator does, by files and by CLI.

/// Says on stderr what could not be cleaned up. `eprintln!` would panic on a terminal that has gone, and abort where
/// it does so in a `drop`.
macro_rules! complain {
    ($($text:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("lab: {}\n", format_args!($($text)*)));
    }};
}

pub mod client;
mod daemon;
mod host;
mod lab;
mod server;
mod sweep;
mod wait;
mod xdp_pass;

pub use daemon::{Daemon, binary};
pub use host::{Host, NftRule, Spawned};
pub use lab::{Lab, missing_prerequisites};
pub use server::{BIG_SIZE, SMALL_SIZE, Server, page};
pub use sweep::sweep;
pub use wait::{PATIENCE, until};
pub use xdp_pass::{XdpPass, foreign_program};

/// The reference configuration of the Epic guide, as it is documented.
pub mod fixtures {
    /// `node.toml`.
    pub const NODE: &str = include_str!("../fixtures/epic/node.toml");
    /// `services.toml`.
    pub const SERVICES: &str = include_str!("../fixtures/epic/services.toml");
    /// A secret for [`Lab::set_secret`](crate::Lab::set_secret). A ring places clients as if by lot, and one secret in
    /// seven gives some server of three more than 15 % too much or too little of 300 clients; this one does not.
    pub const SECRET: &str = "657069636c622c20746865206c6162206f66206120686f73706974616c2e2e2e";
}

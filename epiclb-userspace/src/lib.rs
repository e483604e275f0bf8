//! epiclb: the daemon and the CLI, as a library so that tests reach every part.
//!
//! Data flows one way: TOML -> raw -> [`model::Config`] -> `desired` -> `plan(actual, desired)` -> apply.
//! ARCHITECTURE.md at the top of the repository tells the whole story.

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod desired;
pub mod guard;
pub mod health;
pub mod model;
pub mod netlink;
pub mod plan;
pub mod redirect;
pub mod ring;

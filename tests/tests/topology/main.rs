//! The product on a network: the real daemon, real nginx, real TLS and TCP, native and generic XDP, IPv4 and IPv6.
//!
//! Every test lays a lab of its own and leaves nothing behind, also when it fails. One runs at a time: some measure.
//! Time is moved by ageing entries in the pinned maps, never slept through.

mod admin;
mod cleanup;
mod flood;
mod neighbours;
mod offload;
mod pins;
mod redirect;
mod reload;
mod restart;
mod services;
mod spread;
mod stage;

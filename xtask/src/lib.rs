//! The part of xtask that others call: finding a BPF compiler and building the XDP program with it.
//!
//! `epiclb-userspace/build.rs` depends on this library, so it stays light: the command line and everything only it
//! needs sit behind the feature `cli`.
#![forbid(unsafe_code)]

pub mod ebpf;

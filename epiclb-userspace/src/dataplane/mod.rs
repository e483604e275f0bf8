//! The kernel side, seen from the daemon: the loaded program, its maps, its attachments.
//!
//! Owns every access to BPF. Knows nothing of the configuration: it reads [`Tables`], carries out [`crate::plan::Op`]s,
//! and sweeps out what has expired. Nothing but [`Bpf::apply`] writes a table of the configuration.

mod attach;
mod bpf;
mod sweep;
mod table;
mod tables;

pub use self::{
    attach::{AttachError, Attached, Mode},
    bpf::{Bpf, Settings},
    sweep::{Sweeper, Swept, Tally},
    table::Table,
    tables::Tables,
};

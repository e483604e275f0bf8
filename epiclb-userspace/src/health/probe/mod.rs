//! One attempt to see whether a RIP is alive.
//!
//! Owns: the outcomes a probe can have and the choice of its kind. Deliberately knows nothing of what follows from them.

pub mod tcp;

use std::{future::Future, pin::Pin, time::Duration};

use super::Spec;
use crate::model::CheckKind;

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The RIP is alive.
    Success {
        /// How long it took.
        latency: Duration,
    },
    /// The RIP is not to be used.
    Failure {
        /// Why, in words for an operator.
        reason: String,
    },
    /// This host could not even try: file descriptors, memory or ports ran out. That says nothing of the RIP, and
    /// must not take every RIP of a hospital down at once.
    Inconclusive {
        /// Why, in words for an operator.
        reason: String,
    },
}

/// A probe under way.
pub type Probing = Pin<Box<dyn Future<Output = ProbeResult> + Send>>;

/// Starts the probe that `spec` asks for, in the network namespace of the thread that polls it.
pub fn start(spec: &Spec) -> Probing {
    match spec.check.kind {
        CheckKind::Tcp => Box::pin(tcp::probe(spec.address, spec.source, spec.check.timeout)),
        CheckKind::None => Box::pin(async { ProbeResult::Success { latency: Duration::ZERO } }),
    }
}

//! The rise/fall machine of one RIP: probe results in, transitions and the next delay out.
//!
//! Owns: the rule that turns single results into a verdict. Deliberately knows nothing of sockets, tasks and the clock.
//!
//! ```text
//!            rise successes              rise successes
//! unknown ───────────────────▶ up ◀───────────────────────┐
//!    │                          └────────▶ down ──────────┘
//!    └────────── one failure ───────────────▲  (fall failures)
//! ```
//!
//! Only results in a row count: a success forgets the failures before it and the other way round. The start is
//! pessimistic, as sending clients to a server nobody has seen alive is worse than waiting half a second.

use std::time::Duration;

use super::ProbeResult;
use crate::model::{Check, CheckKind, Health};

/// Time between two probes while a verdict is forming, unless the interval is shorter still.
///
/// `rise` and `fall` are there to see through a single lost packet, not to wait for its own sake: with 2 s, rise 2 and
/// fall 3 a RIP that refuses is down after 2.5 s instead of 6, and one that comes back is up as fast. The steady load
/// of probes stays that of the interval.
pub const CONFIRM_INTERVAL: Duration = Duration::from_millis(250);

/// How far a delay may deviate from its nominal value either way, so that checks of one interval do not march in step.
pub const JITTER: f64 = 0.1;

/// A change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: Health,
    /// What it is now.
    pub to: Health,
}

/// The state of one RIP's check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checker {
    interval: Duration,
    rise: u32,
    fall: u32,
    health: Health,
    successes: u32,
    failures: u32,
}

impl Checker {
    /// A checker that has seen nothing: unknown, or up for good with [`CheckKind::None`].
    pub fn new(check: &Check) -> Self {
        Self::resume(check, Health::Unknown)
    }

    /// A checker that goes on from a verdict reached earlier, with nothing counted yet.
    pub fn resume(check: &Check, health: Health) -> Self {
        let health = match check.kind {
            CheckKind::None => Health::Up,
            CheckKind::Tcp => health,
        };
        Self { interval: check.interval, rise: check.rise, fall: check.fall, health, successes: 0, failures: 0 }
    }

    /// Counts one result and says whether the verdict changes. An inconclusive one says nothing of the RIP and
    /// neither counts nor interrupts a count.
    pub fn observe(&mut self, result: &ProbeResult) -> Option<Transition> {
        match result {
            ProbeResult::Success { .. } => {
                self.successes = self.successes.saturating_add(1);
                self.failures = 0;
            }
            ProbeResult::Failure { .. } => {
                self.failures = self.failures.saturating_add(1);
                self.successes = 0;
            }
            ProbeResult::Inconclusive { .. } => return None,
        }
        let from = self.health;
        self.health = match from {
            Health::Unknown | Health::Down if self.successes >= self.rise => Health::Up,
            Health::Unknown if self.failures > 0 => Health::Down,
            Health::Up if self.failures >= self.fall => Health::Down,
            same => same,
        };
        (self.health != from).then_some(Transition { from, to: self.health })
    }

    /// The current verdict.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Successes in a row, up to now.
    pub fn successes(&self) -> u32 {
        self.successes
    }

    /// Failures in a row, up to now.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the last results agree with the verdict; if not, one is forming.
    pub fn is_settled(&self) -> bool {
        match self.health {
            Health::Unknown => false,
            Health::Up => self.failures == 0,
            Health::Down => self.successes == 0,
        }
    }

    /// Time from the start of one probe to the start of the next. `jitter` is a random number of -1 to 1, others are
    /// clamped; it moves the delay by up to [`JITTER`].
    pub fn next_delay(&self, jitter: f64) -> Duration {
        let nominal = if self.is_settled() { self.interval } else { self.interval.min(CONFIRM_INTERVAL) };
        nominal.mul_f64(1.0 + JITTER * jitter.clamp(-1.0, 1.0))
    }
}

#[cfg(test)]
mod tests;

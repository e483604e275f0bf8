//! Waiting for something to become true, with a deadline and a reason.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long to wait for what should be there in a moment, before calling it a failure. What has to be quick is measured
/// where it is; this only has to be longer than the worst pause of a busy virtual machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `poll` until it answers `Some`; an error naming `what` and its last complaint after `limit`. It asks often at
/// first and then less so, and rests as long as each asking took: who waits leaves the machine to whom he waits for.
///
/// An `Err` of `poll` counts as "not yet", since what is waited for is often not there to be asked.
pub fn until<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        let asked = Instant::now();
        let complaint = match poll() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if began.elapsed() >= limit {
            bail!("waited {limit:?} for {what}, in vain{complaint}");
        }
        let rest = (began.elapsed() / 10).max(asked.elapsed());
        thread::sleep(rest.clamp(Duration::from_millis(10), Duration::from_millis(500)));
    }
}

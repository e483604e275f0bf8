//! Waiting for something to become true, with a deadline and a reason.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Asks `poll` every 50 ms until it answers `Some`; an error naming `what` and its last complaint after `limit`.
///
/// An `Err` of `poll` counts as "not yet", since what is waited for is often not there to be asked.
pub fn until<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let complaint = match poll() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}, in vain{complaint}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

//! Waiting for something to become true, never longer than said.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `condition` holds.
///
/// # Errors
///
/// If it does not within `limit`; the message names `what` was waited for.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    until_some(what, limit, || condition().then_some(()))
}

/// Waits until `attempt` gives something.
///
/// # Errors
///
/// If it does not within `limit`; the message names `what` was waited for.
pub fn until_some<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = attempt() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for: {what}");
        }
        thread::sleep(PAUSE);
    }
}

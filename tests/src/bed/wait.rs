//! Waiting for something to become true, never longer than said.

use std::{
    env,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(5);

/// How many times slower than a usual machine this one is: an emulated processor, for example.
const SLOWNESS_VARIABLE: &str = "OLLAMA_GUARD_TEST_SLOWNESS";

/// The bed's patience with programs that are to do something on a machine that may be slow. What
/// the guard promises within a time is not measured with it.
#[must_use]
pub fn patience(usual: Duration) -> Duration {
    usual * slowness()
}

/// How often to repeat something on a machine that may be slow: twice at least.
#[must_use]
pub fn rounds(usual: usize) -> usize {
    (usual / slowness() as usize).max(2)
}

/// Whether this is a slow machine: then a flood must leave time for what it floods.
pub(super) fn is_slow() -> bool {
    slowness() > 1
}

/// 1, or what the environment says.
fn slowness() -> u32 {
    static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
        let Some(value) = env::var_os(SLOWNESS_VARIABLE) else {
            return 1;
        };
        let number = value.to_str().and_then(|text| text.parse().ok()).filter(|&number| number > 0);
        number.unwrap_or_else(|| panic!("{SLOWNESS_VARIABLE} is {value:?}, not a number from 1 on"))
    });
    *SLOWNESS
}

/// Waits until `condition` holds.
///
/// # Errors
///
/// If it does not within `limit`, or [`patience`] of it; the message names `what` was waited for.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    until_some(what, limit, || condition().then_some(()))
}

/// Waits until `attempt` gives something.
///
/// # Errors
///
/// If it does not within `limit`, or [`patience`] of it; the message names `what` was waited for.
pub fn until_some<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Option<T>,
) -> Result<T> {
    let limit = patience(limit);
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

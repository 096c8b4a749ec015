//! How fast the files may be written.

use std::time::{Duration, Instant};

/// How much of all that is kept may be written within [`TIME`].
const PART: f64 = 0.25;
const TIME: Duration = Duration::from_secs(3600);
/// How much may be written at once after a quiet time, in [`TIME`].
const AT_ONCE: Duration = Duration::from_secs(600);

/// A bucket of bytes: a quarter of what is kept in an hour, and what ten minutes of that bring at once.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    left: f64,
    filled: Instant,
}

impl Allowance {
    /// A full one.
    #[must_use]
    pub fn new(keep: u64, now: Instant) -> Self {
        Self { left: most(keep), filled: now }
    }

    /// Takes so many bytes, if there are as many. `keep` is how many the files may hold.
    pub fn take(&mut self, bytes: usize, keep: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.left = (self.left + rate(keep) * passed).min(most(keep));
        let is_enough = self.left >= bytes as f64;
        if is_enough {
            self.left -= bytes as f64;
        }
        is_enough
    }
}

/// Bytes a second.
fn rate(keep: u64) -> f64 {
    keep as f64 * PART / TIME.as_secs_f64()
}

fn most(keep: u64) -> f64 {
    rate(keep) * AT_ONCE.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_a_quarter_an_hour() {
        let (keep, start) = (16 << 20, Instant::now());
        let mut allowance = Allowance::new(keep, start);
        let mut taken = 0;
        for second in 0..3600 {
            for _ in 0..1000 {
                taken +=
                    250 * u64::from(allowance.take(250, keep, start + Duration::from_secs(second)));
            }
        }
        let (quarter, at_once) = (keep / 4, keep / 24);
        assert!((quarter..=quarter + at_once).contains(&taken), "{taken} of {keep}");
    }

    #[test]
    fn what_was_not_taken_comes_back_up_to_a_limit() {
        let start = Instant::now();
        let mut allowance = Allowance::new(24_000, start);
        assert!(allowance.take(1000, 24_000, start));
        assert!(!allowance.take(1, 24_000, start));
        let later = start + Duration::from_secs(100 * 3600);
        assert!(allowance.take(1000, 24_000, later));
        assert!(!allowance.take(1, 24_000, later));
    }
}

//! The budget of events: a token bucket for each CPU, refilled from user space.
//!
//! The program takes one token for each event that it tries to submit, and needs no clock. It and
//! user space write the same number; a write that undoes another one costs a token, or gives one.

/// The smallest burst that a CPU may report: enough to tell a few strangers apart on a host with
/// many CPUs and a small budget.
const SMALLEST_BURST: f64 = 8.0;

/// A token bucket for each CPU.
#[derive(Clone, Debug)]
pub struct Allowance {
    per_second: f64,
    burst: f64,
    /// For each CPU, the part of a token that is not given yet; before the first time, a full bucket.
    parts: Vec<f64>,
}

impl Allowance {
    /// Full buckets for a budget of `per_second` events in all, over so many CPUs.
    #[must_use]
    pub fn new(per_second: u32, cpus: usize) -> Self {
        let share = f64::from(per_second) / cpus.max(1) as f64;
        let burst = share.max(SMALLEST_BURST);
        Self { per_second: share, burst, parts: vec![burst; cpus] }
    }

    /// Refills after `seconds`. Takes how many tokens each CPU has left, and returns how many it is to
    /// have.
    pub fn refill(&mut self, left: &[u64], seconds: f64) -> Vec<u64> {
        let refill = self.per_second * seconds;
        let buckets = self.parts.iter_mut().zip(left);
        buckets
            .map(|(part, &left)| {
                let tokens = (left as f64 + *part + refill).min(self.burst);
                *part = tokens.fract();
                tokens as u64
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_cpu_may_burst_and_a_busy_one_gets_its_rate() {
        let mut allowance = Allowance::new(200, 2);
        assert_eq!(allowance.refill(&[0, 0], 0.1), [100, 100]);
        // The first CPU used up its bucket, and gets a tenth of a second's share.
        assert_eq!(allowance.refill(&[0, 100], 0.1), [10, 100]);
        assert_eq!(allowance.refill(&[0, 100], 0.1), [10, 100]);
    }

    #[test]
    fn tokens_do_not_pile_up_beyond_a_burst() {
        let mut allowance = Allowance::new(100, 1);
        assert_eq!(allowance.refill(&[7], 3600.0), [100]);
        assert_eq!(allowance.refill(&[100], 3600.0), [100]);
    }

    #[test]
    fn fractions_of_a_token_add_up() {
        let mut allowance = Allowance::new(1, 1);
        assert_eq!(allowance.refill(&[0], 0.0), [8]);
        assert_eq!(allowance.refill(&[0], 0.4), [0]);
        assert_eq!(allowance.refill(&[0], 0.4), [0]);
        assert_eq!(allowance.refill(&[0], 0.4), [1]);
    }
}

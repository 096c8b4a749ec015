//! The budget of events: a token bucket for each CPU, refilled from user space.
//!
//! The program compares what its CPU has tried to submit with the allowance, a number that only
//! user space writes. So the program needs no clock, and no write of one side can undo one of
//! the other.

use ollama_guard_common::abi::Books;

/// The smallest burst that a CPU may report: enough to tell a few strangers apart on a host with
/// many CPUs and a small budget.
const SMALLEST_BURST: f64 = 8.0;

/// A token bucket for each CPU.
#[derive(Clone, Debug)]
pub struct Allowance {
    per_second: f64,
    burst: f64,
    tokens: Vec<f64>,
    tried: Vec<u64>,
}

impl Allowance {
    /// Full buckets for a budget of `per_second` events in all, over `books.len()` CPUs.
    #[must_use]
    pub fn new(per_second: u32, books: &[Books]) -> Self {
        let share = f64::from(per_second) / books.len().max(1) as f64;
        let burst = share.max(SMALLEST_BURST);
        Self {
            per_second: share,
            burst,
            tokens: vec![burst; books.len()],
            tried: books.iter().map(tried).collect(),
        }
    }

    /// Refills after `seconds`, and returns for each CPU how much it may have tried in all.
    pub fn refill(&mut self, books: &[Books], seconds: f64) -> Vec<u64> {
        let refill = self.per_second * seconds;
        let buckets = self.tokens.iter_mut().zip(&mut self.tried);
        buckets
            .zip(books)
            .map(|((tokens, before), books)| {
                let now = tried(books);
                let spent = now.saturating_sub(*before) as f64;
                *before = now;
                *tokens = ((*tokens - spent).max(0.0) + refill).min(self.burst);
                now + *tokens as u64
            })
            .collect()
    }
}

/// What a CPU has tried to submit, as the program computes it.
fn tried(books: &Books) -> u64 {
    books.modes.iter().map(|book| book.submitted + book.lost).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(submitted: u64) -> Books {
        let mut books = Books::default();
        books.modes[0].submitted = submitted;
        books
    }

    #[test]
    fn a_quiet_cpu_may_burst_and_a_busy_one_gets_its_rate() {
        let mut allowance = Allowance::new(200, &[books(0), books(0)]);
        assert_eq!(allowance.refill(&[books(0), books(0)], 0.1), [100, 100]);
        // The first CPU used up its bucket, and gets a tenth of a second's share.
        assert_eq!(allowance.refill(&[books(100), books(0)], 0.1), [110, 100]);
        assert_eq!(allowance.refill(&[books(110), books(0)], 0.1), [120, 100]);
    }

    #[test]
    fn tokens_do_not_pile_up_beyond_a_burst() {
        let mut allowance = Allowance::new(100, &[books(5)]);
        assert_eq!(allowance.refill(&[books(5)], 3600.0), [105]);
    }

    #[test]
    fn fractions_of_a_token_add_up() {
        let mut allowance = Allowance::new(1, &[books(0)]);
        assert_eq!(allowance.refill(&[books(8)], 0.4), [8]);
        assert_eq!(allowance.refill(&[books(8)], 0.4), [8]);
        assert_eq!(allowance.refill(&[books(8)], 0.4), [9]);
    }
}

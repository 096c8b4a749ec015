//! How many packets a second, by verdict, now and over the last minutes.

use std::{collections::VecDeque, time::Instant};

use ollama_guard_common::{Reason, Verdict};
use serde::Serialize;

use crate::status::StatusReport;

/// Seconds that are remembered.
pub(super) const SECONDS: usize = 300;

/// Packets for guarded ports by what became of them, or so many a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct ByVerdict<T> {
    /// Let in.
    pub(super) passed: T,
    /// Shut out.
    pub(super) dropped: T,
    /// Let in because the mode was observe.
    pub(super) would_drop: T,
}

impl ByVerdict<u64> {
    /// The totals since the guard was loaded.
    pub(super) fn of(report: &StatusReport) -> Self {
        let mut totals = Self::default();
        for (name, counts) in &report.counters {
            let reason = Reason::ALL.iter().find(|reason| reason.name() == name);
            // A newer daemon's reasons are for drops, as nearly all are.
            if reason.is_some_and(|reason| reason.verdict() == Verdict::Pass) {
                totals.passed += counts.enforce + counts.observe;
            } else {
                totals.dropped += counts.enforce;
                totals.would_drop += counts.observe;
            }
        }
        totals
    }

    fn rate_since(self, before: Self, seconds: f64) -> ByVerdict<f64> {
        // Counters begin anew with another layout of the maps.
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        ByVerdict {
            passed: rate(self.passed, before.passed),
            dropped: rate(self.dropped, before.dropped),
            would_drop: rate(self.would_drop, before.would_drop),
        }
    }
}

/// The rates, from totals that come about every second.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    last: Option<(Instant, ByVerdict<u64>)>,
    now: ByVerdict<f64>,
    seconds: VecDeque<ByVerdict<f64>>,
    /// Seconds so far.
    passed: usize,
}

impl Rates {
    /// Takes the totals of a moment in.
    pub(super) fn take(&mut self, totals: ByVerdict<u64>, at: Instant) {
        let before = self.last.replace((at, totals));
        let Some((then, before)) = before else { return };
        let passed = at.saturating_duration_since(then).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        self.now = totals.rate_since(before, passed);
        // One for each second, also if the answer took longer.
        for _ in 0..(passed.round() as usize).clamp(1, SECONDS) {
            if self.seconds.len() == SECONDS {
                self.seconds.pop_front();
            }
            self.seconds.push_back(self.now);
            self.passed += 1;
        }
    }

    /// Forgets when the last totals were: nothing is known about the time since.
    pub(super) fn interrupt(&mut self) {
        self.last = None;
        self.now = ByVerdict::default();
    }

    pub(super) const fn now(&self) -> ByVerdict<f64> {
        self.now
    }

    pub(super) fn totals(&self) -> ByVerdict<u64> {
        self.last.map(|(_, totals)| totals).unwrap_or_default()
    }

    /// The last minutes of one verdict in so many columns at most, the oldest first: averages, rounded up
    /// so that one packet shows. Which seconds share a column does not change while time goes on.
    pub(super) fn past(&self, columns: usize, of: fn(&ByVerdict<f64>) -> f64) -> Vec<u64> {
        let each = seconds_of_a_column(columns);
        let first = self.passed - self.seconds.len();
        let mut averages = Vec::new();
        let mut seconds = self.seconds.iter().map(of).enumerate().peekable();
        while let Some((at, rate)) = seconds.next() {
            let (column, mut sum, mut count) = ((first + at) / each, rate, 1);
            while let Some((_, rate)) = seconds.next_if(|(at, _)| (first + at) / each == column) {
                sum += rate;
                count += 1;
            }
            averages.push((sum / f64::from(count)).ceil() as u64);
        }
        let skipped = averages.len().saturating_sub(columns);
        averages.split_off(skipped)
    }
}

/// How many seconds a column stands for, so that all that is remembered fits.
pub(super) fn seconds_of_a_column(columns: usize) -> usize {
    SECONDS.div_ceil(columns.max(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn totals(passed: u64, dropped: u64) -> ByVerdict<u64> {
        ByVerdict { passed, dropped, would_drop: 0 }
    }

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_rate_is_the_difference_by_the_time_it_took() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.take(totals(100, 1000), start);
        assert_eq!(rates.now(), ByVerdict::default(), "of one moment nothing is known");
        rates.take(totals(101, 1500), at(start, 2000));
        assert_eq!((rates.now().passed, rates.now().dropped), (0.5, 250.0));
        assert_eq!(rates.totals(), totals(101, 1500));
        assert_eq!(rates.past(300, |rates| rates.dropped), [250, 250], "a sample for each second");
        assert_eq!(rates.past(300, |rates| rates.passed), [1, 1]);
        rates.take(totals(101, 1500), at(start, 2000));
        assert_eq!(rates.now().dropped, 250.0, "the same moment again");
    }

    #[test]
    fn counters_that_begin_anew_are_no_negative_rate() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.take(totals(100, 1000), start);
        rates.take(totals(0, 7), at(start, 1000));
        assert_eq!(rates.now(), ByVerdict::default());
        rates.take(totals(0, 8), at(start, 2000));
        assert_eq!(rates.now().dropped, 1.0);
    }

    #[test]
    fn what_happened_during_an_interruption_is_no_rate() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.take(totals(0, 0), start);
        rates.interrupt();
        rates.take(totals(0, 100_000), at(start, 60_000));
        assert_eq!(rates.now().dropped, 0.0);
    }

    #[test]
    fn five_minutes_are_remembered() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for second in 0..1000 {
            rates.take(totals(0, second * (second + 1) / 2), at(start, second * 1000));
        }
        let all = rates.past(SECONDS, |rates| rates.dropped);
        assert_eq!((all.len(), all.last()), (SECONDS, Some(&999)));
        let in_columns = rates.past(30, |rates| rates.dropped);
        // 999 seconds have passed: the last column has nine of its ten.
        assert_eq!((in_columns.len(), &in_columns[27..]), (30, &[976, 986, 995][..]));
        assert_eq!(rates.past(0, |rates| rates.dropped), [0; 0]);
    }
}

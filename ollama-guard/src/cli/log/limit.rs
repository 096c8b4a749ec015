//! Keeps the log readable, and the disk free, whatever happens: no line of the code says more than so much.
//!
//! Each place in the code has a budget of its own, so that one that floods silences no other. What is left
//! out is counted, and the number is told in front of the next line from there. Levels below `info` are
//! for somebody who asked for all of it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Level, Subscriber, callsite::Identifier};
use tracing_subscriber::{Layer, layer::Context};

/// Lines from one place that may come at once: a long list of changes is one line each.
const BURST: u32 = 100;
/// How long it takes until one more may come.
const EACH: Duration = Duration::from_secs(1);

/// The budgets of all places that have said something.
#[derive(Debug, Default)]
pub(super) struct Limit {
    places: Mutex<HashMap<Identifier, Budget>>,
}

#[derive(Debug)]
struct Budget {
    lines: u32,
    /// When the budget was last added to.
    since: Instant,
    left_out: u64,
}

impl Budget {
    const fn full(now: Instant) -> Self {
        Self { lines: BURST, since: now, left_out: 0 }
    }

    /// Whether a line may come, and how many before it were left out.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let periods = now.duration_since(self.since).as_nanos() / EACH.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.lines = self.lines.saturating_add(periods).min(BURST);
        self.since += EACH.saturating_mul(periods);
        if self.lines == 0 {
            self.left_out += 1;
            return None;
        }
        self.lines -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Our own line below comes at most once for each that may come.
        if *metadata.level() > Level::INFO || metadata.target() == module_path!() {
            return true;
        }
        let now = Instant::now();
        let taken = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.entry(metadata.callsite()).or_insert_with(|| Budget::full(now)).take(now)
        };
        if let Some(left_out @ 1..) = taken {
            tracing::warn!(left_out, "{left_out} lines like the next one were left out");
        }
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn a_budget_is_spent_refilled_and_never_saved_up() {
        let start = Instant::now();
        let mut budget = Budget::full(start);
        for _ in 0..BURST {
            assert_eq!(budget.take(start), Some(0));
        }
        assert_eq!(budget.take(start), None);
        assert_eq!(budget.take(start + EACH / 2), None);
        assert_eq!(budget.take(start + EACH), Some(2));
        assert_eq!(budget.take(start + EACH), None);
        let much_later = start + EACH * (10 * BURST);
        assert_eq!(budget.take(much_later), Some(1));
        let more = (0..10 * BURST).filter(|_| budget.take(much_later).is_some()).count();
        assert_eq!(more, BURST as usize - 1);
    }

    #[derive(Clone, Default)]
    struct Counting(Arc<AtomicU32>);

    impl<S: Subscriber> Layer<S> for Counting {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_place_floods_and_another_is_heard() {
        let counting = Counting::default();
        let heard = || counting.0.load(Ordering::Relaxed);
        let subscriber =
            tracing_subscriber::registry().with(counting.clone()).with(Limit::default());
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..10 * BURST {
                tracing::error!("again");
            }
            // The machine may have been slow.
            assert!((BURST..BURST + 10).contains(&heard()), "{}", heard());
            let before = heard();
            tracing::info!("once");
            assert_eq!(heard(), before + 1);
            for _ in 0..2 * BURST {
                tracing::debug!("asked for");
            }
            assert_eq!(heard(), before + 1 + 2 * BURST);
        });
    }
}

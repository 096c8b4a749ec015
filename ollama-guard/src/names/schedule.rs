//! When which name is looked up next.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::{Answer, screen::screen};
use crate::policy::HostName;

/// An answer is not asked for again sooner, whatever its TTL.
pub(super) const SOONEST: Duration = Duration::from_secs(30);
/// Nor later.
pub(super) const LATEST: Duration = Duration::from_secs(3600);
/// After the first failure, as at a boot before the network is there; doubled after each that follows, up to
/// [`MOST_PATIENT`].
const AGAIN: Duration = Duration::from_secs(2);
const MOST_PATIENT: Duration = Duration::from_secs(300);

/// The names and when each is due.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    names: BTreeMap<HostName, Standing>,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    /// `None` while it is being asked for.
    due: Option<Instant>,
    /// Whether to ask again as soon as the answer is there.
    again: bool,
    failures: u32,
}

/// A name, when it will be asked for again, and what came of it.
pub(super) type Answered = (HostName, Duration, Result<BTreeSet<IpAddr>, String>);

impl Schedule {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// These are the names from now on. New ones are due at once.
    pub(super) fn want(&mut self, names: &BTreeSet<HostName>, now: Instant) {
        self.names.retain(|name, _| names.contains(name));
        for name in names {
            let new = Standing { due: Some(now), again: false, failures: 0 };
            self.names.entry(name.clone()).or_insert(new);
        }
    }

    /// All are due now.
    pub(super) fn all_now(&mut self, now: Instant) {
        for standing in self.names.values_mut() {
            standing.again = standing.due.is_none();
            standing.due = standing.due.map(|_| now);
            standing.failures = 0;
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.names.values().filter_map(|standing| standing.due).min()
    }

    /// A name that is due, which is being asked for from now on.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<HostName> {
        let is_due = |standing: &Standing| standing.due.is_some_and(|due| due <= now);
        let (name, standing) = self.names.iter_mut().find(|(_, standing)| is_due(standing))?;
        standing.due = None;
        Some(name.clone())
    }

    /// Takes note of an answer; `None` if nobody wants the name any more.
    pub(super) fn answered(
        &mut self,
        name: HostName,
        answer: Result<Answer, String>,
        now: Instant,
    ) -> Option<Answered> {
        let standing = self.names.get_mut(&name)?;
        let lasts = answer.as_ref().map_or(Duration::ZERO, |answer| answer.lasts);
        let outcome = answer.and_then(|answer| screen(answer.addresses));
        let wait = match &outcome {
            Ok(_) => {
                standing.failures = 0;
                earlier(lasts.clamp(SOONEST, LATEST))
            }
            Err(_) => {
                let wait = AGAIN.saturating_mul(1 << standing.failures.min(16)).min(MOST_PATIENT);
                standing.failures += 1;
                wait
            }
        };
        let wait = if std::mem::take(&mut standing.again) { Duration::ZERO } else { wait };
        standing.due = Some(now + wait);
        Some((name, wait, outcome))
    }
}

/// A time up to a tenth shorter, so that many names, or many hosts, don't ask all at once.
fn earlier(time: Duration) -> Duration {
    // A new one of these has other keys each time, which is chance enough.
    let chance = RandomState::new().build_hasher().finish() % 1000;
    time - time / 10_000 * chance as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn lasting(seconds: u64) -> Result<Answer, String> {
        let addresses = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        Ok(Answer { addresses, lasts: Duration::from_secs(seconds) })
    }

    #[test]
    fn an_answer_is_asked_for_again_within_its_time_and_within_bounds() {
        let now = Instant::now();
        for (ttl, least, most) in [(0, 27, 30), (29, 27, 30), (100, 90, 100), (86_400, 3240, 3600)]
        {
            for _ in 0..50 {
                let mut schedule = Schedule::default();
                schedule.want(&BTreeSet::from([name("a.example")]), now);
                let name = schedule.take_due(now).unwrap();
                let (_, wait, _) = schedule.answered(name, lasting(ttl), now).unwrap();
                let (least, most) = (Duration::from_secs(least), Duration::from_secs(most));
                assert!((least..=most).contains(&wait), "{ttl}: {wait:?}");
            }
        }
    }

    #[test]
    fn failures_are_repeated_soon_and_then_with_patience() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&BTreeSet::from([name("a.example")]), now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let due = schedule.next().unwrap();
            let name = schedule.take_due(due).unwrap();
            assert!(schedule.next().is_none() && schedule.take_due(due).is_none());
            let (_, wait, outcome) = schedule.answered(name, Err("no".into()), due).unwrap();
            assert!(outcome.is_err());
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        // Poison is a failure.
        let due = schedule.next().unwrap();
        let name = schedule.take_due(due).unwrap();
        let poison = Answer { addresses: BTreeSet::from([[127, 0, 0, 1].into()]), lasts: LATEST };
        let (_, wait, outcome) = schedule.answered(name, Ok(poison), due).unwrap();
        assert!(outcome.is_err() && wait == MOST_PATIENT);
    }

    #[test]
    fn whoever_asks_for_all_gets_an_answer_from_after_that() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&BTreeSet::from([name("a.example"), name("b.example")]), now);
        let first = schedule.take_due(now).unwrap();
        schedule.all_now(now);
        let (_, wait, _) = schedule.answered(first.clone(), lasting(100), now).unwrap();
        assert_eq!(wait, Duration::ZERO, "it was asked for before");
        schedule.want(&BTreeSet::from([name("b.example")]), now);
        assert!(schedule.answered(first, lasting(100), now).is_none(), "nobody wants it any more");
    }
}

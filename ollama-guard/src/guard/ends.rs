//! Which rules end when, by two clocks.
//!
//! A rule has ended when the wall clock says so, or when the time that it had left, when it was learned of, has
//! gone by on the clock that nobody sets (`CLOCK_BOOTTIME`, which goes on while the machine sleeps): whichever
//! comes first. So a wall clock that is set back lengthens nothing, and one that is set forward, as at the first
//! answer of a time server after a boot without a battery, is believed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

use crate::policy::{Effect, End, Limits, NameRule, Rule, Subject};

/// The same moment by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the wall clock.
    pub wall: Timestamp,
    /// Since the machine was started.
    pub boot: Duration,
}

/// What a rule says, and when it ends.
pub(super) type Key = (Subject, Effect, Option<Arc<Limits>>, End);

/// The rules that end.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Each with the time since the start of the machine at which it ends at the latest.
    rules: BTreeMap<Key, Duration>,
    /// The first of either kind.
    first: Option<(End, Duration)>,
}

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        // Every kernel that runs the guard has this clock.
        let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Self { wall: Timestamp::now(), boot }
    }
}

/// The key of a rule that ends.
pub(super) fn key(rule: &Rule) -> Option<Key> {
    Some((Subject::Prefix(rule.prefix), rule.effect, rule.limits.clone(), rule.expires?))
}

/// The key of a name that ends.
pub(super) fn name_key(rule: &NameRule) -> Option<Key> {
    Some((Subject::Name(rule.name.clone()), rule.effect, rule.limits.clone(), rule.expires?))
}

impl Ends {
    /// Whether no rule ends.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// These are all the rules from now on. What was known before keeps the time that it had.
    pub(super) fn follow<'r>(
        &mut self,
        rules: impl Iterator<Item = &'r Rule>,
        names: impl Iterator<Item = &'r NameRule>,
        now: &Moment,
    ) {
        let before = std::mem::take(&mut self.rules);
        for key in rules.filter_map(key).chain(names.filter_map(name_key)) {
            let left = key.3.timestamp().duration_since(now.wall);
            let left = Duration::try_from(left).unwrap_or_default();
            let known = before.get(&key).copied();
            self.rules.insert(key, known.unwrap_or(now.boot + left));
        }
        let first_end = self.rules.keys().map(|key| key.3).min();
        self.first = first_end.zip(self.rules.values().copied().min());
    }

    /// Those that have ended.
    pub(super) fn due(&self, now: &Moment) -> Vec<Key> {
        let has_ended = |end: End, boot: Duration| end.has_passed(now.wall) || boot <= now.boot;
        // As a rule nothing has, and the list may be long.
        if !self.first.is_some_and(|(end, boot)| has_ended(end, boot)) {
            return Vec::new();
        }
        let due = self.rules.iter().filter(|&(key, &boot)| has_ended(key.3, boot));
        due.map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;
    use crate::policy::Origin;

    fn rule(text: &str, expires: Option<End>) -> Rule {
        let prefix = text.parse().unwrap();
        let (effect, origin) = (Effect::Allow, Origin::Flag.into());
        Rule { prefix, effect, limits: None, comment: None, origin, expires }
    }

    /// So many seconds later, of which the wall clock shows so many.
    fn later(moment: &Moment, seconds: u64, shown: i64) -> Moment {
        Moment {
            wall: moment.wall + shown.seconds(),
            boot: moment.boot + Duration::from_secs(seconds),
        }
    }

    #[test]
    fn neither_clock_alone_can_lengthen_a_rule() {
        let start =
            Moment { wall: "2026-12-01T12:00:00Z".parse().unwrap(), boot: Duration::from_secs(99) };
        let end = End::after(start.wall, Duration::from_secs(60)).unwrap();
        let rules = [rule("192.0.2.1", Some(end)), rule("192.0.2.2", None)];
        let mut ends = Ends::default();
        ends.follow(rules.iter(), [].iter(), &start);
        let due = |ends: &Ends, seconds, shown| ends.due(&later(&start, seconds, shown)).len();
        assert_eq!((due(&ends, 59, 59), due(&ends, 60, 60)), (0, 1));
        assert_eq!(due(&ends, 60, -3600), 1, "set back by an hour");
        assert_eq!(due(&ends, 1, 3600), 1, "set forward by an hour");
        // What is followed anew keeps the time that it had.
        ends.follow(rules.iter(), [].iter(), &later(&start, 30, -3600));
        assert_eq!((due(&ends, 59, -3600), due(&ends, 60, -3600)), (0, 1));
        ends.follow(rules[1..].iter(), [].iter(), &start);
        assert!(ends.is_empty() && due(&ends, 99, 99) == 0);
    }

    #[test]
    fn what_was_learned_of_too_late_has_ended_at_once() {
        let start = Moment { wall: "2026-12-01T12:00:00Z".parse().unwrap(), boot: Duration::ZERO };
        let end = "2026-12-01T11:00:00Z".parse().unwrap();
        let mut ends = Ends::default();
        ends.follow([rule("192.0.2.1", Some(end))].iter(), [].iter(), &start);
        assert_eq!(ends.due(&start).len(), 1);
    }
}

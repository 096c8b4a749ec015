//! What is known about the addresses of host names.
//!
//! An answer takes the place of the one before; an answer that there is nobody of that name, too. Where there is no
//! answer, or one that is refused, the addresses stay as they were for [`GRACE`], and then they are gone: a name
//! server that is silenced must not keep somebody in for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::Moment;
use crate::{config::LastAnswer, names::Found, policy::HostName};

/// How long addresses count without a new answer: a name server may be away for a night.
pub(super) const GRACE: Duration = Duration::from_secs(24 * 3600);

/// The names that are looked up.
#[derive(Debug, Default)]
pub(super) struct Book {
    names: BTreeMap<HostName, Known>,
}

/// What is known about one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) addresses: BTreeSet<IpAddr>,
    /// When there was an answer last.
    pub(super) resolved: Option<Timestamp>,
    /// When it will be looked up again.
    pub(super) next: Option<Timestamp>,
    /// Why there was no answer at the last try.
    pub(super) error: Option<String>,
    /// Time since the start of the machine at which the addresses are gone without a new answer.
    lapses: Duration,
    /// Whether the answer is of this process, whose age that clock knows.
    is_heard: bool,
}

/// What a name has lost and won.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) name: HostName,
    pub(super) came: Vec<IpAddr>,
    pub(super) went: Vec<IpAddr>,
    /// What was known, should it not be possible to put in force what is known now.
    before: Box<Known>,
}

impl Book {
    /// Begins with what was known before.
    pub(super) fn from_last(answers: Vec<LastAnswer>, now: &Moment) -> Self {
        let mut book = Self::default();
        for LastAnswer { name, addresses, resolved } in answers {
            // What a clock that was wrong calls later than now, is from now.
            let resolved = resolved.min(now.wall);
            let age = Duration::try_from(now.wall.duration_since(resolved)).unwrap_or_default();
            let Some(left) = GRACE.checked_sub(age).filter(|left| !left.is_zero()) else {
                continue;
            };
            let lapses = now.boot + left;
            let known = Known { addresses, resolved: Some(resolved), lapses, ..Known::default() };
            book.names.insert(name, known);
        }
        book
    }

    /// What is to be kept.
    pub(super) fn to_last(&self) -> Vec<LastAnswer> {
        let answers = self.names.iter().filter_map(|(name, known)| {
            let (addresses, resolved) = (known.addresses.clone(), known.resolved?);
            Some(LastAnswer { name: name.clone(), addresses, resolved })
        });
        answers.collect()
    }

    /// Knows these names and no others.
    pub(super) fn keep(&mut self, names: &BTreeSet<HostName>) {
        self.names.retain(|name, _| names.contains(name));
        for name in names {
            self.names.entry(name.clone()).or_default();
        }
    }

    pub(super) fn get(&self, name: &HostName) -> Option<&Known> {
        self.names.get(name)
    }

    /// Takes note of what came of looking a name up. Returns what that changes.
    pub(super) fn learn(&mut self, found: Found, now: &Moment) -> Option<Difference> {
        let Found { name, at, next, outcome } = found;
        let known = self.names.get_mut(&name)?;
        known.next = Some(next);
        match outcome {
            Ok(addresses) => {
                let before = known.clone();
                known.error = None;
                known.resolved = Some(at);
                known.lapses = now.boot + GRACE;
                known.is_heard = true;
                replaced(known, before, name, addresses)
            }
            Err(error) => {
                known.error = Some(error);
                None
            }
        }
    }

    /// Takes back what was learned, because it can't be put in force. What was known does not count for longer by
    /// that: else an answer that never fits would keep somebody in for ever.
    pub(super) fn unlearn(&mut self, difference: &Difference, error: String) {
        if let Some(known) = self.names.get_mut(&difference.name) {
            let next = known.next;
            *known = Known { next, error: Some(error), ..Known::clone(&difference.before) };
        }
    }

    /// Addresses that had no new answer for too long are gone. Of answers that an earlier process has heard it was
    /// the wall clock that said how old they are, and it may have been put right since; of others it is not asked:
    /// somebody may set it forward by years.
    pub(super) fn lapse(&mut self, now: &Moment) -> Vec<Difference> {
        let wall = SignedDuration::try_from(GRACE).unwrap_or_default();
        let has_lapsed = |known: &Known| {
            let since = known.resolved.map(|at| now.wall.duration_since(at));
            known.lapses <= now.boot || !known.is_heard && since.is_some_and(|since| since >= wall)
        };
        let names = self.names.iter_mut();
        let lapsed = names.filter(|(_, known)| !known.addresses.is_empty() && has_lapsed(known));
        let forgotten = lapsed.filter_map(|(name, known)| {
            let before = known.clone();
            replaced(known, before, name.clone(), BTreeSet::new())
        });
        forgotten.collect()
    }

    /// Whether some name has addresses, which may lapse.
    pub(super) fn may_lapse(&self) -> bool {
        self.names.values().any(|known| !known.addresses.is_empty())
    }
}

fn replaced(
    known: &mut Known,
    before: Known,
    name: HostName,
    addresses: BTreeSet<IpAddr>,
) -> Option<Difference> {
    known.addresses = addresses;
    let came = known.addresses.difference(&before.addresses).copied().collect();
    let went = before.addresses.difference(&known.addresses).copied().collect();
    let is_new = known.addresses != before.addresses;
    is_new.then(|| Difference { name, came, went, before: Box::new(before) })
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;

    fn name() -> HostName {
        "home.example.org".parse().unwrap()
    }

    fn later(moment: &Moment, hours: u32) -> Moment {
        let boot = moment.boot + Duration::from_secs(3600) * hours;
        Moment { wall: moment.wall + i64::from(hours).hours(), boot }
    }

    fn found(outcome: Result<&[&str], &str>, now: &Moment) -> Found {
        let outcome = outcome
            .map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
            .map_err(str::to_owned);
        Found { name: name(), at: now.wall, next: now.wall, outcome }
    }

    fn shown(book: &Book) -> Vec<String> {
        book.get(&name()).unwrap().addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_an_answer_the_old_addresses_stay_for_a_day() {
        let start = Moment::now();
        let mut book = Book::default();
        book.keep(&BTreeSet::from([name()]));
        let won = book.learn(found(Ok(&["192.0.2.1", "192.0.2.2"]), &start), &start).unwrap();
        assert_eq!((won.came.len(), won.went.len()), (2, 0));
        let moved = book.learn(found(Ok(&["192.0.2.2", "192.0.2.3"]), &start), &start).unwrap();
        assert_eq!((moved.came.len(), moved.went.len()), (1, 1));
        assert!(book.learn(found(Ok(&["192.0.2.3", "192.0.2.2"]), &start), &start).is_none());
        let soon = later(&start, 23);
        assert!(book.learn(found(Err("timed out"), &soon), &soon).is_none());
        assert!(book.lapse(&soon).is_empty());
        assert_eq!(shown(&book), ["192.0.2.2", "192.0.2.3"]);
        assert_eq!(book.lapse(&later(&start, 24))[0].went.len(), 2);
        assert!(shown(&book).is_empty() && !book.may_lapse());
    }

    #[test]
    fn an_answer_that_there_is_nobody_is_an_answer() {
        let start = Moment::now();
        let mut book = Book::default();
        book.keep(&BTreeSet::from([name()]));
        book.learn(found(Ok(&["192.0.2.1"]), &start), &start);
        assert_eq!(book.learn(found(Ok(&[]), &start), &start).unwrap().went.len(), 1);
        assert!(shown(&book).is_empty());
    }

    #[test]
    fn what_was_known_before_counts_for_what_is_left_of_the_day() {
        let start = Moment::now();
        let mut book = Book::default();
        book.keep(&BTreeSet::from([name()]));
        book.learn(found(Ok(&["192.0.2.1"]), &start), &start);
        let last = book.to_last();
        let mut book = Book::from_last(last.clone(), &later(&start, 20));
        assert_eq!(shown(&book), ["192.0.2.1"]);
        assert!(book.lapse(&later(&start, 23)).is_empty());
        // Also by the clock that nobody sets alone.
        let set_back = Moment { wall: start.wall, ..later(&start, 24) };
        assert_eq!(book.lapse(&set_back).len(), 1);
        assert!(Book::from_last(last.clone(), &later(&start, 24)).names.is_empty());
        // A clock that was ahead when it was written does not lengthen it.
        let mut book = Book::from_last(last, &Moment { wall: start.wall - 99.hours(), ..start });
        assert_eq!(book.lapse(&later(&start, 24)).len(), 1);
    }

    #[test]
    fn what_can_t_be_put_in_force_is_not_known() {
        let start = Moment::now();
        let mut book = Book::default();
        book.keep(&BTreeSet::from([name()]));
        book.learn(found(Ok(&["192.0.2.1"]), &start), &start);
        let difference = book.learn(found(Ok(&["192.0.2.2"]), &start), &start).unwrap();
        book.unlearn(&difference, "no room".into());
        assert_eq!(shown(&book), ["192.0.2.1"]);
        assert_eq!(book.get(&name()).unwrap().error.as_deref(), Some("no room"));
        // Nor does the one before count for longer, however often that happens.
        let late = later(&start, 23);
        let difference = book.learn(found(Ok(&["192.0.2.2"]), &late), &late).unwrap();
        book.unlearn(&difference, "no room".into());
        assert_eq!(book.get(&name()).unwrap().resolved, Some(start.wall));
        assert_eq!(book.lapse(&later(&start, 24)).len(), 1);
    }

    #[test]
    fn a_wall_clock_that_is_set_forward_takes_away_only_what_it_had_dated() {
        let start = Moment::now();
        let mut book = Book::default();
        book.keep(&BTreeSet::from([name()]));
        book.learn(found(Ok(&["192.0.2.1"]), &start), &start);
        let forward = Moment { wall: start.wall + 99.hours(), ..start };
        assert!(book.lapse(&forward).is_empty());
        let mut book = Book::from_last(book.to_last(), &start);
        assert_eq!(book.lapse(&forward).len(), 1);
    }
}

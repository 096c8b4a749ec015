//! Who was shut out, by the events: estimates, because events are best effort.

use std::{cmp::Ordering, net::IpAddr, num::NonZeroUsize};

use jiff::Timestamp;
use lru::LruCache;
use serde::Serialize;

use crate::{
    events::{Event, Mark, event::Outcome, sources::origin},
    policy::Prefix,
};

/// Strangers that are remembered, those that knocked last.
pub(super) const REMEMBERED: usize = 4_096;
/// The time over which knocks count for the rate of now, in seconds.
const FADE: f64 = 10.0;

/// Who was shut out, in no order.
#[derive(Clone, Debug)]
pub(super) struct Strangers {
    known: LruCache<IpAddr, Stranger>,
}

/// One of them: an IPv4 address, or the /64 network of IPv6 addresses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stranger {
    /// The IPv4 address, or the first one of the network.
    pub(super) origin: IpAddr,
    /// The address that the last knock came from.
    pub(super) address: IpAddr,
    /// Packets that the events stand for.
    pub(super) packets: u64,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    /// Why the last one was dropped.
    pub(super) reason: String,
    pub(super) verdict: Outcome,
    /// Where the last one arrived.
    pub(super) door: Option<String>,
    pub(super) marks: Vec<Mark>,
    /// Packets a second at the time of the last one.
    rate: f64,
}

/// By what strangers are sorted, and which end comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sort {
    /// Most packets first.
    #[default]
    Packets,
    /// Most packets a second first.
    Rate,
    /// The last to knock first.
    Last,
    /// The last to appear first.
    First,
    /// The lowest address first.
    Source,
}

impl Sort {
    pub(super) const ALL: [Self; 5] =
        [Self::Packets, Self::Rate, Self::Last, Self::First, Self::Source];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Rate => "rate",
            Self::Last => "last",
            Self::First => "first",
            Self::Source => "source",
        }
    }

    /// The one behind it.
    pub(super) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|&one| one == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    fn compare(self, one: &Stranger, other: &Stranger, now: Timestamp) -> Ordering {
        let first = match self {
            Self::Packets => other.packets.cmp(&one.packets),
            Self::Rate => other.rate(now).total_cmp(&one.rate(now)),
            Self::Last => other.last.cmp(&one.last),
            Self::First => other.first.cmp(&one.first),
            Self::Source => Ordering::Equal,
        };
        // So that equal ones do not change places.
        first.then_with(|| one.origin.cmp(&other.origin))
    }
}

/// What of all strangers is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) sort: Sort,
    pub(super) is_reversed: bool,
    /// Only those that have this in their line, or that this prefix covers.
    pub(super) filter: String,
    /// Those that these prefixes cover are left out.
    pub(super) ignored: Vec<Prefix>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self { known: LruCache::new(NonZeroUsize::new(REMEMBERED).unwrap_or(NonZeroUsize::MIN)) }
    }
}

impl Strangers {
    /// Takes an event in.
    pub(super) fn take(&mut self, event: &Event) {
        let Some(address) = event.source else { return };
        let origin = origin(address);
        let stranger = self.known.get_or_insert_mut(origin, || Stranger {
            origin,
            address,
            packets: 0,
            first: event.time,
            last: event.time,
            reason: String::new(),
            verdict: event.verdict,
            door: None,
            marks: Vec::new(),
            rate: 0.0,
        });
        stranger.rate = stranger.rate(event.time) + event.count as f64 / FADE;
        stranger.address = address;
        stranger.packets = stranger.packets.saturating_add(event.count);
        stranger.last = event.time;
        stranger.reason.clone_from(&event.reason);
        stranger.verdict = event.verdict;
        stranger.door.clone_from(&event.door);
        let new = event.marks.iter().filter(|mark| !stranger.marks.contains(mark));
        let new: Vec<_> = new.copied().collect();
        stranger.marks.extend(new);
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// Those that were chosen, in order.
    pub(super) fn chosen(&self, choice: &Choice, now: Timestamp) -> Vec<&Stranger> {
        let mut chosen: Vec<_> = self
            .known
            .iter()
            .map(|(_, stranger)| stranger)
            .filter(|stranger| {
                !choice.ignored.iter().any(|prefix| stranger.is_covered_by(*prefix))
                    && stranger.matches(&choice.filter)
            })
            .collect();
        chosen.sort_by(|one, other| choice.sort.compare(one, other, now));
        if choice.is_reversed {
            chosen.reverse();
        }
        chosen
    }
}

impl Stranger {
    /// The source as it is shown.
    pub(super) fn source(&self) -> String {
        match self.network() {
            Some(network) => network,
            None => self.origin.to_string(),
        }
    }

    /// The network that is taken for one stranger, if it is more than an address.
    pub(super) fn network(&self) -> Option<String> {
        self.origin.is_ipv6().then(|| format!("{}/64", self.origin))
    }

    /// Packets a second, over the last ten or so.
    pub(super) fn rate(&self, now: Timestamp) -> f64 {
        let passed = now.duration_since(self.last).as_secs_f64().max(0.0);
        self.rate * (-passed / FADE).exp()
    }

    fn is_covered_by(&self, prefix: Prefix) -> bool {
        let net = prefix.net();
        net.contains(&self.address) || net.contains(&self.origin)
    }

    fn matches(&self, filter: &str) -> bool {
        let filter = filter.trim();
        if filter.is_empty() {
            return true;
        }
        let door = self.door.as_deref().unwrap_or_default();
        let words = [&self.source(), &self.address.to_string(), &self.reason, door];
        words.iter().any(|word| word.contains(filter))
            || self.marks.iter().any(|mark| mark.name().contains(filter))
            || filter.parse().is_ok_and(|prefix| self.is_covered_by(prefix))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::SignedDuration;

    use super::*;

    pub(in crate::cli::top) fn time(seconds: i64) -> Timestamp {
        let noon: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        noon + SignedDuration::from_secs(seconds)
    }

    pub(in crate::cli::top) fn event(source: &str, seconds: i64, count: u64) -> Event {
        Event {
            time: time(seconds),
            verdict: Outcome::Drop,
            reason: "not-listed".into(),
            source: source.parse().ok(),
            source_port: Some(40_000),
            destination: "192.0.2.1".parse().ok(),
            destination_port: Some(11_434),
            protocol: Some("tcp".into()),
            door: Some("eth0".into()),
            ifindex: 2,
            hook: None,
            length: 74,
            count,
            boot_ms: 0,
            marks: Vec::new(),
        }
    }

    fn bed() -> Strangers {
        let mut strangers = Strangers::default();
        for (source, seconds, count) in [
            ("203.0.113.66", 0, 5),
            ("198.51.100.7", 10, 50),
            ("2001:db8:bad::66", 20, 7),
            ("203.0.113.66", 30, 10),
            ("2001:db8:bad::67", 40, 1),
        ] {
            strangers.take(&event(source, seconds, count));
        }
        strangers
    }

    fn shown(strangers: &Strangers, choice: &Choice) -> Vec<String> {
        strangers.chosen(choice, time(40)).iter().map(|stranger| stranger.source()).collect()
    }

    const FOUR: &str = "203.0.113.66";
    const OTHER: &str = "198.51.100.7";
    const SIX: &str = "2001:db8:bad::/64";

    #[test]
    fn knocks_add_up_and_an_ipv6_network_is_one_stranger() {
        let strangers = bed();
        let six = strangers.known.peek(&"2001:db8:bad::".parse().unwrap()).unwrap();
        assert_eq!((six.packets, six.first, six.last), (8, time(20), time(40)));
        assert_eq!(six.address.to_string(), "2001:db8:bad::67");
        assert_eq!(strangers.count(), 3);
    }

    #[test]
    fn every_order_has_its_first() {
        let strangers = bed();
        let by = |sort| shown(&strangers, &Choice { sort, ..Choice::default() });
        assert_eq!(by(Sort::Packets), [OTHER, FOUR, SIX]);
        assert_eq!(by(Sort::Rate), [FOUR, OTHER, SIX]);
        assert_eq!(by(Sort::Last), [SIX, FOUR, OTHER]);
        assert_eq!(by(Sort::First), [SIX, OTHER, FOUR]);
        assert_eq!(by(Sort::Source), [OTHER, FOUR, SIX]);
        let reversed = Choice { is_reversed: true, ..Choice::default() };
        assert_eq!(shown(&strangers, &reversed), [SIX, FOUR, OTHER]);
        let mut sort = Sort::default();
        let mut round = Vec::new();
        for _ in 0..5 {
            round.push(sort);
            sort = sort.next();
        }
        assert_eq!((&round[..], sort), (&Sort::ALL[..], Sort::default()));
    }

    #[test]
    fn a_filter_is_a_part_of_the_line_or_a_prefix() {
        let mut strangers = bed();
        strangers.take(&Event { marks: vec![Mark::Scan], ..event("192.0.2.9", 1, 1) });
        let by = |filter: &str| {
            shown(&strangers, &Choice { filter: filter.into(), ..Choice::default() })
        };
        assert_eq!(by("113"), [FOUR]);
        assert_eq!(by("203.0.113.0/24"), [FOUR]);
        assert_eq!(by("2001:db8::/32"), [SIX]);
        assert_eq!(by("bad::67"), [SIX]);
        assert_eq!(by("scan"), ["192.0.2.9"]);
        assert_eq!(by("not-listed").len(), 4);
        assert!(by("denied").is_empty());
    }

    #[test]
    fn the_ignored_are_left_out() {
        let ignored = vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:bad::67".parse().unwrap()];
        assert_eq!(shown(&bed(), &Choice { ignored, ..Choice::default() }), [OTHER]);
    }

    #[test]
    fn a_rate_fades() {
        let mut strangers = Strangers::default();
        for second in 0..100 {
            strangers.take(&event(FOUR, second, 20));
        }
        let stranger = strangers.chosen(&Choice::default(), time(100))[0];
        let rate = stranger.rate(time(99));
        assert!((18.0..23.0).contains(&rate), "{rate}");
        assert!(stranger.rate(time(160)) < 0.1);
        assert_eq!(stranger.rate(time(0)), rate, "the clock was set back");
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut strangers = Strangers::default();
        for n in 0..10_000_u32 {
            strangers.take(&event(&std::net::Ipv4Addr::from(n).to_string(), 0, 1));
        }
        assert_eq!(strangers.count(), REMEMBERED);
    }
}

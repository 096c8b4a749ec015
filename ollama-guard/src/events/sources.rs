//! Who has knocked before, and how often: what makes an event remarkable.
//!
//! At most [`REMEMBERED`] sources are remembered, those that knocked last: an IPv4 address each, or
//! the /64 network of an IPv6 address, in which a host has as many addresses as it likes. A flood of
//! invented addresses drives the others out, and they are first seen again; it costs nothing else.
//!
//! Everything is counted by events, so what the budget of events suppressed is not in it, and time is
//! the boot clock's, which nobody can set.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
};

use lru::LruCache;

use super::{event::Event, mark::Mark};

/// Sources that are remembered, about 80 bytes each.
pub const REMEMBERED: usize = 8_192;
/// Different guarded services (address, port and protocol) that make a scan of a source's knocks...
pub const SCAN_TARGETS: usize = 4;
/// ... if they come within this time.
pub const SCAN_MS: u64 = 60_000;
/// The time over which knocks are counted for a burst.
pub const BURST_MS: u64 = 10_000;
/// The fewest packets within that time that are a burst...
pub const BURST_PACKETS: u64 = 100;
/// ... and how many times what is usual for the source it takes besides.
pub const BURST_TIMES: f32 = 10.0;

/// The weight of the newest count in what is usual: an average over some ten minutes.
const NEWEST: f32 = BURST_MS as f32 / 600_000.0;

/// The sources of late.
#[derive(Debug)]
pub struct Sources {
    known: LruCache<IpAddr, Habit>,
}

/// What is known about a source.
#[derive(Clone, Debug, Default)]
struct Habit {
    /// When the counting for a burst began.
    counting_since: u64,
    count: u64,
    /// Packets within [`BURST_MS`], on average.
    usual: f32,
    is_bursting: bool,
    /// When the first of the targets was tried.
    scanning_since: u64,
    /// Fingerprints of the first ones.
    targets: [u64; SCAN_TARGETS],
    tried: usize,
}

impl Default for Sources {
    fn default() -> Self {
        Self::new(REMEMBERED)
    }
}

impl Sources {
    /// Remembers up to `capacity` sources (at least one).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self { known: LruCache::new(capacity) }
    }

    /// What is remarkable about this event, which is remembered from now on.
    #[must_use]
    pub fn mark(&mut self, event: &Event) -> Vec<Mark> {
        let Some(source) = event.source.map(origin) else { return Vec::new() };
        let is_new = !self.known.contains(&source);
        let habit = self.known.get_or_insert_mut(source, || Habit {
            counting_since: event.boot_ms,
            ..Habit::default()
        });
        let mut marks = Vec::new();
        if is_new {
            marks.push(Mark::FirstSeen);
        }
        if habit.scans(event) {
            marks.push(Mark::Scan);
        }
        if habit.bursts(event) {
            marks.push(Mark::Burst);
        }
        marks
    }

    /// Remembers the source of an event that was told before: it is not first seen again.
    pub fn recall(&mut self, event: &Event) {
        if let Some(source) = event.source.map(origin) {
            self.known.get_or_insert(source, Habit::default);
        }
    }
}

/// Who is taken for one and the same.
#[must_use]
pub const fn origin(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

impl Habit {
    /// Whether this event makes a scan of it: told once each time.
    fn scans(&mut self, event: &Event) -> bool {
        let (Some(destination), Some(port)) = (event.destination, event.destination_port) else {
            return false;
        };
        if event.boot_ms.saturating_sub(self.scanning_since) >= SCAN_MS {
            self.tried = 0;
        }
        if self.tried == 0 {
            self.scanning_since = event.boot_ms;
        }
        let mut hasher = DefaultHasher::new();
        (destination, port, &event.protocol).hash(&mut hasher);
        let target = hasher.finish();
        if self.tried == SCAN_TARGETS || self.targets[..self.tried].contains(&target) {
            return false;
        }
        self.targets[self.tried] = target;
        self.tried += 1;
        self.tried == SCAN_TARGETS
    }

    /// Whether this event makes a burst of it: told once, until it is over.
    fn bursts(&mut self, event: &Event) -> bool {
        let passed = event.boot_ms.saturating_sub(self.counting_since) / BURST_MS;
        if passed > 0 {
            self.is_bursting &= passed == 1 && self.is_much();
            // The count that is finished, and then the silent ones.
            self.usual += (self.count as f32 - self.usual) * NEWEST;
            self.usual *= (1.0 - NEWEST).powi(i32::try_from(passed - 1).unwrap_or(i32::MAX));
            self.count = 0;
            self.counting_since += passed * BURST_MS;
        }
        self.count = self.count.saturating_add(event.count);
        let begins = !self.is_bursting && self.is_much();
        self.is_bursting |= begins;
        begins
    }

    fn is_much(&self) -> bool {
        self.count >= BURST_PACKETS && self.count as f32 >= self.usual * BURST_TIMES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::event::tests::knock;

    fn at(seconds: u64, source: &str, count: u64) -> Event {
        Event { boot_ms: seconds * 1000, count, ..knock(source) }
    }

    #[test]
    fn a_source_is_first_seen_once_and_an_ipv6_network_is_one_source() {
        let mut sources = Sources::default();
        assert_eq!(sources.mark(&at(1, "203.0.113.66", 1)), [Mark::FirstSeen]);
        assert_eq!(sources.mark(&at(2, "203.0.113.66", 1)), []);
        assert_eq!(sources.mark(&at(3, "203.0.113.67", 1)), [Mark::FirstSeen]);
        assert_eq!(sources.mark(&at(4, "2001:db8:7::1", 1)), [Mark::FirstSeen]);
        assert_eq!(sources.mark(&at(5, "2001:db8:7::ffff:2", 1)), []);
        assert_eq!(sources.mark(&at(6, "2001:db8:7:1::1", 1)), [Mark::FirstSeen]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_last_ones_stay() {
        let mut sources = Sources::new(2);
        for source in ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3"] {
            let _ = sources.mark(&at(1, source, 1));
        }
        assert_eq!(sources.known.len(), 2);
        assert_eq!(sources.mark(&at(1, "192.0.2.1", 1)), []);
        assert_eq!(sources.mark(&at(1, "192.0.2.2", 1)), [Mark::FirstSeen]);
    }

    #[test]
    fn what_was_told_before_is_not_first_seen() {
        let mut sources = Sources::default();
        sources.recall(&at(900, "192.0.2.1", 500));
        assert_eq!(sources.mark(&at(1, "192.0.2.1", 1)), [], "the clock of another start");
        assert_eq!(sources.mark(&Event { source: None, ..at(1, "192.0.2.1", 1) }), []);
    }

    #[test]
    fn many_targets_within_a_minute_are_a_scan_and_told_once() {
        let mut sources = Sources::default();
        let mut knock = |seconds, port| {
            let event = Event { destination_port: Some(port), ..at(seconds, "192.0.2.1", 1) };
            sources.mark(&event).contains(&Mark::Scan)
        };
        assert!(![1, 2, 3, 3, 2, 1].into_iter().any(|port| knock(1, port)));
        assert!(knock(2, 4), "the fourth");
        assert!(![5, 6, 7, 8].into_iter().any(|port| knock(3, port)));
        assert!(![1, 2, 3].into_iter().any(|port| knock(62, port)), "another minute");
        assert!(knock(63, 4));
        assert!(!(0..20).any(|n| knock(200 + 61 * n, n as u16)), "slowly is no scan");
    }

    #[test]
    fn much_more_than_usual_is_a_burst_and_told_once() {
        let mut sources = Sources::default();
        let mut knock =
            |seconds, count| sources.mark(&at(seconds, "192.0.2.1", count)).contains(&Mark::Burst);
        assert!(!knock(1, 99));
        assert!(knock(2, 1), "the hundredth within ten seconds");
        assert!(!knock(3, 500));
        assert!(!knock(12, 500), "it goes on");
        assert!(knock(100, 500), "it was over meanwhile");
    }

    #[test]
    fn what_is_usual_is_no_burst() {
        let mut sources = Sources::default();
        let mut knock =
            |seconds, count| sources.mark(&at(seconds, "192.0.2.1", count)).contains(&Mark::Burst);
        let told = (0..200).filter(|n| knock(n * 10 + 1, 300)).count();
        assert_eq!(told, 1, "the first one");
        assert!(!knock(2011, 1000));
        assert!(knock(2031, 4000));
    }
}

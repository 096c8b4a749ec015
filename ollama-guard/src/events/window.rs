//! From when to when events are asked for, and what that means when the clock was set meanwhile.
//!
//! A time that counts back from now (`1h`) is measured by the boot clock, which nobody can set and
//! which goes on while the host sleeps: so `1h` is an hour, whatever was done to the wall clock. What
//! happened before this start of the host has no boot clock in common with now, and is measured by the
//! wall clock. A time of day (RFC 3339) is compared with the time that each event shows, which is what
//! the wall clock said then.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

use super::{event::Event, record::Clock};

/// A moment as a person says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long ago.
    Ago(Duration),
    /// At this time.
    At(Timestamp),
}

/// A text that is no [`Moment`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no time: write how long ago, such as 90s, 15m, 1h or 2d, or a time with its zone, such \
     as 2026-03-01T12:00:00Z"
)]
pub struct NoMoment(String);

/// From when to when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// From this moment on.
    pub since: Option<Moment>,
    /// Up to, and not including, this moment.
    pub until: Option<Moment>,
}

/// A [`Window`] as of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    window: Window,
    now: Clock,
}

impl FromStr for Moment {
    type Err = NoMoment;

    fn from_str(text: &str) -> Result<Self, NoMoment> {
        let wrong = || NoMoment(text.chars().take(64).collect());
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Self::At(time));
        }
        let span: Span = text.parse().map_err(|_| wrong())?;
        let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
        Duration::try_from(length).map(Self::Ago).map_err(|_| wrong())
    }
}

/// What [`Moment::from_str`] reads, of letters that need no escape in the query of a URL.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ago(length) => write!(f, "{}ms", length.as_millis()),
            Self::At(time) => time.fmt(f),
        }
    }
}

impl Window {
    /// Whether everything is within.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.since.is_none() && self.until.is_none()
    }

    /// The window as of this moment.
    #[must_use]
    pub const fn at(self, now: Clock) -> Bounds {
        Bounds { window: self, now }
    }
}

impl Bounds {
    /// Whether an event is within. `is_this_boot`: whether it happened since the host was started.
    #[must_use]
    pub fn cover(&self, event: &Event, is_this_boot: bool) -> bool {
        let Window { since, until } = self.window;
        since.is_none_or(|since| !self.is_before(event, is_this_boot, since))
            && until.is_none_or(|until| self.is_before(event, is_this_boot, until))
    }

    fn is_before(&self, event: &Event, is_this_boot: bool, moment: Moment) -> bool {
        match moment {
            Moment::At(time) => event.time < time,
            Moment::Ago(length) if is_this_boot => {
                let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
                match self.now.boot_ms().checked_sub(length) {
                    Some(moment) => event.boot_ms < moment,
                    // Longer ago than the host was started.
                    None => false,
                }
            }
            Moment::Ago(length) => {
                let length = SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX);
                let moment = self.now.wall().checked_sub(length).unwrap_or(Timestamp::MIN);
                event.time < moment
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::event::tests::knock;

    const HOUR: u64 = 3_600_000;

    fn seconds(text: &str) -> Option<u64> {
        match text.parse() {
            Ok(Moment::Ago(length)) => Some(length.as_secs()),
            _ => None,
        }
    }

    #[test]
    fn lengths_and_times_are_understood_and_written_back() {
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("15m"), Some(900));
        assert_eq!(seconds("1h"), Some(3600));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("2d"), Some(172_800));
        assert_eq!(seconds("1w"), Some(604_800));
        for text in ["90s", "2d", "2026-03-01T12:00:00Z", "2026-03-01T12:00:00.25+02:00"] {
            let moment: Moment = text.parse().unwrap();
            assert_eq!(moment.to_string().parse(), Ok(moment), "{text}");
            let plain = |c: char| c.is_ascii_alphanumeric() || "-:.".contains(c);
            assert!(moment.to_string().chars().all(plain), "{moment}");
        }
    }

    #[test]
    fn what_is_no_time_is_told_how_to_write_one() {
        let long = "9".repeat(1000);
        for text in
            ["", "yesterday", "1", "-1h", "1mo", "2026-03-01", "2026-03-01T12:00:00", "5x", &long]
        {
            let error = text.parse::<Moment>().unwrap_err().to_string();
            assert!(error.contains("such as 90s") && error.len() < 300, "{error}");
        }
    }

    /// Ten hours after the start of the host, at noon.
    fn bounds(since: &str, until: Option<&str>) -> Bounds {
        let now = Clock::pair(10 * HOUR * 1_000_000, "2026-03-01T12:00:00Z".parse().unwrap());
        let since = since.parse().ok();
        Window { since, until: until.and_then(|text| text.parse().ok()) }.at(now)
    }

    fn event(boot_hours: u64, time: &str) -> Event {
        let time = format!("2026-03-01T{time}:00Z").parse().unwrap();
        Event { time, boot_ms: boot_hours * HOUR, ..knock("192.0.2.1") }
    }

    #[test]
    fn a_length_is_measured_by_the_clock_that_nobody_can_set() {
        let bounds = bounds("2h", None);
        assert!(bounds.cover(&event(8, "03:00"), true), "the clock was set forward since");
        assert!(!bounds.cover(&event(7, "11:59"), true), "it was set back since");
        assert!(!bounds.cover(&event(9, "09:59"), false), "before this start: the wall clock");
        assert!(bounds.cover(&event(0, "10:00"), false));
    }

    #[test]
    fn a_time_is_compared_with_what_the_event_shows() {
        let bounds = bounds("2026-03-01T10:00:00Z", Some("2026-03-01T11:00:00Z"));
        let times = ["09:59", "10:00", "10:59", "11:00"];
        let covered = times.map(|time| bounds.cover(&event(1, time), true));
        assert_eq!(covered, [false, true, true, false]);
    }

    #[test]
    fn both_ends_count_back_and_more_than_there_was_is_everything() {
        let bounds_of = bounds("3h", Some("1h"));
        let covered = [6, 7, 8, 9].map(|hour| bounds_of.cover(&event(hour, "12:00"), true));
        assert_eq!(covered, [false, true, true, false]);
        assert!(bounds("100000d", None).cover(&event(0, "00:00"), true));
        assert!(bounds("100000000d", None).cover(&event(0, "00:00"), true));
    }
}

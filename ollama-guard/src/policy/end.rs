//! When a rule ends.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::quoted;

/// The longest time from now that a command may ask for: ten years. What is meant to last longer has
/// no end.
pub const LONGEST: Duration = Duration::from_secs(3653 * 24 * 3600);

/// The moment from which on a rule does not count any more: a whole second by the wall clock, up to the year
/// 2106. Four bytes, because a list may have a million of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Timestamp", into = "Timestamp")]
pub struct End(NonZeroU32);

/// Why something is no end, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndError {
    /// No moment.
    #[error(
        "{text} is no moment: write date, time and offset, as in 2026-12-01T18:00:00Z or \
         2026-12-01T19:00:00+01:00"
    )]
    NoMoment {
        /// As written.
        text: String,
    },
    /// Before 1970 or behind 2106.
    #[error("{0} is out of reach: write a moment before the year 2106, or no end")]
    OutOfReach(Timestamp),
    /// No duration.
    #[error(
        "{text} is no duration: write a number and a unit, as in 90s, 45m, 2h, 1h30m, 7d or 2w"
    )]
    NoDuration {
        /// As written.
        text: String,
    },
    /// Nothing, or less.
    #[error("{text} is no time at all: write at least 1s")]
    Nothing {
        /// As written.
        text: String,
    },
    /// Longer than [`LONGEST`].
    #[error("{text} is more than ten years ahead: leave the end out for what is to stay")]
    TooLong {
        /// As written.
        text: String,
    },
    /// It has passed.
    #[error("{0} has passed: write a moment to come")]
    Past(End),
}

impl End {
    /// The end at this moment, or at the next whole second.
    ///
    /// # Errors
    ///
    /// [`EndError::OutOfReach`].
    pub fn at(moment: Timestamp) -> Result<Self, EndError> {
        let seconds = moment.as_second() + i64::from(moment.subsec_nanosecond() > 0);
        let seconds = u32::try_from(seconds).ok().and_then(NonZeroU32::new);
        seconds.map(Self).ok_or(EndError::OutOfReach(moment))
    }

    /// The end so long after this moment.
    ///
    /// # Errors
    ///
    /// If that is no time at all, or more than [`LONGEST`].
    pub fn after(moment: Timestamp, time: Duration) -> Result<Self, EndError> {
        let text = || span(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
        if time < Duration::from_secs(1) {
            return Err(EndError::Nothing { text: text() });
        }
        let time = SignedDuration::try_from(time.min(LONGEST + Duration::from_secs(1)));
        let time = time.map_err(|_| EndError::TooLong { text: text() })?;
        let end = moment.checked_add(time).map_err(|_| EndError::TooLong { text: text() })?;
        Self::at(end)?.ahead_of(moment)
    }

    /// The same, if it is to come, and within [`LONGEST`].
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn ahead_of(self, moment: Timestamp) -> Result<Self, EndError> {
        if self.has_passed(moment) {
            return Err(EndError::Past(self));
        }
        if self.seconds_from(moment) > i64::try_from(LONGEST.as_secs()).unwrap_or(i64::MAX) {
            return Err(EndError::TooLong { text: self.to_string() });
        }
        Ok(self)
    }

    /// The moment.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        // Every second of 32 bits is one of a timestamp.
        Timestamp::from_second(self.0.get().into()).unwrap_or(Timestamp::MAX)
    }

    /// Whether it has come.
    #[must_use]
    pub fn has_passed(self, now: Timestamp) -> bool {
        self.timestamp() <= now
    }

    /// Whole seconds from a moment to the end, rounded up; less than nought once it has passed.
    #[must_use]
    pub fn seconds_from(self, moment: Timestamp) -> i64 {
        i64::from(self.0.get()) - moment.as_second()
    }
}

impl TryFrom<Timestamp> for End {
    type Error = EndError;

    fn try_from(moment: Timestamp) -> Result<Self, EndError> {
        Self::at(moment)
    }
}

impl From<End> for Timestamp {
    fn from(end: End) -> Self {
        end.timestamp()
    }
}

impl FromStr for End {
    type Err = EndError;

    fn from_str(text: &str) -> Result<Self, EndError> {
        let no_moment = |_| EndError::NoMoment { text: quoted(text) };
        Self::at(text.parse::<Timestamp>().map_err(no_moment)?)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timestamp().fmt(f)
    }
}

/// How long something is to last: `90s`, `45m`, `2h`, `1h 30m`, `7d`, `2 weeks`. A day has 24 hours.
///
/// # Errors
///
/// If it is no duration, no time at all, or longer than [`LONGEST`].
pub fn duration(text: &str) -> Result<Duration, EndError> {
    let no_duration = || EndError::NoDuration { text: quoted(text) };
    let is_friendly = |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace();
    // The parser knows more: signs, fractions, ISO 8601.
    if !text.chars().all(is_friendly) || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(no_duration());
    }
    let span: Span = text.parse().map_err(|_| no_duration())?;
    // Months and years have no length of their own.
    let time = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| no_duration())?;
    let time = Duration::try_from(time).map_err(|_| no_duration())?;
    match time {
        time if time < Duration::from_secs(1) => Err(EndError::Nothing { text: quoted(text) }),
        time if time > LONGEST => Err(EndError::TooLong { text: quoted(text) }),
        time => Ok(time),
    }
}

/// So many seconds for a person, in the two largest units: `2h 3m`, `45s`, `3d 4h`.
#[must_use]
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, length)| seconds >= *length).unwrap_or(3);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (name, length) in &units[first..units.len().min(first + 2)] {
        if rest / length > 0 || parts.is_empty() {
            parts.push(format!("{}{name}", rest / length));
        }
        rest %= length;
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        let seconds = |text| duration(text).map(|time| time.as_secs());
        for (text, expected) in [
            ("90s", 90),
            ("45m", 2700),
            ("2h", 7200),
            ("1h30m", 5400),
            ("1h 30m", 5400),
            ("7d", 604_800),
            ("2 weeks", 1_209_600),
            ("3653d", 315_619_200),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "2", "h", "-2h", "2h ago", "PT2H", "1.5h", "2x", "1mo", "1y", "2h,", "+2h"]
        {
            assert!(matches!(seconds(text), Err(EndError::NoDuration { .. })), "{text}");
        }
        assert!(matches!(seconds("0s"), Err(EndError::Nothing { .. })));
        assert!(matches!(seconds("500ms"), Err(EndError::Nothing { .. })));
        assert!(matches!(seconds("3654d"), Err(EndError::TooLong { .. })));
    }

    #[test]
    fn an_end_is_a_whole_second_to_come_within_ten_years() {
        let now = moment("2026-12-01T12:00:00.25Z");
        let end = End::after(now, Duration::from_secs(7200)).unwrap();
        assert_eq!(end.to_string(), "2026-12-01T14:00:01Z", "no sooner than was asked for");
        assert_eq!("2026-12-01T15:00:01+01:00".parse(), Ok(end));
        assert!(!end.has_passed(moment("2026-12-01T14:00:00.999Z")));
        assert!(end.has_passed(moment("2026-12-01T14:00:01Z")));
        assert_eq!(end.ahead_of(end.timestamp()), Err(EndError::Past(end)));
        let far: End = "2036-12-02T12:00:00Z".parse().unwrap();
        assert!(matches!(far.ahead_of(now), Err(EndError::TooLong { .. })));
        assert!(matches!(End::after(now, Duration::MAX), Err(EndError::TooLong { .. })));
        assert!(matches!(End::after(now, Duration::ZERO), Err(EndError::Nothing { .. })));
        for text in ["tomorrow", "2026-12-01", "2026-12-01T12:00:00", "12:00"] {
            assert!(matches!(text.parse::<End>(), Err(EndError::NoMoment { .. })), "{text}");
        }
        for text in ["1970-01-01T00:00:00Z", "2106-02-07T06:28:16Z"] {
            assert!(matches!(text.parse::<End>(), Err(EndError::OutOfReach(_))), "{text}");
        }
    }

    #[test]
    fn json_is_the_moment_and_an_option_takes_no_more_room() {
        let end: End = "2026-12-01T12:00:00Z".parse().unwrap();
        assert_eq!(serde_json::to_string(&end).unwrap(), "\"2026-12-01T12:00:00Z\"");
        assert_eq!(serde_json::from_str::<End>("\"2026-12-01T12:00:00Z\"").unwrap(), end);
        assert_eq!(size_of::<Option<End>>(), 4);
    }

    #[test]
    fn a_span_is_told_in_two_units() {
        let told = [0, 59, 60, 7384, 7200, 86_400, 273_600, -5].map(span);
        assert_eq!(told, ["0s", "59s", "1m", "2h 3m", "2h", "1d", "3d 4h", "0s"]);
    }
}

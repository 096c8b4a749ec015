//! Many measurements of one thing, in a few numbers.

use std::fmt;

/// The middle of a number of rounds, and how far they lie apart. Nanoseconds, or whatever was
/// measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Half of the rounds were less.
    pub median: f64,
    /// A quarter of the rounds were less.
    pub low: f64,
    /// A quarter of the rounds were more.
    pub high: f64,
}

impl Summary {
    /// Of at least one round.
    ///
    /// # Panics
    ///
    /// Without a round.
    #[must_use]
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        Self { median: at(0.5), low: at(0.25), high: at(0.75) }
    }

    /// Of the differences, round by round.
    #[must_use]
    pub fn above(rounds: &[f64], base: &[f64]) -> Self {
        Self::of(&rounds.iter().zip(base).map(|(one, base)| one - base).collect::<Vec<_>>())
    }

    /// Of the ratios, round by round.
    #[must_use]
    pub fn ratio(rounds: &[f64], base: &[f64]) -> Self {
        Self::of(&rounds.iter().zip(base).map(|(one, base)| one / base).collect::<Vec<_>>())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let Self { median, low, high } = self;
        write!(f, "{median:.digits$} ({low:.digits$} to {high:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_in_the_middle_and_rounds_are_compared_with_their_own() {
        let summary = Summary::of(&[9.0, 1.0, 3.0, 2.0, 8.0]);
        assert_eq!(summary, Summary { median: 3.0, low: 2.0, high: 8.0 });
        // A slow round is slow for both.
        assert_eq!(Summary::above(&[11.0, 101.0], &[10.0, 100.0]).median, 1.0);
        assert_eq!(Summary::ratio(&[20.0, 200.0], &[10.0, 100.0]).median, 2.0);
        assert_eq!(format!("{:.2}", summary), "3.00 (2.00 to 8.00)");
    }
}

//! Patterns of interface names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::quoted;

/// An interface name, in which `*`, `?` and `[...]` mean what they mean to a shell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(glob::Pattern);

/// Why a text is no pattern of interface names, and what to write instead.
///
/// `text` is always as it was written, in quotes and clipped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Nothing was written.
    #[error("the interface name is empty: write one like eth0, or a pattern like wg*")]
    Empty,
    /// A character that no interface name contains.
    #[error(
        "{text} is no interface name: it cannot contain white space, slashes or colons; \
         write one like eth0, or a pattern like wg*"
    )]
    Character {
        /// As written.
        text: String,
    },
    /// More than the kernel accepts.
    #[error("{text} is no interface name: those have at most {MOST_BYTES} bytes, so shorten it")]
    TooLong {
        /// As written.
        text: String,
    },
    /// Brackets that are not closed, or two stars together.
    #[error(
        "{text} is no pattern: close its brackets, as in eth[0-3], and write a single * at a time"
    )]
    Syntax {
        /// As written.
        text: String,
    },
    /// The word for all the interfaces among the names of some.
    #[error("\"auto\" stands among names: write it alone, or leave it out")]
    AutoAmongNames,
}

/// The longest name of an interface (the kernel's `IFNAMSIZ` without the closing zero).
const MOST_BYTES: usize = 15;
/// Enough for a pattern of brackets that matches the longest name.
const MOST_PATTERN_BYTES: usize = 255;

impl Pattern {
    /// Whether an interface of this name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.matches(name)
    }

    /// The name, if only one interface can be meant.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        let text = self.0.as_str();
        (!text.contains(['*', '?', '['])).then_some(text)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        // What the kernel's dev_valid_name refuses, and what a terminal should not be shown.
        let refused = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':';
        if text.contains(refused) || matches!(text, "." | "..") {
            return Err(PatternError::Character { text: quoted(text) });
        }
        let pattern = glob::Pattern::new(text)
            .map(Self)
            .map_err(|_| PatternError::Syntax { text: quoted(text) })?;
        let most = if pattern.literal().is_some() { MOST_BYTES } else { MOST_PATTERN_BYTES };
        if text.len() > most {
            return Err(PatternError::TooLong { text: quoted(text) });
        }
        Ok(pattern)
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0.as_str().to_owned()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_mean_what_they_mean_to_a_shell() {
        let cases = [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth", true),
            ("*", "wlp0s20f3", true),
            ("wg?", "wg0", true),
            ("wg?", "wg10", false),
            ("en[op]*", "enp3s0", true),
            ("en[!op]*", "enp3s0", false),
            ("eth[0-3]", "eth4", false),
            ("eth0.*", "eth0.5", true),
            ("ETH0", "eth0", false),
        ];
        for (text, name, expected) in cases {
            assert_eq!(pattern(text).matches(name), expected, "{text} {name}");
        }
        assert_eq!(pattern("eth0").literal(), Some("eth0"));
        assert_eq!(pattern("eth[01]").literal(), None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let cases = [
            ("", "is empty"),
            ("eth 0", "white space, slashes or colons"),
            ("a/b", "white space, slashes or colons"),
            ("eth0:1", "white space, slashes or colons"),
            ("..", "write one like eth0"),
            ("abcdefghijklmnop", "at most 15 bytes"),
            ("eth[0", "close its brackets"),
            ("eth**", "a single * at a time"),
        ];
        for (text, expected) in cases {
            let message = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        assert!("abcdefghijklmno".parse::<Pattern>().is_ok());
        assert!("[abc][abc][abc][abc]*".parse::<Pattern>().is_ok(), "longer than a name");
    }
}

//! Host names in the place of prefixes.
//!
//! A name is no address: who is behind it is what name servers say at a given time. Here is only what a name
//! looks like; looking it up is another room's work.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Effect, End, Limits, Origin, Prefix, PrefixError, quoted};

/// What stands before a name that has no dot, and may stand before any.
const MARK: &str = "host:";
/// Bytes of the longest name and of the longest of its parts (RFC 1035, section 2.3.4).
const MOST_BYTES: usize = 253;
const MOST_LABEL_BYTES: usize = 63;

/// The name of a host: absolute, in lower case, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(Arc<str>);

/// Whom an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Addresses.
    Prefix(Prefix),
    /// The addresses that a name has.
    Name(HostName),
}

/// What a rule about a name says: whom it is about, what it does, and where.
pub type NameSaid<'a> = (&'a HostName, Effect, Option<&'a Limits>);

/// A name and what is to happen to its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRule {
    /// The name.
    pub name: HostName,
    /// What happens to its addresses.
    pub effect: Effect,
    /// Where that holds, if not everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Arc<Limits>>,
    /// Why, in the words of the person who added it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Arc<str>>,
    /// Where it was written.
    pub origin: Arc<Origin>,
    /// From when on it does not count any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<End>,
}

/// Why a text is no name, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Letters of other alphabets.
    #[error(
        "{text} is no plain host name: write it as it stands in DNS, with xn-- (`idn2 NAME` prints that); \
         letters that look alike are told apart there"
    )]
    NotAscii {
        /// As written.
        text: String,
    },
    /// A star.
    #[error(
        "{text} has a star: write the names of the hosts, one by one; a pattern has no addresses"
    )]
    Star {
        /// As written.
        text: String,
    },
    /// Anything else.
    #[error(
        "{text} is no host name: its parts are up to 63 letters, digits, hyphens and underscores, with dots \
         between them, 253 in all"
    )]
    Malformed {
        /// As written.
        text: String,
    },
}

/// Why a text is nobody.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubjectError {
    /// It is no prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// It is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl HostName {
    /// The name, without a dot at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How an entry of a list says it.
    #[must_use]
    pub fn written(&self) -> String {
        if looks_like_one(&self.0) { self.0.to_string() } else { format!("{MARK}{self}") }
    }
}

impl NameRule {
    /// What it says.
    #[must_use]
    pub fn said(&self) -> NameSaid<'_> {
        (&self.name, self.effect, self.limits.as_deref())
    }

    /// Whether it holds for what comes in through some interfaces only.
    #[must_use]
    pub fn is_for_some_doors(&self) -> bool {
        self.limits.as_deref().is_some_and(Limits::is_for_some_doors)
    }

    /// Where it was written, as [`super::Rule::written`] says it.
    #[must_use]
    pub fn written(&self) -> String {
        self.origin.written(self.effect)
    }
}

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let shown = || quoted(text);
        if !text.is_ascii() {
            return Err(NameError::NotAscii { text: shown() });
        }
        if text.contains('*') {
            return Err(NameError::Star { text: shown() });
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            (1..=MOST_LABEL_BYTES).contains(&label.len())
                && label.chars().all(is_plain)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // A last part of digits alone would make it look like an address.
        let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        let is_name = name.len() <= MOST_BYTES
            && name.split('.').all(is_label)
            && !name.rsplit('.').next().is_some_and(is_number);
        if is_name {
            Ok(Self(name.to_ascii_lowercase().into()))
        } else {
            Err(NameError::Malformed { text: shown() })
        }
    }
}

/// Whether a text is meant to be a name: it has a dot, and its last part begins with a letter, as every
/// top-level domain does. Names of groups have no dot, and addresses end otherwise.
fn looks_like_one(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let Some((_, last)) = name.rsplit_once('.') else { return false };
    let is_strange = |c: char| matches!(c, '/' | ':' | '[' | ']' | '%') || c.is_whitespace();
    last.chars().count() > 1
        && last.starts_with(|c: char| c.is_alphabetic())
        && !text.contains(is_strange)
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        if let Some(name) = text.strip_prefix(MARK) {
            return Ok(Self::Name(name.parse()?));
        }
        if looks_like_one(text) {
            return Ok(Self::Name(text.parse()?));
        }
        Ok(Self::Prefix(text.parse()?))
    }
}

impl TryFrom<String> for HostName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0.to_string()
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Name(name) => f.write_str(&name.written()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        match text.parse::<Subject>() {
            Ok(Subject::Prefix(prefix)) => format!("prefix {prefix}"),
            Ok(Subject::Name(name)) => format!("name {name}"),
            Err(SubjectError::Prefix(_)) => "no prefix".into(),
            Err(SubjectError::Name(_)) => "no name".into(),
        }
    }

    #[test]
    fn a_name_has_a_dot_or_a_mark_before_it() {
        for (text, expected) in [
            ("home.example.org", "name home.example.org"),
            ("Home.Example.ORG.", "name home.example.org"),
            ("1.example.org", "name 1.example.org"),
            ("_a.xn--bcher-kva.example", "name _a.xn--bcher-kva.example"),
            ("host:printer", "name printer"),
            ("host:home.example.org", "name home.example.org"),
            ("192.0.2.1", "prefix 192.0.2.1"),
            ("2001:db8::/32", "prefix 2001:db8::/32"),
            ("printer", "no prefix"),
            ("192.0.2", "no prefix"),
            ("192.0.2.1O", "no prefix"),
            ("192.0.2.O", "no prefix"),
            ("192.0.2.1.", "no prefix"),
            ("host:192.0.2.1", "no name"),
            ("host:", "no name"),
            ("*.example.org", "no name"),
            ("bücher.example", "no name"),
            ("example.рф", "no name"),
            ("-a.example.org", "no name"),
            ("a..example.org", "no name"),
            ("a.example.org/24", "no prefix"),
            ("a.example.org:80", "no prefix"),
            ("lists/feed.txt", "no prefix"),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
        assert_eq!(told(&format!("{}.example.org", "a".repeat(64))), "no name");
        assert_eq!(told(&format!("{}org", "a.".repeat(126))), "no name");
    }

    #[test]
    fn a_name_is_written_so_that_it_is_read_as_one() {
        for text in ["host:printer", "home.example.org", "192.0.2.1"] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
    }
}

//! What is remarkable about an event.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something about an event that deserves a look. [`Sources`](super::Sources) decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// The source is not among those that are remembered.
    FirstSeen,
    /// The source tries one guarded service after another.
    Scan,
    /// The source knocks far more often than it usually does.
    Burst,
}

impl Mark {
    /// The name in JSON and in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FirstSeen => "first-seen",
            Self::Scan => "scan",
            Self::Burst => "burst",
        }
    }

    /// Several marks as one word.
    #[must_use]
    pub fn join(marks: &[Self]) -> String {
        marks.iter().map(|mark| mark.name()).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

//! One conclusion: what is so, and one line of advice.

use std::{fmt, net::IpAddr};

use serde::Serialize;

/// How bad it is. The worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// A path to a local listener does not cross the guard.
    Open,
    /// The guard cannot work here.
    Lacks,
    /// The guard drops, or would drop, packets that nobody meant.
    Hurts,
    /// Something that happens once, or only perhaps: to be known before.
    Caution,
    /// Good to know.
    Note,
}

impl Severity {
    /// Whether something has to be done: exit status 1.
    #[must_use]
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Open | Self::Lacks | Self::Hurts)
    }

    /// The word in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Lacks => "lacks",
            Self::Hurts => "hurts",
            Self::Caution => "caution",
            Self::Note => "note",
        }
    }
}

/// One conclusion. `Display` gives it on one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name that does not change between versions, for scripts.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is so.
    pub what: String,
    /// What to do about it, on one line.
    pub advice: String,
    /// Addresses that stand for clients which cannot be told apart behind them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hides_clients: Vec<IpAddr>,
}

impl Finding {
    pub(super) fn new(
        code: &'static str,
        severity: Severity,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let (what, advice) = (what.into(), advice.into());
        Self { code, severity, what, advice, hides_clients: Vec::new() }
    }

    /// Marks that clients cannot be told apart behind these addresses.
    pub(super) fn hiding(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.hides_clients.extend(addresses);
        self.hides_clients.sort_unstable();
        self.hides_clients.dedup();
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.advice)
    }
}

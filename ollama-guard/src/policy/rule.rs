//! What a person said about a prefix, and where.

use std::{fmt, path::Path, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{End, Limits, Prefix};

/// What a rule does to the sources that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// They may knock, unless a deny rule covers them too.
    Allow,
    /// They may not, whatever else is said.
    Deny,
}

/// Where a rule was written: that is where it has to be changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Origin {
    /// In the configuration file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line, counted from 1.
        line: usize,
    },
    /// In a variable of the daemon's environment.
    Environment,
    /// In a flag of the daemon.
    Flag,
    /// By a command to the running daemon.
    Cli {
        /// The user who gave it.
        by: String,
        /// When.
        at: Timestamp,
    },
}

/// What a rule says: whom it covers, what it does, and where.
pub type Said<'a> = (Prefix, Effect, Option<&'a Limits>);

/// One prefix and what is to happen to it. There may be a million: what many share stands once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The sources that it covers.
    pub prefix: Prefix,
    /// What happens to them.
    pub effect: Effect,
    /// Where it holds, if not everywhere.
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

impl Effect {
    /// The name in commands, configuration and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl Rule {
    /// What it says: all that a packet depends on.
    #[must_use]
    pub fn said(&self) -> Said<'_> {
        (self.prefix, self.effect, self.limits.as_deref())
    }

    /// Whether it holds for what comes in through some interfaces only.
    #[must_use]
    pub fn is_for_some_doors(&self) -> bool {
        self.limits.as_deref().is_some_and(Limits::is_for_some_doors)
    }

    /// Where the rule was written, to the word.
    #[must_use]
    pub fn written(&self) -> String {
        self.origin.written(self.effect)
    }
}

impl Origin {
    /// Where a rule of this effect was written, to the word: the origin alone does not know whether it was
    /// `--allow` or `--deny`.
    #[must_use]
    pub fn written(&self, effect: Effect) -> String {
        let name = effect.name();
        match self {
            Self::Flag => format!("--{name} on the command line"),
            Self::Environment => {
                format!("OLLAMA_GUARD_{} in the environment", name.to_ascii_uppercase())
            }
            Self::File { .. } | Self::Cli { .. } => self.to_string(),
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Environment => f.write_str("the daemon's environment"),
            Self::Flag => f.write_str("the daemon's command line"),
            Self::Cli { by, at } => {
                write!(f, "added by {by} at {}", at.strftime("%Y-%m-%d %H:%M:%SZ"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origin: Origin) -> Rule {
        let prefix = "192.0.2.0/24".parse().unwrap();
        let (effect, origin) = (Effect::Deny, origin.into());
        Rule { prefix, effect, limits: None, comment: None, origin, expires: None }
    }

    #[test]
    fn a_rule_says_where_it_was_written() {
        let path = Path::new("/etc/ollama-guard/config.toml").into();
        let at = "2026-03-01T12:00:00.5Z".parse().unwrap();
        let cases = [
            (Origin::File { path, line: 12 }, "/etc/ollama-guard/config.toml line 12"),
            (Origin::Environment, "OLLAMA_GUARD_DENY in the environment"),
            (Origin::Flag, "--deny on the command line"),
            (Origin::Cli { by: "root".into(), at }, "added by root at 2026-03-01 12:00:00Z"),
        ];
        for (origin, expected) in cases {
            assert_eq!(rule(origin).written(), expected);
        }
    }

    #[test]
    fn json_leads_back_to_the_rule() {
        let at = "2026-03-01T12:00:00Z".parse().unwrap();
        let rule = rule(Origin::Cli { by: "root".into(), at });
        let json = serde_json::to_string(&rule).unwrap();
        assert_eq!(
            json,
            r#"{"prefix":"192.0.2.0/24","effect":"deny","origin":{"kind":"cli","by":"root","at":"2026-03-01T12:00:00Z"}}"#
        );
        assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
        let rule = Rule { expires: Some("2026-03-01T14:00:00Z".parse().unwrap()), ..rule };
        let json = serde_json::to_string(&rule).unwrap();
        assert!(json.ends_with(r#","expires":"2026-03-01T14:00:00Z"}"#), "{json}");
        assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
    }
}

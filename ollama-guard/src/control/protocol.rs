//! What goes over the socket, as JSON. Fields that are not known are refused in requests, so that
//! a misspelt `anyone` is an error, and ignored in answers, so that a newer daemon may say more.
//!
//! Long because it is the list of all messages of the socket.

mod names;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use thiserror::Error;

pub use self::names::NameView;
pub use crate::policy::{Effect, End, Limits};

pub use crate::config::WrittenMode;
use crate::events::text::misleading;

/// Bytes of a comment.
pub const MAX_COMMENT_BYTES: usize = 256;

/// A comment on a rule: one short line that can be shown anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Comment(String);

/// A text that is no [`Comment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommentError {
    /// Too long.
    #[error("a comment of {bytes} bytes is too long: use at most {MAX_COMMENT_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It would not stay on its line.
    #[error("a comment is one line without control characters: leave out {character:?}")]
    Control {
        /// The first one of them.
        character: char,
    },
}

impl Comment {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Comment {
    type Error = CommentError;

    fn try_from(text: String) -> Result<Self, CommentError> {
        if text.len() > MAX_COMMENT_BYTES {
            return Err(CommentError::TooLong { bytes: text.len() });
        }
        match text.chars().find(|&character| misleading(character)) {
            Some(character) => Err(CommentError::Control { character }),
            None => Ok(Self(text)),
        }
    }
}

impl From<Comment> for String {
    fn from(comment: Comment) -> Self {
        comment.0
    }
}

/// Adds rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// What the rules do.
    pub effect: Effect,
    /// Whom they cover; at least one.
    #[serde(deserialize_with = "at_least_one")]
    pub prefixes: Vec<String>,
    /// Where they hold; nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// One comment for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Comment>,
    /// That a prefix which covers everyone is meant.
    #[serde(default)]
    pub anyone: bool,
    /// When they end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<End>,
    /// After how many seconds they end; instead of `expires`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
}

/// Removes rules that were added before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// What the rules do.
    pub effect: Effect,
    /// Whom they cover; at least one.
    #[serde(deserialize_with = "at_least_one")]
    pub prefixes: Vec<String>,
    /// Only rules with exactly these limits; otherwise whatever theirs are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

/// Replaces all added rules of one effect, whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceRequest {
    /// What the rules do. Those of the other effect stay.
    pub effect: Effect,
    /// The new ones; there may be none.
    pub rules: Vec<NewRule>,
    /// Where they hold. Only rules with exactly these limits are replaced; otherwise all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// That a prefix which covers everyone is meant.
    #[serde(default)]
    pub anyone: bool,
}

/// One rule of a [`ReplaceRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    /// Whom it covers.
    pub prefix: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Comment>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<End>,
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let prefixes = Vec::deserialize(deserializer)?;
    if prefixes.is_empty() {
        return Err(D::Error::custom("`prefixes` is empty: name at least one"));
    }
    Ok(prefixes)
}

/// A change of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Add some.
    Add(AddRequest),
    /// Remove some.
    Remove(RemoveRequest),
    /// Replace all of one effect.
    Replace(ReplaceRequest),
}

impl Edit {
    /// `add`, `remove` or `replace`: the last part of the path, and the action in the audit log.
    #[must_use]
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Add(_) => "add",
            Self::Remove(_) => "remove",
            Self::Replace(_) => "replace",
        }
    }

    /// How many prefixes it is about.
    #[must_use]
    pub const fn prefixes(&self) -> usize {
        match self {
            Self::Add(request) => request.prefixes.len(),
            Self::Remove(request) => request.prefixes.len(),
            Self::Replace(request) => request.rules.len(),
        }
    }

    /// The effect of the rules that it is about.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Add(request) => request.effect,
            Self::Remove(request) => request.effect,
            Self::Replace(request) => request.effect,
        }
    }
}

/// A rule as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// Whom it covers.
    pub prefix: String,
    /// What it does.
    pub effect: Effect,
    /// Where it holds, if not everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What it is for.
    pub comment: Option<String>,
    /// Where it comes from, in words.
    pub origin: String,
    /// Whether `remove` can remove it. Rules of the configuration can't be.
    pub removable: bool,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<End>,
}

/// All rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleList {
    /// The number of the policy that they are in.
    pub generation: u64,
    /// The rules, of both effects.
    pub rules: Vec<RuleView>,
    /// The names that some of these rules come from, of both effects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameView>,
    /// What else that policy is to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
}

/// What a policy holds beside its rules, as the daemon means it to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// "all" or "local".
    pub scope: String,
    /// What is guarded.
    #[serde(default)]
    pub services: Vec<ServiceTerms>,
    /// The names of the guarded interfaces, by index.
    #[serde(default)]
    pub doors: BTreeMap<u32, String>,
}

/// A service of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTerms {
    /// Its number in the kernel.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// "enforce" or "observe".
    pub mode: String,
    /// The guarded ports.
    pub ports: Vec<String>,
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditReply {
    /// The number of the policy in force now.
    pub generation: u64,
    /// Prefixes that got a rule.
    #[serde(default)]
    pub added: Vec<String>,
    /// Prefixes that lost theirs.
    #[serde(default)]
    pub removed: Vec<String>,
    /// Prefixes that were asked for and stay as they were.
    #[serde(default)]
    pub unchanged: Vec<String>,
    /// What became of prefixes that have their rule already and get another end, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// After `replace`: the rules of that effect that stay because the configuration has them.
    #[serde(default)]
    pub kept: Vec<RuleView>,
    /// What the person should know, a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Of a dry run: whether it shuts out somebody who is connected at the moment, or everybody who is let in
    /// now; the warnings say whom.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closes: bool,
    /// Until when the change is on trial; it is for good if this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_until: Option<Timestamp>,
}

/// A change on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialView {
    /// What it is, in words.
    pub what: String,
    /// Whose it is.
    pub by: String,
    /// Until when what was before stays away, if nobody confirms it.
    pub until: Timestamp,
}

/// How a trial was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialReply {
    /// What was on trial.
    pub trial: TrialView,
    /// The number of the policy in force now.
    pub generation: u64,
}

/// Has the daemon read its configuration again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// For how many seconds it is on trial; otherwise as the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

/// Has services enforced or observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeRequest {
    /// Which service; all of them if this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What is to be done with its packets.
    pub mode: WrittenMode,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// For how many seconds it is on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

/// What reading the configuration again did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// The number of the policy in force now.
    pub generation: u64,
    /// What has changed, a line each: `+` what came, `-` what went.
    #[serde(default)]
    pub changes: Vec<String>,
    /// What the configuration changes and a running daemon can't: that needs a restart.
    #[serde(default)]
    pub later: Vec<String>,
    /// What the person should know, a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Of a dry run: whether it shuts out somebody who is connected at the moment, or everybody who is let in
    /// now; the warnings say whom.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closes: bool,
    /// Until when it is on trial; it is for good if this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_until: Option<Timestamp>,
}

/// What `detach` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachReply {
    /// What was removed from the kernel, in words.
    #[serde(default)]
    pub removed: Vec<String>,
    /// What the person should know, a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What confirming the inner door did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerReply {
    /// Whether it only observed until now.
    pub observed: bool,
}

/// A rule that ended later than it should have, because no daemon ran or the machine slept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateEnd {
    /// Whom it covered.
    pub prefix: String,
    /// What it did.
    pub effect: Effect,
    /// When it should have ended.
    pub expires: End,
    /// So many seconds later it was ended.
    pub late_seconds: i64,
}

/// Every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// One or two sentences with the way out.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_what_is_documented() {
        let add = json!({"effect": "allow", "prefixes": ["192.0.2.1"], "comment": "ada"});
        let add: AddRequest = serde_json::from_value(add).expect("a request");
        assert_eq!((add.effect, add.anyone), (Effect::Allow, false));
        let replace = json!({"effect": "deny", "rules": [{"prefix": "::/0"}], "anyone": true});
        let replace: ReplaceRequest = serde_json::from_value(replace).expect("a request");
        assert!(replace.anyone && replace.rules[0].comment.is_none());
        assert_eq!(Edit::Replace(replace).effect().to_string(), "deny");
    }

    #[test]
    fn misspelt_fields_and_empty_lists_are_refused() {
        for (bad, hint) in [
            (json!({"effect": "allow", "prefixes": ["::1"], "anyome": true}), "anyome"),
            (json!({"effect": "allow", "prefixes": []}), "at least one"),
            (json!({"effect": "permit", "prefixes": ["::1"]}), "permit"),
            (json!({"prefixes": ["::1"]}), "effect"),
        ] {
            let error = serde_json::from_value::<AddRequest>(bad).expect_err("refused");
            assert!(error.to_string().contains(hint), "{error}");
        }
    }

    #[test]
    fn a_comment_is_one_short_line() {
        assert!(Comment::try_from("büro, 3rd floor".to_owned()).is_ok());
        let refused = |text: &str| Comment::try_from(text.to_owned()).expect_err("refused");
        assert_eq!(refused("a\nb"), CommentError::Control { character: '\n' });
        assert_eq!(refused(&"é".repeat(129)), CommentError::TooLong { bytes: 258 });
        let json = json!({"prefix": "::1", "comment": "a\u{1b}[2J"});
        assert!(serde_json::from_value::<NewRule>(json).is_err());
    }
}

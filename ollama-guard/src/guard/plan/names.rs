//! What a request changes about names.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Planner,
    ends::{another_end, lasts},
    given_twice, text,
};
use crate::{
    config::MAX_NAMES,
    control::protocol::{AddRequest, EditReply, ReplaceRequest},
    guard::GuardError,
    policy::{Change, Effect, End, HostName, NameRule, NamedHost, Subject},
};

impl Planner<'_> {
    /// Whether a rule about a name is one of those that are to go, or to be replaced.
    pub(super) fn is_meant(&self, rule: &NameRule) -> bool {
        self.limits.is_none() || rule.limits == self.limits
    }

    pub(super) fn add_name(
        &self,
        name: HostName,
        end: Option<End>,
        request: &AddRequest,
        change: &mut Change,
        reply: &mut EditReply,
    ) {
        let effect = request.effect;
        let written = name.written();
        let comment = text(request.comment.as_ref());
        let is_about = |rule: &&NameRule| rule.name == name && rule.effect == effect;
        // A rule that holds everywhere holds there, too.
        let covers = |rule: &&NameRule| {
            (rule.limits.is_none() || rule.limits == self.limits) && lasts(rule.expires, end)
        };
        let covering = self.configured_names.iter().filter(is_about).find(covers);
        if let Some(rule) = covering {
            let origin = rule.written();
            reply.warnings.push(format!("{written} is there already, from {origin}"));
            reply.unchanged.push(written);
            return;
        }
        // Only the rule itself gets another end or comment, not one that holds elsewhere as well.
        let mut stored = self.stored_names.iter().filter(is_about);
        let Some(rule) = stored.find(|rule| rule.limits == self.limits) else {
            change.add_names.push(self.name_rule(name, effect, comment, end));
            reply.warnings.push(trust(&written, effect));
            reply.added.push(written);
            return;
        };
        let has_other_comment = comment.is_some() && comment != rule.comment;
        if rule.expires == end && !has_other_comment {
            reply.unchanged.push(written);
            return;
        }
        let comment = comment.or_else(|| rule.comment.clone());
        change.remove_names.push(NamedHost::of(rule));
        change.add_names.push(NameRule { comment, expires: end, ..rule.clone() });
        if rule.expires == end {
            reply.warnings.push(format!("{written} has another comment now"));
            reply.unchanged.push(written);
        } else {
            reply.changed.push(another_end(&written, rule.expires, end));
        }
    }

    fn name_rule(
        &self,
        name: HostName,
        effect: Effect,
        comment: Option<Arc<str>>,
        expires: Option<End>,
    ) -> NameRule {
        let (limits, origin) = (self.limits.clone(), Arc::clone(self.origin));
        NameRule { name, effect, limits, comment, origin, expires }
    }

    pub(super) fn remove_name(
        &self,
        name: &HostName,
        effect: Effect,
        change: &mut Change,
        reply: &mut EditReply,
    ) -> Result<(), GuardError> {
        let written = name.written();
        let is_about = |rule: &&NameRule| rule.name == *name && rule.effect == effect;
        let configured = || self.configured_names.iter().filter(is_about);
        let stored = || self.stored_names.iter().filter(is_about);
        let going: Vec<_> =
            stored().filter(|rule| self.is_meant(rule)).map(NamedHost::of).collect();
        if going.is_empty() {
            let effect = effect.to_string();
            return Err(match configured().find(|rule| self.is_meant(rule)) {
                Some(rule) => {
                    GuardError::Configured { effect, prefix: written, origin: rule.written() }
                }
                None => GuardError::NoSuchRule { effect, prefix: written },
            });
        }
        change.remove_names.extend(going);
        if let Some(rule) = configured().chain(stored().filter(|rule| !self.is_meant(rule))).next()
        {
            let origin = rule.written();
            reply.warnings.push(format!("{written} still stands at {origin}"));
        }
        reply.removed.push(written);
        Ok(())
    }

    /// The names that take the place of those of an effect.
    pub(super) fn replace_names(
        &self,
        request: &ReplaceRequest,
        subjects: &[Subject],
        reply: &mut EditReply,
    ) -> Vec<NameRule> {
        let effect = request.effect;
        let (mut old, mut names): (Vec<&NameRule>, Vec<NameRule>) = (Vec::new(), Vec::new());
        for rule in self.stored_names {
            match rule.effect == effect && self.is_meant(rule) {
                true => old.push(rule),
                false => names.push(rule.clone()),
            }
        }
        let mut seen = BTreeSet::new();
        for (subject, new) in subjects.iter().zip(&request.rules) {
            let Subject::Name(name) = subject else { continue };
            let written = name.written();
            if !seen.insert(name) {
                reply.warnings.push(given_twice(&written));
                continue;
            }
            if let Some(end) = new.expires.filter(|end| end.has_passed(self.now)) {
                reply.warnings.push(format!("{written} has ended at {end}: it is left out"));
                continue;
            }
            let said = (name, effect, self.limits.as_deref());
            let position = old.iter().position(|rule| rule.said() == said);
            let before = position.map(|position| old.remove(position));
            let configured = self.configured_names.iter().find(|rule| rule.said() == said);
            if configured.is_some_and(|rule| lasts(rule.expires, new.expires)) {
                reply.unchanged.push(written);
                continue;
            }
            // One that stays keeps who added it and when.
            let (comment, expires) = (text(new.comment.as_ref()), new.expires);
            names.push(match before {
                Some(rule) => {
                    if rule.expires == expires {
                        reply.unchanged.push(written);
                    } else {
                        reply.changed.push(another_end(&written, rule.expires, expires));
                    }
                    NameRule { comment, expires, ..rule.clone() }
                }
                None => {
                    reply.warnings.push(trust(&written, effect));
                    reply.added.push(written);
                    self.name_rule(name.clone(), effect, comment, expires)
                }
            });
        }
        let gone: BTreeSet<_> = old.iter().map(|rule| &rule.name).collect();
        reply.removed.extend(gone.into_iter().map(HostName::written));
        names
    }

    /// Whether so many names may be.
    pub(super) fn check_names(&self, after: &[NameRule]) -> Result<(), GuardError> {
        let all = after.iter().chain(self.configured_names);
        let count = all.map(|rule| &rule.name).collect::<BTreeSet<_>>().len();
        if count > MAX_NAMES { Err(GuardError::TooManyNames { count }) } else { Ok(()) }
    }
}

/// What a person should know who puts a name in the place of addresses.
fn trust(name: &str, effect: Effect) -> String {
    match effect {
        Effect::Allow => format!(
            "whoever answers for {name} in DNS decides from now on who is let in, and so does whoever can \
             forge such an answer"
        ),
        Effect::Deny => format!(
            "{name} keeps out the addresses that DNS has for it, and nobody else: who it is meant for can take \
             another address"
        ),
    }
}

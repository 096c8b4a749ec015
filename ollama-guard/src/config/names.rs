//! The host names of all sources: not more than are looked up.

use std::collections::BTreeSet;

use super::{MAX_NAMES, Place, Problem};
use crate::policy::{Effect, NameRule, Origin};

/// Refuses the first name that is one too many.
pub(super) fn check(names: &[NameRule], told: &mut Vec<Problem>) {
    let mut different = BTreeSet::new();
    let mut beyond = names.iter().filter(|rule| {
        let is_new = different.insert(&rule.name);
        is_new && different.len() > MAX_NAMES
    });
    let Some(place) = beyond.next().map(place) else { return };
    let count = MAX_NAMES + 1 + beyond.count();
    let message = format!(
        "{count} host names are too many: {MAX_NAMES} fit, since each is looked up time and again; write \
         networks where you can"
    );
    told.push(Problem { place, message });
}

fn place(rule: &NameRule) -> Place {
    match (&*rule.origin, rule.effect) {
        (Origin::File { path, line }, _) => {
            Place::File { path: path.to_path_buf(), position: Some((*line, 1)) }
        }
        (Origin::Environment, Effect::Allow) => Place::Variable("OLLAMA_GUARD_ALLOW"),
        (Origin::Environment, Effect::Deny) => Place::Variable("OLLAMA_GUARD_DENY"),
        (_, Effect::Allow) => Place::Flag("--allow"),
        (_, Effect::Deny) => Place::Flag("--deny"),
    }
}

//! Named lists of prefixes.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::{
        document::{Document, Span, Value},
        value,
    },
    policy::{Prefix, quoted},
};

/// How names of groups and services are written.
const RULE: &str = "write up to 32 letters, digits, hyphens and underscores, a letter first";
/// The longest name.
const MOST_BYTES: usize = 32;

/// The groups of a file.
#[derive(Default)]
pub(super) struct Groups {
    groups: BTreeMap<String, Group>,
    used: BTreeSet<String>,
}

struct Group {
    at: Span,
    members: Vec<(Prefix, Span)>,
}

/// Whether a text is a name and so cannot be an address: those have a dot or a colon.
pub(super) fn is_name(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(rest)
}

/// The name of a group or a service.
pub(super) fn name_text(text: &str) -> Result<String, String> {
    if is_name(text) && text.len() <= MOST_BYTES {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is no name: {RULE}", quoted(text)))
    }
}

impl Groups {
    /// Reads `[groups]`.
    pub(super) fn read(&mut self, document: &mut Document<'_>, value: &Value<'_>) {
        let example = "[groups] with lines like office = [\"203.0.113.0/24\"]";
        for (key, value) in document.table(value, example).into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if let Err(message) = name_text(name) {
                document.wrong(&key.span(), message);
            }
            let mut members = Vec::new();
            for (at, text) in document.texts(value, "office = [\"203.0.113.0/24\"]") {
                if let Some(prefix) = super::prefix(document, &at, text) {
                    members.push((prefix, at));
                }
            }
            self.groups.insert(name.to_owned(), Group { at: key.span(), members });
        }
    }

    /// The prefixes of a group, which counts as used from then on.
    pub(super) fn members(&mut self, name: &str) -> Option<&[(Prefix, Span)]> {
        let group = self.groups.get(name)?;
        if !self.used.contains(name) {
            self.used.insert(name.to_owned());
        }
        Some(&group.members)
    }

    /// What to say about a name that is no group's.
    pub(super) fn no_such(&self, name: &str) -> String {
        let instead = match value::nearest(name, self.groups.keys().map(String::as_str)) {
            Some(meant) => format!("write \"{meant}\""),
            None => "define it under [groups], or write an address or network".to_owned(),
        };
        format!("there is no group {}: {instead}", quoted(name))
    }

    /// Warns of each group that no list names.
    pub(super) fn warn_of_unused(&self, document: &mut Document<'_>) {
        for (name, group) in &self.groups {
            if !self.used.contains(name) {
                document.warn(&group.at, &format!("the group {} is in no list", quoted(name)));
            }
        }
    }
}

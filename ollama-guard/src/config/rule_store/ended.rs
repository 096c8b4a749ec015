//! Rules that have ended, and the entries of the configuration among them.
//!
//! What was added by command leaves the list of rules when it ends, and a clock that is set back can't bring
//! it back. The configuration's files are the operator's and stay as they are: so it is written down here
//! which of their entries have ended, for as long as they stand there.

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};

use super::{RuleStore, StoreError, state_file};
use crate::policy::{Change, Effect, End, NameRule, Named, NamedHost, Rule};

const VERSION: u32 = 1;
/// The file within the state directory.
const FILE_NAME: &str = "ended.json";
/// The largest file that is read.
const MOST_BYTES: u64 = 256 << 20;

/// An entry that has ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// A prefix, or a host name as a list has it.
    prefix: String,
    effect: Effect,
    expires: End,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    ended: BTreeSet<Entry>,
}

/// What is known to have ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    entries: BTreeSet<Entry>,
    /// Whether the file says something else.
    is_behind: bool,
}

impl Entry {
    fn of(rule: &Rule) -> Option<Self> {
        let expires = rule.expires?;
        Some(Self { prefix: rule.prefix.to_string(), effect: rule.effect, expires })
    }

    fn of_name(rule: &NameRule) -> Option<Self> {
        let expires = rule.expires?;
        Some(Self { prefix: rule.name.written(), effect: rule.effect, expires })
    }
}

impl Ended {
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        let content: Option<Content> = state_file::read(&path, MOST_BYTES)?;
        let content = content.unwrap_or(Content { version: VERSION, ..Content::default() });
        if content.version != VERSION {
            return Err(StoreError::Version { path, version: content.version, known: VERSION });
        }
        Ok(Self { entries: content.ended, is_behind: false })
    }

    fn has(&self, entry: Option<Entry>) -> bool {
        entry.is_some_and(|entry| self.entries.contains(&entry))
    }

    fn add(&mut self, entries: impl Iterator<Item = Entry>) {
        for entry in entries {
            self.is_behind |= self.entries.insert(entry);
        }
    }

    /// Forgets what stands nowhere any more.
    fn keep(&mut self, entries: impl Iterator<Item = Entry>) {
        if self.entries.is_empty() {
            return;
        }
        let there: BTreeSet<_> = entries.collect();
        let before = self.entries.len();
        self.entries.retain(|entry| there.contains(entry));
        self.is_behind |= self.entries.len() != before;
    }

    /// Writes it down, if that is not done yet.
    pub(super) fn save(&mut self, directory: &Path) -> Result<(), StoreError> {
        if self.is_behind {
            let content = Content { version: VERSION, ended: self.entries.clone() };
            state_file::write(directory, FILE_NAME, &content)?;
            self.is_behind = false;
        }
        Ok(())
    }
}

impl RuleStore {
    /// Removes rules that have ended. Here they are gone in any case: one that can't be removed from the disk
    /// must not go on for that.
    ///
    /// # Errors
    ///
    /// On disk they are still there; [`RuleStore::catch_up`] tries again.
    pub fn end(
        &mut self,
        has_ended: impl Fn(&Rule) -> bool,
        has_name_ended: impl Fn(&NameRule) -> bool,
    ) -> Result<(), StoreError> {
        if self.kept.is_some() {
            self.rules.retain(|rule| !has_ended(rule));
            self.names.retain(|rule| !has_name_ended(rule));
        }
        self.with_kept(|store| store.end_kept(has_ended, has_name_ended))
    }

    fn end_kept(
        &mut self,
        has_ended: impl Fn(&Rule) -> bool,
        has_name_ended: impl Fn(&NameRule) -> bool,
    ) -> Result<(), StoreError> {
        let ended = self.rules.iter().filter(|rule| has_ended(rule));
        let named = |rule: &Rule| {
            let Rule { prefix, effect, ref limits, .. } = *rule;
            Named { prefix, effect, limits: limits.clone() }
        };
        let remove: Vec<_> = ended.map(named).collect();
        let ended = self.names.iter().filter(|rule| has_name_ended(rule));
        let remove_names: Vec<_> = ended.map(NamedHost::of).collect();
        if remove.is_empty() && remove_names.is_empty() {
            return Ok(());
        }
        let change = Change { remove, remove_names, ..Change::default() };
        self.change(change).map(drop).inspect_err(|_| {
            self.rules.retain(|rule| !has_ended(rule));
            self.names.retain(|rule| !has_name_ended(rule));
            self.left = None;
            self.is_behind = true;
        })
    }

    /// Whether an entry of the configuration is known to have ended.
    #[must_use]
    pub fn has_ended(&self, configured: &Rule) -> bool {
        self.ended.has(Entry::of(configured))
    }

    /// The same for a name.
    #[must_use]
    pub fn has_name_ended(&self, configured: &NameRule) -> bool {
        self.ended.has(Entry::of_name(configured))
    }

    /// Remembers that entries of the configuration have ended, for as long as they stand there.
    ///
    /// # Errors
    ///
    /// On disk it is not written down; [`RuleStore::catch_up`] tries again.
    pub fn remember_ended<'r>(
        &mut self,
        rules: impl Iterator<Item = &'r Rule>,
        names: impl Iterator<Item = &'r NameRule>,
    ) -> Result<(), StoreError> {
        self.ended.add(rules.filter_map(Entry::of).chain(names.filter_map(Entry::of_name)));
        self.ended.save(&self.directory)
    }

    /// Forgets what has ended and is not among these entries of the configuration any more.
    ///
    /// # Errors
    ///
    /// As [`RuleStore::remember_ended`].
    pub fn forget_ended_but<'r>(
        &mut self,
        rules: impl Iterator<Item = &'r Rule>,
        names: impl Iterator<Item = &'r NameRule>,
    ) -> Result<(), StoreError> {
        self.ended.keep(rules.filter_map(Entry::of).chain(names.filter_map(Entry::of_name)));
        self.ended.save(&self.directory)
    }

    /// Writes down what could not be written down when something ended.
    ///
    /// # Errors
    ///
    /// It still can't be.
    pub fn catch_up(&mut self) -> Result<(), StoreError> {
        self.ended.save(&self.directory)?;
        if self.is_behind {
            self.with_kept(|store| store.replace(store.rules.clone()).map(drop))?;
        }
        Ok(())
    }
}

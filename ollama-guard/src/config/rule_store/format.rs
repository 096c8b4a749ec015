//! The lines of the file of rules.
//!
//! JSON, a value a line. The first one, the head, says the version, how many rules follow, and how many
//! changes behind them count; then each rule of the list as it was when it was written whole; then
//! each change since, in order:
//!
//! ```text
//! {"version":3,"rules":1,"changes":1         }
//! {"prefix":"192.0.2.1","effect":"allow","origin":{"kind":"cli","by":"root","at":"..."}}
//! {"add":[{"prefix":...}],"remove":[{"prefix":"192.0.2.1","effect":"allow"}]}
//! ```
//!
//! A change is written down first and counted then, in the head, which always has the same length and
//! lies in one sector of any disk. So what a crash left behind is not counted, and a file that was cut
//! off, be it between two lines, has less than is counted.
//!
//! Names stand in changes alone: a list that is written whole has them in a first change behind its rules.
//!
//! Version 1 was one line, `{"version":1,"rules":[...]}`. Version 2 was like this one, and had neither names
//! nor rules with an end. Both are still read, and written anew by the first change: whoever knows no more
//! than they do must not take a rule with an end for one without.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{StoreError, VERSION};
use crate::policy::{Change, Effect, Limits, NameRule, Origin, Prefix, Rule, Said, Subject};

/// The version that is read like the latest one, and not appended to.
const WITHOUT_ENDS: u32 = 2;

/// What a file holds.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) rules: Vec<Rule>,
    pub(super) names: Vec<NameRule>,
    /// `None` in a file of an older version.
    pub(super) extent: Option<Extent>,
    /// Bytes behind what counts.
    pub(super) rest: usize,
}

/// What of a file counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Rules of the list as it was written whole.
    pub(super) rules: usize,
    /// Changes.
    pub(super) changes: usize,
    /// Bytes of the list as it was written whole, with the head.
    pub(super) whole: u64,
}

/// Why it is not understood.
#[derive(Debug)]
pub(super) enum NotUnderstood {
    Damaged(String),
    Version(u32),
}

impl NotUnderstood {
    /// As an error about a file.
    pub(super) fn of(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        match self {
            Self::Damaged(problem) => StoreError::Damaged { path, problem },
            Self::Version(version) => StoreError::Version { path, version, known: VERSION },
        }
    }
}

/// The first line of any version.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(rename = "version")]
    _version: u32,
    /// Lines of rules that follow.
    rules: usize,
    /// Lines of changes behind them that count.
    changes: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Version1 {
    #[serde(rename = "version")]
    _version: u32,
    rules: Vec<Rule>,
}

/// The head. Its length depends on the number of rules alone.
pub(super) fn head(rules: usize, changes: usize) -> String {
    format!("{{\"version\":{VERSION},\"rules\":{rules},\"changes\":{changes:<10}}}\n")
}

/// Writes a whole list. Returns how many changes it has.
pub(super) fn write(to: &mut impl Write, rules: &[Rule], names: &[NameRule]) -> io::Result<usize> {
    let changes = usize::from(!names.is_empty());
    to.write_all(head(rules.len(), changes).as_bytes())?;
    for rule in rules {
        serde_json::to_writer(&mut *to, rule)?;
        to.write_all(b"\n")?;
    }
    if !names.is_empty() {
        let change = Change { add_names: names.to_vec(), ..Change::default() };
        to.write_all(&change_line(&change))?;
    }
    Ok(changes)
}

/// The line of a change.
pub(super) fn change_line(change: &Change) -> Vec<u8> {
    // Plain data: there is nothing in it that JSON has no word for.
    let mut line = serde_json::to_vec(change).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Reads a file.
pub(super) fn read(bytes: &[u8]) -> Result<Read, NotUnderstood> {
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let first = lines.next().unwrap_or_default();
    // First, because the rest of another version's file may look like damage.
    let AnyVersion { version } = value(1, first)?;
    let mut sharing = Sharing::default();
    if version == 1 {
        let Version1 { mut rules, .. } = value(1, bytes)?;
        rules.iter_mut().for_each(|rule| sharing.share(rule));
        return Ok(Read { rules, names: Vec::new(), extent: None, rest: 0 });
    }
    if version != VERSION && version != WITHOUT_ENDS {
        return Err(NotUnderstood::Version(version));
    }
    let Head { rules: count, changes: changes_count, .. } = value(1, first)?;
    let (mut rules, mut changes) = (Vec::new(), Vec::new());
    let mut extent = Extent { rules: count, changes: changes_count, whole: first.len() as u64 };
    let mut rest = 0;
    for (line, number) in lines.zip(2..) {
        let is_whole = line.ends_with(b"\n");
        if rules.len() < count && is_whole {
            let mut rule: Rule = value(number, line)?;
            sharing.share(&mut rule);
            rules.push(rule);
            extent.whole += line.len() as u64;
        } else if changes.len() < changes_count && is_whole {
            let mut change: Change = value(number, line)?;
            change.add.iter_mut().for_each(|rule| sharing.share(rule));
            changes.push(change);
        } else {
            rest += line.len();
        }
    }
    let found = (rules.len(), changes.len());
    if found != (count, changes_count) || !first.ends_with(b"\n") {
        return Err(NotUnderstood::Damaged(format!(
            "it has {} whole lines of {count} rules and {} of {changes_count} changes",
            found.0, found.1
        )));
    }
    let extent = (version == VERSION).then_some(extent);
    let names = changes.iter().fold(Vec::new(), |names, change| match change.has_names() {
        true => change.names_after(&names),
        false => names,
    });
    Ok(Read { rules: after(rules, changes), names, extent, rest })
}

/// Refuses what was not added by command.
pub(super) fn no_foreign(
    path: &Path,
    rules: &[Rule],
    names: &[NameRule],
) -> Result<(), StoreError> {
    let is_foreign = |origin: &Origin| !matches!(origin, Origin::Cli { .. });
    let rules = rules.iter().filter(|rule| is_foreign(&rule.origin));
    let names = names.iter().filter(|rule| is_foreign(&rule.origin));
    let rules = rules.map(|rule| (Subject::Prefix(rule.prefix), rule.written()));
    let names = names.map(|rule| (Subject::Name(rule.name.clone()), rule.written()));
    match rules.chain(names).next() {
        None => Ok(()),
        Some((subject, written)) => {
            Err(StoreError::Foreign { path: path.to_owned(), subject, written })
        }
    }
}

fn value<T: DeserializeOwned>(number: usize, line: &[u8]) -> Result<T, NotUnderstood> {
    serde_json::from_slice(line)
        .map_err(|error| NotUnderstood::Damaged(format!("line {number}: {error}")))
}

/// What the rules are after all the changes. In one go: there may be thousands of either.
fn after(rules: Vec<Rule>, changes: Vec<Change>) -> Vec<Rule> {
    if changes.is_empty() {
        return rules;
    }
    let mut places: HashMap<Owned, usize> = HashMap::with_capacity(rules.len());
    let mut rules: Vec<Option<Rule>> = rules.into_iter().map(Some).collect();
    for place in 0..rules.len() {
        let said = rules[place].as_ref().map(|rule| owned(rule.said(), rule.limits.as_ref()));
        // Said twice is said once: it goes as a whole.
        if let Some(before) = said.and_then(|said| places.insert(said, place)) {
            rules[before] = None;
        }
    }
    for Change { add, remove, comment, .. } in changes {
        for one in comment {
            let place = places.get(&owned(one.said(), one.limits.as_ref()));
            if let Some(rule) = place.and_then(|place| rules[*place].as_mut()) {
                rule.comment = one.comment;
            }
        }
        for named in remove {
            if let Some(place) = places.remove(&owned(named.said(), named.limits.as_ref())) {
                rules[place] = None;
            }
        }
        for rule in add {
            places.insert(owned(rule.said(), rule.limits.as_ref()), rules.len());
            rules.push(Some(rule));
        }
    }
    rules.into_iter().flatten().collect()
}

/// [`Said`] of a rule that moves.
type Owned = (Prefix, Effect, Option<Arc<Limits>>);

fn owned((prefix, effect, _): Said<'_>, limits: Option<&Arc<Limits>>) -> Owned {
    (prefix, effect, limits.map(Arc::clone))
}

/// Rules that came together share what they remember of it.
#[derive(Default)]
struct Sharing {
    origins: HashSet<Arc<Origin>>,
    limits: HashSet<Arc<Limits>>,
    comments: HashSet<Arc<str>>,
}

impl Sharing {
    fn share(&mut self, rule: &mut Rule) {
        match self.origins.get(&rule.origin) {
            Some(origin) => rule.origin = Arc::clone(origin),
            None => drop(self.origins.insert(Arc::clone(&rule.origin))),
        }
        if let Some(limits) = &mut rule.limits {
            match self.limits.get(limits) {
                Some(known) => *limits = Arc::clone(known),
                None => drop(self.limits.insert(Arc::clone(limits))),
            }
        }
        let Some(comment) = &mut rule.comment else { return };
        match self.comments.get(comment) {
            Some(known) => *comment = Arc::clone(known),
            None => drop(self.comments.insert(Arc::clone(comment))),
        }
    }
}

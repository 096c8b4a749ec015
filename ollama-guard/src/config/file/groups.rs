//! Named lists of prefixes, written in the configuration or in files of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::de::DeValue;

use crate::{
    config::{
        HostMember, Place, Problem, Surroundings,
        document::{Document, Entry, Span, Value},
        files::Files,
        value,
    },
    policy::{End, Origin, Pattern, Prefix, Subject, SubjectError, clipped, list, quoted},
};

/// How names of groups and services are written.
const RULE: &str = "write up to 32 letters, digits, hyphens and underscores, a letter first";
/// The longest name.
const MOST_BYTES: usize = 32;
/// Mistakes in one list that are told one by one: a file that is no list at all has nothing else.
const MOST_MISTAKES: usize = 20;

const EXAMPLE: &str = "office = [\"203.0.113.0/24\"]";
const INCLUDE: &str = "include = \"/etc/ollama-guard/office.txt\"";

/// The groups of all files, and those that are built in.
pub(super) struct Groups<'s> {
    surroundings: &'s dyn Surroundings,
    groups: BTreeMap<String, Group>,
    used: BTreeSet<String>,
}

struct Group {
    /// The number of the file that defines it, and where.
    file: usize,
    at: Span,
    members: Vec<Member>,
}

/// A prefix or a name, and where it is written.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) subject: Subject,
    pub(super) origin: Arc<Origin>,
    pub(super) comment: Option<Arc<str>>,
    pub(super) expires: Option<End>,
    /// Where to say that it is everyone, if it is.
    pub(super) everyone_at: Option<Place>,
    /// The only interface at which it is meant, if the entry says nothing of interfaces.
    pub(super) only_on: Option<Pattern>,
}

impl Member {
    /// A prefix of a list in the configuration.
    pub(super) fn written(
        document: &mut Document<'_>,
        at: &Span,
        text: &str,
        expires: Option<End>,
    ) -> Option<Self> {
        let subject: Subject = text
            .parse()
            .map_err(|error: SubjectError| document.wrong(at, error.to_string()))
            .ok()?;
        let origin = Origin::File { path: document.shared_path(), line: document.line(at) };
        let everyone_at = is_everyone(&subject).then(|| document.place(at));
        let (origin, only_on) = (origin.into(), None);
        Some(Self { subject, origin, comment: None, expires, everyone_at, only_on })
    }
}

fn is_everyone(subject: &Subject) -> bool {
    matches!(subject, Subject::Prefix(prefix) if prefix.is_everyone())
}

/// Whether a text is the name of a group: addresses and names of hosts have a dot or a colon.
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

impl<'s> Groups<'s> {
    /// None yet but those that are built in.
    pub(super) fn new(surroundings: &'s dyn Surroundings) -> Self {
        Self { surroundings, groups: BTreeMap::new(), used: BTreeSet::new() }
    }

    /// Reads `[groups]` of the file with this number.
    pub(super) fn read(
        &mut self,
        document: &mut Document<'_>,
        file: usize,
        value: &Value<'_>,
        files: &mut Files,
    ) {
        let example = "[groups] with lines like office = [\"203.0.113.0/24\"]";
        for (key, value) in document.table(value, example).into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if let Err(message) = name_text(name) {
                document.wrong(&key.span(), message);
            }
            if self.surroundings.group(name).is_some() {
                let message = format!("{} is built in: use another name", quoted(name));
                document.wrong(&key.span(), message);
                continue;
            }
            if self.groups.contains_key(name) {
                let message = format!(
                    "the group {} is defined in another file already: use another name, or move \
                     its members there",
                    quoted(name)
                );
                document.wrong(&key.span(), message);
                continue;
            }
            let comment = Arc::from(format!("group {name}"));
            let mut members = members(document, value, &comment, files);
            for member in &mut members {
                member.comment.get_or_insert_with(|| Arc::clone(&comment));
            }
            self.groups.insert(name.to_owned(), Group { file, at: key.span(), members });
        }
    }

    /// The prefixes of a group, which counts as used from then on.
    pub(super) fn members(&mut self, name: &str) -> Option<&[Member]> {
        let group = self.groups.get(name)?;
        if !self.used.contains(name) {
            self.used.insert(name.to_owned());
        }
        Some(&group.members)
    }

    /// The members of a built-in group that a list names here. `None` if there is no such group.
    pub(super) fn built_in(
        &self,
        document: &mut Document<'_>,
        at: &Span,
        name: &str,
    ) -> Option<Vec<Member>> {
        let members = match self.surroundings.group(name)? {
            Ok(members) => members,
            Err(error) => {
                let message = format!("the members of {} are not known: {error}", quoted(name));
                document.wrong(at, message);
                return Some(Vec::new());
            }
        };
        let origin =
            Arc::new(Origin::File { path: document.shared_path(), line: document.line(at) });
        let member = |HostMember { net, interface, only_there }: HostMember| {
            let comment = format!("group {name}: {}", clipped(&interface));
            let only_on = if only_there { Some(interface.parse().ok()?) } else { None };
            // What is no prefix of a rule, such as an IPv4 address in IPv6, no packet has as source.
            let prefix = Prefix::try_from(net).ok()?;
            let (origin, comment) = (Arc::clone(&origin), Some(comment.into()));
            let everyone_at = prefix.is_everyone().then(|| document.place(at));
            let subject = Subject::Prefix(prefix);
            Some(Member { subject, origin, comment, expires: None, everyone_at, only_on })
        };
        Some(members.into_iter().filter_map(member).collect())
    }

    /// What to say about a name that is no group's.
    pub(super) fn no_such(&self, name: &str) -> String {
        let instead = match value::nearest(name, self.groups.keys().map(String::as_str)) {
            Some(meant) => format!("write \"{meant}\""),
            None => "define it under [groups], or write an address or network".to_owned(),
        };
        format!("there is no group {}: {instead}", quoted(name))
    }

    /// The groups of a file that no list of any file names, with what to say about each.
    pub(super) fn unused(&self, file: usize) -> impl Iterator<Item = (&Span, String)> {
        self.groups
            .iter()
            .filter(move |(name, group)| group.file == file && !self.used.contains(*name))
            .map(|(name, group)| (&group.at, format!("the group {} is in no list", quoted(name))))
    }
}

/// The members of a group: a list, or a table with lists and files.
fn members(
    document: &mut Document<'_>,
    value: &Value<'_>,
    comment: &Arc<str>,
    files: &mut Files,
) -> Vec<Member> {
    let DeValue::Table(table) = value.get_ref() else {
        return written(document, value);
    };
    let mut members = Vec::new();
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "prefixes" => members.extend(written(document, value)),
            "include" => {
                for (at, text) in included(document, value) {
                    members.extend(listed(document, &at, &text, comment, files));
                }
            }
            other => {
                let shown = clipped(other);
                let message =
                    format!("`{shown}` is not known in a group: write `prefixes` or `include`");
                document.wrong_structure(&key.span(), message);
            }
        }
    }
    members
}

fn written(document: &mut Document<'_>, value: &Value<'_>) -> Vec<Member> {
    let entries = document.entries(value, EXAMPLE);
    let members = entries
        .into_iter()
        .filter_map(|Entry { at, text, expires }| Member::written(document, &at, text, expires));
    members.collect()
}

/// The files of `include`, one or several.
fn included(document: &mut Document<'_>, value: &Value<'_>) -> Vec<(Span, String)> {
    if let DeValue::String(text) = value.get_ref() {
        return vec![(value.span(), text.to_string())];
    }
    let texts = document.texts(value, INCLUDE);
    texts.into_iter().map(|(at, text)| (at, text.to_owned())).collect()
}

/// The members that a file lists. A relative name counts from the directory of the file that says it.
fn listed(
    document: &mut Document<'_>,
    at: &Span,
    name: &str,
    comment: &Arc<str>,
    files: &mut Files,
) -> Vec<Member> {
    let beside = document.path().parent().unwrap_or(Path::new("/"));
    let path: PathBuf = beside.join(name);
    let bytes = match files.list(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            document.wrong(at, format!("{}: {error}", path.display()));
            return Vec::new();
        }
    };
    let path: Arc<Path> = path.into();
    let mut members = Vec::new();
    let mut mistakes = 0_usize;
    for (line, found) in list::lines(&bytes) {
        let place = || Place::File { path: path.to_path_buf(), position: Some((line, 1)) };
        let parsed = found.and_then(|found| {
            let subject = found.prefix.parse().map_err(|error: SubjectError| error.to_string());
            subject.map(|subject: Subject| (subject, found.expires, found.comment))
        });
        match parsed {
            Ok((subject, expires, more)) => members.push(Member {
                everyone_at: is_everyone(&subject).then(place),
                subject,
                expires,
                origin: Origin::File { path: Arc::clone(&path), line }.into(),
                comment: more.map(|more| format!("{comment}: {}", clipped(more)).into()),
                only_on: None,
            }),
            Err(message) => {
                mistakes += 1;
                if mistakes <= MOST_MISTAKES {
                    document.report(Problem { place: place(), message });
                }
            }
        }
    }
    if mistakes > MOST_MISTAKES {
        let more = mistakes - MOST_MISTAKES;
        let message = format!("{}: {more} more lines are no prefixes", path.display());
        document.wrong(at, message);
    }
    members
}

//! A TOML text with places: values of the expected type, or a problem with line and column.

use std::{collections::BTreeSet, ops::Range, path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue, Error},
};

use super::{Place, Problem};
use crate::policy::{End, EndError, clipped};

/// The largest file of which all mistakes are told.
const EVERY_MISTAKE_BYTES: usize = 1 << 20;

/// Where in the text something stands, in bytes.
pub(super) type Span = Range<usize>;
/// A value and where it stands.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// An entry of a list of prefixes.
pub(super) struct Entry<'v> {
    /// Where its text stands.
    pub(super) at: Span,
    pub(super) text: &'v str,
    pub(super) expires: Option<End>,
}

/// The text that is being understood, and what is wrong with it so far.
///
/// A text that is not valid TOML is read as far as that goes, so that the mistakes in the rest of
/// it are found too. What a broken line may have brought about is not reported a second time.
pub(super) struct Document<'t> {
    path: &'t Path,
    shared_path: Arc<Path>,
    text: &'t str,
    /// Where each line starts, in bytes.
    lines: Vec<usize>,
    /// Lines that are not valid TOML, counted from 1.
    broken: BTreeSet<usize>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    column: Column,
}

/// The place of the last problem. Problems mostly come in the order of the text, so a long line
/// with many of them is counted through once, and not once for each.
#[derive(Default)]
struct Column {
    /// A byte of the text.
    at: usize,
    /// Characters before it on its line.
    before: usize,
}

impl<'t> Document<'t> {
    /// Reads the text and reports each line that is not valid TOML.
    pub(super) fn parse(path: &'t Path, text: &'t str) -> (Self, DeTable<'t>) {
        let newlines = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        let mut document = Self {
            path,
            shared_path: path.into(),
            text,
            lines,
            broken: BTreeSet::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            column: Column::default(),
        };
        let (root, mut errors) = parse(text);
        errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
        for error in &errors {
            document.report_syntax(error);
        }
        (document, root)
    }

    /// The file.
    pub(super) fn path(&self) -> &'t Path {
        self.path
    }

    /// The file, for what remembers it.
    pub(super) fn shared_path(&self) -> Arc<Path> {
        Arc::clone(&self.shared_path)
    }

    /// The line on which something stands, counted from 1.
    pub(super) fn line(&self, at: &Span) -> usize {
        self.lines.partition_point(|&start| start <= at.start)
    }

    /// Reports a value that is wrong.
    pub(super) fn wrong(&mut self, at: &Span, message: String) {
        let line = self.line(at);
        if !self.broken.contains(&line) {
            self.push(at, message);
        }
    }

    /// Reports something that is wrong with how the parts of the text belong together. In a broken
    /// text they may not be where they were meant to be.
    pub(super) fn wrong_structure(&mut self, at: &Span, message: String) {
        if self.broken.is_empty() {
            self.push(at, message);
        }
    }

    /// Remembers what is right and probably not meant.
    pub(super) fn warn(&mut self, at: &Span, message: &str) {
        self.warnings.push(format!("{} line {}: {message}", self.path.display(), self.line(at)));
    }

    /// Reports something that is wrong somewhere else.
    pub(super) fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// All that was reported, and all that was remembered.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<String>) {
        (self.problems, self.warnings)
    }

    /// A text, understood by `read`. `example` is how the whole line could look.
    pub(super) fn text<T>(
        &mut self,
        value: &Value<'_>,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(value, "text in quotes", example);
            return None;
        };
        read(text).map_err(|message| self.wrong(&value.span(), message)).ok()
    }

    /// The texts of a list, and where each stands.
    pub(super) fn texts<'v>(
        &mut self,
        value: &'v Value<'_>,
        example: &str,
    ) -> Vec<(Span, &'v str)> {
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(value, "a list", example);
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => texts.push((item.span(), text.as_ref())),
                _ => self.wrong_type(item, "text in quotes", example),
            }
        }
        texts
    }

    /// The items of a list.
    pub(super) fn items<'v, 'a>(&mut self, value: &'v Value<'a>, example: &str) -> &'v [Value<'a>] {
        if let DeValue::Array(items) = value.get_ref() {
            return items;
        }
        self.wrong_type(value, "a list", example);
        &[]
    }

    /// When something ends.
    pub(super) fn end(&mut self, value: &Value<'_>) -> Option<End> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            // With a space in the middle TOML knows it too.
            DeValue::Datetime(_) => {
                value.get_ref().as_datetime().map(ToString::to_string).unwrap_or_default()
            }
            _ => {
                self.wrong_type(value, "text in quotes", "expires = \"2026-12-01T18:00:00Z\"");
                return None;
            }
        };
        text.parse().map_err(|e: EndError| self.wrong(&value.span(), e.to_string())).ok()
    }

    /// The entries of a list of prefixes: each a text, or a table of a text and an end.
    pub(super) fn entries<'v>(&mut self, value: &'v Value<'_>, example: &str) -> Vec<Entry<'v>> {
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(value, "a list", example);
            return Vec::new();
        };
        let mut entries = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => {
                    entries.push(Entry { at: item.span(), text: text.as_ref(), expires: None });
                }
                DeValue::Table(table) => entries.extend(self.entry(item.span(), table)),
                _ => self.wrong_type(item, "text in quotes", example),
            }
        }
        entries
    }

    fn entry<'v>(&mut self, at: Span, table: &'v DeTable<'_>) -> Option<Entry<'v>> {
        const EXAMPLE: &str = "{ from = \"192.0.2.1\", expires = \"2026-12-01T18:00:00Z\" }";
        let (mut prefix, mut expires) = (None, None);
        let mut is_right = true;
        for (key, value) in table {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("from", DeValue::String(text)) => prefix = Some((value.span(), text.as_ref())),
                ("expires", _) => {
                    expires = self.end(value);
                    is_right &= expires.is_some();
                }
                ("from", _) => {
                    self.wrong_type(value, "text in quotes", EXAMPLE);
                    is_right = false;
                }
                (other, _) => {
                    let shown = clipped(other);
                    let message = format!("`{shown}` is not known here: write {EXAMPLE}");
                    self.wrong_structure(&key.span(), message);
                    is_right = false;
                }
            }
        }
        let Some((at, text)) = prefix else {
            if is_right {
                self.wrong(&at, format!("a prefix is missing: write {EXAMPLE}"));
            }
            return None;
        };
        is_right.then_some(Entry { at, text, expires })
    }

    /// A number, understood by `read` from its digits and their base.
    pub(super) fn number<T>(
        &mut self,
        value: &Value<'_>,
        example: &str,
        read: impl FnOnce(&str, u32) -> Result<T, String>,
    ) -> Option<T> {
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_type(value, "a whole number", example);
            return None;
        };
        read(number.as_str(), DeInteger::radix(number))
            .map_err(|message| self.wrong(&value.span(), message))
            .ok()
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, value: &Value<'_>, example: &str) -> Option<bool> {
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(value, "true or false", example);
        }
        boolean
    }

    /// A table.
    pub(super) fn table<'v, 'a>(
        &mut self,
        value: &'v Value<'a>,
        example: &str,
    ) -> Option<&'v DeTable<'a>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(value, "a table", example);
        }
        table
    }

    /// Reports a value of another type.
    pub(super) fn wrong_type(&mut self, value: &Value<'_>, expected: &str, example: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(&value.span(), format!("{expected} belongs here, not {found}: write {example}"));
    }

    /// Only the first on each line: the others follow from it.
    fn report_syntax(&mut self, error: &Error) {
        let at = error.span().unwrap_or(0..0);
        if self.broken.insert(self.line(&at)) {
            self.push(&at, format!("this is not valid TOML: {}", clipped_message(error.message())));
        }
    }

    fn push(&mut self, at: &Span, message: String) {
        let place = self.place(at);
        self.problems.push(Problem { place, message });
    }

    /// The place of something, by line and column.
    pub(super) fn place(&mut self, at: &Span) -> Place {
        let line = self.line(at);
        let line_start = self.lines[line - 1];
        if !(line_start..=at.start).contains(&self.column.at) {
            self.column = Column { at: line_start, before: 0 };
        }
        let between = self.text.get(self.column.at..at.start).unwrap_or_default();
        let before = self.column.before + between.chars().count();
        self.column = Column { at: at.start, before };
        let position = Some((line, before + 1));
        Place::File { path: self.path.to_owned(), position }
    }
}

/// The parser's own words, which may quote the text, on one line.
fn clipped_message(message: &str) -> String {
    message.lines().map(clipped).collect::<Vec<_>>().join(", ")
}

/// Reads TOML: with every mistake that there is, or, in a file that no person wrote by hand, with
/// the first one only. Each mistake takes memory, and a file of rubbish has nothing else.
fn parse(text: &str) -> (DeTable<'_>, Vec<Error>) {
    if text.len() <= EVERY_MISTAKE_BYTES {
        let (root, errors) = DeTable::parse_recoverable(text);
        return (root.into_inner(), errors);
    }
    match DeTable::parse(text) {
        Ok(root) => (root.into_inner(), Vec::new()),
        Err(error) => (DeTable::default(), vec![error]),
    }
}

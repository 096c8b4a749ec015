//! A list of prefixes in a file: one a line, with its end if it has one; `#` begins a comment, which
//! becomes the rule's.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::PrefixCheck;
use crate::{
    control::protocol::{Comment, NewRule},
    events::text::Printable,
    policy::list,
};

/// Bytes of the largest list: more than the daemon takes.
const LIST_BYTES: u64 = 64 << 20;

/// What is wrong with one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// A list that cannot be used.
#[derive(Debug, Error)]
pub enum ListError {
    /// It cannot be read.
    #[error("cannot read {name}: {source}", name = name(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too large.
    #[error("{name} is larger than {LIST_BYTES} bytes: merge neighbouring prefixes",
        name = name(path))]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Lines are wrong: all of them.
    #[error("{} cannot be used, nothing was changed:{}", name(path), Lines(path, problems))]
    Lines {
        /// The file.
        path: PathBuf,
        /// Every line that is wrong.
        problems: Vec<Problem>,
    },
}

struct Lines<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Problem { line, message } in self.1 {
            write!(f, "\n  {}:{line}: {}", name(self.0), Printable(message))?;
        }
        Ok(())
    }
}

fn name(path: &Path) -> String {
    if is_standard_input(path) { "standard input".to_owned() } else { path.display().to_string() }
}

fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

/// Reads a list; `-` is standard input.
///
/// # Errors
///
/// If it cannot be read, or lines are wrong: all of them at once.
pub fn read_list(path: &Path, check: PrefixCheck) -> Result<Vec<NewRule>, ListError> {
    let mut bytes = Vec::new();
    let read = if is_standard_input(path) {
        io::stdin().lock().take(LIST_BYTES + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(LIST_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|source| ListError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > LIST_BYTES {
        return Err(ListError::TooLarge { path: path.to_owned() });
    }
    parse(&bytes, check).map_err(|problems| ListError::Lines { path: path.to_owned(), problems })
}

fn parse(bytes: &[u8], check: PrefixCheck) -> Result<Vec<NewRule>, Vec<Problem>> {
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    for (line, found) in list::lines(bytes) {
        match found.and_then(|found| rule(found, check)) {
            Ok(rule) => rules.push(rule),
            Err(message) => problems.push(Problem { line, message }),
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

fn rule(line: list::Line<'_>, check: PrefixCheck) -> Result<NewRule, String> {
    let list::Line { prefix, expires, comment } = line;
    check(prefix)?;
    let comment = comment
        .map(|comment| Comment::try_from(comment.replace('\t', " ")))
        .transpose()
        .map_err(|error| error.to_string())?;
    Ok(NewRule { prefix: prefix.to_owned(), comment, expires })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(_: &str) -> Result<(), String> {
        Ok(())
    }

    fn no_letters(text: &str) -> Result<(), String> {
        match text.find(char::is_alphabetic) {
            Some(_) => Err(format!("`{text}` has letters")),
            None => Ok(()),
        }
    }

    fn shown<'a>(rules: &'a [NewRule]) -> Vec<(&'a str, Option<&'a str>)> {
        let comment = |rule: &'a NewRule| rule.comment.as_ref().map(Comment::as_str);
        rules.iter().map(|rule| (rule.prefix.as_str(), comment(rule))).collect()
    }

    #[test]
    fn comments_blank_lines_and_line_ends_of_all_systems_are_fine() {
        let text = "\u{feff}# the office\n\n192.0.2.0/24 # third\tfloor # left\r\n  \t\r\n2001:db8::/32#\n::1";
        let rules = parse(text.as_bytes(), any).expect("a list");
        assert_eq!(
            shown(&rules),
            [("192.0.2.0/24", Some("third floor # left")), ("2001:db8::/32", None), ("::1", None)]
        );
        assert!(parse(b"", any).expect("an empty list").is_empty());
    }

    #[test]
    fn all_wrong_lines_are_told_at_once() {
        let text = b"192.0.2.1\nhost\n\xff\xfe\n192.0.2.2 192.0.2.3\n\n1 # a\x1b[2J\nlast\x1b[2J";
        let error = parse(text, no_letters)
            .map_err(|problems| ListError::Lines { path: "list.txt".into(), problems })
            .expect_err("wrong lines");
        let expected = "list.txt cannot be used, nothing was changed:\n  \
            list.txt:2: `host` has letters\n  \
            list.txt:3: not text (UTF-8)\n  \
            list.txt:4: `192.0.2.2 192.0.2.3` is more than one word: one prefix a line, as in \
            192.0.2.1 or 192.0.2.1 until 2026-12-01T18:00:00Z, comments behind `#`\n  \
            list.txt:6: a comment is one line without control characters: leave out '\\u{1b}'\n  \
            list.txt:7: `last\\u{1b}[2J` has letters";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_file_that_is_absent_or_endless_is_explained() {
        let error = read_list(Path::new("/nonexistent/list"), any).expect_err("absent");
        assert!(error.to_string().starts_with("cannot read /nonexistent/list: No such file"));
        let error = read_list(Path::new("/dev/zero"), any).expect_err("endless");
        assert!(error.to_string().starts_with("/dev/zero is larger than"), "{error}");
    }
}

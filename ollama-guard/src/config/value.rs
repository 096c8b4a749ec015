//! Single values, wherever they are written: from text to a value or to a sentence that says what
//! is wrong and what to write instead.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use ollama_guard_common::{Mode, Scope};

use super::{
    AttachChoice, Bytes, Interfaces, MAX_CAPACITY, MAX_CONFIRM, MAX_EVENTS_KEEP,
    MAX_EVENTS_PER_SECOND, MIN_EVENTS_KEEP, Pattern, PatternError,
};
use crate::policy::{Prefix, duration, quoted};

/// `enforce` or `observe`.
pub(super) fn mode(text: &str) -> Result<Mode, String> {
    one_of(text, &Mode::ALL, Mode::name)
}

/// `auto`, `native` or `generic`.
pub(super) fn attach(text: &str) -> Result<AttachChoice, String> {
    one_of(text, &AttachChoice::ALL, AttachChoice::name)
}

/// `all` or `local`.
pub(super) fn scope(text: &str) -> Result<Scope, String> {
    one_of(text, &Scope::ALL, Scope::name)
}

/// A capacity for the prefixes of both families together.
pub(super) fn capacity(text: &str, radix: u32) -> Result<u32, String> {
    number(text, radix, MAX_CAPACITY)
}

/// Events a second.
pub(super) fn events_per_second(text: &str, radix: u32) -> Result<u32, String> {
    number(text, radix, MAX_EVENTS_PER_SECOND)
}

/// How much is kept of the events of the past.
pub(super) fn events_keep(text: &str) -> Result<Bytes, String> {
    match text.parse() {
        Ok(Bytes(0)) => Ok(Bytes(0)),
        Ok(bytes) if (MIN_EVENTS_KEEP..=MAX_EVENTS_KEEP).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "{} is not possible: write a size from \"{MIN_EVENTS_KEEP}\" to \"{MAX_EVENTS_KEEP}\", or \
             \"0\" to keep none",
            quoted(text)
        )),
    }
}

/// How long a change is on trial; no time at all if it is not.
pub(super) fn confirm(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => match duration(text) {
            Ok(time) if time <= MAX_CONFIRM => Ok(time),
            _ => Err(format!(
                "{} is not possible: write a time from \"1s\" to \"1h\", or \"0\" for none",
                quoted(text)
            )),
        },
    }
}

/// An absolute path.
pub(super) fn path(written: &OsStr) -> Result<PathBuf, String> {
    let path = Path::new(written);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let text = quoted(&written.to_string_lossy());
    Err(format!("{text} is not an absolute path: write all of it, from the first / on"))
}

/// An absolute path that a socket can have.
pub(super) fn socket(written: &OsStr) -> Result<PathBuf, String> {
    // The size of sun_path in unix(7), without the closing zero.
    const MOST: usize = 107;
    let path = path(written)?;
    match path.as_os_str().as_bytes().len() {
        0..=MOST => Ok(path),
        bytes => Err(format!(
            "the path has {bytes} bytes, and the path of a socket at most {MOST}: write a shorter one"
        )),
    }
}

/// Patterns of interface names, or the word `auto` alone. `None` if the list is empty. Every bad
/// pattern is handed to `wrong` with its position in the list.
pub(super) fn interfaces<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    mut wrong: impl FnMut(usize, PatternError),
) -> Option<Interfaces> {
    let texts: Vec<&str> = texts.into_iter().collect();
    if texts == ["auto"] {
        return Some(Interfaces::Auto);
    }
    let mut patterns = Vec::new();
    for (position, text) in texts.into_iter().enumerate() {
        match text.parse::<Pattern>() {
            // An interface of that name would be written as [a]uto.
            _ if text == "auto" => wrong(position, PatternError::AutoAmongNames),
            Ok(pattern) if patterns.contains(&pattern) => {}
            Ok(pattern) => patterns.push(pattern),
            Err(error) => wrong(position, error),
        }
    }
    (!patterns.is_empty()).then_some(Interfaces::Named(patterns))
}

/// One pattern of interface names.
pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    text.parse().map_err(|error: PatternError| error.to_string())
}

/// What is wrong with letting everyone in where that was not said twice.
pub(super) fn everyone(prefix: Prefix, word: &str) -> String {
    format!(
        "{prefix} lets every {family} source in: add {word} if that is meant, or write the \
         networks of those who may",
        family = prefix.family()
    )
}

/// The known word that was probably meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Enough for two slips, or for one in a short word; the comparison grows with the length.
    let most = if word.len() < 5 { 1 } else { 2 };
    known
        .into_iter()
        .filter(|known| known.len().abs_diff(word.len()) <= most)
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|&(distance, _)| distance <= most)
        .min()
        .map(|(_, known)| known)
}

fn one_of<T: Copy>(text: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, String> {
    if let Some(&value) = all.iter().find(|&&value| name(value) == text) {
        return Ok(value);
    }
    let instead = match nearest(&text.to_ascii_lowercase(), all.iter().map(|&value| name(value))) {
        Some(meant) => format!("\"{meant}\""),
        None => {
            let names: Vec<String> = all.iter().map(|&v| format!("\"{}\"", name(v))).collect();
            format!("one of {}", names.join(", "))
        }
    };
    Err(format!("{} is not known: write {instead}", quoted(text)))
}

/// A number from 1 to `most`.
fn number(text: &str, radix: u32, most: u32) -> Result<u32, String> {
    match u32::from_str_radix(text, radix) {
        // The standard library also takes a sign.
        Ok(number) if (1..=most).contains(&number) && !text.starts_with('+') => Ok(number),
        _ => Err(format!("{} is not possible: write a number from 1 to {most}", quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_exact_and_slips_are_understood() {
        assert_eq!(mode("observe"), Ok(Mode::Observe));
        assert_eq!(mode("Observe").unwrap_err(), "\"Observe\" is not known: write \"observe\"");
        assert_eq!(
            mode("off").unwrap_err(),
            "\"off\" is not known: write one of \"enforce\", \"observe\""
        );
        assert_eq!(attach("natve").unwrap_err(), "\"natve\" is not known: write \"native\"");
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(capacity("4194304", 10), Ok(MAX_CAPACITY));
        for text in ["0", "16777217", "-1", "+1", "1.5", "", "many"] {
            let message = capacity(text, 10).unwrap_err();
            assert!(message.ends_with("write a number from 1 to 4194304"), "{message}");
        }
    }

    #[test]
    fn what_is_kept_has_bounds() {
        assert_eq!(events_keep("16 MiB"), Ok(Bytes(16 << 20)));
        assert_eq!(events_keep("0"), Ok(Bytes(0)));
        for text in ["255 KiB", "2 GiB", "16", "much"] {
            let message = events_keep(text).unwrap_err();
            assert!(message.contains("from \"256 KiB\" to \"1 GiB\""), "{message}");
        }
    }

    #[test]
    fn paths_are_absolute_and_sockets_fit() {
        assert!(path(OsStr::new("run/x")).unwrap_err().contains("from the first / on"));
        assert!(path(OsStr::new("")).is_err());
        assert!(socket(OsStr::new(&format!("/{}", "x".repeat(106)))).is_ok());
        let message = socket(OsStr::new(&format!("/{}", "x".repeat(107)))).unwrap_err();
        assert!(message.contains("108 bytes"), "{message}");
    }

    #[test]
    fn a_slip_leads_to_the_word_and_another_word_does_not() {
        let known = ["allow", "deny", "name", "ports"];
        assert_eq!(nearest("alow", known), Some("allow"));
        assert_eq!(nearest("port", known), Some("ports"));
        assert_eq!(nearest("dney", known), Some("deny"), "swapped letters are one slip");
        assert_eq!(nearest("expires", known), None);
    }
}

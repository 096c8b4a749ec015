//! A long file says at its head why it is long.

use super::Source;

const LIMIT: usize = 350;
const REASON: &str = "Long because";

/// A file above the limit without a reason. Tests do not count, in a module or a file of theirs.
pub fn check(file: &Source) -> Option<String> {
    if file.path.ends_with("/tests.rs") {
        return None;
    }
    let length = without_tests(&file.text);
    let excused = file
        .text
        .lines()
        .take_while(|line| line.starts_with("//!") || line.trim().is_empty())
        .any(|line| line.contains(REASON));
    (length > LIMIT && !excused).then(|| {
        format!(
            "{}: {length} lines without tests, more than {LIMIT}: divide it, or say why in the \
             module's documentation with a sentence that starts \"{REASON}\"",
            file.path
        )
    })
}

/// Lines before the test module, which stands last.
fn without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod tests")
    });
    tests.unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(head: &str, lines: usize) -> Source {
        Source::new("a.rs", format!("{head}{}", "x();\n".repeat(lines)))
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        assert!(check(&file("", LIMIT)).is_none());
        assert!(check(&file("", LIMIT + 1)).is_some());
    }

    #[test]
    fn a_reason_at_the_head_excuses_it() {
        assert!(check(&file("//! A table.\n//! Long because it is one.\n", 400)).is_none());
        assert!(check(&file("// Long because of nothing\n", 400)).is_some());
    }

    #[test]
    fn tests_do_not_count() {
        let text = format!("x();\n#[cfg(test)]\nmod tests {{\n{}}}\n", "y();\n".repeat(400));
        assert!(check(&Source::new("a.rs", text)).is_none());
        assert!(check(&Source::new("a/src/b/tests.rs", "y();\n".repeat(400))).is_none());
    }
}

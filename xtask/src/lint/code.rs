//! Rust text reduced to its code, so that the rules do not stumble over comments and literals.
//!
//! A scanner and no parser: it knows where comments and literals end, nothing else.

/// The text with every comment and the content of every literal replaced by nothing. Line breaks
/// stay, so that line numbers do.
pub fn only(text: &str) -> String {
    let mut scanner = Scanner { rest: text, code: String::with_capacity(text.len()) };
    while !scanner.rest.is_empty() {
        scanner.step();
    }
    scanner.code
}

struct Scanner<'a> {
    rest: &'a str,
    code: String,
}

impl Scanner<'_> {
    fn step(&mut self) {
        if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.skip(block_comment(self.rest));
        } else if let Some(length) = self.raw_string() {
            self.skip(length);
        } else if self.rest.starts_with('"') {
            self.skip(quoted(self.rest, '"'));
        } else if let Some(length) = character(self.rest) {
            self.skip(length);
        } else if let Some(next) = self.rest.chars().next() {
            self.code.push(next);
            self.rest = &self.rest[next.len_utf8()..];
        }
    }

    /// Leaves out `length` bytes, but for their line breaks.
    fn skip(&mut self, length: usize) {
        let (skipped, rest) = self.rest.split_at(length);
        self.code.extend(skipped.chars().filter(|&c| c == '\n'));
        self.rest = rest;
    }

    /// The length of `r"..."`, `r#"..."#` and so on, if one starts here.
    fn raw_string(&self) -> Option<usize> {
        let in_a_word = self.code.ends_with(|c: char| c.is_alphanumeric() && c != 'b' && c != 'c');
        let hashes_and_more = self.rest.strip_prefix('r').filter(|_| !in_a_word)?;
        let hashes = hashes_and_more.len() - hashes_and_more.trim_start_matches('#').len();
        let content = hashes_and_more[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let content = content.find(&end).unwrap_or(content.len());
        Some((1 + hashes + 1 + content + end.len()).min(self.rest.len()))
    }
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else if let Some(next) = rest.chars().next() {
            at += next.len_utf8();
        } else {
            return at;
        }
    }
}

/// The length of a literal from its opening to its closing quote.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

/// The length of a character literal, if one starts here and not a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut content = text.strip_prefix('\'')?.chars();
    let (first, second) = (content.next()?, content.next());
    (first == '\\' || second == Some('\'')).then(|| quoted(text, '\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_vanish_and_lines_stay() {
        assert_eq!(only("a // unsafe\n/* unsafe\n /* b */ */ c"), "a \n\n c");
    }

    #[test]
    fn literals_vanish() {
        assert_eq!(only(r#"f("un\"safe", 'x', '\'', b"y")"#), "f(, , , b)");
        assert_eq!(only("r#\"un\"safe\"# + r\"x\""), " + ");
    }

    #[test]
    fn lifetimes_and_names_stay() {
        assert_eq!(only("fn f<'a>(r: &'a str, for_r: u8)"), "fn f<'a>(r: &'a str, for_r: u8)");
    }

    #[test]
    fn text_that_ends_early_is_no_trouble() {
        for text in ["\"abc", "/* a", "r#\"a", "'", "r", "//", "'\\"] {
            only(text);
        }
    }
}

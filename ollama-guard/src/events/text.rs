//! Text from elsewhere on a terminal.

use std::fmt;

/// Shows text so that it stays on its line: control characters and the characters that reorder
/// or break lines are written as escapes.
///
/// Interface names and comments come from others, and could otherwise clear the screen or forge
/// a line.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if misleading(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

/// Whether a character does something else than stand where it is written.
#[must_use]
pub fn misleading(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_line_breaks_are_shown_and_not_obeyed() {
        let shown = Printable("a\x1b[2J\nb\u{202e}c\u{9b}é").to_string();
        assert_eq!(shown, "a\\u{1b}[2J\\nb\\u{202e}c\\u{9b}é");
    }
}

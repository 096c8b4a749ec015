//! Lists of prefixes as text: one a line, `#` begins a comment. The form in which most tools keep lists of
//! addresses.

/// A line that says something: a prefix, as it is written, and the comment behind it, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'t> {
    /// One word.
    pub prefix: &'t str,
    /// Without the `#` and the space around it.
    pub comment: Option<&'t str>,
}

/// The lines that say something, or can't be understood, with their numbers from 1.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, Result<Line<'_>, String>)> {
    // Editors of another system begin a file with this mark.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let numbered = bytes.split(|&byte| byte == b'\n').enumerate();
    numbered.filter_map(|(index, line)| {
        let line = read(line).transpose()?;
        Some((index + 1, line))
    })
}

fn read(line: &[u8]) -> Result<Option<Line<'_>>, String> {
    let line = str::from_utf8(line).map_err(|_| "not text (UTF-8)".to_owned())?;
    let (prefix, comment) = line.split_once('#').unwrap_or((line, ""));
    let (prefix, comment) = (prefix.trim(), comment.trim());
    if prefix.is_empty() {
        return Ok(None);
    }
    if prefix.contains(char::is_whitespace) {
        return Err(format!(
            "`{prefix}` is more than one word: one prefix a line, comments behind `#`"
        ));
    }
    Ok(Some(Line { prefix, comment: (!comment.is_empty()).then_some(comment) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_line_ends_of_all_systems_are_fine() {
        let text = "\u{feff}# the office\n\n192.0.2.0/24 # third floor # left\r\n  \t\r\n::1#";
        let found: Vec<_> = lines(text.as_bytes())
            .map(|(number, line)| line.map(|line| (number, line.prefix, line.comment)))
            .collect();
        let first = Ok((3, "192.0.2.0/24", Some("third floor # left")));
        assert_eq!(found, [first, Ok((5, "::1", None))]);
        assert_eq!(lines(b"").count(), 0);
    }

    #[test]
    fn what_is_no_line_of_a_list_is_told_with_its_number() {
        let found: Vec<_> = lines(b"a\n\xff\xfe\n\nb c # d").collect();
        assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 4]);
        assert!(found[1].1.is_err() && found[2].1.as_ref().is_err_and(|e| e.contains("`b c`")));
    }
}

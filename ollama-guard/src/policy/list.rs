//! Lists of prefixes as text: one a line, `#` begins a comment. The form in which most tools keep lists of
//! addresses. In the place of a prefix there may be a host name, and behind either `until` and a moment: when
//! it ends.

use super::End;

/// What stands between a prefix and its end.
const UNTIL: &str = "until";

/// A line that says something: a prefix, as it is written, and the comment behind it, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'t> {
    /// One word.
    pub prefix: &'t str,
    /// When it ends, if it does.
    pub expires: Option<End>,
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
    let mut words = prefix.split_whitespace();
    let (prefix, expires) = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(one), None, ..) => (one, None),
        (Some(one), Some(UNTIL), Some(end), None) => {
            (one, Some(end.parse::<End>().map_err(|error| error.to_string())?))
        }
        _ => {
            return Err(format!(
                "`{prefix}` is more than one word: one prefix a line, as in 192.0.2.1 or 192.0.2.1 \
                 until 2026-12-01T18:00:00Z, comments behind `#`"
            ));
        }
    };
    Ok(Some(Line { prefix, expires, comment: (!comment.is_empty()).then_some(comment) }))
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
    fn an_end_stands_behind_the_prefix() {
        let text = b"192.0.2.1\tuntil 2026-12-01T18:00:00Z # until 2027\n192.0.2.2 # until then\n";
        let found: Vec<_> = lines(text)
            .map(|(_, line)| {
                line.map(|line| (line.prefix, line.expires.map(|end| end.to_string())))
            })
            .collect();
        let end = "2026-12-01T18:00:00Z".to_owned();
        assert_eq!(found, [Ok(("192.0.2.1", Some(end))), Ok(("192.0.2.2", None))]);
        for wrong in ["a until", "a until then", "a until 2026-12-01T18:00:00Z b", "a since b"] {
            assert!(lines(wrong.as_bytes()).all(|(_, line)| line.is_err()), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_line_of_a_list_is_told_with_its_number() {
        let found: Vec<_> = lines(b"a\n\xff\xfe\n\nb c # d").collect();
        assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 4]);
        assert!(found[1].1.is_err() && found[2].1.as_ref().is_err_and(|e| e.contains("`b c`")));
    }
}

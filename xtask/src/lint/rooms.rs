//! Which room of `ollama-guard` may import which: only from rows below its own.

use super::Source;

/// The rows, top to bottom. `lib.rs` stands outside: it only declares the rooms.
const ROWS: [&[&str]; 9] = [
    &["main"],
    &["cli"],
    &["daemon"],
    &["guard", "status", "verify", "doctor"],
    &["control", "metrics", "audit_log", "doors", "names"],
    &["events", "dataplane"],
    &["config"],
    &["policy", "boot_clock"],
    &["ollama-guard-common"],
];
const HOUSE: &str = "ollama-guard/src/";
/// The only room that may use aya.
const DATAPLANE: &str = "dataplane";

/// Every import that goes up or sideways, and every use of aya outside its room.
pub fn check(file: &Source) -> Vec<String> {
    let Some(room) = room_of(&file.path) else { return Vec::new() };
    let Some(own_row) = row_of(room) else {
        return vec![format!(
            "{}: the room `{room}` is in no row of the house; give it one in xtask's lint/rooms.rs",
            file.path
        )];
    };
    let mut problems = Vec::new();
    for (line, other) in imports(&file.code) {
        // What is no room is an item of lib.rs, which has none but the rooms.
        let Some(row) = row_of(other) else { continue };
        if other != room && row <= own_row {
            problems.push(format!(
                "{}:{line}: `{room}` imports from `{other}`, which is not in a row below it",
                file.path
            ));
        }
    }
    if room != DATAPLANE {
        problems.extend(uses_of_aya(file));
    }
    problems
}

/// The room that a file belongs to.
fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix(HOUSE)?;
    let room = inside.split('/').next()?;
    let room = room.strip_suffix(".rs").unwrap_or(room);
    (room != "lib").then_some(room)
}

fn row_of(room: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&room))
}

/// The first name of every path that starts at the crate's root, with its line.
fn imports(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, root) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) || code[..at].ends_with('$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let path = code[at + root.len()..].trim_start();
        match path.strip_prefix('{') {
            Some(group) => found.extend(first_names(group).map(|name| (line, name))),
            None => found.push((line, word(path))),
        }
    }
    found
}

/// The first name of every path in `a::b, c::{d, e}, f}`.
fn first_names(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let mut start = Some(0);
    let mut names = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.extend(start.map(|start| word(group[start..at].trim_start())));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.extend(start.map(|start| word(group[start..at].trim_start())));
                start = Some(at + 1);
            }
            _ => {}
        }
    }
    names.into_iter().filter(|name| !name.is_empty())
}

fn word(text: &str) -> &str {
    &text[..text.find(|c: char| !is_word(c)).unwrap_or(text.len())]
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn uses_of_aya(file: &Source) -> Vec<String> {
    let is_aya = |line: &str| {
        let mut words = line.split(|c: char| !is_word(c));
        words.any(|word| ["aya", "aya_obj", "aya_log"].contains(&word))
    };
    let lines = file.lines().filter(|(_, line)| is_aya(line));
    lines.map(|(line, _)| format!("{}:{line}: only `{DATAPLANE}` may use aya", file.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        check(&Source::new(path, text))
    }

    #[test]
    fn imports_go_down() {
        let text = "use crate::{guard::Handle, policy::{self, Rule}, config};\nuse crate::doors;";
        assert!(problems("ollama-guard/src/daemon/start.rs", text).is_empty());
        let same_room = "use crate::policy::prefix::Prefix;";
        assert!(problems("ollama-guard/src/policy/rule.rs", same_room).is_empty());
    }

    #[test]
    fn an_import_that_goes_up_or_sideways_is_named_with_its_line() {
        let found = problems("ollama-guard/src/events.rs", "//! Doc\nuse crate::guard::Handle;");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("ollama-guard/src/events.rs:2: `events` imports from `guard`")
        );
        assert_eq!(problems("ollama-guard/src/events.rs", "use crate::dataplane::Ring;").len(), 1);
    }

    #[test]
    fn every_path_of_a_group_and_every_path_in_the_code_counts() {
        let text = "use crate::{\n    policy::{Rule, Port},\n    daemon,\n    cli::run};";
        assert_eq!(problems("ollama-guard/src/config.rs", text).len(), 2);
        let text = "fn f() -> crate::guard::Answer { pub(crate) fn g() {} }";
        assert_eq!(problems("ollama-guard/src/config.rs", text).len(), 1);
    }

    #[test]
    fn documentation_may_mention_anything() {
        let text = "//! See [`crate::guard`] and aya.\nlet a = \"crate::cli\";";
        assert!(problems("ollama-guard/src/policy/mod.rs", text).is_empty());
    }

    #[test]
    fn aya_is_for_one_room() {
        let text = "use aya::maps::RingBuf;";
        assert!(problems("ollama-guard/src/dataplane/ring.rs", text).is_empty());
        assert_eq!(problems("ollama-guard/src/events/read.rs", text).len(), 1);
    }

    #[test]
    fn a_room_without_a_row_is_refused_and_other_crates_have_no_rooms() {
        assert_eq!(problems("ollama-guard/src/utils.rs", "").len(), 1);
        assert!(problems("ollama-guard/src/lib.rs", "pub use crate::guard::A;").is_empty());
        assert!(problems("xtask/src/utils.rs", "use crate::guard;").is_empty());
    }
}

//! Where `unsafe` may stand, and how much of it there is.

use super::Source;

/// The only places: the pointer reads of the kernel program, and the room that talks to the kernel.
const ALLOWED: [&str; 3] =
    ["ollama-guard-ebpf/", "ollama-guard/src/dataplane/", "ollama-guard/src/dataplane.rs"];
/// The macros of the fuzzing library expand to it.
const EXEMPT: &str = "ollama-guard-common/fuzz/";

/// Every `unsafe` outside the places for it.
pub fn check(file: &Source) -> Vec<String> {
    if file.path.starts_with(EXEMPT) || ALLOWED.iter().any(|place| file.path.starts_with(place)) {
        return Vec::new();
    }
    let found = file.lines().filter(|(_, line)| words(line).any(|word| word == "unsafe"));
    found
        .map(|(number, _)| {
            format!("{}:{number}: `unsafe` may stand only in {}", file.path, ALLOWED.join(", "))
        })
        .collect()
}

/// One line for each crate that has any, and one for those that have none.
pub fn summary(files: &[Source]) -> Vec<String> {
    let mut crates: Vec<(&str, usize)> = Vec::new();
    for file in files.iter().filter(|file| !file.path.starts_with(EXEMPT)) {
        let name = file.path.split('/').next().unwrap_or_default();
        let blocks = blocks(&file.code);
        match crates.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += blocks,
            None => crates.push((name, blocks)),
        }
    }
    crates.iter().map(|(name, count)| format!("unsafe blocks in {name}: {count}")).collect()
}

/// `unsafe {` and `unsafe impl`: the places where somebody vouches for something.
fn blocks(code: &str) -> usize {
    code.match_indices("unsafe")
        .filter(|&(at, found)| {
            let before = code[..at].chars().next_back();
            let after = code[at + found.len()..].trim_start();
            !before.is_some_and(is_word) && (after.starts_with('{') || after.starts_with("impl"))
        })
        .count()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !is_word(c))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#![forbid(unsafe_code)]\n// unsafe {\nlet a = unsafe { b() };\n\
        unsafe impl Send for A {}\nunsafe fn c() {}\n";

    #[test]
    fn unsafe_is_found_outside_its_places_only() {
        let found = check(&Source::new("ollama-guard/src/guard.rs", TEXT));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("ollama-guard/src/guard.rs:3:"), "{found:?}");
        for place in ["ollama-guard/src/dataplane/ring.rs", "ollama-guard-ebpf/src/maps.rs"] {
            assert!(check(&Source::new(place, TEXT)).is_empty());
        }
    }

    #[test]
    fn blocks_and_implementations_are_counted_by_crate() {
        let files = [Source::new("a/src/lib.rs", TEXT), Source::new("a/src/b.rs", "unsafe\n{}")];
        assert_eq!(summary(&files), ["unsafe blocks in a: 3"]);
    }
}

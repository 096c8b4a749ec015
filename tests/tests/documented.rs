//! The documentation's terminals, played: the commands of a page are typed into a real guard, in their order, and
//! each line that the page shows is to be among those that are printed. Whatever has a digit in it (addresses,
//! times, numbers) may differ.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use ollama_guard_tests::{
    bed::{Bed, Guard, GuardSetup, SERVER_DOOR, Standin, get, until},
    policy::{FRIEND4, GUARDED, SERVER4},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A command behind a prompt, and the lines that it prints.
struct Typed {
    command: String,
    shown: Vec<String>,
}

/// The commands of the program on a page, behind a heading. What is elided (`...`) is not asked for.
fn typed(page: &str, heading: &str) -> Result<Vec<Typed>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ollama-guard/docs").join(page);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (_, behind) =
        text.split_once(&format!("\n{heading}\n")).context("there is no such heading")?;
    let section = behind.split("\n## ").next().unwrap_or_default();
    let mut all = Vec::<Typed>::new();
    let mut is_terminal = false;
    for line in section.lines() {
        if line.starts_with("```") {
            is_terminal = line == "```console";
        } else if is_terminal {
            match ["$ ", "# "].iter().find_map(|prompt| line.strip_prefix(prompt)) {
                Some(command) => {
                    all.push(Typed { command: command.to_owned(), shown: Vec::new() });
                }
                None if line.trim() == "..." => {}
                None => {
                    all.last_mut().context("output before a command")?.shown.push(line.to_owned())
                }
            }
        }
    }
    all.retain(|typed| typed.command.starts_with("ollama-guard "));
    ensure!(!all.is_empty(), "nothing is typed on {page} behind {heading}");
    Ok(all)
}

/// A line without what differs from one time to the next.
fn fixed(line: &str) -> Vec<&str> {
    let word = |word| if str::contains(word, |c: char| c.is_ascii_digit()) { "#" } else { word };
    let mut words: Vec<_> = line.split_whitespace().map(word).collect();
    words.dedup_by(|next, before| *next == "#" && *before == "#");
    words
}

/// Types what a page says, with files of this guard's in the place of those that it names.
fn play(guard: &Guard<'_>, page: &str, heading: &str, given: &[(&str, &str)]) -> Result<()> {
    for Typed { command, shown } in typed(page, heading)? {
        let mut words = shlex::split(&command).with_context(|| command.clone())?;
        for word in &mut words {
            if let Some((_, other)) = given.iter().find(|(named, _)| word == named) {
                *word = (*other).to_owned();
            }
        }
        let words: Vec<_> = words.iter().skip(1).map(String::as_str).collect();
        let printed = guard.cli(&words)?;
        let text = format!("{}\n{}", printed.stdout, printed.stderr);
        let lines: Vec<_> = text.lines().map(fixed).collect();
        for line in &shown {
            ensure!(
                lines.contains(&fixed(line)),
                "{page}: `{command}` is said to print\n{line}\nand prints\n{text}"
            );
        }
        ensure!(printed.code.is_some_and(|code| code < 2), "{page}: `{command}`: {printed:?}");
    }
    Ok(())
}

fn setup() -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("generic")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ends_are_as_their_page_shows_them() -> Result<()> {
    let bed = Bed::new()?;
    let guard = setup().allow(FRIEND4).start(&bed.server.namespace)?;
    // The page's moment passes, and a test stays.
    let tomorrow = SystemTime::now() + Duration::from_secs(26 * 3600);
    let tomorrow = jiff::Timestamp::try_from(tomorrow)?.to_string();
    play(&guard, "rules.md", "## Ends", &[("2026-12-01T18:00:00+01:00", &tomorrow)])
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_first_steps_are_as_their_page_shows_them() -> Result<()> {
    let bed = Bed::new()?;
    let _server = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let text = format!("mode = \"observe\"\n[[service]]\nallow = [\"{FRIEND4}\"]\n");
    let guard = setup().config(&text).start(&bed.server.namespace)?;
    get(&bed.stranger4.namespace, (SERVER4, GUARDED).into(), "/", PATIENCE)?;
    until("the stranger to be told of", PATIENCE, || {
        guard.cli(&["events"]).is_ok_and(|events| events.stdout.contains("would-drop"))
    })?;
    play(&guard, "install.md", "## On Debian and its relatives", &[])
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn changes_on_trial_are_as_their_page_shows_them() -> Result<()> {
    let bed = Bed::new()?;
    let guard = setup().config("mode = \"observe\"\n").start(&bed.server.namespace)?;
    let list = guard.file("proposal");
    fs::write(&list, "192.168.1.0/24\n203.0.113.9\n2001:db8:7:1::/64\n")?;
    let list = list.display().to_string();
    play(&guard, "rollout.md", "## Look before you close: observe", &[])?;
    play(&guard, "rollout.md", "## Closing without fear: a change on trial", &[("proposal", &list)])
}

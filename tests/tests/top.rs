//! The live screen, in a real terminal, in front of a real guard and real strangers.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use ollama_guard::cli::top::terminal::Taken;
use ollama_guard_tests::{
    bed::{Answer, Bed, Guard, GuardSetup, SERVER_DOOR, Screen, Standin, get, patience, until},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long somebody knocks who is to hear nothing.
const SILENCE: Duration = Duration::from_millis(700);

fn guard_for_the_friend() -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("native").allow(FRIEND4).allow(FRIEND6)
}

/// Both strangers knock in vain, and the friend is served.
fn knock(bed: &Bed) -> Result<()> {
    let four = get(&bed.stranger4.namespace, (SERVER4, GUARDED).into(), "/", SILENCE)?;
    let six = get(&bed.stranger6.namespace, (SERVER6, GUARDED).into(), "/", SILENCE)?;
    ensure!(four == Answer::NoAnswer && six == Answer::NoAnswer, "{four:?}, {six:?}");
    let friend = get(&bed.friend.namespace, (SERVER4, GUARDED).into(), "/", patience(PATIENCE))?;
    ensure!(friend.is_served(), "{friend:?}");
    Ok(())
}

fn top(guard: &Guard<'_>, arguments: &[&str], columns: u16, rows: u16) -> Result<Screen> {
    let arguments = [&["top"], arguments].concat();
    let screen = Screen::start(&guard.command(&arguments), columns, rows)?;
    screen.wait_for("ENFORCING", PATIENCE)?;
    Ok(screen)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_stranger_is_seen_and_let_in_with_two_keys() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard = guard_for_the_friend().start(&bed.server.namespace)?;
    knock(&bed)?;
    let mut screen = top(&guard, &[], 80, 24)?;
    let (four, six) = (STRANGER4.to_string(), STRANGER6.to_string());
    for words in [&four, "2001:db8:bad::/64", "not-listed", "door0", "covered, native", "BOOKS"] {
        screen.wait_for(words, PATIENCE)?;
    }

    // The friend and a stranger go on, and the rates show it.
    let begun = Instant::now();
    let line = |screen: &Screen, word: &str| -> String {
        let text = screen.text();
        text.lines().find(|line| line.starts_with(word)).unwrap_or_default().to_owned()
    };
    until("rates", PATIENCE, || {
        let _ = knock(&bed);
        ["passed", "dropped"].iter().all(|word| line(&screen, word).contains(['▁', '▂', '▄', '█']))
    })
    .with_context(|| screen.text())?;
    println!("rates after {:?}:\n{}", begun.elapsed(), screen.text());

    screen.press(&format!("/{four}\r"))?;
    screen.wait_for("STRANGERS 1 ", PATIENCE)?;
    screen.press("a")?;
    screen.wait_for(&format!("ollama-guard allow add {four}"), PATIENCE)?;
    screen.press("n")?;
    until("the question to be gone", PATIENCE, || !screen.text().contains("allow add"))?;
    knock(&bed)?;
    screen.press("ay")?;
    screen.wait_for(&format!("added: allow {four}; generation 2"), PATIENCE)?;
    let served = get(&bed.stranger4.namespace, (SERVER4, GUARDED).into(), "/", patience(PATIENCE))?;
    assert!(served.is_served(), "{served:?}");
    let audit = fs::read_to_string(guard.state_dir().join("audit.log"))?;
    assert!(audit.contains("\"action\":\"add\"") && audit.contains(&four), "{audit}");

    // And the other one is denied, by its network.
    screen.press(&format!("/{}{six}\r", "\x7f".repeat(20)))?;
    screen.wait_for("2001:db8:bad::/64", PATIENCE)?;
    screen.press("d")?;
    screen.wait_for("ollama-guard deny add 2001:db8:bad::/64", PATIENCE)?;
    screen.press("\r")?;
    screen.wait_for("added: deny 2001:db8:bad::/64", PATIENCE)?;
    assert!(guard.done(&["deny", "list"])?.contains("2001:db8:bad::/64"));

    // Another size, and the end.
    screen.press("g")?;
    screen.resize(50, 9)?;
    screen.wait_for("q quit  ? help  a allow", PATIENCE)?;
    assert!(screen.text().lines().all(|line| line.chars().count() <= 50), "{}", screen.text());
    screen.press("?")?;
    screen.wait_for("Keys", PATIENCE)?;
    screen.press("qq")?;
    assert_eq!(screen.end(PATIENCE)?, Some(0));
    until("the terminal as it was", PATIENCE, || screen.is_as_before())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_daemon_that_goes_away_is_waited_for_and_the_terminal_given_back() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    knock(&bed)?;
    let stranger = STRANGER4.to_string();
    let mut screen = top(&guard, &[], 100, 30)?;
    screen.wait_for(&stranger, PATIENCE)?;
    guard.kill9()?;
    screen.wait_for("NO ANSWER since ", PATIENCE)?;
    screen.wait_for("no daemon answers on ", PATIENCE)?;
    assert!(screen.text().contains(&stranger), "what was known stays");
    guard.start()?;
    until("the daemon to be there again", PATIENCE, || !screen.text().contains("NO ANSWER"))?;
    screen.press("\x03")?;
    assert_eq!(screen.end(PATIENCE)?, Some(0));
    until("the terminal as it was", PATIENCE, || screen.is_as_before())?;

    let mut screen = top(&guard, &["--ignore", &stranger], 80, 24)?;
    kill(screen.pid()?, Signal::SIGTERM)?;
    screen.end(PATIENCE)?;
    until("the terminal as it was", PATIENCE, || screen.is_as_before())?;
    assert!(!screen.text().contains(&stranger));

    // Without colours, if they are not wanted.
    let mut command = guard.command(&["top"]);
    command.env("NO_COLOR", "1");
    let mut screen = Screen::start(&command, 80, 24)?;
    screen.wait_for(&stranger, PATIENCE)?;
    screen.press("q")?;
    screen.end(PATIENCE)?;
    let written = String::from_utf8_lossy(&screen.bytes()).into_owned();
    let colours: Vec<_> = colours(&written).collect();
    assert!(colours.is_empty(), "{colours:?}");
    Ok(())
}

/// The codes of colours in the sequences that choose how letters look (ECMA-48, SGR).
fn colours(written: &str) -> impl Iterator<Item = &str> {
    written
        .split("\x1b[")
        .filter_map(|rest| rest.split_once('m'))
        .map(|(codes, _)| codes)
        .filter(|codes| codes.bytes().all(|byte| byte.is_ascii_digit() || byte == b';'))
        .flat_map(|codes| codes.split(';'))
        .filter(|code| matches!(code.parse(), Ok(30..=38 | 40..=48 | 90..=107)))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_no_terminal_gets_a_snapshot() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    let knocking = thread::scope(|scope| -> Result<(String, String)> {
        let knocks = scope.spawn(|| (0..3).try_for_each(|_| knock(&bed)));
        let text = guard.done(&["top", "--interval", "2s"])?;
        let json = guard.done(&["top", "--json", "--once"])?;
        knocks.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((text, json))
    });
    let (text, json) = knocking?;
    println!("{text}\n{json}");
    for words in
        ["ENFORCING  mode enforce", "PER_SECOND", "203.0.113.66", "door0            covered"]
    {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(!text.contains('\x1b'));
    let json: Value = serde_json::from_str(&json)?;
    assert!(
        json["per_second"]["passed"].is_number() && json["totals"]["dropped"].as_u64() > Some(0)
    );
    let strangers = json["strangers"].as_array().context("strangers")?;
    assert!(strangers.iter().any(|one| one["source"] == "2001:db8:bad::/64"), "{json}");

    guard.stop()?;
    for arguments in [&["top"][..], &["top", "--json"]] {
        let alone = guard.cli(arguments)?;
        assert_eq!(alone.code, Some(2), "{alone:?}");
        assert!(alone.stderr.contains("ollama-guard run"), "{alone:?}");
    }
    Ok(())
}

/// Says to the test below that it is the program that is to panic.
const PANICS: &str = "OLLAMA_GUARD_TEST_PANICS";

/// Needs no root: only a terminal, which it makes.
#[test]
fn a_panic_leaves_the_terminal_as_it_was() -> Result<()> {
    if std::env::var_os(PANICS).is_some() {
        let _taken = Taken::take()?;
        panic!("this is meant");
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "a_panic_leaves_the_terminal_as_it_was", "--nocapture"]);
    let mut screen = Screen::start(command.env(PANICS, "1"), 80, 24)?;
    assert_eq!(screen.end(PATIENCE)?, Some(101));
    until("the terminal as it was", PATIENCE, || screen.is_as_before())?;
    let written = String::from_utf8_lossy(&screen.bytes()).into_owned();
    let at = |words: &str| written.find(words).with_context(|| format!("{words:?} in {written:?}"));
    let (entered, left, told) = (at("\x1b[?1049h")?, at("\x1b[?1049l")?, at("this is meant")?);
    assert!(entered < left && left < told, "the message is to be read: {written:?}");
    Ok(())
}

//! Rules with an end: they end in time, and also if no daemon ran at that moment. What is in force is asked of
//! the door, by frames.

use std::{
    fs,
    net::Ipv4Addr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ollama_guard_tests::{
    bed::{Bed, Guard, GuardSetup, SERVER_DOOR, passes, until},
    policy::FRIEND4,
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Somebody who is let in for a while.
const GUEST4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);

fn setup() -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("generic")
}

fn audit(guard: &Guard<'_>) -> Result<String> {
    Ok(fs::read_to_string(guard.state_dir().join("audit.log"))?)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_allowed_for_a_while_is_shut_out_within_a_second_of_its_end() -> Result<()> {
    let bed = Bed::new()?;
    let guard = setup().allow(FRIEND4).start(&bed.server.namespace)?;
    let start = Instant::now();
    guard.done(&["allow", "add", &GUEST4.to_string(), "--for", "4s"])?;
    let generation = guard.status()?.generation()?;
    assert!(passes(&bed, GUEST4)?);
    let list = guard.done(&["allow", "list"])?;
    assert!(list.contains("ENDS") && list.contains(" (in "), "{list}");
    let explained = guard.done(&["explain", &GUEST4.to_string()])?;
    assert!(explained.contains("  until 2") && explained.contains("for another "), "{explained}");
    let json = guard.done(&["allow", "list", "--json"])?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    assert!(json["rules"][1]["expires"].is_string() && json["rules"][0]["expires"].is_null());
    let ended = || guard.status().and_then(|status| status.generation());
    until("the end", PATIENCE, || ended().is_ok_and(|now| now == generation + 1))?;
    // Ends are whole seconds, so that it is four to five seconds after the command; and one to be noticed.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(3900), "ended after {took:?}");
    assert!(took < Duration::from_secs(7), "ended after {took:?}");
    assert!(!passes(&bed, GUEST4)? && passes(&bed, FRIEND4)?);
    assert!(!guard.done(&["allow", "list"])?.contains(&GUEST4.to_string()));
    let audit = audit(&guard)?;
    assert!(audit.contains("\"expired\"") && audit.contains(&GUEST4.to_string()), "{audit}");
    assert!(guard.log().contains(&format!("ended: allow {GUEST4} (added by ")), "{}", guard.log());
    assert!(guard.status()?.is_enforcing()?, "an end in time is no problem");
    Ok(())
}

/// A daemon that is down ends nothing, and one that starts does it before anything else.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_ended_while_the_daemon_was_dead_is_gone_first_thing_at_start_and_status_says_how_late()
-> Result<()> {
    let bed = Bed::new()?;
    let mut guard = setup().allow(FRIEND4).start(&bed.server.namespace)?;
    guard.done(&["allow", "add", &GUEST4.to_string(), "--for", "2s", "--comment", "the guest"])?;
    guard.done(&["allow", "add", "198.51.100.4", "--for", "1h"])?;
    guard.kill9()?;
    sleep(Duration::from_secs(7));
    assert!(passes(&bed, GUEST4)?, "the filter goes on as it was");
    guard.start()?;
    // The first answer is after the end.
    assert!(!passes(&bed, GUEST4)? && passes(&bed, FRIEND4)?);
    let status = guard.cli(&["status"])?;
    let line = status.stdout.lines().find(|line| line.starts_with("ended ")).context("no line")?;
    assert!(line.contains("s late: allow 198.51.100.3, until 2"), "{line}");
    assert!(status.succeeded(), "{status:?}");
    let list = guard.done(&["allow", "list"])?;
    assert!(!list.contains(&GUEST4.to_string()) && list.contains("198.51.100.4"), "{list}");
    assert!(audit(&guard)?.contains("s late\""), "{}", audit(&guard)?);
    // It is gone for good: the file does not have it any more.
    let stored = fs::read_to_string(guard.state_dir().join("rules.json"))?;
    let rest = stored.lines().last().context("a line")?;
    assert!(rest.contains("\"remove\":[{\"prefix\":\"198.51.100.3\""), "{stored}");
    guard.stop()?;
    guard.start()?;
    assert!(!guard.cli(&["status"])?.stdout.contains("late: "), "told once");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_end_can_be_moved_and_taken_away_and_nonsense_is_refused() -> Result<()> {
    let bed = Bed::new()?;
    let guard = setup().start(&bed.server.namespace)?;
    let add = |more: &[&str]| guard.cli(&[&["allow", "add", "198.51.100.3"], more].concat());
    assert!(add(&["--for", "2s"])?.succeeded());
    let moved = add(&["--until", "2036-01-01T00:00:00Z"])?;
    assert!(moved.stdout.contains("ends at 2036-01-01T00:00:00Z now, and not at"), "{moved:?}");
    assert!(moved.stdout.contains("as before"), "{moved:?}");
    sleep(Duration::from_secs(4));
    assert!(passes(&bed, GUEST4)?);
    let kept = add(&[])?;
    assert!(kept.stdout.contains("has no end any more"), "{kept:?}");
    for (wrong, expected) in [
        (&["--for", "soon"][..], "write a number and a unit"),
        (&["--for", "0s"], "at least 1s"),
        (&["--for", "20000d"], "ten years"),
        (&["--until", "2020-01-01T00:00:00Z"], "has passed"),
        (&["--until", "2036-01-01"], "date, time and offset"),
        (&["--for", "2h", "--until", "2036-01-01T00:00:00Z"], "cannot be used with"),
    ] {
        let refused = add(wrong)?;
        assert_eq!(refused.code, Some(2), "{wrong:?}: {refused:?}");
        assert!(refused.stderr.contains(expected), "{wrong:?}: {}", refused.stderr);
    }
    let list = guard.done(&["allow", "list"])?;
    assert!(!list.contains("ENDS"), "{list}");
    Ok(())
}

/// An entry of the configuration ends as well, and stays ended though it stays in the file.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_entry_of_the_configuration_ends_and_the_file_does_not_bring_it_back() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = setup().prepare(&bed.server.namespace)?;
    let list = guard.file("guests.txt");
    fs::write(&list, "198.51.100.3 until 2036-01-01T00:00:00Z # the guest\n")?;
    guard.hand_over(&list)?;
    guard.write_config(
        "[groups.guests]\ninclude = \"guests.txt\"\n[[service]]\nallow = [\"guests\", { from = \
         \"198.51.100.4\", expires = \"2036-01-01T00:00:00Z\" }]\n",
    )?;
    guard.hand_over(&guard.config_file())?;
    guard.start()?;
    assert!(passes(&bed, GUEST4)?);
    let end = jiff::Timestamp::now().checked_add(Duration::from_secs(4))?;
    fs::write(&list, format!("198.51.100.3 until {end} # the guest\n"))?;
    let sooner = guard.done(&["reload"])?;
    assert!(sooner.contains("allow 198.51.100.3: 2036-01-01T00:00:00Z -> "), "{sooner}");
    until("the end", PATIENCE, || guard.log().contains("ended: allow 198.51.100.3"))?;
    assert!(!passes(&bed, GUEST4)?);
    let reloaded = guard.cli(&["reload"])?;
    assert!(reloaded.stdout.contains("allow 198.51.100.3 has ended at"), "{reloaded:?}");
    assert!(!passes(&bed, GUEST4)? && passes(&bed, Ipv4Addr::new(198, 51, 100, 4))?);
    let ended = fs::read_to_string(guard.state_dir().join("ended.json"))?;
    assert!(ended.contains("198.51.100.3"), "{ended}");
    guard.stop()?;
    guard.start()?;
    assert!(!passes(&bed, GUEST4)?);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_list_that_replaces_the_rules_may_have_ends() -> Result<()> {
    let bed = Bed::new()?;
    let guard = setup().start(&bed.server.namespace)?;
    let list = guard.file("list.txt");
    let end = jiff::Timestamp::now().checked_add(Duration::from_secs(3))?;
    fs::write(&list, format!("198.51.100.3 until {end}\n{FRIEND4}\n"))?;
    let replaced = guard.done(&["allow", "replace", &list.to_string_lossy()])?;
    assert!(replaced.contains("added 2 allow rules"), "{replaced}");
    assert!(passes(&bed, GUEST4)?);
    until("the end", PATIENCE, || guard.log().contains("ended: allow 198.51.100.3"))?;
    assert!(!passes(&bed, GUEST4)? && passes(&bed, FRIEND4)?);
    Ok(())
}

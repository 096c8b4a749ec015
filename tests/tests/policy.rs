//! What a change of the policy does, and what a bad one does not.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use ollama_guard_common::{Mode, Reason};
use ollama_guard_tests::{
    bed::{
        Bed, Capture, Direction, Finished, Guard, GuardSetup, SERVER_DOOR, SWITCH_TO_SERVER,
        Standin, Status, Wire, only_the_friend_is_served,
    },
    packet::{ends, ethernet, ipv4, tcp},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, STRANGER4},
};

const PATIENCE: Duration = Duration::from_secs(10);
const MODES: [&str; 2] = ["native", "generic"];

/// In both policies.
const BOTH: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// In the first one only, and in the second one only.
const EITHER: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 2), Ipv4Addr::new(198, 51, 100, 3)];
/// In neither.
const NEITHER: Ipv4Addr = STRANGER4;

fn knock(source: Ipv4Addr) -> Vec<u8> {
    ethernet().carries_ip(&ipv4(source, SERVER4).carries(&tcp(40_000, GUARDED)))
}

/// The knocks of one source that got past the door.
fn passed(bed: &Bed, source: Ipv4Addr) -> Result<Capture> {
    Capture::start(&bed.server.namespace, SERVER_DOOR, move |frame, direction| {
        direction == Direction::In
            && ends(frame).is_some_and(|ends| {
                ends.source.ip() == IpAddr::from(source) && ends.destination.port() == GUARDED
            })
    })
}

/// P3.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_policy_change_is_all_or_nothing() -> Result<()> {
    const LASTS: Duration = Duration::from_secs(8);
    for mode in MODES {
        let bed = Bed::new()?;
        let guard = GuardSetup::of(SERVER_DOOR).attach(mode).start(&bed.server.namespace)?;
        // Many others around them: a policy that takes a while to build.
        let policies = EITHER.map(|only| {
            let others = (0..=250)
                .map(|last| format!("{}/32", Ipv4Addr::new(10, 0, only.octets()[3], last)));
            [BOTH, only].iter().map(ToString::to_string).chain(others).collect::<Vec<_>>()
        });
        guard.replace_allowed(&policies[0])?;
        let both = passed(&bed, BOTH)?;
        let neither = passed(&bed, NEITHER)?;
        let either = [passed(&bed, EITHER[0])?, passed(&bed, EITHER[1])?];
        let wire = Wire::open(&bed.switch, SWITCH_TO_SERVER)?;
        let (is_over, switched) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut sent = 0;
        let (probed, switching) = thread::scope(|scope| {
            let switching = scope.spawn(|| -> Result<()> {
                for policy in policies.iter().cycle() {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    guard.replace_allowed(policy)?;
                    switched.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let probed = (|| -> Result<()> {
                let begin = Instant::now();
                while begin.elapsed() < LASTS {
                    for _ in 0..16 {
                        for source in [BOTH, NEITHER, EITHER[0], EITHER[1]] {
                            wire.send(&knock(source))?;
                        }
                        sent += 1;
                    }
                    // One after the other: a queue that overflows would look like a drop.
                    both.wait_for(sent, PATIENCE)
                        .context("a source in both policies was dropped")?;
                }
                Ok(())
            })();
            is_over.store(true, Ordering::Relaxed);
            (probed, switching.join().expect("no panic"))
        });
        probed?;
        switching?;
        let (either, switched) =
            (either.map(|capture| capture.stop().count), switched.into_inner());
        println!("{mode}: {switched} policies, {sent} probes a source, {either:?} of either");
        assert_eq!(both.stop().count, sent, "a source in both policies always passes");
        assert_eq!(neither.stop().count, 0, "a source in neither never passes");
        assert!(switched > 100, "only {switched} policies in {LASTS:?}");
        // Nor was there a moment without rules for anybody.
        assert_eq!(guard.status()?.counter(Mode::Enforce, Reason::RulesAbsent)?, 0);
        // Both policies were really in force, each for a while.
        assert!(either.iter().all(|count| *count > 0 && *count < sent), "{either:?} of {sent}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_list_is_replaced_from_a_file_and_says_what_stays() -> Result<()> {
    let bed = Bed::new()?;
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .allow(FRIEND6)
        .start(&bed.server.namespace)?;
    guard.done(&["allow", "add", "203.0.113.0/24"])?;
    let file = guard.file("friends.txt");
    fs::write(&file, format!("{FRIEND4}\n"))?;
    let file = file.to_string_lossy().into_owned();
    let said = guard.done(&["allow", "replace", &file])?;
    assert!(said.contains(&FRIEND6.to_string()), "what stays is not in: {said}");
    let list = guard.done(&["allow", "list"])?;
    assert!(list.contains(&FRIEND4.to_string()) && list.contains(&FRIEND6.to_string()), "{list}");
    assert!(!list.contains("203.0.113.0"), "{list}");
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    only_the_friend_is_served(&bed)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_deny_rule_wins_and_its_removal_lets_in_again() -> Result<()> {
    let bed = Bed::new()?;
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .allow("192.0.2.0/24")
        .allow(FRIEND6)
        .start(&bed.server.namespace)?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    only_the_friend_is_served(&bed)?;
    let friend = FRIEND4.to_string();
    guard.done(&["deny", "add", &friend])?;
    assert!(only_the_friend_is_served(&bed).is_err(), "the friend is denied");
    guard.done(&["deny", "remove", &friend])?;
    only_the_friend_is_served(&bed)
}

/// What must not change when a change is refused.
#[derive(Debug, PartialEq)]
struct Live {
    mode: String,
    generation: u64,
    prefixes: (u64, u64),
    ports: Vec<String>,
    program: Option<u64>,
    link: Option<u64>,
}

impl Live {
    fn of(status: &Status) -> Result<Self> {
        let door = status.door(SERVER_DOOR)?;
        Ok(Self {
            mode: status.mode()?,
            generation: status.generation()?,
            prefixes: status.prefixes()?,
            ports: status.ports()?,
            program: door.program,
            link: door.link,
        })
    }
}

/// A valid configuration, to break.
const GOOD: &str = r#"
mode = "enforce"
[[service]]
name = "ollama"
ports = ["11434/tcp"]
allow = ["192.0.2.10", "2001:db8:7::10"]
"#;

/// What is wrong with it, the configuration, and the line that the message must name.
fn broken_configurations() -> Vec<(&'static str, String, Option<usize>)> {
    let with = |from: &str, to: &str| GOOD.replace(from, to);
    vec![
        ("no toml", "mode = = enforce\n".to_owned(), Some(1)),
        ("cut off in the middle", GOOD[..60].to_owned(), None),
        ("binary", "\u{0}\u{1}\u{2}".to_owned(), None),
        ("an unknown mode", with("enforce", "enforced"), Some(2)),
        ("a misspelt key", with("allow", "alow"), Some(6)),
        ("an unknown table", format!("{GOOD}[colour]\nred = 1\n"), Some(7)),
        (
            "a name for an address",
            format!("{GOOD}[metrics]\nlisten = \"localhost:9434\"\n"),
            Some(8),
        ),
        ("a wrong type", with("\"ollama\"", "7"), Some(4)),
        ("a port out of range", with("11434/tcp", "70000/tcp"), Some(5)),
        ("port 0", with("11434/tcp", "0/tcp"), Some(5)),
        ("an unknown protocol", with("11434/tcp", "11434/icmp"), Some(5)),
        ("no port", with("\"11434/tcp\"", ""), None),
        ("host bits", with("192.0.2.10", "192.0.2.10/24"), Some(6)),
        ("a leading zero", with("192.0.2.10", "192.0.2.010"), Some(6)),
        ("a prefix too long", with("192.0.2.10", "192.0.2.10/33"), Some(6)),
        ("a mapped address", with("192.0.2.10", "::ffff:192.0.2.10"), Some(6)),
        ("an unknown group", with("192.0.2.10", "office"), Some(6)),
        ("everyone without saying so", with("192.0.2.10", "0.0.0.0/0"), Some(6)),
        ("everyone in ipv6 without saying so", with("2001:db8:7::10", "::/0"), Some(6)),
        ("a second service", format!("{GOOD}{}", &GOOD[GOOD.find("[[").unwrap_or(0)..]), None),
        ("a service without ports", "[[service]]\nports = []\n".to_owned(), Some(2)),
        ("an unknown way of attaching", format!("attach = \"xdp\"\n{GOOD}"), Some(1)),
        ("a capacity of nothing", format!("capacity = 0\n{GOOD}"), Some(1)),
        (
            "an interface name too long",
            format!("interfaces = [\"a23456789012345678\"]\n{GOOD}"),
            Some(1),
        ),
        ("a bad pattern", format!("interfaces = [\"eth[\"]\n{GOOD}"), Some(1)),
    ]
}

/// P4, at start, and where no earlier configuration is kept: the daemon refuses, and what the kernel holds
/// stays.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_bad_configuration_changes_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard =
        GuardSetup::of(SERVER_DOOR).attach("generic").config(GOOD).start(&bed.server.namespace)?;
    only_the_friend_is_served(&bed)?;
    let before = Live::of(&guard.status()?)?;
    guard.kill9()?;
    // With it, the daemon would start with what it kept: see the tests of `last_good`.
    fs::remove_file(guard.state_dir().join("last-good-configuration"))?;
    for (what, content, line) in broken_configurations() {
        guard.write_config(&content)?;
        let refused = guard.run_to_the_end(PATIENCE).context(what)?;
        assert_eq!(refused.code, Some(2), "{what}: {refused:?}");
        let file = guard.config_file().to_string_lossy().into_owned();
        assert!(refused.stderr.contains(&file), "{what}: no file name in: {}", refused.stderr);
        if let Some(line) = line {
            let is_named = [format!("line {line}"), format!(":{line}:"), format!(":{line} ")]
                .iter()
                .any(|form| refused.stderr.contains(form));
            assert!(is_named, "{what}: line {line} is not named in: {}", refused.stderr);
        }
        assert_eq!(Live::of(&guard.status()?)?, before, "{what}");
    }
    // Nor does one that is not there.
    fs::remove_file(guard.config_file())?;
    let missing = guard.file("missing.toml").to_string_lossy().into_owned();
    let refused =
        ollama_guard_tests::bed::run(guard.run_command().args(["--config", &missing]), PATIENCE)?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("missing.toml"), "{}", refused.stderr);
    assert_eq!(Live::of(&guard.status()?)?, before);
    only_the_friend_is_served(&bed)?;
    guard.write_config(GOOD)?;
    guard.start()?;
    only_the_friend_is_served(&bed)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn all_problems_of_a_configuration_are_told_at_once() -> Result<()> {
    let bed = Bed::new()?;
    let content = GOOD
        .replace("enforce", "enforced")
        .replace("11434/tcp", "70000/tcp")
        .replace("192.0.2.10", "192.0.2.10/24");
    let guard = GuardSetup::of(SERVER_DOOR).config(&content).prepare(&bed.server.namespace)?;
    let refused = guard.run_to_the_end(PATIENCE)?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for part in ["enforced", "70000", "192.0.2.10/24", "192.0.2.0/24"] {
        assert!(refused.stderr.contains(part), "{part} is not in: {}", refused.stderr);
    }
    assert!(!guard.pin_dir().join("links").exists(), "nothing is attached");
    Ok(())
}

fn assert_refused(guard: &Guard<'_>, before: &Live, arguments: &[&str]) -> Result<Finished> {
    let refused = guard.cli(arguments)?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(!refused.stderr.trim().is_empty(), "{refused:?}");
    assert_eq!(Live::of(&guard.status()?)?, *before, "{arguments:?}");
    Ok(refused)
}

/// P4, at run time.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_bad_edit_changes_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard =
        GuardSetup::of(SERVER_DOOR).attach("generic").config(GOOD).start(&bed.server.namespace)?;
    let before = Live::of(&guard.status()?)?;
    for prefix in [
        "192.0.2.1/24",
        "192.0.2.010",
        "192.0.2.0/33",
        "2001:db8::1/64",
        "::ffff:192.0.2.10",
        "0.0.0.0/0",
        "::/0",
        "127.0.0.1",
        "::1",
        "224.0.0.1",
        "ff02::1",
        "friend",
        "",
        "192.0.2",
        "192.0.2.10:80",
        "1.2.3.4/",
        "/24",
    ] {
        for effect in ["allow", "deny"] {
            // A good one beside it does not go through alone.
            assert_refused(&guard, &before, &[effect, "add", "198.51.100.99", prefix])?;
        }
    }
    for (name, content) in [
        ("bad-line.txt", "198.51.100.99\nnonsense\n"),
        ("host-bits.txt", "198.51.100.99\n192.0.2.1/24\n"),
        ("everyone.txt", "0.0.0.0/0\n"),
    ] {
        let file = guard.file(name);
        fs::write(&file, content)?;
        assert_refused(&guard, &before, &["allow", "replace", &file.to_string_lossy()])?;
    }
    assert_refused(&guard, &before, &["allow", "replace", "/nowhere/at/all"])?;
    // A rule of the configuration file is changed there, and the message says where.
    let refused = assert_refused(&guard, &before, &["allow", "remove", "192.0.2.10"])?;
    let file = guard.config_file().to_string_lossy().into_owned();
    assert!(refused.stderr.contains(&file), "{}", refused.stderr);
    assert!(refused.stderr.contains("line 6"), "line 6 is not in: {}", refused.stderr);
    only_the_friend_is_served(&bed)
}

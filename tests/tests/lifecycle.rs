//! What the daemon's death, its upgrade and its farewell do to the filter.

use std::{
    collections::BTreeSet,
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use ollama_guard_tests::{
    bed::{
        Bed, Guard, GuardSetup, Objects, RunsAs, SERVER_DOOR, Standin, UnderFlood,
        everyone_is_served, only_the_friend_is_served, patience, pins, rounds, start, until,
        xdp_program_id,
    },
    policy::{FRIEND4, FRIEND6, GUARDED},
};

const PATIENCE: Duration = Duration::from_secs(10);
const MODES: [&str; 2] = ["native", "generic"];

/// These tests measure time and look at all of the kernel's lists: one after the other.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often chance has its turn: as a service, which is the second time that these tests run, half as often.
fn turns(usual: usize) -> usize {
    let is_second = RunsAs::from_environment().is_ok_and(|user| user != RunsAs::Root);
    rounds(if is_second { usual.div_ceil(2) } else { usual })
}

fn random_pause(most: u64) -> Duration {
    Duration::from_millis(RandomState::new().build_hasher().finish() % most)
}

fn guard_for_the_friend<'bed>(bed: &'bed Bed, attach: &str) -> Result<Guard<'bed>> {
    GuardSetup::of(SERVER_DOOR)
        .attach(attach)
        .allow(FRIEND4)
        .allow(FRIEND6)
        .start(&bed.server.namespace)
}

/// P1.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_dead_daemon_keeps_filtering() -> Result<()> {
    let _turn = one_at_a_time();
    for mode in MODES {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let mut guard = guard_for_the_friend(&bed, mode)?;
        let outcome = UnderFlood::during(&bed, || {
            for _ in 0..turns(15) {
                // A random moment of its life, and a random while without it.
                thread::sleep(random_pause(200));
                guard.kill9()?;
                thread::sleep(random_pause(100));
                guard.start()?;
            }
            Ok(())
        })?;
        outcome.assert_held(&format!("kill -9, {mode}"));
    }
    Ok(())
}

/// P1, before the daemon is ready: every moment of its start is a moment to die.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_daemon_killed_while_it_starts_over_its_pins_opens_nothing() -> Result<()> {
    let _turn = one_at_a_time();
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend(&bed, "native")?;
    guard.kill9()?;
    let outcome = UnderFlood::during(&bed, || {
        for position in 0..turns(15) {
            let mut starting =
                start(guard.run_command().stdout(Stdio::null()).stderr(Stdio::null()))?;
            thread::sleep(patience(Duration::from_millis(position as u64 * 40)));
            starting.kill()?;
        }
        Ok(())
    })?;
    outcome.assert_held("killed while starting");
    guard.start()?;
    only_the_friend_is_served(&bed)
}

/// P2.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_upgrade_has_no_gap() -> Result<()> {
    let upgrades = turns(10);
    let _turn = one_at_a_time();
    for mode in MODES {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let mut guard = guard_for_the_friend(&bed, mode)?;
        let first = guard.status()?.door(SERVER_DOOR)?;
        let link = first.link.context("a link id")?;
        let mut programs = BTreeSet::from([first.program.context("a program id")?]);
        let outcome = UnderFlood::during(&bed, || {
            for position in 0..upgrades {
                if position % 2 == 0 {
                    let status = guard.stop()?;
                    anyhow::ensure!(status.success(), "SIGTERM: {status}");
                } else {
                    guard.kill9()?;
                }
                guard.start()?;
                let door = guard.status()?.door(SERVER_DOOR)?;
                anyhow::ensure!(door.link == Some(link), "the link is another one: {door:?}");
                let seen = xdp_program_id(&bed.server.namespace, SERVER_DOOR)?;
                anyhow::ensure!(door.program == seen, "{door:?}, the kernel says {seen:?}");
                programs.extend(seen);
            }
            Ok(())
        })?;
        outcome.assert_held(&format!("upgrades, {mode}"));
        println!("{upgrades} new daemons, one link, programs {programs:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_second_daemon_on_the_same_pins_is_refused() -> Result<()> {
    let _turn = one_at_a_time();
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard = guard_for_the_friend(&bed, "generic")?;
    let before = guard.status()?;
    let second = guard.run_to_the_end(PATIENCE)?;
    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(!second.stderr.is_empty());
    let after = guard.status()?;
    assert_eq!(before.door(SERVER_DOOR)?, after.door(SERVER_DOOR)?);
    assert_eq!(before.generation()?, after.generation()?);
    assert!(after.daemon_runs()?);
    only_the_friend_is_served(&bed)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn sigterm_and_sigint_leave_the_filter_in_place_and_say_so() -> Result<()> {
    use nix::sys::signal::Signal;
    let _turn = one_at_a_time();
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend(&bed, "generic")?;
    assert!(guard.stop()?.success());
    assert!(guard.log().contains("detach"), "no way out in: {}", guard.log());
    let status = guard.status()?;
    assert!(!status.daemon_runs()?);
    assert!(status.door(SERVER_DOOR)?.is_covered);
    only_the_friend_is_served(&bed)?;
    guard.start()?;
    let pid = guard.pid().context("a daemon")?;
    guard.signal(Signal::SIGINT)?;
    until("the daemon to end", PATIENCE, || has_ended(pid))?;
    guard.kill9()?;
    only_the_friend_is_served(&bed)
}

/// Whether a child has ended; until it is waited for, it is a zombie.
fn has_ended(pid: nix::unistd::Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

/// Rules and where they came from survive the daemon.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn rules_of_the_command_line_survive_a_restart() -> Result<()> {
    let _turn = one_at_a_time();
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = GuardSetup::of(SERVER_DOOR).attach("generic").start(&bed.server.namespace)?;
    let (friend4, friend6) = (FRIEND4.to_string(), FRIEND6.to_string());
    guard.done(&["allow", "add", &friend4, &friend6, "--comment", "the friend"])?;
    only_the_friend_is_served(&bed)?;
    let generation = guard.status()?.generation()?;
    guard.kill9()?;
    only_the_friend_is_served(&bed)?;
    guard.start()?;
    only_the_friend_is_served(&bed)?;
    assert!(guard.status()?.generation()? >= generation);
    let list = guard.done(&["allow", "list"])?;
    assert!(list.contains(&friend4) && list.contains(&friend6), "{list}");
    Ok(())
}

/// P11.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn detach_leaves_nothing_behind() -> Result<()> {
    let _turn = one_at_a_time();
    for mode in MODES {
        for daemon_runs in [true, false] {
            let bed = Bed::new()?;
            let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
            let before = Objects::now()?;
            let mut guard = guard_for_the_friend(&bed, mode)?;
            let ours = Objects::now()?.without(&before);
            assert!(!ours.programs.is_empty() && !ours.maps.is_empty(), "{ours:?}");
            assert!(!ours.links.is_empty(), "{ours:?}");
            assert!(!pins(guard.pin_dir())?.is_empty());
            assert!(xdp_program_id(&bed.server.namespace, SERVER_DOOR)?.is_some());
            only_the_friend_is_served(&bed)?;
            if !daemon_runs {
                guard.kill9()?;
            }
            guard.done(&["detach"])?;
            let what = format!("everything of ours to be gone, {mode}, daemon {daemon_runs}");
            let left = || -> Result<Objects> { Ok(Objects::now()?.within(&ours)) };
            until(&what, PATIENCE, || left().is_ok_and(|left| left.is_empty()))
                .with_context(|| format!("left: {:?}", left()))?;
            assert!(!guard.pin_dir().exists(), "{} exists", guard.pin_dir().display());
            assert_eq!(xdp_program_id(&bed.server.namespace, SERVER_DOOR)?, None);
            everyone_is_served(&bed)?;
        }
    }
    Ok(())
}

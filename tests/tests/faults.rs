//! What goes wrong on a host, and what the guard makes of it: the port stays closed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use ollama_guard_common::{Mode, Reason};
use ollama_guard_tests::{
    bed::{
        Answer, Bed, GuardSetup, Objects, SERVER_DOOR, Standin, VERSION_DIRECTORY, get,
        only_the_friend_is_served, run, until,
    },
    policy::{FRIEND4, FRIEND6, GUARDED, STRANGER4},
};

const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(700);

fn guard_for_the_friend() -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("native").allow(FRIEND4).allow(FRIEND6)
}

fn bpftool(arguments: &[&str]) -> Result<String> {
    Ok(run(Command::new("bpftool").args(arguments), PATIENCE)?.expect_success()?.to_owned())
}

/// Whoever empties the tables behind our back closes the port for everyone, and the kernel side
/// says so.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn missing_rules_close_the_port_for_everyone_and_say_so() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard =
        guard_for_the_friend().arguments(&["--debug-kernel"]).start(&bed.server.namespace)?;
    only_the_friend_is_served(&bed)?;
    // Awake, it would put them back within seconds (`drift.rs`).
    guard.signal(Signal::SIGSTOP)?;
    let pin = guard.pin_dir().join(VERSION_DIRECTORY).join("OG_RULES");
    for slot in ["0", "1"] {
        // One of the two slots is empty.
        let key = ["key", slot, "0", "0", "0"];
        let mut command = Command::new("bpftool");
        command.args(["map", "delete", "pinned"]).arg(&pin).args(key);
        run(&mut command, PATIENCE)?;
    }
    for server in bed.friend.servers(GUARDED) {
        let answer = get(&bed.friend.namespace, server, "/", SILENCE)?;
        ensure!(answer == Answer::NoAnswer, "without rules, {server} answers {answer:?}");
    }
    let status = guard.status_past_the_daemon()?;
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.stdout.contains("NOT ENFORCING"), "{status:?}");
    guard.signal(Signal::SIGCONT)?;
    assert!(guard.status()?.counter(Mode::Enforce, Reason::RulesAbsent)? > 0);
    until("the kernel side to say so", PATIENCE, || {
        let log = guard.log();
        log.contains("the rules of policy slot") && log.contains("are missing: dropping")
    })?;
    // A new daemon puts them back.
    guard.kill9()?;
    guard.start()?;
    only_the_friend_is_served(&bed)
}

/// P1, the other ways to die.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_daemon_that_crashes_or_hangs_keeps_filtering() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    for signal in [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGSTOP] {
        guard.signal(signal)?;
        only_the_friend_is_served(&bed)?;
        guard.kill9()?;
        guard.start()?;
    }
    only_the_friend_is_served(&bed)
}

/// P1 and P4: a full disk refuses an edit whole, and costs nothing that was there.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_full_disk_refuses_an_edit_and_opens_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().prepare(&bed.server.namespace)?;
    let disk = Disk::mount_at(&guard.state_dir(), "64k")?;
    guard.hand_over(&guard.state_dir())?;
    guard.start()?;
    guard.done(&["deny", "add", "198.51.100.1"])?;
    let generation = guard.status()?.generation()?;
    disk.fill()?;
    // More than what is left of the last page of a file.
    let many: Vec<String> = (1..100).map(|host| format!("203.0.113.{host}")).collect();
    assert!(many.contains(&STRANGER4.to_string()));
    let arguments: Vec<&str> =
        ["allow", "add"].into_iter().chain(many.iter().map(String::as_str)).collect();
    let edit = guard.cli(&arguments)?;
    assert_eq!(edit.code, Some(2), "{edit:?}");
    assert!(edit.stderr.contains("No space left"), "{edit:?}");
    assert_eq!(guard.status()?.generation()?, generation);
    assert!(!guard.done(&["allow", "list"])?.contains(&STRANGER4.to_string()));
    only_the_friend_is_served(&bed)?;
    // And over a restart, still without room: what was stored is there.
    guard.kill9()?;
    guard.start()?;
    assert!(guard.done(&["deny", "list"])?.contains("198.51.100.1"));
    only_the_friend_is_served(&bed)
}

/// Pinned state that can't be trusted is replaced whole, and the door never opens.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pin_of_another_shape_is_not_trusted_and_costs_no_gap() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    let link = guard.status()?.door(SERVER_DOOR)?.link.context("a link")?;
    guard.kill9()?;
    let pin = guard.pin_dir().join(VERSION_DIRECTORY).join("OG_COUNTERS");
    fs::remove_file(&pin)?;
    let status = guard.cli(&["status"])?;
    assert!(status.code == Some(2) && status.stderr.contains("damaged"), "{status:?}");
    let pin = pin.display().to_string();
    bpftool(&[
        "map",
        "create",
        &pin,
        "type",
        "hash",
        "key",
        "4",
        "value",
        "512",
        "entries",
        "256",
        "name",
        "OG_COUNTERS",
    ])?;
    only_the_friend_is_served(&bed)?;
    guard.start()?;
    assert!(guard.log().contains("building new ones"), "{}", guard.log());
    let door = guard.status()?.door(SERVER_DOOR)?;
    assert!(door.is_covered && door.link == Some(link), "{door:?} instead of link {link}");
    only_the_friend_is_served(&bed)
}

/// A newer version builds its own state beside the old one, moves the links over, and clears up.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn pins_of_another_version_are_replaced_and_never_reinterpreted() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let before = Objects::now()?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    let old = Objects::now()?.without(&before);
    let link = guard.status()?.door(SERVER_DOOR)?.link.context("a link")?;
    guard.stop()?;
    let directory = guard.pin_dir().to_owned();
    fs::rename(directory.join(VERSION_DIRECTORY), directory.join("v0"))?;
    fs::create_dir(directory.join("next"))?;
    let status = guard.cli(&["status"])?;
    assert!(status.code == Some(2) && status.stderr.contains("another version"), "{status:?}");
    guard.start()?;
    let door = guard.status()?.door(SERVER_DOOR)?;
    assert!(door.is_covered && door.link == Some(link), "{door:?} instead of link {link}");
    assert!(!directory.join("v0").exists() && !directory.join("next").exists());
    only_the_friend_is_served(&bed)?;
    old.until_gone_but_links(PATIENCE)
}

/// P4: a start that fails over a running filter changes nothing of it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_start_that_fails_leaves_the_running_policy_as_it_is() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    let before = guard.status()?;
    guard.kill9()?;
    let stranger = STRANGER4.to_string();
    for bad in [
        // Refused late: the filter that runs is native.
        &["--allow", &stranger, "--attach", "generic"][..],
        // One of two interfaces can't be guarded.
        &["--allow", &stranger, "--interface", "lo"],
        &["--allow", &stranger, "--capacity", "1"],
    ] {
        let mut command = guard.run_command();
        let refused = run(command.args(bad), PATIENCE)?;
        assert_eq!(refused.code, Some(2), "{bad:?}: {refused:?}");
        let after = guard.status()?;
        assert_eq!(after.generation()?, before.generation()?, "{bad:?}");
        assert_eq!(after.door(SERVER_DOOR)?, before.door(SERVER_DOOR)?, "{bad:?}");
        only_the_friend_is_served(&bed)?;
    }
    Ok(())
}

/// P13: `status` asks the kernel when the daemon hangs, and `detach` says what to do.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_hanging_daemon_hides_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    guard.signal(Signal::SIGSTOP)?;
    let status = guard.cli(&["status"])?;
    assert!(status.stdout.starts_with("ENFORCING"), "{status:?}");
    assert_eq!(status.code, Some(0), "{status:?}");
    assert!(status.stdout.contains("does not answer"), "{status:?}");
    let detach = guard.cli(&["detach"])?;
    assert_eq!(detach.code, Some(2), "{detach:?}");
    assert!(detach.stderr.contains("kill -9"), "{detach:?}");
    guard.kill9()?;
    guard.done(&["detach"]).map(drop)
}

/// P13: a door that was covered and has lost its link is a problem, daemon or none.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_lost_link_is_told_without_a_daemon() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    guard.kill9()?;
    assert_eq!(guard.cli(&["status"])?.code, Some(0));
    let links = guard.pin_dir().join("links");
    for link in fs::read_dir(&links)? {
        fs::remove_file(link?.path())?;
    }
    let status = guard.cli(&["status"])?;
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.stdout.contains("door0: its link is gone"), "{status:?}");
    Ok(())
}

/// What others pinned into our directory is not ours to remove.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn detaching_leaves_the_pins_of_others() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard_for_the_friend().start(&bed.server.namespace)?;
    let pin = guard.pin_dir().join("others");
    let (path, name) = (pin.display().to_string(), "others");
    bpftool(&[
        "map", "create", &path, "type", "array", "key", "4", "value", "4", "entries", "1", "name",
        name,
    ])?;
    guard.done(&["detach"])?;
    let left = ollama_guard_tests::bed::pins(guard.pin_dir())?;
    fs::remove_file(&pin)?;
    fs::remove_dir(guard.pin_dir())?;
    assert_eq!(left, [pin]);
    Ok(())
}

/// A failed first start leaves nothing at all.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_start_that_fails_leaves_nothing_behind() -> Result<()> {
    let bed = Bed::new()?;
    let before = Objects::now()?;
    let too_many = (0..10).map(|n| format!("192.0.2.{n}"));
    let mut setup = GuardSetup::of(SERVER_DOOR).arguments(&["--capacity", "5"]);
    for prefix in too_many {
        setup = setup.allow(prefix);
    }
    let guard = setup.prepare(&bed.server.namespace)?;
    let refused = guard.run_to_the_end(PATIENCE)?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--capacity"), "{refused:?}");
    assert!(!guard.pin_dir().exists());
    until("nothing of ours to be left", PATIENCE, || {
        Objects::now().is_ok_and(|now| now.without(&before).is_empty())
    })
}

/// A small disk, gone with the test.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn mount_at(path: &Path, size: &str) -> Result<Self> {
        fs::create_dir_all(path)?;
        let options = format!("size={size},mode=0700");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self { path: path.to_owned() })
    }

    fn fill(&self) -> Result<()> {
        // The file system counts its blocks a little late: full is what refuses again and again.
        let mut refusals = 0;
        for number in 0..10_000 {
            let refused = fs::write(self.path.join(format!("ballast-{number}")), [0; 64]).is_err();
            refusals = if refused { refusals + 1 } else { 0 };
            if refusals == 50 {
                return Ok(());
            }
        }
        anyhow::bail!("the disk does not fill up")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            println!("left behind: {}: {error}", self.path.display());
        }
    }
}

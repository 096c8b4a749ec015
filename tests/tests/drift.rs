//! P8, the second half, and P13: whoever touches our links, pins, programs or maps is noticed
//! within five seconds, health turns bad, and then filtering is back.
//!
//! In each case the daemon is stopped (SIGSTOP) while the damage is done, so that the damage can
//! be seen: `status` has to tell it from the kernel alone. Then the daemon goes on, and has five
//! seconds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapInfo;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use ollama_guard_common::{
    Mode, Protocol, Scope,
    abi::{RuleBlock, Selection, SlotInfo, port_place},
    trie::entry4,
};
use ollama_guard_tests::{
    bed::{
        Bed, Foreign, Guard, GuardSetup, Objects, RunsAs, SERVER_DOOR, Standin, Status,
        VERSION_DIRECTORY, XDP_PASS, everyone_is_served, only_the_friend_is_served,
        policy_table::{slot_in_force, tamper},
        run, until, xdp_program_id,
    },
    policy::{FRIEND4, FRIEND6, GUARDED},
};

/// The promise.
const LIMIT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);

fn bpftool(arguments: &[&str]) -> Result<String> {
    Ok(run(Command::new("bpftool").args(arguments), PATIENCE)?.expect_success()?.to_owned())
}

fn guard_for_the_friend(bed: &Bed) -> Result<Guard<'_>> {
    GuardSetup::of(SERVER_DOOR).allow(FRIEND4).allow(FRIEND6).start(&bed.server.namespace)
}

fn link_pin(guard: &Guard<'_>) -> Result<PathBuf> {
    let door = fs::read_dir(guard.pin_dir().join("links"))?.next().context("a link")??;
    Ok(door.path())
}

fn map_pin(guard: &Guard<'_>, name: &str) -> PathBuf {
    guard.pin_dir().join(VERSION_DIRECTORY).join(name)
}

/// Writes bytes into a map.
fn update(pin: &Path, key: &[u8], value: &[u8]) -> Result<()> {
    let pin = pin.display().to_string();
    let text = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>();
    let (key, value) = (text(key), text(value));
    let words = ["map", "update", "pinned", &pin, "key"];
    let words = words.into_iter().chain(key.iter().map(String::as_str)).chain(["value"]);
    bpftool(&words.chain(value.iter().map(String::as_str)).collect::<Vec<_>>()).map(drop)
}

/// Does the damage while the daemon sleeps; `status` must say `problem`. Then the daemon wakes up,
/// and within five seconds everything is as it was, and said.
fn noticed_and_repaired(
    bed: &Bed,
    guard: &mut Guard<'_>,
    problem: &str,
    repair: &str,
    damage: impl FnOnce(&Guard<'_>) -> Result<()>,
) -> Result<()> {
    let before = guard.status()?;
    let count = |status: &Status| -> Result<usize> {
        Ok(status.repairs()?.iter().filter(|one| one.contains(repair)).count())
    };
    let told_before = count(&before)?;
    guard.signal(Signal::SIGSTOP)?;
    damage(guard)?;
    let told = guard.status_past_the_daemon()?;
    ensure!(told.code != Some(0), "status is content: {told:?}");
    let text = format!("{}{}", told.stdout, told.stderr);
    ensure!(text.contains(problem), "no {problem:?} in: {text}");

    guard.signal(Signal::SIGCONT)?;
    let since = Instant::now();
    let is_well = || {
        let status = guard.status().ok()?;
        let is_told = count(&status).ok()? > told_before;
        (is_told && status.is_enforcing().ok()?).then_some(status)
    };
    let status = ollama_guard_tests::bed::until_some("the repair", PATIENCE, is_well)
        .with_context(|| format!("{:?}\n{}", guard.status().map(|s| s.repairs()), guard.log()))?;
    let took = since.elapsed();
    println!("{repair:?}: repaired after {took:?}");
    ensure!(took < LIMIT, "{repair:?} took {took:?}");
    tells_the_kernels_truth(bed, &before, &status)?;
    ensure!(guard.log().contains("drift"), "{}", guard.log());
    only_the_friend_is_served(bed)
}

/// P13: the door's program is the one that netlink shows, the link one that bpftool lists.
fn tells_the_kernels_truth(bed: &Bed, before: &Status, after: &Status) -> Result<()> {
    let door = after.door(SERVER_DOOR)?;
    ensure!(door.program == xdp_program_id(&bed.server.namespace, SERVER_DOOR)?, "{door:?}");
    ensure!(door.program == before.door(SERVER_DOOR)?.program, "{door:?}");
    let link = door.link.context("a link")?;
    ensure!(Objects::now()?.links.contains(&link), "the kernel lists no link {link}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn links_that_are_touched_are_put_right() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend(&bed)?;

    // The pin removed: the daemon holds the link, so not one packet passes in between.
    let link = guard.status()?.door(SERVER_DOOR)?.link;
    noticed_and_repaired(&bed, &mut guard, "link is gone", "was gone: pinned again", |guard| {
        fs::remove_file(link_pin(guard)?)?;
        only_the_friend_is_served(&bed)
    })?;
    assert_eq!(guard.status()?.door(SERVER_DOOR)?.link, link, "it is the same link");

    // Severed: packets pass until the daemon sees it.
    noticed_and_repaired(&bed, &mut guard, "link is gone", "had been severed", |guard| {
        bpftool(&["link", "detach", "pinned", &link_pin(guard)?.display().to_string()])?;
        everyone_is_served(&bed)
    })?;

    // Somebody else's program in our link.
    let mut foreign = None;
    let not_ours = "which is not the pinned one";
    noticed_and_repaired(&bed, &mut guard, not_ours, "ran program", |guard| {
        foreign = Some(Foreign::put_into(&link_pin(guard)?, XDP_PASS)?);
        everyone_is_served(&bed)
    })?;

    // Another link's pin in the place of ours.
    noticed_and_repaired(&bed, &mut guard, "", "was another object: pinned again", |guard| {
        let pin = link_pin(guard)?;
        fs::remove_file(&pin)?;
        bpftool(&[
            "map",
            "pin",
            "pinned",
            &map_pin(guard, "OG_DOORS").display().to_string(),
            &pin.display().to_string(),
        ])?;
        // So that an ordinary user's daemon can see what it is.
        guard.hand_over(&pin)
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn pins_that_are_removed_are_made_again() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend(&bed)?;
    for name in ["link", "link-twin", "OG_COUNTERS", "OG_EVENTS"] {
        noticed_and_repaired(&bed, &mut guard, name, "was gone: pinned again", |guard| {
            Ok(fs::remove_file(map_pin(guard, name))?)
        })?;
    }
    let rules = format!("OG_RULES-{}", slot_in_force(&guard)?.0);
    noticed_and_repaired(&bed, &mut guard, "not what was put there", &rules, |guard| {
        Ok(fs::remove_file(map_pin(guard, &rules))?)
    })?;
    // Everything at once.
    noticed_and_repaired(&bed, &mut guard, "no guard is loaded", "made anew", |guard| {
        Ok(fs::remove_dir_all(guard.pin_dir())?)
    })?;
    // And it was all there: the next daemon goes on from it without a gap.
    let link = guard.status()?.door(SERVER_DOOR)?.link;
    guard.kill9()?;
    only_the_friend_is_served(&bed)?;
    guard.start()?;
    assert_eq!(guard.status()?.door(SERVER_DOOR)?.link, link, "it is the same link");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn maps_that_are_edited_from_outside_are_put_right() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend(&bed)?;
    let told = "not what was put there";

    // The rules themselves can't be edited, by nobody.
    let pin = map_pin(&guard, &format!("OG_RULES-{}", slot_in_force(&guard)?.0));
    let error = update(&pin, &[0; 4], &[0xff; size_of::<RuleBlock>()]).err().context("it could")?;
    ensure!(format!("{error:#}").contains("not permitted"), "{error:#}");
    // Every IPv4 source is let in: as if the table began with a leaf that says so.
    noticed_and_repaired(&bed, &mut guard, told, "changed by somebody else", |guard| {
        tamper(guard, |table, slot| table.slots[slot].root4 = entry4::leaf(0, 0, 1, 0))?;
        ensure!(only_the_friend_is_served(&bed).is_err(), "the edit let nobody in");
        Ok(())
    })?;
    // Another table in the place of ours.
    noticed_and_repaired(&bed, &mut guard, told, "are not the pinned ones", |guard| {
        let ours = map_pin(guard, &format!("OG_RULES-{}", slot_in_force(guard)?.0));
        let other = map_pin(guard, "other");
        let entries = MapInfo::from_pin(&ours)?.max_entries().to_string();
        let other = other.display().to_string();
        bpftool(&[
            "map", "create", &other, "type", "array", "key", "4", "value", "64", "entries",
            &entries, "name", "other", "flags", "1024",
        ])?;
        let key = slot_in_force(guard)?.0.to_ne_bytes().map(|byte| byte.to_string());
        let outer = map_pin(guard, "OG_RULES").display().to_string();
        let words = ["map", "update", "pinned", &outer, "key"];
        let words = words.into_iter().chain(key.iter().map(String::as_str));
        let words = words.chain(["value", "pinned", &other]).collect::<Vec<_>>();
        let replaced = bpftool(&words).map(drop);
        fs::remove_file(&other)?;
        replaced
    })?;
    // The port is not guarded any more.
    noticed_and_repaired(&bed, &mut guard, told, "changed by somebody else", |guard| {
        tamper(guard, |table, slot| table.ports[slot][port_place(Protocol::Tcp, GUARDED) / 2] = 0)?;
        everyone_is_served(&bed)
    })?;
    // Observe instead of enforce.
    noticed_and_repaired(&bed, &mut guard, told, "changed by somebody else", |guard| {
        tamper(guard, |table, slot| {
            let observe = Selection::new(slot as u32, Mode::Observe, Scope::All, 1);
            table.selection = observe.with_port(GUARDED).0;
        })?;
        everyone_is_served(&bed)
    })?;
    // As if what is in force were on trial, and its time over.
    noticed_and_repaired(&bed, &mut guard, told, "is on trial", |guard| {
        tamper(guard, |table, slot| {
            let observe = Selection::new(slot as u32, Mode::Observe, Scope::All, 1);
            table.before_trial = observe.with_port(GUARDED).0;
            table.selection = Selection(table.selection).on_trial().0;
        })?;
        everyone_is_served(&bed)
    })?;
    // No rules at all: closed, for the friend too.
    noticed_and_repaired(&bed, &mut guard, told, "are not the pinned ones", |guard| {
        let key = slot_in_force(guard)?.0.to_ne_bytes().map(|byte| byte.to_string());
        let pin = map_pin(guard, "OG_RULES").display().to_string();
        let words = ["map", "delete", "pinned", &pin, "key"];
        let words = words.into_iter().chain(key.iter().map(String::as_str));
        bpftool(&words.collect::<Vec<_>>()).map(drop)
    })?;
    // The other slot selected, whatever is in it.
    noticed_and_repaired(&bed, &mut guard, "problem", "is in force instead of", |guard| {
        tamper(guard, |table, slot| {
            let other = (slot + 1) % 2;
            table.selection = Selection::new(other as u32, Mode::Enforce, Scope::All, 0).0;
            // As if a policy of another day were in it.
            table.slots[other] = SlotInfo { generation: 3, ..SlotInfo::default() };
        })
    })
}

/// A BPF file system of our own, gone with the test.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount_at(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        let bpffs = Self(path);
        bpffs.mount()?;
        Ok(bpffs)
    }

    fn mount(&self) -> Result<()> {
        mount(Some("bpf"), &self.0, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?;
        RunsAs::from_environment()?.own(&self.0)
    }

    fn unmount(&self) -> Result<()> {
        Ok(umount2(&self.0, MntFlags::MNT_DETACH)?)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            println!("left behind: {}: {error}", self.0.display());
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_bpf_file_system_that_is_mounted_anew_gets_its_pins_back() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let directory = tempfile::tempdir()?;
    RunsAs::from_environment()?.settle(directory.path())?;
    let bpffs = Bpffs::mount_at(directory.path().join("bpf"))?;
    let mut guard = GuardSetup::of(SERVER_DOOR)
        .pins_in(&bpffs.0)
        .allow(FRIEND4)
        .allow(FRIEND6)
        .start(&bed.server.namespace)?;
    let link = guard.status()?.door(SERVER_DOOR)?.link;

    // Gone, and nothing in its place: this can only be told.
    bpffs.unmount()?;
    until("status to tell", LIMIT, || {
        guard.status().is_ok_and(|status| !status.is_enforcing().unwrap_or(true))
            || guard.cli(&["status"]).is_ok_and(|told| told.code != Some(0))
    })?;
    only_the_friend_is_served(&bed)?;

    bpffs.mount()?;
    until("the pins to be back", LIMIT, || {
        guard.status().is_ok_and(|status| status.is_enforcing().unwrap_or(false))
    })
    .with_context(|| guard.log())?;
    assert_eq!(guard.status()?.door(SERVER_DOOR)?.link, link, "it is the same link");
    // What the daemon held is what the pins hold now: its death opens nothing.
    guard.kill9()?;
    only_the_friend_is_served(&bed)?;
    guard.start()?;
    assert_eq!(guard.status()?.door(SERVER_DOOR)?.link, link, "it is the same link");
    guard.done(&["detach"])?;
    everyone_is_served(&bed)
}

//! P14: `verify` proves that every door holds, and says which one does not, and why.
//!
//! Whatever is broken here is broken behind the daemon's back, by the tools that anybody has.
//!
//! Long because everything that can be broken is, one after the other.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use ollama_guard_common::{Protocol, abi::port_place, trie::entry4};
use ollama_guard_tests::{
    bed::{
        Bed, Finished, Foreign, Guard, GuardSetup, SERVER_DOOR, Standin, VERSION_DIRECTORY,
        XDP_PASS, only_the_friend_is_served, pins,
        policy_table::{slot_in_force, tamper},
        run, until,
    },
    policy::{DENIED4, FRIEND4, FRIEND6, GUARDED},
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

/// Numbers of the sets of those who are in no rule, who may knock and who may not.
const NOT_LISTED: u32 = 0;
const ALLOWED: u32 = 1;
const DENIED: u32 = 2;

fn setup() -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("generic").allow(FRIEND4).allow(FRIEND6).deny(DENIED4)
}

/// What `verify --json` says, and its exit code.
fn verified(guard: &Guard<'_>) -> Result<(Option<i32>, Value)> {
    let finished = guard.cli(&["verify", "--json"])?;
    let report =
        serde_json::from_str(&finished.stdout).with_context(|| format!("no JSON: {finished:?}"))?;
    Ok((finished.code, report))
}

fn holds(guard: &Guard<'_>) -> Result<Value> {
    let (code, report) = verified(guard)?;
    ensure!(code == Some(0) && report["holds"] == true, "it does not hold: {report:#}");
    Ok(report)
}

/// It says no, and the line of the door (or of the whole) has the reason.
fn fails(guard: &Guard<'_>, what: &str, reason: &str) -> Result<Finished> {
    let text = guard.cli(&["verify"])?;
    ensure!(text.code == Some(1), "{what}: {text:?}");
    let has_the_reason = |line: &&str| {
        (line.contains("DOES NOT HOLD: ") || line.starts_with("problem: ")) && line.contains(reason)
    };
    ensure!(
        text.stdout.lines().any(|line| has_the_reason(&line)),
        "{what}: no {reason:?} in {text:?}"
    );
    ensure!(
        text.stdout.lines().last().is_some_and(|line| line.starts_with("NOT VERIFIED")),
        "{text:?}"
    );
    let (code, report) = verified(guard)?;
    ensure!(code == Some(1) && report["holds"] == false, "{what}: {report:#}");
    Ok(text)
}

/// The daemon puts right what it finds: whoever asks before it does is told.
fn fails_before_it_is_repaired(
    guard: &Guard<'_>,
    breaks: &dyn Fn() -> Result<()>,
    reasons: &[&str],
) -> Result<()> {
    let mut said = String::new();
    for _ in 0..20 {
        // Once it is repaired, there may be nothing to remove.
        breaks().or_else(|error| holds(guard).is_ok().then_some(()).ok_or(error))?;
        let verified = guard.cli(&["verify"])?;
        said = verified.stdout;
        if reasons.iter().all(|reason| said.contains(reason)) {
            ensure!(verified.code == Some(1) && said.contains("DOES NOT HOLD"), "{said}");
            return Ok(());
        }
    }
    anyhow::bail!("not {reasons:?} but: {said}")
}

fn bpftool(arguments: &[&str]) -> Result<String> {
    Ok(run(Command::new("bpftool").args(arguments), PATIENCE)?.expect_success()?.to_owned())
}

/// Where its programs and maps are pinned.
fn objects(guard: &Guard<'_>) -> PathBuf {
    guard.pin_dir().join(VERSION_DIRECTORY)
}

/// Makes the IPv4 rules begin with another entry. The words themselves are frozen.
fn begin_with(guard: &Guard<'_>, root4: u64) -> Result<()> {
    // As if nobody were settled before the entry is asked.
    tamper(guard, |table, slot| {
        (table.slots[slot].root4, table.slots[slot].first4) = (root4, [0; 2])
    })
}

/// An entry that says the same of every source.
const fn everyone(set: u32) -> u64 {
    entry4::leaf(0, 0, set, 0)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_guard_that_holds_is_proven_and_nothing_is_counted() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard =
        setup().arguments(&["--port", "11434", "--port", "80/udp"]).start(&bed.server.namespace)?;
    let before = guard.status()?;
    let report = holds(&guard)?;
    let door = &report["doors"][0];
    assert_eq!(report["doors"].as_array().map(Vec::len), Some(1), "{report:#}");
    assert_eq!((&door["name"], &door["holds"]), (&SERVER_DOOR.into(), &true.into()));
    assert_eq!((&door["hook"], &door["attach"]), (&"xdp".into(), &"generic".into()));
    assert_eq!(door["program_id"].as_u64(), before.door(SERVER_DOOR)?.program);
    assert_eq!(door["link_id"].as_u64(), before.door(SERVER_DOOR)?.link);
    assert!(door["packets"].as_u64() > Some(70), "{door}");
    assert_eq!(report["generation"].as_u64(), Some(before.generation()?));
    let omitted = report["not_checked"].to_string();
    assert!(omitted.contains("fewer than 14 bytes: not provable by test run"), "{omitted}");
    assert!(!omitted.contains("no daemon"), "{omitted}");
    assert_eq!(guard.status()?, before, "nothing is counted, reported or changed");

    let text = guard.done(&["verify"])?;
    assert!(text.starts_with("door0 holds: xdp generic, program "), "{text}");

    // It goes on without a daemon, and says what nobody can tell then.
    guard.kill9()?;
    let omitted = holds(&guard)?["not_checked"].to_string();
    assert!(omitted.contains("no daemon answers"), "{omitted}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_guard_that_only_observes_holds_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let guard = setup().arguments(&["--observe"]).start(&bed.server.namespace)?;
    let said = fails(&guard, "observe", "mode observe: what would be dropped is delivered")?;
    assert!(!said.stdout.contains("to be expected"), "the packets are judged as ever: {said:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_changed_map_is_found_and_named() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = setup().start(&bed.server.namespace)?;
    let no_port = || {
        tamper(&guard, |table, slot| table.ports[slot][port_place(Protocol::Tcp, GUARDED) / 2] = 0)
    };
    for (breaks, reasons) in [
        (
            &(|| begin_with(&guard, everyone(NOT_LISTED))) as &dyn Fn() -> Result<()>,
            [
                "192.0.2.10: in no rule and not allowed",
                "192.0.2.10 to 11434/tcp: dropped (not-listed), and passed",
            ],
        ),
        (
            &|| begin_with(&guard, everyone(DENIED)),
            ["192.0.2.10: denied and not allowed", "dropped (denied), and passed (allowed)"],
        ),
        (
            &|| begin_with(&guard, everyone(ALLOWED)),
            [
                "0.0.0.0 to 192.0.2.9: allowed, and in no rule",
                "203.0.113.66 to 11434/tcp: passed (allowed), and dropped",
            ],
        ),
        (
            &no_port,
            [
                "not guarded, though the daemon means it to be: 11434/tcp",
                "203.0.113.66 to 11434/tcp: passed (not-guarded), and dropped",
            ],
        ),
    ] {
        fails_before_it_is_repaired(&guard, breaks, &reasons)?;
        until("the daemon to put it right", PATIENCE, || holds(&guard).is_ok())?;
    }

    // The number that was written with the rules tells without a daemon.
    guard.kill9()?;
    let (_, info) = slot_in_force(&guard)?;
    holds(&guard)?;
    begin_with(&guard, everyone(DENIED))?;
    fails(&guard, "no daemon", "ports or rules in force are not those that were written")?;
    tamper(&guard, |table, slot| table.slots[slot] = info)?;
    holds(&guard).map(drop)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_lost_link_and_a_lost_door_are_found_and_named() -> Result<()> {
    let bed = Bed::new()?;
    // A daemon would make it anew.
    let broken = |breaks: &dyn Fn(&Guard<'_>) -> Result<()>, reason: &str| -> Result<()> {
        let mut guard = setup().start(&bed.server.namespace)?;
        guard.kill9()?;
        holds(&guard)?;
        breaks(&guard)?;
        fails(&guard, reason, reason).map(drop)
    };
    broken(
        &|guard| {
            let link = guard.status()?.door(SERVER_DOOR)?.link.context("a link")?;
            bpftool(&["link", "detach", "id", &link.to_string()]).map(drop)
        },
        "its link is gone",
    )?;
    broken(
        &|guard| {
            for link in fs::read_dir(guard.pin_dir().join("links"))? {
                fs::remove_file(link?.path())?;
            }
            Ok(())
        },
        "its link is gone",
    )?;
    broken(&|_| bed.server.namespace.ip(&["link", "delete", SERVER_DOOR]), "the interface is gone")
}

/// An interface that is to be guarded and that takes no XDP program in the mode asked for: the
/// keeper guards it at TC ingress, and it is proven there.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_new_interface_that_refuses_the_mode_is_proven_at_tc_ingress() -> Result<()> {
    let bed = Bed::new()?;
    let guard =
        GuardSetup::of("door*").attach("native").allow(FRIEND4).start(&bed.server.namespace)?;
    holds(&guard)?;
    let namespace = &bed.server.namespace;
    namespace.ip(&["link", "add", "door1", "type", "vxlan", "id", "7", "dstport", "4789"])?;
    namespace.ip(&["link", "set", "door1", "up"])?;
    until("door1 to be guarded", PATIENCE, || {
        guard.status().is_ok_and(|status| status.door("door1").is_ok_and(|door| door.is_covered))
    })?;
    let report = holds(&guard)?;
    let hooks: Vec<_> = ["door0", "door1"]
        .iter()
        .map(|name| {
            let doors = report["doors"].as_array().map(Vec::as_slice).unwrap_or_default();
            doors.iter().find(|door| door["name"] == *name).map(|door| door["hook"].to_string())
        })
        .collect();
    assert_eq!(hooks[0].as_deref(), Some("\"xdp\""), "{report}");
    assert!(hooks[1].as_deref().is_some_and(|hook| hook != "\"xdp\""), "{report}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn another_program_in_the_link_or_under_a_pin_is_found_and_named() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = setup().start(&bed.server.namespace)?;
    guard.kill9()?;
    holds(&guard)?;
    let pins = objects(&guard);
    let path = |name: &str| pins.join(name).display().to_string();

    // The pinned program is another one.
    let aside = pins.join("aside");
    let swapped = |name: &str, other: &str, reason: &str| -> Result<()> {
        fs::rename(pins.join(name), &aside)?;
        bpftool(&["prog", "pin", "pinned", &path(other), &path(name)])?;
        guard.hand_over(&pins.join(name))?;
        let failed = fails(&guard, reason, reason).map(drop);
        fs::remove_file(pins.join(name))?;
        fs::rename(&aside, pins.join(name))?;
        failed
    };
    swapped("link", "network", "which is not the pinned one")?;
    swapped("link-twin", "network-twin", "the twin of the link program has other instructions")?;
    swapped("link-twin", "link", "is pinned as its own twin")?;
    holds(&guard)?;

    // A pinned map is not the one that the programs read.
    fs::rename(pins.join("OG_ADDRESSES"), &aside)?;
    bpftool(&[
        "map",
        "create",
        &path("OG_ADDRESSES"),
        "type",
        "hash",
        "key",
        "16",
        "value",
        "4",
        "entries",
        "8192",
        "name",
        "OG_ADDRESSES",
    ])?;
    guard.hand_over(&pins.join("OG_ADDRESSES"))?;
    fails(&guard, "a map", "the link program uses another map than the pinned OG_ADDRESSES")?;
    fs::rename(&aside, pins.join("OG_ADDRESSES"))?;
    holds(&guard)?;

    // A missing pin.
    fs::rename(pins.join("link-twin"), &aside)?;
    fails(&guard, "a missing pin", "link-twin")?;
    fs::rename(&aside, pins.join("link-twin"))?;
    holds(&guard)?;

    // Somebody puts another program into our link.
    let link = guard.status()?.door(SERVER_DOOR)?;
    let link_pin = fs::read_dir(guard.pin_dir().join("links"))?.next().context("a link")??.path();
    let foreign = Foreign::put_into(&link_pin, XDP_PASS)?;
    let said = fails(&guard, "another program", "which is not the pinned one")?;
    assert!(said.stdout.contains(&foreign.program_id()?.to_string()), "{said:?} {link:?}");
    // A new daemon takes the link back.
    guard.start()?;
    holds(&guard)?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    only_the_friend_is_served(&bed)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_a_guard_it_says_what_to_do() -> Result<()> {
    let bed = Bed::new()?;
    let guard = setup().prepare(&bed.server.namespace)?;
    fails(&guard, "no guard", "start one with `ollama-guard run`").map(drop)
}

/// Real connections, in both modes and both families; nothing of them is counted, and nothing of
/// them is left.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn real_connections_get_through_or_get_nothing_and_leave_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let guard = setup().start(&bed.server.namespace)?;
    let (before, pinned) = (guard.status()?, pins(guard.pin_dir())?);
    let finished = guard.root_cli(&["verify", "--live", "--json"])?;
    let report: Value = serde_json::from_str(finished.expect_success()?)?;
    // In each mode: a stranger of each family, a denied source and a friend of each family; each at
    // the guarded port and at another one.
    assert_eq!((&report["live"]["knocks"], &report["live"]["silent"]), (&20.into(), &6.into()));
    assert!(!report["not_checked"].to_string().contains("real connection"), "{report:#}");
    assert_eq!(guard.status()?, before, "real connections are counted by nobody");
    assert_eq!(pins(guard.pin_dir())?, pinned, "what is not pinned goes with the process");
    Ok(())
}

/// The end-to-end probe is no formality: it fails where the rules let a stranger in.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_real_connection_that_gets_through_fails_the_proof() -> Result<()> {
    let bed = Bed::new()?;
    let guard = setup().arguments(&["--observe"]).start(&bed.server.namespace)?;
    let said = guard.root_cli(&["verify", "--live"])?;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.contains("real connections: 20, of which 0 got nothing"), "{said:?}");
    Ok(())
}

/// Behind a foreign program the guard stands at TC ingress, and is proven there.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_door_at_tc_ingress_is_proven_by_its_own_twin() -> Result<()> {
    let bed = Bed::new()?;
    let foreign = Foreign::attach(&bed.server.namespace, SERVER_DOOR, XDP_PASS, XdpMode::Skb)?;
    let mut guard = setup().start(&bed.server.namespace)?;
    let report = holds(&guard)?;
    let door = &report["doors"][0];
    assert!(door["hook"] == "tcx" || door["hook"] == "clsact", "{door}");
    assert_eq!(door["behind"].as_u64(), Some(foreign.program_id()?), "{door}");
    assert!(door["packets"].as_u64() > Some(50), "{door}");
    guard.kill9()?;
    begin_with(&guard, everyone(NOT_LISTED))?;
    let reason = "ports or rules in force are not those that were written";
    fails(&guard, "the rules changed", reason)?;
    Ok(())
}

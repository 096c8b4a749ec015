//! P14: `verify` proves that every door holds, and says which one does not, and why.
//!
//! Whatever is broken here is broken behind the daemon's back, by the tools that anybody has.
//!
//! Long because everything that can be broken is, one after the other.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::{
    maps::{Array, Map, MapData},
    programs::XdpMode,
};
use ollama_guard_common::{abi::SlotInfo, trie::entry4};
use ollama_guard_tests::{
    bed::{
        Bed, Finished, Foreign, Guard, GuardSetup, SERVER_DOOR, Standin, VERSION_DIRECTORY,
        XDP_PASS, only_the_friend_is_served, pins, run, until,
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

/// A map of the guard, changed by hand.
struct Pinned(PathBuf);

impl Pinned {
    fn of(guard: &Guard<'_>, name: &str) -> Self {
        Self(objects(guard).join(name))
    }

    fn command(&self, verb: &str, key: &[u8], value: &[u8]) -> Result<String> {
        let mut command = Command::new("bpftool");
        command.args(["--json", "map", verb, "pinned"]).arg(&self.0).arg("key");
        command.args(key.iter().map(ToString::to_string));
        if !value.is_empty() {
            command.arg("value").args(value.iter().map(ToString::to_string));
        }
        Ok(run(&mut command, PATIENCE)?.expect_success()?.to_owned())
    }

    fn read(&self, key: &[u8]) -> Result<u64> {
        let found: Value = serde_json::from_str(&self.command("lookup", key, &[])?)?;
        let bytes = found["value"].as_array().context("no value")?;
        bytes.iter().rev().try_fold(0, |sum, byte| {
            let byte = byte.as_str().context("no byte")?.trim_start_matches("0x");
            Ok(sum << 8 | u64::from_str_radix(byte, 16)?)
        })
    }

    fn write(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.command("update", key, value).map(drop)
    }
}

/// The description of the slot in force, and its number.
fn slot_info(guard: &Guard<'_>) -> Result<(u32, SlotInfo)> {
    let selected = Pinned::of(guard, "OG_SELECTED").read(&[0; 4])? as u32 % 2;
    let map = MapData::from_pin(objects(guard).join("OG_SLOT_INFO"))?;
    let map: Array<_, [u64; size_of::<SlotInfo>() / 8]> = Map::from_map_data(map)?.try_into()?;
    Ok((selected, bytemuck::cast(map.get(&selected, 0)?)))
}

/// Makes the IPv4 rules begin with another entry. The words themselves are frozen.
fn begin_with(guard: &Guard<'_>, root4: u64) -> Result<()> {
    let (slot, info) = slot_info(guard)?;
    let info = SlotInfo { root4, ..info };
    Pinned::of(guard, "OG_SLOT_INFO").write(&slot.to_le_bytes(), bytemuck::bytes_of(&info))
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
        // The words of a slot are 5 × 1,024.
        let selected = Pinned::of(&guard, "OG_SELECTED").read(&[0; 4])? as u32 % 2;
        let word = (selected * 5 * 1024 + u32::from(GUARDED) / 64).to_le_bytes();
        Pinned::of(&guard, "OG_PORTS").write(&word, &[0; 8])
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
    let (_, info) = slot_info(&guard)?;
    holds(&guard)?;
    begin_with(&guard, everyone(DENIED))?;
    fails(&guard, "no daemon", "ports or rules in force are not those that were written")?;
    begin_with(&guard, info.root4)?;
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
    fs::rename(pins.join("OG_PORTS"), &aside)?;
    bpftool(&[
        "map",
        "create",
        &path("OG_PORTS"),
        "type",
        "array",
        "key",
        "4",
        "value",
        "8",
        "entries",
        "10240",
        "name",
        "OG_PORTS",
    ])?;
    guard.hand_over(&pins.join("OG_PORTS"))?;
    fails(&guard, "a map", "the link program uses another map than the pinned OG_PORTS")?;
    fs::rename(&aside, pins.join("OG_PORTS"))?;
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

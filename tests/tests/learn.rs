//! `learn`: who is at the port is counted to the packet at every hook, the proposal is one that works,
//! and whatever ends it, the usual programs filter again, without a gap.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use ollama_guard_common::{Mode, Reason};
use ollama_guard_tests::{
    bed::{
        Bed, CLIENT_INTERFACE, Door, Flood, Foreign, Guard, GuardSetup, Objects, SERVER_DOOR,
        Standin, UnderFlood, XDP_PASS, get, only_the_friend_is_served, patience, until, until_some,
        without_links,
    },
    packet::{ipv4, tcp},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, STRANGER4, STRANGER6},
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
/// Somebody who knocks and never talks, and how often.
const KNOCKER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const KNOCKS: u64 = 312;

/// Starts `learn` for longer than the test takes, and waits until it is in place.
fn begin<'bed>(
    guard: &Guard<'bed>,
    arguments: &[&str],
    output: &str,
) -> Result<(ollama_guard_tests::bed::Process, std::path::PathBuf)> {
    let usual = guard.status()?.door(SERVER_DOOR)?.program;
    let child = guard.follow(&[&["learn"], arguments].concat(), output)?;
    until("the programs that learn to be in place", PATIENCE, || {
        guard
            .status()
            .and_then(|status| status.door(SERVER_DOOR))
            .is_ok_and(|door| door.program != usual)
    })?;
    Ok(child)
}

fn program(guard: &Guard<'_>) -> Result<u64> {
    guard.status()?.door(SERVER_DOOR)?.program.context("a program")
}

/// Frames of knocks from this many sources, beginning with this one.
fn knocks(bed: &Bed, first: Ipv4Addr, sources: u32) -> Vec<Vec<u8>> {
    let source = |number| Ipv4Addr::from(u32::from(first) + number);
    let knock = |number| ipv4(source(number), SERVER4).carries(&tcp(40_000, GUARDED));
    (0..sources).map(|number| bed.stranger4.ethernet().carries_ip(&knock(number))).collect()
}

fn send(bed: &Bed, frames: Vec<Vec<u8>>, packets: u64) -> Result<()> {
    let limit = patience(PATIENCE);
    let namespace = &bed.stranger4.namespace;
    let sent = Flood::start(namespace, CLIENT_INTERFACE, frames, packets, limit)?.finish()?;
    ensure!(sent == packets, "{sent} packets instead of {packets}");
    Ok(())
}

/// Everybody asks once, and is served as long as nothing is dropped.
fn everybody_talks(bed: &Bed) -> Result<()> {
    for client in bed.clients() {
        for server in client.servers(GUARDED) {
            let answer = get(&client.namespace, server, "/", patience(PATIENCE))?;
            ensure!(answer.is_served(), "{server}: {answer:?}");
        }
    }
    Ok(())
}

fn observing(attach: &str) -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach(attach).allow(FRIEND4).arguments(&["--observe"])
}

/// Entries of a proposal in JSON: group and packets by prefix.
fn entries(proposal: &Value) -> Result<BTreeMap<String, (String, u64)>> {
    let entries = proposal["entries"].as_array().context("no entries")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
    entries
        .iter()
        .map(|entry| {
            let packets = entry["allowed"].as_u64().zip(entry["refused"].as_u64());
            let (allowed, refused) = packets.context("no numbers")?;
            Ok((text(&entry["prefix"])?, (text(&entry["group"])?, allowed + refused)))
        })
        .collect()
}

/// What the kernel's own counters say of packets for guarded ports.
fn counted(guard: &Guard<'_>) -> Result<u64> {
    let status = guard.status()?;
    Ok(status.counter(Mode::Observe, Reason::Allowed)?
        + status.counter(Mode::Observe, Reason::NotListed)?)
}

/// Learns while real clients talk and somebody knocks, and has a look at everything meanwhile.
fn learn_among_talkers(bed: &Bed, guard: &Guard<'_>, what: &str) -> Result<Value> {
    let usual = program(guard)?;
    let before = counted(guard)?;
    let (mut child, output) = begin(guard, &["--seconds", "3", "--json"], "learned")?;
    send(bed, knocks(bed, KNOCKER, 1), KNOCKS)?;
    everybody_talks(bed)?;
    let text = guard.cli(&["status"])?.stdout;
    ensure!(text.contains("learning since ") && text.contains("door0"), "{what}: {text}");
    let door: Door = guard.status()?.door(SERVER_DOOR)?;
    ensure!(door.is_covered && door.reason.is_none(), "{what}: {door:?}");
    // It observes, which is all that is wrong.
    let proof: Value = serde_json::from_str(&guard.cli(&["verify", "--json"])?.stdout)?;
    let failures = serde_json::to_string(&proof)?;
    ensure!(failures.contains("mode observe"), "{what}: {failures}");
    ensure!(!failures.contains("program") || !failures.contains("not the pinned"), "{failures}");
    let second = guard.cli(&["learn", "--seconds", "1"])?;
    ensure!(second.code == Some(2) && second.stderr.contains("learns already"), "{second:?}");
    let status = child.wait(patience(PATIENCE))?;
    let text = fs::read_to_string(&output)?;
    ensure!(status.success(), "{what}: {status}: {text}");
    ensure!(program(guard)? == usual, "{what}: the usual program is not back");
    let status = guard.status()?;
    ensure!(status.repairs()?.is_empty(), "{what}: {:?}", status.repairs()?);
    let line = text.lines().find(|line| line.starts_with('{')).context("no JSON")?;
    let proposal: Value = serde_json::from_str(line)?;
    // Exactly what the other counters have counted, and what was sent.
    let found = entries(&proposal)?;
    let sum: u64 = found.values().map(|(_, packets)| packets).sum();
    assert_eq!(sum, counted(guard)? - before, "{what}: {found:?}");
    assert_eq!(proposal["packets"], sum, "{what}");
    let group = |prefix: IpAddr| found.get(&prefix.to_string()).map(|(group, _)| group.as_str());
    assert_eq!(found[&KNOCKER.to_string()], ("knocking".into(), KNOCKS), "{what}");
    assert_eq!(group(FRIEND4.into()), Some("allowed"), "{what}: {found:?}");
    for talker in [IpAddr::from(FRIEND6), STRANGER4.into(), STRANGER6.into()] {
        assert_eq!(group(talker), Some("public"), "{what}: {found:?}");
    }
    Ok(proposal)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn at_every_hook_talkers_and_knockers_are_counted_to_the_packet() -> Result<()> {
    for attach in ["native", "generic"] {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let guard = observing(attach).start(&bed.server.namespace)?;
        learn_among_talkers(&bed, &guard, attach)?;
    }
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let _foreign = Foreign::attach(&bed.server.namespace, SERVER_DOOR, XDP_PASS, XdpMode::Skb)?;
    let guard = observing("auto").start(&bed.server.namespace)?;
    learn_among_talkers(&bed, &guard, "at TC")?;
    drop(guard);
    // Where there are no links, TC means a filter.
    let guard = without_links(|| observing("auto").start(&bed.server.namespace))?;
    let hook = guard.status()?.door(SERVER_DOOR)?.hook;
    ensure!(hook.as_deref() == Some("clsact"), "{hook:?}");
    learn_among_talkers(&bed, &guard, "clsact")?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_proposal_is_a_list_that_allow_replace_takes_and_that_loses_nobody() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard = observing("generic").deny(STRANGER6).start(&bed.server.namespace)?;
    guard.done(&["allow", "add", "192.0.2.200", "--comment", "bob # on holiday"])?;
    let file = guard.file("proposal");
    guard.hand_over(file.parent().context("a directory")?)?;
    let path = file.to_str().context("a name")?;
    let (mut child, output) = begin(&guard, &["--seconds", "2", "--output", path], "said")?;
    send(&bed, knocks(&bed, KNOCKER, 1), KNOCKS)?;
    everybody_talks(&bed)?;
    ensure!(child.wait(patience(PATIENCE))?.success(), "{}", fs::read_to_string(&output)?);
    let text = fs::read_to_string(&file)?;
    println!("{text}\n{}", fs::read_to_string(&output)?);
    for line in [
        "192.0.2.200  # bob # on holiday",
        "# 198.51.100.7 knocked 312 times and never talked",
        "# 192.0.2.10: 1 address, ",
        "# 2001:db8:bad::66: 1 address, ",
        "203.0.113.66  # learned ",
        "2001:db8:7::10  # learned ",
    ] {
        ensure!(text.lines().any(|found| found.starts_with(line)), "no {line} in {text}");
    }
    guard.done(&["allow", "replace", path])?;
    let listed = guard.done(&["allow", "list"])?;
    for prefix in ["192.0.2.200", "203.0.113.66", "2001:db8:7::10", "192.0.2.10"] {
        ensure!(listed.contains(prefix), "no {prefix} in {listed}");
    }
    ensure!(listed.contains("bob # on holiday") && !listed.contains("198.51.100.7"), "{listed}");
    let log = fs::read_to_string(guard.state_dir().join("audit.log"))?;
    ensure!(log.contains(r#""action":"learn""#) && log.contains("for 2 s"), "{log}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_incomplete_or_empty_answer_is_a_no() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard = observing("generic").start(&bed.server.namespace)?;
    let nothing = guard.cli(&["learn", "--seconds", "1"])?;
    ensure!(nothing.code == Some(1) && nothing.stdout.is_empty(), "{nothing:?}");
    ensure!(nothing.stderr.contains("nothing to propose"), "{nothing:?}");

    let (mut child, output) = begin(&guard, &["--seconds", "2"], "knocked")?;
    send(&bed, knocks(&bed, KNOCKER, 1), 10)?;
    ensure!(child.wait(patience(PATIENCE))?.code() == Some(1));
    let text = fs::read_to_string(output)?;
    ensure!(text.contains("none of them talked") && text.contains("knocked 10 times"), "{text}");

    // Forged sources may fill the table, and can't do so unseen.
    let (mut child, output) = begin(&guard, &["--seconds", "3", "--sources", "1000"], "full")?;
    send(&bed, knocks(&bed, Ipv4Addr::new(10, 0, 0, 0), 3_000), 3_000)?;
    everybody_talks(&bed)?;
    ensure!(child.wait(patience(PATIENCE))?.code() == Some(1));
    let text = fs::read_to_string(output)?;
    let first = text.lines().find(|line| line.starts_with('#')).context("no proposal")?;
    ensure!(first.starts_with("# INCOMPLETE: "), "{text}");
    let homeless: u64 = first.split(' ').filter_map(|word| word.parse::<u64>().ok()).sum();
    ensure!(homeless > 2_000, "{first}");
    ensure!(text.lines().any(|line| line.starts_with("INCOMPLETE: ")), "{text}");

    let bad = guard.cli(&["learn", "--seconds", "1", "--output", "/nowhere/at/all"])?;
    ensure!(bad.code == Some(2) && bad.stderr.contains("/nowhere/at"), "{bad:?}");
    Ok(())
}

/// P1, P2: to learn is to put other programs into the links, twice.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn under_a_flood_learning_opens_nothing_and_loses_nobody() -> Result<()> {
    for attach in ["native", "generic"] {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let guard = GuardSetup::of(SERVER_DOOR)
            .attach(attach)
            .allow(FRIEND4)
            .allow(FRIEND6)
            .start(&bed.server.namespace)?;
        let usual = program(&guard)?;
        let outcome = UnderFlood::during(&bed, || {
            let learned = guard.cli(&["learn", "--seconds", "2"])?;
            ensure!(learned.code == Some(0), "{learned:?}");
            ensure!(learned.stdout.contains("never talked"), "{learned:?}");
            // And over and over, as fast as it goes.
            for _ in 0..5 {
                let (child, _) = begin(&guard, &[], "interrupted")?;
                drop(child);
                until("the usual program to be back", PATIENCE, || {
                    program(&guard).is_ok_and(|now| now == usual)
                })?;
            }
            let proof = guard.cli(&["verify"])?;
            ensure!(proof.code == Some(0), "{proof:?}");
            Ok(())
        })?;
        outcome.assert_held(&format!("learning, {attach}"));
        let status = guard.status()?;
        ensure!(status.repairs()?.is_empty(), "{:?}", status.repairs()?);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whatever_ends_it_the_usual_programs_filter_again() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .allow(FRIEND4)
        .allow(FRIEND6)
        .start(&bed.server.namespace)?;
    let usual = program(&guard)?;
    let is_back = |guard: &Guard<'_>, limit| {
        until("the usual program to be back", limit, || {
            program(guard).is_ok_and(|now| now == usual)
        })
    };
    // A client that is killed, and one that hangs up in the middle.
    let at_once = patience(Duration::from_secs(2));
    let (mut child, _) = begin(&guard, &[], "killed")?;
    child.kill()?;
    is_back(&guard, at_once)?;
    // The programs are back a moment before the next may learn.
    let stream = until_some("another one to learn", at_once, || {
        let mut stream = UnixStream::connect(guard.socket()).ok()?;
        let body = r#"{"seconds":600}"#;
        let length = body.len();
        let head = format!("POST /v1/learn HTTP/1.1\r\nHost: guard\r\nContent-Length: {length}");
        write!(stream, "{head}\r\n\r\n{body}").ok()?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).ok()?;
        (status == *b"HTTP/1.1 200").then_some(stream)
    })?;
    ensure!(program(&guard)? != usual, "it does not learn");
    drop(stream);
    is_back(&guard, at_once)?;
    let tables = || -> Result<usize> {
        let maps = Objects::now()?.maps;
        Ok(maps.values().filter(|name| *name == "OG_SOURCES").count())
    };
    let before = tables()?;

    // A daemon that is stopped, which tells its client.
    let (mut child, output) = begin(&guard, &[], "stopped")?;
    ensure!(guard.stop()?.success());
    ensure!(child.wait(patience(PATIENCE))?.code() == Some(2));
    let said = fs::read_to_string(output)?;
    ensure!(said.contains("it is stopping"), "{said}");
    ensure!(program(&guard)? == usual, "SIGTERM left the programs that learn in place");

    // A daemon that is killed. What is left filters; the next daemon puts its own programs there.
    guard.start()?;
    let (child, _) = begin(&guard, &[], "orphaned")?;
    let learning = program(&guard)?;
    guard.kill9()?;
    drop(child);
    ensure!(program(&guard)? == learning);
    let door = guard.status()?.door(SERVER_DOOR)?;
    ensure!(door.is_covered && door.reason.is_none(), "{door:?}");
    only_the_friend_is_served(&bed)?;
    guard.start()?;
    let now = program(&guard)?;
    ensure!(now != learning, "the new daemon left the old program in place");
    only_the_friend_is_served(&bed)?;
    let proof = guard.cli(&["verify"])?;
    ensure!(proof.code == Some(0), "{proof:?}");
    until("the table to be gone", PATIENCE, || tables().is_ok_and(|left| left == before))?;

    // And `detach`, which takes everything.
    let (mut child, _) = begin(&guard, &[], "detached")?;
    guard.done(&["detach"])?;
    ensure!(child.wait(patience(PATIENCE))?.code() == Some(2));
    thread::sleep(Duration::from_millis(100));
    ensure!(!guard.pin_dir().exists(), "pins are left");
    Ok(())
}

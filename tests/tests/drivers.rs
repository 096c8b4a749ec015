//! Drivers that refuse, and drivers that change under the guard: as far as the software devices of
//! a namespace show how real ones behave.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use ollama_guard::dataplane::AttachMode;
use ollama_guard_tests::{
    bed::{
        CABLE_MTU, CLIENT_INTERFACE, Capture, Direction, Guard, GuardSetup, Pair, SERVER_DOOR,
        Standin, download, post, start, until, xdp_program_id,
    },
    loaded::Loaded,
    policy::{FRIEND4, FRIEND6, GUARDED},
};

const PATIENCE: Duration = Duration::from_secs(30);
const JUMBO_MTU: &str = "9000";
/// Longer than any frame before the MTU was raised.
const LONG_FRAME: usize = 4096;
/// A cable whose far end sends by more queues than this end receives by, which the driver of veth
/// refuses in native mode: as a card does that has no queue left (`veth_xdp_set`: ENOSPC).
const CROWDED: &str = "card0";

fn pair_with_crowded_cable() -> Result<Pair> {
    let pair = Pair::new(CABLE_MTU)?;
    // All four numbers: without them, veth takes one queue of each.
    let near = ["link", "add", CROWDED, "numrxqueues", "1", "numtxqueues", "1", "type", "veth"];
    let far = ["peer", "name", "far0", "numrxqueues", "4", "numtxqueues", "4", "netns"];
    pair.server.ip(&[&near[..], &far, &[pair.client.name()]].concat())?;
    pair.server.ip(&["link", "set", CROWDED, "up"])?;
    pair.client.ip(&["link", "set", "far0", "up"])?;
    Ok(pair)
}

/// Whatever the driver's error is, and not only "not supported": the next mode is tried.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_driver_without_free_queues_gets_the_generic_mode_and_its_word_is_kept() -> Result<()> {
    let pair = pair_with_crowded_cable()?;
    let mut loaded = Loaded::new()?;
    let modes = [AttachMode::Native, AttachMode::Generic];
    let outcome = loaded.attach(&pair.server, CROWDED, &modes)??;
    let [(AttachMode::Native, error)] = &outcome.refused[..] else {
        anyhow::bail!("one refusal was expected: {outcome:?}");
    };
    ensure!(error.contains("No space left"), "{error}");
    let [link] = loaded.links()?[..] else { anyhow::bail!("one link was expected") };
    let seen = xdp_program_id(&pair.server, CROWDED)?;
    assert_eq!(seen, Some(link.program_id.into()));
    Ok(())
}

/// Asked for by name, native mode is never replaced by the generic one: the door is guarded at TC
/// instead, and the log has the driver's word.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_driver_that_refuses_the_mode_asked_for_is_named_and_its_door_is_guarded() -> Result<()> {
    let pair = pair_with_crowded_cable()?;
    let setup = GuardSetup::of(CROWDED).allow(FRIEND4);
    let guard = setup.clone().attach("native").start(&pair.server)?;
    guarded_at_tc(&guard, CROWDED, &guard.log(), "No space left")?;
    assert_eq!(xdp_program_id(&pair.server, CROWDED)?, None);
    drop(guard);
    let guard = setup.attach("auto").start(&pair.server)?;
    let door = guard.status()?.door(CROWDED)?;
    ensure!(door.is_covered && door.attach.as_deref() == Some("generic"), "{door:?}");
    Ok(())
}

/// The errors of cards that no software device has, put in the place of the kernel's answer.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn whatever_a_driver_answers_the_door_is_guarded_and_the_answer_is_told() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let setup = GuardSetup::of(SERVER_DOOR).attach("native").allow(FRIEND4);
    let guard = setup.prepare(&pair.server)?;
    let call = attaching_call(&pair, &guard)?;
    for (error, text) in [
        ("ENOMEM", "Cannot allocate memory"),
        ("EINVAL", "Invalid argument"),
        ("ERANGE", "out of range"),
        ("EIO", "Input/output error"),
    ] {
        let inject = format!("inject=bpf:error={error}:when={call}");
        let log = traced(&pair, &guard, &["-e", &inject], || {
            assert_eq!(xdp_program_id(&pair.server, SERVER_DOOR)?, None, "{error}");
            ensure!(guard.status()?.door(SERVER_DOOR)?.is_covered, "{error}");
            let log = fs::read_to_string(guard.file("traced.log"))?;
            guarded_at_tc(&guard, SERVER_DOOR, &log, text)
        })?;
        ensure!(!guard.pin_dir().exists(), "{error}: pins were left behind: {log}");
    }
    Ok(())
}

/// Runs the daemon under `strace`, which looks at the `bpf` calls of its first thread: that one
/// starts everything. Does some work when it answers, then detaches. Returns what it said.
fn traced(
    pair: &Pair,
    guard: &Guard<'_>,
    options: &[&str],
    work: impl FnOnce() -> Result<()>,
) -> Result<String> {
    let daemon = guard.run_command();
    let words: Vec<_> = daemon.get_args().collect();
    let inner = words.iter().position(|word| *word == "--").context("no command")? + 1;
    let mut command = pair.server.command("strace");
    // `-D`: strace is the daemon's child, and not the other way round, so that it is the daemon that
    // is killed and waited for.
    command.args(["-D", "-qq", "-e", "trace=bpf", "-o"]).arg(guard.file("trace")).args(options);
    command.arg("--").args(&words[inner..]);
    let log = fs::File::create(guard.file("traced.log"))?;
    let mut daemon = start(command.stdout(log.try_clone()?).stderr(log))?;
    let said = || fs::read_to_string(guard.file("traced.log")).unwrap_or_default();
    until("the daemon to answer", PATIENCE, || guard.ask("GET", "/v1/status", "").is_ok())
        .with_context(said)?;
    work().with_context(said)?;
    guard.done(&["detach"])?;
    daemon.wait(PATIENCE)?;
    Ok(said())
}

/// Which of the first thread's `bpf` calls the attaching one is.
fn attaching_call(pair: &Pair, guard: &Guard<'_>) -> Result<usize> {
    traced(pair, guard, &[], || Ok(()))?;
    let trace = fs::read_to_string(guard.file("trace"))?;
    let calls = trace.lines().filter(|line| line.starts_with("bpf("));
    // Loading asks with a link that can not be made what the kernel knows.
    let attaches = |call: &str| call.starts_with("bpf(BPF_LINK_CREATE") && !call.contains("= -1 ");
    let position = calls.into_iter().position(attaches).context("the daemon made no link")?;
    Ok(position + 1)
}

fn guarded_at_tc(guard: &Guard<'_>, interface: &str, log: &str, cause: &str) -> Result<()> {
    let door = guard.status()?.door(interface)?;
    ensure!(door.is_covered && matches!(door.hook.as_deref(), Some("tcx" | "clsact")), "{door:?}");
    let line = log.lines().find(|line| line.contains(&format!("guarding {interface} by ")));
    let line = line.with_context(|| format!("no word about {interface}: {log}"))?;
    ensure!(line.contains("native") && line.contains(cause), "no {cause:?} in: {line}");
    Ok(())
}

/// A cable that takes longer frames from one moment on: they are judged as well, or the kernel
/// refuses the change.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn frames_that_grow_after_attaching_are_judged_all_the_same() -> Result<()> {
    for mode in ["native", "generic"] {
        let pair = Pair::new(CABLE_MTU)?;
        pair.settle(SERVER_DOOR, CLIENT_INTERFACE)?;
        let _standin = Standin::start_in(&pair.server, GUARDED)?;
        let setup = GuardSetup::of(SERVER_DOOR).attach(mode).allow(FRIEND4).allow(FRIEND6);
        let guard = setup.start(&pair.server)?;
        let before = guard.status()?.door(SERVER_DOOR)?;
        pair.server.ip(&["link", "set", SERVER_DOOR, "mtu", JUMBO_MTU])?;
        pair.client.ip(&["link", "set", CLIENT_INTERFACE, "mtu", JUMBO_MTU])?;
        let long = Capture::start(&pair.server, SERVER_DOOR, |frame, direction| {
            direction == Direction::In && frame.len() > LONG_FRAME
        })?;
        for (friend, server) in pair.friends() {
            download(friend, server, 5_000_000, PATIENCE)?;
            let answer = post(friend, server, "/api/generate", &"x".repeat(60_000), PATIENCE)?;
            ensure!(answer.is_served(), "{mode}: {friend:?} at {server} got {answer:?}");
        }
        ensure!(long.stop().count > 0, "{mode}: no long frame came");
        pair.only_the_friend_is_served()?;
        let after = guard.status()?.door(SERVER_DOOR)?;
        assert_eq!((after.link, after.attach), (before.link, before.attach), "{mode}");
    }
    Ok(())
}

//! Native or generic: what is tried, what is said of a refusal, and packets longer than a page.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use ollama_guard::{
    dataplane::{AttachMode, Hook, Outcome},
    doors::{self, XdpSlots},
};
use ollama_guard_tests::{
    bed::{
        CABLE_MTU, CLIENT_INTERFACE, Capture, Direction, Foreign, GuardSetup, Namespace, Pair,
        SERVER_DOOR, Standin, XDP_PASS, download, hook_at_tc, post,
    },
    loaded::Loaded,
    policy::{FRIEND4, FRIEND6, GUARDED},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// A device whose driver knows no XDP.
const BRIDGE: &str = "br0";
const NATIVE_FIRST: [AttachMode; 2] = [AttachMode::Native, AttachMode::Generic];
const JUMBO_MTU: u32 = 9000;
/// Longer than what a packet of one page can be.
const LONG_FRAME: usize = 4096;

fn pair_with_bridge() -> Result<Pair> {
    let pair = Pair::new(CABLE_MTU)?;
    pair.server.ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    pair.server.ip(&["link", "set", BRIDGE, "up"])?;
    Ok(pair)
}

/// What the kernel says is attached to an interface.
fn slots(namespace: &Namespace, interface: &str) -> Result<XdpSlots> {
    let interfaces = namespace.enter(|| -> Result<_> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        Ok(runtime.block_on(doors::list())?)
    })??;
    let found = interfaces.into_iter().find(|found| found.name == interface);
    Ok(found.with_context(|| format!("no {interface}"))?.xdp)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_device_without_native_mode_gets_the_generic_one() -> Result<()> {
    let pair = pair_with_bridge()?;
    let mut loaded = Loaded::new()?;
    let outcome = loaded.attach(&pair.server, BRIDGE, &NATIVE_FIRST)??;
    ensure!(outcome.mode == Some(AttachMode::Generic), "{outcome:?}");
    let [(AttachMode::Native, error)] = &outcome.refused[..] else {
        anyhow::bail!("one refusal was expected: {outcome:?}");
    };
    ensure!(error.contains("not supported"), "{error}");
    let [link] = loaded.links()?[..] else { anyhow::bail!("one link was expected") };
    let expected = XdpSlots { generic: Some(link.program_id), ..XdpSlots::default() };
    assert_eq!(slots(&pair.server, BRIDGE)?, expected);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_device_with_native_mode_gets_it_at_once() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let mut loaded = Loaded::new()?;
    let outcome = loaded.attach(&pair.server, SERVER_DOOR, &NATIVE_FIRST)??;
    let expected = Outcome {
        hook: Hook::Xdp,
        mode: Some(AttachMode::Native),
        refused: vec![],
        why_not_xdp: None,
        kept: false,
    };
    assert_eq!(outcome, expected);
    let [link] = loaded.links()?[..] else { anyhow::bail!("one link was expected") };
    let expected = XdpSlots { native: Some(link.program_id), ..XdpSlots::default() };
    assert_eq!(slots(&pair.server, SERVER_DOOR)?, expected);
    Ok(())
}

/// With its pin alone a link goes only when a worker of the kernel's comes to it: whoever attaches next
/// must not find the interface taken.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_interface_is_free_as_soon_as_it_is_released() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let mut loaded = Loaded::new()?;
    for round in 0..50 {
        let mode = NATIVE_FIRST[round % 2];
        let outcome = loaded.attach(&pair.server, SERVER_DOOR, &[mode])??;
        ensure!(outcome.mode == Some(mode), "round {round}: {outcome:?}");
        loaded.release(&pair.server, SERVER_DOOR)?;
        assert_eq!(slots(&pair.server, SERVER_DOOR)?, XdpSlots::default(), "round {round}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn where_the_only_mode_is_refused_the_guard_stands_at_tc_and_says_why() -> Result<()> {
    let pair = pair_with_bridge()?;
    let mut loaded = Loaded::new()?;
    let outcome = loaded.attach(&pair.server, BRIDGE, &[AttachMode::Native])??;
    assert_eq!((outcome.hook, outcome.mode), (hook_at_tc(), None));
    let text = outcome.why_not_xdp.unwrap_or_default();
    ensure!(text.contains("native") && !text.contains("generic"), "{text}");
    let [link] = pair.server.enter(|| loaded.links())??[..] else {
        anyhow::bail!("one link was expected")
    };
    assert_eq!((link.hook, link.alive, link.ahead), (hook_at_tc(), true, None));
    assert_eq!(slots(&pair.server, BRIDGE)?, XdpSlots::default());
    Ok(())
}

/// The daemon on devices without native mode, with and without an Ethernet header: it never
/// falls back on an XDP mode that was not asked for.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_daemon_that_is_told_native_says_where_it_is_refused() -> Result<()> {
    const TUN: &str = "tun0";
    let pair = pair_with_bridge()?;
    pair.server.ip(&["tuntap", "add", "dev", TUN, "mode", "tun"])?;
    for interface in [BRIDGE, TUN] {
        let guard = GuardSetup::of(interface).attach("native").allow(FRIEND4);
        let mut guard = guard.start(&pair.server)?;
        let door = guard.status()?.door(interface)?;
        let hook = hook_at_tc().name();
        ensure!(door.is_covered && door.hook.as_deref() == Some(hook), "{door:?}");
        let log = guard.log();
        let line =
            log.lines().find(|line| line.contains(&format!("guarding {interface} by {hook}")));
        ensure!(line.is_some_and(|line| line.contains("native")), "{log}");
        assert_eq!(slots(&pair.server, interface)?, XdpSlots::default(), "{interface}");
        // Nor at the next start.
        guard.kill9()?;
        guard.start()?;
        assert_eq!(guard.status()?.door(interface)?.link, door.link);
        drop(guard);
        // The same door in the other mode.
        let mut guard = GuardSetup::of(interface).allow(FRIEND4).prepare(&pair.server)?;
        guard.start()?;
        assert_eq!(guard.status()?.door(interface)?.attach.as_deref(), Some("generic"));
    }
    Ok(())
}

/// Native mode where a packet does not fit one page, which a program has to be made for.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn jumbo_frames_are_judged_in_native_mode() -> Result<()> {
    let pair = Pair::new(JUMBO_MTU)?;
    pair.settle(SERVER_DOOR, CLIENT_INTERFACE)?;
    let _standin = Standin::start_in(&pair.server, GUARDED)?;
    pair.everyone_is_served()?;
    // The contrast: a program that is not made for it is refused here.
    let foreign = Foreign::attach(&pair.server, SERVER_DOOR, XDP_PASS, XdpMode::Driver);
    ensure!(foreign.is_err(), "the kernel takes a program without fragments");

    let setup = GuardSetup::of(SERVER_DOOR).attach("native").allow(FRIEND4).allow(FRIEND6);
    let guard = setup.start(&pair.server)?;
    assert_eq!(guard.status()?.door(SERVER_DOOR)?.attach.as_deref(), Some("native"));
    pair.only_the_friend_is_served()?;
    for (friend, server) in pair.friends() {
        download(friend, server, 20_000_000, PATIENCE * 3)?;
        // And the other way, which is the guard's.
        let long = Capture::start(&pair.server, SERVER_DOOR, |frame, direction| {
            direction == Direction::In && frame.len() > LONG_FRAME
        })?;
        let answer = post(friend, server, "/api/generate", &"x".repeat(60_000), PATIENCE)?;
        ensure!(answer.is_served(), "{friend:?} at {server} got {answer:?}");
        ensure!(long.stop().count > 0, "no long frame came from {friend:?}");
    }
    pair.only_the_friend_is_served()
}

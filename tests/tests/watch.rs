//! P8, the first half: an interface that appears, comes up, is renamed, made anew or moved is
//! guarded or reported within one second, while the daemon runs.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use ollama_guard_tests::{
    bed::{
        CABLE_MTU, Capture, Direction, Flood, Guard, GuardSetup, Namespace, Pair, Standin, start,
        until, until_some, xdp_program_id,
    },
    packet::{ends, ethernet, ipv4, tcp},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, STRANGER4},
};

/// The promise.
const LIMIT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a flood goes on after the promised second.
const AFTERWARDS: Duration = Duration::from_millis(700);

const DOOR: &str = "door1";
const CLIENT_END: &str = "cable1";
const DOOR_MAC: &str = "02:00:00:00:01:01";

/// A guard of whatever is called `door` and something.
fn guard_of_doors(pair: &Pair) -> Result<Guard<'_>> {
    GuardSetup::of("door*").allow(FRIEND4).allow(FRIEND6).start(&pair.server)
}

/// A cable to a new interface of the server, which is down.
fn lay_cable(pair: &Pair, name: &str) -> Result<()> {
    let (client, mac) = (pair.client.name(), DOOR_MAC);
    pair.server.ip(&[
        "link", "add", name, "address", mac, "type", "veth", "peer", "name", CLIENT_END, "netns",
        client,
    ])?;
    pair.client.ip(&["link", "set", CLIENT_END, "up"])
}

fn link(namespace: &Namespace, words: &[&str]) -> Result<()> {
    namespace.ip(&[&["link"], words].concat())
}

/// A stranger's SYNs, from the client's end of the cable.
fn flood(pair: &Pair) -> Result<Flood> {
    let mac = [2, 0, 0, 0, 1, 1];
    let knock = |port| {
        let knock = ipv4(STRANGER4, SERVER4).carries(&tcp(port, GUARDED));
        ethernet().from([2, 0, 0, 0, 1, 2]).to(mac).carries_ip(&knock)
    };
    let frames = (20_000..20_064).map(knock).collect();
    Flood::start(&pair.client, CLIENT_END, frames, u64::MAX, Duration::from_secs(60))
}

/// Packets for the guarded port that get past XDP on an interface.
fn passed(pair: &Pair, interface: &str) -> Result<Capture> {
    Capture::start(&pair.server, interface, |frame, direction| {
        direction == Direction::In
            && ends(frame).is_some_and(|ends| ends.destination.port() == GUARDED)
    })
}

/// What the promise says: a second after `since` nothing gets in any more, though the flood goes on.
fn nothing_gets_in_after_a_second(
    pair: &Pair,
    interface: &str,
    since: Instant,
    flood: &Flood,
) -> Result<()> {
    thread::sleep(LIMIT.saturating_sub(since.elapsed()));
    let capture = passed(pair, interface)?;
    let before = flood.sent();
    thread::sleep(AFTERWARDS);
    let sent = flood.sent() - before;
    let heard = capture.stop();
    ensure!(sent > 1000, "only {sent} packets were sent");
    ensure!(heard.count == 0, "{interface}: {} of {sent} packets got in", heard.count);
    Ok(())
}

/// What `status` says of an interface, as soon as it is covered.
fn covered(guard: &Guard<'_>, name: &str, since: Instant) -> Result<Duration> {
    let is_covered = || {
        let status = guard.status().ok()?;
        status.door(name).is_ok_and(|door| door.is_covered).then_some(())
    };
    until_some(&format!("{name} to be covered"), PATIENCE, is_covered)?;
    Ok(since.elapsed())
}

/// When the kernel showed a program on the interface, which is quicker to ask than `status`.
fn guarded(pair: &Pair, name: &str, since: Instant) -> Result<Duration> {
    until(&format!("a program on {name}"), PATIENCE, || {
        xdp_program_id(&pair.server, name).is_ok_and(|id| id.is_some())
    })?;
    Ok(since.elapsed())
}

fn log_has(guard: &Guard<'_>, words: &str) -> Result<()> {
    until(&format!("the log to say {words:?}"), PATIENCE, || guard.log().contains(words))
        .with_context(|| guard.log())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_interface_that_appears_under_a_flood_is_guarded_within_a_second() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let guard = guard_of_doors(&pair)?;
    for round in 0..3 {
        // Made, and from the second round on made anew under the same name.
        lay_cable(&pair, DOOR)?;
        let flood = flood(&pair)?;
        link(&pair.server, &["set", DOOR, "up"])?;
        let since = Instant::now();
        let took = guarded(&pair, DOOR, since)?;
        ensure!(took < LIMIT, "round {round}: guarded after {took:?}");
        println!("guarded {took:?} after it was up");
        nothing_gets_in_after_a_second(&pair, DOOR, since, &flood)?;
        covered(&guard, DOOR, since)?;
        flood.stop()?;
        link(&pair.server, &["delete", DOOR])?;
        let is_gone = || {
            guard
                .status()
                .is_ok_and(|s| s.door(DOOR).is_err() && s.is_enforcing().is_ok_and(|is| is))
        };
        until("the old link to be cleared away", PATIENCE, is_gone)?;
    }
    log_has(&guard, "interface door1")?;
    log_has(&guard, "is gone")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_automatic_choice_guards_a_tunnel_as_soon_as_it_is_up() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    // Nothing but container plumbing is there yet: the daemon waits.
    let guard = GuardSetup::automatic().allow(FRIEND4).start(&pair.server)?;
    log_has(&guard, "waiting for one")?;
    ensure!(!guard.status()?.is_enforcing()?, "nothing is covered");

    // With Ethernet headers, and without.
    link(&pair.server, &["add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789"])?;
    until("status to list it", PATIENCE, || guard.status().is_ok_and(|s| s.door("vx0").is_ok()))?;
    let down = guard.status()?.door("vx0")?;
    ensure!(!down.is_covered && down.reason.as_deref().is_some_and(|r| r.contains("not up")));
    link(&pair.server, &["set", "vx0", "up"])?;
    let took = guarded(&pair, "vx0", Instant::now())?;
    ensure!(took < LIMIT, "guarded after {took:?}");
    covered(&guard, "vx0", Instant::now())?;
    ensure!(guard.status()?.is_enforcing()?);

    let mut socat = start(pair.server.command("socat").args([
        "UDP4-DATAGRAM:198.51.100.242:5000,bind=198.51.100.241:5000",
        "TUN,tun-name=tun0,iff-no-pi,up",
    ]))?;
    let is_up = || pair.server.enter(|| if_nametoindex("tun0").is_ok()).unwrap_or(false);
    until("tun0 by `socat` (package socat)", PATIENCE, is_up)?;
    let since = Instant::now();
    let took = guarded(&pair, "tun0", since)?;
    // It is up a moment after it is there.
    ensure!(took < LIMIT, "guarded after {took:?}");
    covered(&guard, "tun0", since)?;
    socat.kill()?;

    // What is not guarded is told all the same.
    link(&pair.server, &["add", "br7", "type", "bridge"])?;
    until("status to list it", LIMIT, || guard.status().is_ok_and(|s| s.door("br7").is_ok()))?;
    log_has(&guard, "interface br7")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_name_opens_nothing_and_guards_at_once() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let guard = guard_of_doors(&pair)?;
    lay_cable(&pair, "other1")?;
    link(&pair.server, &["set", "other1", "up"])?;
    let flood = flood(&pair)?;
    let before = passed(&pair, "other1")?;
    before.wait_for(100, PATIENCE).context("nobody guards an interface of another name")?;
    drop(before);

    // Into a name that is to be guarded. An interface has to be down for that.
    link(&pair.server, &["set", "other1", "down"])?;
    link(&pair.server, &["set", "other1", "name", DOOR])?;
    link(&pair.server, &["set", DOOR, "up"])?;
    let since = Instant::now();
    let took = guarded(&pair, DOOR, since)?;
    ensure!(took < LIMIT, "guarded after {took:?}");
    nothing_gets_in_after_a_second(&pair, DOOR, since, &flood)?;
    log_has(&guard, "is called door1 now")?;

    // Out of it again: a name does not take the filter away.
    let program = xdp_program_id(&pair.server, DOOR)?;
    link(&pair.server, &["set", DOOR, "down"])?;
    link(&pair.server, &["set", DOOR, "name", "other1"])?;
    link(&pair.server, &["set", "other1", "up"])?;
    nothing_gets_in_after_a_second(&pair, "other1", Instant::now(), &flood)?;
    assert_eq!(xdp_program_id(&pair.server, "other1")?, program);
    ensure!(guard.status()?.door("other1")?.is_covered);
    flood.stop()?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_interface_that_moves_between_namespaces_is_guarded_or_reported() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let guard = guard_of_doors(&pair)?;
    let away = Namespace::new(9_000, "away")?;

    // In: made elsewhere, then given to the server.
    let add = ["link", "add", DOOR, "index", "707", "address", DOOR_MAC, "type", "veth"];
    let peer = ["peer", "name", CLIENT_END, "netns", pair.client.name()];
    away.ip(&[&add[..], &peer].concat())?;
    link(&away, &["set", DOOR, "netns", pair.server.name()])?;
    link(&pair.client, &["set", CLIENT_END, "up"])?;
    link(&pair.server, &["set", DOOR, "up"])?;
    let since = Instant::now();
    let flood = flood(&pair)?;
    let took = guarded(&pair, DOOR, since)?;
    ensure!(took < LIMIT, "guarded after {took:?}");
    nothing_gets_in_after_a_second(&pair, DOOR, since, &flood)?;
    flood.stop()?;

    // Out: the filter goes along, and it is told.
    link(&pair.server, &["set", DOOR, "netns", away.name()])?;
    let told = || {
        let status = guard.status().ok()?;
        status.door("(interface 707)").ok()?.reason
    };
    let told = until_some("status to tell", LIMIT, told)?;
    ensure!(told.contains("another network namespace"), "{told}");
    ensure!(xdp_program_id(&away, DOOR)?.is_some(), "the filter did not go along");
    log_has(&guard, "interface door1 (707) is gone")?;

    // Another one gets its number: the living link is not taken for its cover.
    let add = ["link", "add", "door2", "index", "707", "type", "veth", "peer", "name", "cable2"];
    pair.server.ip(&add)?;
    link(&pair.server, &["set", "door2", "up"])?;
    let took = guarded(&pair, "door2", Instant::now())?;
    ensure!(took < LIMIT, "guarded after {took:?}");
    covered(&guard, "door2", Instant::now())?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_named_interface_that_goes_is_missed_and_one_that_comes_back_is_guarded() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let _standin = Standin::start_in(&pair.server, GUARDED)?;
    lay_cable(&pair, DOOR)?;
    let guard = GuardSetup::of(DOOR).allow(FRIEND4).start(&pair.server)?;
    link(&pair.server, &["delete", DOOR])?;
    let is_missed = || {
        guard.status().is_ok_and(|status| {
            !status.is_enforcing().unwrap_or(true)
                && status.problems().unwrap_or_default().iter().any(|p| p.contains("door1"))
        })
    };
    until("status to miss it", LIMIT, is_missed)?;
    lay_cable(&pair, DOOR)?;
    let since = Instant::now();
    let took = guarded(&pair, DOOR, since)?;
    ensure!(took < LIMIT, "guarded after {took:?}");
    until("status to be content", PATIENCE, || {
        guard.status().is_ok_and(|status| status.is_enforcing().unwrap_or(false))
    })
}

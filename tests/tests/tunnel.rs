//! Tunnels are doors of their own: what comes out of them is judged, also where packets have no
//! Ethernet header, and although the cable under them is not guarded.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use aya::programs::XdpMode;
use ollama_guard_common::{Mode, Reason};
use ollama_guard_tests::{
    bed::{
        CABLE_MTU, CLIENT_INTERFACE, Door, Foreign, Guard, GuardSetup, Pair, SERVER_DOOR, SocatTun,
        Standin, TunEnd, XDP_PASS, without_links,
    },
    packet::{ipv4, tcp},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, STRANGER4, STRANGER6},
};

const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(500);
/// A tunnel without Ethernet headers.
const TUN: &str = SocatTun::NAME;
/// A tunnel with them.
const VXLAN: &str = "vx0";

fn lay_vxlan_over(pair: &Pair) -> Result<()> {
    for (namespace, interface, own, peer) in [
        (&pair.server, SERVER_DOOR, Pair::SERVER_END, Pair::CLIENT_END),
        (&pair.client, CLIENT_INTERFACE, Pair::CLIENT_END, Pair::SERVER_END),
    ] {
        let (own, peer) = (own.to_string(), peer.to_string());
        let ends = ["local", &own, "remote", &peer, "dstport", "4789", "dev", interface];
        let add = ["link", "add", VXLAN, "type", "vxlan", "id", "7"];
        namespace.ip(&[&add[..], &ends].concat())?;
        namespace.ip(&["link", "set", VXLAN, "up"])?;
    }
    pair.settle(VXLAN, VXLAN)
}

fn guard_for_the_friend(setup: GuardSetup) -> GuardSetup {
    setup.allow(FRIEND4).allow(FRIEND6)
}

/// Judged, and seen, at the tunnel alone.
fn the_tunnel_is_the_door(pair: &Pair, guard: &Guard<'_>, tunnel: &str) -> Result<()> {
    let door = guarded_at_the_tunnel(pair, guard, tunnel)?;
    ensure!(door.attach.as_deref() == Some("generic"), "{door:?}");
    Ok(())
}

fn guarded_at_the_tunnel(pair: &Pair, guard: &Guard<'_>, tunnel: &str) -> Result<Door> {
    pair.only_the_friend_is_served()?;
    let status = guard.status()?;
    let covered: Vec<_> = status.doors()?.into_iter().filter(|door| door.is_covered).collect();
    let [door] = &covered[..] else { anyhow::bail!("one door was expected: {covered:?}") };
    ensure!(door.name == tunnel, "{door:?}");
    ensure!(status.counter(Mode::Enforce, Reason::Allowed)? > 0, "the friend was not counted");
    ensure!(status.counter(Mode::Enforce, Reason::NotListed)? > 0, "strangers were not counted");
    for friend in [IpAddr::from(FRIEND4), FRIEND6.into()] {
        explained(guard, friend, tunnel, "pass", 0)?;
    }
    for stranger in [IpAddr::from(STRANGER4), STRANGER6.into()] {
        explained(guard, stranger, tunnel, "drop", 1)?;
    }
    Ok(door.clone())
}

fn explained(
    guard: &Guard<'_>,
    source: IpAddr,
    interface: &str,
    verdict: &str,
    code: i32,
) -> Result<()> {
    let source = source.to_string();
    let told = guard.cli(&["explain", &source, "--interface", interface])?;
    let is_so = told.code == Some(code)
        && told.stdout.contains(&format!("{source} to {GUARDED}/tcp: {}", verdict.to_uppercase()));
    ensure!(is_so, "{verdict} was expected of {source}: {told:?}");
    let told = guard.cli(&["explain", &source, "--interface", interface, "--json"])?;
    let json: serde_json::Value = serde_json::from_str(&told.stdout)?;
    ensure!(told.code == Some(code) && json["verdict"] == verdict, "{told:?}");
    Ok(())
}

/// The choice of doors, each way of choosing, with the daemon and after its death.
fn strangers_get_nothing_through(pair: &Pair, tunnel: &str) -> Result<()> {
    let _standin = Standin::start_in(&pair.server, GUARDED)?;
    pair.everyone_is_served()?;
    for (setup, why_not) in [
        (GuardSetup::automatic(), "plumbing"),
        (GuardSetup::of(tunnel), "not among the chosen interfaces"),
    ] {
        let mut guard = guard_for_the_friend(setup).start(&pair.server)?;
        let cable = guard.status()?.door(SERVER_DOOR)?;
        let is_left =
            !cable.is_covered && cable.reason.as_ref().is_some_and(|r| r.contains(why_not));
        ensure!(is_left, "no {why_not:?} in {cable:?}");
        the_tunnel_is_the_door(pair, &guard, tunnel)?;
        guard.kill9()?;
        the_tunnel_is_the_door(pair, &guard, tunnel)?;
        // The contrast: it was the guard.
        drop(guard);
        pair.everyone_is_served()?;
    }
    // And it was the guard of the tunnel: at the cable a stranger's packets are the tunnel's.
    let guard = guard_for_the_friend(GuardSetup::of(SERVER_DOOR)).start(&pair.server)?;
    ensure!(guard.status()?.door(SERVER_DOOR)?.is_covered);
    pair.everyone_is_served()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn strangers_get_nothing_through_a_tunnel_without_ethernet_headers() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let _tun = SocatTun::lay_over(&pair)?;
    pair.settle(TUN, TUN)?;
    strangers_get_nothing_through(&pair, TUN)
}

/// P12 where packets have no Ethernet header.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn behind_a_foreign_program_strangers_get_nothing_through_a_tunnel() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let _tun = SocatTun::lay_over(&pair)?;
    pair.settle(TUN, TUN)?;
    let _standin = Standin::start_in(&pair.server, GUARDED)?;
    let foreign = Foreign::attach(&pair.server, TUN, XDP_PASS, XdpMode::Skb)?;
    pair.everyone_is_served()?;
    for hook in ["tcx", "clsact"] {
        let setup = guard_for_the_friend(GuardSetup::of(TUN));
        let mut guard = setup.prepare(&pair.server)?;
        if hook == "tcx" {
            guard.start()?
        } else {
            without_links(|| guard.start())?
        }
        for is_alive in [true, false] {
            if !is_alive {
                guard.kill9()?;
            }
            let door = guarded_at_the_tunnel(&pair, &guard, TUN)?;
            ensure!(door.hook.as_deref() == Some(hook), "{door:?}");
            ensure!(door.behind == Some(foreign.program_id()?), "{door:?}");
        }
        drop(guard);
        pair.everyone_is_served()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn strangers_get_nothing_through_a_tunnel_with_ethernet_headers() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    lay_vxlan_over(&pair)?;
    strangers_get_nothing_through(&pair, VXLAN)
}

/// Whoever owns a tun device can give it any type: the guard goes by what the device carries.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_tun_device_that_calls_itself_ethernet_is_read_as_what_it_is() -> Result<()> {
    const NONE: u16 = 65534;
    const ETHERNET: u16 = 1;
    const LIAR: &str = "liar0";
    for arphrd in [NONE, ETHERNET] {
        let pair = Pair::new(CABLE_MTU)?;
        let _standin = Standin::start_in(&pair.server, GUARDED)?;
        let mut far_end = TunEnd::open(&pair.server, LIAR, arphrd)?;
        pair.server.ip(&["link", "set", LIAR, "up"])?;
        let prefix = format!("{SERVER4}/24");
        pair.server.ip(&["address", "add", &prefix, "dev", LIAR])?;
        for network in [FRIEND4, STRANGER4] {
            let network = format!("{network}/32");
            pair.server.ip(&["route", "replace", &network, "dev", LIAR])?;
        }
        let mut port = 40_000;
        let mut is_answered = |source, patience| -> Result<bool> {
            port += 1;
            far_end.send(&ipv4(source, SERVER4).carries(&tcp(port, GUARDED)))?;
            // Of this knock: SYN-ACKs of an earlier one are repeated.
            let ports = [GUARDED.to_be_bytes(), port.to_be_bytes()].concat();
            let answer = far_end.wait_for(patience, |packet| packet.get(20..24) == Some(&ports))?;
            Ok(answer.is_some())
        };
        ensure!(
            is_answered(STRANGER4, PATIENCE)?,
            "type {arphrd}: nobody is served without a guard"
        );
        let guard = guard_for_the_friend(GuardSetup::automatic()).start(&pair.server)?;
        ensure!(guard.status()?.door(LIAR)?.is_covered, "type {arphrd}: not covered");
        ensure!(is_answered(FRIEND4, PATIENCE)?, "type {arphrd}: the friend gets nothing");
        ensure!(!is_answered(STRANGER4, SILENCE)?, "type {arphrd}: a stranger is answered");
    }
    Ok(())
}

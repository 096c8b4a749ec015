//! Several services on one host, and rules that hold at some interfaces only: asked of the doors, by
//! frames.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::XdpMode;
use ollama_guard_common::Mode;
use ollama_guard_tests::{
    bed::{
        CABLE_MTU, CLIENT_INTERFACE, Capture, Direction, Foreign, Guard, GuardSetup, Pair,
        SERVER_DOOR, Wire, XDP_PASS, until,
    },
    packet::{cut, ends, ethernet, ipv4, tcp},
    policy::{FRIEND4, GUARDED, SERVER4, STRANGER4},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// A file is looked at every second, and read once it was the same for a second.
const SOON: Duration = Duration::from_secs(8);
/// The second service, and one that nobody guards.
const WEB: u16 = 8080;
const FREE: u16 = 9;
/// Lets the friend in to Ollama, and this one to the web interface; the colleague to both.
const READER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
const COLLEAGUE4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 4);
const EVERYBODY: [Ipv4Addr; 4] = [FRIEND4, READER4, COLLEAGUE4, STRANGER4];

/// A second cable between the two, by the names at the server and at the client.
const LAN: [&str; 2] = ["lan0", "lan0c"];

fn two(web_mode: &str) -> String {
    format!(
        "[groups]\nboth = [\"{COLLEAGUE4}\"]\n\
         [[service]]\nname = \"ollama\"\nallow = [\"{FRIEND4}\", \"both\"]\n\
         [[service]]\nname = \"web\"\nmode = \"{web_mode}\"\nports = [\"{WEB}\"]\n\
         allow = [\"{READER4}\", \"both\"]\n"
    )
}

/// What the packets of one source look like that are in doubt: the ports are not all there.
fn in_doubt(source: Ipv4Addr) -> Vec<u8> {
    let whole = ipv4(source, SERVER4).carries(&tcp(40_000, GUARDED));
    let frame = ethernet().carries_ip(&whole);
    cut(&frame, 14 + 20 + 2)
}

/// Which of them get through to a port by way of a cable.
fn passing(pair: &Pair, [door, client]: [&str; 2], port: u16) -> Result<Vec<Ipv4Addr>> {
    let heard = Capture::start(&pair.server, door, move |frame, direction| {
        direction == Direction::In
            && ends(frame).is_some_and(|ends| [port, FREE].contains(&ends.destination.port()))
    })?;
    let wire = Wire::open(&pair.client, client)?;
    for source in EVERYBODY {
        let packet = ipv4(source, SERVER4).carries(&tcp(40_000, port));
        wire.send(&ethernet().carries_ip(&packet))?;
    }
    // Behind them on the same wire, and not guarded.
    let last = ipv4(STRANGER4, SERVER4).carries(&tcp(40_000, FREE));
    wire.send(&ethernet().carries_ip(&last))?;
    let at = |frame: &Vec<u8>| ends(frame).map(|ends| ends.destination.port());
    until("the last frame", PATIENCE, || {
        heard.so_far().frames.iter().any(|frame| at(frame) == Some(FREE))
    })?;
    let frames = heard.stop().frames;
    let came = |source: &Ipv4Addr| {
        frames.iter().filter_map(|frame| ends(frame)).any(|ends| {
            ends.destination.port() == port && ends.source.ip() == std::net::IpAddr::from(*source)
        })
    };
    Ok(EVERYBODY.into_iter().filter(came).collect())
}

fn until_passing(pair: &Pair, cable: [&str; 2], port: u16, expected: &[Ipv4Addr]) -> Result<()> {
    until(&format!("{expected:?} to pass to {port} by {}", cable[0]), SOON, || {
        passing(pair, cable, port).is_ok_and(|found| found == expected)
    })
    .with_context(|| format!("these pass: {:?}", passing(pair, cable, port)))
}

const CABLE: [&str; 2] = [SERVER_DOOR, CLIENT_INTERFACE];

/// Packets of one service by what became of them: allowed, dropped, and would have been dropped.
fn counted(guard: &Guard<'_>, service: &str) -> Result<[u64; 3]> {
    let status = guard.cli(&["status", "--json"])?;
    let json: serde_json::Value = serde_json::from_str(&status.stdout)?;
    let services = json["services"].as_array().context("services")?;
    let one = services.iter().find(|one| one["name"] == service).context("the service")?;
    let sum = |mode: Mode, is_allowed: bool| -> u64 {
        let counts = one["counts"][mode.name()].as_object().into_iter().flatten();
        let meant = counts.filter(|(reason, _)| (*reason == "allowed") == is_allowed);
        meant.filter_map(|(_, count)| count.as_u64()).sum()
    };
    Ok([
        sum(Mode::Enforce, true) + sum(Mode::Observe, true),
        sum(Mode::Enforce, false),
        sum(Mode::Observe, false),
    ])
}

fn each_has_its_own_friends(pair: &Pair, guard: &Guard<'_>, is_at_xdp: bool) -> Result<()> {
    let before = (counted(guard, "ollama")?, counted(guard, "web")?);
    let came = [passing(pair, CABLE, GUARDED)?, passing(pair, CABLE, WEB)?];
    // What listens to an interface hears a packet before TC does: there, the counters tell.
    if is_at_xdp {
        assert_eq!(came, [[FRIEND4, COLLEAGUE4], [READER4, COLLEAGUE4]]);
    }
    let more = |service: &str, before: [u64; 3]| -> Result<[u64; 3]> {
        let now = counted(guard, service)?;
        Ok(std::array::from_fn(|place| now[place] - before[place]))
    };
    assert_eq!(more("ollama", before.0)?, [2, 2, 0]);
    assert_eq!(more("web", before.1)?, [2, 2, 0]);
    let verified = guard.cli(&["verify"])?;
    ensure!(verified.succeeded(), "{verified:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_service_has_its_own_friends_at_every_hook() -> Result<()> {
    for attach in ["generic", "native", "behind another program"] {
        let pair = Pair::new(CABLE_MTU)?;
        let setup = GuardSetup::of(SERVER_DOOR).config(&two("enforce"));
        let (setup, foreign) = match attach {
            "generic" | "native" => (setup.attach(attach), None),
            _ => {
                let place = XdpMode::Skb;
                (setup, Some(Foreign::attach(&pair.server, SERVER_DOOR, XDP_PASS, place)?))
            }
        };
        let guard = setup.start(&pair.server)?;
        each_has_its_own_friends(&pair, &guard, foreign.is_none()).context(attach)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_service_can_be_observed_while_others_are_enforced() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .config(&two("observe"))
        .start(&pair.server)?;
    assert_eq!(passing(&pair, CABLE, GUARDED)?, [FRIEND4, COLLEAGUE4]);
    assert_eq!(passing(&pair, CABLE, WEB)?, EVERYBODY);
    assert_eq!(counted(&guard, "ollama")?, [2, 2, 0]);
    assert_eq!(counted(&guard, "web")?, [2, 0, 2]);
    let status = guard.cli(&["status"])?;
    assert_eq!(status.code, Some(1), "not everything is enforced");
    ensure!(status.stdout.starts_with("ENFORCING, BUT NOT FOR web"), "{}", status.stdout);
    let explained = guard.cli(&["explain", &STRANGER4.to_string(), "--port", &WEB.to_string()])?;
    ensure!(explained.stdout.contains("(web): WOULD-DROP (not-listed)"), "{}", explained.stdout);
    let verified = guard.cli(&["verify"])?;
    assert_eq!(verified.code, Some(1), "{verified:?}");
    ensure!(verified.stdout.contains("web is only observed"), "{}", verified.stdout);
    // And enforced without a restart, its counts going on.
    guard.write_config(&two("enforce"))?;
    until_passing(&pair, CABLE, WEB, &[READER4, COLLEAGUE4])?;
    let [_, dropped, would] = counted(&guard, "web")?;
    ensure!(dropped > 0 && would >= 2, "{dropped} {would}");
    ensure!(guard.log().contains("mode of web: observe -> enforce"), "{}", guard.log());
    Ok(())
}

/// It passes only if its source may reach every service that is enforced.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_packet_that_could_be_for_any_service_needs_all_of_them() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .config(&two("enforce"))
        .start(&pair.server)?;
    let came = |config: &str| -> Result<BTreeSet<Ipv4Addr>> {
        guard.write_config(config)?;
        guard.done(&["reload"])?;
        let heard =
            Capture::start(&pair.server, SERVER_DOOR, |_, direction| direction == Direction::In)?;
        let wire = Wire::open(&pair.client, CLIENT_INTERFACE)?;
        EVERYBODY.into_iter().try_for_each(|source| wire.send(&in_doubt(source)))?;
        let last = ipv4(STRANGER4, SERVER4).carries(&tcp(40_000, FREE));
        wire.send(&ethernet().carries_ip(&last))?;
        let is_last = |frame: &[u8]| ends(frame).is_some_and(|e| e.destination.port() == FREE);
        until("the last frame", PATIENCE, || {
            heard.so_far().frames.iter().any(|frame| is_last(frame))
        })?;
        let source = |frame: &Vec<u8>| {
            let bytes: [u8; 4] = frame.get(26..30)?.try_into().ok()?;
            EVERYBODY.into_iter().find(|one| one.octets() == bytes && !is_last(frame))
        };
        Ok(heard.stop().frames.iter().filter_map(source).collect())
    };
    assert_eq!(came(&two("enforce"))?, BTreeSet::from([COLLEAGUE4]));
    // What is only observed is nothing to be kept from.
    assert_eq!(came(&two("observe"))?, BTreeSet::from([FRIEND4, COLLEAGUE4]));
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn rules_are_added_for_one_service_and_taken_back() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .config(&two("enforce"))
        .start(&pair.server)?;
    let stranger = STRANGER4.to_string();
    guard.done(&["allow", "add", &stranger, "--service", "web"])?;
    assert_eq!(passing(&pair, CABLE, WEB)?, [READER4, COLLEAGUE4, STRANGER4]);
    assert_eq!(passing(&pair, CABLE, GUARDED)?, [FRIEND4, COLLEAGUE4]);
    let listed = guard.done(&["allow", "list"])?;
    ensure!(listed.contains("for web"), "{listed}");
    // For all of them, beside it.
    guard.done(&["allow", "add", &stranger])?;
    assert_eq!(passing(&pair, CABLE, GUARDED)?, [FRIEND4, COLLEAGUE4, STRANGER4]);
    guard.done(&["allow", "remove", &stranger, "--service", "web"])?;
    assert_eq!(passing(&pair, CABLE, WEB)?, [READER4, COLLEAGUE4, STRANGER4]);
    guard.done(&["deny", "add", &stranger, "--service", "ollama"])?;
    assert_eq!(passing(&pair, CABLE, WEB)?, [READER4, COLLEAGUE4, STRANGER4]);
    assert_eq!(passing(&pair, CABLE, GUARDED)?, [FRIEND4, COLLEAGUE4]);
    guard.done(&["allow", "remove", &stranger])?;
    assert_eq!(passing(&pair, CABLE, WEB)?, [READER4, COLLEAGUE4]);
    let refused = guard.cli(&["allow", "add", &stranger, "--service", "wbe"])?;
    assert_eq!(refused.code, Some(2));
    ensure!(refused.stderr.contains("there is no service \"wbe\""), "{}", refused.stderr);
    // A service that goes takes what was for it alone out of force, and gives it back when it is there again.
    guard.done(&["allow", "add", &stranger, "--service", "web"])?;
    guard.write_config(&format!("[[service]]\nname = \"ollama\"\nallow = [\"{FRIEND4}\"]\n"))?;
    guard.done(&["reload"])?;
    assert_eq!(passing(&pair, CABLE, WEB)?, EVERYBODY, "nobody guards it");
    assert_eq!(passing(&pair, CABLE, GUARDED)?, [FRIEND4]);
    guard.write_config(&two("enforce"))?;
    guard.done(&["reload"])?;
    assert_eq!(passing(&pair, CABLE, WEB)?, [READER4, COLLEAGUE4, STRANGER4]);
    Ok(())
}

fn lay(pair: &Pair, [door, client]: [&str; 2]) -> Result<()> {
    let peer = ["peer", "name", client, "netns", pair.client.name()];
    pair.server.ip(&[&["link", "add", door, "type", "veth"], &peer[..]].concat())?;
    pair.server.ip(&["link", "set", door, "up"])?;
    pair.client.ip(&["link", "set", client, "up"])
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_rule_for_some_interfaces_lets_in_nobody_elsewhere() -> Result<()> {
    let pair = Pair::new(CABLE_MTU)?;
    lay(&pair, LAN)?;
    let config = format!(
        "interfaces = [\"lan*\"]\n[[service]]\n\
         allow = [\"{FRIEND4}\", {{ from = [\"{READER4}\", \"{COLLEAGUE4}\"], on = [\"lan*\"] }}]\n\
         deny = [{{ from = \"{FRIEND4}\", on = [\"lan1\"] }}]\n"
    );
    let mut guard =
        GuardSetup::of(SERVER_DOOR).attach("generic").config(&config).start(&pair.server)?;
    assert_eq!(passing(&pair, LAN, GUARDED)?, [FRIEND4, READER4, COLLEAGUE4]);
    assert_eq!(passing(&pair, CABLE, GUARDED)?, [FRIEND4]);
    let verified = guard.cli(&["verify"])?;
    ensure!(verified.succeeded(), "{verified:?}");
    for (interface, word) in [(LAN[0], "PASS (allowed)"), (SERVER_DOOR, "DROP (not-listed)")] {
        let asked = ["explain", &READER4.to_string(), "--interface", interface];
        let explained = guard.cli(&asked)?;
        ensure!(explained.stdout.contains(word), "{interface}: {}", explained.stdout);
    }
    // An interface that comes later is of its own class.
    let later = ["lan1", "lan1c"];
    lay(&pair, later)?;
    until_passing(&pair, later, GUARDED, &[READER4, COLLEAGUE4])?;
    assert_eq!(passing(&pair, LAN, GUARDED)?, [FRIEND4, READER4, COLLEAGUE4]);
    // By command, at one.
    let stranger = STRANGER4.to_string();
    guard.done(&["allow", "add", &stranger, "--on", SERVER_DOOR])?;
    assert_eq!(passing(&pair, CABLE, GUARDED)?, [FRIEND4, STRANGER4]);
    assert_eq!(passing(&pair, LAN, GUARDED)?, [FRIEND4, READER4, COLLEAGUE4]);
    // And after a crash, from the pins alone and by the next daemon.
    guard.kill9()?;
    assert_eq!(passing(&pair, CABLE, GUARDED)?, [FRIEND4, STRANGER4]);
    guard.start()?;
    assert_eq!(passing(&pair, CABLE, GUARDED)?, [FRIEND4, STRANGER4]);
    assert_eq!(passing(&pair, later, GUARDED)?, [READER4, COLLEAGUE4]);
    // Another name is another place, be it of the same kind.
    pair.server.ip(&["link", "set", later[0], "down"])?;
    pair.server.ip(&["link", "set", later[0], "name", "lan2"])?;
    pair.server.ip(&["link", "set", "lan2", "up"])?;
    let later = ["lan2", "lan1c"];
    until_passing(&pair, later, GUARDED, &[FRIEND4, READER4, COLLEAGUE4])?;
    // One that goes leaves nothing to be mended.
    pair.server.ip(&["link", "del", later[0]])?;
    // The name goes before the door's pin does.
    until("all to hold without it", SOON, || {
        let gone = guard.cli(&["status"]).is_ok_and(|status| !status.stdout.contains("lan2"));
        gone && guard.cli(&["verify"]).is_ok_and(|verified| verified.succeeded())
    })?;
    ensure!(!guard.log().contains("drift"), "{}", guard.log());
    Ok(())
}

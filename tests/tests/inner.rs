//! The inner door: whatever way leads to a socket, it stands before it. The doors at the interfaces are absent,
//! so that nothing else does.
//!
//! Long because there are many ways to a socket, and each is tried in the same manner.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Result, ensure};
use ollama_guard_common::{Mode, Reason};
use ollama_guard_tests::{
    bed::{
        Answer, Asker, CLIENT_INTERFACE, Cgroup, Contained, Flood, Guard, GuardSetup, Namespace,
        PUBLISHED, SERVER_DOOR, Status, get, patience, until,
    },
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

const SERVED: Duration = Duration::from_secs(5);
const SILENT: Duration = Duration::from_millis(1200);
const STANDIN: &str = env!("CARGO_BIN_EXE_standin");
const NAME: &str = "inner door";
const FLOOD: u64 = 20_000;
const LATE: Duration = Duration::from_secs(20);

/// A guard of nothing but the sockets in a cgroup.
fn inner_only(cgroup: &Cgroup) -> GuardSetup {
    GuardSetup::automatic().config("exclude = [\"*\"]\n").inner_at(cgroup)
}

fn for_the_friend(cgroup: &Cgroup) -> GuardSetup {
    inner_only(cgroup).allow(FRIEND4).allow(FRIEND6)
}

/// Who asks from where, at which address, and whether that is a friend.
type Asked<'bed> = (Asker<'bed>, SocketAddr, bool);

/// The client's four addresses, at the server's addresses.
fn askers(bed: &Contained, port: u16) -> [Asked<'_>; 4] {
    let ask = |source: IpAddr, is_friend| {
        let server = if source.is_ipv4() { IpAddr::from(SERVER4) } else { SERVER6.into() };
        let asker = Asker::with_address(&bed.pair.client, source);
        (asker, SocketAddr::new(server, port), is_friend)
    };
    [
        ask(FRIEND4.into(), true),
        ask(FRIEND6.into(), true),
        ask(STRANGER4.into(), false),
        ask(STRANGER6.into(), false),
    ]
}

fn everyone_is_served(asked: &[Asked<'_>]) -> Result<()> {
    for (asker, server, _) in asked {
        let answer = get(*asker, *server, "/", SERVED)?;
        ensure!(answer.is_served(), "{asker:?} at {server} got {answer:?}");
    }
    Ok(())
}

fn only_the_friend_is_served(asked: &[Asked<'_>]) -> Result<()> {
    for (asker, server, is_friend) in asked {
        let answer = get(*asker, *server, "/", if *is_friend { SERVED } else { SILENT })?;
        let is_right = if *is_friend { answer.is_served() } else { answer == Answer::NoAnswer };
        ensure!(is_right, "{asker:?} at {server} got {answer:?}");
    }
    Ok(())
}

/// With a daemon and after its death; and without the guard, everybody is.
fn strangers_get_nothing(bed: &Contained, asked: &[Asked<'_>]) -> Result<()> {
    everyone_is_served(asked)?;
    let mut guard = for_the_friend(&bed.cgroup).start(bed.host())?;
    let status = guard.status()?;
    let door = status.door(NAME)?;
    ensure!(door.is_covered && door.hook.as_deref() == Some("cgroup"), "{door:?}");
    ensure!(!status.door(SERVER_DOOR)?.is_covered, "{status:?}");
    only_the_friend_is_served(asked)?;
    guard.kill9()?;
    only_the_friend_is_served(asked)?;
    let status = guard.status()?;
    ensure!(status.counter_at(NAME, Mode::Enforce, Reason::NotListed)? >= 4, "{status:?}");
    ensure!(status.counter_at(NAME, Mode::Enforce, Reason::Allowed)? >= 8, "{status:?}");
    ensure!(status.book(Mode::Enforce)?.balances(), "{status:?}");
    drop(guard);
    everyone_is_served(asked)
}

/// A flood of strangers' knocks, and where it goes.
struct Knocks<'bed> {
    /// From which interface.
    from: (&'bed Namespace, &'bed str),
    frames: Vec<Vec<u8>>,
    /// Who listens at the other end.
    listener: &'bed Namespace,
}

impl<'bed> Knocks<'bed> {
    /// From the client at a port of the host.
    fn at(bed: &'bed Contained, listener: &'bed Namespace, port: u16) -> Result<Self> {
        let from = (&bed.pair.client, CLIENT_INTERFACE);
        Ok(Self { from, frames: bed.knocks(port)?, listener })
    }

    /// Not one connection comes about, and not one segment goes back.
    fn get_nothing_from(self, guard: &Guard) -> Result<()> {
        Contained::all_is_said(self.listener)?;
        let dropped = |status: &Status| status.counter_at(NAME, Mode::Enforce, Reason::NotListed);
        let dropped_before = dropped(&guard.status()?)?;
        let before = Contained::accepted_and_sent(self.listener)?;
        let limit = patience(Duration::from_secs(20));
        let sent = Flood::start(self.from.0, self.from.1, self.frames, FLOOD, limit)?.finish()?;
        let after = Contained::accepted_and_sent(self.listener)?;
        ensure!(after == before, "{before:?}, and after {sent} knocks {after:?}");
        let status = guard.status()?;
        let dropped = dropped(&status)? - dropped_before;
        // What does not get as far is dropped by full queues.
        ensure!(dropped > sent / 2 && dropped <= sent, "{dropped} of {sent}");
        ensure!(status.book(Mode::Enforce)?.balances(), "{status:?}");
        Ok(())
    }
}

fn a_flood_gets_nothing(bed: &Contained, listener: &Namespace, port: u16) -> Result<()> {
    let guard = for_the_friend(&bed.cgroup).start(bed.host())?;
    Knocks::at(bed, listener, port)?.get_nothing_from(&guard)?;
    only_the_friend_is_served(&askers(bed, port))
}

/// `docker run -p 8080:11434`: the packets have another port and another address until they are inside.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_published_port_is_no_way_around() -> Result<()> {
    let bed = Contained::new()?;
    bed.publish(PUBLISHED)?;
    let _standin = bed.serve(Path::new(STANDIN), &bed.web, GUARDED)?;
    strangers_get_nothing(&bed, &askers(&bed, PUBLISHED))?;
    a_flood_gets_nothing(&bed, &bed.web, PUBLISHED)
}

/// A host port of Kubernetes, by the same number as inside.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_host_port_is_no_way_around() -> Result<()> {
    let bed = Contained::new()?;
    bed.publish(GUARDED)?;
    let _standin = bed.serve(Path::new(STANDIN), &bed.web, GUARDED)?;
    strangers_get_nothing(&bed, &askers(&bed, GUARDED))?;
    a_flood_gets_nothing(&bed, &bed.web, GUARDED)
}

/// An interface that nobody guards, as one is that has come this moment.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_unguarded_interface_is_no_way_around() -> Result<()> {
    let bed = Contained::new()?;
    let _standin = bed.serve(Path::new(STANDIN), bed.host(), GUARDED)?;
    strangers_get_nothing(&bed, &askers(&bed, GUARDED))?;
    a_flood_gets_nothing(&bed, bed.host(), GUARDED)
}

/// What the kernel does by itself, in `tcp_timewait_state_process` and `tcp_v4_send_reset`, before any program is
/// asked (docs/inner.md).
#[test]
#[ignore = "needs root: cargo xtask test"]
fn where_there_is_no_socket_the_kernel_answers_and_that_is_all() -> Result<()> {
    let bed = Contained::new()?;
    let standin = bed.serve(Path::new(STANDIN), bed.host(), GUARDED)?;
    let stranger = Asker::with_address(&bed.pair.client, STRANGER4);
    let server = SocketAddr::new(SERVER4.into(), GUARDED);
    // The server hangs up first, and so it is the server that remembers.
    ensure!(get(stranger, server, "/", SERVED)?.is_served());
    Contained::all_is_said(bed.host())?;
    let guard = for_the_friend(&bed.cgroup).start(bed.host())?;
    let cable = [(&bed.pair.client, CLIENT_INTERFACE), (bed.host(), SERVER_DOOR)];
    let frames = Contained::late_segments(cable, (STRANGER4, SERVER4), GUARDED)?;
    let late = frames.len() as u64;
    let (accepted, sent) = Contained::accepted_and_sent(bed.host())?;
    let mut floods = 0;
    // A full queue may drop the one that it takes.
    until("the kernel to acknowledge", LATE, || {
        floods += 1;
        let flood = Flood::start(cable[0].0, cable[0].1, frames.clone(), late, patience(LATE));
        flood.and_then(Flood::finish).is_ok()
            && Contained::accepted_and_sent(bed.host()).is_ok_and(|(_, now)| now > sent)
    })?;
    let after = Contained::accepted_and_sent(bed.host())?;
    ensure!(after.0 == accepted && after.1 <= sent + floods, "{accepted} and {sent}: {after:?}");
    let dropped = guard.status()?.counter_at(NAME, Mode::Enforce, Reason::NotListed)?;
    ensure!(dropped > late / 2 && dropped < late * floods, "{dropped} of {floods} times {late}");
    ensure!(get(stranger, server, "/", SILENT)? == Answer::NoAnswer);
    drop(standin);
    ensure!(get(stranger, server, "/", SERVED)? == Answer::Refused);
    Ok(())
}

/// A tunnel that ends on the host: the cable carries packets to another port, from another address.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_tunnel_is_no_way_around() -> Result<()> {
    /// The friend's network in the tunnel and the stranger's: the server's address, the client's.
    const INSIDE: [[IpAddr; 2]; 4] = [
        [v4([10, 8, 0, 1]), v4([10, 8, 0, 2])],
        [v6(8, 1), v6(8, 2)],
        [v4([10, 9, 0, 1]), v4([10, 9, 0, 2])],
        [v6(9, 1), v6(9, 2)],
    ];
    let bed = Contained::new()?;
    for (namespace, interface, own, peer, at) in [
        (bed.host(), SERVER_DOOR, SERVER4, FRIEND4, 0),
        (&bed.pair.client, CLIENT_INTERFACE, FRIEND4, SERVER4, 1),
    ] {
        let (own, peer) = (own.to_string(), peer.to_string());
        let ends = ["local", &own, "remote", &peer, "dstport", "4789", "dev", interface];
        let add = ["link", "add", "vx0", "type", "vxlan", "id", "7"];
        namespace.ip(&[&add[..], &ends].concat())?;
        namespace.ip(&["link", "set", "vx0", "up"])?;
        for network in INSIDE {
            let length = if network[at].is_ipv4() { 24 } else { 64 };
            let prefix = format!("{}/{length}", network[at]);
            namespace.ip(&["address", "add", &prefix, "dev", "vx0", "nodad"])?;
        }
    }
    let _standin = bed.serve(Path::new(STANDIN), bed.host(), GUARDED)?;
    let asked: Vec<Asked<'_>> = INSIDE
        .iter()
        .enumerate()
        .map(|(number, &[server, client])| {
            let asker = Asker::with_address(&bed.pair.client, client);
            (asker, SocketAddr::new(server, GUARDED), number < 2)
        })
        .collect();
    everyone_is_served(&asked)?;
    // The friend's address outside lets nobody in.
    let [friend4, friend6] = [INSIDE[0][1], INSIDE[1][1]];
    let setup = inner_only(&bed.cgroup).allow(FRIEND4).allow(friend4).allow(friend6);
    let guard = setup.start(bed.host())?;
    only_the_friend_is_served(&asked)?;
    let strangers = [INSIDE[2], INSIDE[3]].map(|[server, client]| (client, server));
    let tunnel = [(&bed.pair.client, "vx0"), (bed.host(), "vx0")];
    let frames = Contained::knocks_between(tunnel, &strangers, GUARDED)?;
    Knocks { from: tunnel[0], frames, listener: bed.host() }.get_nothing_from(&guard)?;
    only_the_friend_is_served(&asked)?;
    drop(guard);
    everyone_is_served(&asked)
}

const fn v4([a, b, c, d]: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(network: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, network, 0, 0, 0, 0, 0, host))
}

/// From one container to the other on the same bridge: no interface of the host's own is in between.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_neighbour_on_the_bridge_is_let_in_by_a_rule_only() -> Result<()> {
    let bed = Contained::new()?;
    let _standin = bed.serve(Path::new(STANDIN), &bed.web, GUARDED)?;
    let asked = Contained::WEB
        .map(|web| (Asker::from(&bed.neighbour), SocketAddr::new(web, GUARDED), false));
    everyone_is_served(&asked)?;
    let guard = inner_only(&bed.cgroup).start(bed.host())?;
    only_the_friend_is_served(&asked)?;
    let strangers = [0, 1].map(|family| (Contained::NEIGHBOUR[family], Contained::WEB[family]));
    let bridge = [(&bed.neighbour, "eth0"), (&bed.web, "eth0")];
    let frames = Contained::knocks_between(bridge, &strangers, GUARDED)?;
    Knocks { from: bridge[0], frames, listener: &bed.web }.get_nothing_from(&guard)?;
    for neighbour in Contained::NEIGHBOUR {
        guard.done(&["allow", "add", &neighbour.to_string()])?;
    }
    everyone_is_served(&asked)
}

/// The proxy speaks for everybody: behind it nobody can be told apart, which is documented.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn behind_a_proxy_everybody_is_the_gateway() -> Result<()> {
    let bed = Contained::new()?;
    let _standin = bed.serve(Path::new(STANDIN), &bed.web, GUARDED)?;
    let _proxy = bed.hand_on()?;
    everyone_is_behind_the_gateway(&bed)
}

/// So does the kernel that masquerades.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn behind_a_masquerade_everybody_is_the_gateway() -> Result<()> {
    let bed = Contained::new()?;
    bed.publish(PUBLISHED)?;
    bed.masquerade()?;
    let _standin = bed.serve(Path::new(STANDIN), &bed.web, GUARDED)?;
    everyone_is_behind_the_gateway(&bed)
}

fn everyone_is_behind_the_gateway(bed: &Contained) -> Result<()> {
    let asked = askers(bed, PUBLISHED);
    everyone_is_served(&asked)?;
    let guard = for_the_friend(&bed.cgroup).start(bed.host())?;
    for (asker, server, _) in asked {
        let answer = get(asker, server, "/", SILENT)?;
        ensure!(!answer.is_served(), "{asker:?} at {server} got {answer:?}");
    }
    for gateway in Contained::GATEWAY {
        guard.done(&["allow", "add", &gateway.to_string()])?;
    }
    everyone_is_served(&asked)
}

/// What never leaves its network namespace passes, also by another of its addresses.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_program_reaches_its_own_host_without_a_rule() -> Result<()> {
    let bed = Contained::new()?;
    let _at_home = bed.serve(Path::new(STANDIN), bed.host(), GUARDED)?;
    let _inside = bed.serve(Path::new(STANDIN), &bed.web, GUARDED)?;
    let _guard = inner_only(&bed.cgroup).start(bed.host())?;
    let loopback = [IpAddr::from([127, 0, 0, 1]), "::1".parse()?];
    let [at_home, inside] =
        [(bed.host(), [SERVER4.into(), SERVER6.into()]), (&bed.web, Contained::WEB)].map(
            |(namespace, own)| {
                own.into_iter()
                    .chain(loopback)
                    .map(|address| {
                        (Asker::from(namespace), SocketAddr::new(address, GUARDED), true)
                    })
                    .collect::<Vec<_>>()
            },
        );
    only_the_friend_is_served(&at_home)?;
    only_the_friend_is_served(&inside)?;
    // The bridge is no loopback.
    let across = [(Asker::from(&bed.web), SocketAddr::new(Contained::GATEWAY[0], GUARDED), false)];
    only_the_friend_is_served(&across)
}

/// The host's own NAT may send a port to loopback: then the source is what counts.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn who_is_sent_on_to_loopback_is_judged_by_the_source() -> Result<()> {
    let bed = Contained::new()?;
    bed.send_to_loopback(PUBLISHED)?;
    let _standin = bed.serve(Path::new(STANDIN), bed.host(), GUARDED)?;
    let asked: Vec<_> =
        askers(&bed, PUBLISHED).into_iter().filter(|(_, server, _)| server.is_ipv4()).collect();
    strangers_get_nothing(&bed, &asked)
}

/// Programs that have nothing to do with it go on.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn other_ports_and_other_cgroups_are_left_alone() -> Result<()> {
    let bed = Contained::new()?;
    let elsewhere = Cgroup::new()?;
    let _other_port = bed.serve(Path::new(STANDIN), bed.host(), 8000)?;
    let _guarded = bed.serve(Path::new(STANDIN), &bed.web, GUARDED)?;
    let _guard = inner_only(&elsewhere).start(bed.host())?;
    everyone_is_served(&askers(&bed, 8000))?;
    let neighbour =
        [(Asker::from(&bed.neighbour), SocketAddr::new(Contained::WEB[0], GUARDED), true)];
    everyone_is_served(&neighbour)?;
    let _guard = {
        drop(_guard);
        inner_only(&bed.cgroup).start(bed.host())?
    };
    everyone_is_served(&askers(&bed, 8000))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_event_names_the_door_and_the_real_client() -> Result<()> {
    let bed = Contained::new()?;
    bed.publish(PUBLISHED)?;
    let _standin = bed.serve(Path::new(STANDIN), &bed.web, GUARDED)?;
    let guard: Guard<'_> = for_the_friend(&bed.cgroup).start(bed.host())?;
    only_the_friend_is_served(&askers(&bed, PUBLISHED))?;
    let told = guard.done(&["events", "--json"])?;
    let event: serde_json::Value = serde_json::from_str(told.lines().next().unwrap_or_default())?;
    ensure!(event["door"] == NAME && event["hook"] == "cgroup", "{event}");
    ensure!(event["source"] == STRANGER4.to_string(), "{event}");
    ensure!(event["destination"] == Contained::WEB[0].to_string(), "{event}");
    ensure!(event["destination_port"] == GUARDED && event["verdict"] == "drop", "{event}");
    Ok(())
}

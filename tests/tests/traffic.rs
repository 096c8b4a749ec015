//! The main job on real packets: strangers get nothing, friends are served, and everything else
//! is left alone. Seen by clients and by captures.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use ollama_guard_common::{Mode, Reason, Start, Verdict};
use ollama_guard_tests::{
    bed::{
        Answer, Bed, CLIENT_INTERFACE, Capture, Direction, Finished, Guard, GuardSetup, Host,
        SERVER_DOOR, SWITCH_TO_SERVER, Standin, Wire, download, everyone_is_served, get,
        only_the_friend_is_served, post, until,
    },
    packet::{ends, icmp, icmpv6, ipv4, ipv6, tcp},
    policy::{FRIEND4, FRIEND6, GUARDED, Lists, SERVER4, SERVER6, STRANGER4, STRANGER6},
    table::{Case, table},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Every way of attaching that a veth has.
const MODES: [&str; 2] = ["native", "generic"];
/// A port that nobody guards.
const OTHER_PORT: u16 = 8080;
/// The longest frame that these interfaces carry.
const FRAME_BYTES: usize = 1514;
const ETHERNET_HEADER: usize = 14;

fn guard_for_the_friend<'bed>(bed: &'bed Bed, attach: &str) -> Result<Guard<'bed>> {
    GuardSetup::of(SERVER_DOOR)
        .attach(attach)
        .allow(FRIEND4)
        .allow(FRIEND6)
        .start(&bed.server.namespace)
}

/// Everything that leaves the server's guarded port towards a stranger, at the server's door, and
/// everything that arrives from it at the strangers'.
struct Ears {
    captures: Vec<Capture>,
}

impl Ears {
    fn open(bed: &Bed) -> Result<Self> {
        let is_from_the_port = |frame: &[u8], wanted: fn(IpAddr) -> bool| {
            ends(frame)
                .is_some_and(|ends| ends.source.port() == GUARDED && wanted(ends.destination.ip()))
        };
        let is_stranger = |address: IpAddr| address == STRANGER4 || address == STRANGER6;
        let at = |host: &Host, interface, direction| {
            Capture::start(&host.namespace, interface, move |frame, seen| {
                seen == direction && is_from_the_port(frame, is_stranger)
            })
        };
        Ok(Self {
            captures: vec![
                at(&bed.server, SERVER_DOOR, Direction::Out)?,
                at(&bed.stranger4, CLIENT_INTERFACE, Direction::In)?,
                at(&bed.stranger6, CLIENT_INTERFACE, Direction::In)?,
            ],
        })
    }

    fn heard(self) -> u64 {
        self.captures.into_iter().map(|capture| capture.stop().count).sum()
    }
}

fn curl(client: &Host, server: SocketAddr) -> Result<Finished> {
    let url = format!("http://{server}/");
    let arguments = ["--silent", "--show-error", "--globoff", "--max-time", "2", &url];
    client.namespace.run("curl", &arguments, PATIENCE).context("`curl` is needed")
}

/// What `nmap -sS -Pn` says of the guarded port.
fn nmap(client: &Host, server: SocketAddr) -> Result<String> {
    let (port, address) = (server.port().to_string(), server.ip().to_string());
    let mut arguments = vec!["-sS", "-Pn", "-n", "--max-retries", "1", "-p", &port, "-oG", "-"];
    if server.is_ipv6() {
        arguments.push("-6");
    }
    arguments.push(&address);
    let finished = client
        .namespace
        .run("nmap", &arguments, Duration::from_secs(60))
        .context("`nmap` is needed")?;
    let output = finished.expect_success()?;
    let state = output
        .lines()
        .find_map(|line| line.split_once("Ports: "))
        .and_then(|(_, ports)| ports.split('/').nth(1))
        .with_context(|| format!("nmap says nothing of the port:\n{output}"))?;
    Ok(state.to_owned())
}

/// What a person would try from outside.
fn strangers_get_nothing_by_curl_and_nmap(bed: &Bed) -> Result<()> {
    for stranger in [&bed.stranger4, &bed.stranger6] {
        for server in stranger.servers(GUARDED) {
            let finished = curl(stranger, server)?;
            // 28: timed out. 7 would be a refusal, which is an answer.
            assert_eq!((finished.code, finished.stdout.as_str()), (Some(28), ""), "{server}");
            assert_eq!(nmap(stranger, server)?, "filtered", "{server}");
        }
    }
    for server in bed.friend.servers(GUARDED) {
        assert_eq!(curl(&bed.friend, server)?.expect_success()?, "Ollama is running");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn strangers_get_nothing_and_the_friend_is_served_also_after_kill_9() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        everyone_is_served(&bed)?;
        for stranger in [&bed.stranger4, &bed.stranger6] {
            for server in stranger.servers(GUARDED) {
                assert_eq!(nmap(stranger, server)?, "open", "without a guard, {server}");
            }
        }
        let mut guard = guard_for_the_friend(&bed, mode)?;
        assert_eq!(guard.status()?.door(SERVER_DOOR)?.attach.as_deref(), Some(mode));
        let ears = Ears::open(&bed)?;
        only_the_friend_is_served(&bed)?;
        strangers_get_nothing_by_curl_and_nmap(&bed)?;
        guard.kill9()?;
        only_the_friend_is_served(&bed)?;
        strangers_get_nothing_by_curl_and_nmap(&bed)?;
        assert_eq!(ears.heard(), 0, "packets from port {GUARDED} to strangers, {mode}");
        // The contrast: it was the guard.
        drop(guard);
        everyone_is_served(&bed)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_closed_guarded_port_does_not_answer_a_stranger_either() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let _guard = guard_for_the_friend(&bed, mode)?;
        let ears = Ears::open(&bed)?;
        for client in bed.clients() {
            for server in client.servers(GUARDED) {
                let answer = get(&client.namespace, server, "/", Duration::from_secs(1))?;
                let is_friend = client.mac == bed.friend.mac;
                let expected = if is_friend { Answer::Refused } else { Answer::NoAnswer };
                assert_eq!(answer, expected, "{server}, {mode}");
            }
        }
        assert_eq!(ears.heard(), 0);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_friend_uses_the_whole_api_through_the_guard() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let _guard = guard_for_the_friend(&bed, mode)?;
        let friend = &bed.friend.namespace;
        for server in bed.friend.servers(GUARDED) {
            for path in ["/", "/api/version", "/api/tags"] {
                let answer = get(friend, server, path, PATIENCE)?;
                assert!(answer.is_served(), "{path} from {server}, {mode}: {answer:?}");
            }
            let request = r#"{"model":"standin","prompt":"Who is there?"}"#;
            let answer = post(friend, server, "/api/generate", request, PATIENCE)?;
            assert!(answer.is_served(), "a stream from {server}, {mode}: {answer:?}");
            download(friend, server, 20_000_000, PATIENCE)?;
        }
    }
    Ok(())
}

/// Sends the frames of some cases to the door and sees which arrive behind it: those that pass,
/// and none that is dropped. Returns how many were dropped.
fn arrive_as_the_table_says(bed: &Bed, cases: &[Case]) -> Result<u64> {
    let wire = Wire::open(&bed.switch, SWITCH_TO_SERVER)?;
    let arrived = Capture::start(&bed.server.namespace, SERVER_DOOR, |_, direction| {
        direction == Direction::In
    })?;
    let mut dropped = 0;
    for case in cases.iter().filter(|case| case.expect.0 == Verdict::Drop) {
        wire.send(&case.frame).with_context(|| case.name.clone())?;
        dropped += 1;
    }
    let before = arrived.count();
    for case in cases.iter().filter(|case| case.expect.0 == Verdict::Pass) {
        let so_far = arrived.count();
        wire.send(&case.frame).with_context(|| case.name.clone())?;
        // One after the other: no queue on the way can overflow.
        arrived
            .wait_for(so_far + 1, PATIENCE)
            .with_context(|| format!("{} was to arrive", case.name))?;
    }
    assert!(arrived.count() >= before);
    let arrived: HashSet<Vec<u8>> = arrived.stop().frames.into_iter().collect();
    for case in cases {
        let is_there = arrived.contains(&without_outermost_tag(&case.frame));
        assert_eq!(is_there, case.expect.0 == Verdict::Pass, "{}", case.name);
    }
    Ok(dropped)
}

/// What a packet socket shows: the kernel takes the outermost tag off before.
fn without_outermost_tag(frame: &[u8]) -> Vec<u8> {
    match frame.get(12..14) {
        Some([0x81, 0x00] | [0x88, 0xa8]) => [&frame[..12], &frame[16.min(frame.len())..]].concat(),
        _ => frame.to_vec(),
    }
}

/// The cases under these lists that a veth can carry.
fn carried(lists: Lists) -> Vec<Case> {
    table()
        .into_iter()
        .filter(|case| {
            case.lists == lists
                && case.start == Start::Link
                && (ETHERNET_HEADER..=FRAME_BYTES).contains(&case.frame.len())
        })
        .collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_table_holds_on_a_real_wire() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let policy = Lists::Standard.policy();
        let setup = GuardSetup::of(SERVER_DOOR).attach(mode);
        let setup = policy.allow.iter().fold(setup, GuardSetup::allow);
        let setup = policy.deny.iter().fold(setup, GuardSetup::deny);
        let guard = setup.start(&bed.server.namespace)?;
        let cases = carried(Lists::Standard);
        assert!(cases.len() > 300, "only {} cases", cases.len());
        let dropped = arrive_as_the_table_says(&bed, &cases)?;
        let counted =
            || -> Result<u64> { Ok(guard.status()?.drops(Mode::Enforce)?.values().sum()) };
        until(&format!("{dropped} drops to be counted, {mode}"), PATIENCE, || {
            counted().is_ok_and(|counted| counted == dropped)
        })
        .with_context(|| format!("counted: {:?}", counted()))?;
    }
    Ok(())
}

/// Sends an echo request of this many bytes, in two fragments if it has to be, and waits for the
/// answer.
fn ping(client: &Host, server: IpAddr, bytes: usize) -> Result<()> {
    const CUT: u16 = 1400;
    // Fragments of the table, which stay incomplete, have another one.
    const PING: u16 = 0x1234;
    let body = vec![0x5a; bytes];
    let packets = match (server, client.v4, client.v6) {
        (IpAddr::V4(server), Some(own), _) => {
            let (head, echo) = (ipv4(own, server).identification(PING), icmp(8, 0, &body));
            if bytes < CUT.into() {
                vec![head.carries(&echo)]
            } else {
                head.fragments(&echo, CUT).into()
            }
        }
        (IpAddr::V6(server), _, Some(own)) => {
            let (head, echo) =
                (ipv6(own, server).identification(PING.into()), icmpv6(128, 0, &body));
            if bytes < CUT.into() {
                vec![head.carries(&echo)]
            } else {
                head.fragments(&echo, CUT).into()
            }
        }
        _ => anyhow::bail!("no address to ping {server} from"),
    };
    let answers = Capture::start(&client.namespace, CLIENT_INTERFACE, move |frame, direction| {
        direction == Direction::In && is_echo_reply(frame, server)
    })?;
    let wire = Wire::open(&client.namespace, CLIENT_INTERFACE)?;
    for packet in packets {
        wire.send(&client.ethernet().carries_ip(&packet))?;
    }
    answers.wait_for(1, PATIENCE).with_context(|| format!("no echo of {bytes} bytes from {server}"))
}

/// Whether a frame is an echo reply, or the first fragment of one.
fn is_echo_reply(frame: &[u8], from: IpAddr) -> bool {
    match (from, frame.get(12..14)) {
        (IpAddr::V4(from), Some([0x08, 0x00])) => {
            frame.get(26..30) == Some(&from.octets()[..])
                && frame.get(23) == Some(&1)
                && frame.get(34) == Some(&0)
        }
        (IpAddr::V6(from), Some([0x86, 0xdd])) => {
            // Behind a fragment header, if there is one.
            let (next, message) = match frame.get(20) {
                Some(44) => (frame.get(54), frame.get(62)),
                next => (next, frame.get(54)),
            };
            frame.get(22..38) == Some(&from.octets()[..])
                && (next, message) == (Some(&58), Some(&129))
        }
        _ => false,
    }
}

/// The contrast for the tests below and above: what they see as dropped was not lost by the bed,
/// and `curl` and `nmap` tell silence from service.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_a_guard_everything_arrives() -> Result<()> {
    let bed = Bed::new()?;
    let ordinary: Vec<Case> =
        carried(Lists::Empty).into_iter().filter(|case| case.expect.0 == Verdict::Pass).collect();
    arrive_as_the_table_says(&bed, &ordinary)?;
    let mut knocks = carried(Lists::Standard);
    // A frame whose tag is cut off is thrown away by the kernel itself.
    knocks.retain(|case| case.expect.1 != Reason::LinkHeaderCut);
    for case in &mut knocks {
        case.expect = (Verdict::Pass, Reason::NotGuarded);
    }
    arrive_as_the_table_says(&bed, &knocks)?;

    let server = SocketAddr::from((SERVER4, GUARDED));
    assert_eq!(nmap(&bed.stranger4, server)?, "closed");
    assert_eq!(curl(&bed.stranger4, server)?.code, Some(7), "refused");
    bed.server.namespace.ip(&["route", "add", "blackhole", &format!("{STRANGER4}/32")])?;
    assert_eq!(nmap(&bed.stranger4, server)?, "filtered");
    assert_eq!(curl(&bed.stranger4, server)?.code, Some(28), "timed out");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ordinary_traffic_passes_an_empty_allowlist() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        // The server in both roles: as one that is asked, and as a client of others.
        let _other = Standin::start_in(&bed.server.namespace, OTHER_PORT)?;
        let _elsewhere4 = Standin::start_in(&bed.stranger4.namespace, GUARDED)?;
        let _elsewhere6 = Standin::start_in(&bed.stranger6.namespace, GUARDED)?;
        let guard = GuardSetup::of(SERVER_DOOR).attach(mode).start(&bed.server.namespace)?;

        let ordinary: Vec<Case> = carried(Lists::Empty)
            .into_iter()
            .filter(|case| case.expect.0 == Verdict::Pass)
            .collect();
        assert!(ordinary.len() > 100, "only {} cases", ordinary.len());
        assert_eq!(arrive_as_the_table_says(&bed, &ordinary)?, 0);

        // Neighbours are found anew, and pings come through.
        bed.server.namespace.ip(&["neighbour", "flush", "all"])?;
        for client in bed.clients() {
            client.namespace.ip(&["neighbour", "flush", "all"])?;
            for server in client.servers(OTHER_PORT) {
                ping(client, server.ip(), 56)?;
                // In two fragments, there and back.
                ping(client, server.ip(), 2000)?;
                let answer = get(&client.namespace, server, "/", PATIENCE)?;
                assert!(answer.is_served(), "{server}, {mode}: {answer:?}");
            }
        }
        // Answers from somebody else's port 11434, in merged packets: through the door.
        for server in [(IpAddr::from(STRANGER4), GUARDED), (STRANGER6.into(), GUARDED)] {
            download(&bed.server.namespace, server.into(), 50_000_000, PATIENCE * 3)?;
        }
        let drops = guard.status()?.drops(Mode::Enforce)?;
        assert!(drops.values().all(|count| *count == 0), "{mode}: {drops:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn observing_drops_nothing_and_counts_what_it_would_have() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let guard = GuardSetup::of(SERVER_DOOR)
            .attach(mode)
            .arguments(&["--observe"])
            .start(&bed.server.namespace)?;
        everyone_is_served(&bed)?;
        let status = guard.status()?;
        assert_eq!(status.mode()?, "observe");
        assert!(status.drops(Mode::Observe)?.values().sum::<u64>() > 0);
        assert_eq!(status.drops(Mode::Enforce)?.values().sum::<u64>(), 0);
    }
    Ok(())
}

/// Medians of five alternating downloads of 200 MB: without the guard, and with it.
fn five_alternating_downloads(bed: &Bed) -> Result<(f64, f64)> {
    const BYTES: u64 = 200_000_000;
    const ROUNDS: usize = 5;
    let server = SocketAddr::from((SERVER4, GUARDED));
    let measured = || download(&bed.friend.namespace, server, BYTES, Duration::from_secs(60));
    // The first one finds cold caches.
    measured()?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(measured()?);
        // The default way of attaching.
        let _guard = GuardSetup::of(SERVER_DOOR).allow(FRIEND4).start(&bed.server.namespace)?;
        with.push(measured()?);
    }
    println!("without the guard: {without:?}\nwith it: {with:?}");
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[ROUNDS / 2].as_secs_f64()
    };
    Ok((median(&mut without), median(&mut with)))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_friend_downloads_at_nine_tenths_of_the_speed_or_more() -> Result<()> {
    const LEAST: f64 = 0.9;
    // One download takes about a tenth of a second, and a busy machine makes single ones half as
    // fast: a series that was disturbed is repeated. A guard that is slow is slow in all of them.
    const SERIES: usize = 3;
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut speeds = Vec::new();
    for _ in 0..SERIES {
        let (without, with) = five_alternating_downloads(&bed)?;
        println!("200 MB in {without:.3} s without the guard, in {with:.3} s with it");
        speeds.push(without / with);
        if without / with >= LEAST {
            return Ok(());
        }
    }
    panic!("the speed with the guard is {speeds:.2?} of the speed without it");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_segment_is_judged_not_only_the_first() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let guard = GuardSetup::of(SERVER_DOOR).attach(mode).start(&bed.server.namespace)?;
        let stranger = STRANGER4.to_string();
        guard.done(&["allow", "add", &stranger])?;
        let server = SocketAddr::from((SERVER4, GUARDED));
        let client = &bed.stranger4.namespace;
        assert!(get(client, server, "/", PATIENCE)?.is_served());
        // A download under way stalls when its source leaves the list.
        let is_stalled = std::thread::scope(|scope| -> Result<bool> {
            let download =
                scope.spawn(|| download(client, server, 4_000_000_000, Duration::from_secs(4)));
            let bytes = Capture::start(client, CLIENT_INTERFACE, |frame, direction| {
                direction == Direction::In && frame.len() > 1000
            })?;
            bytes.wait_for(100, PATIENCE)?;
            guard.done(&["allow", "remove", &stranger])?;
            Ok(download.join().expect("no panic").is_err())
        })?;
        assert!(is_stalled, "{mode}: the download went on");
    }
    Ok(())
}

#[test]
fn the_frames_of_the_table_that_a_wire_carries_are_enough() {
    assert!(carried(Lists::Standard).len() > 300);
    assert!(carried(Lists::Empty).len() > 100);
    let tagged = ollama_guard_tests::packet::ethernet().priority_tag().carries(0x0800, &[1, 2, 3]);
    assert_eq!(without_outermost_tag(&tagged)[12..], [0x08, 0x00, 1, 2, 3]);
    let knock = ipv6(STRANGER6, SERVER6).carries(&tcp(1, GUARDED));
    assert_eq!(without_outermost_tag(&knock), knock);
}

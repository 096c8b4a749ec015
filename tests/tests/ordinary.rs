//! What the guard leaves alone, and the whole table of packets on a real wire.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use ollama_guard_common::{Mode, Reason, Start, Verdict};
use ollama_guard_tests::{
    bed::{
        Bed, CLIENT_INTERFACE, Capture, Direction, GuardSetup, Host, SERVER_DOOR, SWITCH_TO_SERVER,
        Standin, Wire, download, get, until,
    },
    packet::{ethernet, icmp, icmpv6, ipv4, ipv6, tcp},
    policy::{GUARDED, Lists, SERVER6, STRANGER4, STRANGER6},
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
    for case in cases.iter().filter(|case| case.expect.0 == Verdict::Pass) {
        let so_far = arrived.count();
        wire.send(&case.frame).with_context(|| case.name.clone())?;
        // One after the other: no queue on the way can overflow.
        arrived
            .wait_for(so_far + 1, PATIENCE)
            .with_context(|| format!("{} was to arrive", case.name))?;
    }
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

/// The contrast for the tests below: what they see as dropped was not lost by the bed.
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
        assert!(guard.log().contains("the allowlist is empty"), "{}", guard.log());

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

#[test]
fn the_frames_of_the_table_that_a_wire_carries_are_enough() {
    assert!(carried(Lists::Standard).len() > 300);
    assert!(carried(Lists::Empty).len() > 100);
    let tagged = ethernet().priority_tag().carries(0x0800, &[1, 2, 3]);
    assert_eq!(without_outermost_tag(&tagged)[12..], [0x08, 0x00, 1, 2, 3]);
    let knock = ipv6(STRANGER6, SERVER6).carries(&tcp(1, GUARDED));
    assert_eq!(without_outermost_tag(&knock), knock);
}

//! Frames that Linux delivers to a real listener although their first look says otherwise: each
//! is answered without a guard, and with it nothing comes back.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use ollama_guard_tests::{
    bed::{Bed, CLIENT_INTERFACE, Capture, Direction, GuardSetup, SERVER_DOOR, Standin, Wire},
    packet::{Ipv6, ends, ipv6, overwritten, tcp},
    policy::{GUARDED, SERVER6, STRANGER6},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(700);
/// Of the fake transport headers: a port that nobody guards.
const ELSEWHERE: u16 = 443;

/// A sequence of packets that together are a knock.
type Knock = Vec<Vec<u8>>;

/// Makes a knock that no earlier one is confused with.
type Maker = fn() -> Knock;

/// The first fragment holds nothing but extension headers; behind its end stand fake ones that
/// lead elsewhere. The real ports come in a later fragment.
fn fake_headers_behind_the_end() -> Knock {
    let number = next_number();
    let knock = tcp(port_of(number), GUARDED).bytes(STRANGER6.into(), SERVER6.into());
    let first = packet(number).fragment(0, true).many_destination_options(2);
    let first = overwritten(&first.carries(&tcp(port_of(number), ELSEWHERE)), 4, &[0, 16]);
    // Destination options of eight bytes that name TCP, then TCP.
    let rest = [&[6, 0, 1, 4, 0, 0, 0, 0][..], &knock].concat();
    vec![first, packet(number).fragment(8, false).carries_bytes(60, &rest)]
}

/// The same, the fake chain ending in "no next header".
fn no_next_header_behind_the_end() -> Knock {
    let mut knock = fake_headers_behind_the_end();
    // The second header of destination options stands behind 40 + 8 + 8 bytes.
    knock[0] = overwritten(&knock[0], 56, &[59]);
    knock
}

/// Contrast: an honest pair of fragments.
fn honest_fragments() -> Knock {
    let number = next_number();
    // Linux wants the whole TCP header in the first one.
    let knock = tcp(port_of(number), GUARDED).payload(b"GET / HTTP/1.1\r\n");
    packet(number).fragments(&knock, 24).to_vec()
}

/// A packet of a knock: the fragments of one knock share a number, and no two knocks do.
fn packet(number: u32) -> Ipv6 {
    ipv6(STRANGER6, SERVER6).identification(number)
}

fn next_number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A port that no earlier knock came from, or the answer would be one to a known connection.
fn port_of(number: u32) -> u16 {
    41_000 + (number % 1_000) as u16
}

/// Sends a knock and counts what comes back from the guarded port.
fn answers(bed: &Bed, knock: &[Vec<u8>]) -> Result<u64> {
    let host = &bed.stranger6;
    let heard = Capture::start(&host.namespace, CLIENT_INTERFACE, |frame, direction| {
        direction == Direction::In && ends(frame).is_some_and(|ends| ends.source.port() == GUARDED)
    })?;
    let wire = Wire::open(&host.namespace, CLIENT_INTERFACE)?;
    for packet in knock {
        wire.send(&host.ethernet().carries_ip(packet))?;
    }
    std::thread::sleep(PATIENCE);
    Ok(heard.stop().count)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn headers_behind_the_end_of_a_first_fragment_open_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let knocks: [(&str, Maker); 3] = [
        ("fake headers behind the end", fake_headers_behind_the_end),
        ("no next header behind the end", no_next_header_behind_the_end),
        ("honest fragments", honest_fragments),
    ];
    for (name, knock) in knocks {
        ensure!(answers(&bed, &knock())? > 0, "without a guard, no answer to: {name}");
        let mut reversed = knock();
        reversed.reverse();
        ensure!(answers(&bed, &reversed)? > 0, "without a guard, no answer to, reversed: {name}");
    }
    for mode in ["native", "generic"] {
        let guard = GuardSetup::of(SERVER_DOOR).attach(mode).start(&bed.server.namespace)?;
        for (name, knock) in knocks {
            let mut reversed = knock();
            reversed.reverse();
            for knock in [knock(), reversed] {
                let count = answers(&bed, &knock)?;
                ensure!(count == 0, "{mode}: {count} answers to: {name}");
            }
        }
        guard.done(&["detach"])?;
    }
    Ok(())
}

//! Counters are exact, events are best effort, and the books balance.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use ollama_guard_common::{Mode, Reason};
use ollama_guard_tests::{
    bed::{
        Bed, Book, CLIENT_INTERFACE, Flood, Guard, GuardSetup, SERVER_DOOR, Wire, until, until_some,
    },
    packet::{ethernet, ipv4, ipv6, tcp},
    policy::{GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

const PATIENCE: Duration = Duration::from_secs(20);
const MODES: [&str; 2] = ["native", "generic"];

fn knocks(bed: &Bed) -> Vec<Vec<u8>> {
    (0..100)
        .map(|port| {
            let knock = ipv4(STRANGER4, SERVER4).carries(&tcp(30_000 + port, GUARDED));
            bed.stranger4.ethernet().carries_ip(&knock)
        })
        .collect()
}

/// A flood of strangers' knocks to its end.
fn flood(bed: &Bed, packets: u64) -> Result<u64> {
    let host = &bed.stranger4.namespace;
    Flood::start(host, CLIENT_INTERFACE, knocks(bed), packets, PATIENCE)?.finish()
}

/// The books once no packet is in flight: two looks in a row say the same.
fn quiet_book(guard: &Guard<'_>, mode: Mode) -> Result<Book> {
    let mut last = None;
    until_some("the books to be quiet", PATIENCE, || {
        let book = guard.status().and_then(|status| status.book(mode)).ok()?;
        (last.replace(book) == Some(book)).then_some(book)
    })
    .with_context(|| format!("the last look: {last:?}, status: {:?}", guard.status()))
}

fn assert_balanced(guard: &Guard<'_>, mode: Mode, what: &str) -> Result<Book> {
    let book = quiet_book(guard, mode)?;
    println!("{what}: {book:?}");
    assert!(book.balances(), "{what}: {book:?}");
    let status = guard.status()?;
    let by_reason: u64 = status.drops(mode)?.values().sum();
    assert_eq!(book.dropped, by_reason, "{what}: the reasons add up to something else");
    // The reader's side, over all daemons that there were: what was put into the ring was taken out
    // of it, or is still there.
    let submitted = status.book(Mode::Enforce)?.submitted + status.book(Mode::Observe)?.submitted;
    let (read, unread) = status.ring()?;
    assert_eq!(submitted, read + unread, "{what}: the ring holds something else");
    Ok(book)
}

/// P7.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_books_balance_over_stalls_and_deaths_of_the_daemon() -> Result<()> {
    for attach in MODES {
        let bed = Bed::new()?;
        let mut guard = GuardSetup::of(SERVER_DOOR).attach(attach).start(&bed.server.namespace)?;
        assert_eq!(assert_balanced(&guard, Mode::Enforce, "at the begin")?.dropped, 0);

        // The reader stalls: the ring fills or the allowance is spent.
        guard.signal(Signal::SIGSTOP)?;
        let sent = flood(&bed, 100_000)?;
        guard.signal(Signal::SIGCONT)?;
        let stalled = assert_balanced(&guard, Mode::Enforce, "after a stall")?;
        assert!(stalled.dropped > 0 && stalled.dropped <= sent, "{stalled:?} of {sent}");
        assert!(stalled.suppressed + stalled.lost > 0, "{stalled:?}: no flood for the events");

        // The reader dies in the middle of a flood, and another comes.
        let host = &bed.stranger4.namespace;
        let running = Flood::start(host, CLIENT_INTERFACE, knocks(&bed), u64::MAX, PATIENCE)?;
        until("the flood to run", PATIENCE, || running.sent() > 10_000)?;
        guard.kill9()?;
        let so_far = running.sent();
        until("the flood to go on without a daemon", PATIENCE, || {
            running.sent() > so_far + 10_000
        })?;
        guard.start()?;
        let sent = sent + running.stop()?;
        let restarted = assert_balanced(&guard, Mode::Enforce, "after a death")?;
        assert!(restarted.dropped > stalled.dropped && restarted.dropped <= sent, "of {sent}");

        // And without a daemon, from the pins.
        guard.kill9()?;
        let sent = sent + flood(&bed, 10_000)?;
        let alone = assert_balanced(&guard, Mode::Enforce, "without a daemon")?;
        assert!(alone.dropped > restarted.dropped && alone.dropped <= sent, "of {sent}");
    }
    Ok(())
}

/// With a budget that no flood exhausts, a reader that stalls lets the ring run full.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_books_balance_over_a_full_ring() -> Result<()> {
    for attach in MODES {
        let bed = Bed::new()?;
        let config = "[[service]]\nname = \"ollama\"\n[events]\nper_second = 1000000\n";
        let mut guard = GuardSetup::of(SERVER_DOOR)
            .attach(attach)
            .config(config)
            .start(&bed.server.namespace)?;
        guard.signal(Signal::SIGSTOP)?;
        flood(&bed, 100_000)?;
        guard.signal(Signal::SIGCONT)?;
        let full = assert_balanced(&guard, Mode::Enforce, "after a full ring")?;
        assert!(full.submitted > 0 && full.lost > 0, "{full:?}");
        // The reader is there again, and reads on.
        flood(&bed, 1000)?;
        let after = assert_balanced(&guard, Mode::Enforce, "and after it")?;
        assert!(after.submitted > full.submitted, "{after:?}");
        // Killed with a full ring: what was not read is given up, and the books still balance.
        guard.signal(Signal::SIGSTOP)?;
        flood(&bed, 100_000)?;
        guard.kill9()?;
        guard.start()?;
        let restarted = assert_balanced(&guard, Mode::Enforce, "after a death with a full ring")?;
        assert!(restarted.lost > full.lost, "{restarted:?}");
        flood(&bed, 1000)?;
        assert_balanced(&guard, Mode::Enforce, "and by the next daemon")?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_books_of_observe_mode_balance_too() -> Result<()> {
    for attach in MODES {
        let bed = Bed::new()?;
        let guard = GuardSetup::of(SERVER_DOOR)
            .attach(attach)
            .arguments(&["--observe"])
            .start(&bed.server.namespace)?;
        flood(&bed, 20_000)?;
        let observed = assert_balanced(&guard, Mode::Observe, "observed")?;
        assert!(observed.dropped > 0);
        assert_eq!(assert_balanced(&guard, Mode::Enforce, "enforced")?, Book::default());
    }
    Ok(())
}

/// Packet by packet: each reason is counted by itself, and nothing else is.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_dropped_packet_is_counted_once_under_its_reason() -> Result<()> {
    for attach in MODES {
        let bed = Bed::new()?;
        let guard = GuardSetup::of(SERVER_DOOR)
            .attach(attach)
            .allow("192.0.2.0/24")
            .deny("192.0.2.66")
            .start(&bed.server.namespace)?;
        let wire = Wire::open(&bed.switch, ollama_guard_tests::bed::SWITCH_TO_SERVER)?;
        let v4 = |source: [u8; 4]| ipv4(source.into(), SERVER4);
        let knock = tcp(40_000, GUARDED);
        let sent = [
            (Reason::NotListed, 7, v4([203, 0, 113, 66]).carries(&knock)),
            (Reason::Denied, 5, v4([192, 0, 2, 66]).carries(&knock)),
            (Reason::Allowed, 3, v4([192, 0, 2, 10]).carries(&knock)),
            (Reason::SourceLoopback, 2, v4([127, 0, 0, 1]).carries(&knock)),
            (
                Reason::FragmentNested,
                4,
                ipv6(STRANGER6, SERVER6).atomic_fragment().atomic_fragment().carries(&knock),
            ),
            (Reason::NotGuarded, 9, v4([203, 0, 113, 66]).carries(&tcp(40_000, 9))),
        ];
        for (_, count, packet) in &sent {
            for _ in 0..*count {
                wire.send(&ethernet().carries_ip(packet))?;
            }
        }
        for (reason, count, _) in sent {
            // Packets to other ports are not counted at all.
            let expected = if reason == Reason::NotGuarded { 0 } else { count };
            let counted =
                || guard.status().and_then(|status| status.counter(Mode::Enforce, reason));
            until(&format!("{expected} x {}", reason.name()), PATIENCE, || {
                counted().is_ok_and(|counted| counted == expected)
            })
            .with_context(|| format!("{attach}: counted {:?}", counted()))?;
        }
        assert_eq!(assert_balanced(&guard, Mode::Enforce, "one by one")?.dropped, 7 + 5 + 2 + 4);
    }
    Ok(())
}

/// Drops appear as events, at once, with everything that a person asks for.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn drops_stream_by_as_events() -> Result<()> {
    let bed = Bed::new()?;
    let guard = GuardSetup::of(SERVER_DOOR).attach("generic").start(&bed.server.namespace)?;
    let (mut reader, output) = guard.follow(&["events", "--json", "--follow"], "events.json")?;
    let (mut other, other_output) = guard.follow(&["events", "--follow"], "events.txt")?;
    let wire = Wire::open(&bed.stranger4.namespace, CLIENT_INTERFACE)?;
    let wanted = STRANGER4.to_string();
    let events = until_some("events of the stranger", PATIENCE, || {
        wire.send(&knocks(&bed)[0]).ok()?;
        let text = fs::read_to_string(&output).ok()?;
        let people = fs::read_to_string(&other_output).ok()?;
        // Only whole lines, and both readers.
        let (whole, _) = text.rsplit_once('\n')?;
        (whole.contains(&wanted) && people.contains(&wanted)).then(|| whole.to_owned())
    })?;
    let event: serde_json::Value = events
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .find(|event: &serde_json::Value| event["source"] == wanted.as_str())
        .context("the event is a line of JSON")?;
    for (field, expected) in [
        ("verdict", serde_json::json!("drop")),
        ("reason", "not-listed".into()),
        ("source_port", 30_000.into()),
        ("destination", SERVER4.to_string().into()),
        ("destination_port", GUARDED.into()),
        ("protocol", "tcp".into()),
        ("door", SERVER_DOOR.into()),
        ("length", 54.into()),
    ] {
        assert_eq!(event[field], expected, "{field} in {event}");
    }
    assert!(event["time"].as_str().is_some_and(|time| time.contains('T')), "{event}");
    assert!(event["count"].as_u64().is_some_and(|count| count >= 1), "{event}");
    assert!(reader.is_running() && other.is_running(), "readers follow until they are ended");
    Ok(())
}

/// `explain` runs the loaded program's twin: nothing that it does is counted.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn explaining_says_what_would_happen_and_disturbs_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .allow("192.0.2.0/24")
        .deny("192.0.2.66")
        .start(&bed.server.namespace)?;
    let before = quiet_book(&guard, Mode::Enforce)?;
    for (source, code, part) in [
        ("192.0.2.10", 0, "192.0.2.0/24"),
        ("192.0.2.66", 1, "192.0.2.66"),
        ("203.0.113.66", 1, "not-listed"),
        ("2001:db8:bad::66", 1, "not-listed"),
    ] {
        let explained = guard.cli(&["explain", source])?;
        assert_eq!(explained.code, Some(code), "{explained:?}");
        assert!(explained.stdout.contains(part), "{part} is not in: {}", explained.stdout);
    }
    let other_port = guard.cli(&["explain", "203.0.113.66", "--port", "22"])?;
    assert_eq!(other_port.code, Some(0), "{other_port:?}");
    assert_eq!(quiet_book(&guard, Mode::Enforce)?, before);
    assert_eq!(guard.status()?.counter(Mode::Enforce, Reason::Allowed)?, 0);
    Ok(())
}

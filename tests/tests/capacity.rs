//! How much fits, and that too much is refused before it matters.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::Result;
use ollama_guard_common::{Mode, Reason};
use ollama_guard_tests::{
    bed::{Bed, Capture, Direction, Guard, GuardSetup, SERVER_DOOR, SWITCH_TO_SERVER, Wire, until},
    packet::{ends, ethernet, ipv4, tcp},
    policy::{GUARDED, SERVER4},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn knock(source: Ipv4Addr) -> Vec<u8> {
    ethernet().carries_ip(&ipv4(source, SERVER4).carries(&tcp(40_000, GUARDED)))
}

/// The knocks of one source that got past the door.
fn passed(bed: &Bed, source: Ipv4Addr) -> Result<Capture> {
    Capture::start(&bed.server.namespace, SERVER_DOOR, move |frame, direction| {
        direction == Direction::In
            && ends(frame).is_some_and(|ends| {
                ends.source.ip() == IpAddr::from(source) && ends.destination.port() == GUARDED
            })
    })
}

/// P5.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn too_big_is_known_before_it_matters() -> Result<()> {
    const CAPACITY: u8 = 64;
    const HALF: u8 = CAPACITY / 2;
    let bed = Bed::new()?;
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .arguments(&["--capacity", "64"])
        .start(&bed.server.namespace)?;
    let address4 = |last: u8| format!("198.51.100.{last}");
    let address6 = |last: u8| format!("2001:db8:7::{last:x}");
    // Both families share the room.
    let most: Vec<String> = (1..=HALF).map(address4).chain((1..HALF).map(address6)).collect();
    let most: Vec<&str> = most.iter().map(String::as_str).collect();
    guard.done(&[&["allow", "add"], most.as_slice()].concat())?;
    guard.done(&["allow", "add", &address6(HALF)])?;
    let before = guard.status()?.generation()?;
    for one_more in [address4(HALF + 1), address6(HALF + 1)] {
        let refused = guard.cli(&["allow", "add", &one_more])?;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert_eq!(guard.status()?.generation()?, before, "a refused edit changed something");
        for part in ["64", "capacity"] {
            assert!(refused.stderr.contains(part), "{part} is not in: {}", refused.stderr);
        }
    }
    // A prefix that is in already needs no room.
    guard.done(&["allow", "add", &address6(HALF)])?;
    let status = guard.status()?;
    assert_eq!(status.capacity()?, u64::from(CAPACITY));
    assert_eq!(status.prefixes()?, (u64::from(HALF), u64::from(HALF)));

    // The last one that fitted is really in the kernel, the one too many is not.
    let wire = Wire::open(&bed.switch, SWITCH_TO_SERVER)?;
    let last = Ipv4Addr::new(198, 51, 100, HALF);
    let too_many = Ipv4Addr::new(198, 51, 100, HALF + 1);
    let (inside, outside) = (passed(&bed, last)?, passed(&bed, too_many)?);
    wire.send(&knock(too_many))?;
    wire.send(&knock(last))?;
    inside.wait_for(1, PATIENCE)?;
    assert_eq!(outside.stop().count, 0);

    // Room that is made is room.
    guard.done(&["allow", "remove", &address4(1)])?;
    guard.done(&["allow", "add", &too_many.to_string()])?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn too_many_prefixes_at_start_are_refused_with_the_way_out() -> Result<()> {
    let bed = Bed::new()?;
    let setup = GuardSetup::of(SERVER_DOOR).arguments(&["--capacity", "2"]);
    let guard = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        .iter()
        .fold(setup, |setup, prefix| setup.allow(prefix))
        .prepare(&bed.server.namespace)?;
    let refused = guard.run_to_the_end(PATIENCE)?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("capacity"), "{}", refused.stderr);
    Ok(())
}

/// The tables are made anew, and nothing else is.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn another_capacity_at_the_next_start_keeps_the_link_the_rules_and_the_counters() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .config("capacity = 64\n")
        .start(&bed.server.namespace)?;
    let (friend, stranger) = (Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2));
    guard.done(&["allow", "add", &friend.to_string()])?;
    let wire = Wire::open(&bed.switch, SWITCH_TO_SERVER)?;
    wire.send(&knock(stranger))?;
    let not_listed = |guard: &Guard<'_>| guard.status()?.counter(Mode::Enforce, Reason::NotListed);
    until("the drop to be counted", PATIENCE, || not_listed(&guard).is_ok_and(|count| count > 0))?;
    let before = guard.status()?;
    for capacity in [200_000, 64] {
        guard.kill9()?;
        guard.write_config(&format!("capacity = {capacity}\n"))?;
        guard.start()?;
        let now = guard.status()?;
        assert_eq!(now.capacity()?, capacity);
        assert_eq!(now.door(SERVER_DOOR)?.link, before.door(SERVER_DOOR)?.link, "the same link");
        assert!(now.generation()? > before.generation()?, "the numbers of policies go on");
        assert!(not_listed(&guard)? >= before.counter(Mode::Enforce, Reason::NotListed)?);
        let (inside, outside) = (passed(&bed, friend)?, passed(&bed, stranger)?);
        wire.send(&knock(stranger))?;
        wire.send(&knock(friend))?;
        inside.wait_for(1, PATIENCE)?;
        assert_eq!(outside.stop().count, 0);
    }
    Ok(())
}

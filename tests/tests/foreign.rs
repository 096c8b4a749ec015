//! A foreign XDP program is never displaced and never taken for ours.

use std::time::Duration;

use anyhow::Result;
use aya::programs::XdpMode;
use ollama_guard_tests::{
    bed::{
        Bed, Foreign, GuardSetup, SERVER_DOOR, Standin, XDP_PASS, XDP_TX, everyone_is_served,
        only_the_friend_is_served, xdp_program_id,
    },
    policy::{FRIEND4, FRIEND6, GUARDED},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// P12.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_foreign_program_is_never_displaced() -> Result<()> {
    for (action, place) in [
        (XDP_PASS, XdpMode::Driver),
        (XDP_PASS, XdpMode::Skb),
        (XDP_TX, XdpMode::Driver),
        (XDP_TX, XdpMode::Skb),
    ] {
        for attach in ["auto", "native", "generic"] {
            let what = format!("action {action} in {place:?}, we ask for {attach}");
            let bed = Bed::new()?;
            let foreign = Foreign::attach(&bed.server.namespace, SERVER_DOOR, action, place)?;
            let id = foreign.program_id()?;
            let seen = || xdp_program_id(&bed.server.namespace, SERVER_DOOR);
            assert_eq!(seen()?, Some(id), "{what}");

            let mut guard = GuardSetup::of(SERVER_DOOR)
                .attach(attach)
                .allow(FRIEND4)
                .allow(FRIEND6)
                .prepare(&bed.server.namespace)?;
            let refused = guard.run_to_the_end(PATIENCE)?;
            assert_eq!(refused.code, Some(2), "{what}: {refused:?}");
            let words: Vec<&str> =
                refused.stderr.split(|byte: char| !byte.is_alphanumeric()).collect();
            assert!(
                words.contains(&id.to_string().as_str()),
                "{what}: no id {id} in: {}",
                refused.stderr
            );
            assert!(words.contains(&SERVER_DOOR), "{what}: no interface in: {}", refused.stderr);
            assert_eq!(seen()?, Some(id), "{what}: the foreign program is not there any more");

            // Once it is gone, the door is ours.
            foreign.detach()?;
            let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
            everyone_is_served(&bed)?;
            guard.start()?;
            assert!(seen()?.is_some_and(|ours| ours != id), "{what}");
            only_the_friend_is_served(&bed)?;
        }
    }
    Ok(())
}

/// While ours is there, nobody takes the door silently.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_foreign_program_cannot_take_our_place() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .allow(FRIEND4)
        .allow(FRIEND6)
        .start(&bed.server.namespace)?;
    let ours = guard.status()?.door(SERVER_DOOR)?.program;
    for place in [XdpMode::Driver, XdpMode::Skb] {
        assert!(Foreign::attach(&bed.server.namespace, SERVER_DOOR, XDP_PASS, place).is_err());
    }
    assert_eq!(xdp_program_id(&bed.server.namespace, SERVER_DOOR)?, ours);
    only_the_friend_is_served(&bed)
}

/// The foreign programs of these tests do what they say.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_foreign_programs_load_and_leave() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    for place in [XdpMode::Driver, XdpMode::Skb] {
        let passing = Foreign::attach(&bed.server.namespace, SERVER_DOOR, XDP_PASS, place)?;
        let seen = xdp_program_id(&bed.server.namespace, SERVER_DOOR)?;
        assert_eq!(seen, Some(passing.program_id()?));
        everyone_is_served(&bed)?;
        passing.detach()?;
    }
    let turning = Foreign::attach(&bed.server.namespace, SERVER_DOOR, XDP_TX, XdpMode::Skb)?;
    assert!(everyone_is_served(&bed).is_err(), "everything is turned round at the door");
    drop(turning);
    assert_eq!(xdp_program_id(&bed.server.namespace, SERVER_DOOR)?, None);
    everyone_is_served(&bed)
}

//! Strangers flood a door while a friend behind it asks again and again, and something happens to
//! the guard meanwhile.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};

use super::{
    Answer, Bed, CLIENT_INTERFACE, Capture, Direction, Flood, Host, SERVER_DOOR, get, patience,
    rounds, wait::is_slow,
};
use crate::{
    packet::{ends, ipv4, ipv6, tcp},
    policy::{GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

/// How long the friend waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest that such a flood lasts.
const FLOOD_LIMIT: Duration = Duration::from_secs(180);

/// What came of it.
#[derive(Debug)]
pub struct UnderFlood {
    /// The strangers' packets that got past every XDP program.
    pub passed: u64,
    /// What the guarded port answered to strangers.
    pub answered: u64,
    /// All packets of the strangers.
    pub flooded: u64,
    /// How often the friend was served.
    pub served: u64,
    /// What the friend got otherwise.
    pub failures: Vec<Answer>,
}

impl UnderFlood {
    /// Lets `work` happen under a flood in both families.
    ///
    /// # Errors
    ///
    /// If `work` fails, or the bed does not work.
    pub fn during(bed: &Bed, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        Self::during_asking(bed, "/api/version", work)
    }

    /// The same with a friend that asks for another path: for other servers than the stand-in.
    ///
    /// # Errors
    ///
    /// As [`Self::during`].
    pub fn during_asking(bed: &Bed, path: &str, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let knocks4 = (0..64).map(|port| {
            let knock = ipv4(STRANGER4, SERVER4).carries(&tcp(20_000 + port, GUARDED));
            bed.stranger4.ethernet().carries_ip(&knock)
        });
        let knocks6 = (0..64).map(|port| {
            let knock = ipv6(STRANGER6, SERVER6).carries(&tcp(20_000 + port, GUARDED));
            bed.stranger6.ethernet().carries_ip(&knock)
        });
        let is_stranger =
            |source: IpAddr| source == IpAddr::from(STRANGER4) || source == IpAddr::from(STRANGER6);
        let door = &bed.server.namespace;
        let passed = Capture::start(door, SERVER_DOOR, move |frame, direction| {
            direction == Direction::In
                && ends(frame).is_some_and(|ends| {
                    ends.destination.port() == GUARDED && is_stranger(ends.source.ip())
                })
        })?;
        let answered = Capture::start(door, SERVER_DOOR, move |frame, direction| {
            direction == Direction::Out
                && ends(frame).is_some_and(|ends| {
                    ends.source.port() == GUARDED && is_stranger(ends.destination.ip())
                })
        })?;
        let flood = |host: &Host, frames| {
            let limit = patience(FLOOD_LIMIT);
            Flood::start(&host.namespace, CLIENT_INTERFACE, frames, u64::MAX, limit)
        };
        let flood4 = flood(&bed.stranger4, knocks4.collect())?;
        let flood6 = flood(&bed.stranger6, knocks6.collect())?;
        let is_over = AtomicBool::new(false);
        let (worked, friend) = thread::scope(|scope| {
            let friend = scope.spawn(|| friend_asks(bed, path, &is_over));
            let worked = work();
            is_over.store(true, Ordering::Relaxed);
            let friend = friend.join().unwrap_or_else(|_| Err(anyhow!("the friend panicked")));
            (worked, friend)
        });
        let flooded = flood4.stop()? + flood6.stop()?;
        let (passed, answered) = (passed.stop().count, answered.stop().count);
        worked?;
        let (served, failures) = friend?;
        Ok(Self { passed, answered, flooded, served, failures })
    }

    /// Makes sure that nothing got past, that the friend was always served, and that there was a
    /// flood worth the name.
    ///
    /// # Panics
    ///
    /// If it is not so.
    pub fn assert_held(&self, what: &str) {
        self.assert_held_at_tc(what);
        assert_eq!(self.passed, 0, "{what}: packets of strangers got past the door");
    }

    /// The same for a door that is guarded at TC, which comes behind packet sockets
    /// (`__netif_receive_skb_core`, net/core/dev.c): whether a packet got past is told by the answer.
    ///
    /// # Panics
    ///
    /// If it is not so.
    pub fn assert_held_at_tc(&self, what: &str) {
        println!("{what}: {} packets from strangers, {} served", self.flooded, self.served);
        // On a slow machine it leaves time for what it floods, and that is done a few times only.
        let least = if is_slow() { 100 } else { 10_000 };
        assert!(self.flooded > least, "{what}: only {} packets from strangers", self.flooded);
        assert_eq!(self.answered, 0, "{what}: strangers were answered");
        assert!(
            self.served > rounds(10) as u64,
            "{what}: the friend was served only {} times",
            self.served
        );
        assert!(self.failures.is_empty(), "{what}: the friend got {:?}", self.failures);
    }
}

fn friend_asks(bed: &Bed, path: &str, is_over: &AtomicBool) -> Result<(u64, Vec<Answer>)> {
    let (mut served, mut failures) = (0, Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        for server in bed.friend.servers(GUARDED) {
            match get(&bed.friend.namespace, server, path, patience(PATIENCE))? {
                Answer::Served(_) => served += 1,
                failure => failures.push(failure),
            }
        }
    }
    Ok((served, failures))
}

//! Strangers that never stop, and a friend who asks again and again.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};

use crate::{
    bed::{Answer, Bed, CLIENT_INTERFACE, Capture, Direction, SERVER_DOOR, Wire, get},
    packet::{ends, ipv4, ipv6, tcp},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

/// Frames of each family at once, and the pause behind them: some thousands a second, and time for
/// everything else.
const BURST: u16 = 16;
const PAUSE: Duration = Duration::from_millis(4);
/// Between two questions of the friend.
const BREATH: Duration = Duration::from_millis(5);
/// More than the events that a daemon keeps, and where they come from (RFC 6598).
const CROWD: u32 = 2_000;
const CROWDED: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const CROWD_PAUSE: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_secs(10);

/// The wires of the strangers, and a capture behind the door.
#[derive(Debug)]
pub(super) struct Traffic<'bed> {
    bed: &'bed Bed,
    passed: Capture,
    /// Of the friend: the proof that the capture beside it hears.
    heard: Capture,
}

/// What came of a while of traffic.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Frames of strangers.
    pub(super) sent: u64,
    /// Answers to the friend.
    pub(super) served: u64,
    /// What the friend got otherwise.
    pub(super) failures: Vec<Answer>,
}

impl<'bed> Traffic<'bed> {
    /// Begins to listen behind the door, which is guarded already.
    pub(super) fn new(bed: &'bed Bed) -> Result<Self> {
        let knocks = |of: [IpAddr; 2]| {
            Capture::start(&bed.server.namespace, SERVER_DOOR, move |frame, direction| {
                direction == Direction::In
                    && ends(frame).is_some_and(|ends| {
                        ends.destination.port() == GUARDED && of.contains(&ends.source.ip())
                    })
            })
        };
        let passed = knocks([STRANGER4.into(), STRANGER6.into()])?;
        Ok(Self { bed, passed, heard: knocks([FRIEND4.into(), FRIEND6.into()])? })
    }

    /// Frames of the friend behind the door, ever.
    pub(super) fn heard(&self) -> u64 {
        self.heard.count()
    }

    /// Frames of strangers that got past the door, ever.
    pub(super) fn passed(&self) -> u64 {
        self.passed.count()
    }

    /// A knock each of very many strangers. Gives their number.
    pub(super) fn crowd(&self) -> Result<u64> {
        let host = &self.bed.stranger4;
        let wire = Wire::open(&host.namespace, CLIENT_INTERFACE)?;
        for number in 0..CROWD {
            let source = Ipv4Addr::from(u32::from(CROWDED) + number);
            let knock = ipv4(source, SERVER4).carries(&tcp(20_000, GUARDED));
            wire.send(&host.ethernet().carries_ip(&knock))?;
            // Within the budget of events.
            thread::sleep(CROWD_PAUSE);
        }
        Ok(CROWD.into())
    }

    /// Lets them send and ask for as long as `work` takes.
    pub(super) fn during(&self, work: impl FnOnce() -> Result<()>) -> Result<Told> {
        let is_over = AtomicBool::new(false);
        let panicked = |_| Err(anyhow!("a sender panicked"));
        thread::scope(|scope| {
            let strangers = scope.spawn(|| self.strangers(&is_over));
            let friend = scope.spawn(|| self.friend(&is_over));
            let worked = work();
            is_over.store(true, Ordering::Relaxed);
            let sent = strangers.join().unwrap_or_else(panicked);
            let friend = friend.join().unwrap_or_else(|_| Err(anyhow!("the friend panicked")));
            worked?;
            let (served, failures) = friend?;
            Ok(Told { sent: sent?, served, failures })
        })
    }

    fn strangers(&self, is_over: &AtomicBool) -> Result<u64> {
        let (host4, host6) = (&self.bed.stranger4, &self.bed.stranger6);
        let wire4 = Wire::open(&host4.namespace, CLIENT_INTERFACE)?;
        let wire6 = Wire::open(&host6.namespace, CLIENT_INTERFACE)?;
        let mut frames = Vec::new();
        for port in 20_000..20_000 + BURST {
            let segment = tcp(port, GUARDED);
            let v4 = ipv4(STRANGER4, SERVER4).carries(&segment);
            let v6 = ipv6(STRANGER6, SERVER6).carries(&segment);
            frames.push((&wire4, host4.ethernet().carries_ip(&v4)));
            frames.push((&wire6, host6.ethernet().carries_ip(&v6)));
        }
        let mut sent = 0;
        while !is_over.load(Ordering::Relaxed) {
            for (wire, frame) in &frames {
                wire.send(frame)?;
                sent += 1;
            }
            thread::sleep(PAUSE);
        }
        Ok(sent)
    }

    fn friend(&self, is_over: &AtomicBool) -> Result<(u64, Vec<Answer>)> {
        let (mut served, mut failures) = (0, Vec::new());
        while !is_over.load(Ordering::Relaxed) {
            for server in self.bed.friend.servers(GUARDED) {
                match get(&self.bed.friend.namespace, server, "/api/version", PATIENCE)? {
                    Answer::Served(_) => served += 1,
                    failure => failures.push(failure),
                }
            }
            thread::sleep(BREATH);
        }
        Ok((served, failures))
    }
}

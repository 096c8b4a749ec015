//! Looks up host names, by a clock of its own.
//!
//! # What this room promises
//!
//! * A name is looked up when it becomes known, when its last answer has run out (within 30 s to an hour), when
//!   the host's `resolv.conf` or `hosts` change, and when somebody asks for it. A packet never causes anything.
//! * What it yields are whole answers, of both families, each a set of addresses that may be admitted: see
//!   [`screen`]. An answer with an address in it that never may be is refused whole.
//! * Names are absolute: search domains are not used, because they would let another domain's owner answer.
//! * Everything is bounded: lookups at a time, time for one, addresses in an answer, names.
//!
//! # What is deliberately not here
//!
//! What an answer changes: the guard decides that, and keeps what it knows.

#![forbid(unsafe_code)]

mod lookup;
mod schedule;
mod screen;

use std::{
    collections::{BTreeSet, HashSet},
    future::Future,
    net::IpAddr,
    pin::pin,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use self::schedule::Schedule;
use crate::policy::HostName;

pub use lookup::SystemResolver;

/// Names at a time.
const AT_ONCE: usize = 16;
/// How long one name may take, with all repetitions.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the host's files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Whoever answers what addresses a name has.
pub trait Resolver: Clone + Send + 'static {
    /// Asks for both families.
    fn ask(&self, name: HostName) -> impl Future<Output = Result<Answer, String>> + Send;

    /// Whether it would ask others, or otherwise, than before, and does from now on.
    fn has_changed(&self) -> impl Future<Output = bool> + Send;
}

/// An answer, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of both families; none if there is no such name.
    pub addresses: BTreeSet<IpAddr>,
    /// How long it holds, as whoever answered says.
    pub lasts: Duration,
}

/// What came of looking a name up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name.
    pub name: HostName,
    /// When.
    pub at: Timestamp,
    /// When it will be looked up again.
    pub next: Timestamp,
    /// The addresses, all of which may be admitted, or why there is no answer.
    pub outcome: Result<BTreeSet<IpAddr>, String>,
}

/// The names that are to be looked up, and when somebody asked for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The names.
    pub names: BTreeSet<HostName>,
}

/// The task that looks names up.
pub struct Room<R> {
    /// Who answers.
    pub resolver: R,
    /// The names, which may change at any time.
    pub wanted: watch::Receiver<Wanted>,
    /// Each change of the number is a wish to have all of them looked up now.
    pub again: watch::Receiver<u64>,
    /// Where answers go.
    pub found: mpsc::Sender<Found>,
}

impl<R: Resolver> Room<R> {
    /// Looks names up until `stop` is ready.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { resolver, mut wanted, mut again, found } = self;
        let mut stop = pin!(stop);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut schedule = Schedule::default();
        let mut asking = HashSet::new();
        let mut answers: JoinSet<(HostName, Result<Answer, String>)> = JoinSet::new();
        schedule.want(&wanted.borrow_and_update().names, Instant::now());
        loop {
            let now = Instant::now();
            while asking.len() < AT_ONCE
                && let Some(name) = schedule.take_due(now)
            {
                asking.insert(name.clone());
                let resolver = resolver.clone();
                answers.spawn(async move {
                    let answer = timeout(PATIENCE, resolver.ask(name.clone())).await;
                    let late = |_| Err(format!("no answer within {} s", PATIENCE.as_secs()));
                    (name, answer.unwrap_or_else(late))
                });
            }
            let next = schedule.next().filter(|_| asking.len() < AT_ONCE);
            tokio::select! {
                () = &mut stop => return,
                // Should the sender be gone, `stop` follows.
                Ok(()) = wanted.changed() => {
                    schedule.want(&wanted.borrow_and_update().names, Instant::now());
                }
                Ok(()) = again.changed() => schedule.all_now(Instant::now()),
                _ = look.tick(), if !schedule.is_empty() => {
                    if resolver.has_changed().await {
                        tracing::info!("how this host looks up names has changed: asking for all again");
                        schedule.all_now(Instant::now());
                    }
                }
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
                Some(Ok((name, answer))) = answers.join_next() => {
                    asking.remove(&name);
                    if let Some(one) = schedule.answered(name, answer, Instant::now()) {
                        let now = Timestamp::now();
                        let (name, wait, outcome) = one;
                        let wait = SignedDuration::try_from(wait).unwrap_or_default();
                        let next = now.checked_add(wait).unwrap_or(now);
                        if found.send(Found { name, at: now, next, outcome }).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

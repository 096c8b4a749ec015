//! Learning who uses the guarded ports: one session at a time, for as long as its client listens.
//!
//! Whatever ends a session, its task puts the usual programs back into the links: the end of its time,
//! a client that goes away, a daemon that stops. A daemon that is killed does not; the next one puts
//! its own programs there.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use ollama_guard_common::Mode;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    control::{
        Failure, Peer,
        backend::Working,
        learning::{LearnLine, LearnRequest, Progress},
    },
    dataplane::{SourceTable, Sources},
    doors::{HOST_GROUPS, HostGroups},
    events::Clock,
    guard::{Handle, Stopped},
    policy::{
        Rule,
        proposal::{Observations, Proposal, Sighting, propose},
    },
    status::LearningStatus,
};

/// Lines on their way to the client.
const LINES: usize = 64;
/// Between two lines about the progress, and the share of the time that counting for them may take.
const PAUSE: Duration = Duration::from_secs(1);
const SHARE: u32 = 20;

/// Starts sessions.
pub(super) struct Learner {
    handle: Handle,
    turn: Arc<Semaphore>,
    status: Arc<Mutex<Option<LearningStatus>>>,
}

/// One of them.
struct Session {
    handle: Handle,
    status: Arc<Mutex<Option<LearningStatus>>>,
    table: Arc<SourceTable>,
    since: Timestamp,
    end: Instant,
    mode: Mode,
    _turn: OwnedSemaphorePermit,
    _working: Working,
}

impl Learner {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, turn: Arc::new(Semaphore::new(1)), status: Arc::default() }
    }

    /// What `status` shows of it.
    pub(super) fn status(&self) -> Option<LearningStatus> {
        lock(&self.status).clone()
    }

    /// Begins a session. It ends when its lines are not read any more.
    pub(super) async fn learn(
        &self,
        request: LearnRequest,
        peer: Peer,
        working: Working,
    ) -> Result<mpsc::Receiver<LearnLine>, Failure> {
        if let Some(problem) = request.problem() {
            return Err(Failure::BadInput(problem));
        }
        let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() else {
            return Err(Failure::Conflict(self.busy()));
        };
        let by = peer.user.clone().unwrap_or_else(|| format!("uid {}", peer.uid));
        let begun = self.handle.learn(request, peer).await?;
        let (since, lasts) = (Timestamp::now(), Duration::from_secs(request.seconds.into()));
        let until = SignedDuration::try_from(lasts).ok().and_then(|d| since.checked_add(d).ok());
        let until = until.unwrap_or(Timestamp::MAX);
        *lock(&self.status) = Some(LearningStatus { since, until, by });
        let session = Session {
            handle: self.handle.clone(),
            status: Arc::clone(&self.status),
            table: Arc::new(begun.table),
            since,
            end: Instant::now() + lasts,
            mode: begun.mode,
            _turn: turn,
            _working: working,
        };
        let (sender, lines) = mpsc::channel(LINES);
        tokio::spawn(session.run(sender));
        Ok(lines)
    }

    fn busy(&self) -> String {
        let who = self.status().map_or_else(String::new, |LearningStatus { by, until, .. }| {
            format!(", begun by {by}, until {until:.0}")
        });
        format!("somebody learns already{who}: wait for the end, or interrupt that command")
    }
}

impl Session {
    async fn run(self, lines: mpsc::Sender<LearnLine>) {
        let is_over = tokio::select! {
            () = self.tell_progress(&lines) => false,
            () = lines.closed() => false,
            () = sleep_until(self.end) => true,
        };
        let ended = self.handle.maintain(|guard| guard.sink_mut().end_learning()).await;
        *lock(&self.status) = None;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "learning has ended, and a link runs its program still");
            }
            Err(Stopped) => return,
        }
        if !is_over {
            tracing::info!("learning was broken off: nobody listens any more");
            return;
        }
        tracing::info!("learning has ended");
        match self.conclude().await {
            Err(Stopped) => {}
            Ok(Err(error)) => _ = lines.send(LearnLine::Failed(error)).await,
            Ok(Ok(Proposal { entries, summary })) => {
                for entry in entries {
                    if lines.send(LearnLine::Entry(entry)).await.is_err() {
                        return;
                    }
                }
                _ = lines.send(LearnLine::Done(summary)).await;
            }
        }
    }

    /// Never ends by itself.
    async fn tell_progress(&self, lines: &mpsc::Sender<LearnLine>) {
        loop {
            let begun = Instant::now();
            if let Ok(sources) = self.read().await {
                let left = self.end.saturating_duration_since(Instant::now());
                let packets = sources.seen.values().map(|seen| seen.allowed + seen.refused).sum();
                let progress = Progress {
                    seconds_left: left.as_secs_f64().ceil() as u32,
                    sources: sources.seen.len() as u64,
                    packets,
                    homeless: sources.homeless,
                };
                // One that has no room for it does without.
                _ = lines.try_send(LearnLine::Progress(progress));
            }
            sleep(PAUSE.max(begun.elapsed() * SHARE)).await;
        }
    }

    /// What was counted so far.
    async fn read(&self) -> Result<Sources, String> {
        let table = Arc::clone(&self.table);
        match spawn_blocking(move || table.read()).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn conclude(&self) -> Result<Result<Proposal, String>, Stopped> {
        let asked = self.handle.maintain(|guard| {
            let rules: Vec<Rule> = guard.written().cloned().collect();
            (rules, guard.resolved(), guard.mode())
        });
        let (rules, names, mode) = asked.await?;
        let (sources, clock) = match (self.read().await, Clock::now()) {
            (Ok(sources), Ok(clock)) => (sources, clock),
            (Err(error), _) => return Ok(Err(error)),
            (_, Err(error)) => return Ok(Err(error.to_string())),
        };
        let networks = networks().await;
        let until = Timestamp::now();
        // In observe mode for a part of the time is enough for strangers to have been answered.
        let mode = if self.mode == Mode::Observe { self.mode } else { mode };
        let since = self.since;
        let proposing = spawn_blocking(move || {
            let sightings = sightings(&sources, &clock);
            propose(&Observations {
                sightings: &sightings,
                mode,
                since,
                until,
                homeless: sources.homeless,
                networks: &networks,
                rules: &rules,
                names: &names,
            })
        });
        Ok(proposing.await.map_err(|error| error.to_string()))
    }
}

fn sightings(sources: &Sources, clock: &Clock) -> Vec<Sighting> {
    let sighting = |(&source, seen): (&_, &ollama_guard_common::abi::SourceRecord)| Sighting {
        source,
        allowed: seen.allowed,
        refused: seen.refused,
        bytes: seen.bytes,
        first: clock.at(seen.first_ns),
        last: clock.at(seen.last_ns),
        traits: seen.traits,
    };
    sources.seen.iter().map(sighting).collect()
}

/// The networks that this host is in.
async fn networks() -> Vec<IpNet> {
    match HostGroups::read().await {
        Ok(groups) => {
            let [_, (local, _), (containers, _), ..] = HOST_GROUPS;
            let members = [local, containers].into_iter().filter_map(|name| groups.members(name));
            members.flatten().map(|one| one.net).collect()
        }
        Err(error) => {
            tracing::warn!("this host's own networks are not known: {error}");
            Vec::new()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

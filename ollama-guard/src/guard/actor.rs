//! The guard on a thread of its own: filling the kernel's tables takes as long as it takes, and
//! must not hold up the tasks that answer everybody else.
//!
//! Long because what can be asked of the guard stands beside how it is answered.

mod ended;
mod naming;
mod record;
mod trial;

use std::{
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::net::if_::if_nameindex;
use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

pub(super) use self::record::write;
use self::record::write_plain;
use super::{
    Desired, Ended, Guard, GuardError, Moment, Standing,
    learning::{self, Begun},
};
use crate::{
    audit_log::{AuditLog, Entry},
    control::{
        backend::{Failure, Manner},
        learning::LearnRequest,
        peer::Peer,
        protocol::{DetachReply, Edit, EditReply, RuleList, TrialReply},
    },
    dataplane::{Dataplane, DataplaneError, INNER_NAME, TrialEnd, counters::INNER_DOOR, memory},
    names::{Found, Wanted},
};

/// Requests that may wait.
const QUEUE: usize = 64;

/// Something to be done on the guard's thread.
type Work = Box<dyn FnOnce(&mut Guard<Dataplane>) + Send>;

enum Request {
    Rules(oneshot::Sender<RuleList>),
    Edit(Box<Edit>, Manner, Peer, oneshot::Sender<Result<EditReply, Failure>>),
    Settle(TrialEnd, Peer, oneshot::Sender<Result<TrialReply, Failure>>),
    Reconfigure(
        Box<Desired>,
        Option<Duration>,
        Asked,
        oneshot::Sender<Result<Reconfigured, Failure>>,
    ),
    Learn(LearnRequest, Peer, oneshot::Sender<Result<Begun, Failure>>),
    Resolved(Found),
    ConfirmInner(Peer, oneshot::Sender<Result<(), Failure>>),
    Maintain(Work),
    Refill {
        per_second: u32,
        seconds: f64,
    },
    Detach(Peer, oneshot::Sender<Result<DetachReply, Failure>>),
}

/// Who wants another configuration, for the audit log.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The client of the control socket, or this very process.
    pub peer: Peer,
    /// Why, in words.
    pub why: String,
    /// What it is, in words.
    pub what: String,
    /// What it is in the audit log.
    pub action: &'static str,
}

impl Asked {
    /// Of the files.
    pub fn to_reload(peer: Peer, why: impl Into<String>) -> Self {
        Self { peer, why: why.into(), what: "the new configuration".into(), action: "reload" }
    }
}

/// A configuration that was taken.
#[derive(Clone, Debug)]
pub struct Reconfigured {
    /// The number of the policy in force now.
    pub generation: u64,
    /// Whether nobody is let in any more.
    pub is_closed: bool,
    /// Until when it is on trial.
    pub trial_until: Option<Timestamp>,
    /// The number of that trial.
    pub trial_number: Option<u64>,
    /// What to say of those who were shut out while they were connected.
    pub shut_out: Vec<String>,
}

/// The way to the guard. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    standing: watch::Receiver<Standing>,
    wanted: watch::Receiver<Wanted>,
}

/// The guard has ended: it was detached, or the daemon stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guard is stopping; try again when it runs")]
pub struct Stopped;

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Self {
        Self::Unavailable(stopped.to_string())
    }
}

/// Starts the thread. The receiver resolves when the guard has ended. `at_start` is what had ended before.
/// Needs a tokio runtime.
pub fn spawn(
    guard: Guard<Dataplane>,
    audit: AuditLog,
    at_start: Ended,
) -> std::io::Result<(Handle, oneshot::Receiver<()>)> {
    let (requests, queue) = mpsc::channel(QUEUE);
    let (ended, ending) = oneshot::channel();
    let (to_standing, standing) = watch::channel(Standing::default());
    let (to_wanted, wanted) = watch::channel(Wanted::default());
    let runtime = runtime::Handle::current();
    // The start was something large.
    let untidy = Some(Instant::now());
    let mut actor = Actor { guard, audit, untidy, standing: to_standing, wanted: to_wanted };
    actor.tell(&at_start, Timestamp::now());
    actor.publish_names();
    thread::Builder::new().name("guard".into()).spawn(move || {
        actor.run(queue, &runtime);
        // Nobody may be listening any more.
        let _ = ended.send(());
    })?;
    Ok((Handle { requests, standing, wanted }, ending))
}

impl Handle {
    /// What `status` shows of the guard. Does not wait.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// The names that are to be looked up.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.clone()
    }

    /// Hands over what came of looking a name up.
    pub async fn resolved(&self, found: Found) -> Result<(), Stopped> {
        self.requests.send(Request::Resolved(found)).await.map_err(|_| Stopped)
    }

    /// Every rule, as it is shown.
    pub async fn rules(&self) -> Result<RuleList, Stopped> {
        self.ask(Request::Rules).await
    }

    /// Changes the rules, or tells what that would come to.
    pub async fn edit(&self, edit: Edit, manner: Manner, peer: Peer) -> Result<EditReply, Failure> {
        self.ask(|reply| Request::Edit(Box::new(edit), manner, peer, reply)).await?
    }

    /// Ends a trial.
    pub async fn settle(&self, end: TrialEnd, peer: Peer) -> Result<TrialReply, Failure> {
        self.ask(|reply| Request::Settle(end, peer, reply)).await?
    }

    /// Puts another configuration in force; with `trial` only for so long, unless it is confirmed.
    pub async fn reconfigure(
        &self,
        desired: Desired,
        trial: Option<Duration>,
        asked: Asked,
    ) -> Result<Reconfigured, Failure> {
        self.ask(|reply| Request::Reconfigure(Box::new(desired), trial, asked, reply)).await?
    }

    /// Waits until there is something else to be shown of the guard.
    pub async fn changed(&mut self) -> Result<(), Stopped> {
        self.standing.changed().await.map_err(|_| Stopped)
    }

    /// Has the programs count by source. Whoever asks has to end it, by
    /// [`Dataplane::end_learning`].
    pub async fn learn(&self, request: LearnRequest, peer: Peer) -> Result<Begun, Failure> {
        self.ask(|reply| Request::Learn(request, peer, reply)).await?
    }

    /// Does something on the guard's thread, between two requests: what belongs to no request,
    /// like looking after the doors.
    pub async fn maintain<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Guard<Dataplane>) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        self.ask(|reply| Request::Maintain(Box::new(move |guard| drop(reply.send(work(guard))))))
            .await
    }

    /// Has the inner door drop, and writes the audit log.
    pub async fn confirm_inner(&self, peer: Peer) -> Result<(), Failure> {
        self.ask(|reply| Request::ConfirmInner(peer, reply)).await?
    }

    /// Takes everything out of the kernel and ends the guard.
    pub async fn detach(&self, peer: Peer) -> Result<DetachReply, Failure> {
        self.ask(|reply| Request::Detach(peer, reply)).await?
    }

    /// Refills the budget of events. Does not wait: while the guard is busy the budget is spent,
    /// and events are suppressed and counted.
    pub fn refill(&self, per_second: u32, seconds: f64) -> Result<(), Stopped> {
        match self.requests.try_send(Request::Refill { per_second, seconds }) {
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Stopped),
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
        }
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

struct Actor {
    guard: Guard<Dataplane>,
    audit: AuditLog,
    /// When something large was last done, if what it took is not given back yet.
    untidy: Option<Instant>,
    standing: watch::Sender<Standing>,
    wanted: watch::Sender<Wanted>,
}

/// So long after something large its request and its answer are gone as well.
const TIDY: Duration = Duration::from_secs(1);
/// Prefixes in a request from which on it is something large.
const LARGE: usize = 1000;
/// How often the clock is looked at while rules have an end. No alarm is set: the wall clock may be set
/// forward, and the machine may sleep.
const GLANCE: Duration = Duration::from_millis(250);

impl Actor {
    fn run(mut self, mut queue: mpsc::Receiver<Request>, runtime: &runtime::Handle) {
        // A client that does not wait for its answer any more is no reason to stop.
        loop {
            let next = if self.guard.awaits_something() {
                runtime.block_on(async { timeout(GLANCE, queue.recv()).await })
            } else {
                Ok(queue.blocking_recv())
            };
            // First: what has ended is in no answer.
            self.look_at_clock();
            let Ok(next) = next else { continue };
            let Some(request) = next else { return };
            match request {
                Request::Rules(reply) => {
                    let rules = self.guard.rules();
                    self.note(rules.rules.len());
                    drop(reply.send(rules));
                }
                Request::Edit(edit, manner, peer, reply) => {
                    let done = self.edit(&edit, manner, &peer);
                    self.publish_names();
                    drop(reply.send(done));
                }
                Request::Settle(end, peer, reply) => {
                    let done = self.settle(end, &peer);
                    self.publish_names();
                    drop(reply.send(done));
                }
                Request::Reconfigure(desired, trial, asked, reply) => {
                    let done = self.reconfigure(*desired, trial, &asked);
                    self.publish_names();
                    drop(reply.send(done));
                }
                Request::Resolved(found) => {
                    self.hear(found);
                    self.publish_names();
                }
                Request::Learn(request, peer, reply) => {
                    learning::begin(&mut self.guard, &mut self.audit, request, &peer, reply);
                }
                Request::ConfirmInner(peer, reply) => {
                    drop(reply.send(self.confirm_inner(&peer)));
                }
                Request::Maintain(work) => {
                    work(&mut self.guard);
                    self.follow_trial();
                }
                Request::Refill { per_second, seconds } => self.refill(per_second, seconds),
                Request::Detach(peer, reply) => {
                    drop(reply.send(self.detach(&peer)));
                    return;
                }
            }
        }
    }

    fn edit(&mut self, edit: &Edit, manner: Manner, peer: &Peer) -> Result<EditReply, Failure> {
        let now = Moment::now();
        let by = peer.name();
        let result = match manner {
            Manner::DryRun => {
                self.note(edit.prefixes());
                return Ok(self.guard.preview(edit, &by, &now)?);
            }
            Manner::ForGood => self.guard.edit(edit, &by, &now),
            Manner::OnTrial(time) => self.try_edit(edit, time, &by, &now),
        };
        self.note(edit.prefixes());
        self.record_edit(edit, peer, now.wall, &result);
        Ok(result?)
    }

    fn reconfigure(
        &mut self,
        desired: Desired,
        trial: Option<Duration>,
        asked: &Asked,
    ) -> Result<Reconfigured, Failure> {
        let now = Moment::now();
        let at = now.wall;
        self.note(desired.rules.len());
        let result = match trial {
            None => self.guard.reconfigure(desired, &now),
            Some(time) => self.try_configuration(desired, time, asked, &now),
        };
        let Asked { peer, why, action, .. } = asked;
        let outcome = result.as_ref().map(drop).map_err(GuardError::to_string);
        let changed = matches!(result, Ok(true));
        let entry = Entry {
            time: at,
            uid: peer.uid,
            pid: peer.pid,
            user: peer.user.as_deref(),
            action,
            effect: None,
            prefixes: &[],
            comment: Some(why),
            generation: changed.then(|| self.guard.generation()),
            result: outcome.as_ref().copied().map_err(String::as_str),
        };
        write(&mut self.audit, &entry);
        result?;
        let is_closed = self.guard.is_closed();
        let trial = self.guard.on_trial().map(|trial| (trial.until, trial.number));
        let (trial_until, trial_number) = trial.unzip();
        let shut_out = if changed { self.guard.shut_out() } else { Vec::new() };
        let generation = self.guard.generation();
        Ok(Reconfigured { generation, is_closed, trial_until, trial_number, shut_out })
    }

    /// Takes note of something about so many prefixes.
    fn note(&mut self, prefixes: usize) {
        if prefixes >= LARGE {
            self.untidy = Some(Instant::now());
        }
    }

    fn refill(&mut self, per_second: u32, seconds: f64) {
        self.guard.sink_mut().tidy();
        if self.untidy.is_some_and(|when| when.elapsed() >= TIDY) {
            memory::give_back();
            self.untidy = None;
        }
        if let Err(error) = self.guard.sink_mut().refill_allowance(per_second, seconds) {
            tracing::error!(%error, "cannot refill the budget of events");
        }
    }

    fn confirm_inner(&mut self, peer: &Peer) -> Result<(), Failure> {
        let result = self.guard.sink_mut().observe_inside(false).map(drop);
        let outcome = result.as_ref().map(drop).map_err(DataplaneError::to_string);
        write_plain(&mut self.audit, "confirm-inner", peer, &outcome);
        result.map_err(|error| Failure::Internal(error.to_string()))
    }

    fn detach(mut self, peer: &Peer) -> Result<DetachReply, Failure> {
        let audit = &mut self.audit;
        let result = self.guard.into_sink().detach();
        let outcome = result.as_ref().map(drop).map_err(DataplaneError::to_string);
        write_plain(audit, "detach", peer, &outcome);
        let interfaces = result.map_err(|error| Failure::Internal(error.to_string()))?;
        let removed = interfaces.into_iter().map(filter_on).collect();
        Ok(DetachReply { removed, warnings: Vec::new() })
    }
}

fn filter_on(ifindex: u32) -> String {
    if ifindex == INNER_DOOR {
        return format!("the {INNER_NAME}");
    }
    let names = if_nameindex().ok();
    let name = names.as_ref().and_then(|all| all.iter().find(|one| one.index() == ifindex));
    match name {
        Some(one) => format!("the filter on interface {}", one.name().to_string_lossy()),
        None => format!("the filter on interface {ifindex}"),
    }
}

//! What stands behind the socket.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use super::{
    learning::{LearnLine, LearnRequest},
    peer::Peer,
    protocol::{
        DetachReply, Edit, EditReply, InnerReply, ModeRequest, ReloadReply, ReloadRequest,
        RuleList, TrialReply,
    },
};
use crate::{
    dataplane::TrialEnd,
    events::{Bounds, Line, Subscription},
};

/// Answers the requests of clients that may make them. The daemon implements it; access was
/// decided before.
///
/// A change that was begun is always brought to its end, also when the client goes away: the
/// futures of [`Backend::edit`] and [`Backend::detach`] are never dropped half-way, but for the
/// end of the process.
pub trait Backend: Send + Sync + 'static {
    /// What `status` shows.
    fn status(&self) -> BoxFuture<'_, Result<Value, Failure>>;

    /// All rules.
    fn rules(&self) -> BoxFuture<'_, Result<RuleList, Failure>>;

    /// Changes the rules, wholly or not at all, and writes the audit log; or only says what that would
    /// change.
    fn edit(
        &self,
        edit: Edit,
        manner: Manner,
        peer: Peer,
    ) -> BoxFuture<'_, Result<EditReply, Failure>>;

    /// Ends a trial, and writes the audit log.
    fn settle(&self, end: TrialEnd, peer: Peer) -> BoxFuture<'_, Result<TrialReply, Failure>>;

    /// Reads the configuration again and puts it in force, wholly or not at all, and writes the audit
    /// log; or only says what that would change.
    fn reload(
        &self,
        request: ReloadRequest,
        peer: Peer,
    ) -> BoxFuture<'_, Result<ReloadReply, Failure>>;

    /// Has services enforced or observed, and writes the audit log; or only says what that would change.
    fn set_mode(
        &self,
        request: ModeRequest,
        peer: Peer,
    ) -> BoxFuture<'_, Result<ReloadReply, Failure>>;

    /// The recent events and the new ones.
    fn events(&self) -> Subscription;

    /// The events of the past within the window, the oldest first: all that [`Backend::events`] does
    /// not have, of which the first has the number `before`.
    fn past(&self, bounds: Bounds, before: u64) -> mpsc::Receiver<Vec<Line>>;

    /// Counts who is at the guarded ports for a while, and writes the audit log. What was begun ends
    /// when nobody receives its lines any more; until then it holds on to `working`.
    fn learn(
        &self,
        request: LearnRequest,
        peer: Peer,
        working: Working,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LearnLine>, Failure>>;

    /// Has the inner door drop that has only observed since an upgrade, and writes the audit log.
    fn confirm_inner(&self, peer: Peer) -> BoxFuture<'_, Result<InnerReply, Failure>>;

    /// Takes the guard out of the kernel, and writes the audit log.
    fn detach(&self, peer: Peer) -> BoxFuture<'_, Result<DetachReply, Failure>>;
}

/// How a change is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// For good.
    #[default]
    ForGood,
    /// For so long, unless it is confirmed.
    OnTrial(Duration),
    /// Not at all: it is only told what it would come to.
    DryRun,
}

/// As long as it lives, the server waits for it when it ends.
pub type Working = watch::Receiver<()>;

/// Why a request was not done. The text is for a person: what failed, on what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// The request is wrong (400).
    #[error("{0}")]
    BadInput(String),
    /// The rule belongs to the configuration, and the text says where it stands (409).
    #[error("{0}")]
    Conflict(String),
    /// Not now, for example while the daemon stops (503).
    #[error("{0}")]
    Unavailable(String),
    /// It is not the client's fault (500).
    #[error("{0}")]
    Internal(String),
}

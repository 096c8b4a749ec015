//! The beginning of a session of learning, on the guard's thread.

use jiff::Timestamp;
use ollama_guard_common::Mode;
use tokio::sync::oneshot;

use super::{Guard, actor};
use crate::{
    audit_log::{AuditLog, Entry},
    control::{backend::Failure, learning::LearnRequest, peer::Peer},
    dataplane::{Dataplane, DataplaneError, SourceTable},
};

/// A session has begun.
pub struct Begun {
    /// What is counted.
    pub table: SourceTable,
    /// Whether verdicts are carried out meanwhile.
    pub mode: Mode,
}

/// Begins one, and writes the audit log. Where nobody is left who would end it, it ends here.
pub(super) fn begin(
    guard: &mut Guard<Dataplane>,
    audit: &mut AuditLog,
    request: LearnRequest,
    peer: &Peer,
    reply: oneshot::Sender<Result<Begun, Failure>>,
) {
    let LearnRequest { seconds, sources } = request;
    let result = guard.sink_mut().begin_learning(sources);
    let outcome = result.as_ref().map(drop).map_err(DataplaneError::to_string);
    let entry = Entry {
        time: Timestamp::now(),
        uid: peer.uid,
        pid: peer.pid,
        user: peer.user.as_deref(),
        action: "learn",
        effect: None,
        prefixes: &[],
        comment: Some(&format!("for {seconds} s, room for {sources} sources")),
        generation: None,
        result: outcome.as_ref().copied().map_err(String::as_str),
    };
    actor::write(audit, &entry);
    let begun = result
        .map(|table| Begun { table, mode: guard.mode() })
        .map_err(|error| Failure::Internal(error.to_string()));
    if begun.is_ok() {
        tracing::info!("learning for {seconds} s: the programs that count by source are in place");
    }
    if reply.send(begun).is_err()
        && let Err(error) = guard.sink_mut().end_learning()
    {
        tracing::error!(%error, "learning can't be ended as it should");
    }
}

//! Who asked for what, and what came of it: lines of the audit log.

use jiff::Timestamp;

use super::Actor;
use crate::{
    audit_log::{AuditLog, Entry},
    control::{
        peer::Peer,
        protocol::{Edit, EditReply},
    },
    guard::GuardError,
};

impl Actor {
    pub(super) fn record_edit(
        &mut self,
        edit: &Edit,
        peer: &Peer,
        time: Timestamp,
        result: &Result<EditReply, GuardError>,
    ) {
        let (prefixes, comment) = match edit {
            Edit::Add(request) => (request.prefixes.clone(), request.comment.as_ref()),
            Edit::Remove(request) => (request.prefixes.clone(), None),
            Edit::Replace(request) => {
                (request.rules.iter().map(|rule| rule.prefix.clone()).collect(), None)
            }
        };
        let outcome = result.as_ref().map(drop).map_err(GuardError::to_string);
        let entry = Entry {
            time,
            uid: peer.uid,
            pid: peer.pid,
            user: peer.user.as_deref(),
            action: edit.action(),
            effect: Some(edit.effect().name()),
            prefixes: &prefixes,
            comment: comment.map(|comment| comment.as_str()),
            generation: result.as_ref().ok().map(|reply| reply.generation),
            result: outcome.as_ref().copied().map_err(String::as_str),
        };
        write(&mut self.audit, &entry);
    }
}

/// The change is made by now: a log that can't be written is said loudly, and undoes nothing.
pub(in crate::guard) fn write(audit: &mut AuditLog, entry: &Entry<'_>) {
    if let Err(error) = audit.append(entry) {
        tracing::error!(%error, action = entry.action, uid = entry.uid, "the audit log has a gap");
    }
}

/// What is about no rule.
pub(super) fn write_plain(
    audit: &mut AuditLog,
    action: &'static str,
    peer: &Peer,
    outcome: &Result<(), String>,
) {
    let entry = Entry {
        time: Timestamp::now(),
        uid: peer.uid,
        pid: peer.pid,
        user: peer.user.as_deref(),
        action,
        effect: None,
        prefixes: &[],
        comment: None,
        generation: None,
        result: outcome.as_ref().copied().map_err(String::as_str),
    };
    write(audit, &entry);
}

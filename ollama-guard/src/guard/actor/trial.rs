//! Trials, told to whoever wants to know.

use std::time::Duration;

use jiff::Timestamp;
use nix::unistd::geteuid;

use super::{Actor, Asked, write};
use crate::{
    audit_log::Entry,
    control::{
        backend::Failure,
        peer::Peer,
        protocol::{Edit, EditReply, TrialReply, TrialView},
    },
    dataplane::TrialEnd,
    guard::{Attempt, Desired, GuardError, Moment, OnTrial},
};

impl Actor {
    /// Makes a change on trial.
    pub(super) fn try_edit(
        &mut self,
        edit: &Edit,
        time: Duration,
        by: &str,
        now: &Moment,
    ) -> Result<EditReply, GuardError> {
        let what = format!("`{} {}`", edit.effect(), edit.action());
        let attempt = Attempt { time, what, by: by.to_owned() };
        let mut reply =
            self.guard.attempt(&attempt, now, |guard| guard.make_edit(edit, by, now))?;
        reply.trial_until = self.guard.on_trial().map(|trial| trial.until);
        self.show_trial(None);
        Ok(reply)
    }

    /// Puts a configuration in force on trial.
    pub(super) fn try_configuration(
        &mut self,
        desired: Desired,
        time: Duration,
        asked: &Asked,
        now: &Moment,
    ) -> Result<bool, GuardError> {
        let (what, by) = (asked.what.clone(), asked.peer.name());
        let attempt = Attempt { time, what, by };
        let tried =
            self.guard.attempt(&attempt, now, |guard| guard.make_reconfiguration(desired, now));
        self.show_trial(None);
        tried
    }

    /// Ends a trial because somebody says so.
    pub(super) fn settle(&mut self, end: TrialEnd, peer: &Peer) -> Result<TrialReply, Failure> {
        let number = self.number();
        let ended = match end {
            TrialEnd::Confirmed => self.guard.confirm(&Moment::now()),
            TrialEnd::Reverted => self.guard.revert(),
        };
        // What was too late to be confirmed was taken back.
        let how = if ended.is_ok() { end } else { TrialEnd::Reverted };
        self.show_trial(number.map(|number| (number, how)));
        let action = match end {
            TrialEnd::Confirmed => "confirm",
            TrialEnd::Reverted => "revert",
        };
        let outcome = ended.as_ref().map(drop).map_err(GuardError::to_string);
        self.record_trial(
            action,
            (peer.uid, peer.pid, peer.user.as_deref()),
            ended.as_ref().ok(),
            outcome.as_ref().copied().map_err(String::as_str),
        );
        let trial = ended?;
        let by = peer.name();
        tracing::info!("{}: {} by {}, {action}ed by {by}", self.generation(), trial.what, trial.by);
        Ok(TrialReply { trial: view(&trial), generation: self.guard.generation() })
    }

    /// Goes back to what was before, if the time is over.
    pub(super) fn revert_due(&mut self, now: &Moment) {
        let number = self.number();
        let Some(ended) = self.guard.revert_due(now) else { return };
        self.show_trial(number.map(|number| (number, TrialEnd::Reverted)));
        self.publish_names();
        let uid = geteuid().as_raw();
        let outcome = ended.as_ref().map(drop).map_err(GuardError::to_string);
        self.record_trial(
            "reverted",
            (uid, i32::try_from(std::process::id()).ok(), None),
            ended.as_ref().ok(),
            outcome.as_ref().copied().map_err(String::as_str),
        );
        match ended {
            Ok(OnTrial { what, by, .. }) => tracing::warn!(
                "{what} by {by} was not confirmed in time: what was before is back, {}",
                self.generation()
            ),
            Err(error) => tracing::error!(
                "a change was not confirmed in time, and what was before is not back whole: {error}"
            ),
        }
    }

    /// Shows that a trial has ended otherwise: that the kernel's word on it was touched.
    pub(super) fn follow_trial(&mut self) {
        let shown = self.standing.borrow().trial_number;
        if self.number().is_none()
            && let Some(number) = shown
        {
            self.show_trial(Some((number, TrialEnd::Reverted)));
            self.publish_names();
        }
    }

    /// Of the trial that goes on.
    fn number(&self) -> Option<u64> {
        self.guard.on_trial().map(|trial| trial.number)
    }

    fn generation(&self) -> String {
        format!("generation {}", self.guard.generation())
    }

    /// Shows what is on trial, and how one ended.
    fn show_trial(&mut self, ended: Option<(u64, TrialEnd)>) {
        let (trial, number) = (self.guard.on_trial().map(view), self.number());
        self.standing.send_modify(|standing| {
            // One that goes on has not ended, whatever was asked.
            if let Some((ended, end)) = ended.filter(|(ended, _)| number != Some(*ended)) {
                standing.remember_trial(ended, end);
            }
            (standing.trial, standing.trial_number) = (trial, number);
        });
    }

    fn record_trial(
        &mut self,
        action: &str,
        (uid, pid, user): (u32, Option<i32>, Option<&str>),
        trial: Option<&OnTrial>,
        result: Result<(), &str>,
    ) {
        let comment = trial.map(|trial| format!("{} by {}", trial.what, trial.by));
        let entry = Entry {
            time: Timestamp::now(),
            uid,
            pid,
            user,
            action,
            effect: None,
            prefixes: &[],
            comment: comment.as_deref(),
            generation: result.is_ok().then(|| self.guard.generation()),
            result,
        };
        write(&mut self.audit, &entry);
    }
}

fn view(trial: &OnTrial) -> TrialView {
    let OnTrial { what, by, until, .. } = trial.clone();
    TrialView { what, by, until }
}

//! Comparing a configuration with the one in force, and putting it in its place.

use std::{sync::PoisonError, time::Duration};

use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::{Current, NOT_CONFIRMED, Origin, Reloader, Said, Settings, Tried};
use crate::{
    config::{Config, Difference, Transcript},
    control::{
        Failure,
        protocol::{ReloadReply, TrialView},
    },
    daemon::{Chosen, StartError, cover, launch},
    dataplane::TrialEnd,
    doctor,
    guard::{Asked, Desired, Reconfigured},
    status::{ConfigurationStatus, Rejected},
};

impl Reloader {
    /// Remembers what is in force for a start at which it can't be read.
    async fn keep(&self, transcript: Transcript, config: Config) {
        let last_good = self.last_good.clone();
        // A disk may take its time.
        let _ = spawn_blocking(move || launch::keep(&last_good, &transcript, &config)).await;
    }

    /// Puts a configuration in force, for good or on trial.
    pub(super) async fn take_or_try(
        &self,
        current: &mut Current,
        (new, said): (Config, Said),
        trial: Option<Duration>,
        origin: Origin,
        asked: Asked,
    ) -> Result<ReloadReply, Failure> {
        let before = (current.config.clone(), current.said.clone(), current.read_for.clone());
        let noted = match (trial, &origin) {
            (Some(_), Origin::Files(transcript)) => {
                let trouble = |error| Failure::Internal(format!("nothing is tried out: {error}"));
                Some(self.unconfirmed.note(transcript).map_err(trouble)?)
            }
            _ => None,
        };
        let taken = self.take(&mut current.config, new, trial, asked).await;
        let (mut reply, number) = match taken {
            Ok(taken) => taken,
            Err(failure) => {
                // What was on trial then is as it was.
                noted.into_iter().for_each(|before| self.unconfirmed.restore(before));
                return Err(failure);
            }
        };
        current.said = said;
        if let Some(number) = number {
            current.tried = Some(Tried { number, before, origin });
        } else {
            reply.warnings.extend(self.is_for_good(origin, current).await.err());
        }
        Ok(reply)
    }

    /// Has what is in force there at the next start, too.
    ///
    /// # Errors
    ///
    /// If the modes can't be written: then they are those of before. Told in the log as well.
    async fn is_for_good(&self, origin: Origin, current: &mut Current) -> Result<(), String> {
        let written = current.said.write().map_err(|error| {
            format!("{error}: at the next start the modes are those of before, unless this is said again")
        });
        if let Err(error) = &written {
            tracing::error!("{error}");
        }
        if let Origin::Files(transcript) = origin {
            self.unconfirmed.forget();
            self.keep(transcript, current.config.clone()).await;
        }
        written
    }

    /// Takes note of how a trial ended.
    ///
    /// # Errors
    ///
    /// If the one of this number was confirmed, and will not be there at the next start.
    pub(in crate::daemon) async fn look_at_trial(&self, number: Option<u64>) -> Result<(), String> {
        let mut current = self.current.lock().await;
        self.settle_tried(&mut current).await;
        match &current.unkept {
            Some((unkept, error)) if Some(*unkept) == number => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// The same for whoever is about to change the configuration: what is told of the guard is of a later moment
    /// than what is known here of a trial, and is taken by its number.
    pub(super) async fn settle_tried(&self, current: &mut Current) {
        let standing = self.handle.standing();
        let has_ended = |tried: &mut Tried| standing.trial_number != Some(tried.number);
        let Some(tried) = current.tried.take_if(has_ended) else { return };
        let Tried { number, before, origin } = tried;
        if standing.end_of(number) == Some(TrialEnd::Confirmed) {
            let kept = self.is_for_good(origin, current).await;
            current.unkept = kept.err().map(|error| (number, error));
            return;
        }
        // The policy is back already; here is what the kernel knows nothing of.
        let (config, said, read_for) = before;
        self.settings.send_replace(Settings::of(&config));
        let group_may_edit = config.control.group_may_edit;
        self.access.send_modify(|access| access.group_may_edit = group_may_edit);
        self.metrics.go(config.metrics.address()).await;
        (current.config, current.said) = (config, said);
        // What has changed of this host since is seen again, and followed in what is in force.
        (current.host, current.read_for) = (read_for.clone(), read_for);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.files = current.config.files.clone();
        status.modes = current.said.told();
        if let Origin::Files(_) = origin {
            let problems = NOT_CONFIRMED.to_owned();
            status.rejected = Some(Rejected { at: Timestamp::now(), problems, last_good: None });
        }
    }

    /// Refuses a change of the configuration while one is on trial, as far as is known here: the guard may know by
    /// now that it has ended, and the change would be one of what is not in force any more.
    pub(super) fn refuse_on_trial(&self, current: &Current) -> Result<(), Failure> {
        if current.tried.is_none() {
            return Ok(());
        }
        let trial = match self.handle.standing().trial {
            Some(TrialView { what, by, .. }) => format!("{what} by {by} is on trial"),
            None => "a change was on trial this moment".to_owned(),
        };
        Err(Failure::Conflict(format!(
            "{trial}: first `ollama-guard confirm`, or `ollama-guard revert`"
        )))
    }

    /// What another configuration would change.
    pub(super) async fn compared(
        &self,
        old: &Config,
        new: &Config,
    ) -> Result<ReloadReply, Failure> {
        let plan = plan(old, new).await?;
        let desired = Desired::from(new);
        let (fits, generation) = self
            .handle
            .maintain(move |guard| (guard.would_take(&desired), guard.generation()))
            .await?;
        let (shut_out, closes) = fits?;
        let Difference { changes, later } = Difference::between(old, new);
        let warnings = [warnings(new, &plan), shut_out].concat();
        Ok(ReloadReply { generation, changes, later, warnings, closes, trial_until: None })
    }

    async fn take(
        &self,
        current: &mut Config,
        new: Config,
        trial: Option<Duration>,
        asked: Asked,
    ) -> Result<(ReloadReply, Option<u64>), Failure> {
        let plan = plan(current, &new).await?;
        let reconfigured = self.handle.reconfigure(Desired::from(&new), trial, asked).await?;
        let Difference { changes, later } = Difference::between(current, &new);
        let mut warnings = warnings(&new, &plan);
        if reconfigured.is_closed {
            warnings.push("the allowlist is empty: nobody can reach the guarded ports".into());
        }
        if trial.is_some() && Chosen::new(current) != Chosen::new(&new) {
            warnings.push(not_tried(reconfigured.trial_until.is_some()));
        }
        self.settings.send_replace(Settings::of(&new));
        let group_may_edit = new.control.group_may_edit;
        self.access.send_modify(|access| access.group_may_edit = group_may_edit);
        let metrics = if current.metrics.can_become(new.metrics) {
            let moved = self.metrics.go(new.metrics.address()).await;
            warnings.extend(moved.trouble.map(|trouble| format!("metrics: {trouble}")));
            new.metrics
        } else {
            current.metrics
        };
        // What only a restart changes is told again each time, until there is one.
        *current = Config {
            capacity: current.capacity,
            metrics,
            debug_kernel: current.debug_kernel,
            paths: current.paths.clone(),
            ..new
        };
        let Reconfigured { generation, trial_until, trial_number, shut_out, .. } = reconfigured;
        warnings.extend(shut_out);
        let reply =
            ReloadReply { generation, changes, later, warnings, closes: false, trial_until };
        Ok((reply, trial_number))
    }

    pub(super) fn accepted(&self, current: &Current, reply: &ReloadReply, why: &str) {
        let ReloadReply { generation, changes, later, .. } = reply;
        if changes.is_empty() && later.is_empty() {
            tracing::info!("the configuration was read again ({why}): it says what it said");
        } else {
            tracing::info!(
                "the configuration was read again ({why}): generation {generation} is in force"
            );
        }
        tell(reply);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        *status = ConfigurationStatus {
            files: current.config.files.clone(),
            since: Timestamp::now(),
            modes: current.said.told(),
            rejected: None,
        };
    }

    pub(super) fn rejected(&self, failure: &Failure, why: &str) {
        let problems = failure.to_string();
        tracing::error!(
            "the configuration is rejected ({why}), and nothing has changed: {problems}"
        );
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        // What is in force may be the last good one from the start on.
        let last_good = status.rejected.take().and_then(|before| before.last_good);
        status.rejected = Some(Rejected { at: Timestamp::now(), problems, last_good });
    }
}

/// What has changed, in the log.
pub(super) fn tell(reply: &ReloadReply) {
    let ReloadReply { generation, changes, later, warnings, trial_until, .. } = reply;
    if let Some(until) = trial_until {
        tracing::warn!(
            "generation {generation} is on trial until {until:.0}: then what was before comes back, \
             unless `ollama-guard confirm`"
        );
    }
    changes.iter().for_each(|line| tracing::info!("configuration: {line}"));
    for line in later {
        tracing::warn!("configuration: {line}: this takes a restart");
    }
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}

async fn plan(old: &Config, new: &Config) -> Result<cover::CoverPlan, Failure> {
    cover::plan(&Chosen::new(new), &Chosen::new(old).names()).await.map_err(bad_input)
}

/// What to say of a choice of doors that was to be tried out: the kernel brings back a policy, and no link.
fn not_tried(is_trial: bool) -> String {
    const WHAT: &str =
        "`interfaces`, `exclude`, `attach` and `[inner]` are not tried out, but in force now";
    match is_trial {
        true => format!("{WHAT}: they go back with the trial only if the daemon runs then"),
        false => format!("{WHAT}, and for good: there is nothing on trial"),
    }
}

fn bad_input(error: StartError) -> Failure {
    Failure::BadInput(error.to_string())
}

fn warnings(config: &Config, plan: &cover::CoverPlan) -> Vec<String> {
    let innocents = doctor::said_at_start(&config.ports(), config.scope, plan.doors());
    let ended = config.ended(Timestamp::now());
    let warnings = config.warnings.iter().cloned().chain(ended);
    warnings.chain(innocents.iter().map(ToString::to_string)).collect()
}

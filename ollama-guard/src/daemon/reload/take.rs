//! Comparing a configuration with the one in force, and putting it in its place.

use std::{sync::PoisonError, time::Duration};

use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::{Current, NOT_CONFIRMED, Origin, Reloader, Said, Settings, Tried};
use crate::{
    config::{Config, Difference, Transcript},
    control::{Failure, protocol::ReloadReply},
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
        let before = (current.config.clone(), current.said.clone());
        if let (Some(_), Origin::Files(transcript)) = (trial, &origin) {
            let noted = self.unconfirmed.note(transcript);
            noted.map_err(|error| Failure::Internal(format!("nothing is tried out: {error}")))?;
        }
        let taken = self.take(&mut current.config, new, trial, asked).await;
        match &taken {
            Ok(ReloadReply { trial_until: Some(_), .. }) => {
                current.said = said;
                *self.tried.lock().await = Some(Tried { before, origin });
            }
            Ok(_) => {
                current.said = said;
                self.is_for_good(origin, current).await;
            }
            // Nothing is on trial but what was before, if anything.
            Err(_) if trial.is_some() && self.tried.lock().await.is_none() => {
                if let Origin::Files(_) = origin {
                    self.unconfirmed.forget();
                }
            }
            Err(_) => {}
        }
        taken
    }

    /// Has what is in force there at the next start, too.
    async fn is_for_good(&self, origin: Origin, current: &mut Current) {
        if let Err(error) = current.said.write() {
            tracing::error!("{error}: at the next start the modes are those of before");
        }
        if let Origin::Files(transcript) = origin {
            self.unconfirmed.forget();
            self.keep(transcript, current.config.clone()).await;
        }
    }

    /// Takes note of how a trial ended.
    pub(in crate::daemon) async fn look_at_trial(&self) {
        let standing = self.handle.standing();
        if standing.trial.is_some() {
            return;
        }
        let mut current = self.current.lock().await;
        let Some(Tried { before, origin }) = self.tried.lock().await.take() else { return };
        if standing.trial_end == Some(TrialEnd::Confirmed) {
            self.is_for_good(origin, &mut current).await;
            return;
        }
        // The policy is back already; here is what the kernel knows nothing of.
        let (config, said) = before;
        self.settings.send_replace(Settings::of(&config));
        let group_may_edit = config.control.group_may_edit;
        self.access.send_modify(|access| access.group_may_edit = group_may_edit);
        self.metrics.go(config.metrics.address()).await;
        (current.config, current.said) = (config, said);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.files = current.config.files.clone();
        status.modes = current.said.told();
        if let Origin::Files(_) = origin {
            let problems = NOT_CONFIRMED.to_owned();
            status.rejected = Some(Rejected { at: Timestamp::now(), problems, last_good: None });
        }
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
    ) -> Result<ReloadReply, Failure> {
        let plan = plan(current, &new).await?;
        let reconfigured = self.handle.reconfigure(Desired::from(&new), trial, asked).await?;
        let Difference { changes, later } = Difference::between(current, &new);
        let mut warnings = warnings(&new, &plan);
        if reconfigured.is_closed {
            warnings.push("the allowlist is empty: nobody can reach the guarded ports".into());
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
        let Reconfigured { generation, trial_until, shut_out, .. } = reconfigured;
        warnings.extend(shut_out);
        Ok(ReloadReply { generation, changes, later, warnings, closes: false, trial_until })
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

fn bad_input(error: StartError) -> Failure {
    Failure::BadInput(error.to_string())
}

fn warnings(config: &Config, plan: &cover::CoverPlan) -> Vec<String> {
    let innocents = doctor::said_at_start(&config.ports(), config.scope, plan.doors());
    let ended = config.ended(Timestamp::now());
    let warnings = config.warnings.iter().cloned().chain(ended);
    warnings.chain(innocents.iter().map(ToString::to_string)).collect()
}

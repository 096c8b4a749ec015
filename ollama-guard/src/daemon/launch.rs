//! From the flags to a daemon that runs, with the last good configuration if the files can't be used.
//!
//! A slip in a file must not leave the ports open: pins do not outlive a reboot, so that a daemon which only
//! refused would have nothing to leave in force. What was in force last is then put in force again, to the
//! letter: never something looser, made up of what can still be read. It is told in the log and by `status`,
//! as a reload that was rejected is, until the files are mended.
//!
//! Mistakes in flags and environment are not made good: they are in the unit, in the hands of whoever
//! starts the daemon, and they say where the state is kept.

use std::path::Path;

use jiff::Timestamp;

use super::{Daemon, Host, Sources, StartError, reload::NOT_CONFIRMED, start};
use crate::{
    config::{
        self, Config, LastGood, LastGoodError, Overrides, ProcessEnvironment, Transcript,
        Unconfirmed,
    },
    status::Rejected,
};

/// Why there is no daemon. What was in force before still is.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The configuration can't be used, nor an earlier one.
    #[error("{problems}{}", .last_good.as_deref().map(|why| format!("\n{why}")).unwrap_or_default())]
    Configuration {
        /// Everything that is wrong with it.
        problems: String,
        /// Why there is no earlier one to use instead.
        last_good: Option<String>,
    },
    /// It can be used, and the start failed.
    #[error("the guard did not start: {0}")]
    Start(#[from] StartError),
}

/// Reads the configuration and starts a daemon with it, or with the last good one instead.
///
/// # Errors
///
/// If neither can be used, or the start fails.
pub async fn launch(overrides: Overrides) -> Result<Daemon, LaunchError> {
    let host = Host::look().await;
    let environment = ProcessEnvironment;
    let config::Reading { fingerprint, transcript, config } =
        config::read(&overrides, &environment, &host);
    let last_good = config::state_dir(&overrides, &environment).map(LastGood::new);
    let unconfirmed = config::state_dir(&overrides, &environment).map(Unconfirmed::new);
    // Files that were on trial, unless there is nothing else to put in force.
    let is_unconfirmed = unconfirmed.is_some_and(|unconfirmed| unconfirmed.is(&transcript))
        && last_good.as_ref().is_some_and(|last_good| last_good.recall().is_ok());
    let sources = Sources { overrides, fingerprint, host, rejected: None };
    let problems = match config {
        Ok(_) if is_unconfirmed => NOT_CONFIRMED.to_owned(),
        Ok(config) => {
            match begin(&config, sources.clone(), last_good.as_ref(), &transcript).await {
                Err(error) if error.is_about_the_configuration() => error.to_string(),
                begun => return Ok(begun?),
            }
        }
        Err(problems) => problems.to_string(),
    };
    let refused = |why: Option<LastGoodError>| LaunchError::Configuration {
        problems: problems.clone(),
        // At the first start there can be none.
        last_good: why
            .filter(|why| !matches!(why, LastGoodError::None { .. }))
            .map(|e| e.to_string()),
    };
    let Some(last_good) = last_good else { return Err(refused(None)) };
    let (config, kept_at) =
        instead(&last_good, &sources, &transcript.main).map_err(|error| refused(Some(error)))?;
    let rejected =
        Rejected { at: Timestamp::now(), problems: problems.clone(), last_good: Some(kept_at) };
    let sources = Sources { rejected: Some(rejected), ..sources };
    let daemon = match begin(&config, sources, None, &transcript).await {
        // By a flag, say: the same is wrong with both.
        Err(error) if error.is_about_the_configuration() => return Err(refused(None)),
        begun => begun?,
    };
    tracing::error!(
        "the configuration is rejected, and the last good one, of {kept_at:.0}, is in force instead: \
         {problems}"
    );
    Ok(daemon)
}

fn instead(
    last_good: &LastGood,
    sources: &Sources,
    main: &Path,
) -> Result<(Config, Timestamp), LastGoodError> {
    last_good.instead(&sources.overrides, &ProcessEnvironment, &sources.host, main)
}

/// Starts, and keeps what it started with if it is good and new.
async fn begin(
    config: &Config,
    sources: Sources,
    last_good: Option<&LastGood>,
    transcript: &Transcript,
) -> Result<Daemon, StartError> {
    for warning in config.warnings.iter().chain(&config.ended(Timestamp::now())) {
        tracing::warn!("{warning}");
    }
    let daemon = start(config, sources).await?;
    if let Some(last_good) = last_good {
        keep(last_good, transcript, config);
    }
    Ok(daemon)
}

/// Keeps what is in force now. That it can't be is no reason to end, or to undo anything.
pub(super) fn keep(last_good: &LastGood, transcript: &Transcript, config: &Config) {
    if let Err(error) = last_good.keep(transcript, config) {
        tracing::error!(
            "{error}: should the configuration be found broken at a later start, an older one is put \
             in force"
        );
    }
}

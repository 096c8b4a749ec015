//! Reading the configuration again: by command, by SIGHUP, and when its files change.
//!
//! So it is when this host's networks change, if a list names a group of them. Where what is in force is not what the
//! files say, because they have mistakes or were on trial, that is read again for the networks of now.
//!
//! All of these come to the same: all sources are read, as at the start, and what they say is put in force
//! whole, or nothing is. A configuration that can't be used changes nothing, is in the log with all of
//! its mistakes, and stays in `status` until it is mended.
//!
//! Files are looked at every second instead of by inotify(7): it has to be told of every directory that
//! a link leads through, knows nothing of network file systems, and its instances are used up on many a
//! Kubernetes node. Nothing is read until the files have been the same for a second: an editor may be
//! in the middle of writing one, and half a list is a list.

mod changed;
mod host;
mod modes;
mod take;

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex as Lock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use nix::unistd::{getegid, geteuid};
use ollama_guard_common::Scope;
use tokio::{
    signal::unix::Signal,
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use self::changed::Changed;
pub(super) use self::modes::Said;
use super::{Chosen, Host};
use crate::{
    config::{
        self, Bytes, Config, Fingerprint, LastGood, Overrides, ProcessEnvironment, Transcript,
        Unconfirmed,
    },
    control::{
        AccessRules, Failure, Peer,
        protocol::{ReloadReply, ReloadRequest},
    },
    guard::{Asked, Desired, Handle},
    metrics::Mover,
    status::{ConfigurationStatus, Rejected},
};

/// How often the files are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Why the configuration is read again.
const FILES: &str = "its files have changed";
/// What is said of files that were on trial and are not in force.
pub(super) const NOT_CONFIRMED: &str = "it was on trial and was not confirmed, so what was before is in force: \
                                       `ollama-guard reload` puts it in force again, and a change of \
                                       the files does";
const HOST: &str = "the addresses or networks of this host have changed";

/// Where the configuration came from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The flags.
    pub overrides: Overrides,
    /// The files as they were read.
    pub fingerprint: Fingerprint,
    /// This host as it was then.
    pub host: Host,
    /// What is wrong with them, if the last good configuration is in force instead.
    pub rejected: Option<Rejected>,
}

/// What a running daemon follows, beside the policy.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) chosen: Chosen,
    pub(super) scope: Scope,
    pub(super) events_per_second: u32,
    pub(super) events_keep: Bytes,
}

impl Settings {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            chosen: Chosen::new(config),
            scope: config.scope,
            events_per_second: config.events_per_second,
            events_keep: config.events_keep,
        }
    }
}

impl From<&Config> for Desired {
    fn from(config: &Config) -> Self {
        Self {
            scope: config.scope,
            services: config.services.clone(),
            rules: config.rules.clone(),
            names: config.names.clone(),
            capacity: config.capacity,
        }
    }
}

/// Reads the configuration again, one time after the other.
pub(super) struct Reloader {
    overrides: Overrides,
    handle: Handle,
    settings: watch::Sender<Settings>,
    access: watch::Sender<AccessRules>,
    last_good: LastGood,
    unconfirmed: Unconfirmed,
    metrics: Mover,
    /// How often all names were to be looked up again.
    names: watch::Sender<u64>,
    current: Mutex<Current>,
    status: Lock<ConfigurationStatus>,
}

/// A configuration on trial.
struct Tried {
    /// Which trial that is.
    number: u64,
    /// What comes back, and the host that it was read for.
    before: (Config, Said, Host),
    origin: Origin,
}

/// Where a configuration is from that is put in force.
enum Origin {
    /// These files.
    Files(Transcript),
    /// A command about what was in force already.
    Command,
}

struct Current {
    config: Config,
    said: Said,
    /// What of it is on trial, or was, and is not seen to yet.
    tried: Option<Tried>,
    /// The last one that was confirmed, if it could not be kept, and why.
    unkept: Option<(u64, String)>,
    /// What was read last, whatever came of it.
    fingerprint: Fingerprint,
    /// This host as it was looked at last...
    host: Host,
    /// ... and as it was when the configuration was read that is in force.
    read_for: Host,
}

impl Reloader {
    /// For a daemon that has started with this configuration.
    pub(super) fn new(
        sources: Sources,
        (config, said): (Config, Said),
        handle: Handle,
        settings: watch::Sender<Settings>,
        access: watch::Sender<AccessRules>,
        metrics: Mover,
    ) -> Self {
        let Sources { overrides, fingerprint, host, rejected } = sources;
        let files = config.files.clone();
        let (since, modes) = (Timestamp::now(), said.told());
        let status = Lock::new(ConfigurationStatus { files, since, modes, rejected });
        let last_good = LastGood::new(&config.paths.state_dir);
        let unconfirmed = Unconfirmed::new(&config.paths.state_dir);
        let current = Mutex::new(Current {
            config,
            said,
            tried: None,
            unkept: None,
            fingerprint,
            read_for: host.clone(),
            host,
        });
        let (names, _) = watch::channel(0);
        Self {
            overrides,
            handle,
            settings,
            access,
            last_good,
            unconfirmed,
            metrics,
            names,
            current,
            status,
        }
    }

    /// Changes when all names are to be looked up again: whoever has the configuration read again wants to see
    /// what there is now.
    pub(super) fn names(&self) -> watch::Receiver<u64> {
        self.names.subscribe()
    }

    /// What `status` shows of it.
    pub(super) fn status(&self) -> ConfigurationStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows SIGHUP and the files until `stop` is ready.
    pub(super) async fn follow(
        self: Arc<Self>,
        mut hangup: Signal,
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = pin!(stop);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = None;
        let mut standing = self.handle.clone();
        loop {
            tokio::select! {
                () = &mut stop => return,
                _ = hangup.recv() => self.reload_by_itself("SIGHUP").await,
                Ok(()) = standing.changed() => drop(self.look_at_trial(None).await),
                // During a trial nothing can be put in force: what has changed is seen to after it.
                _ = tick.tick(), if standing.standing().trial.is_none() => {
                    let found = self.changed().await;
                    if found == pending {
                        match found {
                            Some(Changed::Files(_)) => self.reload_by_itself(FILES).await,
                            Some(Changed::Host(_)) => self.reload_by_itself(HOST).await,
                            None => {}
                        }
                        pending = None;
                    } else {
                        pending = found;
                    }
                }
            }
        }
    }

    /// What is said is in the log.
    async fn reload_by_itself(&self, why: &str) {
        let _ = self.reload(ReloadRequest::default(), asked_by_itself(why)).await;
    }

    /// Reads everything and puts it in force, or only says what would change.
    pub(super) async fn reload(
        &self,
        request: ReloadRequest,
        asked: Asked,
    ) -> Result<ReloadReply, Failure> {
        let mut current = self.current.lock().await;
        self.settle_tried(&mut current).await;
        if !request.dry_run {
            self.refuse_on_trial(&current).inspect_err(|failure| {
                tracing::warn!("the configuration is not read again ({}): {failure}", asked.why);
            })?;
        }
        let overrides = self.overrides.clone();
        let host = Host::look().await;
        let seen = host.clone();
        let reading = spawn_blocking(move || config::read(&overrides, &ProcessEnvironment, &host))
            .await
            .map_err(|error| Failure::Internal(error.to_string()))?;
        let is_host = asked.why == HOST;
        if is_host && self.unconfirmed.is(&reading.transcript) {
            return self.read_again(&mut current, seen).await;
        }
        let read = reading.config.map_err(|problems| Failure::BadInput(problems.to_string()));
        let read = read.and_then(|config| with_main_file(&current.config, config));
        let read = read.map(|config| current.said.about(config));
        if request.dry_run {
            return self.compared(&current.config, &read?.0).await;
        }
        // Whatever comes of it, the same files are not read again by themselves.
        current.fingerprint = reading.fingerprint;
        let why = asked.why.clone();
        let was_rejected = self.status().rejected.is_some();
        let taken = match read {
            Ok(read) => {
                let trial = request.confirm_seconds.map(Duration::from_secs);
                // This host changes by itself. But files that were never in force are tried out.
                let trial = trial.or(read.0.confirm.filter(|_| !is_host || was_rejected));
                let origin = Origin::Files(reading.transcript);
                self.take_or_try(&mut current, read, trial, origin, asked).await
            }
            Err(failure) => Err(failure),
        };
        match &taken {
            Ok(reply) => {
                (current.host, current.read_for) = (seen.clone(), seen);
                self.names.send_modify(|number| *number += 1);
                self.accepted(&current, reply, &why);
            }
            Err(failure) => {
                self.rejected(failure, &why);
                if is_host {
                    return self.read_again(&mut current, seen).await;
                }
                // What has changed of this host is seen again, and followed in what is in force.
                current.host = current.read_for.clone();
            }
        }
        taken
    }
}

/// For the audit log.
fn asked_by_itself(why: &str) -> Asked {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let pid = i32::try_from(std::process::id()).ok();
    let peer = Peer { uid, gid, pid, user: None, groups: Vec::new() };
    Asked::to_reload(peer, why)
}

/// Refuses a configuration whose main file has gone: what it said would be taken for never said, and the
/// ports that it guards would stand open.
fn with_main_file(old: &Config, new: Config) -> Result<Config, Failure> {
    match &old.main_file {
        Some(path) if new.main_file.is_none() => Err(Failure::BadInput(format!(
            "{}: the file is gone, and what it said stays in force: put it back, or restart the \
             daemon to do without it",
            path.display()
        ))),
        _ => Ok(new),
    }
}

/// An interface that the configuration in force names may be gone for the moment.
#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::PathBuf};

    use super::*;
    use crate::config::{Nowhere, load};

    #[test]
    fn a_main_file_that_has_gone_takes_nothing_with_it() {
        let config = |main_file: Option<&str>| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let flags = Overrides { config: Some(file.path().to_owned()), ..Overrides::default() };
            let config = load(&flags, &HashMap::<&str, String>::new(), &Nowhere).unwrap();
            Config { main_file: main_file.map(PathBuf::from), ..config }
        };
        let (with, without) = (config(Some("/c.toml")), config(None));
        let refused = with_main_file(&with, without.clone()).unwrap_err();
        assert!(refused.to_string().starts_with("/c.toml: the file is gone"), "{refused}");
        assert!(with_main_file(&with, with.clone()).is_ok());
        assert!(with_main_file(&without, with).is_ok());
        assert!(with_main_file(&without, without.clone()).is_ok());
    }
}

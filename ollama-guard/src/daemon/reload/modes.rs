//! Modes by command: `ollama-guard mode`.

use std::time::Duration;

use jiff::Timestamp;
use ollama_guard_common::Mode;

use super::{Origin, Reloader, take::tell};
use crate::{
    config::{Config, ModeStore, StoreError},
    control::{
        Failure, Peer,
        protocol::{ModeRequest, ReloadReply},
    },
    guard::Asked,
    policy::Service,
};

/// What the files say of services, and what was said by command.
#[derive(Clone)]
pub struct Said {
    configured: Vec<Service>,
    modes: ModeStore,
}

impl Said {
    /// What a configuration is with what was said by command.
    pub fn with(modes: ModeStore, mut config: Config) -> (Config, Self) {
        let said = Self { configured: config.services.clone(), modes };
        said.modes.apply(&mut config.services);
        (config, said)
    }

    /// The same of another configuration.
    pub(super) fn about(&self, config: Config) -> (Config, Self) {
        Self::with(self.modes.clone(), config)
    }

    pub(super) fn write(&mut self) -> Result<(), StoreError> {
        self.modes.write(&self.configured)
    }

    /// A sentence for each service that has another mode than the files say.
    pub(super) fn told(&self) -> Vec<String> {
        let told = |service: &Service| {
            let said = self.modes.said_of(service)?;
            let (name, mode, configured) = (&service.name, said.mode, service.mode.name());
            let (by, at) = (&said.by, said.at);
            Some(format!(
                "{name} is in {mode} mode by command of {by}, {at:.0}; the configuration says {configured}"
            ))
        };
        self.configured.iter().filter_map(told).collect()
    }

    fn say(&mut self, name: Option<&str>, mode: Mode, by: &str) -> Result<Vec<Service>, Failure> {
        let now = Timestamp::now();
        let is_meant = |service: &&Service| name.is_none_or(|name| *service.name == *name);
        if !self.configured.iter().any(|service| is_meant(&service)) {
            let names: Vec<_> = self.configured.iter().map(|service| &*service.name).collect();
            let message = format!(
                "there is no service {}: there is {}",
                name.unwrap_or_default(),
                names.join(", ")
            );
            return Err(Failure::BadInput(message));
        }
        for service in self.configured.iter().filter(is_meant) {
            self.modes.say(service, mode, by, now);
        }
        let mut services = self.configured.clone();
        self.modes.apply(&mut services);
        Ok(services)
    }
}

impl Reloader {
    /// Has services enforced or observed, or only says what that would change.
    pub(in crate::daemon) async fn set_mode(
        &self,
        request: ModeRequest,
        peer: Peer,
    ) -> Result<ReloadReply, Failure> {
        let ModeRequest { service, mode, dry_run, confirm_seconds } = request;
        let mut current = self.current.lock().await;
        self.settle_tried(&mut current).await;
        let (mut new, mut said) = (current.config.clone(), current.said.clone());
        new.services = said.say(service.as_deref(), mode.into(), &peer.name())?;
        if dry_run {
            return self.compared(&current.config, &new).await;
        }
        self.refuse_on_trial(&current)?;
        let trial = confirm_seconds.map(Duration::from_secs);
        let what = match &service {
            Some(service) => format!("`mode {mode} --service {service}`"),
            None => format!("`mode {mode}`"),
        };
        let asked = Asked { peer, why: what.clone(), what: what.clone(), action: "mode" };
        let taken =
            self.take_or_try(&mut current, (new, said), trial, Origin::Command, asked).await;
        match &taken {
            Ok(reply) => {
                tracing::info!("{what}: generation {} is in force", reply.generation);
                tell(reply);
                self.show_modes(&current.said);
            }
            Err(failure) => tracing::warn!("{what}: {failure}"),
        }
        taken
    }

    fn show_modes(&self, said: &Said) {
        self.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner).modes = said.told();
    }
}

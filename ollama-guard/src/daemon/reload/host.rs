//! This host has other addresses or networks than before, a list names a group of them, and the files are not what is
//! in force.

use tokio::task::spawn_blocking;

use super::{Current, HOST, Origin, Reloader, asked_by_itself, take::tell};
use crate::{
    config::{Config, Difference, LastGoodError, ProcessEnvironment},
    control::{Failure, protocol::ReloadReply},
    daemon::Host,
};

impl Reloader {
    /// Reads what is in force again, for this host as it is now, and not what the files say: they have mistakes, or
    /// were on trial and nobody has confirmed them. What comes of it is in the log.
    ///
    /// # Errors
    ///
    /// If that can't be done. Groups of this host are as they were then, until it changes again.
    pub(super) async fn read_again(
        &self,
        current: &mut Current,
        now: Host,
    ) -> Result<ReloadReply, Failure> {
        // Whatever comes of it, it is not tried each second.
        current.host = now.clone();
        let taken = match self.kept(current, now.clone()).await {
            Ok(kept) => {
                let said = current.said.about(kept);
                self.take_or_try(current, said, None, Origin::Command, asked_by_itself(HOST)).await
            }
            Err(error) => Err(Failure::Internal(error)),
        };
        match &taken {
            Ok(reply) => {
                current.read_for = now;
                if !reply.changes.is_empty() {
                    tracing::info!("{HOST}: generation {} is in force", reply.generation);
                    tell(reply);
                }
            }
            Err(error) => {
                tracing::error!("{HOST}, and groups of them in lists are as they were: {error}");
                // A trial that has just begun: it is seen again when that is over.
                if matches!(error, Failure::Conflict(_)) {
                    current.host = current.read_for.clone();
                }
            }
        }
        taken
    }

    /// What was kept of what is in force, as it is read for this host now.
    async fn kept(&self, current: &Current, now: Host) -> Result<Config, String> {
        let before = current.read_for.clone();
        let (overrides, last_good) = (self.overrides.clone(), self.last_good.clone());
        // A disk may take its time.
        let read = spawn_blocking(move || {
            let main = last_good.recall()?.transcript.main;
            let read = |host: &Host| {
                let kept = last_good.instead(&overrides, &ProcessEnvironment, host, &main);
                kept.map(|(config, _)| config)
            };
            Ok((read(&before)?, read(&now)?))
        });
        let read = read.await.map_err(|error| error.to_string())?;
        let (was, is) = read.map_err(|error: LastGoodError| error.to_string())?;
        // It may be older: the disk was full, say.
        let (was, _) = current.said.about(was);
        match Difference::between(&current.config, &was).changes.is_empty() {
            true => Ok(is),
            false => Err("what is in force is not what was kept of it".into()),
        }
    }
}

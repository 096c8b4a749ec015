//! This host has other addresses or networks than before, and a list names a group of them.

use tokio::task::spawn_blocking;

use super::{Current, HOST, Origin, Reloader, asked_by_itself, take::tell};
use crate::{
    config::{Difference, LastGoodError, ProcessEnvironment},
    daemon::Host,
};

impl Reloader {
    /// Puts in force what the lists come to now.
    pub(super) async fn follow_host(&self, now: Host) {
        if self.status().rejected.is_none() {
            return self.reload_by_itself(HOST).await;
        }
        let mut current = self.current.lock().await;
        self.settle_tried(&mut current).await;
        let followed = self.read_again(&mut current, now).await;
        if let Err(error) = followed {
            tracing::error!(
                "{HOST}, and groups of them in lists are as they were, until the configuration is mended: {error}"
            );
        }
    }

    /// Reads what is in force again, for this host as it is now, and not what the files say: they have mistakes, or
    /// were on trial and nobody has confirmed them.
    async fn read_again(&self, current: &mut Current, now: Host) -> Result<(), String> {
        // Whatever comes of it, it is not tried each second.
        let before = std::mem::replace(&mut current.host, now.clone());
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
        let (was, _) = current.said.about(was);
        if !Difference::between(&current.config, &was).changes.is_empty() {
            return Err("what is in force is not what was kept of it".into());
        }
        let is = current.said.about(is);
        let taken = self.take_or_try(current, is, None, Origin::Command, asked_by_itself(HOST));
        let reply = taken.await.map_err(|failure| failure.to_string())?;
        if !reply.changes.is_empty() {
            tracing::info!("{HOST}: generation {} is in force", reply.generation);
            tell(&reply);
        }
        Ok(())
    }
}

//! Whether files and host are as they were read.

use tokio::task::spawn_blocking;

use super::Reloader;
use crate::{config::Fingerprint, daemon::Host};

/// What is not as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Changed {
    Files(Fingerprint),
    Host(Host),
}

impl Reloader {
    /// What is not as it was read, as it is now.
    pub(super) async fn changed(&self) -> Option<Changed> {
        let current = self.current.lock().await;
        let (read, host) = (current.fingerprint.clone(), current.host.clone());
        let follows_host = current.config.follows_host;
        drop(current);
        // A file system may take its time.
        let files = spawn_blocking(move || Some(read.now()).filter(|now| *now != read));
        if let Some(files) = files.await.ok().flatten() {
            return Some(Changed::Files(files));
        }
        if !follows_host {
            return None;
        }
        let now = Host::look().await;
        // One that can't be looked at is as it was.
        (now.is_known() && now != host).then_some(Changed::Host(now))
    }
}

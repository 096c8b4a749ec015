//! What the control socket asks.

use std::{process, sync::Arc};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::{
    history::History,
    inner::Confirmation,
    learn::Learner,
    notices::Notices,
    reload::{Reloader, Settings},
};
use crate::{
    control::{
        Backend, Failure, Peer,
        backend::{Manner, Working},
        learning::{LearnLine, LearnRequest},
        protocol::{
            DetachReply, Edit, EditReply, InnerReply, ModeRequest, ReloadReply, ReloadRequest,
            RuleList, TrialReply,
        },
    },
    dataplane::{PinDir, TrialEnd},
    events::{Bounds, Journal, Line, Subscription},
    guard::{Asked, Handle, Standing},
    metrics::Mover,
    status::{self, ConfigurationStatus, DaemonStatus, StatusError, StatusReport},
};

/// The daemon behind its socket.
pub(super) struct LiveBackend {
    pub(super) handle: Handle,
    pub(super) journal: Arc<Journal>,
    pub(super) history: Arc<History>,
    pub(super) pins: PinDir,
    pub(super) settings: watch::Receiver<Settings>,
    pub(super) notices: Arc<Notices>,
    pub(super) reloader: Arc<Reloader>,
    pub(super) metrics: Mover,
    pub(super) learner: Learner,
    pub(super) confirmation: Arc<Confirmation>,
}

impl LiveBackend {
    /// Where everything is pinned.
    pub(super) const fn pins(&self) -> &PinDir {
        &self.pins
    }

    /// The configuration in force, and the one that was rejected.
    pub(super) fn configuration(&self) -> ConfigurationStatus {
        self.reloader.status()
    }

    /// What `status` shows.
    pub(super) async fn report(&self) -> Result<StatusReport, StatusError> {
        let Standing { ended_late, names, troubles, trial, .. } = self.handle.standing();
        let daemon = DaemonStatus {
            running: true,
            hangs: false,
            pid: Some(process::id()),
            pin_dir: Some(self.pins.root().to_owned()),
            version: Some(env!("CARGO_PKG_VERSION").into()),
            repairs: self.notices.repairs(),
            troubles: [self.notices.troubles(), troubles].concat(),
            ended_late: ended_late.into(),
            names,
            configuration: Some(self.reloader.status()),
            metrics: Some(self.metrics.standing()),
            history: Some(self.history.status()),
            learning: self.learner.status(),
            trial,
        };
        let chosen = self.settings.borrow().chosen.clone();
        status::report(&self.pins, Some(&chosen), daemon).await
    }
}

impl Backend for LiveBackend {
    fn status(&self) -> BoxFuture<'_, Result<Value, Failure>> {
        Box::pin(async {
            let report =
                self.report().await.map_err(|error| Failure::Internal(error.to_string()))?;
            serde_json::to_value(report).map_err(|error| Failure::Internal(error.to_string()))
        })
    }

    fn rules(&self) -> BoxFuture<'_, Result<RuleList, Failure>> {
        Box::pin(async { Ok(self.handle.rules().await?) })
    }

    fn edit(
        &self,
        edit: Edit,
        manner: Manner,
        peer: Peer,
    ) -> BoxFuture<'_, Result<EditReply, Failure>> {
        Box::pin(self.handle.edit(edit, manner, peer))
    }

    fn settle(&self, end: TrialEnd, peer: Peer) -> BoxFuture<'_, Result<TrialReply, Failure>> {
        Box::pin(async move {
            let number = self.handle.standing().trial_number;
            let settled = self.handle.settle(end, peer).await?;
            // Who is told that something is for good is told what is on the disk.
            let kept = self.reloader.look_at_trial(number).await;
            kept.map_err(|error| {
                Failure::Internal(format!("it is confirmed and stays in force, but {error}"))
            })?;
            Ok(settled)
        })
    }

    fn reload(
        &self,
        request: ReloadRequest,
        peer: Peer,
    ) -> BoxFuture<'_, Result<ReloadReply, Failure>> {
        let asked = Asked::to_reload(peer, "by command");
        Box::pin(self.reloader.reload(request, asked))
    }

    fn set_mode(
        &self,
        request: ModeRequest,
        peer: Peer,
    ) -> BoxFuture<'_, Result<ReloadReply, Failure>> {
        Box::pin(self.reloader.set_mode(request, peer))
    }

    fn events(&self) -> Subscription {
        self.journal.subscribe()
    }

    fn past(&self, bounds: Bounds, before: u64) -> mpsc::Receiver<Vec<Line>> {
        Arc::clone(&self.history).past(bounds, before)
    }

    fn learn(
        &self,
        request: LearnRequest,
        peer: Peer,
        working: Working,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LearnLine>, Failure>> {
        Box::pin(self.learner.learn(request, peer, working))
    }

    fn confirm_inner(&self, peer: Peer) -> BoxFuture<'_, Result<InnerReply, Failure>> {
        Box::pin(async move {
            // Written down first: a daemon that dies now is followed by one that drops.
            let observed = self.confirmation.confirm();
            self.handle.confirm_inner(peer).await?;
            Ok(InnerReply { observed })
        })
    }

    fn detach(&self, peer: Peer) -> BoxFuture<'_, Result<DetachReply, Failure>> {
        Box::pin(self.handle.detach(peer))
    }
}

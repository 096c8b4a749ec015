//! `POST /v1/confirm`, `POST /v1/revert`; and how a change says that it is on trial.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, body::Body, extract::State};
use serde::Deserialize;

use super::change;
use crate::{
    control::{
        access::Action,
        backend::Manner,
        body,
        protocol::TrialReply,
        refusal::Refusal,
        shared::{Caller, Shared},
    },
    dataplane::TrialEnd,
};

/// The query of a change: `?confirm=SECONDS` puts it on trial for so long, `?dry_run=true` only tells what it
/// would come to.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HowQuery {
    confirm: Option<u64>,
    #[serde(default)]
    dry_run: bool,
}

impl HowQuery {
    pub(super) fn manner(self) -> Manner {
        match self.confirm {
            _ if self.dry_run => Manner::DryRun,
            Some(seconds) => Manner::OnTrial(Duration::from_secs(seconds)),
            None => Manner::ForGood,
        }
    }
}

pub(super) async fn confirm(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<TrialReply>, Refusal> {
    settle(&shared, &caller, body, TrialEnd::Confirmed).await
}

pub(super) async fn revert(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<TrialReply>, Refusal> {
    settle(&shared, &caller, body, TrialEnd::Reverted).await
}

async fn settle(
    shared: &Shared,
    caller: &Caller,
    body: Body,
    end: TrialEnd,
) -> Result<Json<TrialReply>, Refusal> {
    let body = change::admit(shared, caller, Action::Change, body).await?;
    // There is nothing to say, but nothing wrong with saying it.
    body::discard(body).await;
    let peer = caller.peer.as_ref().clone();
    Ok(Json(change::carry_out(shared, move |backend| backend.settle(end, peer)).await?))
}

//! `POST /v1/learn`: one JSON object a line, until the time is over or the client goes away.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use tokio::sync::{mpsc, watch};

use super::change;
use crate::control::{
    access::Action,
    learning::{LearnLine, LearnRequest},
    refusal::Refusal,
    shared::{Caller, Shared, ended},
};

pub(super) async fn learn(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Refusal> {
    let body = change::admit(&shared, &caller, Action::Change, body).await?;
    let limit = shared.limits().body_bytes;
    let request: LearnRequest = change::receive(&shared, body, limit).await?;
    let peer = caller.peer.as_ref().clone();
    let working = shared.changes.subscribe();
    let lines =
        change::carry_out(&shared, move |backend| backend.learn(request, peer, working)).await?;
    // A client that does not read loses its connection after a while, and with it ends what it began.
    let reader = Reader { lines, ending: shared.ending.clone() };
    let body = Body::from_stream(stream::unfold(reader, Reader::read));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Dropped with the connection, which the other end of the lines notices.
struct Reader {
    lines: mpsc::Receiver<LearnLine>,
    ending: watch::Receiver<bool>,
}

impl Reader {
    async fn read(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let line = tokio::select! {
            line = self.lines.recv() => line?,
            () = ended(&mut self.ending) => return None,
        };
        // Not possible for these types; the client sees that the end is missing.
        let mut json = serde_json::to_vec(&line).ok()?;
        json.push(b'\n');
        Some((Ok(json.into()), self))
    }
}

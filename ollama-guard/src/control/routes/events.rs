//! `GET /v1/events[?follow=true]`: one JSON object a line.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::{
    control::{
        access::Action,
        refusal::Refusal,
        shared::{Caller, Shared, ended},
        stall::Patient,
    },
    events::{Line, Subscription},
};

/// Bytes of lines that are sent together if they are there already.
const BATCH: usize = 16 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    #[serde(default)]
    follow: bool,
}

pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    options: Result<Query<Options>, QueryRejection>,
) -> Result<Response, Refusal> {
    shared.admit(&caller, Action::Read)?;
    let Query(options) = options.map_err(|_| {
        let message = "the options of /v1/events are `follow=true` and `follow=false`";
        Refusal::new(StatusCode::BAD_REQUEST, message)
    })?;
    let body = if options.follow {
        let reader = Reader {
            _place: shared.reader(&caller)?,
            _patient: caller.patience.hold(),
            events: shared.backend.events(),
            ending: shared.ending.clone(),
        };
        Body::from_stream(stream::unfold(reader, Reader::read))
    } else {
        let mut lines = Vec::new();
        for event in shared.backend.events().into_recent() {
            write(&mut lines, &Line::Event(event));
        }
        Body::from(lines)
    };
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// A client that follows. It is asked for more only when its connection has room, and what it
/// does not fetch in time the journal forgets: it never holds more than a batch.
struct Reader {
    _place: OwnedSemaphorePermit,
    _patient: Patient,
    events: Subscription,
    ending: watch::Receiver<bool>,
}

impl Reader {
    async fn read(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let mut batch = Vec::new();
        tokio::select! {
            line = self.events.next() => write(&mut batch, &line?),
            // What is there already is still sent.
            () = ended(&mut self.ending) => {}
        }
        while batch.len() < BATCH
            && let Some(line) = self.events.try_next()
        {
            write(&mut batch, &line);
        }
        (!batch.is_empty()).then(|| (Ok(Bytes::from(batch)), self))
    }
}

fn write(batch: &mut Vec<u8>, line: &Line) {
    let start = batch.len();
    match serde_json::to_writer(&mut *batch, line) {
        Ok(()) => batch.push(b'\n'),
        // Not possible for these types; half a line would spoil the next one.
        Err(error) => {
            tracing::error!(%error, "an event cannot be written as JSON");
            batch.truncate(start);
        }
    }
}

//! `GET /v1/events[?since=WHEN][&until=WHEN][&follow=true]`: one JSON object a line.

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
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use crate::{
    control::{
        access::Action,
        refusal::Refusal,
        shared::{Caller, Shared, ended},
        stall::Patient,
    },
    events::{Clock, Line, Moment, Subscription, Window, window::NoMoment},
};

/// Bytes of lines that are sent together if they are there already.
const BATCH: usize = 16 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    #[serde(default)]
    follow: bool,
    since: Option<String>,
    until: Option<String>,
}

impl Options {
    fn window(&self) -> Result<Window, Refusal> {
        let moment = |text: &Option<String>| -> Result<Option<Moment>, Refusal> {
            text.as_deref()
                .map(str::parse)
                .transpose()
                .map_err(|error: NoMoment| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
        };
        Ok(Window { since: moment(&self.since)?, until: moment(&self.until)? })
    }
}

pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    options: Result<Query<Options>, QueryRejection>,
) -> Result<Response, Refusal> {
    shared.admit(&caller, Action::Read)?;
    let Query(options) = options.map_err(|_| {
        let message = "the options of /v1/events are `follow=true`, `since=WHEN` and `until=WHEN`";
        Refusal::new(StatusCode::BAD_REQUEST, message)
    })?;
    let window = options.window()?;
    let body = if options.follow || !window.is_open() {
        let place = shared.reader(&caller)?;
        let mut events = shared.backend.events();
        let past = if window.is_open() {
            None
        } else {
            let now = Clock::now().map_err(|error| {
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            })?;
            let bounds = window.at(now);
            events.keep(&bounds);
            Some(shared.backend.past(bounds, events.first()))
        };
        let reader = Reader {
            _place: place,
            _patient: options.follow.then(|| caller.patience.hold()),
            past,
            events,
            follows: options.follow,
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
    _patient: Option<Patient>,
    /// What comes before the events in memory, as long as there is any.
    past: Option<mpsc::Receiver<Vec<Line>>>,
    events: Subscription,
    /// Whether new ones come behind them.
    follows: bool,
    ending: watch::Receiver<bool>,
}

impl Reader {
    async fn read(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let mut batch = Vec::new();
        if let Some(past) = &mut self.past {
            while let Some(lines) = past.recv().await {
                lines.iter().for_each(|line| write(&mut batch, line));
                if !batch.is_empty() {
                    return Some((Ok(Bytes::from(batch)), self));
                }
            }
            self.past = None;
        }
        if !self.follows {
            self.events.leave_out_the_new();
        }
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

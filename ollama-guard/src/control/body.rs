//! Bodies of a bounded size, in a bounded time.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use futures_util::stream;
use http_body_util::BodyExt;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::refusal::Refusal;

/// How long the rest of a refused body is read for.
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// Bytes of an answer that are handed over at a time.
const PIECE: usize = 64 * 1024;

/// Reads a body of up to `limit` bytes.
pub(super) async fn read(body: Body, limit: usize, time: Duration) -> Result<Vec<u8>, Refusal> {
    let mut body = body;
    match timeout(time, collect(&mut body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(refusal)) => {
            discard(body).await;
            Err(refusal)
        }
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the request's body did not arrive within {} s", time.as_secs()),
        )),
    }
}

async fn collect(body: &mut Body, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the request's body is larger than {limit} bytes: send less at a time"),
            ));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Reads what is left of a body and forgets it: a client that is still writing would otherwise
/// meet a closed connection instead of the answer that says why.
pub(super) async fn discard(mut body: Body) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    // A client that takes longer misses the answer.
    let _ = timeout(DISCARD_TIME, rest).await;
}

/// A long answer, in pieces, so that the permit is held until nearly all of it was written.
pub(super) fn in_pieces(bytes: Vec<u8>, permit: OwnedSemaphorePermit) -> Body {
    let state = (Bytes::from(bytes), permit);
    Body::from_stream(stream::unfold(state, async |(mut rest, permit)| {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        Some((Ok::<_, Infallible>(piece), (rest, permit)))
    }))
}

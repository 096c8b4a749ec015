//! What can be asked for.

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{
        HeaderMap, Method, StatusCode, Uri,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY},
    },
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    families::{self, Form},
    process::Process,
    source::{Readiness, Source},
};

const PLAIN: &str = "text/plain; charset=utf-8";

/// Asks for an answer that takes observe mode for ready.
const OBSERVE: &str = "observe=ok";

/// Every route.
pub(super) fn router(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(source)
}

async fn index() -> Response {
    text(
        StatusCode::OK,
        "ollama-guard\n\n/metrics  for Prometheus\n/healthz  whether the daemon lives\n/readyz   whether \
         every door holds\n"
            .to_owned(),
    )
}

async fn metrics(State(source): State<Arc<dyn Source>>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let form = Form::accepted(accept);
    let sample = source.sample().await;
    match families::write(sample, Process::read(), form) {
        Ok(text) => {
            let headers = [
                (CONTENT_TYPE, form.content_type()),
                (CACHE_CONTROL, "no-store"),
                (VARY, "Accept"),
            ];
            (headers, text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics can't be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "metrics can't be written\n".to_owned())
        }
    }
}

async fn healthz(State(source): State<Arc<dyn Source>>) -> Response {
    let ailments = source.ailments();
    if ailments.is_empty() { text(StatusCode::OK, "ok\n".to_owned()) } else { refused(&ailments) }
}

async fn readyz(State(source): State<Arc<dyn Source>>, RawQuery(query): RawQuery) -> Response {
    let takes_observe = query.is_some_and(|query| query.split('&').any(|part| part == OBSERVE));
    ready(&*source.readiness().await, takes_observe)
}

fn ready(readiness: &Readiness, takes_observe: bool) -> Response {
    let Readiness { failures, observed, notes } = readiness;
    let mut reasons = failures.clone();
    if !takes_observe {
        reasons.extend(observed.iter().cloned());
    }
    if !reasons.is_empty() {
        reasons.extend(notes.iter().cloned());
        return refused(&reasons);
    }
    text(StatusCode::OK, lines(&[&["ok".to_owned()], &observed[..], &notes[..]].concat()))
}

fn refused(reasons: &[String]) -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, lines(reasons))
}

/// One a line, whatever is in it.
fn lines(sentences: &[String]) -> String {
    sentences.iter().map(|line| format!("{}\n", line.replace(['\n', '\r'], " "))).collect()
}

async fn unknown(uri: Uri) -> Response {
    let path = uri.path().chars().take(100).collect::<String>();
    text(
        StatusCode::NOT_FOUND,
        format!("there is nothing at {path}: ask for /metrics, /healthz or /readyz\n"),
    )
}

async fn wrong_method(method: Method) -> Response {
    text(StatusCode::METHOD_NOT_ALLOWED, format!("nothing here takes {method}: use GET\n"))
}

fn text(status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, PLAIN), (CACHE_CONTROL, "no-store")], body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn answer(readiness: &Readiness, takes_observe: bool) -> (u16, String) {
        let response = ready(readiness, takes_observe);
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 16).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_is_who_holds_and_the_reasons_are_lines() {
        let note = vec!["CONFIGURATION REJECTED".to_owned()];
        let mut readiness = Readiness { notes: note, ..Readiness::default() };
        assert_eq!(answer(&readiness, false).await, (200, "ok\nCONFIGURATION REJECTED\n".into()));
        readiness.observed = vec!["mode observe".to_owned()];
        let (status, body) = answer(&readiness, false).await;
        assert!(status == 503 && body.starts_with("mode observe"), "{body}");
        assert_eq!(answer(&readiness, true).await.0, 200);
        readiness.failures = vec!["eth0: two\nlines".to_owned(), "more".to_owned()];
        let (status, body) = answer(&readiness, true).await;
        assert_eq!(
            (status, body.as_str()),
            (503, "eth0: two lines\nmore\nCONFIGURATION REJECTED\n")
        );
    }
}

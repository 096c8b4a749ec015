//! `GET /v1/rules`, `POST /v1/rules/{add,remove,replace}`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use super::{change, trial::HowQuery};
use crate::control::{
    access::Action,
    body,
    protocol::{Edit, EditReply},
    refusal::Refusal,
    shared::{Caller, Shared},
};

type Edited = Result<Json<EditReply>, Refusal>;

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    shared.admit(&caller, Action::Read)?;
    let permit = shared.listing(&caller).await?;
    let rules = shared.backend.rules().await?;
    let encode = tokio::task::spawn_blocking(move || serde_json::to_vec(&rules));
    let Ok(Ok(json)) = encode.await else {
        let message = "the rules cannot be written as JSON: see the daemon's log";
        return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message));
    };
    let head = [(header::CONTENT_TYPE, "application/json")];
    Ok((head, body::in_pieces(json, permit)).into_response())
}

pub(super) async fn add(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(how): Query<HowQuery>,
    body: Body,
) -> Edited {
    let body = change::admit(&shared, &caller, Action::Change, body).await?;
    edit(&shared, &caller, how, body, shared.limits().body_bytes, Edit::Add).await
}

pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(how): Query<HowQuery>,
    body: Body,
) -> Edited {
    let body = change::admit(&shared, &caller, Action::Change, body).await?;
    edit(&shared, &caller, how, body, shared.limits().body_bytes, Edit::Remove).await
}

pub(super) async fn replace(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Query(how): Query<HowQuery>,
    body: Body,
) -> Edited {
    let body = change::admit(&shared, &caller, Action::Change, body).await?;
    let _permit = shared.upload(&caller).await?;
    edit(&shared, &caller, how, body, shared.limits().replace_bytes, Edit::Replace).await
}

async fn edit<T: DeserializeOwned + Send + 'static>(
    shared: &Shared,
    caller: &Caller,
    how: HowQuery,
    body: Body,
    limit: usize,
    wrap: fn(T) -> Edit,
) -> Edited {
    let edit = wrap(change::receive(shared, body, limit).await?);
    let peer = caller.peer.as_ref().clone();
    let reply =
        change::carry_out(shared, move |backend| backend.edit(edit, how.manner(), peer)).await?;
    Ok(Json(reply))
}

//! `GET /v1/status`.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::Value;

use crate::control::{
    access::Action,
    refusal::Refusal,
    shared::{Caller, Shared},
};

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, Refusal> {
    shared.admit(&caller, Action::Read)?;
    Ok(Json(shared.backend.status().await?))
}

//! `GET /subscriptions/{id}/attempts`: the newest attempts since the host started.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use super::subscriptions::own;
use crate::caller::Caller;
use crate::host::{HostState, PathId};
use crate::http_error::HttpError;
use crate::json::{JsonPage, RecentAttemptJson};
use crate::query::ListQuery;
use crate::response::json;

/// `GET /subscriptions/{id}/attempts`.
pub(crate) async fn list(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
    uri: Uri,
) -> Result<Response, HttpError> {
    let limit = ListQuery::read(&uri, &["limit"])?.limit()?;
    let id = own(&host, &caller, &id)?.id;
    let attempts = host.engine.recent_attempts(id, limit);
    let items = attempts.iter().map(RecentAttemptJson::from).collect();
    Ok(json(StatusCode::OK, &JsonPage { items, cursor: None }))
}

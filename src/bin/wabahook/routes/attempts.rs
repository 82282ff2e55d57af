//! `GET /subscriptions/{id}/attempts`: the newest attempts since the host started.

use axum::http::{StatusCode, Uri};

use super::subscriptions::own as own_subscription;
use crate::caller::Caller;
use crate::host::{HostRef, PathId};
use crate::http_error::RouteResult;
use crate::json::{JsonPage, RecentAttemptJson};
use crate::query::ListQuery;
use crate::response::json;

/// `GET /subscriptions/{id}/attempts`.
pub(crate) async fn list(
    host: HostRef,
    caller: Caller,
    PathId(id): PathId,
    uri: Uri,
) -> RouteResult {
    let own = ["event_id", "event_type", "outcome", "reason", "limit", "cursor"];
    let query = ListQuery::read(&uri, &own)?;
    let id = own_subscription(&host, &caller, &id)?.id;
    let attempts = host.engine.recent_attempts(id, usize::MAX);
    let items = attempts.iter().map(RecentAttemptJson::from);
    let items = items.filter(|item| item.matches(|name| query.text(name))).collect();
    let (items, cursor) = query.page(items, RecentAttemptJson::cursor)?;
    Ok(json(StatusCode::OK, &JsonPage { items, cursor }))
}

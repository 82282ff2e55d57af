//! `GET /admin/audit`: the audit log, the newest entries first, for the operator.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use crate::caller::Caller;
use crate::host::{HostState, off_thread};
use crate::http_error::HttpError;
use crate::json::{AuditEntryJson, JsonPage};
use crate::query::ListQuery;
use crate::response::json;

/// `GET /admin/audit`.
pub(crate) async fn list(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, HttpError> {
    caller.require_operator()?;
    let query = ListQuery::read(&uri, &["limit", "cursor"])?;
    let (limit, cursor) = (query.limit()?, query.cursor::<u64>()?);
    let known = Arc::clone(&host);
    let found = off_thread(move || {
        let is_wanted = |entry: &AuditEntryJson| {
            caller.scope().is_none_or(|account| entry.account.as_deref() == Some(account))
        };
        let audit = host.shared.audit.as_ref();
        audit.map_or(Ok(Vec::new()), |audit| audit.newest(cursor, limit + 1, is_wanted))
    });
    let mut items = found.await?.map_err(|error| {
        tracing::error!(%error, "the audit log cannot be read");
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "store", "the audit log cannot be read")
    })?;
    let has_more = items.len() > limit;
    items.truncate(limit);
    for item in &mut items {
        let account = item.account.as_deref().and_then(|id| known.engine.accounts().get(id));
        item.account_name = account.map(|account| account.name.clone());
    }
    let cursor = items.last().filter(|_| has_more).map(|entry| entry.id.to_string());
    Ok(json(StatusCode::OK, &JsonPage { items, cursor }))
}

//! `GET /admin/audit`: the audit log, the newest entries first, for the operator.

use std::sync::Arc;

use axum::http::{StatusCode, Uri};
use wabahook::Accounts;

use crate::caller::Caller;
use crate::host::shared::HostShared;
use crate::host::{HostRef, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{AuditEntryJson, JsonPage};
use crate::query::ListQuery;
use crate::response::json;

/// `GET /admin/audit`.
pub(crate) async fn list(host: HostRef, caller: Caller, uri: Uri) -> RouteResult {
    page(Arc::clone(&host.shared), host.engine.accounts().clone(), caller, uri).await
}

/// A page of the log of this host, which needs no engine. The names are of these accounts.
pub(crate) async fn page(
    shared: Arc<HostShared>,
    accounts: Accounts,
    caller: Caller,
    uri: Uri,
) -> RouteResult {
    caller.require_operator()?;
    let query = ListQuery::read(&uri, &["limit", "cursor"])?;
    let (limit, cursor) = (query.limit()?, query.cursor::<u64>()?);
    let found = off_thread(move || {
        let is_wanted = |entry: &AuditEntryJson| {
            caller.scope().is_none_or(|account| entry.accounts().any(|one| one == account))
        };
        let audit = shared.audit.as_ref();
        let newest =
            audit.map_or(Ok(Vec::new()), |audit| audit.newest(cursor, limit + 1, is_wanted));
        newest.map(|mut items| {
            for item in &mut items {
                let account = item.accounts().next().and_then(|id| accounts.get(id));
                item.account_name = account.map(|account| account.name.clone());
            }
            items
        })
    });
    let mut items = found.await?.map_err(|error| {
        tracing::error!(%error, "the audit log cannot be read");
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "store", "the audit log cannot be read")
    })?;
    let has_more = items.len() > limit;
    items.truncate(limit);
    let cursor = items.last().filter(|_| has_more).map(|entry| entry.id.to_string());
    Ok(json(StatusCode::OK, &JsonPage { items, cursor }))
}

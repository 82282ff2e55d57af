//! `GET /admin/unowned`: the numbers and WABAs that callbacks named and no account owns. It is for the
//! operator. While no operator key is configured any account may read it, with the numbers masked (I9).

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use crate::caller::Caller;
use crate::host::HostState;
use crate::http_error::HttpError;
use crate::json::{JsonPage, UnownedJson};
use crate::query::ListQuery;
use crate::response::json;

/// `GET /admin/unowned`.
pub(crate) async fn list(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, HttpError> {
    if host.shared.has_operator() {
        caller.require_operator()?;
    }
    let query = ListQuery::read(&uri, &["number", "waba", "limit", "cursor"])?;
    let items = host.engine.unowned();
    let items = items.iter().map(|source| match caller.is_operator() {
        true => UnownedJson::of(source),
        false => UnownedJson::masked(source),
    });
    let items = items.filter(|item| item.matches(|name| query.text(name))).collect();
    let (items, cursor) = query.page(items, UnownedJson::cursor)?;
    Ok(json(StatusCode::OK, &JsonPage { items, cursor }))
}

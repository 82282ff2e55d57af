//! `GET /admin/unowned`: the numbers and WABAs that callbacks named and no account owns. It is for the
//! operator. While no operator key is configured any account may read it, with the numbers masked (I9).

use axum::http::{StatusCode, Uri};

use crate::caller::Caller;
use crate::host::HostRef;
use crate::http_error::RouteResult;
use crate::json::{JsonPage, UnownedJson};
use crate::query::ListQuery;
use crate::response::json;

/// `GET /admin/unowned`.
pub(crate) async fn list(host: HostRef, caller: Caller, uri: Uri) -> RouteResult {
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

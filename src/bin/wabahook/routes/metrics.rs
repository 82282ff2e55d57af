//! `GET /metrics`: the counters of the engine and the live figures of the caller's own subscriptions, as
//! Prometheus text. The operator sees the series of every account; no account sees another's (I9).

use axum::http::header;
use axum::response::IntoResponse;
use wabahook::metrics::{CONTENT_TYPE, account_exposition, accounts_exposition, exposition};

use super::subscriptions::visible;
use crate::caller::Caller;
use crate::host::{HostRef, off_thread};
use crate::http_error::RouteResult;

/// `GET /metrics`.
pub(crate) async fn metrics(host: HostRef, caller: Caller) -> RouteResult {
    let text = off_thread(move || {
        let shown = visible(&host.engine, &caller);
        match caller.own_counters(host.shared.has_operator()) {
            Some(account) => account_exposition(&host.engine.stats_of(account), &shown),
            None if caller.is_operator() => {
                let accounts = accounts_exposition(&host.engine.stats_by_account());
                exposition(&host.engine.stats(), &shown) + &accounts
            }
            None => exposition(&host.engine.stats(), &shown),
        }
    });
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text.await?).into_response())
}

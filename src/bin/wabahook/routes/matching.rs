//! `POST /subscriptions/{id}/match`: whether an event would match a subscription, and which check decides.
//! Nothing is published.

use axum::extract::Request;
use axum::http::StatusCode;

use super::events::own_event;
use super::subscriptions::own;
use crate::host::{HostRef, PathId, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{MatchReportJson, utf8};
use crate::response::json;

/// `POST /subscriptions/{id}/match`.
pub(crate) async fn report(host: HostRef, PathId(id): PathId, request: Request) -> RouteResult {
    let (caller, body) = host.admit(request, host.shared.body_bytes_max).await?;
    let report = off_thread(move || {
        let subscription = own(&host, &caller, &id)?;
        let account = host.engine.accounts().get(&subscription.account);
        let text = utf8(&body.bytes)?;
        let event = own_event(text, &subscription.account, account.as_deref(), &host.engine)?;
        let hint = host.engine.catalogue().subscribe_hint(event.event_type());
        let report = host.engine.match_report(subscription.id, event)?;
        let hints = hint.iter().map(ToString::to_string).collect();
        Ok::<_, HttpError>(MatchReportJson::of(report, hints))
    });
    Ok(json(StatusCode::OK, &report.await??))
}

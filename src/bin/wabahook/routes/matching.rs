//! `POST /subscriptions/{id}/match`: whether an event would match a subscription, and which check decides.
//! Nothing is published.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::subscriptions::own;
use crate::host::{HostState, PathId, off_thread};
use crate::http_error::HttpError;
use crate::json::{EventJson, MatchReportJson, parse, utf8};
use crate::response::json;

/// `POST /subscriptions/{id}/match`.
pub(crate) async fn report(
    State(host): State<Arc<HostState>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, HttpError> {
    let (caller, body) = host.admit(request, host.shared.body_bytes_max).await?;
    let report = off_thread(move || {
        let subscription = own(&host, &caller, &id)?;
        let event = parse::<EventJson<'_>>(utf8(&body.bytes)?)?.event(&subscription.account)?;
        let hint = host.engine.catalogue().subscribe_hint(event.event_type());
        let report = host.engine.match_report(subscription.id, event)?;
        let hints = hint.iter().map(ToString::to_string).collect();
        Ok::<_, HttpError>(MatchReportJson::of(report, hints))
    });
    Ok(json(StatusCode::OK, &report.await??))
}

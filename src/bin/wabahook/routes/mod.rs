//! The routes of the host, one file for each group of them. The OpenAPI document in `docs/openapi.json`
//! names every route that is mounted here and no other; `tests/host` compares the two.

mod account;
mod admin;
mod attempts;
mod audit;
mod backup;
mod console;
mod dead_letters;
mod deliveries;
mod event_traces;
mod events;
mod gateways;
mod matching;
mod meta;
mod metrics;
mod notices;
mod openapi;
mod purge;
mod stats;
mod subscription_list;
mod subscriptions;
mod unowned;

pub(crate) use self::audit::page as audit_page;
pub(crate) use self::meta::{HUB_SIGNATURE, verified_callback};
pub(crate) use self::notices::LineBody;
use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{from_fn_with_state, map_response_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post};

use crate::audit::record_changes;
use crate::blocking::{holder, in_turn};
use crate::host::{HostRef, HostState};
use crate::http_error::{HostBusy, HttpError};

/// All routes. Every other path goes to the gateways.
pub(crate) fn router(host: Arc<HostState>) -> Router {
    Router::new()
        .merge(console::routes())
        .route("/account", get(account::read))
        .route("/events", get(event_traces::list).post(events::publish))
        .route("/events/{id}", get(event_traces::read))
        .route("/meta/webhook", get(meta::challenge).post(meta::callback))
        .route("/subscriptions", get(subscription_list::list).post(subscriptions::create))
        .route("/subscriptions/pause", post(subscription_list::pause))
        .route("/subscriptions/resume", post(subscription_list::resume))
        .route(
            "/subscriptions/{id}",
            get(subscriptions::read).patch(subscriptions::revise).delete(subscriptions::delete),
        )
        .route("/subscriptions/{id}/secret", post(subscriptions::rotate_secret))
        .route("/subscriptions/{id}/match", post(matching::report))
        .route("/subscriptions/{id}/test", post(subscriptions::test))
        .route("/subscriptions/{id}/pause", post(subscriptions::pause))
        .route("/subscriptions/{id}/resume", post(subscriptions::resume))
        .route("/subscriptions/{id}/attempts", get(attempts::list))
        .route("/deliveries", get(deliveries::list))
        .route("/deliveries/cancel", post(deliveries::cancel))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/replay", post(dead_letters::replay))
        .route("/dead-letters/discard", post(dead_letters::discard))
        .route("/purge", post(purge::purge))
        .route("/dead-letters/{id}", get(dead_letters::read))
        .route("/stats", get(stats::stats))
        .route("/metrics", get(metrics::metrics))
        .route("/notices", get(notices::stream))
        .route("/admin/accounts", get(admin::list).post(admin::create))
        .route("/admin/accounts/{id}", get(admin::read).patch(admin::revise).delete(admin::remove))
        .route("/admin/accounts/{id}/forget", post(admin::forget))
        .route("/admin/accounts/{id}/keys", post(admin::add_key))
        .route("/admin/accounts/{id}/keys/{key_id}", delete(admin::remove_key))
        .route("/admin/accounts/{id}/move", post(admin::move_to))
        .route("/admin/reload", post(admin::reload))
        .route("/admin/backup", post(backup::backup))
        .route("/admin/audit", get(audit::list))
        .route("/admin/unowned", get(unowned::list))
        .route("/healthz", get(stats::healthz))
        .route("/livez", get(stats::livez))
        .route("/openapi.json", get(openapi::openapi))
        .fallback(gateways::answer)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(Arc::clone(&host), record_changes))
        .layer(map_response_with_state(Arc::clone(&host), note_busy))
        .layer(from_fn_with_state(host.shared.request_room.clone(), in_turn))
        .with_state(host)
}

/// Remembers that the host gave something back, for `/healthz`.
async fn note_busy(host: HostRef, response: Response) -> Response {
    if response.extensions().get::<HostBusy>().is_some() {
        host.shared.shortages.note_busy(holder());
    }
    response
}

async fn no_method(method: Method, uri: Uri) -> HttpError {
    let message = format!("{} does not take {method}", uri.path());
    HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

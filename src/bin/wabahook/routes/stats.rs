//! `GET /stats`, `GET /healthz` and `GET /livez`. The counters are of the whole engine and name nobody; the
//! subscriptions are the caller's own (I9).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::host::{Caller, HostState, off_thread};
use crate::http_error::HttpError;
use crate::json::{ReadinessJson, StatsJson, SubscriptionStatsJson};
use crate::response::json;

/// `GET /stats`.
pub(crate) async fn stats(
    State(host): State<Arc<HostState>>,
    Caller(account): Caller,
) -> Result<Response, HttpError> {
    let stats = off_thread(move || {
        let stats = host.engine.stats();
        let own = host.engine.subscriptions_of(&account);
        let own = own.iter().map(|one| SubscriptionStatsJson::of(one, &stats)).collect();
        StatsJson::of(&stats, own)
    });
    Ok(json(StatusCode::OK, &stats.await?))
}

/// `GET /healthz`: whether to send events to this host.
pub(crate) async fn healthz(State(host): State<Arc<HostState>>) -> Response {
    match host.is_serving() {
        true => json(StatusCode::OK, &ReadinessJson::of(host.engine.bound())),
        false => unavailable("the engine stopped or is closing"),
    }
}

/// `GET /livez`: whether to leave this process running. A host that is closing is alive.
pub(crate) async fn livez(State(host): State<Arc<HostState>>) -> Response {
    match host.is_alive() {
        true => json(StatusCode::OK, &ReadinessJson::of(host.engine.bound())),
        false => unavailable("the engine stopped; restart this process"),
    }
}

fn unavailable(message: &str) -> Response {
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "closed", message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wabahook::store::Memory;
    use wabahook::{Config, Engine};

    fn host() -> Arc<HostState> {
        let config = Config::new("memory").store(Arc::new(Memory::default()));
        Arc::new(HostState::new(Engine::open(config).unwrap(), None, 1024))
    }

    #[tokio::test]
    async fn a_host_is_ready_until_its_engine_stops() {
        let (stopped, bystander) = (host(), host());
        assert_eq!(healthz(State(Arc::clone(&stopped))).await.status(), StatusCode::OK);
        stopped.stop_serving();
        let response = healthz(State(Arc::clone(&stopped))).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(livez(State(Arc::clone(&stopped))).await.status(), StatusCode::OK);
        stopped.engine_stopped();
        assert_eq!(livez(State(stopped)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(livez(State(Arc::clone(&bystander))).await.status(), StatusCode::OK);
        assert_eq!(healthz(State(bystander)).await.status(), StatusCode::OK);
    }
}

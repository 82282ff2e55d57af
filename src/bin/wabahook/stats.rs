//! Decides what `/stats` and `/healthz` say.
//!
//! Leaves to others: counting (the engine). Invariant (I9): the counters are the whole engine's and
//! name nobody; what names a subscription is the caller's own.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use wabahook::{Registered, Stats};

use crate::host::{Caller, Host, off_thread};
use crate::refusal::{Refusal, json};
use crate::subscription_item::Health;

#[derive(Serialize)]
struct Counters {
    accepted: u64,
    duplicates: u64,
    unrouted: u64,
    busy: u64,
    owed: u64,
    recovered: u64,
    delivered: u64,
    attempts: u64,
    retried: u64,
    dead: u64,
    cancelled: u64,
    held: u64,
    in_flight: u64,
    stuck: u64,
    workers: u64,
    groups: u64,
    queued_events: u64,
    queued_bytes: u64,
    outbox_events: u64,
    outbox_bytes: u64,
    generations: u64,
    replayed: u64,
    letters_dropped: u64,
    keys_dropped: u64,
    subscriptions: Vec<Lane>,
}

#[derive(Serialize)]
struct Lane {
    id: u32,
    name: String,
    state: &'static str,
    #[serde(flatten)]
    health: Health,
}

/// `GET /stats`.
pub(crate) async fn stats(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
) -> Result<Response, Refusal> {
    let counters = off_thread(move || {
        let stats = host.engine.stats();
        let lane = |one: &Arc<Registered>| Lane {
            id: one.id.0,
            name: one.name.clone(),
            state: one.state.as_str(),
            health: Health::of(stats.lane(one.id)),
        };
        let lanes = host.engine.subscriptions_of(&account).iter().map(lane).collect();
        Counters::of(&stats, lanes)
    })
    .await?;
    Ok(json(StatusCode::OK, &counters))
}

impl Counters {
    fn of(stats: &Stats, subscriptions: Vec<Lane>) -> Counters {
        Counters {
            accepted: stats.accepted,
            duplicates: stats.duplicates,
            unrouted: stats.unrouted,
            busy: stats.busy,
            owed: stats.owed,
            recovered: stats.recovered,
            delivered: stats.delivered,
            attempts: stats.attempts,
            retried: stats.retried,
            dead: stats.dead,
            cancelled: stats.cancelled,
            held: stats.held,
            in_flight: stats.in_flight,
            stuck: stats.stuck,
            workers: stats.workers,
            groups: stats.groups,
            queued_events: stats.queued_events,
            queued_bytes: stats.queued_bytes,
            outbox_events: stats.outbox_events,
            outbox_bytes: stats.outbox_bytes,
            generations: stats.generations,
            replayed: stats.replayed,
            letters_dropped: stats.letters_dropped,
            keys_dropped: stats.keys_dropped,
            subscriptions,
        }
    }
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
}

/// `GET /healthz`.
pub(crate) async fn healthz(State(host): State<Arc<Host>>) -> Response {
    match host.is_serving() {
        true => json(StatusCode::OK, &Readiness { status: "ok" }),
        false => {
            let message = "the engine stopped or is being closed";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "closed", message).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wabahook::store::Memory;
    use wabahook::{Config, Engine};

    fn host() -> Arc<Host> {
        let config = Config::new("memory").store(Arc::new(Memory::default()));
        Arc::new(Host::new(Engine::open(config).unwrap(), None, 1024))
    }

    #[tokio::test]
    async fn a_host_is_ready_until_its_engine_stops() {
        let (stopped, bystander) = (host(), host());
        assert_eq!(healthz(State(Arc::clone(&stopped))).await.status(), StatusCode::OK);
        stopped.stop_serving();
        let answer = healthz(State(stopped)).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(healthz(State(bystander)).await.status(), StatusCode::OK);
    }
}

//! `GET /stats`, `GET /healthz` and `GET /livez`. The operator sees the counters of the whole engine, an account its
//! own (I9). Without an operator an account sees those of the whole engine, which name nobody.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::http::{StatusCode, Uri};
use axum::response::Response;
use wabahook::{SubscriptionInfo, SubscriptionState};

use super::subscriptions::{account, visible};
use crate::caller::Caller;
use crate::host::{HostRef, HostState, off_thread};
use crate::http_error::RouteResult;
use crate::json::{ReadinessJson, StatsJson, SubscriptionStatsJson};
use crate::query::ListQuery;
use crate::response::json;

/// `GET /stats`. With `worst`, only so many subscriptions are listed: those failing for the longest time, then
/// those with the most dead letters and the longest backlog.
pub(crate) async fn stats(host: HostRef, caller: Caller, uri: Uri) -> RouteResult {
    let worst: Option<usize> =
        ListQuery::read(&uri, &["worst"])?.value("worst", "a whole number")?;
    let stats = off_thread(move || {
        let counted = caller.own_counters(host.shared.has_operator());
        let stats = counted.map_or_else(|| host.engine.stats(), |one| host.engine.stats_of(one));
        let mut own = visible(&host.engine, &caller);
        let is_failing = |one: &SubscriptionInfo| {
            one.state == SubscriptionState::Disabled
                || stats.lane(one.id).is_some_and(|lane| !lane.failing_for.is_zero())
        };
        let failing = own.iter().filter(|one| is_failing(one)).count() as u64;
        let count = own.len() as u64;
        if let Some(worst) = worst {
            let rank = |one: &Arc<SubscriptionInfo>| {
                stats.lane(one.id).map(|lane| Reverse((lane.failing_for, lane.dead, lane.owed)))
            };
            own.sort_by_cached_key(|one| rank(one).unwrap_or_default());
            own.truncate(worst);
        }
        let item = |one: &Arc<SubscriptionInfo>| {
            let account = account(&caller, &host.engine, &one.account);
            SubscriptionStatsJson::of(one, &stats, account.as_deref())
        };
        let own = own.iter().map(item).collect();
        let shown = StatsJson::of(&stats, own, count, failing);
        if counted.is_some() { shown.of_account() } else { shown }
    });
    Ok(json(StatusCode::OK, &stats.await?))
}

/// `GET /healthz`: whether to send events to this host.
pub(crate) async fn healthz(host: HostRef) -> Response {
    if !host.is_serving() {
        return unable("the engine stopped or is closing");
    }
    if host.engine.is_stalled() {
        return unable("the store refuses writes");
    }
    if host.engine.is_full() {
        return unable("busy: the outbox owes its maximum");
    }
    json(StatusCode::OK, &readiness(&host))
}

/// `GET /livez`: whether to leave this process running. A host that is closing is alive.
pub(crate) async fn livez(host: HostRef) -> Response {
    match host.shared.is_alive() {
        true => json(StatusCode::OK, &readiness(&host)),
        false => unable("the engine stopped; restart this process"),
    }
}

/// The recent shortages of the engine and the host.
fn readiness(host: &HostState) -> ReadinessJson {
    ReadinessJson::of(host.engine.bound(), host.shared.recent_shortages(host.engine.accounts()))
}

fn unable(reason: &str) -> Response {
    json(StatusCode::SERVICE_UNAVAILABLE, &ReadinessJson::unable(reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::shared::HostShared;
    use crate::port::bodies::BodyLimits;
    use wabahook::registration::Registration;
    use wabahook::store::{FaultInjectingStore, FaultPlan, Memory, Store};
    use wabahook::{Config, Engine, Event, Notice, Subscription};

    fn host() -> HostRef {
        host_on(Arc::new(Memory::default()))
    }

    fn host_on(store: Arc<dyn Store>) -> HostRef {
        let config = Config::new("memory").store(store);
        let engine = Engine::open(config).unwrap();
        let shared = Arc::new(HostShared::new(BodyLimits::default()));
        let registration = Registration::new(engine.clone());
        HostRef(Arc::new(HostState::new(engine, registration, shared)))
    }

    #[tokio::test]
    async fn a_host_is_not_ready_while_its_device_refuses_writes() {
        let faults = Arc::new(FaultPlan::default());
        let memory = Arc::new(Memory::default());
        let refusing = host_on(Arc::new(FaultInjectingStore::new(memory, Arc::clone(&faults))));
        let bystander = host();
        let notices = refusing.engine.notices();
        let wait_for = |is_it: fn(&Notice) -> bool| loop {
            let notice = notices.next_timeout(std::time::Duration::from_secs(20));
            if is_it(&notice.expect("a notice in time")) {
                return;
            }
        };
        refusing.engine.subscribe(Subscription::to("https://crm.example/hook").unwrap()).unwrap();
        faults.fail_after(0);
        let _ = refusing.engine.publish(Event::new("ADD_TAG", "{}")).unwrap().wait();
        wait_for(|notice| matches!(notice, Notice::Stalled { .. }));
        let response = healthz(refusing.clone()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(livez(refusing.clone()).await.status(), StatusCode::OK);
        let stalled = |host: &HostRef| {
            let stats = host.engine.stats();
            let metrics = wabahook::metrics::exposition(&stats, &[]);
            let shown = serde_json::to_value(StatsJson::of(&stats, Vec::new(), 0, 0)).unwrap();
            let line = metrics.lines().find_map(|line| line.strip_prefix("wabahook_stalled "));
            (shown["stalled"].as_u64(), line.map(str::to_owned))
        };
        assert_eq!(stalled(&refusing), (Some(1), Some("1".to_owned())));
        assert_eq!(stalled(&bystander), (Some(0), Some("0".to_owned())));
        assert_eq!(healthz(bystander).await.status(), StatusCode::OK);
        faults.heal();
        wait_for(|notice| matches!(notice, Notice::Resumed));
        assert_eq!(stalled(&refusing), (Some(0), Some("0".to_owned())));
        assert_eq!(healthz(refusing).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn a_host_is_ready_until_its_engine_stops() {
        let (stopped, bystander) = (host(), host());
        assert_eq!(healthz(stopped.clone()).await.status(), StatusCode::OK);
        stopped.shared.stop_serving();
        let response = healthz(stopped.clone()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(livez(stopped.clone()).await.status(), StatusCode::OK);
        stopped.shared.engine_stopped();
        assert_eq!(livez(stopped).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(livez(bystander.clone()).await.status(), StatusCode::OK);
        assert_eq!(healthz(bystander).await.status(), StatusCode::OK);
    }
}

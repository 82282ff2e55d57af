//! `/healthz` and `/livez` of a host of a cluster. The host is ready when it can reach the store, whatever it serves
//! itself, because it forwards the rest.

use axum::http::StatusCode;
use axum::response::Response;

use super::front::Front;
use crate::json::{ClusterHostJson, ClusterJson, ReadinessJson};
use crate::response::json;

impl Front {
    pub(super) fn health(&self, path: &str) -> Response {
        let problem = if path == "/livez" { self.is_dead() } else { self.is_unable() };
        let (status, readiness) = match problem {
            Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, ReadinessJson::unable(problem)),
            None => (StatusCode::OK, self.readiness()),
        };
        json(status, &readiness.with_cluster(self.cluster()))
    }

    fn is_dead(&self) -> Option<&'static str> {
        (!self.routes.shared.is_alive()).then_some("restart this process")
    }

    fn is_unable(&self) -> Option<&'static str> {
        let engines = self.fleet.engines();
        let all = |is: fn(&wabahook::Engine) -> bool| {
            !engines.is_empty() && engines.iter().all(|(_, engine)| is(engine))
        };
        if !self.routes.shared.is_serving() {
            return Some("the host is closing");
        }
        if !self.fleet.is_connected() {
            return Some("the server of the store cannot be reached");
        }
        if all(wabahook::Engine::is_stalled) {
            return Some("the device refuses writes");
        }
        all(wabahook::Engine::is_full).then_some("busy: the outbox owes its maximum")
    }

    fn readiness(&self) -> ReadinessJson {
        let engines = self.fleet.engines();
        let bound = engines.iter().find_map(|(_, engine)| engine.bound());
        let mut reasons = self.routes.shared.shortages.reasons();
        if !self.without_owner().is_empty() {
            reasons.push("shards without an owner");
        }
        ReadinessJson::of(bound, reasons)
    }

    fn cluster(&self) -> ClusterJson {
        let hosts = self.fleet.hosts().into_iter();
        ClusterJson {
            host: self.fleet.name().to_owned(),
            shards: self.routes.open(),
            hosts: hosts
                .map(|host| ClusterHostJson { name: host.name, shards: host.shards })
                .collect(),
            without_owner: self.without_owner(),
        }
    }

    fn without_owner(&self) -> Vec<u16> {
        let owned: Vec<u16> = self.fleet.hosts().into_iter().flat_map(|host| host.shards).collect();
        (0..self.fleet.shards()).filter(|shard| !owned.contains(shard)).collect()
    }
}

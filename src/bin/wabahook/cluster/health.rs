//! `/healthz` and `/livez` of a host of a cluster. The host is ready when it can reach the store, whatever it serves
//! itself, because it forwards the rest.

use axum::http::StatusCode;
use axum::response::Response;
use wabahook::{Engine, FleetHost};

use super::front::Front;
use crate::json::{ClusterHostJson, ClusterJson, ReadinessJson};
use crate::response::json;

impl Front {
    pub(super) fn health(&self, path: &str) -> Response {
        let (engines, hosts) = (self.fleet.engines(), self.fleet.hosts());
        let owned: Vec<u16> = hosts.iter().flat_map(|host| host.shards.iter().copied()).collect();
        let without_owner: Vec<u16> =
            (0..self.fleet.shards()).filter(|shard| !owned.contains(shard)).collect();
        let problem = if path == "/livez" { self.is_dead() } else { self.is_unable(&engines) };
        let (status, readiness) = match problem {
            Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, ReadinessJson::unable(problem)),
            None => (StatusCode::OK, self.readiness(&engines, &hosts, !without_owner.is_empty())),
        };
        json(status, &readiness.with_cluster(self.cluster(hosts, without_owner)))
    }

    fn is_dead(&self) -> Option<&'static str> {
        (!self.routes.shared.is_alive()).then_some("restart this process")
    }

    fn is_unable(&self, engines: &[(u16, Engine)]) -> Option<&'static str> {
        let all = |is: fn(&Engine) -> bool| {
            !engines.is_empty() && engines.iter().all(|(_, engine)| is(engine))
        };
        if !self.routes.shared.is_serving() {
            return Some("the host is closing");
        }
        if let Some(problem) = self.fleet.membership().problem() {
            return Some(problem);
        }
        if all(Engine::is_stalled) {
            return Some("the store refuses writes");
        }
        all(Engine::is_full).then_some("busy: the outbox owes its maximum")
    }

    fn readiness(
        &self,
        engines: &[(u16, Engine)],
        hosts: &[FleetHost],
        lacks_owners: bool,
    ) -> ReadinessJson {
        let bound = engines.iter().find_map(|(_, engine)| engine.bound());
        let shortages = self.routes.shared.recent_shortages(self.fleet.accounts());
        let mut reasons: Vec<String> = shortages.into_iter().map(str::to_owned).collect();
        reasons.extend(lacks_owners.then(|| "shards without an owner".to_owned()));
        reasons.extend(hosts.iter().filter_map(|host| {
            let problem = self.peers.problem(&host.address)?;
            Some(format!("host {} {}", host.name, problem.text()))
        }));
        ReadinessJson::of(bound, reasons)
    }

    fn cluster(&self, hosts: Vec<FleetHost>, without_owner: Vec<u16>) -> ClusterJson {
        ClusterJson {
            host: self.fleet.name().to_owned(),
            shards: self.routes.open(),
            hosts: hosts
                .into_iter()
                .map(|host| ClusterHostJson { name: host.name, shards: host.shards })
                .collect(),
            without_owner,
        }
    }
}

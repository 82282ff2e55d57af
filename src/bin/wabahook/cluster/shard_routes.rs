//! The routes of each shard that is served here: those of a host with one engine. A shard that is about to be closed
//! takes no new request, and is closed when those that have begun are over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;
use wabahook::registration::Registration;
use wabahook::{Engine, Error, FleetListener};

use crate::host::HostState;
use crate::host::shared::HostShared;
use crate::routes;

/// How long a shard waits for its requests before it is closed. A later one gets an error of the closed engine.
const REQUESTS_MAX: Duration = Duration::from_secs(5);

/// Makes the gateways' APIs of an engine.
pub(crate) type MakeRegistration =
    Box<dyn Fn(&Engine) -> Result<Registration, Error> + Send + Sync>;

/// The routes of the shards of this host.
pub(crate) struct ShardRoutes {
    pub(super) shared: Arc<HostShared>,
    registration: MakeRegistration,
    shards: RwLock<BTreeMap<u16, Arc<OpenShard>>>,
    /// Changes with each change of the fleet.
    pub(super) changes: watch::Sender<u64>,
}

/// A shard that is served here.
struct OpenShard {
    routes: TowerToHyperService<Router>,
    host: Arc<HostState>,
    requests: Mutex<ShardRequests>,
    ended: Condvar,
}

#[derive(Default)]
struct ShardRequests {
    running: usize,
    is_closing: bool,
}

/// A shard that is open as long as this is held.
pub(super) struct ShardPermit(Arc<OpenShard>);

impl Drop for ShardPermit {
    fn drop(&mut self) {
        self.0.requests.lock().running -= 1;
        self.0.ended.notify_all();
    }
}

impl ShardPermit {
    pub(super) async fn answer(self, request: Request) -> Response {
        match self.0.routes.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.host.engine
    }
}

impl ShardRoutes {
    pub(crate) fn new(shared: Arc<HostShared>, registration: MakeRegistration) -> ShardRoutes {
        let (shards, changes) = (RwLock::default(), watch::Sender::new(0));
        ShardRoutes { shared, registration, shards, changes }
    }

    /// A shard to send a request to; `None` where it is not served here.
    pub(super) fn enter(&self, shard: u16) -> Option<ShardPermit> {
        let open = self.shards.read().get(&shard).cloned()?;
        let mut requests = open.requests.lock();
        if requests.is_closing {
            return None;
        }
        requests.running += 1;
        drop(requests);
        Some(ShardPermit(open))
    }

    /// The shards that are served here.
    pub(super) fn open(&self) -> Vec<u16> {
        self.shards.read().keys().copied().collect()
    }
}

impl FleetListener for ShardRoutes {
    fn opened(&self, shard: u16, engine: &Engine) {
        let registration = (self.registration)(engine).unwrap_or_else(|error| {
            tracing::error!(%error, "the gateways are served with their defaults");
            Registration::new(engine.clone())
        });
        let host = HostState::new(engine.clone(), registration, Arc::clone(&self.shared));
        let host = Arc::new(host);
        let routes = TowerToHyperService::new(routes::router(Arc::clone(&host)));
        let (requests, ended) = (Mutex::default(), Condvar::new());
        let open = Arc::new(OpenShard { routes, host, requests, ended });
        self.shards.write().insert(shard, open);
    }

    fn closing(&self, shard: u16) {
        let Some(open) = self.shards.write().remove(&shard) else { return };
        open.host.close_soon();
        let mut requests = open.requests.lock();
        requests.is_closing = true;
        let are_running = |requests: &mut ShardRequests| requests.running > 0;
        open.ended.wait_while_for(&mut requests, are_running, REQUESTS_MAX);
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

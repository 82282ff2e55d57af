//! A host whose store another host owns: it waits for the ownership, and answers that it does. `/healthz` and every
//! route of the API answer 503 meanwhile, so that a load balancer sends everything to the owner.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use wabahook::store::{Postgres, PostgresOptions, StoreFailure};

use crate::command_error::{CommandError, CommandResult};
use crate::http_error::{HttpError, NOT_OWNER};
use crate::json::ReadinessJson;
use crate::port::accept::Server;
use crate::port::connections::ClientConnections;
use crate::response::json;

/// How often to look whether the ownership is free.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long to wait before the server is tried again after it could not be reached.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Why this host does not serve yet.
#[derive(Clone)]
struct Waiting(Arc<Mutex<String>>);

impl Waiting {
    fn reason(&self) -> String {
        self.0.lock().clone()
    }

    fn set(&self, reason: String) {
        let mut current = self.0.lock();
        if *current != reason {
            tracing::warn!("this host waits: {reason}");
            *current = reason;
        }
    }
}

/// Waits for the ownership of a store, and answers requests on the port meanwhile. `None` when `stop` comes first.
pub(crate) async fn wait(
    options: PostgresOptions,
    listener: TcpListener,
    server: impl FnOnce(Router) -> Server,
    connections: Arc<ClientConnections>,
    stop: impl Future<Output = ()>,
) -> CommandResult<Option<Postgres>> {
    let waiting = Waiting(Arc::new(Mutex::new("the store is being opened".to_owned())));
    let routes = Router::new()
        .route("/healthz", get(not_ready))
        .route("/livez", get(alive))
        .fallback(refused)
        .with_state(waiting.clone());
    let (done, is_done) = tokio::sync::oneshot::channel::<()>();
    let over = async { drop(is_done.await) };
    let accepting = tokio::spawn(server(routes).accept(listener, connections, over));
    let acquired = tokio::select! {
        acquired = acquire(options, waiting) => acquired.map(Some),
        () = stop => Ok(None),
    };
    drop(done);
    if let Ok(open_requests) = accepting.await {
        open_requests.shutdown().await;
    }
    acquired
}

/// Takes the ownership as soon as it is free.
async fn acquire(options: PostgresOptions, waiting: Waiting) -> CommandResult<Postgres> {
    loop {
        let (options, told) = (options.clone(), waiting.clone());
        let tried = tokio::task::spawn_blocking(move || acquire_now(options, &told)).await;
        match tried {
            Ok(Ok(store)) => return Ok(store),
            Ok(Err(StoreFailure::Unsafe(why))) => {
                return Err(CommandError::Run(format!("store: {why}")));
            }
            Ok(Err(failure)) => {
                waiting.set(format!("the server of the store cannot be used: {failure}"));
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
            Err(_) => return Err(CommandError::Run("store: a thread failed".to_owned())),
        }
    }
}

/// Waits on one connection to the server, until that fails.
fn acquire_now(options: PostgresOptions, waiting: &Waiting) -> Result<Postgres, StoreFailure> {
    let store = Postgres::connect(options)?;
    // The runtime waits for this thread when the process stops, so it looks whether anybody still wants the result.
    while Arc::strong_count(&waiting.0) > 1 {
        if store.try_acquire()? {
            return Ok(store);
        }
        match store.owner()? {
            Some(owner) => waiting.set(format!("host {owner} owns the store")),
            None => waiting.set("the last owner of the store has gone".to_owned()),
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    Err(StoreFailure::InUse)
}

async fn not_ready(State(waiting): State<Waiting>) -> Response {
    json(StatusCode::SERVICE_UNAVAILABLE, &ReadinessJson::standby(&waiting.reason()))
}

async fn alive(State(waiting): State<Waiting>) -> Response {
    json(StatusCode::OK, &ReadinessJson::standby(&waiting.reason()))
}

async fn refused(State(waiting): State<Waiting>) -> Response {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    HttpError::new(status, NOT_OWNER, waiting.reason()).into_response()
}

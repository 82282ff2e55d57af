//! Decides how `serve` starts, listens and stops.
//!
//! Leaves to others: each route. Invariants: an address is printed once it is served; SIGTERM and
//! SIGINT end within [`STOP_MAX`], leave what is owed on disk and exit 0.

use std::io::Write;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use wabahook::clock::{Clock, System};
use wabahook::{Engine, Error, Notice};

use crate::ServeArgs;
use crate::config::{self, Setup};
use crate::failure::Failure;
use crate::host::Host;
use crate::refusal::Refusal;
use crate::{
    account, attempts, console, dead_letters, deliveries, description, events, gateways, log, meta,
    metrics, notices, stats, subscriptions,
};

/// From the signal to the end: requests and attempts under way share it.
const STOP_MAX: Duration = Duration::from_secs(10);
/// The part of it that requests may take, so that attempts have some left.
const REQUESTS_STOP_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take to send a request's head, waiting between requests included.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest head of a request, and the buffer of each connection.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How many connections there may be; the others wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1024;
/// How many requests may wait for a disk at once; the others wait for their turn.
const BLOCKING_THREADS_MAX: usize = 16;

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    log::start(args.log);
    let setup = config::load(args, &config::process_environment)?;
    let file = config::shown(&args.config);
    let listener = StdListener::bind(setup.listen).map_err(|error| {
        Failure::Run(format!("listen: {} cannot be listened on: {error}", setup.listen))
    })?;
    let engine = Engine::open(setup.engine.clone()).map_err(|error| match error {
        Error::Invalid { .. } => Failure::Usage(format!("{file}: {error}")),
        _ => Failure::Run(error.to_string()),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("wabahook-http")
        .build();
    let runtime = runtime.map_err(|e| Failure::Run(format!("no threads to serve with: {e}")))?;
    let ended = runtime.block_on(serve(listener, engine, setup));
    runtime.shutdown_background();
    ended
}

async fn serve(listener: StdListener, engine: Engine, setup: Setup) -> Result<(), Failure> {
    let failed = |doing: &'static str| {
        move |error: std::io::Error| Failure::Run(format!("{doing}: {error}"))
    };
    let stop = stop_signal().map_err(failed("waiting for signals"))?;
    listener.set_nonblocking(true).map_err(failed("listening"))?;
    let listener = TcpListener::from_std(listener).map_err(failed("listening"))?;
    let address = listener.local_addr().map_err(failed("listening"))?;
    let mut host = Host::new(engine.clone(), setup.meta, setup.body_bytes_max);
    let registration = host.registration.dialog360(setup.dialog360);
    host.registration = registration.map_err(|error| Failure::Usage(error.to_string()))?;
    let host = Arc::new(host);
    tokio::spawn(watch_the_engine(Arc::clone(&host)));
    announce(&format!("listening on http://{address} (data in {})", config::shown(&setup.data)))
        .map_err(failed("writing to stdout"))?;
    let accepting = accept(listener, routes(Arc::clone(&host)), stop).await;
    host.stop_serving();
    let clock = System::new();
    let _ = tokio::time::timeout(REQUESTS_STOP_MAX, accepting.shutdown()).await;
    let left = STOP_MAX.saturating_sub(Duration::from_millis(clock.monotonic_ms()));
    let closed = tokio::task::spawn_blocking(move || engine.close(left)).await;
    match closed {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::Run(format!("closing: {error}"))),
        Err(_) => Err(Failure::Run("closing: a thread failed".to_owned())),
    }
}

/// Whoever started this process may be waiting for the line, so it must not stay in a buffer.
fn announce(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Resolves at SIGTERM or SIGINT. Both are caught from the moment this returns.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

fn routes(host: Arc<Host>) -> Router {
    Router::new()
        .merge(console::routes())
        .route("/account", get(account::read))
        .route("/events", post(events::publish))
        .route("/meta/webhook", get(meta::challenge).post(meta::callback))
        .route("/subscriptions", get(subscriptions::list).post(subscriptions::create))
        .route(
            "/subscriptions/{id}",
            get(subscriptions::read).patch(subscriptions::revise).delete(subscriptions::delete),
        )
        .route("/subscriptions/{id}/secret", post(subscriptions::rotate_secret))
        .route("/subscriptions/{id}/test", post(subscriptions::test))
        .route("/subscriptions/{id}/pause", post(subscriptions::pause))
        .route("/subscriptions/{id}/resume", post(subscriptions::resume))
        .route("/subscriptions/{id}/attempts", get(attempts::list))
        .route("/deliveries", get(deliveries::list))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/replay", post(dead_letters::replay))
        .route("/dead-letters/{id}", get(dead_letters::read))
        .route("/stats", get(stats::stats))
        .route("/metrics", get(metrics::metrics))
        .route("/notices", get(notices::stream))
        .route("/healthz", get(stats::healthz))
        .route("/openapi.json", get(description::openapi))
        .fallback(gateways::answer)
        .method_not_allowed_fallback(no_method)
        .with_state(host)
}

async fn no_method(method: Method, uri: Uri) -> Refusal {
    let message = format!("{} does not take {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// Takes connections until `stop`. What it returns lets the requests under way finish.
async fn accept(
    listener: TcpListener,
    routes: Router,
    stop: impl Future<Output = ()>,
) -> GracefulShutdown {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT_MAX).max_buf_size(HEAD_BYTES_MAX);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut stop = pin!(stop);
    loop {
        let connection = async {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut stop => break,
            connection = connection => connection,
        };
        let Ok((stream, _)) = accepted else {
            // The peer went away, or there are no descriptors left: then waiting is all one can do.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        // A connection that answers slowly still works, so an error here changes nothing.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(routes.clone());
        let served = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // What ends a connection early is the peer's doing and known to it.
            let _ = served.await;
            drop(place);
        });
    }
    graceful
}

/// Stops serving when the engine stopped. What else happens the library tells by `tracing`.
async fn watch_the_engine(host: Arc<Host>) {
    let notices = host.engine.notices();
    let mut told = host.told.subscribe();
    loop {
        while let Some(notice) = notices.try_next() {
            if let Notice::Poisoned { .. } = notice {
                host.stop_serving();
            }
        }
        if told.changed().await.is_err() {
            return;
        }
    }
}

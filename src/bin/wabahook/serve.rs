//! `wabahook serve`: start, listen, stop. The address is printed once it is served. SIGTERM and SIGINT end
//! the process within [`STOP_MAX`] with exit code 0 and leave owed deliveries on disk.

use std::io::Write;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use wabahook::clock::{Clock, SystemClock};
use wabahook::{Engine, Error, Notice};

use crate::command_error::CommandError;
use crate::config::{self, HostSettings, ServeArgs};
use crate::host::HostState;
use crate::port::connections::{ClientConnection, ClientConnections, ConnectionAdmission};
use crate::{log, routes};

/// From the signal to the end. Open requests and attempts in flight share it.
const STOP_MAX: Duration = Duration::from_secs(10);
/// The part of it for requests, so that attempts have the rest.
const REQUESTS_STOP_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take to send the head of a request, idle time before it included.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest head of a request, and the buffer of each connection.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How often to log that connections are replaced or refused.
const CROWDED_LOG_EVERY_MS: u64 = 60_000;
/// How many requests may wait for a disk at once.
const BLOCKING_THREADS_MAX: usize = 16;

/// Raises the limit of open files to the hard limit: each attempt in flight and each client takes one.
#[cfg(unix)]
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(not(unix))]
fn raise_file_limit() {}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: &ServeArgs) -> Result<(), CommandError> {
    log::start(args.log);
    raise_file_limit();
    let settings = config::load(args, &config::process_environment)?;
    let file = config::shown(&args.config);
    let listener = StdListener::bind(settings.listen).map_err(|error| {
        CommandError::Run(format!("listen: cannot listen on {}: {error}", settings.listen))
    })?;
    let engine = Engine::open(settings.engine.clone()).map_err(|error| match error {
        Error::Invalid { .. } => CommandError::Usage(format!("{file}: {error}")),
        _ => CommandError::Run(error.to_string()),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("wabahook-http")
        .build();
    let runtime = runtime.map_err(|e| CommandError::Run(format!("cannot start threads: {e}")))?;
    if settings.has_plain_secrets && config::is_world_readable(&args.config) {
        tracing::warn!(
            "{file} has API keys or secrets and every user of this machine can read it; chmod 600 it"
        );
    }
    let result = runtime.block_on(serve(listener, engine, settings));
    runtime.shutdown_background();
    result
}

async fn serve(
    listener: StdListener,
    engine: Engine,
    settings: HostSettings,
) -> Result<(), CommandError> {
    let failed = |doing: &'static str| {
        move |error: std::io::Error| CommandError::Run(format!("{doing}: {error}"))
    };
    let stop = stop_signal().map_err(failed("waiting for signals"))?;
    listener.set_nonblocking(true).map_err(failed("listening"))?;
    let listener = TcpListener::from_std(listener).map_err(failed("listening"))?;
    let address = listener.local_addr().map_err(failed("listening"))?;
    let mut host = HostState::new(engine.clone(), settings.meta, settings.body_bytes_max);
    let registration = host.registration.dialog360(settings.dialog360);
    host.registration = registration.map_err(|error| CommandError::Usage(error.to_string()))?;
    let host = Arc::new(host);
    tokio::spawn(watch_engine(Arc::clone(&host)));
    announce(&format!("listening on http://{address} (data in {})", config::shown(&settings.data)))
        .map_err(failed("writing to stdout"))?;
    let connections = ClientConnections::new(settings.connections);
    let accepting = accept(listener, routes::router(Arc::clone(&host)), connections, stop).await;
    host.stop_serving();
    let clock = SystemClock::new();
    let _ = tokio::time::timeout(REQUESTS_STOP_MAX, accepting.shutdown()).await;
    let left = STOP_MAX.saturating_sub(Duration::from_millis(clock.monotonic_ms()));
    let closed = tokio::task::spawn_blocking(move || engine.close(left)).await;
    match closed {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(CommandError::Run(format!("closing: {error}"))),
        Err(_) => Err(CommandError::Run("closing: a thread failed".to_owned())),
    }
}

/// Prints a line at once: the process that started this one may wait for it.
fn announce(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Resolves at SIGTERM or SIGINT. Both are caught from when this returns.
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

/// Accepts connections until `stop`. What it returns waits for the open requests.
async fn accept(
    listener: TcpListener,
    routes: Router,
    connections: Arc<ClientConnections>,
    stop: impl Future<Output = ()>,
) -> GracefulShutdown {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT_MAX).max_buf_size(HEAD_BYTES_MAX);
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    let mut crowded = CrowdedLog::new();
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // The peer went away, or there are no descriptors left; waiting helps with the latter.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let connection = match connections.open(peer.ip()) {
            ConnectionAdmission::Admitted(connection) => Arc::new(connection),
            ConnectionAdmission::Replaced(connection) => {
                crowded.log();
                Arc::new(connection)
            }
            ConnectionAdmission::Refused => {
                crowded.log();
                continue;
            }
        };
        serve_connection(&http, &graceful, &routes, connection, stream);
    }
    graceful
}

/// Serves the requests of a connection on a task of its own.
fn serve_connection(
    http: &http1::Builder,
    graceful: &GracefulShutdown,
    routes: &Router,
    connection: Arc<ClientConnection>,
    stream: TcpStream,
) {
    // Without it the connection is only slower.
    let _ = stream.set_nodelay(true);
    let routes = TowerToHyperService::new(routes.clone());
    let of_requests = Arc::clone(&connection);
    let service = service_fn(move |mut request: Request<Incoming>| {
        of_requests.request_began();
        request.extensions_mut().insert(Arc::clone(&of_requests));
        routes.call(request)
    });
    let served = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
    tokio::spawn(async move {
        tokio::select! {
            // An error ends this connection only.
            _ = served => {}
            () = connection.closed_by_host() => {}
        }
    });
}

/// Logs, at most once a minute, that the bounds of connections are reached.
struct CrowdedLog {
    clock: SystemClock,
    last_ms: Option<u64>,
}

impl CrowdedLog {
    fn new() -> CrowdedLog {
        CrowdedLog { clock: SystemClock::new(), last_ms: None }
    }

    fn log(&mut self) {
        let now_ms = self.clock.monotonic_ms();
        if self.last_ms.is_none_or(|last_ms| now_ms >= last_ms + CROWDED_LOG_EVERY_MS) {
            self.last_ms = Some(now_ms);
            tracing::warn!(
                "too many connections: the oldest without a valid API key are closed; see \
                 limits.connections_max and limits.connections_per_address_max"
            );
        }
    }
}

/// Stops serving when the engine stops. The library logs all other notices by `tracing`.
async fn watch_engine(host: Arc<HostState>) {
    let notices = host.engine.notices();
    let mut notice_count = host.notice_count.subscribe();
    loop {
        while let Some(notice) = notices.try_next() {
            if let Notice::Poisoned { .. } = notice {
                host.engine_stopped();
            }
        }
        if notice_count.changed().await.is_err() {
            return;
        }
    }
}

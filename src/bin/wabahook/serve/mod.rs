//! `wabahook serve`: start, listen, stop. The address is printed once it is served. SIGTERM and SIGINT end
//! the process within [`STOP_MAX`] with exit code 0 and leave owed deliveries on disk.

mod reload;
mod standby;

use std::io::Write;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use wabahook::clock::{Clock, SystemClock};
use wabahook::registration::{Dialog360, Registration, SessionGateway};
use wabahook::store::Postgres;
use wabahook::{Engine, Error, Notice};

use self::reload::{ReloadedEngines, Reloader};
use crate::audit::AuditLog;
use crate::cluster::{self, MakeRegistration};
use crate::command_error::{CommandError, CommandResult};
use crate::config::{self, ClusterSettings, HostSettings, ServeArgs};
use crate::host::HostState;
use crate::host::shared::HostShared;
use crate::json::AuditEntryJson;
use crate::port::accept::Server;
use crate::port::connections::ClientConnections;
use crate::port::tls::ServerTls;
use crate::port::{files, listener};
use crate::{log, routes};

/// From the signal to the end. Open requests and attempts in flight share it.
const STOP_MAX: Duration = Duration::from_secs(10);
/// The part of it for attempts in flight. They are owed on disk and made again after the restart.
const ATTEMPTS_STOP_MAX: Duration = Duration::from_secs(2);
/// The part of it for requests.
const REQUESTS_STOP_MAX: Duration = Duration::from_secs(5);
/// How often to look for repeated lines of the log.
const LOG_FLUSH_EVERY: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: &ServeArgs) -> CommandResult {
    log::start(args.log, args.log_format);
    files::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(crate::blocking::THREADS_MAX)
        .thread_name("wabahook-http")
        .build();
    let runtime = runtime.map_err(|e| CommandError::Run(format!("cannot start threads: {e}")))?;
    let result = run_on(&runtime, args);
    runtime.shutdown_background();
    log::flush(true);
    result
}

fn run_on(runtime: &tokio::runtime::Runtime, args: &ServeArgs) -> CommandResult {
    let hangups = runtime.block_on(async { count_hangups() });
    let hangups = hangups.map_err(failed("waiting for signals"))?;
    let settings = config::load(&args.files, args.listen.as_ref(), &config::process_environment)?;
    let file = config::shown(&args.files.config);
    let tls = settings.tls.clone().map(ServerTls::new).transpose();
    let tls =
        tls.map_err(|problem| CommandError::Usage(format!("{file}: {problem}")))?.map(Arc::new);
    let listener = listen(&settings)?;
    runtime.block_on(serve_in_turn(args, listener, tls, &settings, &hangups))
}

/// The socket of a supervisor, or a new one.
fn listen(settings: &HostSettings) -> CommandResult<StdListener> {
    let failed = |error: std::io::Error| {
        CommandError::Run(format!("listen: cannot listen on {}: {error}", settings.listen))
    };
    let inherited = listener::inherited()
        .map_err(|error| CommandError::Run(format!("LISTEN_FDS: not a TCP socket: {error}")))?;
    let listener = match inherited {
        Some(inherited) => inherited,
        None => listener::bind(settings.listen).map_err(failed)?,
    };
    let address = listener.local_addr().map_err(failed)?.ip();
    if settings.tls.is_none() && !address.is_loopback() {
        tracing::warn!(
            %address,
            "API keys and events can be read on the way: this address is reachable from outside and has no TLS; \
             set tls, or listen on 127.0.0.1 behind a proxy"
        );
    }
    Ok(listener)
}

/// Serves as long as this host owns its store, and waits for the ownership while another host does.
async fn serve_in_turn(
    args: &ServeArgs,
    listener: StdListener,
    tls: Option<Arc<ServerTls>>,
    settings: &HostSettings,
    hangups: &watch::Receiver<u64>,
) -> CommandResult {
    let (sender, stop) = watch::channel(false);
    let signal = stop_signal().map_err(failed("waiting for signals"))?;
    tokio::spawn(async move {
        signal.await;
        let _ = sender.send(true);
    });
    listener.set_nonblocking(true).map_err(failed("listening"))?;
    tokio::spawn(flush_log());
    if let Some(tls) = &tls {
        tokio::spawn(Arc::clone(tls).follow());
    }
    let address = listener.local_addr().map_err(failed("listening"))?;
    if let Some(cluster) = settings.cluster.clone() {
        let signals = (stop, hangups.clone());
        return serve_shards(args, listener, tls, settings, cluster, signals).await;
    }
    // Kept from one owner of the store to the next, and closed as soon as this process stops accepting.
    let kept = Mutex::new(Some(listener));
    loop {
        let own = || own_listener(&kept).map_err(failed("listening"));
        let store = match settings.store.clone() {
            None => None,
            Some(options) => {
                announce_port("waiting", Ok(address), tls.is_some(), "")?;
                let (tls, head_timeout) = (tls.clone(), settings.head_timeout);
                let server = move |routes| Server::new(routes, tls, head_timeout);
                let connections = ClientConnections::new(settings.connections);
                let wait = standby::wait(options, own()?, server, connections, asked(stop.clone()));
                match wait.await? {
                    Some(store) => Some(store),
                    None => return Ok(()),
                }
            }
        };
        let engine = open(args, settings, store).await?;
        warn_of_readable_secrets(args, settings);
        let listener = own()?;
        let signals = (stop.clone(), hangups.clone());
        let serving =
            serve(args.clone(), (listener, &kept), tls.clone(), engine, settings, signals);
        match serving.await? {
            ServeEnd::Stopped => return Ok(()),
            ServeEnd::NotOwner => {}
        }
    }
}

/// Warns where other users of the machine can read the configuration's secrets. An error at start is one line, so
/// this comes after what may fail.
fn warn_of_readable_secrets(args: &ServeArgs, settings: &HostSettings) {
    if settings.has_plain_secrets && config::is_world_readable(&args.files.config) {
        let file = config::shown(&args.files.config);
        tracing::warn!(
            "{file} has API keys or secrets and every user of this machine can read it; chmod 600 it"
        );
    }
}

/// A handle of the socket for one owner of the store.
fn own_listener(kept: &Mutex<Option<StdListener>>) -> std::io::Result<TcpListener> {
    let kept = kept.lock();
    let listener = kept.as_ref().ok_or(std::io::ErrorKind::NotConnected)?;
    TcpListener::from_std(listener.try_clone()?)
}

enum ServeEnd {
    Stopped,
    /// Another host has taken over the store.
    NotOwner,
}

/// Resolves when the process is asked to stop.
async fn asked(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn failed(doing: &'static str) -> impl Fn(std::io::Error) -> CommandError {
    move |error| CommandError::Run(format!("{doing}: {error}"))
}

/// Opens the engine on a store of its own, or on the data directory.
async fn open(
    args: &ServeArgs,
    settings: &HostSettings,
    store: Option<Postgres>,
) -> CommandResult<Engine> {
    let config = match store {
        None => settings.engine.clone(),
        Some(store) => {
            // The directory of the host's own files, such as the audit log.
            std::fs::create_dir_all(&settings.data)
                .map_err(failed("creating the data directory"))?;
            settings.engine.clone().store(Arc::new(store))
        }
    };
    let file = config::shown(&args.files.config);
    let opened = tokio::task::spawn_blocking(move || Engine::open(config)).await;
    let opened = opened.map_err(|_| CommandError::Run("opening: a thread failed".to_owned()))?;
    opened.map_err(|error| match error {
        Error::Invalid { .. } => CommandError::Usage(format!("{file}: {error}")),
        _ => error.into(),
    })
}

async fn serve(
    args: ServeArgs,
    (listener, kept): (TcpListener, &Mutex<Option<StdListener>>),
    tls: Option<Arc<ServerTls>>,
    engine: Engine,
    settings: &HostSettings,
    (stop, hangups): (watch::Receiver<bool>, watch::Receiver<u64>),
) -> CommandResult<ServeEnd> {
    let engines = ReloadedEngines::One(engine.clone());
    let shared = shared(settings, Reloader::new(args, settings, tls.clone(), engines))?;
    let apis = (settings.dialog360.clone(), settings.session.clone());
    let registration = registration(&engine, &apis);
    let registration = registration.map_err(|error| CommandError::Usage(error.to_string()))?;
    let host = Arc::new(HostState::new(engine.clone(), registration, Arc::new(shared)));
    let reloading = reload_on_hangup(Arc::clone(&host.shared), hangups);
    let tasks = [tokio::spawn(watch_engine(Arc::clone(&host))), tokio::spawn(reloading)];
    let data = match settings.store {
        None => format!(" (data in {})", config::shown(&settings.data)),
        Some(_) => " (data in PostgreSQL)".to_owned(),
    };
    announce_port("listening", listener.local_addr(), tls.is_some(), &data)?;
    let connections = ClientConnections::new(settings.connections);
    let server = Server::new(routes::router(Arc::clone(&host)), tls, settings.head_timeout);
    let server = server.shortages(Arc::clone(&host.shared.shortages));
    let is_asked = stop.clone();
    let stop = wind_down(asked(stop), Arc::clone(&host));
    let open_requests = server.accept(listener, connections, stop).await;
    if *is_asked.borrow() {
        drop(kept.lock().take());
    }
    let clock = SystemClock::new();
    let _ = tokio::time::timeout(REQUESTS_STOP_MAX, open_requests.shutdown()).await;
    let left =
        (STOP_MAX - ATTEMPTS_STOP_MAX).saturating_sub(Duration::from_millis(clock.monotonic_ms()));
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let closed = tokio::task::spawn_blocking(move || engine.close(left)).await;
    match closed {
        Ok(Ok(())) => Ok(ServeEnd::Stopped),
        Ok(Err(Error::NotOwner)) => Ok(ServeEnd::NotOwner),
        Ok(Err(error)) => Err(CommandError::Run(format!("closing: {error}"))),
        Err(_) => Err(CommandError::Run("closing: a thread failed".to_owned())),
    }
}

/// Serves the shards of this host, and forwards what is about others.
async fn serve_shards(
    args: &ServeArgs,
    listener: StdListener,
    tls: Option<Arc<ServerTls>>,
    settings: &HostSettings,
    cluster: ClusterSettings,
    (stop, hangups): (watch::Receiver<bool>, watch::Receiver<u64>),
) -> CommandResult {
    let joined = Arc::new(OnceLock::new());
    let engines = ReloadedEngines::Fleet(Arc::clone(&joined));
    let shared =
        Arc::new(shared(settings, Reloader::new(args.clone(), settings, tls.clone(), engines))?);
    let apis = (settings.dialog360.clone(), settings.session.clone());
    let registration: MakeRegistration = Box::new(move |engine| registration(engine, &apis));
    let (config, of_routes) = (settings.engine.clone(), Arc::clone(&shared));
    let stopped = asked(stop.clone());
    let join = cluster::join(cluster, config, of_routes, registration, &joined, stopped);
    let Some((fleet, routes)) = join.await? else { return Ok(()) };
    warn_of_readable_secrets(args, settings);
    let reloading = tokio::spawn(reload_on_hangup(Arc::clone(&shared), hangups));
    let data = format!(" (data in PostgreSQL, as host {})", fleet.name());
    announce_port("listening", listener.local_addr(), tls.is_some(), &data)?;
    let connections = ClientConnections::new(settings.connections);
    let server = Server::new(routes, tls, settings.head_timeout);
    let server = server.shortages(Arc::clone(&shared.shortages));
    let listener = TcpListener::from_std(listener).map_err(failed("listening"))?;
    let leaving = async move {
        asked(stop).await;
        shared.stop_serving();
        // Requests are accepted meanwhile, and forwarded to the hosts that take over.
        tokio::task::spawn_blocking(move || fleet.close(ATTEMPTS_STOP_MAX)).await
    };
    let mut left = None;
    let accepting = server.accept(listener, connections, async { left = Some(leaving.await) });
    let open_requests = accepting.await;
    let _ = tokio::time::timeout(REQUESTS_STOP_MAX, open_requests.shutdown()).await;
    reloading.abort();
    match left {
        Some(Ok(Ok(()))) | None => Ok(()),
        Some(Ok(Err(error))) => Err(CommandError::Run(format!("closing: {error}"))),
        Some(Err(_)) => Err(CommandError::Run("closing: a thread failed".to_owned())),
    }
}

/// What all routes share.
fn shared(settings: &HostSettings, reloader: Reloader) -> CommandResult<HostShared> {
    let mut shared = HostShared::new(settings.bodies);
    shared.set_secrets(settings.operators.clone(), settings.meta.clone());
    shared.reload = Some(Box::new(move |shared| reloader.reload(shared)));
    std::fs::create_dir_all(&settings.data).map_err(failed("creating the data directory"))?;
    shared.audit = Some(AuditLog::open(&settings.data).map_err(failed("opening the audit log"))?);
    Ok(shared)
}

/// The gateways' APIs of an engine.
fn registration(
    engine: &Engine,
    (dialog360, session): &(Dialog360, SessionGateway),
) -> Result<Registration, Error> {
    Registration::new(engine.clone()).dialog360(dialog360.clone())?.session(session.clone())
}

/// Waits for the signal, and then for the attempts in flight. Events are accepted meanwhile, so that the port is
/// closed as late as possible.
async fn wind_down(asked: impl Future<Output = ()>, host: Arc<HostState>) {
    tokio::select! {
        () = asked => {}
        () = host.not_owner.notified() => {}
    }
    host.shared.stop_serving();
    let engine = host.engine.clone();
    let _ = tokio::task::spawn_blocking(move || engine.stop_deliveries(ATTEMPTS_STOP_MAX)).await;
}

/// Prints where this host listens.
fn announce_port(
    doing: &str,
    address: std::io::Result<SocketAddr>,
    is_tls: bool,
    data: &str,
) -> CommandResult {
    let scheme = if is_tls { "https" } else { "http" };
    let address = address.map_err(failed("listening"))?;
    announce(&format!("{doing} on {scheme}://{address}{data}")).map_err(failed("writing to stdout"))
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

/// Counts the SIGHUPs from now on. Caught before anything else, because an uncaught one ends the process.
#[cfg(unix)]
fn count_hangups() -> std::io::Result<watch::Receiver<u64>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, hangups) = watch::channel(0);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            sender.send_modify(|count| *count += 1);
        }
    });
    Ok(hangups)
}

#[cfg(not(unix))]
fn count_hangups() -> std::io::Result<watch::Receiver<u64>> {
    Ok(watch::channel(0).1)
}

/// Reads again at SIGHUP what may change without a restart, also at one that came before this host served.
async fn reload_on_hangup(shared: Arc<HostShared>, mut hangups: watch::Receiver<u64>) {
    while hangups.changed().await.is_ok() {
        let shared = Arc::clone(&shared);
        let reloaded = tokio::task::spawn_blocking(move || {
            let (_, changes) = shared.reload()?;
            if let Some(audit) = &shared.audit {
                audit.append_or_log(AuditEntryJson::of_hangup(changes));
            }
            Ok::<_, String>(())
        });
        if let Ok(Err(problem)) = reloaded.await {
            tracing::error!("nothing changes, because the configuration is wrong: {problem}");
        }
    }
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Writes what the log counted.
async fn flush_log() {
    loop {
        tokio::time::sleep(LOG_FLUSH_EVERY).await;
        log::flush(false);
    }
}

/// Stops serving when the engine stops. The library logs all other notices by `tracing`.
async fn watch_engine(host: Arc<HostState>) {
    let notices = host.engine.notices();
    let mut notice_count = host.shared.notice_count.subscribe();
    loop {
        while let Some(notice) = notices.try_next() {
            match notice {
                Notice::Poisoned { .. } => host.shared.engine_stopped(),
                Notice::NotOwner => host.not_owner.notify_one(),
                _ => {}
            }
        }
        if notice_count.changed().await.is_err() {
            return;
        }
    }
}

//! What every route works with: the engine, who a request comes from, and its body. A key is checked before
//! a body is read. Meta's callbacks are the exception: they are signed as a whole, so their bodies are read in a
//! room of their own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, StatusCode, Uri, header};
use parking_lot::RwLock;
use tokio::sync::{Notify, Semaphore, watch};
use wabahook::registration::Registration;
use wabahook::{AccountState, Engine, key_in_header};

use crate::account_permits::{AccountPermit, AccountPermits};
use crate::audit::AuditLog;
use crate::caller::{Caller, named_account};
use crate::config::MetaSettings;
use crate::http_error::HttpError;
use crate::json::ReloadedJson;
use crate::operators::OperatorKeys;
use crate::port::bodies::{Bodies, BodyLimits, RequestBody, discard};
use crate::port::body_room::BodyHolder;
use crate::port::connections::ClientConnection;
use crate::port::key_attempts::KeyAttempts;
use crate::port::shortages::Shortages;

/// How many may listen to the notices at once. An account may have a part of them by its limits.
const LISTENERS_MAX: usize = 64;
/// How many test deliveries run at once: a quarter of the blocking threads.
const TESTS_AT_ONCE: usize = 4;
/// How many of them one account may have.
const TESTS_AT_ONCE_OF_ACCOUNT: usize = TESTS_AT_ONCE / 2;

/// Reads the configuration again and puts it in force, or says what is wrong with it.
pub(crate) type Reload = Box<dyn Fn(&HostState) -> Result<ReloadedJson, String> + Send + Sync>;

/// The state that all routes share.
pub(crate) struct HostState {
    pub(crate) engine: Engine,
    pub(crate) registration: Registration,
    meta: RwLock<Option<MetaSettings>>,
    operators: RwLock<OperatorKeys>,
    pub(crate) body_bytes_max: usize,
    /// Changes with each notice of the engine, and when this host stops.
    pub(crate) notice_count: watch::Sender<u64>,
    /// One permit for each listener to the notices.
    pub(crate) listeners: AccountPermits,
    /// `None` in tests without a configuration file.
    pub(crate) reload: Option<Reload>,
    /// `None` in tests without a data directory.
    pub(crate) audit: Option<AuditLog>,
    /// One permit: a backup reads the whole outbox.
    pub(crate) backups: Arc<Semaphore>,
    pub(crate) bodies: Bodies,
    pub(crate) key_attempts: KeyAttempts,
    pub(crate) shortages: Arc<Shortages>,
    /// One permit for each test delivery, which waits for a receiver.
    tests: AccountPermits,
    serving: AtomicBool,
    alive: AtomicBool,
    /// Notified when another host has taken over the store.
    pub(crate) not_owner: Notify,
}

/// The id in a path.
pub(crate) struct PathId(pub(crate) String);

impl HostState {
    pub(crate) fn new(
        engine: Engine,
        meta: Option<MetaSettings>,
        body_limits: BodyLimits,
    ) -> HostState {
        let registration = Registration::new(engine.clone());
        let (serving, alive) = (AtomicBool::new(true), AtomicBool::new(true));
        let tests = AccountPermits::new(TESTS_AT_ONCE);
        let notice_count = watch::Sender::new(0);
        let counted = notice_count.clone();
        engine.on_notice(move || counted.send_modify(|count| *count += 1));
        HostState {
            engine,
            registration,
            meta: RwLock::new(meta),
            operators: RwLock::default(),
            body_bytes_max: body_limits.bytes_max,
            notice_count,
            listeners: AccountPermits::new(LISTENERS_MAX),
            reload: None,
            audit: None,
            backups: Arc::new(Semaphore::new(1)),
            bodies: Bodies::new(body_limits),
            key_attempts: KeyAttempts::new(),
            shortages: Arc::new(Shortages::new()),
            tests,
            serving,
            alive,
            not_owner: Notify::new(),
        }
    }

    /// The secrets of Meta's callbacks, where they are configured.
    pub(crate) fn meta(&self) -> Option<MetaSettings> {
        self.meta.read().clone()
    }

    /// Whether there is an operator, apart from the accounts.
    pub(crate) fn has_operator(&self) -> bool {
        !self.operators.read().is_empty()
    }

    /// Replaces the keys of the operator and the secrets of Meta's callbacks.
    pub(crate) fn set_secrets(&self, operators: OperatorKeys, meta: Option<MetaSettings>) {
        *self.operators.write() = operators;
        *self.meta.write() = meta;
    }

    /// Reads the configuration again.
    pub(crate) fn reload(&self) -> Result<ReloadedJson, String> {
        let missing = || "this host has no configuration file".to_owned();
        self.reload.as_ref().ok_or_else(missing)?(self)
    }

    /// A permit for a test delivery, held until it is over: a receiver that does not answer must not take
    /// the threads of other requests, and those of one account not the tests of others.
    pub(crate) fn test_permit(&self, account: Option<&str>) -> Result<AccountPermit, HttpError> {
        self.tests.admit(account, ("tests_at_once", TESTS_AT_ONCE_OF_ACCOUNT))
    }

    /// From now on `/healthz` answers 503, and the streams of notices end.
    pub(crate) fn stop_serving(&self) {
        self.serving.store(false, Ordering::Relaxed);
        self.notice_count.send_modify(|count| *count += 1);
    }

    /// The engine stopped by itself: only a new process helps.
    pub(crate) fn engine_stopped(&self) {
        self.alive.store(false, Ordering::Relaxed);
        self.stop_serving();
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// The caller of a request and its body. The body of an unknown caller is dropped.
    pub(crate) async fn admit(
        &self,
        request: Request,
        bytes_max: usize,
    ) -> Result<(Caller, RequestBody), HttpError> {
        let (parts, body) = request.into_parts();
        match self.authenticate(&parts).await {
            Ok(caller) => {
                let holder = BodyHolder::Account(caller.scope().unwrap_or_default().to_owned());
                let body = self.bodies.read(&parts.headers, body, holder, bytes_max).await?;
                Ok((caller, body))
            }
            Err(error) => {
                discard(&parts.headers, body).await;
                Err(error)
            }
        }
    }

    /// The caller of a request. The answer to a wrong key may wait.
    async fn authenticate(&self, parts: &Parts) -> Result<Caller, HttpError> {
        let caller = self.caller(parts);
        if caller.as_ref().is_err_and(HttpError::is_unauthorized) {
            self.refused_key(&parts.extensions).await;
        }
        caller
    }

    /// The caller of a request to any route, the gateways' included; `None` without a valid key.
    pub(crate) fn known_caller(&self, parts: &Parts) -> Option<Caller> {
        let of_gateway = || {
            let (account, key) = self.registration.identify(parts.uri.path(), &parts.headers)?;
            Some(Caller::of_account(account, key))
        };
        self.caller(parts).ok().or_else(of_gateway)
    }

    /// Logs that a key is missing or wrong, and waits where this address sent many of them.
    pub(crate) async fn refused_key(&self, extensions: &Extensions) {
        let remote = remote(extensions);
        tracing::warn!(%remote, "a request without a valid API key is refused");
        self.key_attempts.slow_down(remote).await;
    }

    /// The id of the account that the operator names, by its id or its name.
    fn named_account(&self, uri: &Uri) -> Result<Option<String>, HttpError> {
        let Some(named) = named_account(uri) else { return Ok(None) };
        let accounts = self.engine.accounts();
        let found = accounts.get(&named).or_else(|| accounts.named(&named));
        let found = found.ok_or_else(|| HttpError::not_found("account", &named))?;
        Ok(Some(found.id().to_owned()))
    }

    fn caller(&self, parts: &Parts) -> Result<Caller, HttpError> {
        let expected = "expected the account's API key: Authorization: Bearer <key>";
        let Some(given) = parts.headers.get(header::AUTHORIZATION) else {
            return Err(HttpError::unauthorized(&format!("authorization: missing; {expected}")));
        };
        if let Some(name) = self.operators.read().name_of(key_in_header(given.as_bytes())) {
            authenticated(&parts.extensions);
            return Ok(Caller::operator(self.named_account(&parts.uri)?, name));
        }
        let found = self.engine.accounts().identify_header(given.as_bytes());
        let (account, key) = found.ok_or_else(|| {
            HttpError::unauthorized(&format!("authorization: no account has this key; {expected}"))
        })?;
        authenticated(&parts.extensions);
        if account.state != AccountState::Active {
            return Err(HttpError::forbidden(&format!("this account is {}", account.state)));
        }
        let is_other = |named: String| named != account.id() && named != account.name();
        if named_account(&parts.uri).is_some_and(is_other) {
            return Err(HttpError::forbidden("account: this key is of another account"));
        }
        Ok(Caller::of_account(account.id(), key.name))
    }
}

impl FromRequestParts<Arc<HostState>> for Caller {
    type Rejection = HttpError;

    async fn from_request_parts(
        parts: &mut Parts,
        host: &Arc<HostState>,
    ) -> Result<Caller, HttpError> {
        host.authenticate(parts).await
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PathId, HttpError> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        let wrong = |_| HttpError::invalid("id", "expected text in UTF-8, percent-encoded");
        name.map(|Path(name)| PathId(name)).map_err(wrong)
    }
}

/// The connection of a request is one of a known sender, and is kept in a crowd.
pub(crate) fn authenticated(extensions: &Extensions) {
    if let Some(connection) = extensions.get::<Arc<ClientConnection>>() {
        connection.authenticated();
    }
}

/// The address that a request comes from, or that of the proxy in front.
pub(crate) fn remote(extensions: &Extensions) -> IpAddr {
    let connection = extensions.get::<Arc<ClientConnection>>();
    connection.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |connection| connection.address)
}

/// Runs work that may wait for a disk, or compute for long, on a blocking thread.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HttpError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        let message = "the request failed inside the host; see its log";
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })
}

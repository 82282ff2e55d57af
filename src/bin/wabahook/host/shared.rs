//! What all routes of a host share, whatever engine they work with: the operator's keys and Meta's secrets, the bounds on
//! bodies and long requests, and whether the host still serves. A host on a store with several shards has an engine for
//! each of its shards and one of these.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::request::Parts;
use axum::http::{Extensions, Uri, header};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, watch};
use wabahook::{AccountState, Accounts, key_in_header};

use super::account_permits::{AccountPermit, AccountPermits};
use super::sender::{authenticated, remote};
use crate::audit::AuditLog;
use crate::blocking::RequestRoom;
use crate::caller::{Caller, named_account};
use crate::config::MetaSettings;
use crate::config::operators::OperatorKeys;
use crate::http_error::HttpError;
use crate::json::{AuditChangeJson, ReloadedJson};
use crate::port::bodies::{Bodies, BodyLimits};
use crate::port::connections::KeyHolder;
use crate::port::key_attempts::KeyAttempts;
use crate::port::shortages::Shortages;

/// How many may listen to the notices at once. An account may have a part of them by its limits.
const LISTENERS_MAX: usize = 64;
/// How many test deliveries run at once: a quarter of the blocking threads.
const TESTS_AT_ONCE: usize = 4;
/// How many of them one account may have.
const TESTS_AT_ONCE_OF_ACCOUNT: usize = TESTS_AT_ONCE / 2;

/// What a reload changed, and its changes of accounts for the audit log; or what is wrong with the configuration.
pub(crate) type Reloaded = Result<(ReloadedJson, Vec<AuditChangeJson>), String>;

/// Reads the configuration again and puts it in force.
pub(crate) type Reload = Box<dyn Fn(&HostShared) -> Reloaded + Send + Sync>;

/// What all routes share.
pub(crate) struct HostShared {
    meta: RwLock<Option<MetaSettings>>,
    operators: RwLock<OperatorKeys>,
    pub(crate) body_bytes_max: usize,
    /// Changes with each notice of an engine, and when this host stops.
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
    pub(crate) request_room: RequestRoom,
    pub(crate) key_attempts: KeyAttempts,
    pub(crate) shortages: Arc<Shortages>,
    /// One permit for each test delivery, which waits for a receiver.
    tests: AccountPermits,
    serving: AtomicBool,
    alive: AtomicBool,
}

impl HostShared {
    pub(crate) fn new(body_limits: BodyLimits) -> HostShared {
        HostShared {
            meta: RwLock::default(),
            operators: RwLock::default(),
            body_bytes_max: body_limits.bytes_max,
            notice_count: watch::Sender::new(0),
            listeners: AccountPermits::new(LISTENERS_MAX),
            reload: None,
            audit: None,
            backups: Arc::new(Semaphore::new(1)),
            bodies: Bodies::new(body_limits),
            request_room: RequestRoom::default(),
            key_attempts: KeyAttempts::new(),
            shortages: Arc::new(Shortages::new()),
            tests: AccountPermits::new(TESTS_AT_ONCE),
            serving: AtomicBool::new(true),
            alive: AtomicBool::new(true),
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
    pub(crate) fn reload(&self) -> Reloaded {
        let missing = || "this host has no configuration file".to_owned();
        self.reload.as_ref().ok_or_else(missing)?(self)
    }

    /// A permit for a test delivery, held until it is over: a receiver that does not answer must not take
    /// the threads of other requests, and those of one account not the tests of others.
    pub(crate) fn test_permit(&self, caller: &Caller) -> Result<AccountPermit, HttpError> {
        self.tests.admit(caller, ("tests_at_once", TESTS_AT_ONCE_OF_ACCOUNT))
    }

    /// The shortages of the last minute, for `/healthz`.
    pub(crate) fn recent_shortages(&self, accounts: &Accounts) -> Vec<&'static str> {
        self.shortages.reasons(|| {
            let accounts = accounts.list();
            accounts.iter().filter(|one| one.state != AccountState::Removed).count() > 1
        })
    }

    /// From now on `/healthz` answers 503, and the streams of notices end.
    pub(crate) fn stop_serving(&self) {
        self.serving.store(false, Ordering::Relaxed);
        self.wake_listeners();
    }

    /// Lets the listeners to notices look again.
    pub(crate) fn wake_listeners(&self) {
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

    /// Logs that a key is missing or wrong, and waits where this address sent many of them.
    pub(crate) async fn refused_key(&self, extensions: &Extensions) {
        let remote = remote(extensions);
        tracing::warn!(%remote, "a request without a valid API key is refused");
        self.key_attempts.slow_down(remote).await;
    }

    /// The caller of a request to the host's own routes, among these accounts.
    pub(crate) fn caller(&self, accounts: &Accounts, parts: &Parts) -> Result<Caller, HttpError> {
        let expected = "expected the account's API key: Authorization: Bearer <key>";
        let Some(given) = parts.headers.get(header::AUTHORIZATION) else {
            return Err(HttpError::unauthorized(&format!("authorization: missing; {expected}")));
        };
        if let Some(name) = self.operators.read().name_of(key_in_header(given.as_bytes())) {
            authenticated(&parts.extensions, KeyHolder::Host);
            return Ok(Caller::operator(account_named_in(accounts, &parts.uri)?, name));
        }
        let found = accounts.identify_header(given.as_bytes());
        let (account, key) = found.ok_or_else(|| {
            HttpError::unauthorized(&format!("authorization: no account has this key; {expected}"))
        })?;
        authenticated(&parts.extensions, KeyHolder::Account(account.id()));
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

/// The id of the account that the operator names, by its id or its name.
fn account_named_in(accounts: &Accounts, uri: &Uri) -> Result<Option<String>, HttpError> {
    let Some(named) = named_account(uri) else { return Ok(None) };
    let found = accounts.get(&named).or_else(|| accounts.named(&named));
    let found = found.ok_or_else(|| HttpError::not_found("account", &named))?;
    Ok(Some(found.id().to_owned()))
}

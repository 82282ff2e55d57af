//! What every route works with: the engine, who a request comes from, and its body. A key is checked before
//! a body is read. Meta's callbacks are the exception: they are signed as a whole, so their bodies are read in a
//! room of their own.

mod account_permits;
mod sender;
pub(crate) mod shared;

use std::convert::Infallible;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{FromRequestParts, Path, Request};
use axum::http::request::Parts;
use tokio::sync::Notify;
use wabahook::Engine;
use wabahook::registration::Registration;

pub(crate) use self::sender::{ForwardedFor, authenticated, remote};
use self::shared::HostShared;
pub(crate) use crate::blocking::off_thread;
use crate::caller::Caller;
use crate::http_error::HttpError;
use crate::port::bodies::{RequestBody, discard};
use crate::port::body_room::BodyHolder;

/// What the routes of one engine work with.
pub(crate) struct HostState {
    pub(crate) engine: Engine,
    pub(crate) registration: Registration,
    pub(crate) shared: Arc<HostShared>,
    /// The engine is about to be closed, and the host goes on with others.
    is_closing: AtomicBool,
    /// Notified when another host has taken over the store.
    pub(crate) not_owner: Notify,
}

/// The host's state as an argument of a route, in place of `State<Arc<HostState>>`.
#[derive(Clone)]
pub(crate) struct HostRef(pub(crate) Arc<HostState>);

pub(crate) struct PathId(pub(crate) String);

impl HostState {
    pub(crate) fn new(
        engine: Engine,
        registration: Registration,
        shared: Arc<HostShared>,
    ) -> HostState {
        let counted = shared.notice_count.clone();
        engine.on_notice(move || counted.send_modify(|count| *count += 1));
        let (is_closing, not_owner) = (AtomicBool::new(false), Notify::new());
        HostState { engine, registration, shared, is_closing, not_owner }
    }

    /// Whether the engine goes on. Streams of its notices end when it does not.
    pub(crate) fn is_serving(&self) -> bool {
        self.shared.is_serving() && !self.is_closing.load(Ordering::Relaxed)
    }

    /// The engine is about to be closed.
    pub(crate) fn close_soon(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.shared.wake_listeners();
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
                let body = self.shared.bodies.read(&parts.headers, body, holder, bytes_max).await?;
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
        let caller = self.shared.caller(self.engine.accounts(), parts);
        if caller.as_ref().is_err_and(HttpError::is_unauthorized) {
            self.shared.refused_key(&parts.extensions).await;
        }
        caller
    }

    /// The caller of a request to any route, the gateways' included; `None` without a valid key.
    pub(crate) fn known_caller(&self, parts: &Parts) -> Option<Caller> {
        let of_gateway = || {
            let (account, key) = self.registration.identify(parts.uri.path(), &parts.headers)?;
            Some(Caller::of_account(account, key))
        };
        let own = self.shared.caller(self.engine.accounts(), parts);
        own.ok().or_else(of_gateway)
    }
}

impl Deref for HostRef {
    type Target = HostState;

    fn deref(&self) -> &HostState {
        &self.0
    }
}

impl FromRequestParts<Arc<HostState>> for HostRef {
    type Rejection = Infallible;

    async fn from_request_parts(
        _: &mut Parts,
        host: &Arc<HostState>,
    ) -> Result<HostRef, Infallible> {
        Ok(HostRef(Arc::clone(host)))
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

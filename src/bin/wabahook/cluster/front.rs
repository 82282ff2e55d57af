//! What a host of a cluster does with a request: it finds the engines that the request is about, and answers with them
//! where they are here, or forwards the request whole to the host that has them. It decides nothing else; an engine's own
//! routes check the key and answer. A request is forwarded once: a host that does not have the shard of a forwarded one
//! refuses it, and the first host looks again.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use wabahook::registration::Registration;
use wabahook::{Fleet, FleetMembership, ShardPlace};

use super::account_refresh::AccountRefresh;
use super::forwarded_body::{ForwardedBody, GivenUp};
use super::mark::{FORWARDED, ForwardMark, ForwardTarget, MARK_REFUSED};
use super::peers::{ForwardFailure, Peers};
use super::route_scope::{OfAll, RouteScope, scope_of};
use super::shard_routes::{ShardPermit, ShardRoutes};
use crate::caller::Caller;
use crate::host::{ForwardedFor, authenticated, remote};
use crate::http_error::{HttpError, NOT_OWNER, RouteResult};
use crate::port::bodies::RequestBody;
use crate::port::body_room::BodyHolder;
use crate::port::connections::KeyHolder;
use crate::routes::audit_page;

/// How long a request waits for an owner of its shard, the wait for the accounts included: twice as long as another host
/// takes to take over.
pub(super) const OWNER_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often to look at the owner again, where nothing is told.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a request waits, after a change of an account, until the change is in force on this host.
const IN_FORCE_WAIT: Duration = Duration::from_secs(2);

/// In the refusal of a forwarded request by a host that does not have its shard. Nothing was done with it.
const NOT_OWNER_HEADER: HeaderName = HeaderName::from_static("x-wabahook-not-owner");

/// A host of a cluster.
pub(crate) struct Front {
    pub(super) fleet: Fleet,
    pub(super) routes: Arc<ShardRoutes>,
    pub(super) peers: Peers,
    pub(super) refresh: AccountRefresh,
}

/// How long a request has waited for the accounts.
#[derive(Clone, Copy)]
pub(super) struct Waited(pub(super) Duration);

/// A request that is kept until it is answered, to be sent again where that is safe.
#[derive(Clone)]
pub(super) struct KeptRequest {
    pub(super) parts: Parts,
    pub(super) body: Bytes,
    /// The memory that the body takes.
    _memory: Arc<RequestBody>,
    /// Until when it waits for owners of its shards, all of them together.
    pub(super) deadline: Instant,
    /// Whether it may be done twice.
    pub(super) is_repeatable: bool,
}

impl KeptRequest {
    pub(super) fn new(parts: Parts, mut body: RequestBody) -> KeptRequest {
        let is_repeatable = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let bytes = Bytes::from(std::mem::take(&mut body.bytes));
        let deadline = owner_deadline(&parts);
        KeptRequest { parts, body: bytes, _memory: Arc::new(body), deadline, is_repeatable }
    }

    /// A copy of the request to send once more, with all of the time to wait for an owner.
    pub(super) fn again(&self) -> KeptRequest {
        KeptRequest { deadline: Instant::now() + OWNER_WAIT_MAX, ..self.clone() }
    }

    /// The same request with a part of its body, which may be done twice.
    pub(super) fn repeatable_part(&self, body: Bytes) -> KeptRequest {
        KeptRequest { body, is_repeatable: true, ..self.clone() }
    }

    pub(super) fn request(&self) -> Request {
        Request::from_parts(self.parts.clone(), Body::from(self.body.clone()))
    }
}

/// Until when a request waits for an owner from now on.
fn owner_deadline(parts: &Parts) -> Instant {
    let waited = parts.extensions.get::<Waited>().map_or(Duration::ZERO, |waited| waited.0);
    Instant::now() + OWNER_WAIT_MAX.saturating_sub(waited)
}

impl Front {
    pub(super) fn new(fleet: Fleet, routes: Arc<ShardRoutes>, peers: Peers) -> Front {
        let read = fleet.clone();
        let refresh = AccountRefresh::new(move || read.refresh_accounts());
        Front { fleet, routes, peers, refresh }
    }

    /// All routes.
    pub(super) fn router(self: Arc<Front>) -> Router {
        Router::new().fallback(answer).with_state(self)
    }

    async fn respond(self: &Arc<Self>, mut parts: Parts, body: Body) -> RouteResult {
        match self.peers.mark_of(&parts) {
            Ok(None) => {}
            Ok(Some(mark)) => return self.forwarded(mark, parts, body).await,
            Err(why) => return Ok(mark_refused(why, &parts)),
        }
        if let "/healthz" | "/livez" = parts.uri.path() {
            return Ok(self.health(parts.uri.path()));
        }
        let scope = scope_of(&parts.method, parts.uri.path());
        match scope {
            RouteScope::Any => return self.by_any(parts, body).await,
            RouteScope::Callback => return self.callback(parts, body).await,
            _ => {}
        }
        let began = Instant::now();
        let caller = self.caller(&parts, began + OWNER_WAIT_MAX).await?;
        parts.extensions.insert(Waited(began.elapsed()));
        let Some(caller) = caller else { return self.by_any(parts, body).await };
        authenticated(&parts.extensions, caller.key_holder());
        parts.extensions.insert(caller.clone());
        match (scope, caller.scope()) {
            (RouteScope::Account(_) | RouteScope::ThisHost, Some(account)) => {
                let shard = self.fleet.shard_of(account);
                self.to_shard(shard, parts, body, Some(account)).await
            }
            (scope, _) if caller.is_operator() => self.operator(scope, parts, body).await,
            _ => self.by_any(parts, body).await,
        }
    }

    /// A request of the operator that is not about one account.
    async fn operator(
        self: &Arc<Self>,
        scope: RouteScope,
        parts: Parts,
        body: Body,
    ) -> RouteResult {
        match scope {
            RouteScope::Account(OfAll::Any) | RouteScope::Any | RouteScope::Callback => {
                self.by_any(parts, body).await
            }
            RouteScope::Account(OfAll::Refuse) => {
                let message = "missing; ids are those of one account's shard: ?account=<id>, or --account of \
                               the command line";
                Err(HttpError::invalid("account", message))
            }
            RouteScope::Directory => self.to_directory(parts, body).await,
            RouteScope::NamedAccount(id) => {
                let shard = self.fleet.shard_of(&id);
                self.to_shard(shard, parts, body, Some(&id)).await
            }
            RouteScope::NamedAccountThenDirectory(id) => {
                self.to_account_and_directory(&id, parts, body).await
            }
            RouteScope::ThisHost => self.metrics(parts).await,
            RouteScope::Account(OfAll::List) => {
                let request = self.kept(parts, body).await?;
                self.list(&request, |_, _| true).await
            }
            RouteScope::Account(OfAll::Sum) => self.sum(&self.kept(parts, body).await?).await,
            RouteScope::Account(OfAll::Purge) => self.purge(&self.kept(parts, body).await?).await,
            RouteScope::Account(OfAll::First) => self.first(&self.kept(parts, body).await?).await,
            RouteScope::Account(OfAll::Stream) => Ok(self.stream(&self.kept(parts, body).await?)),
            RouteScope::EveryAccount => {
                let request = self.kept(parts, body).await?;
                self.every_account(request).await
            }
            RouteScope::AuditLog => self.list_of_hosts(self.kept(parts, body).await?).await,
            RouteScope::EveryHost => self.sum_of_hosts(self.kept(parts, body).await?).await,
        }
    }

    /// A request that another host sent here. It is answered here or refused.
    async fn forwarded(&self, mark: ForwardMark, mut parts: Parts, body: Body) -> RouteResult {
        authenticated(&parts.extensions, KeyHolder::Host);
        parts.headers.remove(FORWARDED);
        parts.extensions.insert(ForwardedFor(mark.client));
        // A shard that is about to be closed does not wait for the accounts.
        if let ForwardTarget::Shard(shard) = mark.target
            && self.routes.enter(shard).is_none()
        {
            return Ok(not_owner_here());
        }
        let deadline = Instant::now() + OWNER_WAIT_MAX;
        // The other host waits for an owner; this one must not wait as well.
        let caller = match self.fleet.has_accounts() {
            true => self.caller(&parts, deadline).await.ok().flatten(),
            false => None,
        };
        if let ForwardTarget::Shard(shard) = mark.target {
            let account = caller.as_ref().and_then(Caller::scope);
            return match self.enter(shard, account, deadline).await? {
                Some(permit) => Ok(permit.answer(Request::from_parts(parts, body)).await),
                None => Ok(not_owner_here()),
            };
        }
        if let Some(caller) = caller {
            parts.extensions.insert(caller);
        }
        let answer = self.of_this_host(Request::from_parts(parts, body)).await;
        Ok(answer.unwrap_or_else(not_owner_here))
    }

    /// Answers a request about this host itself; `None` where that needs an engine and no shard is open here. The audit
    /// log needs none, and an engine knows only the accounts of its own shard.
    pub(super) async fn of_this_host(&self, request: Request) -> Option<Response> {
        let scope = scope_of(request.method(), request.uri().path());
        let is_audit = scope == RouteScope::AuditLog;
        if let Some(caller) = request.extensions().get::<Caller>().filter(|_| is_audit) {
            let (shared, accounts) = (Arc::clone(&self.routes.shared), self.fleet.accounts());
            let (caller, uri) = (caller.clone(), request.uri().clone());
            return Some(audit_page(shared, accounts.clone(), caller, uri).await.into_response());
        }
        Some(self.any_open()?.answer(request).await)
    }

    fn any_open(&self) -> Option<ShardPermit> {
        self.routes.open().into_iter().find_map(|shard| self.routes.enter(shard))
    }

    /// A shard here, whose engine knows the account; `None` where another host has the shard.
    async fn enter(
        &self,
        shard: u16,
        account: Option<&str>,
        deadline: Instant,
    ) -> Result<Option<ShardPermit>, HttpError> {
        let Some(permit) = self.routes.enter(shard) else { return Ok(None) };
        if account.is_none_or(|account| permit.engine().accounts().get(account).is_some()) {
            return Ok(Some(permit));
        }
        drop(permit);
        self.refresh.renewed(deadline).await?;
        Ok(self.routes.enter(shard))
    }

    /// The caller of a request; `None` without a valid key. Before the accounts are known every key would be refused.
    async fn caller(&self, parts: &Parts, deadline: Instant) -> Result<Option<Caller>, HttpError> {
        self.wait_for_accounts(deadline).await?;
        match self.known_caller(parts)? {
            None => self.refresh.recent(deadline).await?,
            caller => return Ok(caller),
        }
        self.known_caller(parts)
    }

    fn known_caller(&self, parts: &Parts) -> Result<Option<Caller>, HttpError> {
        let (accounts, path) = (self.fleet.accounts(), parts.uri.path());
        if Registration::serves(path) {
            let found = Registration::identify_in(accounts, path, &parts.headers);
            return Ok(found.map(|(account, key)| Caller::of_account(account, key)));
        }
        match self.routes.shared.caller(accounts, parts) {
            Ok(caller) => Ok(Some(caller)),
            Err(error) if error.is_unauthorized() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn wait_for_accounts(&self, deadline: Instant) -> Result<(), HttpError> {
        while !self.fleet.has_accounts() {
            self.wait(deadline).await?;
        }
        Ok(())
    }

    /// Waits until a change of an account is in force on this host. A server that went away since then delays that.
    pub(super) async fn put_in_force(&self) {
        let _ = self.refresh.renewed(Instant::now() + IN_FORCE_WAIT).await;
    }

    /// Answers with whichever engine is here.
    pub(super) async fn by_any(&self, parts: Parts, body: Body) -> RouteResult {
        match self.any_open() {
            Some(permit) => Ok(permit.answer(Request::from_parts(parts, body)).await),
            None => self.to_shard(self.fleet.directory_shard(), parts, body, None).await,
        }
    }

    /// Sends a request to the engine of a shard.
    pub(super) async fn to_shard(
        &self,
        shard: u16,
        parts: Parts,
        body: Body,
        account: Option<&str>,
    ) -> RouteResult {
        if let Some(permit) = self.enter(shard, account, owner_deadline(&parts)).await? {
            return Ok(permit.answer(Request::from_parts(parts, body)).await);
        }
        let request = self.kept(parts, body).await?;
        self.deliver(shard, &request).await
    }

    /// A request with its whole body.
    pub(super) async fn kept(&self, parts: Parts, body: Body) -> Result<KeptRequest, HttpError> {
        let shared = &self.routes.shared;
        let caller = parts.extensions.get::<Caller>();
        let holder = match caller.map(|caller| caller.scope().unwrap_or_default().to_owned()) {
            Some(account) => BodyHolder::Account(account),
            None => BodyHolder::stranger(remote(&parts.extensions)),
        };
        let most = shared.body_bytes_max;
        let body = shared.bodies.read_encoded(&parts.headers, body, holder, most).await?;
        Ok(KeptRequest::new(parts, body))
    }

    /// Sends a request to the engine of a shard, wherever it is, and waits for an owner until its deadline. It is sent
    /// again only where it was not begun, or may be done twice.
    pub(super) async fn deliver(&self, shard: u16, request: &KeptRequest) -> RouteResult {
        let account = request.parts.extensions.get::<Caller>().and_then(Caller::scope);
        loop {
            if let Some(permit) = self.enter(shard, account, request.deadline).await? {
                return Ok(permit.answer(request.request()).await);
            }
            if let ShardPlace::At(host) = self.fleet.place_of(shard) {
                let is_owner = move |fleet: &Fleet| match fleet.place_of(shard) {
                    ShardPlace::At(now) => now.name == host.name,
                    _ => false,
                };
                let given_up = self.given_up(request.deadline, is_owner);
                let target = ForwardTarget::Shard(shard);
                match self.forward(&host.address, target, request, given_up).await {
                    Ok(response) => return Ok(response),
                    Err(ForwardFailure::NotSent) => {}
                    Err(ForwardFailure::Unknown) if request.is_repeatable => {}
                    Err(ForwardFailure::Unknown) => return Err(unknown()),
                }
            }
            self.wait(request.deadline).await?;
        }
    }

    /// Sends a request to another host, until it is given up. A host that refuses because the shard is not there has
    /// not begun with the request.
    pub(super) async fn forward(
        &self,
        address: &str,
        target: ForwardTarget,
        request: &KeptRequest,
        mut given_up: GivenUp,
    ) -> Result<Response, ForwardFailure> {
        let mark = ForwardMark { target, client: remote(&request.parts.extensions) };
        let sent = self.peers.send(address, mark, &request.parts, request.body.clone());
        let response = tokio::select! {
            answered = sent => answered?,
            () = &mut given_up => return Err(ForwardFailure::Unknown),
        };
        match response.headers().contains_key(&NOT_OWNER_HEADER) {
            true => Err(ForwardFailure::NotSent),
            false => Ok(response.map(|body| Body::new(ForwardedBody::new(body, given_up)))),
        }
    }

    /// Ends when the host that was sent a request is no longer the right one, because a host that stopped would not
    /// answer; and after the deadline while the server is away, because nobody knows then which hosts live.
    pub(super) fn given_up(
        &self,
        deadline: Instant,
        is_right: impl Fn(&Fleet) -> bool + Send + 'static,
    ) -> GivenUp {
        let (fleet, mut changes) = (self.fleet.clone(), self.routes.changes.subscribe());
        Box::pin(async move {
            let is_lost = || {
                Instant::now() >= deadline && fleet.membership() == FleetMembership::Disconnected
            };
            while is_right(&fleet) && !is_lost() {
                changed(&mut changes, Instant::now() + LOOK_EVERY).await;
            }
        })
    }

    /// Waits for a change of the fleet, a moment at most; an error after the deadline.
    pub(super) async fn wait(&self, deadline: Instant) -> Result<(), HttpError> {
        let now = Instant::now();
        if now >= deadline {
            return Err(no_owner());
        }
        changed(&mut self.routes.changes.subscribe(), deadline.min(now + LOOK_EVERY)).await;
        Ok(())
    }
}

/// Waits for a change of the fleet, until a moment at most.
async fn changed(changes: &mut watch::Receiver<u64>, until: Instant) {
    if let Ok(Err(_)) = timeout_at(until, changes.changed()).await {
        // Nothing is told any more.
        sleep_until(until).await;
    }
}

async fn answer(State(front): State<Arc<Front>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let of_gateway = Registration::serves(path).then(|| (path.to_owned(), parts.headers.clone()));
    let error = match front.respond(parts, body).await {
        Ok(response) => return response,
        Err(error) => error,
    };
    if let Some((path, headers)) = of_gateway
        && let Some((_, engine)) = front.fleet.engines().into_iter().next()
    {
        return error.of_gateway(&Registration::new(engine), &path, &headers);
    }
    error.into_response()
}

pub(super) fn no_owner() -> HttpError {
    let message = "no host serves the shard of this account at the moment; try again";
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, NOT_OWNER, message)
}

fn unknown() -> HttpError {
    let message = "the host that serves this account went away while it had the request, which may have taken effect; \
                   an event with a dedup_key can be sent again without being delivered twice";
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "unknown", message)
}

/// The refusal of a request that no host of this cluster forwarded, as far as its mark tells.
fn mark_refused(why: &str, parts: &Parts) -> Response {
    let remote = remote(&parts.extensions);
    tracing::warn!(%remote, "a forwarded request was refused because of its mark: {why}");
    let mut response = HttpError::forbidden(&format!("{FORWARDED}: {why}")).into_response();
    response.headers_mut().insert(MARK_REFUSED, HeaderValue::from_static("1"));
    response
}

/// The refusal of a forwarded request whose shard is not here.
fn not_owner_here() -> Response {
    let message = "this host does not serve the shard";
    let error = HttpError::new(StatusCode::SERVICE_UNAVAILABLE, NOT_OWNER, message);
    let mut response = error.into_response();
    response.headers_mut().insert(NOT_OWNER_HEADER, HeaderValue::from_static("1"));
    response
}

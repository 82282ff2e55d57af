//! The routes under `/subscriptions` but its list: create, read, change, delete, pause, resume, rotate the
//! secret, test. An account sees and changes its own only; another account's id is answered like one
//! that does not exist (I9).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use wabahook::{Engine, Secret, SubscriptionId, SubscriptionInfo};

use crate::caller::Caller;
use crate::host::{HostState, PathId, off_thread};
use crate::http_error::HttpError;
use crate::json::{
    NewSecretJson, RecentAttemptJson, RotationJson, SubscriptionJson, SubscriptionListing,
    TestDeliveryJson, parse, utf8,
};
use crate::query::ListQuery;
use crate::response::json;

/// A subscription with 10,000 event types and numbers fits.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// `POST /subscriptions`.
pub(crate) async fn create(
    State(host): State<Arc<HostState>>,
    request: Request,
) -> Result<Response, HttpError> {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let subscription =
        parse::<SubscriptionJson>(utf8(&body.bytes)?)?.registered(caller.account()?)?;
    let listing = off_thread(move || {
        let id = host.engine.register(subscription)?;
        let registered = own(&host, &caller, &id.to_string())?;
        let listing = SubscriptionListing::of(&registered, None);
        Ok::<_, HttpError>(listing.with_hints(&registered, host.engine.catalogue()))
    });
    let listing = listing.await??;
    let mut response = json(StatusCode::CREATED, &listing);
    if let Ok(location) = HeaderValue::from_str(&format!("/subscriptions/{}", listing.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `GET /subscriptions/{id}`, with so many of its newest attempts as `attempts` says.
pub(crate) async fn read(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
    uri: Uri,
) -> Result<Response, HttpError> {
    let query = ListQuery::read(&uri, &["attempts"])?;
    let attempts = query.value("attempts", "a whole number")?.unwrap_or(0);
    let listing = off_thread(move || {
        let mut listing = listing(&host, &caller, &id)?;
        let newest = host.engine.recent_attempts(SubscriptionId(listing.id), attempts);
        listing.attempts = newest.iter().map(RecentAttemptJson::from).collect();
        Ok::<_, HttpError>(listing)
    });
    Ok(json(StatusCode::OK, &listing.await??))
}

/// `POST /subscriptions/{id}/pause`.
pub(crate) async fn pause(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    change(host, caller, id, Engine::pause).await
}

/// `POST /subscriptions/{id}/resume`.
pub(crate) async fn resume(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    change(host, caller, id, Engine::resume).await
}

/// Changes a subscription and answers with it.
async fn change(
    host: Arc<HostState>,
    caller: Caller,
    id: String,
    change: impl FnOnce(&Engine, SubscriptionId) -> wabahook::Result<()> + Send + 'static,
) -> Result<Response, HttpError> {
    let listing = off_thread(move || {
        change(&host.engine, own(&host, &caller, &id)?.id)?;
        listing(&host, &caller, &id)
    });
    Ok(json(StatusCode::OK, &listing.await??))
}

/// `PATCH /subscriptions/{id}`.
pub(crate) async fn revise(
    State(host): State<Arc<HostState>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, HttpError> {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let listing = off_thread(move || {
        let known = own(&host, &caller, &id)?.id;
        let text = utf8(&body.bytes)?;
        host.engine.revise(known, |before| {
            Ok::<_, HttpError>(parse::<SubscriptionJson>(text)?.changed(before)?)
        })?;
        listing(&host, &caller, &id)
    });
    Ok(json(StatusCode::OK, &listing.await??))
}

/// `POST /subscriptions/{id}/secret`.
pub(crate) async fn rotate_secret(
    State(host): State<Arc<HostState>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, HttpError> {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let rotated = off_thread(move || {
        let id = own(&host, &caller, &id)?.id;
        let RotationJson { secret, overlap_ms } = parse(utf8(&body.bytes)?)?;
        let secret = host.engine.rotate_secret(
            id,
            secret.map(Secret::new),
            Duration::from_millis(overlap_ms.0),
        )?;
        Ok::<_, HttpError>(NewSecretJson { id: id.0, secret: secret.reveal_text().to_owned() })
    });
    let mut response = json(StatusCode::OK, &rotated.await??);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `POST /subscriptions/{id}/test`.
pub(crate) async fn test(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let permit = host.shared.test_permit(caller.scope())?;
    let tested = off_thread(move || {
        let tested = host.engine.test(own(&host, &caller, &id)?.id)?;
        drop(permit);
        Ok::<_, HttpError>(TestDeliveryJson::from(&tested))
    });
    Ok(json(StatusCode::OK, &tested.await??))
}

/// `DELETE /subscriptions/{id}`.
pub(crate) async fn delete(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<StatusCode, HttpError> {
    off_thread(move || {
        let registered = own(&host, &caller, &id)?;
        host.engine.unsubscribe(registered.id)?;
        Ok::<_, HttpError>(StatusCode::NO_CONTENT)
    })
    .await?
}

fn listing(host: &HostState, caller: &Caller, id: &str) -> Result<SubscriptionListing, HttpError> {
    let registered = own(host, caller, id)?;
    let stats = host.engine.stats();
    let listing = SubscriptionListing::of(&registered, stats.lane(registered.id));
    let listing = listing.with_hints(&registered, host.engine.catalogue());
    let account_name = account_name(caller, &host.engine, &registered.account);
    Ok(SubscriptionListing { account_name, ..listing })
}

/// The subscription with this id, if the caller may see it.
pub(super) fn own(
    host: &HostState,
    caller: &Caller,
    id: &str,
) -> Result<Arc<SubscriptionInfo>, HttpError> {
    let known = id.parse().ok().and_then(|id| host.engine.subscription(SubscriptionId(id)));
    let own = known.filter(|registered| caller.sees(&registered.account));
    own.ok_or_else(|| HttpError::not_found("subscription", id))
}

/// The subscriptions that the caller may see.
pub(super) fn visible(engine: &Engine, caller: &Caller) -> Vec<Arc<SubscriptionInfo>> {
    match caller.scope() {
        Some(account) => engine.subscriptions_of(account),
        None => engine.subscriptions(),
    }
}

/// The subscription that a list is limited to, by its id or its name.
pub(super) fn named(
    host: &HostState,
    caller: &Caller,
    query: &ListQuery,
) -> Result<Option<SubscriptionId>, HttpError> {
    const NAME: &str = "subscription";
    let Some(text) = query.text(NAME) else { return Ok(None) };
    if let Ok(id) = text.parse() {
        return Ok(Some(SubscriptionId(id)));
    }
    let mut own = visible(&host.engine, caller);
    own.retain(|one| one.name == text);
    match own.as_slice() {
        [one] => Ok(Some(one.id)),
        [] => Err(HttpError::invalid(NAME, "no subscription has this id or name")),
        _ => Err(HttpError::invalid(NAME, "several accounts have a subscription of this name")),
    }
}

/// The name of a subscription, while it is registered.
pub(super) fn name_of(engine: &Engine, id: SubscriptionId) -> Option<String> {
    engine.subscription(id).map(|one| one.name.clone())
}

/// The name of an account, where the operator asks.
pub(super) fn account_name(caller: &Caller, engine: &Engine, account: &str) -> Option<String> {
    let account = caller.is_operator().then(|| engine.accounts().get(account))?;
    account.map(|account| account.name.clone())
}

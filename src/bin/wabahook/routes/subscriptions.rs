//! The routes under `/subscriptions` but its list: create, read, change, delete, pause, resume, rotate the
//! secret, test. An account sees and changes its own only; another account's id is answered like one
//! that does not exist (I9).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use wabahook::{AccountInfo, Engine, Secret, Stats, SubscriptionId, SubscriptionInfo, WabaNumber};

use super::events::require_number;
use crate::caller::Caller;
use crate::host::{HostRef, HostState, PathId, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{
    JsonProblem, NewSecretJson, RecentAttemptJson, RotationJson, SubscriptionJson,
    SubscriptionListing, TestDeliveryJson, parse, utf8,
};
use crate::query::ListQuery;
use crate::response::json;

/// A subscription with 10,000 event types and numbers fits.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// `POST /subscriptions`.
pub(crate) async fn create(host: HostRef, request: Request) -> RouteResult {
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
    host: HostRef,
    caller: Caller,
    PathId(id): PathId,
    uri: Uri,
) -> RouteResult {
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
pub(crate) async fn pause(host: HostRef, caller: Caller, PathId(id): PathId) -> RouteResult {
    change(host, caller, id, Engine::pause).await
}

/// `POST /subscriptions/{id}/resume`.
pub(crate) async fn resume(host: HostRef, caller: Caller, PathId(id): PathId) -> RouteResult {
    change(host, caller, id, Engine::resume).await
}

/// Changes a subscription and answers with it.
async fn change(
    host: HostRef,
    caller: Caller,
    id: String,
    change: impl FnOnce(&Engine, SubscriptionId) -> wabahook::Result<()> + Send + 'static,
) -> RouteResult {
    let listing = off_thread(move || {
        change(&host.engine, own(&host, &caller, &id)?.id)?;
        listing(&host, &caller, &id)
    });
    Ok(json(StatusCode::OK, &listing.await??))
}

/// `PATCH /subscriptions/{id}`.
pub(crate) async fn revise(host: HostRef, PathId(id): PathId, request: Request) -> RouteResult {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let listing = off_thread(move || {
        let known = own(&host, &caller, &id)?.id;
        let text = utf8(&body.bytes)?;
        host.engine.revise(known, |before| {
            let change = parse::<SubscriptionJson>(text).map_err(JsonProblem::with_state_hint)?;
            Ok::<_, HttpError>(change.changed(before)?)
        })?;
        listing(&host, &caller, &id)
    });
    Ok(json(StatusCode::OK, &listing.await??))
}

/// `POST /subscriptions/{id}/secret`.
pub(crate) async fn rotate_secret(
    host: HostRef,
    PathId(id): PathId,
    request: Request,
) -> RouteResult {
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
pub(crate) async fn test(host: HostRef, caller: Caller, PathId(id): PathId) -> RouteResult {
    let permit = host.shared.test_permit(&caller)?;
    let tested = off_thread(move || {
        let tested = host.engine.test(own(&host, &caller, &id)?.id)?;
        drop(permit);
        Ok::<_, HttpError>(TestDeliveryJson::from(&tested))
    });
    Ok(json(StatusCode::OK, &tested.await??))
}

/// `DELETE /subscriptions/{id}`.
pub(crate) async fn delete(
    host: HostRef,
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
    let lane = host.engine.lane_stats(registered.id);
    let listing = SubscriptionListing::of(&registered, lane.as_ref());
    let listing = listing.with_hints(&registered, host.engine.catalogue());
    Ok(listing.of_account(account(caller, &host.engine, &registered.account).as_deref()))
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

/// Refuses a filter that matched nothing because it names a subscription or a number that is not the caller's. One
/// that was removed, or went to another account, may still have something that matches.
pub(super) fn require_own(
    host: &HostState,
    caller: &Caller,
    subscription: Option<SubscriptionId>,
    number: Option<WabaNumber>,
) -> Result<(), HttpError> {
    if let Some(id) = subscription {
        own(host, caller, &id.to_string())?;
    }
    let account = caller.scope().and_then(|account| host.engine.accounts().get(account));
    match (account, number) {
        (Some(account), Some(number)) => require_number(&host.engine, &account, number),
        _ => Ok(()),
    }
}

/// The subscriptions that the caller may see.
pub(super) fn visible(engine: &Engine, caller: &Caller) -> Vec<Arc<SubscriptionInfo>> {
    match caller.scope() {
        Some(account) => engine.subscriptions_of(account),
        None => engine.subscriptions(),
    }
}

/// The figures of the subscriptions that the caller may see. Those of one account are read at the cost of its own.
pub(super) fn visible_stats(engine: &Engine, caller: &Caller) -> Stats {
    caller.scope().map_or_else(|| engine.stats(), |account| engine.stats_of(account))
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

/// An account, where the operator asks.
pub(super) fn account(caller: &Caller, engine: &Engine, id: &str) -> Option<Arc<AccountInfo>> {
    caller.is_operator().then(|| engine.accounts().get(id))?
}

/// The name of an account, where the operator asks.
pub(super) fn account_name(caller: &Caller, engine: &Engine, id: &str) -> Option<String> {
    account(caller, engine, id).map(|account| account.name.clone())
}

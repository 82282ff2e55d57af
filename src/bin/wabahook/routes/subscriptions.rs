//! The routes under `/subscriptions` but its list: create, read, change, delete, pause, resume, rotate the
//! secret, test. An account sees and changes its own only; another account's id is answered like one
//! that does not exist (I9).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use wabahook::{Engine, Error, Secret, SubscriptionId, SubscriptionInfo};

use crate::caller::Caller;
use crate::host::{HostState, PathId, off_thread};
use crate::http_error::HttpError;
use crate::json::{
    NewSecretJson, RotationJson, SubscriptionJson, SubscriptionListing, TestDeliveryJson, parse,
    utf8,
};
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

/// `GET /subscriptions/{id}`.
pub(crate) async fn read(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let listing = off_thread(move || listing(&host, &caller, &id));
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
        let mut given = Some(parse::<SubscriptionJson>(utf8(&body.bytes)?)?);
        // The engine's error type cannot carry the problem, so it is kept here.
        let mut problem = None;
        let revised = host.engine.revise(known, |before| {
            given.take().unwrap_or_default().changed(before).map_err(|found| {
                problem = Some(found);
                Error::Closed
            })
        });
        if let Some(problem) = problem {
            return Err(problem.into());
        }
        revised?;
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
    let permit = host.test_permit(caller.scope())?;
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
    Ok(listing.with_hints(&registered, host.engine.catalogue()))
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

/// The name of a subscription, while it is registered.
pub(super) fn name_of(engine: &Engine, id: SubscriptionId) -> Option<String> {
    engine.subscription(id).map(|one| one.name.clone())
}

//! Decides what the routes under `/subscriptions` do: list, create, read, revise, delete, pause,
//! resume, rotate the secret, test.
//!
//! Leaves to others: how a subscription is read (`subscription_body`) and shown
//! (`subscription_item`). Invariant (I9): an account sees and changes its own alone; another's id
//! is answered like one that does not exist.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use wabahook::{Engine, Error, Registered, SubscriptionId, Tested};

use crate::host::{Caller, Host, Named, off_thread};
use crate::refusal::{Refusal, json};
use crate::subscription_body;
use crate::subscription_item::Item;
use wabahook::registration::fields;

/// A subscription with 10,000 event types and numbers fits.
const BODY_BYTES_MAX: usize = 1024 * 1024;

#[derive(Serialize)]
struct List {
    items: Vec<Item>,
}

/// The only answer that shows a secret.
#[derive(Serialize)]
struct Rotated<'a> {
    id: u32,
    secret: &'a str,
}

/// What a receiver did with a test event.
#[derive(Serialize)]
struct TestShape {
    event_id: String,
    outcome: &'static str,
    status: Option<u16>,
    reason: Option<String>,
    took_ms: u64,
    excerpt: String,
}

/// `GET /subscriptions`.
pub(crate) async fn list(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
) -> Result<Response, Refusal> {
    let items = off_thread(move || {
        let stats = host.engine.stats();
        let own = host.engine.subscriptions_of(&account);
        own.iter().map(|subscription| Item::of(subscription, stats.lane(subscription.id))).collect()
    })
    .await?;
    Ok(json(StatusCode::OK, &List { items }))
}

/// `POST /subscriptions`.
pub(crate) async fn create(
    State(host): State<Arc<Host>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (Caller(account), body) = host.admit(request, BODY_BYTES_MAX).await?;
    let subscription = subscription_body::read(fields::utf8(&body.bytes)?, &account)?;
    let item = off_thread(move || {
        let id = host.engine.register(subscription)?;
        let registered = own(&host, &account, &id.to_string())?;
        Ok::<_, Refusal>((id, Item::of(&registered, None)))
    });
    let (id, item) = item.await??;
    let mut response = json(StatusCode::CREATED, &item);
    if let Ok(location) = HeaderValue::from_str(&format!("/subscriptions/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `GET /subscriptions/{id}`.
pub(crate) async fn read(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    Named(id): Named,
) -> Result<Response, Refusal> {
    let item = off_thread(move || shown(&host, &account, &id));
    Ok(json(StatusCode::OK, &item.await??))
}

/// `POST /subscriptions/{id}/pause`.
pub(crate) async fn pause(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    Named(id): Named,
) -> Result<Response, Refusal> {
    changed(host, account, id, Engine::pause).await
}

/// `POST /subscriptions/{id}/resume`.
pub(crate) async fn resume(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    Named(id): Named,
) -> Result<Response, Refusal> {
    changed(host, account, id, Engine::resume).await
}

/// Changes a subscription and shows it as it is then.
async fn changed(
    host: Arc<Host>,
    account: String,
    id: String,
    change: impl FnOnce(&Engine, SubscriptionId) -> wabahook::Result<()> + Send + 'static,
) -> Result<Response, Refusal> {
    let item = off_thread(move || {
        change(&host.engine, own(&host, &account, &id)?.id)?;
        shown(&host, &account, &id)
    });
    Ok(json(StatusCode::OK, &item.await??))
}

/// `PATCH /subscriptions/{id}`.
pub(crate) async fn revise(
    State(host): State<Arc<Host>>,
    Named(id): Named,
    request: Request,
) -> Result<Response, Refusal> {
    let (Caller(account), body) = host.admit(request, BODY_BYTES_MAX).await?;
    let item = off_thread(move || {
        let text = fields::utf8(&body.bytes)?;
        // What is wrong with the body, in our own words: the engine only takes its own.
        let mut refused = None;
        let known = own(&host, &account, &id)?.id;
        let revised = host.engine.revise(known, |before| {
            subscription_body::revised(text, before).map_err(|refusal| {
                refused = Some(refusal);
                Error::Closed
            })
        });
        if let Some(refusal) = refused {
            return Err(refusal);
        }
        revised?;
        shown(&host, &account, &id)
    });
    Ok(json(StatusCode::OK, &item.await??))
}

/// `POST /subscriptions/{id}/secret`.
pub(crate) async fn rotate_secret(
    State(host): State<Arc<Host>>,
    Named(id): Named,
    request: Request,
) -> Result<Response, Refusal> {
    let (Caller(account), body) = host.admit(request, BODY_BYTES_MAX).await?;
    let rotated = off_thread(move || {
        let id = own(&host, &account, &id)?.id;
        let (secret, overlap_ms) = subscription_body::read_rotation(fields::utf8(&body.bytes)?)?;
        Ok::<_, Refusal>((id.0, host.engine.rotate_secret(id, secret, overlap_ms)?))
    });
    let (id, secret) = rotated.await??;
    let mut response = json(StatusCode::OK, &Rotated { id, secret: secret.reveal_text() });
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `POST /subscriptions/{id}/test`.
pub(crate) async fn test(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    Named(id): Named,
) -> Result<Response, Refusal> {
    let place = host.place_for_test()?;
    let tested = off_thread(move || {
        let tested = host.engine.test(own(&host, &account, &id)?.id)?;
        drop(place);
        Ok::<_, Refusal>(TestShape::of(&tested))
    });
    Ok(json(StatusCode::OK, &tested.await??))
}

/// `DELETE /subscriptions/{id}`.
pub(crate) async fn delete(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    Named(id): Named,
) -> Result<StatusCode, Refusal> {
    off_thread(move || {
        let registered = own(&host, &account, &id)?;
        host.engine.unsubscribe(registered.id)?;
        Ok::<_, Refusal>(StatusCode::NO_CONTENT)
    })
    .await?
}

/// The account's subscription with this id, as it is now.
fn shown(host: &Host, account: &str, id: &str) -> Result<Item, Refusal> {
    let registered = own(host, account, id)?;
    let stats = host.engine.stats();
    Ok(Item::of(&registered, stats.lane(registered.id)))
}

impl TestShape {
    fn of(tested: &Tested) -> TestShape {
        TestShape {
            event_id: tested.event_id.to_string(),
            outcome: if tested.is_delivered() { "delivered" } else { "failed" },
            status: tested.status,
            reason: tested.reason.as_ref().map(ToString::to_string),
            took_ms: tested.took_ms,
            excerpt: String::from_utf8_lossy(&tested.excerpt).into_owned(),
        }
    }
}

/// The account's subscription with this id.
pub(crate) fn own(host: &Host, account: &str, id: &str) -> Result<Arc<Registered>, Refusal> {
    let known = id.parse().ok().and_then(|id| host.engine.subscription(SubscriptionId(id)));
    let own = known.filter(|registered| registered.account == account);
    own.ok_or_else(|| Refusal::not_found("subscription", id))
}

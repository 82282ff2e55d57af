//! Decides what the routes under `/subscriptions` do: list, create, read, delete, pause,
//! resume.
//!
//! Leaves to others: how a subscription is read (`subscription_body`) and shown
//! (`subscription_item`). Invariant (I9): an account sees and changes its own alone; another's id
//! is answered like one that does not exist.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use wabahook::{Engine, Registered, SubscriptionId};

use crate::host::{Caller, Host, off_thread};
use crate::refusal::{Refusal, json};
use crate::subscription_body;
use crate::subscription_item::{Item, lane_of};
use wabahook::registration::fields;

/// A subscription with 10,000 event types and numbers fits.
const BODY_BYTES_MAX: usize = 1024 * 1024;

#[derive(Serialize)]
struct List {
    items: Vec<Item>,
}

/// `GET /subscriptions`.
pub(crate) async fn list(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
) -> Result<Response, Refusal> {
    let items = off_thread(move || {
        let lanes = host.engine.stats().lanes;
        let all = host.engine.subscriptions();
        let own = all.iter().filter(|subscription| subscription.account == account);
        own.map(|subscription| Item::of(subscription, lane_of(&lanes, subscription.id))).collect()
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
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let item = off_thread(move || {
        let registered = own(&host, &account, &id)?;
        let lanes = host.engine.stats().lanes;
        Ok::<_, Refusal>(Item::of(&registered, lane_of(&lanes, registered.id)))
    });
    Ok(json(StatusCode::OK, &item.await??))
}

/// `POST /subscriptions/{id}/pause`.
pub(crate) async fn pause(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    changed(host, account, id, Engine::pause).await
}

/// `POST /subscriptions/{id}/resume`.
pub(crate) async fn resume(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    Path(id): Path<String>,
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
        let registered = own(&host, &account, &id)?;
        let lanes = host.engine.stats().lanes;
        Ok::<_, Refusal>(Item::of(&registered, lane_of(&lanes, registered.id)))
    });
    Ok(json(StatusCode::OK, &item.await??))
}

/// `DELETE /subscriptions/{id}`.
pub(crate) async fn delete(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    off_thread(move || {
        let registered = own(&host, &account, &id)?;
        host.engine.unsubscribe(registered.id)?;
        Ok::<_, Refusal>(StatusCode::NO_CONTENT)
    })
    .await?
}

/// The account's subscription with this id.
fn own(host: &Host, account: &str, id: &str) -> Result<Arc<Registered>, Refusal> {
    let known = id.parse().ok().and_then(|id| host.engine.subscription(SubscriptionId(id)));
    let own = known.filter(|registered| registered.account == account);
    own.ok_or_else(|| Refusal::not_found("subscription", id))
}

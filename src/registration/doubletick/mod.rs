//! DoubleTick's registration API: its routes, and what each does. An account sees and changes only its
//! own webhooks of this gateway; a webhook of another account gets the same response as an unknown id
//! (I9).

mod coverage;
mod error;
mod listing;
#[cfg(test)]
mod tests;
mod webhook;

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use self::coverage::Coverage;
use self::error::{DoubleTickError, DoubleTickResult};
use self::webhook::{DoubleTickWebhook, is_webhook};
use super::fields::{RequestObject, plain_text, utf8};
use super::gateway_http::{GatewayRequest, json_response, with_allow};
use crate::account::AccountInfo;
use crate::engine::{AccountSnapshot, SubscriptionChange};
use crate::error::Error;
use crate::subscription::{SubscriptionId, SubscriptionInfo};

/// The routes. A webhook's id is the text in the path.
enum DoubleTickRoute<'a> {
    Register,
    Edit(&'a str),
    Deregister,
    List,
}

pub(super) fn respond(request: &GatewayRequest<'_>) -> Response<Vec<u8>> {
    let refused = |status| {
        let message = format!("Cannot {} {}", request.method, request.given_path);
        error_response(status, &message)
    };
    let Some(route) = DoubleTickRoute::of(request.path) else {
        return refused(StatusCode::NOT_FOUND);
    };
    if !route.methods().contains(request.method) {
        return with_allow(refused(StatusCode::METHOD_NOT_ALLOWED), route.methods());
    }
    match route.result(request) {
        // Every successful request is documented with 201, also listing and removing.
        Ok(body) => json_response(StatusCode::CREATED, &body),
        Err(error) => error.response(),
    }
}

/// The response to a request that the server refuses before a gateway sees it.
pub(super) fn error_response(status: StatusCode, message: &str) -> Response<Vec<u8>> {
    DoubleTickError::new(status, message).response()
}

/// The query parameters of a path.
pub(super) fn parameters(path: &str) -> &'static [&'static str] {
    match DoubleTickRoute::of(path) {
        Some(DoubleTickRoute::List) => listing::PARAMETERS,
        _ => &[],
    }
}

impl<'a> DoubleTickRoute<'a> {
    fn of(path: &'a str) -> Option<DoubleTickRoute<'a>> {
        if path == "/v2/webhooks" {
            return Some(DoubleTickRoute::List);
        }
        match path.strip_prefix("/v2/webhook/")? {
            "register" => Some(DoubleTickRoute::Register),
            "deregister" => Some(DoubleTickRoute::Deregister),
            id if !id.is_empty() && !id.contains('/') => Some(DoubleTickRoute::Edit(id)),
            _ => None,
        }
    }

    fn methods(&self) -> &'static [Method] {
        match self {
            DoubleTickRoute::Register => &[Method::POST],
            // The documented method, and the one that the documented 404 of this route names.
            DoubleTickRoute::Edit(_) => &[Method::POST, Method::PATCH],
            DoubleTickRoute::Deregister => &[Method::DELETE],
            DoubleTickRoute::List => &[Method::GET],
        }
    }

    fn result(&self, request: &GatewayRequest<'_>) -> DoubleTickResult<Value> {
        let unknown_key =
            || DoubleTickError::new(StatusCode::UNAUTHORIZED, "Invalid public api key");
        let account = &*request.account("authorization").ok_or_else(unknown_key)?;
        match self {
            DoubleTickRoute::Register => put(request, account, None),
            DoubleTickRoute::Edit(id) => put(request, account, Some(id)),
            DoubleTickRoute::Deregister => deregister(request, account),
            DoubleTickRoute::List => listing::list(request, account),
        }
    }
}

/// Registers a webhook, or replaces the one with this id.
fn put(
    request: &GatewayRequest<'_>,
    account: &AccountInfo,
    id: Option<&str>,
) -> DoubleTickResult<Value> {
    let engine = request.engine;
    let webhook = DoubleTickWebhook::read(utf8(request.body)?, id.is_some())?;
    let coverage = Coverage::of(&webhook, engine, account)?;
    request.note_types(&webhook.events);
    let covers_nothing = coverage.is_empty();
    if covers_nothing {
        // Nothing is stored, but the rest of the body is checked as usual.
        engine.check_subscription(webhook.subscription.clone().account(account.id()))?;
    }
    let name = webhook.subscription.name.clone();
    engine.change::<_, DoubleTickError>(account.id(), |account_snapshot| {
        let before = id.map(|id| own(account_snapshot, id)).transpose()?;
        let taken = account_snapshot.subscriptions.iter().find(|known| known.name == name);
        if taken.is_some_and(|taken| before.is_none_or(|before| before.id != taken.id)) {
            return Err(Error::NameTaken { name }.into());
        }
        let change = match before {
            _ if covers_nothing => None,
            Some(before) => {
                Some(SubscriptionChange::Replace(before.id, coverage.replacing(before, webhook)))
            }
            None => Some(SubscriptionChange::Create(coverage.subscription(webhook))),
        };
        Ok((Vec::from_iter(change), ()))
    })?;
    Ok(coverage.response_body())
}

/// Removes a webhook.
fn deregister(request: &GatewayRequest<'_>, account: &AccountInfo) -> DoubleTickResult<Value> {
    let object = RequestObject::read(utf8(request.body)?, &["webhookId"])?;
    let expected = "the id of a webhook, a string";
    let id = object.given("webhookId").ok_or_else(|| object.missing("webhookId", expected))?;
    let id = plain_text("webhookId", id, expected)?;
    request.engine.change::<_, DoubleTickError>(account.id(), |account_snapshot| {
        Ok((vec![SubscriptionChange::Remove(own(account_snapshot, &id)?.id)], ()))
    })?;
    Ok(json!({}))
}

/// A webhook of this gateway by its id, the subscription's id as text.
fn own<'a>(
    account_snapshot: &'a AccountSnapshot,
    id: &str,
) -> DoubleTickResult<&'a Arc<SubscriptionInfo>> {
    let parsed = id.parse().ok().map(SubscriptionId).filter(|parsed| parsed.to_string() == id);
    let mut own = account_snapshot.subscriptions.iter().filter(|known| is_webhook(known));
    let found = parsed.and_then(|id| own.find(|known| known.id == id));
    found.ok_or_else(|| DoubleTickError::new(StatusCode::NOT_FOUND, "webhookId: unknown webhook"))
}

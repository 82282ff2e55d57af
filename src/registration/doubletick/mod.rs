//! Decides what DoubleTick answers: its routes, their refusals, and which webhook a call is about.
//!
//! Leaves to others: how a body is read (`webhook`), which of its numbers and events are taken
//! (`coverage`), how webhooks are listed (`listing`), keeping them (`engine`) and what their requests
//! look like (`delivery::request`). Invariant (I9): an account sees and changes its own webhooks of
//! this gateway alone; another account's and one that never was are answered alike.

mod coverage;
mod listing;
#[cfg(test)]
mod tests;
mod webhook;

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use self::coverage::Coverage;
use self::webhook::Webhook;
use super::answer;
use super::call::Call;
use super::fields::{Object, Problem, utf8};
use crate::account::Account;
use crate::engine::{Change, Standing};
use crate::error::Error;
use crate::subscription::{Profile, Registered, SubscriptionId};

/// What a call is for. A webhook's id is the text as it stands in the path.
enum Route<'a> {
    Register,
    Edit(&'a str),
    Deregister,
    List,
}

/// Whether a path belongs to this gateway.
pub(super) fn serves(path: &str) -> bool {
    path == "/v2/webhooks" || path.starts_with("/v2/webhook/")
}

/// The answer to a call of this gateway.
pub(super) fn answer(call: &Call<'_>) -> Response<Vec<u8>> {
    let Some(route) = Route::of(call.path) else {
        let message = format!("Cannot {} {}", call.method, call.path);
        return Refusal::new(StatusCode::NOT_FOUND, message).response();
    };
    if !route.methods().contains(call.method) {
        let message = format!("Cannot {} {}", call.method, call.path);
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message);
        return answer::allowing(refusal.response(), route.methods());
    }
    match route.answer(call) {
        // Every call that succeeds is documented with 201, listing and removing too.
        Ok(body) => answer::json(StatusCode::CREATED, &body),
        Err(refusal) => refusal.response(),
    }
}

/// A refusal that is not of this gateway's own making, in its shape.
pub(super) fn refusal(status: StatusCode, message: &str) -> Response<Vec<u8>> {
    Refusal::new(status, message).response()
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Route<'a>> {
        if path == "/v2/webhooks" {
            return Some(Route::List);
        }
        match path.strip_prefix("/v2/webhook/")? {
            "register" => Some(Route::Register),
            "deregister" => Some(Route::Deregister),
            id if !id.is_empty() && !id.contains('/') => Some(Route::Edit(id)),
            _ => None,
        }
    }

    fn methods(&self) -> &'static [Method] {
        match self {
            Route::Register => &[Method::POST],
            // The documented method, and the one that the documented 404 of this route names.
            Route::Edit(_) => &[Method::POST, Method::PATCH],
            Route::Deregister => &[Method::DELETE],
            Route::List => &[Method::GET],
        }
    }

    fn answer(&self, call: &Call<'_>) -> Result<Value, Refusal> {
        let unknown_key = || Refusal::new(StatusCode::UNAUTHORIZED, "Invalid public api key");
        let account = call.account("authorization").ok_or_else(unknown_key)?;
        match self {
            Route::Register => put(call, account, None),
            Route::Edit(id) => put(call, account, Some(id)),
            Route::Deregister => deregister(call, account),
            Route::List => listing::list(call, account),
        }
    }
}

/// Registers a webhook, or puts what the body says in the place of the one that has this id.
fn put(call: &Call<'_>, account: &Account, id: Option<&str>) -> Result<Value, Refusal> {
    let engine = call.engine;
    let webhook = Webhook::read(utf8(call.body)?)?;
    let coverage = Coverage::of(&webhook, engine, account)?;
    let covers_nothing = coverage.is_empty();
    if covers_nothing {
        // Nothing is stored, yet the rest of the body is refused as it would be otherwise.
        engine.check_subscription(webhook.subscription.clone().account(account.name()))?;
    }
    let name = webhook.subscription.name.clone();
    engine.change::<_, Refusal>(account.name(), |standing| {
        let before = id.map(|id| own(standing, id)).transpose()?;
        let taken = standing.subscriptions.iter().find(|known| known.name == name);
        if taken.is_some_and(|taken| before.is_none_or(|before| before.id != taken.id)) {
            return Err(Error::NameTaken { name }.into());
        }
        let change = match before {
            _ if covers_nothing => None,
            Some(before) => {
                Some(Change::Replace(before.id, webhook.in_place_of(before, &coverage)))
            }
            None => Some(Change::Create(webhook.covering(&coverage))),
        };
        Ok((Vec::from_iter(change), ()))
    })?;
    Ok(coverage.answer())
}

/// Removes a webhook.
fn deregister(call: &Call<'_>, account: &Account) -> Result<Value, Refusal> {
    let object = Object::read(utf8(call.body)?, &["webhookId"])?;
    let id = object.required_text("webhookId", "the id of a webhook, a string")?;
    call.engine.change::<_, Refusal>(account.name(), |standing| {
        Ok((vec![Change::Remove(own(standing, &id)?.id)], ()))
    })?;
    Ok(json!({}))
}

/// Whether a subscription is one of this gateway's webhooks.
fn is_webhook(registered: &Registered) -> bool {
    registered.profile == Profile::DoubleTick
}

/// A webhook of this gateway by its id, which is the subscription's as text.
fn own<'a>(standing: &'a Standing, id: &str) -> Result<&'a Arc<Registered>, Refusal> {
    let parsed = id.parse().ok().map(SubscriptionId).filter(|parsed| parsed.to_string() == id);
    let mut own = standing.subscriptions.iter().filter(|known| is_webhook(known));
    let found = parsed.and_then(|id| own.find(|known| known.id == id));
    found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "webhookId: there is no such webhook"))
}

/// Why a call is refused.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into() }
    }

    /// A body that can be read and yet not be honoured.
    fn unprocessable(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    fn response(&self) -> Response<Vec<u8>> {
        let body = json!({
            "message": self.message,
            "error": self.status.canonical_reason(),
            "statusCode": self.status.as_u16(),
        });
        answer::json(self.status, &body)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, problem.to_string())
    }
}

impl From<Error> for Refusal {
    /// What is malformed was found before the engine was asked, so what it refuses is its policy.
    fn from(error: Error) -> Refusal {
        match error {
            Error::NameTaken { .. } => {
                let message = "name: taken by another webhook of this account; expected a name \
                               that is not in use";
                Refusal::new(StatusCode::BAD_REQUEST, message)
            }
            Error::Invalid { .. } | Error::Forbidden { .. } => {
                Refusal::unprocessable(error.to_string())
            }
            // How many there are is left out: the limit is for the webhooks of all accounts.
            Error::TooLarge { field, limit, .. } => {
                Refusal::unprocessable(format!("{field}: over the limit of {limit}"))
            }
            // The others may name paths of the machine, which are not the caller's business.
            _ => {
                let message = "webhooks cannot be changed at the moment; see in the list what \
                               became of this call before you try again";
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
            }
        }
    }
}

//! Decides what the session gateway answers: its routes under `/webhooks`, its envelope, its terms.
//!
//! Leaves to others: keeping the webhooks (`engine`) and what their requests look like
//! (`delivery::request`). Invariant (I9): an account sees and changes its own webhooks of this gateway
//! alone, and a secret is shown once, by the answer that made it.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use super::answer;
use super::call::Call;
use super::fields::{self, Object, Problem};
use crate::clock::{fill_random, rfc3339};
use crate::engine::{Change, RecentAttempt, RecentOutcome, Standing, Tested};
use crate::error::Error;
use crate::event::{Catalogue, EventType, TEST};
use crate::subscription::{
    Policy, Profile, Registered, Retry, State, Subscription, SubscriptionId,
};

#[cfg(test)]
mod tests;

/// Whether a path belongs to this gateway.
pub(super) fn serves(path: &str) -> bool {
    path == "/webhooks" || path.starts_with("/webhooks/")
}

/// The answer to a call of this gateway.
pub(super) fn answer(call: &Call<'_>) -> Answer {
    routed(call).unwrap_or_else(|refused| refused.answer())
}

/// A refusal that is not of this gateway's own making, in its envelope.
pub(super) fn refusal(status: StatusCode, message: &str) -> Answer {
    Refused::new(status, message).answer()
}

/// Whether a call sends a test event and waits for its receiver.
pub(super) fn is_test(method: &Method, path: &str) -> bool {
    let id = path.strip_prefix("/webhooks/").and_then(|rest| rest.strip_suffix("/test"));
    method == Method::POST && id.is_some_and(|id| !id.contains('/'))
}

type Answer = Response<Vec<u8>>;

/// How many attempts the logs of a webhook show.
const LOGS_MAX: usize = 100;

fn routed(call: &Call<'_>) -> Result<Answer, Refused> {
    let account = call.account(AUTHORIZATION.as_str()).ok_or_else(|| {
        Refused::new(StatusCode::UNAUTHORIZED, "Invalid or missing authentication")
    })?;
    let caller = Caller { call, account: account.name() };
    let mut parts = call.path.trim_start_matches('/').split('/').skip(1);
    let (id, of_it) = (parts.next(), parts.next());
    if parts.next().is_some() {
        return Err(Refused::missing());
    }
    match (id, of_it) {
        (None, _) => match *call.method {
            Method::GET => caller.list(),
            Method::POST => caller.create(),
            _ => Err(Refused::method(&[Method::GET, Method::POST])),
        },
        (Some(id), None) => match *call.method {
            Method::GET => caller.read(id),
            Method::PATCH => caller.revise(id),
            Method::DELETE => caller.delete(id),
            _ => Err(Refused::method(&[Method::GET, Method::PATCH, Method::DELETE])),
        },
        (Some(id), Some("logs")) if call.method == Method::GET => caller.logs(id),
        (Some(_), Some("logs")) => Err(Refused::method(&[Method::GET])),
        (Some(id), Some("test")) if call.method == Method::POST => caller.test(id),
        (Some(_), Some("test")) => Err(Refused::method(&[Method::POST])),
        _ => Err(Refused::missing()),
    }
}

/// A call with the account whose key it shows.
struct Caller<'a> {
    call: &'a Call<'a>,
    account: &'a str,
}

impl Caller<'_> {
    fn list(&self) -> Result<Answer, Refused> {
        let all = self.call.engine.subscriptions_of(self.account);
        let own = all.iter().filter(|one| one.profile == Profile::Session);
        let webhooks: Vec<_> = own.map(|one| Webhook::of(one, self.catalogue())).collect();
        Ok(success(StatusCode::OK, "Webhooks retrieved successfully", &webhooks))
    }

    fn create(&self) -> Result<Answer, Refused> {
        let given = self.given(&["url", "secret", "events"])?;
        let url = given.required_text("url", URL)?;
        self.check_scheme(&url)?;
        let events = read_events(&given)?.filter(|events| !events.is_empty());
        // An empty secret is what a client sends that leaves it out with a text of its own.
        let secret = given.text("secret", SECRET)?.filter(|secret| !secret.is_empty());
        let (secret, generated) = match secret {
            Some(secret) => (secret, None),
            None => {
                let fresh = fresh_secret()?;
                (fresh.clone(), Some(fresh))
            }
        };
        let subscription = Subscription::to(url)?.secret(secret).policy(terms());
        let subscription = subscription.profile(Profile::Session);
        let subscription = events.into_iter().fold(subscription, Subscription::events);
        let webhooks_max = self.call.engine.limits().session_webhooks_max;
        let (ids, ()) = self.call.engine.change(self.account, |standing| {
            let name = free_name(standing, webhooks_max)?;
            Ok::<_, Refused>((vec![Change::Create(subscription.name(name))], ()))
        })?;
        let created = ids.first().and_then(|id| self.call.engine.subscription(*id));
        let created = created.ok_or_else(Refused::missing)?;
        let webhook = Webhook { secret: generated, ..Webhook::of(&created, self.catalogue()) };
        Ok(success(StatusCode::CREATED, "Webhook created successfully", &webhook))
    }

    fn read(&self, id: &str) -> Result<Answer, Refused> {
        let webhook = Webhook::of(&*self.own(id)?, self.catalogue());
        Ok(success(StatusCode::OK, "Webhook retrieved successfully", &webhook))
    }

    fn revise(&self, id: &str) -> Result<Answer, Refused> {
        let known = self.own(id)?.id;
        let given = self.given(&["url", "secret", "events", "active"])?;
        let url = given.text("url", URL)?;
        url.iter().try_for_each(|url| self.check_scheme(url))?;
        let events = read_events(&given)?;
        let secret = given.text("secret", SECRET)?;
        let active = given.value("active", "true or false")?;
        self.call.engine.revise_with_state(known, |before| {
            let mut after = Subscription::from(before);
            if let Some(url) = url {
                after.target = after.target.at(&url)?;
            }
            if let Some(events) = events {
                after.events = Some(events).filter(|events| !events.is_empty());
            }
            let after = secret.into_iter().fold(after, Subscription::secret);
            Ok((after, state(active, before.state)))
        })?;
        let webhook = Webhook::of(&*self.own(id)?, self.catalogue());
        Ok(success(StatusCode::OK, "Webhook updated successfully", &webhook))
    }

    fn delete(&self, id: &str) -> Result<Answer, Refused> {
        self.call.engine.unsubscribe(self.own(id)?.id)?;
        Ok(success(StatusCode::OK, "Webhook deleted successfully", &()))
    }

    fn logs(&self, id: &str) -> Result<Answer, Refused> {
        let id = self.own(id)?.id;
        let attempts = self.call.engine.recent_attempts(id, LOGS_MAX);
        let logs: Vec<_> =
            attempts.iter().map(|attempt| Log::of(id, attempt, self.catalogue())).collect();
        Ok(success(StatusCode::OK, "Webhook logs retrieved successfully", &logs))
    }

    fn test(&self, id: &str) -> Result<Answer, Refused> {
        let tested = self.call.engine.test(self.own(id)?.id)?;
        let message =
            if tested.is_delivered() { "Webhook test delivered" } else { "Webhook test failed" };
        let catalogue = self.catalogue();
        let kind = catalogue.canonical(TEST)?;
        Ok(success(StatusCode::OK, message, &Test::of(&tested, named(&kind, catalogue))))
    }

    /// The caller's webhook with this id. Another account's, and what another gateway registered, is as
    /// one that is not there.
    fn own(&self, id: &str) -> Result<Arc<Registered>, Refused> {
        let plain = id.bytes().all(|byte| byte.is_ascii_digit());
        let id = id.parse().ok().filter(|_| plain).map(SubscriptionId);
        let known = id.and_then(|id| self.call.engine.subscription(id));
        let is_own =
            |one: &Arc<Registered>| one.account == self.account && one.profile == Profile::Session;
        known.filter(is_own).ok_or_else(Refused::missing)
    }

    fn catalogue(&self) -> &Catalogue {
        self.call.engine.catalogue()
    }

    fn given(&self, known: &[&str]) -> Result<Object<'_>, Problem> {
        Object::read(fields::utf8(self.call.body)?, known)
    }

    /// Says what the gateway says, before the engine says the same in its own words.
    fn check_scheme(&self, url: &str) -> Result<(), Refused> {
        let has = |scheme: &str| {
            url.split_at_checked(scheme.len())
                .is_some_and(|(head, _)| head.eq_ignore_ascii_case(scheme))
        };
        if has("https://") || (self.call.engine.network().allow_http && has("http://")) {
            return Ok(());
        }
        Err(Refused::new(StatusCode::BAD_REQUEST, "URL must be HTTPS"))
    }
}

const URL: &str = "an absolute URL such as \"https://your-server.com/webhook\"";
const SECRET: &str = "a string";
const EVENTS: &str = "a list of event names such as [\"message.received\"]; an empty one means all";

/// The gateway's terms: three attempts, 2 and 4 seconds apart, 10 seconds each, any 2xx. What a retry
/// cannot mend is not retried, and an endpoint that is gone is switched off, as for everybody.
fn terms() -> Policy {
    Policy {
        retry: Retry::List { delays_ms: vec![2_000, 4_000] },
        attempts_max: Some(3),
        timeout_ms: 10_000,
        ..Policy::default()
    }
}

/// The events that are named. A pattern would match nothing and nobody would know.
fn read_events(given: &Object<'_>) -> Result<Option<Vec<String>>, Problem> {
    let Some(items) = given.value::<Vec<&RawValue>>("events", EVENTS)? else { return Ok(None) };
    let name = |(place, raw): (usize, &&RawValue)| {
        let field = format!("events[{place}]");
        let name = fields::text(&field, raw, "the name of an event")?;
        let is_pattern = name.contains('*');
        let problem = "found a pattern; expected the name of an event, or an empty list for all";
        if is_pattern { Err(Problem::at(&field, problem)) } else { Ok(name) }
    };
    items.iter().enumerate().map(name).collect::<Result<_, _>>().map(Some)
}

/// A name for one more webhook, because this gateway knows webhooks by their numbers alone.
fn free_name(standing: &Standing, webhooks_max: usize) -> Result<String, Refused> {
    let all = &standing.subscriptions;
    if all.iter().filter(|one| one.profile == Profile::Session).count() >= webhooks_max {
        let error = format!("There may be at most {webhooks_max} webhooks; delete one first");
        return Err(Refused::new(StatusCode::BAD_REQUEST, error));
    }
    let taken: HashSet<&str> = all.iter().map(|one| one.name.as_str()).collect();
    let names = (1_u64..).map(|number| format!("webhook-{number}"));
    names.into_iter().find(|name| !taken.contains(name.as_str())).ok_or_else(Refused::missing)
}

/// An event type by the name that this gateway has for it.
fn named(kind: &EventType, catalogue: &Catalogue) -> String {
    catalogue.name_in(Profile::Session, kind).to_owned()
}

/// What a webhook is to be, if it was said. One that its receiver switched off stays so until it is
/// switched on.
fn state(active: Option<bool>, before: State) -> State {
    match active {
        Some(true) => State::Active,
        Some(false) if before == State::Active => State::Paused,
        _ => before,
    }
}

/// 32 random bytes in hexadecimal.
fn fresh_secret() -> Result<String, Refused> {
    let mut bytes = [0_u8; 32];
    fill_random(&mut bytes).map_err(|_| Refused::failed())?;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // A text takes whatever is written to it.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// A webhook as it is shown.
#[derive(Serialize)]
struct Webhook {
    id: u32,
    url: String,
    /// None means all.
    events: Vec<String>,
    active: bool,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl Webhook {
    fn of(registered: &Registered, catalogue: &Catalogue) -> Webhook {
        let events = registered.filter.events.iter().flatten();
        Webhook {
            id: registered.id.0,
            url: registered.target.url().to_string(),
            events: events.map(|kind| named(kind, catalogue)).collect(),
            active: registered.state == State::Active,
            created_at: rfc3339(registered.created_at_ms),
            secret: None,
        }
    }
}

/// An attempt as the logs show it.
#[derive(Serialize)]
struct Log {
    webhook_id: u32,
    event_id: String,
    event_type: Option<String>,
    status: &'static str,
    status_code: Option<u16>,
    attempt_count: u32,
    last_error: Option<String>,
    response: Option<String>,
    duration_ms: u64,
    created_at: String,
}

impl Log {
    fn of(id: SubscriptionId, attempt: &RecentAttempt, catalogue: &Catalogue) -> Log {
        Log {
            webhook_id: id.0,
            event_id: attempt.event.to_string(),
            event_type: attempt.event_type.as_ref().map(|kind| named(kind, catalogue)),
            status: match attempt.outcome {
                RecentOutcome::Delivered => "success",
                RecentOutcome::Retry => "retrying",
                RecentOutcome::Dead => "failed",
            },
            status_code: attempt.status,
            attempt_count: attempt.number,
            last_error: attempt.reason.as_ref().map(ToString::to_string),
            response: excerpt(&attempt.excerpt),
            duration_ms: attempt.took_ms,
            created_at: rfc3339(attempt.at_ms),
        }
    }
}

/// What a receiver did with a test event.
#[derive(Serialize)]
struct Test {
    event_id: String,
    event_type: String,
    status: &'static str,
    status_code: Option<u16>,
    last_error: Option<String>,
    response: Option<String>,
    duration_ms: u64,
}

impl Test {
    fn of(tested: &Tested, event_type: String) -> Test {
        Test {
            event_id: tested.event_id.to_string(),
            event_type,
            status: if tested.is_delivered() { "success" } else { "failed" },
            status_code: tested.status,
            last_error: tested.reason.as_ref().map(ToString::to_string),
            response: excerpt(&tested.excerpt),
            duration_ms: tested.took_ms,
        }
    }
}

fn excerpt(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// The gateway's envelope. Its `code` is the HTTP status, whatever its documents' examples say.
#[derive(Serialize)]
struct Envelope<'a, T> {
    status: bool,
    code: u16,
    message: &'a str,
    data: &'a T,
}

fn success<T: Serialize>(status: StatusCode, message: &str, data: &T) -> Answer {
    answer::json(status, &Envelope { status: true, code: status.as_u16(), message, data })
}

/// A call that is not honoured.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    error: String,
    /// The methods that would be, where it is the method.
    allowed: &'static [Method],
}

/// The envelope of a refusal.
#[derive(Serialize)]
struct RefusedEnvelope<'a> {
    status: bool,
    code: u16,
    message: &'a str,
    error: &'a str,
}

impl Refused {
    fn new(status: StatusCode, error: impl Into<String>) -> Refused {
        Refused { status, error: error.into(), allowed: &[] }
    }

    fn missing() -> Refused {
        Refused::new(StatusCode::NOT_FOUND, "Webhook not found")
    }

    fn failed() -> Refused {
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "Failed to keep the webhook")
    }

    fn method(allowed: &'static [Method]) -> Refused {
        let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        let error = format!("Expected one of {}", names.join(", "));
        Refused { allowed, ..Refused::new(StatusCode::METHOD_NOT_ALLOWED, error) }
    }

    fn answer(&self) -> Answer {
        let message = message(self.status);
        let (code, error) = (self.status.as_u16(), self.error.as_str());
        let envelope = RefusedEnvelope { status: false, code, message, error };
        let response = answer::json(self.status, &envelope);
        match self.allowed {
            [] => response,
            allowed => answer::allowing(response, allowed),
        }
    }
}

/// What a status is called here.
fn message(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "Bad request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not found",
        405 => "Method not allowed",
        408 => "Request timeout",
        413 => "Payload too large",
        415 => "Unsupported media type",
        429 => "Too many requests",
        503 => "Service unavailable",
        _ => "Internal server error",
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Refused {
        Refused::new(StatusCode::BAD_REQUEST, problem.to_string())
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        let status = match error {
            Error::Invalid { .. } => StatusCode::BAD_REQUEST,
            // How many there are is left out: the limit is for the webhooks of all accounts (I9).
            Error::TooLarge { field, limit, .. } => {
                let error = format!("{field}: over the limit of {limit}");
                return Refused::new(StatusCode::BAD_REQUEST, error);
            }
            Error::Forbidden { .. } => StatusCode::FORBIDDEN,
            Error::NotFound { .. } => return Refused::missing(),
            Error::Unknown { .. }
            | Error::Refused { .. }
            | Error::Closed
            | Error::Poisoned { .. } => StatusCode::SERVICE_UNAVAILABLE,
            // Its text may name paths of the machine.
            _ => return Refused::failed(),
        };
        Refused::new(status, error.to_string())
    }
}

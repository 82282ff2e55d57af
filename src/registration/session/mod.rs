//! The session gateway's registration API under `/webhooks`, and the policy of its webhooks. An account
//! sees and changes only its own webhooks of this gateway, and a generated secret is shown once (I9).

mod cors;
mod error;
mod receipts;
mod shapes;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Method, Response, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub use self::cors::SessionGateway;
use self::error::SessionError;
use self::shapes::{AttemptLog, SessionWebhook, TestResult, session_name, success};
use super::body::form_pairs;
use super::fields::{self, Problem, RequestObject};
use super::gateway_http::GatewayRequest;
use crate::clock::fill_random;
use crate::engine::{AccountSnapshot, SubscriptionChange};
use crate::event::{Catalogue, TEST};
use crate::profile::Profile;
use crate::subscription::{
    Policy, Retry, Subscription, SubscriptionId, SubscriptionInfo, SubscriptionState,
};
use crate::text::hex;

pub(super) fn respond(request: &GatewayRequest<'_>) -> Response<Vec<u8>> {
    result(request).unwrap_or_else(|error| error.response())
}

/// The response to a request that the server refuses before a gateway sees it.
pub(super) fn error_response(status: StatusCode, message: &str) -> Response<Vec<u8>> {
    SessionError::new(status, message).response()
}

/// Whether a request sends a test event and waits for its receiver.
pub(super) fn is_test(method: &Method, path: &str) -> bool {
    let id = path.strip_prefix("/webhooks/").and_then(|rest| rest.strip_suffix("/test"));
    method == Method::POST && id.is_some_and(|id| !id.contains('/'))
}

/// The most attempts in the logs of a webhook.
const LOGS_MAX: usize = 100;

fn result(request: &GatewayRequest<'_>) -> SessionResult {
    let account = request.account(AUTHORIZATION.as_str()).ok_or_else(|| {
        SessionError::new(StatusCode::UNAUTHORIZED, "Invalid or missing authentication")
    })?;
    let caller = SessionCaller { request, account: account.id() };
    let mut parts = request.path.trim_start_matches('/').split('/').skip(1);
    let (id, action) = (parts.next(), parts.next());
    if parts.next().is_some() {
        return Err(SessionError::missing());
    }
    match (id, action, request.method) {
        (None, _, &Method::GET) => caller.list(),
        (None, _, &Method::POST) => caller.create(),
        (None, ..) => Err(SessionError::method(&[Method::GET, Method::POST])),
        (Some(id), None, &Method::GET) => caller.read(id),
        (Some(id), None, &Method::PATCH) => caller.revise(id),
        (Some(id), None, &Method::DELETE) => caller.delete(id),
        (_, None, _) => Err(SessionError::method(&[Method::GET, Method::PATCH, Method::DELETE])),
        (Some(id), Some("logs"), &Method::GET) => caller.logs(id),
        (_, Some("logs"), _) => Err(SessionError::method(&[Method::GET])),
        (Some(id), Some("test"), &Method::POST) => caller.test(id),
        (_, Some("test"), _) => Err(SessionError::method(&[Method::POST])),
        _ => Err(SessionError::missing()),
    }
}

type SessionResult<T = Response<Vec<u8>>> = Result<T, SessionError>;

/// A request with the account whose key it shows.
struct SessionCaller<'a> {
    request: &'a GatewayRequest<'a>,
    account: &'a str,
}

impl SessionCaller<'_> {
    fn list(&self) -> SessionResult {
        let all = self.request.engine.subscriptions_of(self.account);
        let own = all.iter().filter(|one| one.profile == Profile::Session);
        let webhooks: Vec<_> = own.map(|one| SessionWebhook::of(one, self.catalogue())).collect();
        Ok(success(StatusCode::OK, "Webhooks retrieved successfully", &webhooks))
    }

    fn create(&self) -> SessionResult {
        let text = self.text()?;
        let given = RequestObject::read(&text, FIELDS)?;
        let url = given.required_text("url", URL)?;
        self.check_scheme(&url)?;
        let named = read_events(&given)?;
        self.note_types(named.iter().flatten());
        // Some clients send an empty text for no secret.
        let secret = given.text("secret", SECRET)?.filter(|secret| !secret.is_empty());
        let (secret, generated) = match secret {
            Some(secret) => (secret, None),
            None => {
                let fresh = fresh_secret()?;
                (fresh.clone(), Some(fresh))
            }
        };
        let subscription = Subscription::to(url)?.secret(secret).policy(policy());
        let payload = given.word("payload")?.unwrap_or_default();
        let subscription = subscription.profile(Profile::Session).payload(payload);
        let events = named.clone().unwrap_or_default();
        let subscription = receipts::with_events(subscription, None, events, self.catalogue());
        let webhooks_max = self.request.engine.limits().session_webhooks_max;
        let (ids, ()) = self.request.engine.change(self.account, |account_snapshot| {
            let name = free_name(account_snapshot, webhooks_max)?;
            Ok::<_, SessionError>((vec![SubscriptionChange::Create(subscription.name(name))], ()))
        })?;
        let created = ids.first().and_then(|id| self.request.engine.subscription(*id));
        let created = created.ok_or_else(SessionError::missing)?;
        let webhook = SessionWebhook::of(&created, self.catalogue());
        let webhook = webhook.with_secret(generated).with_events(named);
        Ok(success(StatusCode::CREATED, "Webhook created successfully", &webhook))
    }

    fn read(&self, id: &str) -> SessionResult {
        let webhook = SessionWebhook::of(&*self.own(id)?, self.catalogue());
        Ok(success(StatusCode::OK, "Webhook retrieved successfully", &webhook))
    }

    fn revise(&self, id: &str) -> SessionResult {
        let known = self.own(id)?.id;
        let text = self.text()?;
        let given = RequestObject::read(&text, FIELDS)?;
        let url = given.text("url", URL)?;
        url.iter().try_for_each(|url| self.check_scheme(url))?;
        let events = read_events(&given)?;
        self.note_types(events.iter().flatten());
        let secret = given.text("secret", SECRET)?;
        let active = given.value("active", "true or false")?;
        let payload = given.word("payload")?;
        self.request.engine.revise_with_state(known, |before| {
            let mut after = Subscription::from(before);
            if let Some(url) = &url {
                after.target = after.target.at(url)?;
            }
            if let Some(events) = &events {
                let events = events.clone();
                after = receipts::with_events(after, Some(before), events, self.catalogue());
            }
            let after = payload.into_iter().fold(after, Subscription::payload);
            let after = secret.iter().fold(after, |after, one| after.secret(one.as_str()));
            Ok::<_, SessionError>((after, state(active, before.state)))
        })?;
        let webhook = SessionWebhook::of(&*self.own(id)?, self.catalogue()).with_events(events);
        Ok(success(StatusCode::OK, "Webhook updated successfully", &webhook))
    }

    fn delete(&self, id: &str) -> SessionResult {
        self.request.engine.unsubscribe(self.own(id)?.id)?;
        Ok(success(StatusCode::OK, "Webhook deleted successfully", &()))
    }

    fn logs(&self, id: &str) -> SessionResult {
        let id = self.own(id)?.id;
        let attempts = self.request.engine.recent_attempts(id, LOGS_MAX);
        let logs: Vec<_> =
            attempts.iter().map(|attempt| AttemptLog::of(id, attempt, self.catalogue())).collect();
        Ok(success(StatusCode::OK, "Webhook logs retrieved successfully", &logs))
    }

    fn test(&self, id: &str) -> SessionResult {
        let tested = self.request.engine.test(self.own(id)?.id)?;
        let message =
            if tested.is_delivered() { "Webhook test delivered" } else { "Webhook test failed" };
        let kind = session_name(&self.catalogue().canonical(TEST)?, self.catalogue());
        Ok(success(StatusCode::OK, message, &TestResult::of(&tested, kind)))
    }

    /// The caller's webhook with this id. Webhooks of other accounts and other gateways are not found.
    fn own(&self, id: &str) -> SessionResult<Arc<SubscriptionInfo>> {
        let plain = id.bytes().all(|byte| byte.is_ascii_digit());
        let id = id.parse().ok().filter(|_| plain).map(SubscriptionId);
        let known = id.and_then(|id| self.request.engine.subscription(id));
        let is_own = |one: &Arc<SubscriptionInfo>| {
            one.account == self.account && one.profile == Profile::Session
        };
        known.filter(is_own).ok_or_else(SessionError::missing)
    }

    fn note_types<'n>(&self, names: impl Iterator<Item = &'n String>) {
        self.request.note_types(names.filter(|name| !receipts::is_receipt(name)));
    }

    fn catalogue(&self) -> &Catalogue {
        self.request.engine.catalogue()
    }

    /// The body as JSON, also where it is a form.
    fn text(&self) -> Result<Cow<'_, str>, Problem> {
        let body = fields::utf8(self.request.body)?;
        match form_pairs(body, self.request.headers) {
            Some(pairs) => Ok(Cow::Owned(form_as_json(pairs?))),
            None => Ok(Cow::Borrowed(body)),
        }
    }

    /// Refuses other schemes with the gateway's own message.
    fn check_scheme(&self, url: &str) -> SessionResult<()> {
        let has = |scheme: &str| {
            url.split_at_checked(scheme.len())
                .is_some_and(|(head, _)| head.eq_ignore_ascii_case(scheme))
        };
        if has("https://") || (self.request.engine.network().allow_http && has("http://")) {
            return Ok(());
        }
        Err(SessionError::new(StatusCode::BAD_REQUEST, "URL must be HTTPS"))
    }
}

const FIELDS: &[&str] = &["url", "secret", "events", "active", "payload"];
const URL: &str = "an absolute URL such as \"https://your-server.com/webhook\"";
const SECRET: &str = "a string";
const EVENTS: &str =
    "an array of event names such as [\"message.received\"]; an empty one means all";

/// The gateway's policy: three attempts, 2 and 4 seconds apart, 10 seconds each, any 2xx. As by default,
/// permanent failures are not retried, and a receiver that answers 410 is disabled.
fn policy() -> Policy {
    Policy {
        retry: Retry::List { delays: [2_000, 4_000].map(Duration::from_millis).to_vec() },
        attempts_max: Some(3),
        timeout: Duration::from_millis(10_000),
        ..Policy::default()
    }
}

/// The fields of a form as the JSON object that a client would send instead. `events` may be repeated, and
/// may be written `events[]` or `events[0]`.
fn form_as_json(pairs: Vec<(String, String)>) -> String {
    let mut object = Map::new();
    for (name, value) in pairs {
        let bare = name.split('[').next().unwrap_or_default().to_ascii_lowercase();
        match (bare.as_str(), value.as_str()) {
            ("events", _) => {
                let events = object.entry(bare).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(events) = events {
                    events.push(value.into());
                }
            }
            ("active", "true" | "1" | "on") => drop(object.insert(bare, true.into())),
            ("active", "false" | "0" | "off") => drop(object.insert(bare, false.into())),
            _ => drop(object.insert(bare, value.into())),
        }
    }
    Value::Object(object).to_string()
}

/// The named events. A pattern is refused, because it would silently match nothing.
fn read_events(given: &RequestObject<'_>) -> Result<Option<Vec<String>>, Problem> {
    let Some(items) = given.value::<Vec<&RawValue>>("events", EVENTS)? else { return Ok(None) };
    let name = |(place, raw): (usize, &&RawValue)| {
        let field = format!("events[{place}]");
        let name = fields::text(&field, raw, "the name of an event")?;
        let is_pattern = name.contains('*');
        let problem = "found a pattern; expected the name of an event, or an empty array for all";
        if is_pattern { Err(Problem::at(&field, problem)) } else { Ok(name) }
    };
    items.iter().enumerate().map(name).collect::<Result<_, _>>().map(Some)
}

/// A free name for a new webhook, because this gateway identifies webhooks by id only.
fn free_name(account_snapshot: &AccountSnapshot, webhooks_max: usize) -> SessionResult<String> {
    let all = &account_snapshot.subscriptions;
    if all.iter().filter(|one| one.profile == Profile::Session).count() >= webhooks_max {
        let error = format!("The limit of {webhooks_max} webhooks is reached; delete one first");
        return Err(SessionError::new(StatusCode::BAD_REQUEST, error));
    }
    let taken: HashSet<&str> = all.iter().map(|one| one.name.as_str()).collect();
    let names = (1_u64..).map(|number| format!("webhook-{number}"));
    names.into_iter().find(|name| !taken.contains(name.as_str())).ok_or_else(SessionError::missing)
}

/// The state after a request with this `active`. A webhook that its receiver disabled stays disabled until
/// it is switched on.
fn state(active: Option<bool>, before: SubscriptionState) -> SubscriptionState {
    match active {
        Some(true) => SubscriptionState::Active,
        Some(false) if before == SubscriptionState::Active => SubscriptionState::Paused,
        _ => before,
    }
}

/// 32 random bytes in hexadecimal.
fn fresh_secret() -> SessionResult<String> {
    let mut bytes = [0_u8; 32];
    fill_random(&mut bytes).map_err(|_| SessionError::failed())?;
    Ok(hex(&bytes))
}

//! Reads the body of a registration or an edit, field by field. Headers and URLs are checked here, so
//! that none can break a request later. No error repeats a value (I9).

use std::collections::HashSet;

use http::{HeaderName, HeaderValue, Method};
use serde_json::value::RawValue;

use super::coverage::Coverage;
use super::error::DoubleTickError;
use crate::error::Error;
use crate::profile::Profile;
use crate::registration::fields::{self, Problem, RequestObject};
use crate::subscription::{Authorization, BodyFormat, EXTRAS_MAX, Subscription, SubscriptionInfo};
use crate::text::{NAME_EXPECTED, is_name};

/// A webhook as given in a body, before its numbers and events are checked.
pub(super) struct DoubleTickWebhook {
    /// Without a filter.
    pub(super) subscription: Subscription,
    /// The event types, in any spelling.
    pub(super) events: Vec<String>,
    /// The numbers as given.
    pub(super) numbers: Vec<String>,
}

/// The fields of the body, in the order of the documents.
const FIELDS: &[&str] = &[
    "method",
    "headers",
    "body",
    "query",
    "authorization",
    "url",
    "bodyFormat",
    "webhookEvents",
    "retryOnTimeout",
    "name",
    "wabaNumbers",
];

impl DoubleTickWebhook {
    pub(super) fn read(text: &str) -> Result<DoubleTickWebhook, DoubleTickError> {
        let object = RequestObject::read(text, FIELDS)?;
        let method = read_method(&object)?;
        let subscription = read_url(&object)?.method(method).name(read_name(&object)?);
        let subscription = add_headers(&object, subscription)?;
        let subscription = add_query(&object, subscription)?;
        let subscription = add_body(&object, subscription)?;
        let mut subscription = add_authorization(&object, subscription)?
            .body_format(read_body_format(&object)?)
            .profile(Profile::DoubleTick);
        subscription.policy.retry_on_timeout =
            object.value("retryOnTimeout", "true or false")?.unwrap_or(false);
        let events = texts(&object, "webhookEvents", "an array of at least one event type")?;
        let numbers = texts(&object, "wabaNumbers", "an array of at least one number, as strings")?;
        Ok(DoubleTickWebhook { subscription, events, numbers })
    }

    /// The subscription to the valid pairs.
    pub(super) fn covering(self, coverage: &Coverage) -> Subscription {
        self.subscription.events(coverage.events()).numbers(coverage.numbers())
    }

    /// The subscription that replaces another. What a body cannot express stays, such as a secret that
    /// the host set.
    pub(super) fn replacing(self, before: &SubscriptionInfo, coverage: &Coverage) -> Subscription {
        let given = self.covering(coverage);
        let mut edited = Subscription::from(before);
        let tls = edited.target.tls.take();
        edited.name = given.name;
        edited.events = given.events;
        edited.numbers = given.numbers;
        edited.target = given.target;
        edited.target.tls = tls;
        edited.policy.retry_on_timeout = given.policy.retry_on_timeout;
        edited
    }
}

/// Whether a subscription is one of this gateway's webhooks.
pub(super) fn is_webhook(registered: &SubscriptionInfo) -> bool {
    registered.profile == Profile::DoubleTick
}

fn read_method(object: &RequestObject<'_>) -> Result<Method, Problem> {
    let expected = "one of GET, POST, PUT, DELETE, PATCH, HEAD";
    match object.required_text("method", expected)?.as_str() {
        "GET" => Ok(Method::GET),
        "POST" => Ok(Method::POST),
        "PUT" => Ok(Method::PUT),
        "DELETE" => Ok(Method::DELETE),
        "PATCH" => Ok(Method::PATCH),
        "HEAD" => Ok(Method::HEAD),
        _ => Err(unlisted("method", expected)),
    }
}

fn read_url(object: &RequestObject<'_>) -> Result<Subscription, Problem> {
    let url = object.required_text("url", "an absolute https:// URL")?;
    Subscription::to(url).map_err(|error| match error {
        Error::Invalid { field, expected, .. } => {
            Problem::at(&field, format!("not acceptable; expected {expected}"))
        }
        other => Problem::at("url", other),
    })
}

fn read_name(object: &RequestObject<'_>) -> Result<String, Problem> {
    let name = object.required_text("name", "a string")?;
    if !is_name(&name) {
        return Err(Problem::at("name", format!("not acceptable; expected {NAME_EXPECTED}")));
    }
    Ok(name)
}

fn read_body_format(object: &RequestObject<'_>) -> Result<BodyFormat, Problem> {
    let expected = "one of JSON, FORM_DATA";
    match object.text("bodyFormat", expected)?.as_deref() {
        None | Some("JSON") => Ok(BodyFormat::Json),
        Some("FORM_DATA") => Ok(BodyFormat::FormData),
        Some(_) => Err(unlisted("bodyFormat", expected)),
    }
}

fn add_headers(
    object: &RequestObject<'_>,
    mut subscription: Subscription,
) -> Result<Subscription, DoubleTickError> {
    let Some(headers) = extras(object, "headers", "headers.")? else { return Ok(subscription) };
    let mut names = HashSet::new();
    for (name, raw) in headers.pairs().filter(|(_, raw)| raw.get() != "null") {
        let Ok(lower) = HeaderName::from_bytes(name.as_bytes()) else {
            let problem =
                "found a name that is not a header name; expected header names of RFC 9110";
            return Err(Problem::at("headers", problem).into());
        };
        let field = format!("headers.{name}");
        let expected = "a string of visible ASCII characters, spaces and tabs";
        let value = fields::plain_text(&field, raw, expected)?;
        if !HeaderValue::from_str(&value).is_ok_and(|value| value.to_str().is_ok()) {
            return Err(Problem::at(&field, format!("not acceptable; expected {expected}")).into());
        }
        if !names.insert(lower) {
            let problem = "given twice, in another case; expected once";
            return Err(Problem::at(&field, problem).into());
        }
        subscription = subscription.header(name, value);
    }
    Ok(subscription)
}

fn add_query(
    object: &RequestObject<'_>,
    mut subscription: Subscription,
) -> Result<Subscription, DoubleTickError> {
    let Some(query) = extras(object, "query", "query.")? else { return Ok(subscription) };
    for (name, raw) in query.pairs().filter(|(_, raw)| raw.get() != "null") {
        let value =
            fields::plain_text(&format!("query.{name}"), raw, "a string, a number or a boolean")?;
        subscription = subscription.query(name, value);
    }
    Ok(subscription)
}

fn add_body(
    object: &RequestObject<'_>,
    mut subscription: Subscription,
) -> Result<Subscription, DoubleTickError> {
    let Some(body) = extras(object, "body", "body.")? else { return Ok(subscription) };
    for (name, raw) in body.pairs() {
        subscription = subscription.body(name, raw.get());
    }
    Ok(subscription)
}

/// An object of additions to each request, bounded before it is used.
fn extras<'a>(
    object: &RequestObject<'a>,
    name: &str,
    prefix: &'static str,
) -> Result<Option<RequestObject<'a>>, DoubleTickError> {
    let Some(extras) = object.inner(name, prefix)? else { return Ok(None) };
    let given = extras.pairs().count();
    if given > EXTRAS_MAX {
        let message = format!("{name}: {given} of them; expected at most {EXTRAS_MAX}");
        return Err(DoubleTickError::unprocessable(message));
    }
    Ok(Some(extras))
}

/// Both parts or neither: some clients must send an object and send an empty one.
fn add_authorization(
    object: &RequestObject<'_>,
    subscription: Subscription,
) -> Result<Subscription, DoubleTickError> {
    let inner = object.inner("authorization", "authorization.")?;
    let Some(inner) = inner else { return Ok(subscription) };
    inner.check_names(&["type", "payload"])?;
    let (kinds, payloads) = ("one of BASIC, BEARER", "a string of at least one character");
    let (kind, payload) = (inner.text("type", kinds)?, inner.text("payload", payloads)?);
    if kind.is_none() && payload.is_none() {
        return Ok(subscription);
    }
    let kind = kind.ok_or_else(|| inner.missing("type", kinds))?;
    let payload = payload.ok_or_else(|| inner.missing("payload", payloads))?;
    if payload.is_empty() {
        return Err(Problem::at("authorization.payload", format!("expected {payloads}")).into());
    }
    let authorization = match kind.as_str() {
        "BASIC" => Authorization::basic(payload),
        "BEARER" => Authorization::bearer(payload),
        _ => return Err(unlisted("authorization.type", kinds).into()),
    };
    if !authorization.header_value().is_ok_and(|value| value.to_str().is_ok()) {
        let problem = "not acceptable; expected visible ASCII characters, spaces and tabs";
        return Err(Problem::at("authorization.payload", problem).into());
    }
    Ok(subscription.authorization(authorization))
}

/// A non-empty array of texts.
fn texts(object: &RequestObject<'_>, name: &str, expected: &str) -> Result<Vec<String>, Problem> {
    let items: Vec<&RawValue> = object.required_value(name, expected)?;
    if items.is_empty() {
        return Err(Problem::at(name, format!("found an empty array; expected {expected}")));
    }
    let each = items.into_iter().enumerate();
    each.map(|(place, raw)| fields::text(&format!("{name}[{place}]"), raw, "a string")).collect()
}

fn unlisted(field: &str, expected: &str) -> Problem {
    Problem::at(field, format!("found another text; expected {expected}"))
}

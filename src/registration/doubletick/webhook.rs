//! Reads the body of a registration or an edit, field by field. Headers and URLs are checked here, so
//! that none can break a request later. No error repeats a value (I9).

use std::collections::HashSet;

use http::{HeaderName, HeaderValue, Method};
use serde_json::value::RawValue;

use super::error::{DoubleTickError, DoubleTickResult};
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
    /// Whether the body changes a webhook.
    pub(super) is_edit: bool,
    /// Whether the body is an item of the list, which does not show how deliveries are sent.
    pub(super) is_listed: bool,
}

/// The fields of the body, in the order of the documents, and those of items of the list.
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
    "eventTypes",
    "payload",
];

/// The fields of the short form that a public client sends: a URL, events and one number.
const SHORT_FIELDS: &[&str] = &["url", "events", "wabaNumber", "name"];

const EVENTS_EXPECTED: &str = "an array of at least one event type";
const NUMBERS_EXPECTED: &str = "an array of at least one number, as strings";

impl DoubleTickWebhook {
    pub(super) fn read(text: &str, is_edit: bool) -> DoubleTickResult<DoubleTickWebhook> {
        let object = RequestObject::read(text, FIELDS)?;
        let lacks = |name| object.given(name).is_none();
        let is_bare = lacks("method") && lacks("webhookEvents");
        if !is_edit && is_bare && lacks("wabaNumbers") && !lacks("events") {
            return DoubleTickWebhook::read_short(text);
        }
        let is_listed = is_edit && is_bare && !lacks("eventTypes");
        let method = if is_listed { Method::POST } else { read_method(&object)? };
        let subscription = read_url(&object)?.method(method).name(read_name(&object)?);
        let subscription = add_headers(&object, subscription)?;
        let subscription = add_query(&object, subscription)?;
        let subscription = add_body(&object, subscription)?;
        let mut subscription = add_authorization(&object, subscription)?
            .body_format(read_body_format(&object)?)
            .payload(object.word("payload")?.unwrap_or_default())
            .profile(Profile::DoubleTick);
        subscription.policy.retry_on_timeout =
            object.value("retryOnTimeout", "true or false")?.unwrap_or(false);
        let of_events = if is_listed { "eventTypes" } else { "webhookEvents" };
        let events = texts(&object, of_events, EVENTS_EXPECTED, fields::text)?;
        let numbers = texts(&object, "wabaNumbers", NUMBERS_EXPECTED, fields::plain_text)?;
        Ok(DoubleTickWebhook { subscription, events, numbers, is_edit, is_listed })
    }

    /// The short form: what it lacks has the defaults of the host's own registration.
    fn read_short(text: &str) -> DoubleTickResult<DoubleTickWebhook> {
        let object = RequestObject::read(text, SHORT_FIELDS)?;
        let mut subscription = read_url(&object)?.profile(Profile::DoubleTick);
        subscription.policy.retry_on_timeout = false;
        if object.given("name").is_some() {
            subscription.name = read_name(&object)?;
        }
        let events = texts(&object, "events", EVENTS_EXPECTED, fields::text)?;
        let number = object.given("wabaNumber");
        let number = number.ok_or_else(|| object.missing("wabaNumber", "a number"))?;
        let numbers = vec![fields::plain_text("wabaNumber", number, "a number")?];
        Ok(DoubleTickWebhook { subscription, events, numbers, is_edit: false, is_listed: false })
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
) -> DoubleTickResult<Subscription> {
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
) -> DoubleTickResult<Subscription> {
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
) -> DoubleTickResult<Subscription> {
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
) -> DoubleTickResult<Option<RequestObject<'a>>> {
    let Some(extras) = object.inner(name, prefix)? else { return Ok(None) };
    let given = extras.pairs().count();
    if given > EXTRAS_MAX {
        let message = format!("{name}: {given} of them; expected at most {EXTRAS_MAX}");
        return Err(DoubleTickError::unprocessable(message));
    }
    Ok(Some(extras))
}

/// Without a type or a payload there is no authorization: clients that always send the object leave them
/// out, or empty.
fn add_authorization(
    object: &RequestObject<'_>,
    subscription: Subscription,
) -> DoubleTickResult<Subscription> {
    if object.given("authorization").is_some_and(|raw| raw.get() == "\"\"") {
        return Ok(subscription);
    }
    let inner = object.inner("authorization", "authorization.")?;
    let Some(inner) = inner else { return Ok(subscription) };
    inner.log_unknown(&["type", "payload"]);
    let kinds = "one of BASIC, BEARER";
    let part = |name, expected| {
        let text = inner.text(name, expected)?;
        Ok::<_, Problem>(text.filter(|text| !text.is_empty()))
    };
    let (kind, payload) = (part("type", kinds)?, part("payload", "a string")?);
    let (Some(kind), Some(payload)) = (kind, payload) else { return Ok(subscription) };
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

/// A non-empty array of texts, each read by a function of `fields`.
fn texts(
    object: &RequestObject<'_>,
    name: &str,
    expected: &str,
    read: fn(&str, &RawValue, &str) -> Result<String, Problem>,
) -> Result<Vec<String>, Problem> {
    let items: Vec<&RawValue> = object.required_value(name, expected)?;
    if items.is_empty() {
        return Err(Problem::at(name, format!("found an empty array; expected {expected}")));
    }
    let each = items.into_iter().enumerate();
    each.map(|(place, raw)| read(&format!("{name}[{place}]"), raw, "a string")).collect()
}

fn unlisted(field: &str, expected: &str) -> Problem {
    Problem::at(field, format!("found another text; expected {expected}"))
}

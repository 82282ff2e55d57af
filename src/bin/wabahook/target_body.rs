//! Decides how it is read where and how the requests of a subscription go: method, headers, query,
//! body, authorization, body format and TLS.
//!
//! Leaves to others: whether the values are acceptable (`Engine::register`) and what a request is made
//! of them (`wabahook`). Invariant (I9): no message repeats a value, because any may be a credential.

use axum::http::Method;
use serde_json::value::RawValue;
use wabahook::registration::fields::{self, Object};
use wabahook::{Authorization, BodyFormat, Subscription, Target, Tls};

use crate::refusal::Refusal;
use crate::terms_body::read_word;

/// The fields of a subscription that say where and how, beside its URL.
pub(crate) const FIELDS: &[&str] =
    &["method", "headers", "query", "body", "authorization", "body_format", "tls"];
const METHODS: [(&str, Method); 6] = [
    ("GET", Method::GET),
    ("POST", Method::POST),
    ("PUT", Method::PUT),
    ("DELETE", Method::DELETE),
    ("PATCH", Method::PATCH),
    ("HEAD", Method::HEAD),
];

/// Adds what is given to a subscription, and what is not given as it stands in `before`.
pub(crate) fn read(
    given: &Object<'_>,
    before: Option<&Target>,
    mut subscription: Subscription,
) -> Result<Subscription, Refusal> {
    let kept = |field: &str| before.filter(|_| given.raw(field).is_none());
    let method = match kept("method") {
        Some(before) => Some(before.method().clone()),
        None => read_word(given, "method", "GET, POST, PUT, DELETE, PATCH or HEAD", &METHODS)?,
    };
    let headers = match kept("headers") {
        Some(before) => before.headers().to_vec(),
        None => pairs(given, "headers", "headers.", text_of)?,
    };
    let query = match kept("query") {
        Some(before) => before.query().to_vec(),
        None => pairs(given, "query", "query.", plain_text_of)?,
    };
    let body = match kept("body") {
        Some(before) => before.body().to_vec(),
        None => pairs(given, "body", "body.", |_, raw| Ok(raw.get().to_owned()))?,
    };
    let authorization = match kept("authorization") {
        Some(before) => before.authorization().cloned(),
        None => read_authorization(given)?,
    };
    let formats = [("JSON", BodyFormat::Json), ("FORM_DATA", BodyFormat::FormData)];
    let body_format = match kept("body_format") {
        Some(before) => Some(before.body_format()),
        None => read_word(given, "body_format", "\"JSON\" or \"FORM_DATA\"", &formats)?,
    };
    let tls = match kept("tls") {
        Some(before) => before.tls().cloned(),
        None => read_tls(given)?,
    };
    for (name, value) in headers {
        subscription = subscription.header(name, value);
    }
    for (name, value) in query {
        subscription = subscription.query(name, value);
    }
    for (name, value) in body {
        subscription = subscription.body(name, value);
    }
    subscription = method.into_iter().fold(subscription, Subscription::method);
    subscription = authorization.into_iter().fold(subscription, Subscription::authorization);
    subscription = body_format.into_iter().fold(subscription, Subscription::body_format);
    Ok(tls.into_iter().fold(subscription, Subscription::tls))
}

/// The names and values of an object that may be left out.
fn pairs(
    given: &Object<'_>,
    field: &str,
    prefix: &'static str,
    value_of: impl Fn(&str, &RawValue) -> Result<String, Refusal>,
) -> Result<Vec<(String, String)>, Refusal> {
    let Some(object) = given.inner(field, prefix)? else { return Ok(Vec::new()) };
    let pair = |(name, raw): (&str, &RawValue)| {
        Ok((name.to_owned(), value_of(&format!("{prefix}{name}"), raw)?))
    };
    object.pairs().map(pair).collect()
}

fn plain_text_of(field: &str, raw: &RawValue) -> Result<String, Refusal> {
    Ok(fields::plain_text(field, raw, "a string, a number or a boolean")?)
}

fn text_of(field: &str, raw: &RawValue) -> Result<String, Refusal> {
    Ok(fields::text(field, raw, "a string")?)
}

fn read_authorization(given: &Object<'_>) -> Result<Option<Authorization>, Refusal> {
    let Some(inner) = given.inner("authorization", "authorization.")? else { return Ok(None) };
    inner.check_names(&["type", "payload"])?;
    let types = "\"BASIC\" or \"BEARER\"";
    let kind = inner.required_text("type", types)?;
    let payload = inner.required_text("payload", "the credentials as a string")?;
    match kind.as_str() {
        "BASIC" => Ok(Some(Authorization::basic(payload))),
        "BEARER" => Ok(Some(Authorization::bearer(payload))),
        _ => {
            let problem = format!("found another string; expected {types}");
            Err(Refusal::invalid("authorization.type", problem))
        }
    }
}

fn read_tls(given: &Object<'_>) -> Result<Option<Tls>, Refusal> {
    let Some(inner) = given.inner("tls", "tls.")? else { return Ok(None) };
    inner.check_names(&["roots_pem", "client_certificate_pem", "client_key_pem"])?;
    let pem = "a string of PEM";
    let mut tls = Tls::default();
    if let Some(roots) = inner.text("roots_pem", pem)? {
        tls = tls.roots(roots);
    }
    let certificate = inner.text("client_certificate_pem", pem)?;
    let key = inner.text("client_key_pem", pem)?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => tls = tls.client(certificate, key),
        (None, None) => {}
        (Some(_), None) => {
            return Err(inner.missing("client_key_pem", "the certificate's key").into());
        }
        (None, Some(_)) => {
            let expected = "the certificate of the key";
            return Err(inner.missing("client_certificate_pem", expected).into());
        }
    }
    Ok(Some(tls).filter(|tls| *tls != Tls::default()))
}

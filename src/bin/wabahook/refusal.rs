//! Decides how the host's own routes say no: status, code, message and field.
//!
//! Leaves to others: finding what is wrong. Invariant (I9): a message never holds a secret, a
//! payload or a path of this machine.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use wabahook::Error;
use wabahook::registration::Registration;
use wabahook::registration::fields::Problem;

/// A request that is not honoured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    field: Option<String>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        match problem.field {
            Some(field) => Refusal::invalid(&field, problem.message),
            None => Refusal::new(StatusCode::BAD_REQUEST, "invalid", problem.message),
        }
    }
}

#[derive(Serialize)]
struct Shape<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Refusal { status, code, message: message.into(), field: None }
    }

    /// A field is not acceptable; the message names it too, for whoever reads only that.
    pub(crate) fn invalid(field: &str, problem: impl std::fmt::Display) -> Refusal {
        let message = format!("{field}: {problem}");
        Refusal::new(StatusCode::BAD_REQUEST, "invalid", message).field(field)
    }

    pub(crate) fn not_found(what: &str, given: impl std::fmt::Display) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} {given}"))
    }

    pub(crate) fn unauthorized(message: &str) -> Refusal {
        Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(crate) fn busy(message: &str) -> Refusal {
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
    }

    pub(crate) fn too_large(limit: usize) -> Refusal {
        let message = format!("the request body is over the limit of {limit} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).field("body")
    }

    pub(crate) fn field(mut self, field: impl Into<String>) -> Refusal {
        self.field = Some(field.into());
        self
    }

    /// Names the line of the request body, counted from 1.
    pub(crate) fn on_line(mut self, line: usize) -> Refusal {
        self.message = format!("line {line}: {}", self.message);
        self
    }

    /// The same in the shape of the gateway that a request is meant for.
    pub(crate) fn of_gateway(&self, path: &str, headers: &HeaderMap) -> Response {
        let refusal = Registration::refusal(path, headers, self.status, &self.message);
        self.with_return(refusal.map(Body::from))
    }

    /// Whoever is sent away because there is too much at once is told when to come again.
    fn with_return(&self, mut response: Response) -> Response {
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// What an error of the engine means for a caller of the host.
    pub(crate) fn from_error(error: Error) -> Refusal {
        let message = match &error {
            // How many there are is left out: the limit is for the subscriptions of all accounts (I9).
            Error::TooLarge { field, limit, .. } if field == "subscriptions" => {
                format!("subscriptions: over the limit of {limit}")
            }
            _ => error.to_string(),
        };
        let field = error.field().map(str::to_owned);
        let (status, code) = match error {
            Error::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid"),
            Error::Forbidden { .. } => (StatusCode::FORBIDDEN, "forbidden"),
            Error::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            Error::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Error::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            Error::NameTaken { .. } => (StatusCode::CONFLICT, "name_taken"),
            Error::Unknown { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unknown"),
            Error::Refused { .. } => (StatusCode::SERVICE_UNAVAILABLE, "refused"),
            Error::Closed => (StatusCode::SERVICE_UNAVAILABLE, "closed"),
            Error::Poisoned { .. } => (StatusCode::SERVICE_UNAVAILABLE, "poisoned"),
            _ => {
                // Its text may name paths of this machine, so it goes to the operator alone.
                tracing::error!("{message}");
                let message = "the store failed; the host's log says how";
                return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "store", message);
            }
        };
        Refusal { status, code, message, field }
    }

    /// As [`from_error`](Refusal::from_error), for a page that begins after something that is gone.
    pub(crate) fn from_page_error(error: Error) -> Refusal {
        match error {
            Error::NotFound { .. } => {
                Refusal::invalid("cursor", "what it names is gone; begin again without it")
            }
            other => Refusal::from_error(other),
        }
    }

    /// As [`from_error`](Refusal::from_error), for events that came one a line: an error that names
    /// `events[3].number` is told as the field `number` on the line of the fourth event.
    pub(crate) fn from_batch_error(error: Error, lines: &[usize]) -> Refusal {
        let mut refusal = Refusal::from_error(error);
        let named = refusal.field.as_deref().and_then(place_and_field);
        let Some((place, field)) = named.map(|(place, field)| (place, field.to_owned())) else {
            return refusal;
        };
        let Some(line) = lines.get(place) else { return refusal };
        let outer = format!("events[{place}].{field}");
        refusal.message = refusal.message.replacen(&outer, &field, 1);
        refusal.field(field).on_line(*line)
    }
}

/// `events[3].number` is the place 3 and the field `number`.
fn place_and_field(field: &str) -> Option<(usize, &str)> {
    let (place, field) = field.strip_prefix("events[")?.split_once("].")?;
    Some((place.parse().ok()?, field))
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::from_error(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let field = self.field.as_deref();
        let error = Inner { code: self.code, message: &self.message, field };
        let mut response = self.with_return(json(self.status, &Shape { error }));
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        // Our shapes hold numbers, texts and maps with text keys: all of them have a JSON form.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wabahook::Event;

    fn invalid(field: &str) -> Error {
        Error::Invalid { field: field.into(), given: "91x".into(), expected: "digits".into() }
    }

    fn check(error: Error, status: u16, code: &str, field: Option<&str>) {
        let refusal = Refusal::from_error(error);
        assert_eq!(refusal.status.as_u16(), status);
        assert_eq!((refusal.code, refusal.field.as_deref()), (code, field));
    }

    #[test]
    fn each_error_of_the_engine_has_its_status_and_code() {
        let events = vec![Event::new("T", "{}")];
        let too_large = Error::TooLarge { field: "payload".into(), given: 2, limit: 1 };
        check(invalid("type"), 400, "invalid", Some("type"));
        check(
            Error::Forbidden { field: "number".into(), given: "1".into() },
            403,
            "forbidden",
            Some("number"),
        );
        check(Error::Busy { events, reason: "full".into() }, 429, "busy", None);
        check(too_large, 413, "too_large", Some("payload"));
        check(Error::NotFound { what: "subscription", given: "1".into() }, 404, "not_found", None);
        check(Error::NameTaken { name: "crm".into() }, 409, "name_taken", Some("name"));
        check(Error::Unknown { why: "disk".into() }, 503, "unknown", None);
        check(Error::Refused { why: "full".into() }, 503, "refused", None);
        check(Error::Closed, 503, "closed", None);
        check(Error::Poisoned { why: "panic".into() }, 503, "poisoned", None);
        let source = std::sync::Arc::new(std::io::Error::other("full"));
        let path = "/private/path".into();
        check(Error::Directory { path, doing: "writing", source }, 500, "store", None);
    }

    #[test]
    fn no_account_is_told_how_many_subscriptions_all_of_them_have() {
        let error = Error::TooLarge { field: "subscriptions".into(), given: 77, limit: 5 };
        let refusal = Refusal::from_error(error);
        assert_eq!(refusal.message, "subscriptions: over the limit of 5");
        let error = Error::TooLarge { field: "payload".into(), given: 77, limit: 5 };
        assert!(Refusal::from_error(error).message.contains("77"));
    }

    #[test]
    fn an_event_of_a_batch_is_named_by_its_line() {
        let refusal = Refusal::from_batch_error(invalid("events[1].number"), &[1, 5]);
        assert_eq!(refusal.field.as_deref(), Some("number"));
        assert!(refusal.message.starts_with("line 5: number: "), "{}", refusal.message);
        let other = Refusal::from_batch_error(invalid("account"), &[1, 5]);
        assert_eq!(other, Refusal::from_error(invalid("account")));
    }

    #[test]
    fn busy_says_when_to_come_back() {
        let response = Refusal::busy("full").into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let other = Refusal::not_found("route", "/x").into_response();
        assert!(!other.headers().contains_key(header::RETRY_AFTER));
    }
}

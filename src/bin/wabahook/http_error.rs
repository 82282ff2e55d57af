//! How the host's own routes refuse a request: status, code, message and field. A message never has a
//! secret, a payload or a path of this machine (I9).

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use wabahook::registration::Registration;
use wabahook::{Error, PublishError};

use crate::json::{ErrorDetailJson, ErrorJson, JsonProblem};
use crate::response::json;

/// What a route answers.
pub(crate) type RouteResult = Result<Response, HttpError>;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpError {
    status: StatusCode,
    code: &'static str,
    message: String,
    field: Option<String>,
    /// When the same request may succeed.
    retry_after: Option<Duration>,
    /// Whether events were given back for want of room in the host.
    is_of_host: bool,
}

/// The code of a refusal because another host serves what the request is about.
pub(crate) const NOT_OWNER: &str = "not_owner";

/// An extension of such a response.
#[derive(Clone)]
pub(crate) struct HostBusy;

impl From<JsonProblem> for HttpError {
    fn from(problem: JsonProblem) -> HttpError {
        let JsonProblem { field, message } = problem;
        HttpError { field, ..HttpError::new(StatusCode::BAD_REQUEST, "invalid", message) }
    }
}

impl HttpError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let (field, retry_after, is_of_host) = (None, None, false);
        HttpError { status, code, message: message.into(), field, retry_after, is_of_host }
    }

    /// A field is not acceptable. The message names it too.
    pub(crate) fn invalid(field: &str, problem: impl std::fmt::Display) -> HttpError {
        let message = format!("{field}: {problem}");
        HttpError::new(StatusCode::BAD_REQUEST, "invalid", message).field(field)
    }

    pub(crate) fn not_found(what: &str, given: impl std::fmt::Display) -> HttpError {
        HttpError::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} {given}"))
    }

    pub(crate) fn unauthorized(message: &str) -> HttpError {
        HttpError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(crate) fn forbidden(message: &str) -> HttpError {
        HttpError::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn is_unauthorized(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    pub(crate) fn busy(message: &str) -> HttpError {
        HttpError::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
    }

    /// Marks a refusal of events for lack of room, which `/healthz` reports.
    pub(crate) fn of_host(self) -> HttpError {
        HttpError { is_of_host: true, ..self }
    }

    pub(crate) fn too_large(limit: usize) -> HttpError {
        let message = format!("the request body is over the limit of {limit} bytes");
        HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).field("body")
    }

    pub(crate) fn field(mut self, field: impl Into<String>) -> HttpError {
        self.field = Some(field.into());
        self
    }

    /// Names the line of the request body, counted from 1.
    pub(crate) fn on_line(mut self, line: usize) -> HttpError {
        self.message = format!("line {line}: {}", self.message);
        self
    }

    /// The same in the shape of the gateway whose route was called.
    pub(crate) fn of_gateway(
        &self,
        registration: &Registration,
        path: &str,
        headers: &HeaderMap,
    ) -> Response {
        let response = registration.error_response(path, headers, self.status, &self.message);
        self.with_retry_after(response.map(Body::from))
    }

    /// The account reached one of its limits; `retry_after` is `None` if waiting does not help.
    pub(crate) fn limit_reached(
        limit: &str,
        message: String,
        retry_after: Option<Duration>,
    ) -> Self {
        let status = match retry_after {
            Some(_) => StatusCode::TOO_MANY_REQUESTS,
            None => StatusCode::CONFLICT,
        };
        let error = HttpError::new(status, "limit_reached", message).field(limit);
        HttpError { retry_after, ..error }
    }

    /// 429 says when to try again, and so does a host that does not own the store or the shard.
    fn with_retry_after(&self, mut response: Response) -> Response {
        if self.status == StatusCode::TOO_MANY_REQUESTS || self.code == NOT_OWNER {
            let wait = self.retry_after.unwrap_or(Duration::from_secs(1));
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.max(1).into());
        }
        response
    }

    /// The answer for an error of the engine, for a page whose cursor may name something that is gone.
    pub(crate) fn from_page_error(error: Error) -> HttpError {
        match error {
            Error::NotFound { .. } => HttpError::gone_cursor(),
            other => HttpError::from(other),
        }
    }

    /// The item that a cursor names is no longer in the list.
    pub(crate) fn gone_cursor() -> HttpError {
        HttpError::invalid("cursor", "its place in the listing is gone; begin again without it")
    }

    /// The answer for an error of the engine, for events on lines: an error of `events[3].number`
    /// becomes one of the field `number` on the line of the fourth event.
    pub(crate) fn from_batch_error(error: Error, lines: &[usize]) -> HttpError {
        let mut error = HttpError::from(error);
        let named = error.field.as_deref().and_then(index_and_field);
        let Some((index, field)) = named.map(|(index, field)| (index, field.to_owned())) else {
            return error;
        };
        let Some(line) = lines.get(index) else { return error };
        let outer = format!("events[{index}].{field}");
        error.message = error.message.replacen(&outer, &field, 1);
        error.field(field).on_line(*line)
    }
}

/// `events[3].number` is the index 3 and the field `number`.
fn index_and_field(field: &str) -> Option<(usize, &str)> {
    let (index, field) = field.strip_prefix("events[")?.split_once("].")?;
    Some((index.parse().ok()?, field))
}

impl From<PublishError> for HttpError {
    fn from(refused: PublishError) -> HttpError {
        HttpError::from(refused.error)
    }
}

/// The answer for an error of the engine.
impl From<Error> for HttpError {
    fn from(error: Error) -> HttpError {
        let message = match &error {
            // Without the count, which is of the subscriptions of all accounts (I9).
            Error::TooLarge { field, limit, .. } if field == "subscriptions" => {
                format!("subscriptions: over the limit of {limit}")
            }
            _ => error.to_string(),
        };
        let field = error.field().map(str::to_owned);
        let (status, code) = match error {
            Error::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid"),
            Error::Forbidden { .. } => (StatusCode::FORBIDDEN, "forbidden"),
            Error::Busy { .. } => return HttpError::busy(&message).of_host(),
            Error::LimitReached { limit, retry_after, .. } => {
                return HttpError::limit_reached(limit, message, retry_after);
            }
            Error::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Error::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            Error::NameTaken { .. } => (StatusCode::CONFLICT, "name_taken"),
            Error::Unknown { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unknown"),
            Error::Refused { .. } => (StatusCode::SERVICE_UNAVAILABLE, "refused"),
            Error::NotOwner => (StatusCode::SERVICE_UNAVAILABLE, NOT_OWNER),
            Error::Closed => (StatusCode::SERVICE_UNAVAILABLE, "closed"),
            Error::Poisoned { .. } => (StatusCode::SERVICE_UNAVAILABLE, "poisoned"),
            _ => {
                // The text may name paths of this machine, so it goes to the log only.
                tracing::error!("{message}");
                let message = "the store failed; see the host's log";
                return HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "store", message);
            }
        };
        HttpError { field, ..HttpError::new(status, code, message) }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let (code, message) = (self.code.to_owned(), self.message.clone());
        let error = ErrorDetailJson { code, message, field: self.field.clone() };
        let mut response = self.with_retry_after(json(self.status, &ErrorJson { error }));
        if self.is_of_host {
            response.extensions_mut().insert(HostBusy);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid(field: &str) -> Error {
        Error::Invalid { field: field.into(), given: "91x".into(), expected: "digits".into() }
    }

    fn check(error: Error, status: u16, code: &str, field: Option<&str>) {
        let refusal = HttpError::from(error);
        assert_eq!(refusal.status.as_u16(), status);
        assert_eq!((refusal.code, refusal.field.as_deref()), (code, field));
    }

    #[test]
    fn each_error_of_the_engine_has_its_status_and_code() {
        let too_large = Error::TooLarge { field: "payload".into(), given: 2, limit: 1 };
        check(invalid("type"), 400, "invalid", Some("type"));
        check(
            Error::Forbidden { field: "number".into(), given: "1".into() },
            403,
            "forbidden",
            Some("number"),
        );
        check(Error::Busy { reason: "full".into() }, 429, "busy", None);
        check(too_large, 413, "too_large", Some("payload"));
        check(Error::NotFound { what: "subscription", given: "1".into() }, 404, "not_found", None);
        check(Error::NameTaken { name: "crm".into() }, 409, "name_taken", Some("name"));
        check(Error::Unknown { why: "disk".into() }, 503, "unknown", None);
        check(Error::Refused { why: "full".into() }, 503, "refused", None);
        check(Error::Closed, 503, "closed", None);
        check(Error::NotOwner, 503, "not_owner", None);
        check(Error::Poisoned { why: "panic".into() }, 503, "poisoned", None);
        let source = std::sync::Arc::new(std::io::Error::other("full"));
        let path = "/private/path".into();
        check(Error::Directory { path, doing: "writing", source }, 500, "store", None);
    }

    #[test]
    fn the_count_of_all_subscriptions_is_not_told() {
        let error = Error::TooLarge { field: "subscriptions".into(), given: 77, limit: 5 };
        let refusal = HttpError::from(error);
        assert_eq!(refusal.message, "subscriptions: over the limit of 5");
        let error = Error::TooLarge { field: "payload".into(), given: 77, limit: 5 };
        assert!(HttpError::from(error).message.contains("77"));
    }

    #[test]
    fn an_event_of_a_batch_is_named_by_its_line() {
        let refusal = HttpError::from_batch_error(invalid("events[1].number"), &[1, 5]);
        assert_eq!(refusal.field.as_deref(), Some("number"));
        assert!(refusal.message.starts_with("line 5: number: "), "{}", refusal.message);
        let other = HttpError::from_batch_error(invalid("account"), &[1, 5]);
        assert_eq!(other, HttpError::from(invalid("account")));
    }

    #[test]
    fn a_limit_of_the_account_is_named_with_its_figures() {
        let error =
            |limit, retry_after| Error::LimitReached { limit, used: 5, allowed: 5, retry_after };
        let wait = Some(Duration::from_millis(2_100));
        check(error("owed_events_max", wait), 429, "limit_reached", Some("owed_events_max"));
        check(error("subscriptions_max", None), 409, "limit_reached", Some("subscriptions_max"));
        let refusal = HttpError::from(error("owed_events_max", wait));
        assert!(refusal.message.contains("uses 5 of 5"), "{}", refusal.message);
        assert_eq!(refusal.into_response().headers()[header::RETRY_AFTER], "3");
    }

    #[test]
    fn busy_says_when_to_come_back() {
        let response = HttpError::busy("full").into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let other = HttpError::not_found("route", "/x").into_response();
        assert!(!other.headers().contains_key(header::RETRY_AFTER));
    }
}

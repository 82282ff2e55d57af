//! Errors in the session gateway's envelope. Their texts name fields, never values or paths of this machine
//! (I9).

use http::{Method, Response, StatusCode};
use serde::Serialize;

use crate::error::Error;
use crate::registration::fields::Problem;
use crate::registration::gateway_http::{json_response, with_allow};

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct SessionError {
    status: StatusCode,
    error: String,
    /// The methods of the route, where the request used another.
    allowed: &'static [Method],
}

#[derive(Serialize)]
struct ErrorEnvelope<'a> {
    status: bool,
    code: u16,
    message: &'a str,
    error: &'a str,
}

impl SessionError {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> SessionError {
        SessionError { status, error: error.into(), allowed: &[] }
    }

    pub(super) fn missing() -> SessionError {
        SessionError::new(StatusCode::NOT_FOUND, "Webhook not found")
    }

    pub(super) fn failed() -> SessionError {
        SessionError::new(StatusCode::INTERNAL_SERVER_ERROR, "Failed to keep the webhook")
    }

    pub(super) fn method(allowed: &'static [Method]) -> SessionError {
        let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        let error = format!("Expected one of {}", names.join(", "));
        SessionError { allowed, ..SessionError::new(StatusCode::METHOD_NOT_ALLOWED, error) }
    }

    pub(super) fn response(&self) -> Response<Vec<u8>> {
        let message = message(self.status);
        let (code, error) = (self.status.as_u16(), self.error.as_str());
        let envelope = ErrorEnvelope { status: false, code, message, error };
        let response = json_response(self.status, &envelope);
        match self.allowed {
            [] => response,
            allowed => with_allow(response, allowed),
        }
    }
}

/// The gateway's message for a status.
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

impl From<Problem> for SessionError {
    fn from(problem: Problem) -> SessionError {
        SessionError::new(StatusCode::BAD_REQUEST, problem.to_string())
    }
}

impl From<Error> for SessionError {
    fn from(error: Error) -> SessionError {
        let status = match error {
            Error::Invalid { .. } | Error::LimitReached { .. } => StatusCode::BAD_REQUEST,
            // The count is left out, because the limit covers the webhooks of all accounts (I9).
            Error::TooLarge { field, limit, .. } => {
                let error = format!("{field}: over the limit of {limit}");
                return SessionError::new(StatusCode::BAD_REQUEST, error);
            }
            Error::Forbidden { .. } => StatusCode::FORBIDDEN,
            Error::NotFound { .. } => return SessionError::missing(),
            Error::Unknown { .. }
            | Error::Refused { .. }
            | Error::NotOwner
            | Error::Closed
            | Error::Poisoned { .. } => StatusCode::SERVICE_UNAVAILABLE,
            // The text of other errors may name paths of this machine.
            _ => return SessionError::failed(),
        };
        SessionError::new(status, error.to_string())
    }
}

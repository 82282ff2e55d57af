//! Errors in DoubleTick's documented shape. Their texts name fields, never values or paths of this
//! machine (I9).

use http::{Response, StatusCode};
use serde_json::json;

use crate::error::Error;
use crate::registration::fields::Problem;
use crate::registration::gateway_http::json_response;

pub(super) type DoubleTickResult<T> = Result<T, DoubleTickError>;

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct DoubleTickError {
    status: StatusCode,
    message: String,
}

impl DoubleTickError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> DoubleTickError {
        DoubleTickError { status, message: message.into() }
    }

    /// A well-formed body that policy does not allow.
    pub(super) fn unprocessable(message: impl Into<String>) -> DoubleTickError {
        DoubleTickError::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    pub(super) fn response(&self) -> Response<Vec<u8>> {
        let body = json!({
            "message": self.message,
            "error": self.status.canonical_reason(),
            "statusCode": self.status.as_u16(),
        });
        json_response(self.status, &body)
    }
}

impl From<Problem> for DoubleTickError {
    fn from(problem: Problem) -> DoubleTickError {
        DoubleTickError::new(StatusCode::BAD_REQUEST, problem.to_string())
    }
}

impl From<Error> for DoubleTickError {
    /// A malformed body is refused before the engine is called, so the engine refuses by policy only.
    fn from(error: Error) -> DoubleTickError {
        match error {
            Error::NameTaken { .. } => {
                let message = "name: taken by another webhook of this account; expected a name \
                               that is not in use";
                DoubleTickError::new(StatusCode::BAD_REQUEST, message)
            }
            Error::Invalid { .. } | Error::Forbidden { .. } | Error::LimitReached { .. } => {
                DoubleTickError::unprocessable(error.to_string())
            }
            // The count is left out, because the limit covers the webhooks of all accounts (I9).
            Error::TooLarge { field, limit, .. } => {
                DoubleTickError::unprocessable(format!("{field}: over the limit of {limit}"))
            }
            // The text of other errors may name paths of this machine.
            _ => {
                let message = "webhooks cannot be changed now; check the list of webhooks before you \
                               try again";
                DoubleTickError::new(StatusCode::SERVICE_UNAVAILABLE, message)
            }
        }
    }
}

//! The registration APIs of four gateways, independent of any web framework: each request goes to the
//! gateway that its path and key header name. A response shows and changes only subscriptions of that
//! gateway and of the account whose key the request shows (I9).

mod business_api;
mod dialog360;
mod doubletick;
mod fields;
mod gateway_http;
#[cfg(test)]
mod guard_tests;
mod session;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
mod webhook_config;

use http::{HeaderMap, Method, Request, Response, StatusCode};

pub use self::dialog360::Dialog360;
use self::gateway_http::{GatewayRequest, no_route};
use crate::engine::Engine;
use crate::error::Result;

/// The registration APIs of the gateways, to be mounted in any HTTP server.
///
/// A client written for one of them only changes its base URL. `docs/gateways.md` says what works, what
/// differs and why. Responses may wait for the disk: call it where blocking is allowed.
///
/// ```
/// use wabahook::registration::Registration;
/// use wabahook::{Account, Config, Engine};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path();
/// let account = Account::new("acme").api_key("acme-key").waba("1", ["919999999999"]);
/// let engine = Engine::open(Config::new(path).account(account))?;
/// let registration = Registration::new(engine.clone());
/// let request = http::Request::get("/v2/webhooks").header("authorization", "acme-key");
/// let request = request.body(Vec::new())?;
/// assert!(Registration::serves(request.uri().path()));
/// assert_eq!(registration.respond(&request).body(), b"[]");
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Registration {
    engine: Engine,
    dialog360: Dialog360,
}

/// The longest body of a request, in bytes. A webhook with thousands of events and numbers fits. A server
/// should not read more.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

impl Registration {
    /// Registers webhooks at this engine.
    pub fn new(engine: Engine) -> Registration {
        Registration { engine, dialog360: Dialog360::default() }
    }

    /// Sets the options of 360dialog's API.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a bound that the engine cannot keep.
    pub fn dialog360(mut self, dialog360: Dialog360) -> Result<Registration> {
        dialog360.check()?;
        self.dialog360 = dialog360;
        Ok(self)
    }

    /// Whether a path belongs to one of the gateways.
    pub fn serves(path: &str) -> bool {
        Gateway::of(path, &HeaderMap::new()).is_some()
    }

    /// The response to any request: 404 for a path that belongs to no gateway, 413 for a body over
    /// [`BODY_BYTES_MAX`].
    pub fn respond<B: AsRef<[u8]>>(&self, request: &Request<B>) -> Response<Vec<u8>> {
        let request = GatewayRequest {
            engine: &self.engine,
            method: request.method(),
            path: request.uri().path(),
            query: request.uri().query(),
            headers: request.headers(),
            body: request.body().as_ref(),
        };
        match Gateway::of(request.path, request.headers) {
            None => no_route(request.path),
            Some(gateway) if request.body.len() > BODY_BYTES_MAX => {
                let message = format!("the body is over the limit of {BODY_BYTES_MAX} bytes");
                gateway.error_response(StatusCode::PAYLOAD_TOO_LARGE, &message)
            }
            Some(gateway) => gateway.respond(&request, &self.dialog360),
        }
    }

    /// The error response to a request that the server itself refuses, in the shape of its gateway: a
    /// body that is too large, or too many requests at once.
    ///
    /// ```
    /// use http::{HeaderMap, StatusCode};
    /// use wabahook::registration::Registration;
    /// let status = StatusCode::TOO_MANY_REQUESTS;
    /// let response = Registration::error_response("/webhooks", &HeaderMap::new(), status, "later");
    /// assert_eq!(response.status(), status);
    /// let body = br#"{"status":false,"code":429,"message":"Too many requests","error":"later"}"#;
    /// assert_eq!(response.body(), body);
    /// ```
    pub fn error_response(
        path: &str,
        headers: &HeaderMap,
        status: StatusCode,
        message: &str,
    ) -> Response<Vec<u8>> {
        match Gateway::of(path, headers) {
            None => no_route(path),
            Some(gateway) => gateway.error_response(status, message),
        }
    }

    /// Whether the response waits for a receiver, up to the timeout of an attempt. A server may want to
    /// bound the number of such requests in progress.
    pub fn waits_for_receiver(method: &Method, path: &str) -> bool {
        session::is_test(method, path)
    }

    /// The paths of all gateways, with parameters in braces, for a server that mounts them one by one and
    /// for API descriptions.
    pub const PATHS: &[&str] = &[
        "/v2/webhook/register",
        "/v2/webhook/deregister",
        "/v2/webhook/{webhookId}",
        "/v2/webhooks",
        "/v1/configs/webhook",
        "/waba_webhook",
        "/multi_webhook",
        "/multi_webhook/{dest_name}",
        "/webhooks",
        "/webhooks/{id}",
        "/webhooks/{id}/logs",
        "/webhooks/{id}/test",
    ];
}

/// The gateways whose APIs are served.
enum Gateway {
    DoubleTick,
    BusinessApi,
    Dialog360,
    Session,
}

impl Gateway {
    /// The gateway of a path. Where two share a path, the header with the key decides.
    fn of(path: &str, headers: &HeaderMap) -> Option<Gateway> {
        match path {
            path if doubletick::serves(path) => Some(Gateway::DoubleTick),
            path if business_api::serves(path) && !headers.contains_key(dialog360::KEY) => {
                Some(Gateway::BusinessApi)
            }
            path if business_api::serves(path) || dialog360::serves(path) => {
                Some(Gateway::Dialog360)
            }
            path if session::serves(path) => Some(Gateway::Session),
            _ => None,
        }
    }

    fn respond(&self, request: &GatewayRequest<'_>, dialog360: &Dialog360) -> Response<Vec<u8>> {
        match self {
            Gateway::DoubleTick => doubletick::respond(request),
            Gateway::BusinessApi => business_api::respond(request),
            Gateway::Dialog360 => dialog360::respond(request, dialog360),
            Gateway::Session => session::respond(request),
        }
    }

    /// An error in the gateway's shape.
    fn error_response(&self, status: StatusCode, message: &str) -> Response<Vec<u8>> {
        match self {
            Gateway::DoubleTick => doubletick::error_response(status, message),
            Gateway::BusinessApi | Gateway::Dialog360 => {
                webhook_config::error_response(status, message)
            }
            Gateway::Session => session::error_response(status, message),
        }
    }
}

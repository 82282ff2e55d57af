//! The registration APIs of four gateways, independent of any web framework: each request goes to the
//! gateway that its path and key header name. A response shows and changes only subscriptions of that
//! gateway and of the account whose key the request shows (I9).
//!
//! [`Registration::respond`] is the way in. Each gateway is one module; `gateway_http`, `body` and `fields` are what
//! they share.

mod body;
mod business_api;
mod dialog360;
mod doubletick;
mod fields;
mod gateway_http;
mod path;
mod session;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
mod webhook_config;

use std::cell::RefCell;

use http::{HeaderMap, Method, Request, Response, StatusCode};

pub use self::dialog360::Dialog360;
use self::gateway_http::{GatewayRequest, log_unknown_parameters, no_route, without_body};
use self::path::normalized;
pub use self::session::SessionGateway;
use self::webhook_config::ErrorShape;
use crate::account::{AccountState, Accounts};
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
    session: SessionGateway,
}

/// The longest body of a request, in bytes, before and after decompression. A webhook with thousands of
/// events and numbers fits. A server should not read more.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

impl Registration {
    /// Registers webhooks at this engine.
    pub fn new(engine: Engine) -> Registration {
        let (dialog360, session) = (Dialog360::default(), SessionGateway::default());
        Registration { engine, dialog360, session }
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

    /// Sets the options of the session gateway's API.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an origin that no header can hold.
    pub fn session(mut self, session: SessionGateway) -> Result<Registration> {
        session.check()?;
        self.session = session;
        Ok(self)
    }

    /// Whether a path belongs to one of the gateways.
    pub fn serves(path: &str) -> bool {
        Gateway::of(&normalized(path), &HeaderMap::new()).is_some()
    }

    /// The response to any request: 404 for a path that belongs to no gateway, 413 for a body over
    /// [`BODY_BYTES_MAX`]. HEAD gets the headers of GET.
    pub fn respond<B: AsRef<[u8]>>(&self, request: &Request<B>) -> Response<Vec<u8>> {
        let (path, headers) = (normalized(request.uri().path()), request.headers());
        let Some(gateway) = Gateway::of(&path, headers) else {
            return no_route(request.uri().path());
        };
        log_unknown_parameters(request.uri().query(), gateway.parameters(&path));
        let is_head = request.method() == Method::HEAD;
        let method = if is_head { &Method::GET } else { request.method() };
        let response = match body::decoded(request.body().as_ref(), headers) {
            Err((status, message)) => gateway.error_response(status, &message),
            Ok(body) => {
                let request = GatewayRequest {
                    engine: &self.engine,
                    method,
                    path: &path,
                    given_path: request.uri().path(),
                    query: request.uri().query(),
                    headers,
                    body: &body,
                    hints: RefCell::default(),
                };
                request.with_hints(gateway.respond(&request, self))
            }
        };
        let response = match (gateway, method) {
            (Gateway::Session, &Method::OPTIONS) => self.session.preflight(response, headers),
            (Gateway::Session, _) => self.session.with_cors(response, headers),
            _ => response,
        };
        if is_head { without_body(response) } else { response }
    }

    /// The error response to a request that the server itself refuses, in the shape of its gateway: a
    /// body that is too large, or too many requests at once. A page in a browser may read it as it may read
    /// any other response.
    ///
    /// ```
    /// use http::{HeaderMap, StatusCode};
    /// use wabahook::registration::Registration;
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = wabahook::Engine::open(wabahook::Config::new(directory.path()))?;
    /// let registration = Registration::new(engine.clone());
    /// let status = StatusCode::TOO_MANY_REQUESTS;
    /// let response = registration.error_response("/webhooks", &HeaderMap::new(), status, "later");
    /// assert_eq!(response.status(), status);
    /// let body = br#"{"status":false,"code":429,"message":"Too many requests","error":"later"}"#;
    /// assert_eq!(response.body(), body);
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn error_response(
        &self,
        path: &str,
        headers: &HeaderMap,
        status: StatusCode,
        message: &str,
    ) -> Response<Vec<u8>> {
        match Gateway::of(&normalized(path), headers) {
            None => no_route(path),
            Some(gateway @ Gateway::Session) => {
                self.session.with_cors(gateway.error_response(status, message), headers)
            }
            Some(gateway) => gateway.error_response(status, message),
        }
    }

    /// The id of the account whose API key a request shows, and the name of the key, so that a server can refuse a request before it reads the
    /// body.
    pub fn identify(&self, path: &str, headers: &HeaderMap) -> Option<(String, String)> {
        Registration::identify_in(self.engine.accounts(), path, headers)
    }

    /// As [`identify`](Registration::identify), among these accounts.
    pub fn identify_in(
        accounts: &Accounts,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<(String, String)> {
        let value = headers.get(Gateway::of(&normalized(path), headers)?.key_header(headers)?)?;
        let (account, key) = accounts.identify_header(value.as_bytes())?;
        (account.state == AccountState::Active).then(|| (account.id().to_owned(), key.name))
    }

    /// Whether the response waits for a receiver, up to the timeout of an attempt. A server may want to
    /// bound the number of such requests in progress.
    pub fn waits_for_receiver(method: &Method, path: &str) -> bool {
        session::is_test(method, &normalized(path))
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
    /// The gateway of a path, also of one that it does not have: the errors there have its shape. Where two
    /// share a path, the header with the key decides.
    fn of(path: &str, headers: &HeaderMap) -> Option<Gateway> {
        match path.split('/').nth(1)? {
            "v2" => Some(Gateway::DoubleTick),
            "v1" => Some(match dialog360::key_header(headers) {
                Some(dialog360::KEY) => Gateway::Dialog360,
                Some(_) if !headers.contains_key(business_api::KEY) => Gateway::Dialog360,
                _ => Gateway::BusinessApi,
            }),
            "waba_webhook" | "multi_webhook" => Some(Gateway::Dialog360),
            "webhooks" => Some(Gateway::Session),
            _ => None,
        }
    }

    /// The query parameters of a path.
    fn parameters(&self, path: &str) -> &'static [&'static str] {
        match self {
            Gateway::DoubleTick => doubletick::parameters(path),
            Gateway::BusinessApi | Gateway::Dialog360 | Gateway::Session => &[],
        }
    }

    /// The header with the key of a request.
    fn key_header(&self, headers: &HeaderMap) -> Option<&'static str> {
        match self {
            Gateway::DoubleTick | Gateway::Session => Some("authorization"),
            Gateway::BusinessApi => Some(business_api::KEY),
            Gateway::Dialog360 => dialog360::key_header(headers),
        }
    }

    fn respond(
        &self,
        request: &GatewayRequest<'_>,
        registration: &Registration,
    ) -> Response<Vec<u8>> {
        match self {
            Gateway::DoubleTick => doubletick::respond(request),
            Gateway::BusinessApi => business_api::respond(request),
            Gateway::Dialog360 => dialog360::respond(request, &registration.dialog360),
            Gateway::Session => session::respond(request),
        }
    }

    /// An error in the gateway's shape.
    fn error_response(&self, status: StatusCode, message: &str) -> Response<Vec<u8>> {
        match self {
            Gateway::DoubleTick => doubletick::error_response(status, message),
            Gateway::BusinessApi => {
                webhook_config::error_response(status, message, ErrorShape::Meta)
            }
            Gateway::Dialog360 => {
                webhook_config::error_response(status, message, ErrorShape::Dialog360)
            }
            Gateway::Session => session::error_response(status, message),
        }
    }
}

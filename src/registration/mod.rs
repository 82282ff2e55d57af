//! Decides which gateway's API a request belongs to.
//!
//! Leaves to others: what each gateway answers (a file for each), keeping the subscriptions and
//! delivering to them (`engine`). Invariant (I9): every answer is made for the account whose key the
//! request shows, of its own subscriptions of that gateway alone; a body over the limit is read by
//! nobody.

mod answer;
mod business_api;
mod call;
mod dialog360;
mod doubletick;
pub mod fields;
#[cfg(test)]
mod guarded_tests;
mod hook;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trial;
mod webhooks;

use http::{HeaderMap, Method, Request, Response, StatusCode};

use self::call::Call;
pub use self::dialog360::Dialog360;
use crate::engine::Engine;
use crate::error::Result;

/// The registration APIs of the gateways, to be mounted in any HTTP server.
///
/// A client written for one of them only changes its base URL. What works, what differs and why is in
/// `docs/gateways.md`. Answers may wait for the device: call it where blocking is allowed.
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
/// assert_eq!(registration.answer(&request).body(), b"[]");
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Registration {
    engine: Engine,
    dialog360: Dialog360,
}

/// The longest body of a request, in bytes: a webhook with thousands of events and numbers fits. A
/// server should not read more.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

impl Registration {
    /// Registers with this engine.
    pub fn new(engine: Engine) -> Registration {
        Registration { engine, dialog360: Dialog360::default() }
    }

    /// What is configurable of 360dialog's API.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a bound that the engine could not keep.
    pub fn dialog360(mut self, dialog360: Dialog360) -> Result<Registration> {
        dialog360.check()?;
        self.dialog360 = dialog360;
        Ok(self)
    }

    /// Whether a path belongs to one of the gateways.
    pub fn serves(path: &str) -> bool {
        Gateway::of(path, &HeaderMap::new()).is_some()
    }

    /// The answer to a request, whatever it is: also to a path that no gateway has, and to a body over
    /// [`BODY_BYTES_MAX`], which is refused with 413.
    pub fn answer<B: AsRef<[u8]>>(&self, request: &Request<B>) -> Response<Vec<u8>> {
        let call = Call {
            engine: &self.engine,
            method: request.method(),
            path: request.uri().path(),
            query: request.uri().query(),
            headers: request.headers(),
            body: request.body().as_ref(),
        };
        match Gateway::of(call.path, call.headers) {
            None => answer::no_route(call.path),
            Some(gateway) if call.body.len() > BODY_BYTES_MAX => {
                let message = format!("the body is over the limit of {BODY_BYTES_MAX} bytes");
                gateway.refusal(StatusCode::PAYLOAD_TOO_LARGE, &message)
            }
            Some(gateway) => gateway.answer(&call, &self.dialog360),
        }
    }

    /// The answer to a request that the server refuses itself, in the shape of its gateway: a body that
    /// it does not take in, or more at once than it has room for.
    ///
    /// ```
    /// use http::{HeaderMap, StatusCode};
    /// use wabahook::registration::Registration;
    /// let status = StatusCode::TOO_MANY_REQUESTS;
    /// let refusal = Registration::refusal("/webhooks", &HeaderMap::new(), status, "come again");
    /// assert_eq!(refusal.status(), status);
    /// let body = br#"{"status":false,"code":429,"message":"Too many requests","error":"come again"}"#;
    /// assert_eq!(refusal.body(), body);
    /// ```
    pub fn refusal(
        path: &str,
        headers: &HeaderMap,
        status: StatusCode,
        message: &str,
    ) -> Response<Vec<u8>> {
        match Gateway::of(path, headers) {
            None => answer::no_route(path),
            Some(gateway) => gateway.refusal(status, message),
        }
    }

    /// Whether the answer waits for a receiver, for as long as an attempt may take. A server may want
    /// to bound how many such requests it has at once.
    pub fn waits_for_receiver(method: &Method, path: &str) -> bool {
        webhooks::is_test(method, path)
    }

    /// The paths that the gateways have, with names in braces for what differs. For a server that
    /// mounts them one by one, and for descriptions.
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

/// Whose API a request is meant for.
enum Gateway {
    DoubleTick,
    BusinessApi,
    Dialog360,
    Webhooks,
}

impl Gateway {
    /// By the path; where two have the same one, the header that shows the key decides.
    fn of(path: &str, headers: &HeaderMap) -> Option<Gateway> {
        match path {
            path if doubletick::serves(path) => Some(Gateway::DoubleTick),
            path if business_api::serves(path) && !headers.contains_key(dialog360::KEY) => {
                Some(Gateway::BusinessApi)
            }
            path if business_api::serves(path) || dialog360::serves(path) => {
                Some(Gateway::Dialog360)
            }
            path if webhooks::serves(path) => Some(Gateway::Webhooks),
            _ => None,
        }
    }

    fn answer(&self, call: &Call<'_>, dialog360: &Dialog360) -> Response<Vec<u8>> {
        match self {
            Gateway::DoubleTick => doubletick::answer(call),
            Gateway::BusinessApi => business_api::answer(call),
            Gateway::Dialog360 => dialog360::answer(call, dialog360),
            Gateway::Webhooks => webhooks::answer(call),
        }
    }

    /// A refusal in the gateway's shape.
    fn refusal(&self, status: StatusCode, message: &str) -> Response<Vec<u8>> {
        match self {
            Gateway::DoubleTick => doubletick::refusal(status, message),
            Gateway::BusinessApi | Gateway::Dialog360 => hook::refusal(status, message),
            Gateway::Webhooks => webhooks::refusal(status, message),
        }
    }
}

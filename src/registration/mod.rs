//! Decides which gateway's API a request belongs to.
//!
//! Leaves to others: what each gateway answers (a file for each), keeping the subscriptions and
//! delivering to them (`engine`). Invariant (I9): every answer is made for the account whose key the
//! request shows, of its own subscriptions of that gateway alone.

mod answer;
mod business_api;
mod call;
mod dialog360;
mod doubletick;
pub mod fields;
mod moment;
mod webhooks;

use http::{Request, Response};

use self::call::Call;
use crate::engine::Engine;

/// The registration APIs of the gateways, to be mounted in any HTTP server.
///
/// A client written for one of them only changes its base URL. What works, what differs and why is in
/// `docs/gateways.md`. Answers may wait for the device: call it where blocking is allowed.
///
/// ```
/// use wabahook::registration::Registration;
/// use wabahook::{Account, Accounts, Config, Engine};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path();
/// let account = Account::new("acme").api_key("acme-key").waba("1", ["919999999999"]);
/// let engine = Engine::open(Config::new(path).accounts(Accounts::new([account])?))?;
/// let registration = Registration::new(engine.clone());
/// let request = http::Request::get("/v2/webhooks").header("authorization", "acme-key");
/// let request = request.body(Vec::new())?;
/// assert!(Registration::serves(request.uri().path()));
/// let response = registration.answer(&request);
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Registration {
    engine: Engine,
}

/// The longest body of a request, in bytes: a webhook with thousands of events and numbers fits. A
/// server should not read more.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

impl Registration {
    /// Registers with this engine.
    pub fn new(engine: Engine) -> Registration {
        Registration { engine }
    }

    /// Whether a path belongs to one of the gateways.
    pub fn serves(path: &str) -> bool {
        doubletick::serves(path)
            || business_api::serves(path)
            || dialog360::serves(path)
            || webhooks::serves(path)
    }

    /// The answer to a request, whatever it is: also to a path that no gateway has.
    pub fn answer<B: AsRef<[u8]>>(&self, request: &Request<B>) -> Response<Vec<u8>> {
        let call = Call {
            engine: &self.engine,
            method: request.method(),
            path: request.uri().path(),
            query: request.uri().query(),
            headers: request.headers(),
            body: request.body().as_ref(),
        };
        match call.path {
            path if doubletick::serves(path) => doubletick::answer(&call),
            // One path for two gateways: the header that shows the key decides.
            path if business_api::serves(path) && !call.headers.contains_key(dialog360::KEY) => {
                business_api::answer(&call)
            }
            path if business_api::serves(path) || dialog360::serves(path) => {
                dialog360::answer(&call)
            }
            path if webhooks::serves(path) => webhooks::answer(&call),
            path => answer::no_route(path),
        }
    }
}

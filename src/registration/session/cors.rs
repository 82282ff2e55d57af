//! The options of the session gateway's API, and the headers by which browsers let pages of other origins
//! call it. They are those of the gateway's own source, which allows every origin by default. Its key is in a
//! header and never in a cookie, so a page can only call it with a key that it has.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::error::{Error, Result};

/// The options of the session gateway's API.
///
/// ```
/// use wabahook::registration::{Registration, SessionGateway};
/// use wabahook::{Config, Engine};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// let options = SessionGateway { cors_origins: vec!["https://app.example".to_owned()] };
/// let registration = Registration::new(engine.clone()).session(options)?;
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionGateway {
    /// The origins whose pages may call this API from a browser, or `*` for every origin, which is the
    /// default, as the gateway has it. Empty answers without CORS headers.
    pub cors_origins: Vec<String>,
}

impl Default for SessionGateway {
    fn default() -> SessionGateway {
        SessionGateway { cors_origins: vec![ANY.to_owned()] }
    }
}

const ANY: &str = "*";
const METHODS: HeaderValue = HeaderValue::from_static("GET,POST,PUT,PATCH,DELETE");
const HEADERS: HeaderValue =
    HeaderValue::from_static("Origin, Content-Type, Accept, Authorization");

impl SessionGateway {
    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an origin that is neither `*` nor a scheme and a host.
    pub fn check(&self) -> Result<()> {
        let is_origin = |origin: &&String| {
            let is_plain = origin.bytes().all(|byte| byte.is_ascii_graphic());
            *origin == ANY || (is_plain && origin.contains("://") && !origin.ends_with('/'))
        };
        match self.cors_origins.iter().find(|origin| !is_origin(origin)) {
            Some(other) => {
                let expected = "\"*\" or an origin such as https://app.example";
                Err(Error::invalid("session.cors_origins", other, expected))
            }
            None => Ok(()),
        }
    }

    /// The response to OPTIONS, which browsers send before they call: `response` where CORS is turned off.
    pub(in crate::registration) fn preflight(
        &self,
        response: Response<Vec<u8>>,
        headers: &HeaderMap,
    ) -> Response<Vec<u8>> {
        let is_off = self.cors_origins.is_empty();
        self.with_cors(if is_off { response } else { preflight() }, headers)
    }

    /// The response with the headers that let a page of an allowed origin read it.
    pub(in crate::registration) fn with_cors(
        &self,
        mut response: Response<Vec<u8>>,
        headers: &HeaderMap,
    ) -> Response<Vec<u8>> {
        if self.cors_origins.is_empty() {
            return response;
        }
        let answered = response.headers_mut();
        if let Some(origin) = self.allowed(headers.get(ORIGIN)) {
            answered.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        if !self.allows_any() {
            answered.append(VARY, name(ORIGIN));
        }
        let with_options =
            answered.get(ALLOW).map(|allow| [allow.as_bytes(), b", OPTIONS"].concat());
        if let Some(allow) = with_options.and_then(|allow| HeaderValue::from_bytes(&allow).ok()) {
            answered.insert(ALLOW, allow);
        }
        response
    }

    fn allows_any(&self) -> bool {
        self.cors_origins.iter().any(|origin| origin == ANY)
    }

    /// What the response allows: any origin, or the one of the request if it is listed.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        if self.allows_any() {
            return Some(HeaderValue::from_static(ANY));
        }
        let is_listed = |origin: &&HeaderValue| {
            let mut listed = self.cors_origins.iter();
            listed.any(|one| origin.as_bytes().eq_ignore_ascii_case(one.as_bytes()))
        };
        origin.filter(is_listed).cloned()
    }
}

/// The answer to a browser that asks before it calls.
fn preflight() -> Response<Vec<u8>> {
    let mut response = Response::new(Vec::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.append(VARY, name(ACCESS_CONTROL_REQUEST_METHOD));
    headers.append(VARY, name(ACCESS_CONTROL_REQUEST_HEADERS));
    response
}

fn name(header: HeaderName) -> HeaderValue {
    header.into()
}

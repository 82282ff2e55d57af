//! The HTTP that all gateways share: a request as a framework-free value, and responses with a JSON
//! body. A response names its content type and forbids caching, because it may hold a secret that is
//! shown once.

use std::cell::RefCell;
use std::sync::Arc;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::account::AccountInfo;
use crate::engine::Engine;
use crate::registration::fields::{LOGGED_MAX, shortened};

/// One request to a gateway's API.
pub(super) struct GatewayRequest<'a> {
    pub(super) engine: &'a Engine,
    /// GET where the request is HEAD.
    pub(super) method: &'a Method,
    /// With fixed words in lower case, and without a slash at the end.
    pub(super) path: &'a str,
    pub(super) given_path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    /// Decompressed, without a byte order mark.
    pub(super) body: &'a [u8],
    /// What the response says in addition about the event types of the request.
    pub(super) hints: RefCell<Vec<HeaderValue>>,
}

/// The response header with a remark on an event type, once for each.
const HINT: HeaderName = HeaderName::from_static("x-wabahook-hint");

/// The most remarks in one response, so that its head stays below what clients read.
const HINTS_MAX: usize = 16;

impl GatewayRequest<'_> {
    /// Remarks in the response on event types that nobody knows, or that no callback of Meta becomes.
    pub(super) fn note_types<'n>(&self, names: impl IntoIterator<Item = &'n String>) {
        let catalogue = self.engine.catalogue();
        let hints = names.into_iter().filter_map(|name| catalogue.subscribe_hint(name));
        let values = hints.filter_map(|hint| HeaderValue::from_str(&hint.to_string()).ok());
        self.hints.borrow_mut().extend(values.take(HINTS_MAX));
    }

    /// Adds the remarks to a response that is a success.
    pub(super) fn with_hints(&self, mut response: Response<Vec<u8>>) -> Response<Vec<u8>> {
        if response.status().is_success() {
            for hint in self.hints.take() {
                response.headers_mut().append(HINT, hint);
            }
        }
        response
    }

    /// The account whose key a header shows, with or without `Bearer` in front.
    pub(super) fn account(&self, header: &str) -> Option<Arc<AccountInfo>> {
        let value = self.headers.get(header)?.as_bytes();
        self.engine.accounts().authenticate_header(value)
    }
}

pub(super) fn json_response(status: StatusCode, body: &impl Serialize) -> Response<Vec<u8>> {
    // The bodies consist of texts and numbers, which always serialize.
    let mut response = Response::new(serde_json::to_vec(body).unwrap_or_default());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The response to a path that belongs to no gateway.
pub(super) fn no_route(path: &str) -> Response<Vec<u8>> {
    let message = format!("unknown route {path}");
    json_response(
        StatusCode::NOT_FOUND,
        &json!({"error": {"code": "not_found", "message": message}}),
    )
}

/// Names the query parameters that are not among these in the log: they are ignored.
pub(super) fn log_unknown_parameters(query: Option<&str>, known: &[&str]) {
    let pairs = query.unwrap_or_default().split('&');
    let names = pairs.map(|pair| pair.split('=').next().unwrap_or_default());
    let unknown = names.filter(|name| !name.is_empty() && !known.contains(name)).map(shortened);
    let unknown: Vec<String> = unknown.take(LOGGED_MAX).collect();
    if !unknown.is_empty() {
        tracing::debug!(parameters = %unknown.join(", "), "a request has parameters that are ignored");
    }
}

/// The response to HEAD instead of GET: the same headers, with the length of the body left out.
pub(super) fn without_body(mut response: Response<Vec<u8>>) -> Response<Vec<u8>> {
    let length = response.body().len();
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response.body_mut().clear();
    response
}

/// Adds the `Allow` header to a response with status 405. A route with GET has HEAD, too.
pub(super) fn with_allow(mut response: Response<Vec<u8>>, methods: &[Method]) -> Response<Vec<u8>> {
    let mut methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    if let Ok(methods) = HeaderValue::from_str(&methods.join(", ")) {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

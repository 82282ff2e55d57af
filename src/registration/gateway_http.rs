//! The HTTP that all gateways share: a request as a framework-free value, and responses with a JSON
//! body. A response names its content type and forbids caching, because it may hold a secret that is
//! shown once.

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::account::Account;
use crate::engine::Engine;

/// One request to a gateway's API.
pub(super) struct GatewayRequest<'a> {
    pub(super) engine: &'a Engine,
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

impl<'a> GatewayRequest<'a> {
    /// The account whose key a header shows, with or without `Bearer` in front. Keys are compared in
    /// constant time.
    pub(super) fn account(&self, header: &str) -> Option<&'a Account> {
        let value = self.headers.get(header)?.as_bytes();
        self.engine.accounts().authenticate_header(value)
    }
}

/// A response with a JSON body.
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

/// Adds the `Allow` header to a response with status 405.
pub(super) fn with_allow(mut response: Response<Vec<u8>>, methods: &[Method]) -> Response<Vec<u8>> {
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if let Ok(methods) = HeaderValue::from_str(&methods.join(", ")) {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

//! Decides how an answer of JSON is put together.
//!
//! Leaves to others: the shape of each gateway's answers. Invariant: an answer names its content type
//! and is never kept by a cache, because it may hold a secret that is shown once.

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

/// An answer of JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Vec<u8>> {
    // What is answered is made of texts and numbers, which JSON always holds.
    let mut response = Response::new(serde_json::to_vec(body).unwrap_or_default());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The answer where there is no gateway to answer in its own shape.
pub(super) fn no_route(path: &str) -> Response<Vec<u8>> {
    let message = format!("there is no route {path}");
    json(StatusCode::NOT_FOUND, &json!({"error": {"code": "not_found", "message": message}}))
}

/// A refusal of a method, with those that the path has.
pub(super) fn allowing(mut refusal: Response<Vec<u8>>, methods: &[Method]) -> Response<Vec<u8>> {
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if let Ok(methods) = HeaderValue::from_str(&methods.join(", ")) {
        refusal.headers_mut().insert(ALLOW, methods);
    }
    refusal
}

//! Decides what `GET /openapi.json` says: what every route takes and answers.
//!
//! Leaves to others: the routes. Invariant: it names every route that is mounted and no other
//! (`tests/host/described.rs`).

use axum::http::header;
use axum::response::IntoResponse;

/// Kept beside the documentation, where it can be read without a host.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// `GET /openapi.json`.
pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

//! `GET /openapi.json`: the description of every route. `tests/host` compares it with the mounted routes,
//! and a test in `json/` compares its schemas with the types there.

use axum::http::header;
use axum::response::IntoResponse;

/// In the documentation, where it can be read without a host.
const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

/// `GET /openapi.json`.
pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

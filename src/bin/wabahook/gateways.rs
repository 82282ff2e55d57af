//! Decides how the gateways' own APIs are mounted.
//!
//! Leaves to others: every answer (`wabahook::registration`). Invariant: no body is kept that is over
//! the limit, whoever sends it, and tests never take all threads.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use wabahook::registration::{BODY_BYTES_MAX, Registration};

use crate::host::{Host, off_thread};
use crate::refusal::Refusal;

/// Whatever is not one of the host's own routes.
pub(crate) async fn answer(
    State(host): State<Arc<Host>>,
    request: Request,
) -> Result<Response, Refusal> {
    if !Registration::serves(request.uri().path()) {
        return Err(Refusal::not_found("route", request.uri().path()));
    }
    let tests = request.uri().path().ends_with("/test");
    let place = tests.then(|| host.place_for_test()).transpose()?;
    let (parts, body) = request.into_parts();
    let taken = host.take(&parts.headers, body, BODY_BYTES_MAX).await?;
    let answered = off_thread(move || {
        let request = axum::http::Request::from_parts(parts, &taken.bytes);
        let answered = host.registration.answer(&request);
        drop(place);
        answered
    });
    Ok(answered.await?.map(Body::from))
}

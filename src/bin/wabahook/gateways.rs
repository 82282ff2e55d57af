//! Decides how the gateways' own APIs are mounted.
//!
//! Leaves to others: every answer (`wabahook::registration`). Invariant: no body is kept that is over
//! the limit, whoever sends it, tests never take all threads, and what the host itself refuses is
//! refused in the gateway's shape.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
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
    let (parts, body) = request.into_parts();
    let (path, headers) = (parts.uri.path().to_owned(), parts.headers.clone());
    let answered = answered(host, parts, body).await;
    Ok(answered.unwrap_or_else(|refusal| refusal.of_gateway(&path, &headers)))
}

async fn answered(host: Arc<Host>, parts: Parts, body: Body) -> Result<Response, Refusal> {
    let waits = Registration::waits_for_receiver(&parts.method, parts.uri.path());
    let place = waits.then(|| host.place_for_test()).transpose()?;
    let taken = host.take(&parts.headers, body, BODY_BYTES_MAX).await?;
    let answered = off_thread(move || {
        let request = axum::http::Request::from_parts(parts, &taken.bytes);
        let answered = host.registration.answer(&request);
        drop(place);
        answered
    });
    Ok(answered.await?.map(Body::from))
}

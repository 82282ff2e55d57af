//! The gateways' own APIs, which `wabahook::registration` answers. A body over the limit is refused
//! before its sender is authenticated, test deliveries never take all threads, and what the host itself refuses has the
//! shape of the gateway's errors.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use wabahook::registration::{BODY_BYTES_MAX, Registration};

use crate::host::{HostState, authenticated, off_thread};
use crate::http_error::HttpError;

/// Answers every path that is none of the host's own routes.
pub(crate) async fn answer(
    State(host): State<Arc<HostState>>,
    request: Request,
) -> Result<Response, HttpError> {
    if !Registration::serves(request.uri().path()) {
        return Err(HttpError::not_found("route", request.uri().path()));
    }
    let (parts, body) = request.into_parts();
    let (path, headers) = (parts.uri.path().to_owned(), parts.headers.clone());
    let response = respond(host, parts, body).await;
    Ok(response.unwrap_or_else(|error| error.of_gateway(&path, &headers)))
}

async fn respond(host: Arc<HostState>, parts: Parts, body: Body) -> Result<Response, HttpError> {
    let waits = Registration::waits_for_receiver(&parts.method, parts.uri.path());
    let permit = waits.then(|| host.test_permit()).transpose()?;
    let extensions = parts.extensions.clone();
    let body = host.read_body(&parts.headers, body, BODY_BYTES_MAX).await?;
    let response = off_thread(move || {
        let request = axum::http::Request::from_parts(parts, &body.bytes);
        let response = host.registration.respond(&request);
        drop(permit);
        response
    });
    let response = response.await?;
    // An error may come from before the key was checked.
    if response.status().is_success() {
        authenticated(&extensions);
    }
    Ok(response.map(Body::from))
}

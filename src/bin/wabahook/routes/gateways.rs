//! The gateways' own APIs, which `wabahook::registration` answers. The key is checked before the body is read,
//! test deliveries never take all threads, and what the host itself refuses has the shape of the gateway's
//! errors.

use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::http::request::Parts;
use wabahook::registration::{BODY_BYTES_MAX, Registration};

use crate::caller::Caller;
use crate::host::{HostRef, authenticated, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::port::bodies::{RequestBody, discard};
use crate::port::body_room::BodyHolder;

/// Answers every path that is not a route of the host's own.
pub(crate) async fn answer(host: HostRef, request: Request) -> RouteResult {
    if !Registration::serves(request.uri().path()) {
        return Err(HttpError::not_found("route", request.uri().path()));
    }
    let (parts, body) = request.into_parts();
    let (path, headers) = (parts.uri.path().to_owned(), parts.headers.clone());
    let response = respond(host.clone(), parts, body).await;
    Ok(response.unwrap_or_else(|error| error.of_gateway(&host.registration, &path, &headers)))
}

async fn respond(host: HostRef, parts: Parts, body: Body) -> RouteResult {
    let waits = Registration::waits_for_receiver(&parts.method, parts.uri.path());
    let extensions = parts.extensions.clone();
    let mut permit = None;
    let body = match host.registration.identify(parts.uri.path(), &parts.headers) {
        Some((account, key)) => {
            let caller = Caller::of_account(account.as_str(), key);
            authenticated(&extensions, caller.key_holder());
            permit = waits.then(|| host.shared.test_permit(&caller)).transpose()?;
            let holder = BodyHolder::Account(account);
            host.shared.bodies.read_encoded(&parts.headers, body, holder, BODY_BYTES_MAX).await?
        }
        // The preflight of a browser has no key.
        None if parts.method == Method::OPTIONS => RequestBody::empty(),
        None => {
            host.shared.refused_key(&extensions).await;
            discard(&parts.headers, body).await;
            RequestBody::empty()
        }
    };
    let response = off_thread(move || {
        let request = axum::http::Request::from_parts(parts, &body.bytes);
        let response = host.registration.respond(&request);
        drop(permit);
        response
    });
    Ok(response.await?.map(Body::from))
}

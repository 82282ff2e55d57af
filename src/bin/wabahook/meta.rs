//! Decides what Meta gets to hear: the answer to its challenge, and when a callback is taken.
//!
//! Leaves to others: the signature and the splitting (`wabahook::inbound::cloud_api`). Invariants:
//! nothing of a body is read before its signature was found right; a 200 is sent after the events
//! are on the device (I1), and anything else makes Meta send the callback again.

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use wabahook::inbound::cloud_api;

use crate::config::Meta;
use crate::host::{Host, off_thread};
use crate::refusal::Refusal;

/// Meta's callbacks end at 3 MB; the body of a sender that is not known yet needs no more room.
const CALLBACK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// `GET /meta/webhook`: Meta checks that the callback URL is ours.
pub(crate) async fn challenge(
    State(host): State<Arc<Host>>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let meta = configured(&host)?;
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(&uri);
    let Query(pairs) = pairs.map_err(|_| {
        let message = "the query is not a form; expected hub.mode, hub.verify_token, hub.challenge";
        Refusal::new(StatusCode::BAD_REQUEST, "invalid", message)
    })?;
    let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let answer = cloud_api::challenge(pairs, &meta.verify_token)
        .map_err(|refused| Refusal::new(StatusCode::FORBIDDEN, "forbidden", refused.to_string()))?;
    Ok(answer.into_response())
}

/// `POST /meta/webhook`: a signed callback.
pub(crate) async fn callback(
    State(host): State<Arc<Host>>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let meta = configured(&host)?.clone();
    let (parts, body) = request.into_parts();
    let body = host.take(&parts.headers, body, CALLBACK_BYTES_MAX).await?;
    let signature = parts.headers.get("x-hub-signature-256").map(|value| value.to_str());
    // A header that is no text is as wrong as any other wrong signature.
    let signature = signature.map(|text| text.unwrap_or_default());
    cloud_api::verify(&meta.app_secret, signature, &body.bytes)
        .map_err(|refused| Refusal::unauthorized(&refused.to_string()))?;
    let receipt = off_thread(move || {
        let callback = cloud_api::events(&body.bytes, host.engine.accounts());
        let callback = callback.map_err(|malformed| {
            Refusal::new(StatusCode::BAD_REQUEST, "invalid", malformed.to_string())
        })?;
        let receipt = match callback.events.is_empty() {
            true => None,
            false => Some(host.engine.publish_many(callback.events)?),
        };
        // Counted once the rest was taken: a callback that comes again is not counted twice.
        host.engine.count_unrouted(callback.unowned);
        Ok::<_, Refusal>(receipt)
    })
    .await??;
    if let Some(receipt) = receipt {
        receipt.await?;
    }
    Ok(StatusCode::OK)
}

fn configured(host: &Host) -> Result<&Meta, Refusal> {
    host.meta
        .as_ref()
        .ok_or_else(|| Refusal::not_found("route", "/meta/webhook: no [meta] is configured"))
}

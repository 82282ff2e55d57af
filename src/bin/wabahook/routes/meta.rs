//! Meta's callbacks: the answer to its challenge, and signed updates. The signature is checked before
//! anything of a body is parsed. A 200 is sent after the events are on the device (I1); any other answer
//! makes Meta send the callback again.

use axum::body::Body;
use axum::extract::{Query, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, StatusCode, Uri};
use axum::response::IntoResponse;
use tracing::Span;
use wabahook::CallbackRefusal;
use wabahook::inbound::cloud_api::{self, CallbackError};

use crate::blocking::note_holder;
use crate::config::MetaSettings;
use crate::host::shared::HostShared;
use crate::host::{HostRef, authenticated, off_thread, remote};
use crate::http_error::{HttpError, RouteResult};
use crate::port::bodies::{RequestBody, discard};
use crate::port::body_room::BodyHolder;
use crate::port::connections::KeyHolder;

/// The header of the signature.
pub(crate) const HUB_SIGNATURE: &str = "x-hub-signature-256";

/// The signature of a body of at most so many bytes is checked at once. A longer one is checked on a blocking thread: 4 MiB
/// take some 10 ms, and strangers send them.
const QUICK_BYTES_MAX: usize = 64 * 1024;
/// Meta sends at most 3 MB. The sender is not known until the whole body is read, so it gets no more.
const CALLBACK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// `GET /meta/webhook`: Meta's challenge, by which it verifies the callback URL.
pub(crate) async fn challenge(host: HostRef, uri: Uri, extensions: Extensions) -> RouteResult {
    let meta = configured(&host.shared)?;
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(&uri);
    let Query(pairs) = pairs.map_err(|_| {
        let message = "the query is not a form; expected hub.mode, hub.verify_token, hub.challenge";
        HttpError::new(StatusCode::BAD_REQUEST, "invalid", message)
    })?;
    let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let answer = cloud_api::challenge(pairs, &meta.verify_token).map_err(|error| {
        let (reason, why) = (CallbackRefusal::VerifyToken, error.to_string());
        let count = || host.engine.count_refused_callbacks(reason, 1, &why);
        callback_span(&extensions).in_scope(count);
        HttpError::new(StatusCode::FORBIDDEN, "forbidden", why)
    })?;
    Ok(answer.into_response())
}

/// `POST /meta/webhook`: a signed callback.
pub(crate) async fn callback(host: HostRef, request: Request) -> Result<StatusCode, HttpError> {
    let (parts, body) = request.into_parts();
    let count = |reason, why: &str| host.engine.count_refused_callbacks(reason, 1, why);
    let (_, body) = verified_callback(&host.shared, &parts, body, count).await?;
    let span = callback_span(&parts.extensions);
    let publish = move || span.in_scope(|| cloud_api::publish(&host.engine, &body.bytes));
    let published = off_thread(publish).await?;
    let receipt = published.map_err(|error| match error {
        CallbackError::Malformed(malformed) => {
            HttpError::new(StatusCode::BAD_REQUEST, "invalid", malformed.to_string())
        }
        CallbackError::Publish(error) => error.into(),
        other => HttpError::new(StatusCode::BAD_REQUEST, "invalid", other.to_string()),
    })?;
    if let Some(receipt) = receipt {
        receipt.await?;
    }
    Ok(StatusCode::OK)
}

/// Reads a callback and checks its signature. Returns Meta's secrets with the body; `count` counts a refusal.
pub(crate) async fn verified_callback(
    shared: &HostShared,
    parts: &Parts,
    body: Body,
    count: impl FnOnce(CallbackRefusal, &str),
) -> Result<(MetaSettings, RequestBody), HttpError> {
    let meta = configured(shared)?;
    let signature = parts.headers.get(HUB_SIGNATURE).map(|value| value.to_str());
    // A header that is not text is a wrong signature like any other.
    let signature = signature.map(|text| text.unwrap_or_default());
    let address = remote(&parts.extensions);
    let body = if signature.is_some() {
        let holder = BodyHolder::stranger(address);
        shared.bodies.read(&parts.headers, body, holder, CALLBACK_BYTES_MAX).await?
    } else {
        discard(&parts.headers, body).await;
        RequestBody::empty()
    };
    let signature = signature.map(str::to_owned);
    let verify = move |body: RequestBody| {
        let verified = cloud_api::verify(&meta.app_secrets, signature.as_deref(), &body.bytes);
        verified.map(|()| (meta, body))
    };
    let verified = if body.bytes.len() > QUICK_BYTES_MAX {
        note_holder(BodyHolder::stranger(address));
        off_thread(move || verify(body)).await?
    } else {
        verify(body)
    };
    let verified = verified.map_err(|error| {
        let why = error.to_string();
        callback_span(&parts.extensions).in_scope(|| count(CallbackRefusal::Signature, &why));
        HttpError::unauthorized(&why)
    })?;
    authenticated(&parts.extensions, KeyHolder::Host);
    shared.bodies.signature_was_valid(address);
    Ok(verified)
}

/// Adds the address of the sender to what the engine logs about a callback: at most one warning a minute for
/// each reason to refuse it.
fn callback_span(extensions: &Extensions) -> Span {
    tracing::warn_span!("callback", remote = %remote(extensions))
}

fn configured(shared: &HostShared) -> Result<MetaSettings, HttpError> {
    shared
        .meta()
        .ok_or_else(|| HttpError::not_found("route", "/meta/webhook: no [meta] is configured"))
}

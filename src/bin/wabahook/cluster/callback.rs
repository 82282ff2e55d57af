//! A callback of Meta at any host of a cluster: it is verified here, split by the shards of its accounts, and each part is
//! sent to its shard as a callback of its own, signed again. The answer is 200 only when every part was accepted. Meta
//! sends a callback again that was not answered so, and the dedup keys of its updates swallow what had been accepted; so a
//! part may be sent twice as well.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::IntoResponse;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wabahook::inbound::cloud_api;
use wabahook::signature::Signer;

use super::front::{Front, KeptRequest, OWNER_WAIT_MAX, Waited};
use crate::http_error::{HttpError, RouteResult};
use crate::routes::{self, HUB_SIGNATURE};

impl Front {
    /// `POST /meta/webhook`.
    pub(super) async fn callback(self: &Arc<Self>, mut parts: Parts, body: Body) -> RouteResult {
        let began = Instant::now();
        self.wait_for_accounts(began + OWNER_WAIT_MAX).await?;
        parts.extensions.insert(Waited(began.elapsed()));
        let engines = self.fleet.engines();
        let verified =
            routes::verified_callback(&self.routes.shared, &parts, body, |reason, why| {
                if let Some((_, engine)) = engines.first() {
                    engine.count_refused_callbacks(reason, 1, why);
                }
            });
        let (meta, body) = verified.await?;
        let place = |account: Option<&str>| {
            account.map_or(self.fleet.directory_shard(), |account| self.fleet.shard_of(account))
        };
        let split = cloud_api::split(&body.bytes, self.fleet.accounts(), place);
        let split = split.map_err(|malformed| {
            let invalid = StatusCode::BAD_REQUEST;
            HttpError::new(invalid, "invalid", malformed.to_string())
        })?;
        let signer = meta.app_secrets.first().and_then(|secret| Signer::new(secret).ok());
        let signer = signer.ok_or_else(|| HttpError::unauthorized("there is no app secret"))?;
        let whole = KeptRequest::new(parts, body);
        let mut sent = JoinSet::new();
        for (shard, part) in split {
            let signature = HeaderValue::from_str(&signer.hub(&part));
            let mut request = whole.repeatable_part(Bytes::from(part));
            if let Ok(signature) = signature {
                request.parts.headers.insert(HUB_SIGNATURE, signature);
            }
            let front = Arc::clone(self);
            sent.spawn(async move { front.deliver(shard, &request).await });
        }
        let mut refused = None;
        for answer in sent.join_all().await {
            let response = answer.unwrap_or_else(HttpError::into_response);
            if response.status() != StatusCode::OK {
                refused = Some(response);
            }
        }
        Ok(refused.unwrap_or_else(|| StatusCode::OK.into_response()))
    }
}

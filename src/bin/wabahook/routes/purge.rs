//! `POST /purge`: ends everything that is kept of a contact or a number of the account.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::host::{HostState, off_thread};
use crate::http_error::HttpError;
use crate::json::{PurgeJson, PurgedJson, parse, utf8};
use crate::response::json;

const BODY_BYTES_MAX: usize = 16 * 1024;

/// `POST /purge`.
pub(crate) async fn purge(
    State(host): State<Arc<HostState>>,
    request: Request,
) -> Result<Response, HttpError> {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let filter: PurgeJson = parse(utf8(&body.bytes)?)?;
    if filter.account.is_some() {
        caller.require_operator()?;
    }
    let filter = filter.filter(caller.scope())?;
    let purged = off_thread(move || host.engine.purge(&filter)).await?;
    let purged = purged.map_err(HttpError::from_error)?;
    Ok(json(StatusCode::ACCEPTED, &PurgedJson { purged }))
}

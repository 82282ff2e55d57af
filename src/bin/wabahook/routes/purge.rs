//! `POST /purge`: ends everything that is kept of a contact or a number of the account.

use axum::extract::Request;
use axum::http::StatusCode;

use super::admin::told;
use crate::host::{HostRef, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{AuditChangeJson, PurgeJson, PurgedJson, parse, utf8};
use crate::response::json;

const BODY_BYTES_MAX: usize = 16 * 1024;

/// `POST /purge`.
pub(crate) async fn purge(host: HostRef, request: Request) -> RouteResult {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let filter: PurgeJson = parse(utf8(&body.bytes)?)?;
    let account = filter.account.clone();
    if account.is_some() {
        caller.require_operator()?;
    }
    let filter = filter.filter(caller.scope())?;
    let (purged, account) = off_thread(move || {
        let purged = host.engine.purge(&filter)?;
        let account = account.map(|account| match host.engine.accounts().named(&account) {
            Some(named) => named.id().to_owned(),
            None => account,
        });
        Ok::<_, HttpError>((PurgedJson::from(purged), account))
    })
    .await??;
    let response = json(StatusCode::ACCEPTED, &purged);
    Ok(match account {
        Some(account) => {
            let after = serde_json::to_value(&purged).unwrap_or_default();
            let change = AuditChangeJson::of_account(&account, serde_json::json!({}), after);
            told(response, vec![change])
        }
        None => response,
    })
}

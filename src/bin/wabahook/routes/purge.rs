//! `POST /purge`: ends everything that is kept of a contact or a number of the account.

use axum::extract::Request;
use axum::http::StatusCode;

use super::admin::told;
use super::subscriptions::require_own;
use crate::host::{HostRef, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{AuditChangeJson, PurgeJson, PurgedJson, parse, utf8};
use crate::response::json;

const BODY_BYTES_MAX: usize = 16 * 1024;

/// `POST /purge`.
pub(crate) async fn purge(host: HostRef, request: Request) -> RouteResult {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let mut filter: PurgeJson = parse(utf8(&body.bytes)?)?;
    if let Some(account) = &mut filter.account {
        caller.require_operator()?;
        let accounts = host.engine.accounts();
        if let Some(found) = accounts.get(account).or_else(|| accounts.named(account)) {
            *account = found.id().to_owned();
        }
        if caller.scope().is_some_and(|scope| scope != account.as_str()) {
            return Err(HttpError::invalid("account", "expected the account that ?account= names"));
        }
    }
    let account = filter.account.clone();
    let filter = filter.filter(caller.scope())?;
    let named = account.clone();
    let purged = off_thread(move || {
        let purged = PurgedJson::from(host.engine.purge(&filter)?);
        if purged.purged == 0 && purged.erased == 0 {
            require_own(&host, &caller, None, filter.number)?;
            if let Some(account) = named.filter(|id| host.engine.accounts().get(id).is_none()) {
                return Err(HttpError::not_found("account", account));
            }
        }
        Ok(purged)
    });
    let purged = purged.await??;
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

//! `/admin/accounts` and `/admin/reload`: the operator creates, lists, changes, suspends, moves and removes accounts
//! and their keys, and has the configuration read again. Each change is durable when it is answered, and in the
//! audit log without any key.

use std::sync::Arc;

use axum::extract::{Path, Request};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use wabahook::{AccountInfo, ApiKey};

use crate::caller::Caller;
use crate::host::{HostRef, HostState, PathId, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{
    AccountChangeJson, AccountListing, AuditChangeJson, JsonPage, MadeKeyJson, MoveJson,
    NewKeyJson, PurgedJson, parse, utf8,
};
use crate::port::bodies::RequestBody;
use crate::query::ListQuery;
use crate::response::json;

/// An account with 10,000 numbers fits.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// `GET /admin/accounts`.
pub(crate) async fn list(host: HostRef, caller: Caller, uri: Uri) -> RouteResult {
    caller.require_operator()?;
    let query = ListQuery::read(&uri, &["name", "state", "limit", "cursor"])?;
    let (limit, after) = (query.limit()?, query.cursor::<String>()?);
    let (name, state) = (query.text("name").map(str::to_lowercase), query.text("state"));
    let is_wanted = |one: &Arc<AccountInfo>| {
        name.as_ref().is_none_or(|part| one.name.to_lowercase().contains(part))
            && state.is_none_or(|state| state == one.state.as_str())
    };
    let all = host.engine.accounts().list();
    let from = match after {
        None => 0,
        Some(after) => {
            let place = all.iter().position(|one| one.id() == after);
            place.ok_or_else(|| HttpError::invalid("cursor", "this account is gone"))? + 1
        }
    };
    let mut wanted = all.iter().skip(from).filter(|one| is_wanted(one));
    let page: Vec<_> = wanted.by_ref().take(limit).cloned().collect();
    let more = wanted.next().is_some();
    let cursor = page.last().filter(|_| more).map(|one| one.id().to_owned());
    let items = off_thread(move || page.iter().map(|one| listing(&host, one)).collect()).await?;
    Ok(json(StatusCode::OK, &JsonPage { items, cursor }))
}

/// `POST /admin/accounts`.
pub(crate) async fn create(host: HostRef, request: Request) -> RouteResult {
    let body = admit_operator(&host, request).await?;
    let account = parse::<AccountChangeJson>(utf8(&body.bytes)?)?.created()?;
    let created = off_thread(move || {
        let key = ApiKey::generate()?;
        let info = host.engine.create_account(account.api_key(key.reveal_text()))?;
        let (id, name) = (info.id().to_owned(), info.name.clone());
        let answer = MadeKeyJson { id, name, api_key: key.reveal_text().to_owned() };
        Ok::<_, HttpError>((answer, audited(&host, &info)))
    });
    let (answer, after) = created.await??;
    let change = AuditChangeJson::of_account(&answer.id, Value::Null, after);
    Ok(told(with_key(StatusCode::CREATED, &answer), vec![change]))
}

/// `GET /admin/accounts/{id}`.
pub(crate) async fn read(host: HostRef, caller: Caller, PathId(id): PathId) -> RouteResult {
    caller.require_operator()?;
    let listing = off_thread(move || Ok::<_, HttpError>(listing(&host, &known(&host, &id)?)));
    Ok(json(StatusCode::OK, &listing.await??))
}

/// `PATCH /admin/accounts/{id}`.
pub(crate) async fn revise(host: HostRef, PathId(id): PathId, request: Request) -> RouteResult {
    let body = admit_operator(&host, request).await?;
    change(host, id, move |host, id| {
        let text = utf8(&body.bytes)?;
        host.engine
            .revise_account(id, |before| Ok(parse::<AccountChangeJson>(text)?.changed(before)?))
    })
    .await
}

/// `DELETE /admin/accounts/{id}`: removes the account and holds its deliveries.
pub(crate) async fn remove(host: HostRef, caller: Caller, PathId(id): PathId) -> RouteResult {
    caller.require_operator()?;
    change(host, id, |host, id| Ok(host.engine.remove_account(id)?)).await
}

/// `POST /admin/accounts/{id}/move`: moves its subscriptions and deliveries to another account.
pub(crate) async fn move_to(host: HostRef, PathId(id): PathId, request: Request) -> RouteResult {
    let body = admit_operator(&host, request).await?;
    let MoveJson { to } = parse(utf8(&body.bytes)?)?;
    change(host, id, move |host, id| {
        let to =
            host.engine.accounts().get(&to).ok_or_else(|| HttpError::invalid("to", "unknown"))?;
        Ok(host.engine.move_account(id, to.id())?)
    })
    .await
}

/// `POST /admin/accounts/{id}/forget`: ends everything that is kept of a removed account, and its record.
pub(crate) async fn forget(host: HostRef, caller: Caller, PathId(id): PathId) -> RouteResult {
    caller.require_operator()?;
    let ended = off_thread(move || {
        let before = audited(&host, &known(&host, &id)?);
        let purged = PurgedJson::from(host.engine.forget_account(&id)?);
        Ok::<_, HttpError>((purged, AuditChangeJson::of_account(&id, before, Value::Null)))
    });
    let (purged, change) = ended.await??;
    Ok(told(json(StatusCode::ACCEPTED, &purged), vec![change]))
}

/// `POST /admin/accounts/{id}/keys`.
pub(crate) async fn add_key(host: HostRef, PathId(id): PathId, request: Request) -> RouteResult {
    let body = admit_operator(&host, request).await?;
    let NewKeyJson { name, expires_at } = parse(utf8(&body.bytes)?)?;
    let changed = changed(host, id, move |host, id| {
        let expires_at_ms = expires_at.map(|at| at.0);
        let (key, secret) = host.engine.add_api_key(id, name, expires_at_ms)?;
        let api_key = secret.reveal_text().to_owned();
        Ok(MadeKeyJson { id: key.id, name: key.name, api_key })
    });
    let (made, change) = changed.await?;
    Ok(told(with_key(StatusCode::CREATED, &made), vec![change]))
}

/// `DELETE /admin/accounts/{id}/keys/{key_id}`.
pub(crate) async fn remove_key(
    host: HostRef,
    caller: Caller,
    Path((id, key_id)): Path<(String, String)>,
) -> RouteResult {
    caller.require_operator()?;
    let removed = changed(host, id, move |host, id| Ok(host.engine.remove_api_key(id, &key_id)?));
    let ((), change) = removed.await?;
    Ok(told(StatusCode::NO_CONTENT.into_response(), vec![change]))
}

/// `POST /admin/reload`.
pub(crate) async fn reload(host: HostRef, caller: Caller) -> RouteResult {
    caller.require_operator()?;
    let reloaded = off_thread(move || host.shared.reload());
    let refused = |problem: String| HttpError::new(StatusCode::BAD_REQUEST, "invalid", problem);
    let (reloaded, changes) = reloaded.await?.map_err(refused)?;
    Ok(told(json(StatusCode::OK, &reloaded), changes))
}

/// Reads the body of a request of the operator.
async fn admit_operator(host: &HostState, request: Request) -> Result<RequestBody, HttpError> {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    caller.require_operator()?;
    Ok(body)
}

/// Changes an account and answers with it.
async fn change(
    host: HostRef,
    id: String,
    change: impl FnOnce(&HostState, &str) -> Result<Arc<AccountInfo>, HttpError> + Send + 'static,
) -> RouteResult {
    let changed = changed(host, id, |host, id| Ok(listing(host, &change(host, id)?)));
    let (listing, audit) = changed.await?;
    Ok(told(json(StatusCode::OK, &listing), vec![audit]))
}

/// Changes an account. Returns the result, and what differs.
async fn changed<T: Send + 'static>(
    host: HostRef,
    id: String,
    change: impl FnOnce(&HostState, &str) -> Result<T, HttpError> + Send + 'static,
) -> Result<(T, AuditChangeJson), HttpError> {
    off_thread(move || {
        let before = audited(&host, &known(&host, &id)?);
        let result = change(&host, &id)?;
        // The account may be forgotten by now; the change was made, and a key is shown only in this response.
        let after = host.engine.accounts().get(&id);
        let after = after.map_or(Value::Null, |after| audited(&host, &after));
        Ok((result, AuditChangeJson::of_account(&id, before, after)))
    })
    .await?
}

fn known(host: &HostState, id: &str) -> Result<Arc<AccountInfo>, HttpError> {
    host.engine.accounts().get(id).ok_or_else(|| HttpError::not_found("account", id))
}

fn listing(host: &HostState, info: &Arc<AccountInfo>) -> AccountListing {
    AccountListing::of(info, &host.engine.account_usage(info.id()))
}

fn audited(host: &HostState, info: &Arc<AccountInfo>) -> Value {
    AccountListing::audited(info, &host.engine.account_usage(info.id()))
}

/// A response with a key, which is shown once.
fn with_key(status: StatusCode, body: &impl serde::Serialize) -> Response {
    let mut response = json(status, body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A response that tells the audit log what changed.
pub(super) fn told(mut response: Response, changes: Vec<AuditChangeJson>) -> Response {
    response.extensions_mut().insert(changes);
    response
}

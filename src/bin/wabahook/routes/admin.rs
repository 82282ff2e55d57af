//! `/admin/accounts` and `/admin/reload`: the operator creates, lists, changes, suspends, moves and removes accounts
//! and their keys, and has the configuration read again. Each change is durable when it is answered, and in the
//! audit log without any key.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use wabahook::{AccountInfo, ApiKey};

use crate::caller::Caller;
use crate::host::{HostState, PathId, off_thread};
use crate::http_error::HttpError;
use crate::json::{
    AccountChangeJson, AccountListing, AuditChangeJson, JsonPage, MadeKeyJson, MoveJson,
    NewAccountJson, NewKeyJson, PurgedJson, parse, utf8,
};
use crate::port::bodies::RequestBody;
use crate::query::ListQuery;
use crate::response::json;

/// An account with 10,000 numbers fits.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// `GET /admin/accounts`.
pub(crate) async fn list(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, HttpError> {
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
pub(crate) async fn create(
    State(host): State<Arc<HostState>>,
    request: Request,
) -> Result<Response, HttpError> {
    let body = admit_operator(&host, request).await?;
    let account = parse::<AccountChangeJson>(utf8(&body.bytes)?)?.created()?;
    let created = off_thread(move || {
        let key = ApiKey::generate()?;
        let info = host.engine.create_account(account.api_key(key.reveal_text()))?;
        let (id, name) = (info.id().to_owned(), info.name.clone());
        let answer = NewAccountJson { id, name, api_key: key.reveal_text().to_owned() };
        Ok::<_, HttpError>((answer, audited(&host, &info)))
    });
    let (answer, after) = created.await??;
    let change = AuditChangeJson::between("account", &answer.id, Value::Null, after);
    Ok(told(with_key(StatusCode::CREATED, &answer), change))
}

/// `GET /admin/accounts/{id}`.
pub(crate) async fn read(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    caller.require_operator()?;
    let listing = off_thread(move || Ok::<_, HttpError>(listing(&host, &known(&host, &id)?)));
    Ok(json(StatusCode::OK, &listing.await??))
}

/// `PATCH /admin/accounts/{id}`.
pub(crate) async fn revise(
    State(host): State<Arc<HostState>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, HttpError> {
    let body = admit_operator(&host, request).await?;
    change(host, id, move |host, id| {
        let text = utf8(&body.bytes)?;
        host.engine
            .revise_account(id, |before| Ok(parse::<AccountChangeJson>(text)?.changed(before)?))
    })
    .await
}

/// `DELETE /admin/accounts/{id}`: removes the account and holds its deliveries.
pub(crate) async fn remove(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    caller.require_operator()?;
    change(host, id, |host, id| Ok(host.engine.remove_account(id)?)).await
}

/// `POST /admin/accounts/{id}/move`: moves its subscriptions and deliveries to another account.
pub(crate) async fn move_to(
    State(host): State<Arc<HostState>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, HttpError> {
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
pub(crate) async fn forget(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    caller.require_operator()?;
    let ended = off_thread(move || {
        let before = audited(&host, &known(&host, &id)?);
        let purged = host.engine.forget_account(&id)?;
        Ok::<_, HttpError>((purged, AuditChangeJson::between("account", &id, before, Value::Null)))
    });
    let (purged, change) = ended.await??;
    Ok(told(json(StatusCode::ACCEPTED, &PurgedJson { purged }), change))
}

/// `POST /admin/accounts/{id}/keys`.
pub(crate) async fn add_key(
    State(host): State<Arc<HostState>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, HttpError> {
    let body = admit_operator(&host, request).await?;
    let NewKeyJson { name, expires_at } = parse(utf8(&body.bytes)?)?;
    let made = off_thread(move || {
        let expires_at_ms = expires_at.map(|at| at.0);
        let (key, secret) = host.engine.add_api_key(&id, name, expires_at_ms)?;
        let api_key = secret.reveal_text().to_owned();
        Ok::<_, HttpError>(MadeKeyJson { id: key.id, name: key.name, api_key })
    });
    let made = made.await??;
    let after = serde_json::json!({"name": made.name});
    let change = AuditChangeJson::between("key", &made.id, Value::Null, after);
    Ok(told(with_key(StatusCode::CREATED, &made), change))
}

/// `DELETE /admin/accounts/{id}/keys/{key_id}`.
pub(crate) async fn remove_key(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    Path((id, key_id)): Path<(String, String)>,
) -> Result<Response, HttpError> {
    caller.require_operator()?;
    let before = serde_json::json!({"account": id});
    let change = AuditChangeJson::between("key", &key_id, before, Value::Null);
    off_thread(move || host.engine.remove_api_key(&id, &key_id)).await??;
    Ok(told(StatusCode::NO_CONTENT.into_response(), change))
}

/// `POST /admin/reload`.
pub(crate) async fn reload(
    State(host): State<Arc<HostState>>,
    caller: Caller,
) -> Result<Response, HttpError> {
    caller.require_operator()?;
    let reloaded = off_thread(move || host.shared.reload()).await?;
    let refused = |problem: String| HttpError::new(StatusCode::BAD_REQUEST, "invalid", problem);
    let reloaded = reloaded.map_err(refused)?;
    let after = serde_json::to_value(&reloaded.accounts).unwrap_or_default();
    let change = AuditChangeJson::between("configuration", "accounts", Value::Null, after);
    Ok(told(json(StatusCode::OK, &reloaded), change))
}

/// Reads the body of a request of the operator.
async fn admit_operator(host: &HostState, request: Request) -> Result<RequestBody, HttpError> {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    caller.require_operator()?;
    Ok(body)
}

/// Changes an account and answers with it.
async fn change(
    host: Arc<HostState>,
    id: String,
    change: impl FnOnce(&HostState, &str) -> Result<Arc<AccountInfo>, HttpError> + Send + 'static,
) -> Result<Response, HttpError> {
    let changed = off_thread(move || {
        let before = audited(&host, &known(&host, &id)?);
        let info = change(&host, &id)?;
        let audit = AuditChangeJson::between("account", &id, before, audited(&host, &info));
        Ok::<_, HttpError>((listing(&host, &info), audit))
    });
    let (listing, audit) = changed.await??;
    Ok(told(json(StatusCode::OK, &listing), audit))
}

fn known(host: &HostState, id: &str) -> Result<Arc<AccountInfo>, HttpError> {
    host.engine.accounts().get(id).ok_or_else(|| HttpError::not_found("account", id))
}

fn listing(host: &HostState, info: &Arc<AccountInfo>) -> AccountListing {
    AccountListing::of(info, &host.engine.account_usage(info.id()))
}

/// The account as the audit log keeps it, without its usage.
fn audited(host: &HostState, info: &Arc<AccountInfo>) -> Value {
    let mut value = serde_json::to_value(listing(host, info)).unwrap_or_default();
    if let Value::Object(members) = &mut value {
        members.remove("usage");
    }
    value
}

/// A response with a key, which is shown once.
fn with_key(status: StatusCode, body: &impl serde::Serialize) -> Response {
    let mut response = json(status, body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A response that tells the audit log what changed.
fn told(mut response: Response, change: AuditChangeJson) -> Response {
    response.extensions_mut().insert(vec![change]);
    response
}

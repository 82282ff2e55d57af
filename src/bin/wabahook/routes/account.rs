//! `GET /account`: the account of the key, its numbers, and the event types. An account sees its own
//! WABAs and numbers only (I9).

use axum::http::StatusCode;

use crate::caller::Caller;
use crate::host::HostRef;
use crate::http_error::{HttpError, RouteResult};
use crate::json::{AccountJson, AccountWabaJson, EventTypeJson};
use crate::response::json;

/// `GET /account`.
pub(crate) async fn read(host: HostRef, caller: Caller) -> RouteResult {
    let account = caller.account()?.to_owned();
    let accounts = host.engine.accounts();
    let own = accounts.get(&account);
    let own = own.ok_or_else(|| HttpError::not_found("account", &account))?;
    let wabas = own.wabas.iter().map(|waba| AccountWabaJson::of(&waba.id, &waba.numbers));
    let catalogue = host.engine.catalogue();
    let types = catalogue.types().into_iter().map(|(event_type, label)| {
        let source = if catalogue.is_from_callbacks(event_type) { "callbacks" } else { "publish" };
        let (name, label) = (event_type.to_string(), label.map(str::to_owned));
        EventTypeJson { name, label, source: source.to_owned() }
    });
    let (wabas, event_types) = (wabas.collect(), types.collect());
    Ok(json(StatusCode::OK, &AccountJson { name: own.name.clone(), wabas, event_types }))
}

//! `GET /account`: the account of the key, its numbers, and the event types. An account sees its own
//! WABAs and numbers only (I9).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::caller::Caller;
use crate::host::HostState;
use crate::http_error::HttpError;
use crate::json::{AccountJson, EventTypeJson, WabaJson};
use crate::response::json;

/// `GET /account`.
pub(crate) async fn read(
    State(host): State<Arc<HostState>>,
    caller: Caller,
) -> Result<Response, HttpError> {
    let account = caller.account()?.to_owned();
    let accounts = host.engine.accounts();
    let own = accounts.get(&account);
    let own = own.ok_or_else(|| HttpError::not_found("account", &account))?;
    let wabas = own.wabas.iter().map(|waba| WabaJson {
        id: waba.id.clone(),
        numbers: waba.numbers.iter().map(ToString::to_string).collect(),
    });
    let catalogue = host.engine.catalogue();
    let types = catalogue.types().into_iter().map(|(event_type, label)| {
        let source = if catalogue.is_from_callbacks(event_type) { "callbacks" } else { "publish" };
        let (name, label) = (event_type.to_string(), label.map(str::to_owned));
        EventTypeJson { name, label, source: source.to_owned() }
    });
    let (wabas, event_types) = (wabas.collect(), types.collect());
    Ok(json(StatusCode::OK, &AccountJson { name: own.name.clone(), wabas, event_types }))
}

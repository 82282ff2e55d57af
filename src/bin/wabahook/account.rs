//! Decides what `GET /account` says: whose key it is, its numbers, and the event types by their names.
//!
//! Leaves to others: which accounts there are (the configuration). Invariant (I9): an account sees its
//! own WABAs and numbers alone.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use crate::host::{Caller, Host};
use crate::refusal::{Refusal, json};

#[derive(Serialize)]
struct Shape {
    name: String,
    wabas: Vec<WabaShape>,
    event_types: Vec<TypeShape>,
}

#[derive(Serialize)]
struct WabaShape {
    id: String,
    numbers: Vec<String>,
}

#[derive(Serialize)]
struct TypeShape {
    name: String,
    /// The name of its trigger, where people know it by one.
    label: Option<String>,
}

/// `GET /account`.
pub(crate) async fn read(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
) -> Result<Response, Refusal> {
    let known = host.engine.accounts().iter().find(|known| known.name() == account);
    let known = known.ok_or_else(|| Refusal::not_found("account", &account))?;
    let numbers_of = |id| host.engine.accounts().numbers_of_waba(id).iter();
    let wabas = known.waba_ids().map(|id| WabaShape {
        id: id.to_owned(),
        numbers: numbers_of(id).map(ToString::to_string).collect(),
    });
    let wabas = wabas.collect();
    let types = host.engine.catalogue().types().into_iter();
    let event_types = types
        .map(|(kind, label)| TypeShape { name: kind.to_string(), label: label.map(str::to_owned) });
    let event_types = event_types.collect();
    Ok(json(StatusCode::OK, &Shape { name: account, wabas, event_types }))
}

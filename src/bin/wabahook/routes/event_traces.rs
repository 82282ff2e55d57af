//! `GET /events` and `GET /events/{id}`: what became of an event, found by what a support person knows of it. An
//! account finds its own events only (I9).

use axum::http::{StatusCode, Uri};
use wabahook::{Engine, EventQuery, WabaNumber};

use super::subscriptions::{account_name, name_of};
use crate::caller::Caller;
use crate::host::{HostRef, PathId, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{EventTraceJson, JsonPage};
use crate::query::ListQuery;
use crate::response::json;

/// `GET /events`.
pub(crate) async fn list(host: HostRef, caller: Caller, uri: Uri) -> RouteResult {
    let own = ["message_id", "dedup_key", "contact", "number", "type", "since", "limit", "cursor"];
    let query = ListQuery::read(&uri, &own)?;
    let (limit, after) = (query.limit()?, query.cursor()?);
    let number = query.value::<WabaNumber>("number", "the digits of a WABA number")?;
    let mut wanted = EventQuery::default();
    wanted.account = caller.scope().map(str::to_owned);
    wanted.message_id = query.part("message_id");
    wanted.dedup_key = query.part("dedup_key");
    wanted.contact = query.part("contact");
    wanted.number = number;
    wanted.event_type = query.part("type");
    wanted.since_ms = query.time("since")?;
    let page = off_thread(move || {
        let page = host.engine.find_events(&wanted, after, limit)?;
        let listed = |trace| EventTraceJson::listed(trace, |id| name_of(&host.engine, id));
        let named = |trace| with_account(listed(trace), &caller, &host.engine);
        let items = page.items.iter().map(named).collect();
        Ok(JsonPage { items, cursor: page.next.map(|next| next.to_string()) })
    });
    Ok(json(StatusCode::OK, &page.await?.map_err(HttpError::from_page_error)?))
}

/// `GET /events/{id}`.
pub(crate) async fn read(host: HostRef, caller: Caller, PathId(id): PathId) -> RouteResult {
    let trace = off_thread(move || {
        let unknown = || HttpError::not_found("event", &id);
        let found = host.engine.event(id.parse().map_err(|_| unknown())?)?;
        let own = found.filter(|trace| caller.sees(&trace.account)).ok_or_else(unknown)?;
        let whole = EventTraceJson::whole(&own, |id| name_of(&host.engine, id));
        Ok::<_, HttpError>(with_account(whole, &caller, &host.engine))
    });
    Ok(json(StatusCode::OK, &trace.await??))
}

/// With the name of its account, where the operator asks.
fn with_account(trace: EventTraceJson, caller: &Caller, engine: &Engine) -> EventTraceJson {
    let account_name = account_name(caller, engine, &trace.account);
    EventTraceJson { account_name, ..trace }
}

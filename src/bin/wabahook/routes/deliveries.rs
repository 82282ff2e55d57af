//! The routes under `/deliveries`: the account's owed deliveries and dead letters, page by page, and `cancel`.

use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use wabahook::{Delivery, DeliveryFilter, DeliveryState};

use super::subscriptions::{name_of, named, require_own};
use crate::caller::Caller;
use crate::host::{HostRef, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{CancelJson, CountJson, DeliveryJson, JsonPage, parse, utf8};
use crate::query::ListQuery;
use crate::response::json;

const BODY_BYTES_MAX: usize = 16 * 1024;

/// `GET /deliveries`.
pub(crate) async fn list(host: HostRef, caller: Caller, uri: Uri) -> RouteResult {
    let own = ["state", "subscription", "event_type", "number", "reason", "limit", "cursor"];
    let query = ListQuery::read(&uri, &own)?;
    let (limit, after) = (query.limit()?, query.cursor()?);
    let mut filter = DeliveryFilter::default();
    filter.account = caller.scope().map(str::to_owned);
    filter.subscription = named(&host, &caller, &query)?;
    filter.states = query.text("state").map(states).transpose()?;
    filter.event_type = query.part("event_type");
    filter.number = query.part("number");
    filter.reason = query.part("reason");
    let page = off_thread(move || {
        let page = host.engine.deliveries(&filter, after, limit)?;
        let item = |one: &Delivery| DeliveryJson::of(one, name_of(&host.engine, one.subscription));
        let items = page.items.iter().map(item).collect();
        Ok(JsonPage { items, cursor: page.next.map(|next| next.to_string()) })
    });
    Ok(json(StatusCode::OK, &page.await?.map_err(HttpError::from_page_error)?))
}

/// `POST /deliveries/cancel`.
pub(crate) async fn cancel(host: HostRef, request: Request) -> RouteResult {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let cancel = parse::<CancelJson>(utf8(&body.bytes)?)?;
    let dry_run = cancel.dry_run;
    let filter = cancel.filter(caller.scope())?;
    let cancelled = off_thread(move || {
        let cancelled = match dry_run {
            true => host.engine.count_cancellable(&filter)?,
            false => host.engine.cancel_matching(&filter)?,
        };
        if cancelled == 0 {
            require_own(&host, &caller, filter.subscription, None)?;
        }
        Ok::<_, HttpError>(cancelled)
    });
    Ok(json(StatusCode::ACCEPTED, &CountJson::of("cancelled", cancelled.await??, dry_run)))
}

/// States separated by commas.
fn states(text: &str) -> Result<Vec<DeliveryState>, HttpError> {
    let read = |name: &str| {
        let expected = "owed, retrying, blocked and dead, any of them, separated by commas";
        name.trim().parse().map_err(|_| HttpError::invalid("state", format!("expected {expected}")))
    };
    text.split(',').map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_separated_by_commas() {
        let both = [DeliveryState::Owed, DeliveryState::Dead];
        assert_eq!(states("owed,dead").unwrap(), both);
        assert_eq!(states("owed, dead").unwrap(), both);
        for text in ["hidden", "owed,,dead", "Owed"] {
            let error = format!("{:?}", states(text).unwrap_err());
            assert!(error.contains("state") && !error.contains("hidden"), "{error}");
        }
    }
}

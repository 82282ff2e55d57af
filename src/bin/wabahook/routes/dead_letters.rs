//! The routes under `/dead-letters`: list, read one, replay, discard. An account sees and ends its own only;
//! another account's dead letter is answered like one that does not exist (I9).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use wabahook::{DeadLetterFilter, SubscriptionId};

use crate::caller::Caller;
use crate::host::{HostState, PathId, off_thread};
use crate::http_error::HttpError;
use crate::json::{
    DeadLetterDetailJson, DeadLetterJson, DiscardedJson, FailedAttemptJson, JsonPage, ReplayJson,
    ReplayedJson, TimestampJson, parse, utf8,
};
use crate::query::{ListQuery, SUBSCRIPTION};
use crate::response::json;

/// 1,000 ids fit.
const BODY_BYTES_MAX: usize = 128 * 1024;

/// `GET /dead-letters`.
pub(crate) async fn list(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, HttpError> {
    let query = ListQuery::read(&uri, &["limit", "cursor", "subscription", "reason"])?;
    let (limit, after) = (query.limit()?, query.cursor()?);
    let mut filter = DeadLetterFilter::default();
    filter.account = caller.scope().map(str::to_owned);
    filter.subscription = query.value("subscription", SUBSCRIPTION)?.map(SubscriptionId);
    filter.reason = query.text("reason").map(str::to_owned);
    let letters = off_thread(move || host.engine.dead_letters(&filter, after, limit));
    let letters = letters.await?.map_err(HttpError::from_page_error)?;
    let cursor = letters.next.map(|next| next.to_string());
    let items = letters.items.iter().map(DeadLetterJson::from).collect();
    Ok(json(StatusCode::OK, &JsonPage { items, cursor }))
}

/// `GET /dead-letters/{id}`.
pub(crate) async fn read(
    State(host): State<Arc<HostState>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let detail = off_thread(move || {
        let unknown = || HttpError::not_found("dead letter", &id);
        let found = host.engine.dead_letter(id.parse().map_err(|_| unknown())?)?;
        let own = found.filter(|(letter, _)| caller.sees(&letter.account));
        let (letter, history) = own.ok_or_else(unknown)?;
        let event = host.engine.event_of(letter.id())?;
        Ok::<_, HttpError>(DeadLetterDetailJson {
            letter: DeadLetterJson::from(&letter),
            event_type: event.event_type.to_string(),
            number: event.number.map(|number| number.to_string()),
            accepted_at: TimestampJson(event.accepted_at_ms),
            payload: std::str::from_utf8(&event.payload).ok().map(str::to_owned),
            history: history.iter().map(FailedAttemptJson::from).collect(),
        })
    });
    Ok(json(StatusCode::OK, &detail.await??))
}

/// `POST /dead-letters/replay`.
pub(crate) async fn replay(
    State(host): State<Arc<HostState>>,
    request: Request,
) -> Result<Response, HttpError> {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let (ids, filter) = parse::<ReplayJson>(utf8(&body.bytes)?)?.filter(caller.scope())?;
    let replayed = off_thread(move || match ids {
        None => host.engine.replay_matching(&filter),
        Some(ids) => host.engine.replay_these(&ids, &filter),
    });
    let replayed = replayed.await?.map_err(HttpError::from_error)?;
    Ok(json(StatusCode::ACCEPTED, &ReplayedJson { replayed }))
}

/// `POST /dead-letters/discard`.
pub(crate) async fn discard(
    State(host): State<Arc<HostState>>,
    request: Request,
) -> Result<Response, HttpError> {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let (ids, filter) = parse::<ReplayJson>(utf8(&body.bytes)?)?.filter(caller.scope())?;
    let discarded = off_thread(move || match ids {
        None => host.engine.discard_matching(&filter),
        Some(ids) => host.engine.discard(&ids, &filter),
    });
    let discarded = discarded.await?.map_err(HttpError::from_error)?;
    Ok(json(StatusCode::ACCEPTED, &DiscardedJson { discarded }))
}

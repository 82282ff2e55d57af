//! The routes under `/dead-letters`: list, read one, replay, discard. An account sees and ends its own only;
//! another account's dead letter is answered like one that does not exist (I9).

use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use wabahook::{DeadLetter, DeadLetterFilter, DeadLetterId, Engine};

use super::subscriptions::{name_of, named, require_own};
use crate::caller::Caller;
use crate::host::{HostRef, PathId, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{
    CountJson, DeadLetterDetailJson, DeadLetterJson, FailedAttemptJson, JsonPage, ReplayJson,
    parse, utf8,
};
use crate::query::ListQuery;
use crate::response::json;

/// 1,000 ids fit.
const BODY_BYTES_MAX: usize = 128 * 1024;

/// `GET /dead-letters`.
pub(crate) async fn list(host: HostRef, caller: Caller, uri: Uri) -> RouteResult {
    let own =
        ["subscription", "reason", "event_type", "number", "since", "until", "limit", "cursor"];
    let query = ListQuery::read(&uri, &own)?;
    let (limit, after) = (query.limit()?, query.cursor()?);
    let mut filter = DeadLetterFilter::default();
    filter.account = caller.scope().map(str::to_owned);
    filter.subscription = named(&host, &caller, &query)?;
    filter.reason = query.part("reason");
    filter.event_type = query.part("event_type");
    filter.number = query.part("number");
    (filter.since_ms, filter.until_ms) = (query.time("since")?, query.time("until")?);
    let page = off_thread(move || {
        let page = host.engine.dead_letters(&filter, after, limit)?;
        let items = page.items.iter().map(|letter| item(&host.engine, letter)).collect();
        Ok(JsonPage { items, cursor: page.next.map(|next| next.to_string()) })
    });
    Ok(json(StatusCode::OK, &page.await?.map_err(HttpError::from_page_error)?))
}

fn item(engine: &Engine, letter: &DeadLetter) -> DeadLetterJson {
    DeadLetterJson::of(letter, name_of(engine, letter.subscription))
}

/// `GET /dead-letters/{id}`.
pub(crate) async fn read(host: HostRef, caller: Caller, PathId(id): PathId) -> RouteResult {
    let detail = off_thread(move || {
        let unknown = || HttpError::not_found("dead letter", &id);
        let found = host.engine.dead_letter(id.parse().map_err(|_| unknown())?)?;
        let own = found.filter(|(letter, _)| caller.sees(&letter.account));
        let (letter, history) = own.ok_or_else(unknown)?;
        let event = host.engine.event_of(letter.id())?;
        Ok::<_, HttpError>(DeadLetterDetailJson {
            letter: item(&host.engine, &letter),
            payload: std::str::from_utf8(&event.payload).ok().map(str::to_owned),
            history: history.iter().map(FailedAttemptJson::from).collect(),
        })
    });
    Ok(json(StatusCode::OK, &detail.await??))
}

/// `POST /dead-letters/replay`.
pub(crate) async fn replay(host: HostRef, request: Request) -> RouteResult {
    end(host, request, "replayed", |engine, ids, filter, dry_run| match (ids, dry_run) {
        (None, false) => engine.replay_matching(filter),
        (Some(ids), false) => engine.replay_these(ids, filter),
        (None, true) => engine.count_replayable(filter),
        (Some(ids), true) => count(engine, ids, filter),
    })
    .await
}

/// `POST /dead-letters/discard`.
pub(crate) async fn discard(host: HostRef, request: Request) -> RouteResult {
    end(host, request, "discarded", |engine, ids, filter, dry_run| match (ids, dry_run) {
        (None, false) => engine.discard_matching(filter),
        (Some(ids), false) => engine.discard(ids, filter),
        (None, true) => engine.count_dead_letters(filter),
        (Some(ids), true) => count(engine, ids, filter),
    })
    .await
}

/// Ends the dead letters that a request names, or counts them.
async fn end<F>(host: HostRef, request: Request, done: &'static str, end: F) -> RouteResult
where
    F: FnOnce(&Engine, Option<&[DeadLetterId]>, &DeadLetterFilter, bool) -> wabahook::Result<u64>,
    F: Send + 'static,
{
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let given = parse::<ReplayJson>(utf8(&body.bytes)?)?;
    let dry_run = given.dry_run;
    let (ids, filter) = given.filter(caller.scope())?;
    let ended = off_thread(move || {
        let ended = end(&host.engine, ids.as_deref(), &filter, dry_run)?;
        if ended == 0 {
            require_own(&host, &caller, filter.subscription, None)?;
        }
        Ok::<_, HttpError>(ended)
    });
    Ok(json(StatusCode::ACCEPTED, &CountJson::of(done, ended.await??, dry_run)))
}

/// How many of these dead letters are there and match the filter.
fn count(
    engine: &Engine,
    ids: &[DeadLetterId],
    filter: &DeadLetterFilter,
) -> wabahook::Result<u64> {
    let mut count = 0;
    for id in ids {
        count +=
            u64::from(engine.dead_letter(*id)?.is_some_and(|(letter, _)| filter.admits(&letter)));
    }
    Ok(count)
}

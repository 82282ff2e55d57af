//! `GET /subscriptions`, page by page, and the changes of many subscriptions at once. The filters and the order
//! are applied in memory; only the subscriptions of a page are written as JSON.

use std::cmp::Ordering;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use wabahook::{Engine, LaneStats, Stats, SubscriptionId, SubscriptionInfo, SubscriptionState};

use super::subscriptions::{account, visible, visible_stats};
use crate::caller::Caller;
use crate::host::{HostRef, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{
    CountJson, SubscriptionFilterJson, SubscriptionListing, SubscriptionsJson, parse, utf8,
};
use crate::query::ListQuery;
use crate::response::json;

const BODY_BYTES_MAX: usize = 128 * 1024;

/// The order of a list: by a figure, largest first, then by a text, then by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SortKey {
    /// Subtracted from the maximum, so that the largest figure is first.
    figure: u64,
    text: String,
    id: u32,
}

/// What a list is sorted by.
#[derive(Debug, Clone, Copy)]
enum Sort {
    Id,
    Name,
    Figure(fn(&LaneStats) -> u64),
}

const SORTS: [(&str, Sort); 5] = [
    ("id", Sort::Id),
    ("name", Sort::Name),
    ("owed", Sort::Figure(|lane| lane.owed)),
    ("dead", Sort::Figure(|lane| lane.dead)),
    (
        "failing",
        Sort::Figure(|lane| u64::try_from(lane.failing_for.as_millis()).unwrap_or(u64::MAX)),
    ),
];

impl Sort {
    fn read(query: &ListQuery) -> Result<Sort, HttpError> {
        let given = query.text("sort").unwrap_or("id");
        let named = SORTS.iter().find(|(name, _)| *name == given).map(|(_, sort)| *sort);
        named.ok_or_else(|| {
            let names: Vec<_> = SORTS.iter().map(|(name, _)| *name).collect();
            HttpError::invalid("sort", format!("expected one of {}", names.join(", ")))
        })
    }

    fn key(self, one: &SubscriptionInfo, lane: Option<&LaneStats>) -> SortKey {
        let (figure, text) = match self {
            Sort::Id => (0, String::new()),
            Sort::Name => (0, one.name.to_lowercase()),
            Sort::Figure(figure) => (u64::MAX - lane.map_or(0, figure), String::new()),
        };
        SortKey { figure, text, id: one.id.0 }
    }
}

impl SortKey {
    fn cursor(&self) -> String {
        // Hexadecimal, so that it needs no encoding in a query.
        let text: String = self.text.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("{}.{}.{text}", self.figure, self.id)
    }

    fn parse(text: &str) -> Result<SortKey, HttpError> {
        let read = || {
            let (figure, rest) = text.split_once('.')?;
            let (id, text) = rest.split_once('.')?;
            let pairs = text.as_bytes().chunks(2);
            let bytes =
                pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
            let text = String::from_utf8(bytes.collect::<Option<_>>()?).ok()?;
            Some(SortKey { figure: figure.parse().ok()?, text, id: id.parse().ok()? })
        };
        read()
            .ok_or_else(|| HttpError::invalid("cursor", "expected the cursor of a page, unchanged"))
    }
}

/// `GET /subscriptions`.
pub(crate) async fn list(host: HostRef, caller: Caller, uri: Uri) -> RouteResult {
    let own = [&["limit", "cursor", "sort"], SubscriptionFilterJson::TEXTS].concat();
    let query = ListQuery::read(&uri, &own)?;
    let (limit, sort) = (query.limit()?, Sort::read(&query)?);
    let after = query.text("cursor").map(SortKey::parse).transpose()?;
    let filter = SubscriptionFilterJson::of_query(|name| query.part(name));
    let page = off_thread(move || {
        let stats = visible_stats(&host.engine, &caller);
        let matching = matching(&host.engine, &caller, &filter, &stats);
        let total = matching.len() as u64;
        let key = |one: &Arc<SubscriptionInfo>| sort.key(one, stats.lane(one.id));
        let mut keyed: Vec<_> = matching.into_iter().map(|one| (key(&one), one)).collect();
        keyed.retain(|(key, _)| {
            after.as_ref().is_none_or(|after| key.cmp(after) == Ordering::Greater)
        });
        keyed.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let has_more = keyed.len() > limit;
        keyed.truncate(limit);
        let cursor = keyed.last().filter(|_| has_more).map(|(key, _)| key.cursor());
        let listed = |one: &SubscriptionInfo| {
            let account = account(&caller, &host.engine, &one.account);
            SubscriptionListing::of(one, stats.lane(one.id)).of_account(account.as_deref())
        };
        let items = keyed.iter().map(|(_, one)| listed(one)).collect();
        SubscriptionsJson { items, cursor, total }
    });
    Ok(json(StatusCode::OK, &page.await?))
}

/// The subscriptions of the caller that match a filter.
fn matching(
    engine: &Engine,
    caller: &Caller,
    filter: &SubscriptionFilterJson,
    stats: &Stats,
) -> Vec<Arc<SubscriptionInfo>> {
    let mut own = visible(engine, caller);
    own.retain(|one| filter.admits(one, stats.lane(one.id)));
    own
}

/// `POST /subscriptions/pause`.
pub(crate) async fn pause(host: HostRef, request: Request) -> RouteResult {
    change(host, request, |state| state == SubscriptionState::Active, Engine::pause).await
}

/// `POST /subscriptions/resume`.
pub(crate) async fn resume(host: HostRef, request: Request) -> RouteResult {
    change(host, request, |state| state != SubscriptionState::Active, Engine::resume).await
}

/// Changes the matching subscriptions that are in such a state, or counts them.
async fn change(
    host: HostRef,
    request: Request,
    is_changed: fn(SubscriptionState) -> bool,
    change: fn(&Engine, SubscriptionId) -> wabahook::Result<()>,
) -> RouteResult {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    let filter = parse::<SubscriptionFilterJson>(utf8(&body.bytes)?)?.checked()?;
    let dry_run = filter.dry_run;
    let changed = off_thread(move || {
        let stats = visible_stats(&host.engine, &caller);
        let mut meant = matching(&host.engine, &caller, &filter, &stats);
        meant.retain(|one| is_changed(one.state));
        let mut changed = 0;
        for one in meant {
            match if filter.dry_run { Ok(()) } else { change(&host.engine, one.id) } {
                Ok(()) => changed += 1,
                // Removed meanwhile.
                Err(wabahook::Error::NotFound { .. }) => {}
                Err(error) => return Err(HttpError::from(error)),
            }
        }
        Ok(changed)
    });
    Ok(json(StatusCode::ACCEPTED, &CountJson::of("changed", changed.await??, dry_run)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_parses_its_own_text() {
        let key = SortKey { figure: u64::MAX - 3, text: "crm 2.\u{e9}".to_owned(), id: 7 };
        assert_eq!(SortKey::parse(&key.cursor()).unwrap(), key);
        for text in ["", "1", "1.2", "x.2.61", "1.x.61", "1.2.zz"] {
            assert!(SortKey::parse(text).is_err(), "{text}");
        }
    }
}

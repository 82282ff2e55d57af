//! Decides what the routes under `/dead-letters` do: list, look at one, replay.
//!
//! Leaves to others: keeping the letters and trying them again (the engine). Invariant (I9): an
//! account sees and replays its own alone; another's letter is answered like one that does not exist.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use wabahook::{DeadLetter, DeadLetterFilter, DeadLetterId, Reason, SubscriptionId, Tried};

use crate::asked::{Asked, Page};
use wabahook::registration::fields::{self, Object};

use crate::asked::SUBSCRIPTION;
use crate::host::{Caller, Host, Named, off_thread};
use crate::moment::{from_rfc3339, rfc3339};
use crate::refusal::{Refusal, json};

/// 1,000 ids fit.
const BODY_BYTES_MAX: usize = 128 * 1024;
const IDS_MAX: usize = 1_000;

/// A dead letter in lists.
#[derive(Serialize)]
struct Item {
    id: String,
    event_id: String,
    subscription: u32,
    reason: String,
    status: Option<u16>,
    attempts: u32,
    at: String,
}

/// A dead letter with what is kept of its attempts.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    item: Item,
    event_type: String,
    number: Option<String>,
    accepted_at: String,
    /// As it was published; null where it is no text.
    payload: Option<String>,
    history: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    number: u32,
    at: String,
    took_ms: u64,
    reason: String,
    status: Option<u16>,
    /// The first bytes of the answer.
    excerpt: String,
}

#[derive(Serialize)]
struct Replayed {
    replayed: u64,
}

/// `GET /dead-letters`.
pub(crate) async fn list(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    uri: Uri,
) -> Result<Response, Refusal> {
    let asked = Asked::read(&uri, &["limit", "cursor", "subscription", "reason"])?;
    let (limit, after) = (asked.limit()?, asked.cursor()?);
    let mut filter = DeadLetterFilter::default().account(account);
    filter.subscription = asked.value("subscription", SUBSCRIPTION)?.map(SubscriptionId);
    filter.reason = asked.text("reason").map(str::to_owned);
    let letters = off_thread(move || host.engine.dead_letters(&filter, after, limit));
    let letters = letters.await?.map_err(Refusal::from_page_error)?;
    let last = letters.last().filter(|_| letters.len() == limit);
    let cursor = last.map(|letter| letter.id().to_string());
    let items: Vec<_> = letters.iter().map(Item::of).collect();
    Ok(json(StatusCode::OK, &Page { items, cursor }))
}

/// `GET /dead-letters/{id}`.
pub(crate) async fn read(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    Named(id): Named,
) -> Result<Response, Refusal> {
    let whole = off_thread(move || {
        let unknown = || Refusal::not_found("dead letter", &id);
        let known = host.engine.dead_letter(id.parse().map_err(|_| unknown())?)?;
        let own = known.filter(|(letter, _)| letter.account == account);
        let (letter, history) = own.ok_or_else(unknown)?;
        let event = host.engine.event_of(letter.id())?;
        Ok::<_, Refusal>(Whole {
            item: Item::of(&letter),
            event_type: event.event_type.to_string(),
            number: event.number.map(|number| number.to_string()),
            accepted_at: rfc3339(event.accepted_at_ms),
            payload: String::from_utf8(event.payload).ok(),
            history: history.iter().map(Failed::of).collect(),
        })
    });
    Ok(json(StatusCode::OK, &whole.await??))
}

/// `POST /dead-letters/replay`.
pub(crate) async fn replay(
    State(host): State<Arc<Host>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (Caller(account), body) = host.admit(request, BODY_BYTES_MAX).await?;
    let (ids, filter) = meant(fields::utf8(&body.bytes)?, &account)?;
    let replayed = off_thread(move || match ids {
        None => host.engine.replay_matching(&filter),
        Some(ids) => host.engine.replay_these(&ids, &filter),
    });
    let replayed = replayed.await?.map_err(Refusal::from_error)?;
    Ok(json(StatusCode::ACCEPTED, &Replayed { replayed }))
}

/// Which letters a body means: these ids, if it names any, of which the filter holds.
fn meant(
    text: &str,
    account: &str,
) -> Result<(Option<Vec<DeadLetterId>>, DeadLetterFilter), Refusal> {
    let known = ["ids", "subscription", "reason", "since"];
    let given = Object::read(text, &known)?;
    if known.iter().all(|name| given.given(name).is_none()) {
        let message = "nothing is named; expected at least one of ids, subscription, reason, since";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid", message));
    }
    let mut filter = DeadLetterFilter::default().account(account);
    filter.subscription = given.value("subscription", SUBSCRIPTION)?.map(SubscriptionId);
    filter.reason = given.text("reason", "a reason such as \"status:404\"")?;
    let expected = "a date and time such as \"2026-01-31T12:00:00Z\"";
    if let Some(since) = given.text("since", expected)? {
        let refused = || Refusal::invalid("since", format!("expected {expected}"));
        filter.since_ms = Some(from_rfc3339(&since).ok_or_else(refused)?);
    }
    let ids = given.given("ids").map(read_ids).transpose()?;
    Ok((ids, filter))
}

fn read_ids(raw: &RawValue) -> Result<Vec<DeadLetterId>, Refusal> {
    let expected = format!("a list of at most {IDS_MAX} ids of dead letters");
    let items: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| fields::wrong_kind("ids", raw, &expected))?;
    if items.len() > IDS_MAX {
        let problem = format!("found {}; expected {expected}", items.len());
        return Err(Refusal::invalid("ids", problem));
    }
    let read = |(place, raw): (usize, &&RawValue)| {
        let (field, expected) = (format!("ids[{place}]"), "the id of a dead letter");
        let text = fields::text(&field, raw, expected)?;
        text.parse().map_err(|_| Refusal::invalid(&field, format!("expected {expected}")))
    };
    items.iter().enumerate().map(read).collect()
}

impl Item {
    fn of(letter: &DeadLetter) -> Item {
        Item {
            id: letter.id().to_string(),
            event_id: letter.event.to_string(),
            subscription: letter.subscription.0,
            reason: letter.reason.to_string(),
            status: status_of(&letter.reason),
            attempts: letter.attempts,
            at: rfc3339(letter.at_ms),
        }
    }
}

impl Failed {
    fn of(tried: &Tried) -> Failed {
        Failed {
            number: tried.number,
            at: rfc3339(tried.at_ms),
            took_ms: tried.took_ms,
            reason: tried.reason.to_string(),
            status: status_of(&tried.reason),
            excerpt: String::from_utf8_lossy(&tried.excerpt).into_owned(),
        }
    }
}

fn status_of(reason: &Reason) -> Option<u16> {
    match reason {
        Reason::Status(status) => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "evt_00000000000000070000000000000009.3";

    #[test]
    fn what_is_replayed_is_named_by_any_of_its_fields() {
        let (ids, filter) = meant(&format!("{{\"ids\":[\"{ID}\"]}}"), "acme").unwrap();
        assert_eq!(ids.unwrap(), [ID.parse().unwrap()]);
        assert_eq!(filter, DeadLetterFilter::default().account("acme"));
        let text = r#"{"subscription":3,"reason":"timeout","since":"2023-11-14T22:13:20Z"}"#;
        let (ids, filter) = meant(text, "acme").unwrap();
        let expected = DeadLetterFilter::default()
            .account("acme")
            .subscription(SubscriptionId(3))
            .reason("timeout")
            .since_ms(1_700_000_000_000);
        assert_eq!((ids, filter), (None, expected));
    }

    #[test]
    fn what_names_nothing_or_cannot_be_meant_is_refused_by_field() {
        let many = format!("{{\"ids\":[{}1]}}", "1,".repeat(IDS_MAX));
        for (text, says) in [
            ("{}", "at least one of ids"),
            (r#"{"ids":null}"#, "at least one of ids"),
            (r#"{"ids":"hidden"}"#, "ids: found a string"),
            (r#"{"ids":["hidden"]}"#, "ids[0]"),
            (r#"{"since":"hidden"}"#, "since"),
            (r#"{"since":5}"#, "since: found a number"),
            (r#"{"subscription":"hidden"}"#, "subscription"),
            (r#"{"until":"hidden"}"#, "until: unknown field"),
            (many.as_str(), "at most 1000"),
        ] {
            let refusal = format!("{:?}", meant(text, "acme").unwrap_err());
            assert!(refusal.contains(says) && !refusal.contains("hidden"), "{refusal}");
        }
    }
}

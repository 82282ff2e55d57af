//! `POST /events`: one event, or many, one a line, all or none. A 202 is sent after the events are on the
//! device (I1), and what is delivered is the text of `payload` exactly as it stands in the request.

use std::collections::{BTreeMap, HashSet};

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::value::RawValue;
use wabahook::{
    Accepted, AccountInfo, Catalogue, Engine, Error, Event, Receipt, TypeHint, WabaNumber,
};

use crate::host::{HostRef, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{AcceptedJson, EventJson, parse, utf8};
use crate::port::bodies::RequestBody;
use crate::response::json;

/// Bodies up to this size are read in less time than handing them to another thread takes, unless conditions
/// have to be evaluated.
const QUICK_BYTES_MAX: usize = 64 * 1024;

/// The receipt to wait for before answering, and hints about the event types.
enum PendingReceipt {
    One(Receipt, Option<TypeHint>),
    Many(Receipt<Vec<Accepted>>, TypeHints),
}

/// Hints about the types of many events, at the position of the first event of each type.
type TypeHints = BTreeMap<usize, TypeHint>;

/// How many unknown types of one request get a hint.
const HINTS_MAX: usize = 100;

fn type_hints(events: &[Event], catalogue: &Catalogue) -> TypeHints {
    let (mut seen, mut hints) = (HashSet::new(), TypeHints::new());
    for (place, event) in events.iter().enumerate() {
        if seen.insert(event.event_type())
            && let Some(hint) = catalogue.publish_hint(event.event_type())
        {
            hints.insert(place, hint);
            if hints.len() == HINTS_MAX {
                break;
            }
        }
    }
    hints
}

/// `POST /events`.
pub(crate) async fn publish(host: HostRef, request: Request) -> RouteResult {
    let is_ndjson = is_ndjson(request.headers());
    let (caller, body) = host.admit(request, host.shared.body_bytes_max).await?;
    let account = caller.account()?.to_owned();
    let is_quick = body.bytes.len() <= QUICK_BYTES_MAX && !host.engine.has_conditions();
    let read = move || read_and_publish(&host.engine, &account, &body, is_ndjson);
    let published = if is_quick { read()? } else { off_thread(read).await?? };
    Ok(match published {
        PendingReceipt::One(receipt, hint) => {
            json(StatusCode::ACCEPTED, &AcceptedJson::with_hint(receipt.await?, hint.as_ref()))
        }
        PendingReceipt::Many(receipt, hints) => {
            let items = receipt.await?.into_iter().enumerate();
            let items: Vec<_> = items
                .map(|(place, accepted)| AcceptedJson::with_hint(accepted, hints.get(&place)))
                .collect();
            json(StatusCode::ACCEPTED, &items)
        }
    })
}

fn read_and_publish(
    engine: &Engine,
    account: &str,
    body: &RequestBody,
    is_ndjson: bool,
) -> Result<PendingReceipt, HttpError> {
    let text = utf8(&body.bytes)?;
    let own = engine.accounts().get(account);
    let read = |text: &str| own_event(text, account, own.as_deref(), engine);
    if !is_ndjson && !has_several_lines(text) {
        let event = read(text)?;
        let hint = engine.catalogue().publish_hint(event.event_type());
        return Ok(PendingReceipt::One(engine.publish(event)?, hint));
    }
    let (events, lines) = events(text, engine.limits().queue_events_max, read)?;
    let hints = type_hints(&events, engine.catalogue());
    let published = engine.publish_many(events);
    let receipt = published.map_err(|e| HttpError::from_batch_error(e.error, &lines))?;
    Ok(PendingReceipt::Many(receipt, hints))
}

/// Whether the content type is one of those in use for JSON lines.
fn is_ndjson(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = given.and_then(|given| given.split(';').next()).unwrap_or_default().trim();
    let ndjson = [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/jsonlines",
        "application/x-jsonlines",
    ];
    ndjson.iter().any(|known| media.eq_ignore_ascii_case(known))
}

/// Whether the body is more than one JSON value. A body that is not JSON counts as one value.
fn has_several_lines(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    if !matches!(values.next(), Some(Ok(_))) {
        return false;
    }
    let rest = text.get(values.byte_offset()..).unwrap_or_default();
    let mut lines = rest.lines();
    let same_line = lines.next().unwrap_or_default();
    // More on the same line is an error of one value; on another line it is another event.
    same_line.trim().is_empty() && lines.any(|line| !line.trim().is_empty())
}

/// The events of all lines that are not empty, and the number of each line, from 1. More than the engine takes at
/// once are refused unread: an event takes many times the memory of a short line.
fn events(
    text: &str,
    most: usize,
    read: impl Fn(&str) -> Result<Event, HttpError>,
) -> Result<(Vec<Event>, Vec<usize>), HttpError> {
    let used = || (1..).zip(text.split('\n').map(str::trim)).filter(|(_, text)| !text.is_empty());
    let (count, limit) = (used().count(), most as u64);
    if count > most {
        let (field, given) = ("events".to_owned(), count as u64);
        return Err(Error::TooLarge { field, given, limit }.into());
    }
    let mut events = Vec::with_capacity(count);
    for (line, text) in used() {
        events.push(read(text).map_err(|problem| problem.on_line(line))?);
    }
    if events.is_empty() {
        let message = "the body has no event; expected one JSON object on each line";
        return Err(HttpError::new(StatusCode::BAD_REQUEST, "invalid", message));
    }
    Ok((events, used().map(|(line, _)| line).collect()))
}

/// An event of the account. The engine accepts a number that no account owns with a WABA of the account, as in
/// callbacks. Here that would tell which numbers other accounts own (I9).
pub(super) fn own_event(
    text: &str,
    account: &str,
    own: Option<&AccountInfo>,
    engine: &Engine,
) -> Result<Event, HttpError> {
    let given = parse::<EventJson<'_>>(text)?;
    let number = given.number.as_ref().and_then(|number| number.parse::<WabaNumber>().ok());
    if let (Some(number), Some(own)) = (number, own) {
        require_number(engine, own, number)?;
    }
    Ok(given.event(account)?)
}

/// Refuses a number that is not the account's.
pub(super) fn require_number(
    engine: &Engine,
    own: &AccountInfo,
    number: WabaNumber,
) -> Result<(), HttpError> {
    if engine.accounts().may_use_number(own, number) {
        return Ok(());
    }
    let (field, given) = ("number".to_owned(), number.to_string());
    Err(Error::Forbidden { field, given }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use axum::response::IntoResponse;

    fn check_refused(text: &str, says: &[&str]) {
        let refusal = of_acme(text).unwrap_err();
        let message = format!("{refusal:?}");
        for part in says {
            assert!(message.contains(part), "{message} does not say {part:?}");
        }
        assert!(!message.contains("hidden"), "{message}");
        assert_eq!(refusal.into_response().status(), StatusCode::BAD_REQUEST);
    }

    fn of_acme(text: &str) -> Result<Event, HttpError> {
        Ok(parse::<EventJson<'_>>(text)?.event("acme")?)
    }

    #[test]
    fn the_payload_is_kept_as_it_is_written() {
        let payload = r#"{ "a" : "\u0041\/ é" ,"n":1.0e+2,  "n": [ ] }"#;
        let text =
            format!(" {{\"type\":\"T\", \"payload\" : {payload} , \"number\":\"1234567\"}} ");
        assert_eq!(of_acme(&text).unwrap().payload(), payload.as_bytes());
        for payload in ["null", "7", "\" x \"", "[1, 2]", "true"] {
            let text = format!("{{\"type\":\"T\",\"waba\":\"1\",\"payload\": {payload}\t}}");
            assert_eq!(of_acme(&text).unwrap().payload(), payload.as_bytes());
        }
    }

    #[test]
    fn an_error_names_the_member_and_what_is_expected() {
        check_refused(r#"{"number":"1","payload":1}"#, &["type", "missing", "MESSAGE_RECEIVED"]);
        check_refused(r#"{"type":"T","payload":1}"#, &["\"number\"", "missing", "waba"]);
        check_refused(r#"{"type":"T","payload":1,"number":null}"#, &["number", "missing"]);
        check_refused(r#"{"type":"T","number":"1"}"#, &["payload", "missing"]);
        let number = r#"{"type":"T","number":919999999999,"payload":"hidden"}"#;
        check_refused(number, &["number: found a number", "a string"]);
        check_refused(r#"{"type":["hidden"],"number":"1","payload":1}"#, &["type", "an array"]);
        check_refused(r#"{"type":"T","number":"1","payload":1,"key":7}"#, &["key", "a number"]);
        let unknown = r#"{"type":"T","number":"1","payload":1,"dedupkey":"hidden"}"#;
        check_refused(unknown, &["dedupkey", "unknown field", "dedup_key"]);
        check_refused(r#"{"type":"T","type":"hidden","payload":1}"#, &["type", "twice"]);
        check_refused(r#"{"type":"\ud800","number":"1","payload":1}"#, &["not JSON", "hex escape"]);
        check_refused(r#"[{"type":"hidden"}]"#, &["found an array", "an object"]);
        check_refused("not hidden json", &["not JSON", "column"]);
        check_refused(r#""hidden""#, &["found a string"]);
        check_refused(r#"{"type":"T","payload":{"a":hidden}}"#, &["not JSON", "column"]);
        check_refused("", &["not JSON"]);
        let more = r#"{"type":"T","number":"1","payload":1} x"#;
        check_refused(more, &["not JSON", "trailing"]);
    }

    #[test]
    fn empty_lines_count_as_lines() {
        let good = r#"{"type":"T","number":"1234567","payload":{"a":1}}"#;
        let (found, lines) = events(&format!("\n{good}\r\n\n  \n{good}"), 2, of_acme).unwrap();
        assert_eq!((found.len(), lines), (2, vec![2, 5]));
        assert_eq!(found[0].payload(), br#"{"a":1}"#);
        let refusal = events(&format!("{good}\n\n{{\"type\":1}}\n{good}"), 9, of_acme).unwrap_err();
        assert!(format!("{refusal:?}").contains("line 3: type: found a number"), "{refusal:?}");
        let refusal = events(&format!("{good}\n{good},\n"), 9, of_acme).unwrap_err();
        assert!(format!("{refusal:?}").contains("line 2: not JSON"), "{refusal:?}");
        assert!(format!("{:?}", events(" \n", 9, of_acme).unwrap_err()).contains("no event"));
    }

    #[test]
    fn an_unknown_type_is_remarked_on_at_its_first_event() {
        let events =
            ["MESSAGE_RECEIVED", "MESSAGE_RECIEVED", "MESSAGE_RECIEVED", "ADD_TAG", "OWN_TYPE"];
        let events = events.map(|name| Event::new(name, "{}"));
        let hints = type_hints(&events, &Catalogue::default());
        let hints: Vec<_> = hints.iter().map(|(place, hint)| (*place, hint.name())).collect();
        assert_eq!(hints, [(1, "MESSAGE_RECIEVED"), (4, "OWN_TYPE")]);
        let many: Vec<_> = (0..1_000).map(|n| Event::new(format!("OWN_{n}"), "{}")).collect();
        assert_eq!(type_hints(&many, &Catalogue::default()).len(), HINTS_MAX);
    }

    #[test]
    fn lines_are_found_by_content_type_or_by_number() {
        for (given, lines) in [
            ("application/x-ndjson", true),
            ("Application/JSONL; charset=utf-8", true),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(given));
            assert_eq!(is_ndjson(&headers), lines, "{given}");
        }
        assert!(!is_ndjson(&HeaderMap::new()));
        for (body, lines) in [
            ("{}\n{}", true),
            ("{}\r\n\n{}", true),
            ("{}\nno json", true),
            ("{\n}\n{}", true),
            ("{}\n\n", false),
            ("{\n\"a\":1}", false),
            ("{} {}", false),
            ("{\n{}", false),
            ("", false),
        ] {
            assert_eq!(has_several_lines(body), lines, "{body:?}");
        }
    }
}

//! Decides what `POST /events` takes and answers: one event, or many, one a line, all or none.
//!
//! Leaves to others: whether an event is acceptable (`Engine::publish`). Invariants: a 202 is sent
//! after the events are on the device (I1); what is delivered is the text of `payload` exactly as
//! it stands in the request.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use wabahook::{Accepted, Engine, Event, Receipt};

use crate::host::{Caller, Host, Taken, off_thread};
use crate::refusal::{Refusal, json};
use wabahook::registration::fields::{self, Object};

const FIELDS: &[&str] = &["type", "number", "waba", "payload", "key", "dedup_key"];
const NUMBER: &str = "a WABA number as a string of 7 to 15 digits, such as \"919999999999\"";

#[derive(Serialize)]
struct Item {
    id: String,
    owed: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl From<Accepted> for Item {
    fn from(accepted: Accepted) -> Item {
        let Accepted { id, owed, duplicate, .. } = accepted;
        Item { id: id.to_string(), owed, duplicate }
    }
}

/// Bodies up to this size are read in less time than handing them to another thread takes.
const QUICK_BYTES_MAX: usize = 64 * 1024;

/// What is waited for before the answer.
enum Published {
    One(Receipt),
    Many(Receipt<Vec<Accepted>>),
}

/// `POST /events`.
pub(crate) async fn publish(
    State(host): State<Arc<Host>>,
    request: Request,
) -> Result<Response, Refusal> {
    let says_lines = says_lines(request.headers());
    let (Caller(account), body) = host.admit(request, host.body_bytes_max).await?;
    let is_quick = body.bytes.len() <= QUICK_BYTES_MAX;
    let read = move || read_and_publish(&host.engine, &account, &body, says_lines);
    let published = if is_quick { read()? } else { off_thread(read).await?? };
    Ok(match published {
        Published::One(receipt) => json(StatusCode::ACCEPTED, &Item::from(receipt.await?)),
        Published::Many(receipt) => {
            let items: Vec<Item> = receipt.await?.into_iter().map(Item::from).collect();
            json(StatusCode::ACCEPTED, &items)
        }
    })
}

fn read_and_publish(
    engine: &Engine,
    account: &str,
    body: &Taken,
    says_lines: bool,
) -> Result<Published, Refusal> {
    let text = fields::utf8(&body.bytes)?;
    if !says_lines && !holds_lines(text) {
        return Ok(Published::One(engine.publish(event(text, account)?)?));
    }
    let (events, lines) = events(text, account)?;
    let published = engine.publish_many(events);
    Ok(Published::Many(published.map_err(|e| Refusal::from_batch_error(e, &lines))?))
}

/// Whether the content type is one of those that people give to JSON lines.
fn says_lines(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = given.and_then(|given| given.split(';').next()).unwrap_or_default().trim();
    let of_lines = [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/jsonlines",
        "application/x-jsonlines",
    ];
    of_lines.iter().any(|known| media.eq_ignore_ascii_case(known))
}

/// Whether the body is more than one JSON value. What is no JSON is told as one value.
fn holds_lines(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    if !matches!(values.next(), Some(Ok(_))) {
        return false;
    }
    let rest = text.get(values.byte_offset()..).unwrap_or_default();
    let mut lines = rest.lines();
    let same_line = lines.next().unwrap_or_default();
    // What follows on the same line is an error of one value; on another line it is another event.
    same_line.trim().is_empty() && lines.any(|line| !line.trim().is_empty())
}

/// The events of the lines that are not empty, and the line of each, counted from 1.
fn events(text: &str, account: &str) -> Result<(Vec<Event>, Vec<usize>), Refusal> {
    let mut events = Vec::new();
    let mut lines = Vec::new();
    for (line, text) in (1..).zip(text.split('\n')) {
        let text = text.trim();
        if !text.is_empty() {
            events.push(event(text, account).map_err(|refusal| refusal.on_line(line))?);
            lines.push(line);
        }
    }
    if events.is_empty() {
        let message = "the body holds no event; expected one JSON object a line";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid", message));
    }
    Ok((events, lines))
}

fn event(text: &str, account: &str) -> Result<Event, Refusal> {
    let given = Object::read(text, FIELDS)?;
    let kind = given.required_text("type", "an event type such as \"MESSAGE_RECEIVED\"")?;
    let number = given.text("number", NUMBER)?;
    let waba = given.text("waba", "the id of a WABA as a string")?;
    let payload = given.raw("payload").ok_or_else(|| given.missing("payload", "any JSON value"))?;
    let mut event = Event::new(kind, payload.get()).account(account);
    if number.is_none() && waba.is_none() {
        return Err(given.missing("number", &format!("{NUMBER}, or \"waba\"")).into());
    }
    if let Some(number) = number {
        event = event.number(number);
    }
    if let Some(waba) = waba {
        event = event.waba(waba);
    }
    if let Some(key) = given.text("key", "a string")? {
        event = event.key(key);
    }
    if let Some(dedup_key) = given.text("dedup_key", "a string")? {
        event = event.dedup_key(dedup_key);
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use axum::response::IntoResponse;

    fn check_refused(text: &str, says: &[&str]) {
        let refusal = event(text, "acme").unwrap_err();
        let message = format!("{refusal:?}");
        for part in says {
            assert!(message.contains(part), "{message} does not say {part:?}");
        }
        assert!(!message.contains("hidden"), "{message}");
        assert_eq!(refusal.into_response().status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn the_payload_is_the_text_as_it_stands() {
        let payload = r#"{ "a" : "\u0041\/ é" ,"n":1.0e+2,  "n": [ ] }"#;
        let text =
            format!(" {{\"type\":\"T\", \"payload\" : {payload} , \"number\":\"1234567\"}} ");
        assert_eq!(event(&text, "acme").unwrap().payload(), payload.as_bytes());
        for payload in ["null", "7", "\" x \"", "[1, 2]", "true"] {
            let text = format!("{{\"type\":\"T\",\"waba\":\"1\",\"payload\": {payload}\t}}");
            assert_eq!(event(&text, "acme").unwrap().payload(), payload.as_bytes());
        }
    }

    #[test]
    fn a_bad_event_is_named_by_its_field_with_what_was_found_and_what_is_right() {
        check_refused(r#"{"number":"1","payload":1}"#, &["type", "missing", "MESSAGE_RECEIVED"]);
        check_refused(r#"{"type":"T","payload":1}"#, &["\"number\"", "missing", "waba"]);
        check_refused(r#"{"type":"T","payload":1,"number":null}"#, &["number", "missing"]);
        check_refused(r#"{"type":"T","number":"1"}"#, &["payload", "missing"]);
        let number = r#"{"type":"T","number":919999999999,"payload":"hidden"}"#;
        check_refused(number, &["number: found a number", "as a string"]);
        check_refused(r#"{"type":["hidden"],"number":"1","payload":1}"#, &["type", "an array"]);
        check_refused(r#"{"type":"T","number":"1","payload":1,"key":7}"#, &["key", "a number"]);
        let unknown = r#"{"type":"T","number":"1","payload":1,"dedupkey":"hidden"}"#;
        check_refused(unknown, &["dedupkey", "unknown field", "dedup_key"]);
        check_refused(r#"{"type":"T","type":"hidden","payload":1}"#, &["type", "twice"]);
        check_refused(r#"{"type":"\ud800","number":"1","payload":1}"#, &["type", "surrogate"]);
        check_refused(r#"[{"type":"hidden"}]"#, &["found an array", "one JSON object"]);
        check_refused("not hidden json", &["not JSON", "one JSON object"]);
        check_refused(r#""hidden""#, &["found a string"]);
        check_refused(r#"{"type":"T","payload":{"a":hidden}}"#, &["not JSON", "column"]);
        check_refused("", &["not JSON"]);
        check_refused("{\"type\":\"T\"} x", &["not JSON", "trailing"]);
    }

    #[test]
    fn lines_are_counted_as_they_stand_in_the_body() {
        let good = r#"{"type":"T","number":"1234567","payload":{"a":1}}"#;
        let (found, lines) = events(&format!("\n{good}\r\n\n  \n{good}"), "acme").unwrap();
        assert_eq!((found.len(), lines), (2, vec![2, 5]));
        assert_eq!(found[0].payload(), br#"{"a":1}"#);
        let refusal = events(&format!("{good}\n\n{{\"type\":1}}\n{good}"), "acme").unwrap_err();
        assert!(format!("{refusal:?}").contains("line 3: type: found a number"), "{refusal:?}");
        let refusal = events(&format!("{good}\n{good},\n"), "acme").unwrap_err();
        assert!(format!("{refusal:?}").contains("line 2: not JSON"), "{refusal:?}");
        assert!(format!("{:?}", events(" \n", "acme").unwrap_err()).contains("no event"));
    }

    #[test]
    fn lines_are_known_by_their_content_type_or_by_being_several() {
        for (given, lines) in [
            ("application/x-ndjson", true),
            ("Application/JSONL; charset=utf-8", true),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(given));
            assert_eq!(says_lines(&headers), lines, "{given}");
        }
        assert!(!says_lines(&HeaderMap::new()));
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
            assert_eq!(holds_lines(body), lines, "{body:?}");
        }
    }
}

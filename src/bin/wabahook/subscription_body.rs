//! Decides how the body of `POST /subscriptions` is read.
//!
//! Leaves to others: the terms in it (`terms_body`), and whether its values are acceptable
//! (`Engine::register`). Invariant: a field that would not be honoured is refused by name, never left unsaid.

use serde_json::value::RawValue;
use wabahook::Subscription;

use crate::refusal::Refusal;
use crate::terms_body;
use wabahook::registration::fields::{self, Object};

const FIELDS: &[&str] = &["name", "url", "events", "numbers", "secret", "headers"];
/// Named by the contract of this route and served by a later version; until then each may say what
/// is done without it, if there is a word for that.
const NOT_YET: &[(&str, Option<&str>)] = &[
    ("method", Some("\"POST\"")),
    ("query", None),
    ("body", None),
    ("authorization", None),
    ("body_format", Some("\"JSON\"")),
    ("tls", None),
];
const EVENTS: &str = "a list of event types such as [\"MESSAGE_RECEIVED\"], or \"*\" for all";
const NUMBERS: &str =
    "a list of WABA numbers such as [\"919999999999\"], or \"*\" for all of the account";

/// The subscription that a request body describes.
pub(crate) fn read(text: &str, account: &str) -> Result<Subscription, Refusal> {
    let not_yet = NOT_YET.iter().map(|(field, _)| field);
    let known: Vec<&str> =
        FIELDS.iter().chain(terms_body::FIELDS).chain(not_yet).copied().collect();
    let given = Object::read(text, &known)?;
    let asks_more = |field: &str, without: Option<&str>| {
        given.given(field).is_some_and(|raw| Some(raw.get()) != without)
    };
    if let Some((field, _)) = NOT_YET.iter().find(|(field, without)| asks_more(field, *without)) {
        return Err(Refusal::invalid(field, "not supported by this version; leave it out"));
    }
    let name = given.required_text("name", "a name, unique in the account")?;
    if name.is_empty() {
        return Err(Refusal::invalid("name", "found an empty string; expected a name"));
    }
    let url = given.required_text("url", "an absolute URL such as \"https://crm.example/hook\"")?;
    let mut subscription = Subscription::to(url)?.account(account).name(name);
    if let Some(events) = set(&given, "events", EVENTS)? {
        subscription = subscription.events(events);
    }
    if let Some(numbers) = set(&given, "numbers", NUMBERS)? {
        subscription = subscription.numbers(numbers);
    }
    if let Some(secret) = given.text("secret", "a string")? {
        subscription = subscription.secret(secret);
    }
    for (name, value) in headers(&given)? {
        subscription = subscription.header(name, value);
    }
    Ok(subscription.policy(terms_body::read(&given)?))
}

/// A list of texts, or `None` for `"*"`. A star inside a list would name nothing: refused.
fn set(given: &Object<'_>, name: &str, expected: &str) -> Result<Option<Vec<String>>, Refusal> {
    let raw = given.given(name).ok_or_else(|| given.missing(name, expected))?;
    if let Ok(all) = serde_json::from_str::<String>(raw.get()) {
        let problem = "found another string; expected ";
        return match all.as_str() {
            "*" => Ok(None),
            _ => Err(Refusal::invalid(name, format!("{problem}{expected}"))),
        };
    }
    let items: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| fields::wrong_kind(name, raw, expected))?;
    let item = |(place, raw): (usize, &&RawValue)| {
        let field = format!("{name}[{place}]");
        match fields::text(&field, raw, "a string")?.as_str() {
            "*" => Err(Refusal::invalid(&field, "found \"*\" inside a list; give it alone")),
            text => Ok(text.to_owned()),
        }
    };
    items.iter().enumerate().map(item).collect::<Result<_, _>>().map(Some)
}

fn headers(given: &Object<'_>) -> Result<Vec<(String, String)>, Refusal> {
    let Some(raw) = given.given("headers") else { return Ok(Vec::new()) };
    let object = Object::read_inner("headers", "headers.", raw)?;
    let header = |(name, raw): (&str, &RawValue)| {
        Ok((name.to_owned(), fields::text(&format!("headers.{name}"), raw, "a string")?))
    };
    object.pairs().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;

    const REST: &str = r#""name":"crm","url":"https://crm.example/","events":"*","numbers":"*""#;

    fn check_refused(text: &str, says: &[&str]) {
        let refusal = read(text, "acme").unwrap_err();
        let message = format!("{refusal:?}");
        for part in says {
            assert!(message.contains(part), "{message} does not say {part:?}");
        }
        assert!(!message.contains("hidden"), "{message}");
        assert_eq!(refusal.into_response().status(), StatusCode::BAD_REQUEST);
    }

    fn check_field_refused(field: &str, says: &[&str]) {
        check_refused(&format!("{{{REST},{field}}}"), says);
    }

    #[test]
    fn everything_that_is_served_is_accepted() {
        for fields in [
            "",
            r#","secret":"whsec_aGk=","headers":{"x-a":"1"},"timeout_ms":500,"accept":"200""#,
            r#","accept":"2xx","ordering":"none","method":"POST","tls":null,"secret":null"#,
        ] {
            let read = read(&format!("{{{REST}{fields}}}"), "acme");
            assert!(read.is_ok(), "{fields}: {:?}", read.err());
        }
    }

    #[test]
    fn what_must_be_there_is_asked_for_by_name() {
        check_refused("{}", &["name", "missing"]);
        check_refused(r#"{"name":"a"}"#, &["url", "missing"]);
        check_refused(r#"{"name":"a","url":"https://a.example/"}"#, &["events", "missing"]);
        let events = r#"{"name":"a","url":"https://a.example/","events":"*"}"#;
        check_refused(events, &["numbers", "missing", "of the account"]);
        check_refused(r#"{"name":"","url":"https://a.example/"}"#, &["name", "empty"]);
        check_refused(r#"{"name":"a","url":"crm.example"}"#, &["url", "absolute"]);
    }

    #[test]
    fn sets_are_lists_of_texts_or_a_star_alone() {
        let with = |set: &str| {
            format!(r#"{{"name":"a","url":"https://a.example/","numbers":"*","events":{set}}}"#)
        };
        check_refused(&with("7"), &["events", "found a number", "or \\\"*\\\""]);
        check_refused(&with(r#""hidden""#), &["events", "another string"]);
        check_refused(&with(r#"["A",1]"#), &["events[1]", "found a number"]);
        check_refused(&with(r#"["A","*"]"#), &["events[1]", "inside a list"]);
    }

    #[test]
    fn fields_that_would_not_be_honoured_are_refused_by_name() {
        for (field, _) in NOT_YET {
            let given = format!("\"{field}\":\"hidden\"");
            check_field_refused(&given, &[field, "not supported by this version"]);
        }
        check_field_refused(r#""colour":"hidden""#, &["colour", "unknown field"]);
        check_field_refused(r#""name":"hidden""#, &["name", "twice"]);
    }

    #[test]
    fn wrong_types_and_values_name_the_field_and_what_is_right() {
        check_field_refused(r#""secret":7"#, &["secret", "found a number"]);
        check_field_refused(r#""headers":["hidden"]"#, &["headers", "found an array"]);
        check_field_refused(r#""headers":{"x-a":1}"#, &["headers.x-a", "found a number"]);
    }
}

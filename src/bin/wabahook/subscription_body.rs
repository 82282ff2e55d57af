//! Decides how the bodies of `POST /subscriptions`, `PATCH /subscriptions/{id}` and
//! `POST /subscriptions/{id}/secret` are read.
//!
//! Leaves to others: where and how requests go (`target_body`), the terms (`terms_body`), and whether
//! values are acceptable (`Engine::register`, `Engine::revise`). Invariant: a field that would not be
//! honoured is refused by name, never left unsaid; a change leaves what it does not name as it was.

use serde_json::value::RawValue;
use wabahook::registration::fields::{self, Object};
use wabahook::{Registered, Secret, Subscription};

use crate::refusal::Refusal;
use crate::{target_body, terms_body};

const FIELDS: &[&str] = &["name", "url", "events", "numbers", "secret"];
const NAME: &str = "a name, unique in the account";
const URL: &str = "an absolute URL such as \"https://crm.example/hook\"";
const EVENTS: &str = "a list of event types such as [\"MESSAGE_RECEIVED\"], or \"*\" for all";
const NUMBERS: &str =
    "a list of WABA numbers such as [\"919999999999\"], or \"*\" for all of the account";
const SECRET: &str = "a string";

/// The subscription that a request body describes.
pub(crate) fn read(text: &str, account: &str) -> Result<Subscription, Refusal> {
    Ok(described(text, None)?.account(account))
}

/// A subscription with what a request body changes of it: what is not named stays, and `null` puts a
/// field back to its default.
pub(crate) fn revised(text: &str, before: &Registered) -> Result<Subscription, Refusal> {
    let subscription = described(text, Some(before))?.account(&before.account);
    Ok(subscription.profile(before.profile).level(before.level))
}

fn described(text: &str, before: Option<&Registered>) -> Result<Subscription, Refusal> {
    let known: Vec<&str> =
        FIELDS.iter().chain(target_body::FIELDS).chain(terms_body::FIELDS).copied().collect();
    let given = Object::read(text, &known)?;
    let kept = |field: &str| before.filter(|_| given.raw(field).is_none());
    let name = match kept("name") {
        Some(before) => before.name.clone(),
        None => given.required_text("name", NAME)?,
    };
    if name.is_empty() {
        return Err(Refusal::invalid("name", "found an empty string; expected a name"));
    }
    let url = match kept("url") {
        Some(before) => before.target.url().to_string(),
        None => given.required_text("url", URL)?,
    };
    let mut subscription = Subscription::to(url)?.name(name);
    let events = match kept("events") {
        Some(before) => before.filter.events.as_ref().map(texts),
        None => set(&given, "events", EVENTS)?,
    };
    let numbers = match kept("numbers") {
        Some(before) => before.filter.numbers.as_ref().map(texts),
        None => set(&given, "numbers", NUMBERS)?,
    };
    let secret = match kept("secret") {
        Some(before) => before.secret.clone(),
        None => given.text("secret", SECRET)?.map(Secret::new),
    };
    subscription = events.into_iter().fold(subscription, Subscription::events);
    subscription = numbers.into_iter().fold(subscription, Subscription::numbers);
    subscription = secret.into_iter().fold(subscription, Subscription::secret);
    let terms = before.map(|before| before.policy.clone()).unwrap_or_default();
    let subscription = subscription.policy(terms_body::read(&given, terms)?);
    target_body::read(&given, before.map(|before| &before.target), subscription)
}

fn texts<'a, T: ToString + 'a>(set: impl IntoIterator<Item = &'a T>) -> Vec<String> {
    set.into_iter().map(ToString::to_string).collect()
}

/// The secret that is to sign from now on, where one is given, and for how long the one before it does.
pub(crate) fn read_rotation(text: &str) -> Result<(Option<Secret>, u64), Refusal> {
    let given = Object::read(text, &["secret", "overlap_ms"])?;
    let expected =
        "for how many milliseconds the secret before signs beside it; 0 revokes it at once";
    let overlap_ms = given.required_value("overlap_ms", expected)?;
    Ok((given.text("secret", SECRET)?.map(Secret::new), overlap_ms))
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
            r#","method":"HEAD","query":{"a":"b","n":-1.50,"t":true},"body":{"x":{"y":[1, 2]},"z":null}"#,
            r#","authorization":{"type":"BASIC","payload":"u:p"},"body_format":"FORM_DATA","tls":{}"#,
            r#","authorization":{"payload":"t","type":"BEARER"},"body_format":"JSON","query":null"#,
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
    fn fields_that_are_not_known_are_refused_by_name() {
        check_field_refused(r#""colour":"hidden""#, &["colour", "unknown field"]);
        check_field_refused(r#""name":"hidden""#, &["name", "twice"]);
    }

    #[test]
    fn wrong_types_and_values_name_the_field_and_what_is_right() {
        check_field_refused(r#""secret":7"#, &["secret", "found a number"]);
        check_field_refused(r#""headers":["hidden"]"#, &["headers", "found an array"]);
        check_field_refused(r#""headers":{"x-a":1}"#, &["headers.x-a", "found a number"]);
        check_field_refused(r#""method":"hidden""#, &["method", "another string", "HEAD"]);
        check_field_refused(r#""method":"post""#, &["method", "another string"]);
        check_field_refused(r#""method":1"#, &["method", "found a number"]);
        check_field_refused(r#""query":"a=hidden""#, &["query", "found a string", "an object"]);
        check_field_refused(r#""query":{"a":["hidden"]}"#, &["query.a", "found an array"]);
        check_field_refused(r#""query":{"a":null}"#, &["query.a", "found null"]);
        check_field_refused(r#""query":{"a":"1","a":"hidden"}"#, &["query.a", "twice"]);
        check_field_refused(r#""body":["hidden"]"#, &["body", "found an array"]);
        check_field_refused(r#""body_format":"json""#, &["body_format", "FORM_DATA"]);
        check_field_refused(r#""authorization":"hidden""#, &["authorization", "found a string"]);
        let digest = r#""authorization":{"type":"DIGEST","payload":"hidden"}"#;
        check_field_refused(digest, &["authorization.type", "BEARER"]);
        let bare = r#""authorization":{"type":"BASIC"}"#;
        check_field_refused(bare, &["authorization.payload", "missing"]);
        let number = r#""authorization":{"type":"BASIC","payload":7}"#;
        check_field_refused(number, &["authorization.payload", "found a number"]);
        let more = r#""authorization":{"type":"BASIC","payload":"hidden","user":"a"}"#;
        check_field_refused(more, &["authorization.user", "unknown field"]);
        check_field_refused(r#""tls":true"#, &["tls", "found a boolean"]);
        check_field_refused(r#""tls":{"ca":"hidden"}"#, &["tls.ca", "unknown field"]);
        check_field_refused(r#""tls":{"roots_pem":1}"#, &["tls.roots_pem", "found a number"]);
        let alone = r#""tls":{"client_certificate_pem":"hidden"}"#;
        check_field_refused(alone, &["tls.client_key_pem", "missing"]);
        let alone = r#""tls":{"client_key_pem":"hidden"}"#;
        check_field_refused(alone, &["tls.client_certificate_pem", "missing"]);
    }

    #[test]
    fn a_rotation_names_its_overlap_and_nothing_unknown() {
        let (secret, overlap_ms) = read_rotation(r#"{"overlap_ms":60000}"#).unwrap();
        assert_eq!((secret, overlap_ms), (None, 60_000));
        let (secret, overlap_ms) = read_rotation(r#"{"secret":"s","overlap_ms":0}"#).unwrap();
        assert_eq!((secret, overlap_ms), (Some(Secret::new("s")), 0));
        for (text, says) in [
            ("{}", "overlap_ms: missing"),
            (r#"{"overlap_ms":-1}"#, "overlap_ms: found a number"),
            (r#"{"overlap_ms":"hidden"}"#, "overlap_ms: found a string"),
            (r#"{"overlap_ms":0,"secret":7}"#, "secret: found a number"),
            (r#"{"overlap_ms":0,"key":"hidden"}"#, "key: unknown field"),
        ] {
            let refusal = format!("{:?}", read_rotation(text).unwrap_err());
            assert!(refusal.contains(says) && !refusal.contains("hidden"), "{refusal}");
        }
    }
}

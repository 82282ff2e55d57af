//! Decides how the body of `POST /subscriptions` is read.
//!
//! Leaves to others: whether its values are acceptable (`Engine::register`). Invariant: a field
//! that would not be honoured is refused by name, never left unsaid.

use serde_json::value::RawValue;
use wabahook::{Accept, Policy, Retry, Subscription};

use crate::fields::{self, Object};
use crate::refusal::Refusal;

const FIELDS: &[&str] = &[
    "name",
    "url",
    "events",
    "numbers",
    "secret",
    "headers",
    "retry",
    "retry_on_timeout",
    "timeout_ms",
    "accept",
];
/// Named by the contract of this route and served by a later version; until then each may say what
/// is done without it, if there is a word for that.
const NOT_YET: &[(&str, Option<&str>)] = &[
    ("method", Some("\"POST\"")),
    ("query", None),
    ("body", None),
    ("authorization", None),
    ("body_format", Some("\"JSON\"")),
    ("ordering", Some("\"none\"")),
    ("rate_limit", None),
    ("after", None),
    ("tls", None),
];
const EVENTS: &str = "a list of event types such as [\"MESSAGE_RECEIVED\"], or \"*\" for all";
const NUMBERS: &str =
    "a list of WABA numbers such as [\"919999999999\"], or \"*\" for all of the account";
const MS: &str = "a whole number of milliseconds";

/// The subscription that a request body describes.
pub(crate) fn read(text: &str, account: &str) -> Result<Subscription, Refusal> {
    let known: Vec<&str> =
        FIELDS.iter().copied().chain(NOT_YET.iter().map(|(field, _)| *field)).collect();
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
    Ok(subscription.policy(policy(&given)?))
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

fn policy(given: &Object<'_>) -> Result<Policy, Refusal> {
    let mut policy = Policy::default();
    if let Some(raw) = given.given("retry") {
        read_retry(&Object::read_inner("retry", "retry.", raw)?, &mut policy)?;
    }
    policy.retry_on_timeout =
        given.value("retry_on_timeout", "true or false")?.unwrap_or(policy.retry_on_timeout);
    policy.timeout_ms = given.value("timeout_ms", MS)?.unwrap_or(policy.timeout_ms);
    let expected = "\"2xx\" or \"200\"";
    policy.accept = match given.text("accept", expected)?.as_deref() {
        None => policy.accept,
        Some("2xx") => Accept::Any2xx,
        Some("200") => Accept::Only200,
        Some(_) => {
            let problem = format!("found another string; expected {expected}");
            return Err(Refusal::invalid("accept", problem));
        }
    };
    Ok(policy)
}

fn read_retry(given: &Object<'_>, policy: &mut Policy) -> Result<(), Refusal> {
    let kinds = "\"exponential\", \"linear\" or \"list\"";
    let kind = given.required_text("kind", kinds)?;
    policy.retry = match kind.as_str() {
        "exponential" => {
            given.check_names(&[
                "kind",
                "initial_ms",
                "max_ms",
                "jitter",
                "attempts",
                "max_age_ms",
            ])?;
            Retry::Exponential {
                initial_ms: given.required_value("initial_ms", MS)?,
                max_ms: given.required_value("max_ms", MS)?,
                jitter_permille: jitter_permille(given)?,
            }
        }
        "linear" => {
            given.check_names(&["kind", "step_ms", "max_ms", "attempts", "max_age_ms"])?;
            Retry::Linear {
                step_ms: given.required_value("step_ms", MS)?,
                max_ms: given.required_value("max_ms", MS)?,
            }
        }
        "list" => {
            given.check_names(&["kind", "delays_ms", "attempts", "max_age_ms"])?;
            let expected = "a list of whole numbers of milliseconds";
            Retry::List { delays_ms: given.required_value("delays_ms", expected)? }
        }
        _ => {
            let problem = format!("found another string; expected {kinds}");
            return Err(Refusal::invalid("retry.kind", problem));
        }
    };
    policy.attempts_max = given.value("attempts", "a whole number of attempts")?;
    policy.age_max_ms = given.value("max_age_ms", MS)?.unwrap_or(policy.age_max_ms);
    Ok(())
}

fn jitter_permille(given: &Object<'_>) -> Result<u16, Refusal> {
    let expected = "a share from 0 to 1";
    let Some(jitter) = given.value::<f64>("jitter", expected)? else {
        let Retry::Exponential { jitter_permille, .. } = Retry::default() else { return Ok(0) };
        return Ok(jitter_permille);
    };
    if !(0.0..=1.0).contains(&jitter) {
        let problem = format!("{jitter} given; expected {expected}");
        return Err(Refusal::invalid("retry.jitter", problem));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 1000 by the check above"
    )]
    Ok((jitter * 1000.0).round() as u16)
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
            r#","retry":{"kind":"exponential","initial_ms":1,"max_ms":2,"jitter":0.5}"#,
            r#","retry":{"kind":"linear","step_ms":50,"max_ms":200,"attempts":3}"#,
            r#","retry":{"kind":"list","delays_ms":[1,2],"max_age_ms":60000},"secret":null"#,
            r#","retry_on_timeout":false,"accept":"2xx","ordering":"none","method":"POST","tls":null"#,
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
        let retry = r#""retry":{"kind":"linear","step_ms":1,"max_ms":2,"jitter":0.5}"#;
        check_field_refused(retry, &["retry.jitter", "unknown field"]);
    }

    #[test]
    fn wrong_types_and_values_name_the_field_and_what_is_right() {
        check_field_refused(r#""secret":7"#, &["secret", "found a number"]);
        check_field_refused(r#""headers":["hidden"]"#, &["headers", "found an array"]);
        check_field_refused(r#""headers":{"x-a":1}"#, &["headers.x-a", "found a number"]);
        check_field_refused(r#""timeout_ms":"hidden""#, &["timeout_ms", "milliseconds"]);
        check_field_refused(r#""timeout_ms":-1"#, &["timeout_ms", "milliseconds"]);
        check_field_refused(r#""retry_on_timeout":"yes""#, &["retry_on_timeout", "true or false"]);
        check_field_refused(r#""accept":"201""#, &["accept", "2xx"]);
        check_field_refused(r#""retry":3"#, &["retry", "an object"]);
        check_field_refused(r#""retry":{"attempts":3}"#, &["retry.kind", "missing"]);
        check_field_refused(r#""retry":{"kind":"hidden"}"#, &["retry.kind", "linear"]);
        let list = r#""retry":{"kind":"list","delays_ms":["a"]}"#;
        check_field_refused(list, &["retry.delays_ms", "list of whole numbers"]);
        let jitter = r#""retry":{"kind":"exponential","initial_ms":1,"max_ms":2,"jitter":20}"#;
        check_field_refused(jitter, &["retry.jitter", "20", "from 0 to 1"]);
    }
}

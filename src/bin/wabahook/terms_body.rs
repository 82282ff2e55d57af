//! Decides how the terms of a subscription are read: when to try again, in which order, how fast.
//!
//! Leaves to others: their bounds (`Engine::register`). Invariant: a term that is not given is as it
//! is by default, and one that is given and not understood is refused by name.

use serde_json::value::RawValue;
use wabahook::{Accept, Breaker, Ordering, Policy, RateLimit, Retried, Retry, SubscriptionId};

use wabahook::registration::fields::{self, Object};

use crate::asked::SUBSCRIPTION;
use crate::refusal::Refusal;

/// The fields of a subscription that are terms.
pub(crate) const FIELDS: &[&str] = &[
    "retry",
    "retry_on_timeout",
    "timeout_ms",
    "accept",
    "retried",
    "obeys_receiver",
    "ordering",
    "rate_limit",
    "after",
    "breaker",
    "disable_after_ms",
    "retrying_max",
];
const MS: &str = "a whole number of milliseconds";
/// Where a term is a number, and none means something else than leaving it out.
const NEVER: &str = "\"never\"";

/// The terms among the fields of a subscription, and those of `before` where they are not given. A term
/// that is given is read as if it had been at its default before.
pub(crate) fn read(given: &Object<'_>, before: Policy) -> Result<Policy, Refusal> {
    let mut policy = before;
    let mut default = Policy::default();
    for field in FIELDS.iter().filter(|field| given.raw(field).is_some()) {
        reset(field, &mut policy, &mut default);
    }
    if let Some(retry) = given.inner("retry", "retry.")? {
        read_retry(&retry, &mut policy)?;
    }
    policy.retry_on_timeout =
        given.value("retry_on_timeout", "true or false")?.unwrap_or(policy.retry_on_timeout);
    policy.timeout_ms = given.value("timeout_ms", MS)?.unwrap_or(policy.timeout_ms);
    read_manners(given, &mut policy)?;
    read_turns(given, &mut policy)?;
    read_failing(given, &mut policy)?;
    Ok(policy)
}

/// Puts a term back to its default.
fn reset(field: &str, policy: &mut Policy, default: &mut Policy) {
    match field {
        "retry" => {
            policy.retry = std::mem::take(&mut default.retry);
            policy.attempts_max = default.attempts_max;
            policy.age_max_ms = default.age_max_ms;
        }
        "retry_on_timeout" => policy.retry_on_timeout = default.retry_on_timeout,
        "timeout_ms" => policy.timeout_ms = default.timeout_ms,
        "accept" => policy.accept = default.accept,
        "retried" => policy.retried = default.retried,
        "obeys_receiver" => policy.obeys_receiver = default.obeys_receiver,
        "ordering" => policy.ordering = default.ordering,
        "rate_limit" => policy.rate_limit = default.rate_limit,
        "after" => policy.after = default.after,
        "breaker" => policy.breaker = default.breaker,
        "disable_after_ms" => policy.disable_after_ms = default.disable_after_ms,
        "retrying_max" => policy.retrying_max = default.retrying_max,
        _ => {}
    }
}

/// One of a few words, which may be left out.
pub(crate) fn read_word<T: Clone>(
    given: &Object<'_>,
    field: &str,
    expected: &str,
    words: &[(&str, T)],
) -> Result<Option<T>, Refusal> {
    let Some(text) = given.text(field, expected)? else { return Ok(None) };
    let meant = words.iter().find(|(word, _)| *word == text).map(|(_, meant)| meant.clone());
    let unknown = || format!("found another string; expected {expected}");
    meant.map(Some).ok_or_else(|| Refusal::invalid(field, unknown()))
}

/// What an answer means.
fn read_manners(given: &Object<'_>, policy: &mut Policy) -> Result<(), Refusal> {
    let accepts = [("2xx", Accept::Any2xx), ("200", Accept::Only200)];
    policy.accept =
        read_word(given, "accept", "\"2xx\" or \"200\"", &accepts)?.unwrap_or(policy.accept);
    let retried = [("passing", Retried::Passing), ("all", Retried::All)];
    policy.retried =
        read_word(given, "retried", "\"passing\" or \"all\"", &retried)?.unwrap_or(policy.retried);
    let obeys_receiver = given.value("obeys_receiver", "true or false")?;
    policy.obeys_receiver = obeys_receiver.unwrap_or(policy.obeys_receiver);
    Ok(())
}

/// When a delivery may start.
fn read_turns(given: &Object<'_>, policy: &mut Policy) -> Result<(), Refusal> {
    let expected = "\"none\", \"per_key\" or \"strict\"";
    let orderings =
        [("none", Ordering::None), ("per_key", Ordering::PerKey), ("strict", Ordering::Strict)];
    policy.ordering =
        read_word(given, "ordering", expected, &orderings)?.unwrap_or(policy.ordering);
    if let Some(limit) = given.inner("rate_limit", "rate_limit.")? {
        limit.check_names(&["events", "per_ms"])?;
        let events = limit.required_value("events", "a whole number of attempts")?;
        let per_ms = limit.required_value("per_ms", MS)?;
        policy.rate_limit = Some(RateLimit { events, per_ms });
    }
    let main = given.value("after", SUBSCRIPTION)?;
    policy.after = main.map(SubscriptionId).or(policy.after);
    Ok(())
}

/// What becomes of an endpoint that fails.
fn read_failing(given: &Object<'_>, policy: &mut Policy) -> Result<(), Refusal> {
    if let Some(raw) = given.given("breaker") {
        policy.breaker.failures = match raw.get() {
            NEVER => None,
            _ => read_breaker(raw, &mut policy.breaker)?,
        };
    }
    if let Some(raw) = given.given("disable_after_ms") {
        policy.disable_after_ms = match raw.get() {
            NEVER => None,
            _ => {
                let expected = format!("{MS}, or {NEVER}");
                given.value("disable_after_ms", &expected)?
            }
        };
    }
    let retrying_max = given.value("retrying_max", "a whole number of deliveries")?;
    policy.retrying_max = retrying_max.unwrap_or(policy.retrying_max);
    Ok(())
}

fn read_breaker(raw: &RawValue, breaker: &mut Breaker) -> Result<Option<u32>, Refusal> {
    if !raw.get().starts_with('{') {
        let expected = format!("an object, or {NEVER}");
        return Err(fields::wrong_kind("breaker", raw, &expected).into());
    }
    let given = Object::read_inner("breaker", "breaker.", raw)?;
    given.check_names(&["failures", "initial_ms", "max_ms"])?;
    breaker.initial_ms = given.value("initial_ms", MS)?.unwrap_or(breaker.initial_ms);
    breaker.max_ms = given.value("max_ms", MS)?.unwrap_or(breaker.max_ms);
    let failures = given.value("failures", "a whole number of failures in a row")?;
    Ok(failures.or(breaker.failures))
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
            let delays: Vec<&RawValue> = given.required_value("delays_ms", expected)?;
            let delays_ms = delays.into_iter().map(fields::parsed).collect::<Option<_>>();
            let wrong = || Refusal::invalid("retry.delays_ms", format!("expected {expected}"));
            Retry::List { delays_ms: delays_ms.ok_or_else(wrong)? }
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

    fn read_text(text: &str) -> Result<Policy, Refusal> {
        read(&Object::read(text, FIELDS)?, Policy::default())
    }

    fn check_read(text: &str, change: impl Fn(&mut Policy)) {
        let mut expected = Policy::default();
        change(&mut expected);
        assert_eq!(read_text(text).unwrap(), expected, "{text}");
    }

    #[test]
    fn every_term_is_read_and_what_is_not_given_stays_as_it_is_by_default() {
        check_read("{}", |_| {});
        check_read(r#"{"retry":null,"ordering":null,"rate_limit":null,"after":null}"#, |_| {});
        check_read(
            r#"{"retry":{"kind":"exponential","initial_ms":1,"max_ms":2,"jitter":0.5}}"#,
            |p| {
                p.retry = Retry::Exponential { initial_ms: 1, max_ms: 2, jitter_permille: 500 };
            },
        );
        check_read(r#"{"retry":{"kind":"linear","step_ms":50,"max_ms":200,"attempts":3}}"#, |p| {
            p.retry = Retry::Linear { step_ms: 50, max_ms: 200 };
            p.attempts_max = Some(3);
        });
        check_read(r#"{"retry":{"kind":"list","delays_ms":[1,2],"max_age_ms":60000}}"#, |p| {
            p.retry = Retry::List { delays_ms: vec![1, 2] };
            p.age_max_ms = 60_000;
        });
        check_read(r#"{"retry_on_timeout":false,"timeout_ms":500,"accept":"200"}"#, |p| {
            (p.retry_on_timeout, p.timeout_ms, p.accept) = (false, 500, Accept::Only200);
        });
        check_read(r#"{"retried":"all","obeys_receiver":false}"#, |p| {
            (p.retried, p.obeys_receiver) = (Retried::All, false);
        });
        check_read(r#"{"retried":"passing","obeys_receiver":true}"#, |_| {});
        check_read(r#"{"ordering":"per_key","after":7}"#, |p| {
            (p.ordering, p.after) = (Ordering::PerKey, Some(SubscriptionId(7)));
        });
        check_read(r#"{"ordering":"strict","rate_limit":{"events":5,"per_ms":1000}}"#, |p| {
            p.ordering = Ordering::Strict;
            p.rate_limit = Some(RateLimit { events: 5, per_ms: 1_000 });
        });
        check_read(r#"{"breaker":{"failures":3,"max_ms":9000},"retrying_max":8}"#, |p| {
            (p.breaker.failures, p.breaker.max_ms, p.retrying_max) = (Some(3), 9_000, 8);
        });
        check_read(r#"{"breaker":"never","disable_after_ms":"never"}"#, |p| {
            (p.breaker.failures, p.disable_after_ms) = (None, None);
        });
        check_read(r#"{"disable_after_ms":60000}"#, |p| p.disable_after_ms = Some(60_000));
        check_read(r#"{"timeout_ms":500.0,"retry":{"kind":"list","delays_ms":[1.0,2]}}"#, |p| {
            (p.timeout_ms, p.retry) = (500, Retry::List { delays_ms: vec![1, 2] });
        });
    }

    fn check_refused(field: &str, says: &[&str]) {
        let message = format!("{:?}", read_text(&format!("{{{field}}}")).unwrap_err());
        for part in says {
            assert!(message.contains(part), "{message} does not say {part:?}");
        }
        assert!(!message.contains("hidden"), "{message}");
    }

    #[test]
    fn wrong_types_and_values_name_the_field_and_what_is_right() {
        check_refused(r#""timeout_ms":"hidden""#, &["timeout_ms", "milliseconds"]);
        check_refused(r#""timeout_ms":-1"#, &["timeout_ms", "milliseconds"]);
        check_refused(r#""timeout_ms":1.5"#, &["timeout_ms", "milliseconds"]);
        check_refused(r#""timeout_ms":"1.0""#, &["timeout_ms", "milliseconds"]);
        check_refused(r#""retry_on_timeout":"yes""#, &["retry_on_timeout", "true or false"]);
        check_refused(r#""accept":"201""#, &["accept", "2xx"]);
        check_refused(r#""retried":"hidden""#, &["retried", "passing", "all"]);
        check_refused(r#""retried":true"#, &["retried", "found a boolean", "passing"]);
        check_refused(r#""obeys_receiver":"hidden""#, &["obeys_receiver", "true or false"]);
        check_refused(r#""retry":3"#, &["retry", "an object"]);
        check_refused(r#""retry":{"attempts":3}"#, &["retry.kind", "missing"]);
        check_refused(r#""retry":{"kind":"hidden"}"#, &["retry.kind", "linear"]);
        let list = r#""retry":{"kind":"list","delays_ms":["a"]}"#;
        check_refused(list, &["retry.delays_ms", "list of whole numbers"]);
        let jitter = r#""retry":{"kind":"exponential","initial_ms":1,"max_ms":2,"jitter":20}"#;
        check_refused(jitter, &["retry.jitter", "20", "from 0 to 1"]);
        let linear = r#""retry":{"kind":"linear","step_ms":1,"max_ms":2,"jitter":0.5}"#;
        check_refused(linear, &["retry.jitter", "unknown field"]);
        check_refused(r#""ordering":"hidden""#, &["ordering", "per_key"]);
        check_refused(r#""ordering":true"#, &["ordering", "found a boolean", "per_key"]);
        check_refused(r#""rate_limit":{"events":5}"#, &["rate_limit.per_ms", "missing"]);
        check_refused(r#""rate_limit":{"events":1.5,"per_ms":1}"#, &["rate_limit.events", "whole"]);
        check_refused(r#""rate_limit":{"rate":5}"#, &["rate_limit.rate", "unknown field"]);
        check_refused(r#""after":"hidden""#, &["after", "found a string", "id of a subscription"]);
        check_refused(r#""breaker":"hidden""#, &["breaker", "found a string", "never"]);
        check_refused(r#""breaker":{"after":1}"#, &["breaker.after", "unknown field"]);
        check_refused(r#""breaker":{"failures":"a"}"#, &["breaker.failures", "in a row"]);
        check_refused(r#""disable_after_ms":"hidden""#, &["disable_after_ms", "never"]);
        check_refused(r#""retrying_max":-1"#, &["retrying_max", "deliveries"]);
    }
}

//! Decides how the further destinations of a key are enabled, listed, appended, changed and deleted
//! (`/multi_webhook`).
//!
//! Leaves to others: whom they follow (`hooks`). Invariant: a request is honoured whole or not at all;
//! names are unique and case-sensitive, and there are never more than the configured maximum by way of
//! a request.

use http::{Method, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::hooks::{self, Hooks};
use super::{Asked, fresh};
use crate::engine::Change;
use crate::registration::fields::{Object, Problem, utf8};
use crate::registration::hook::{self, Answer, Hook, Reader, Refusal};
use crate::subscription::Registered;

/// The answer of every operation that 360dialog carries out later and that is in force here.
const STARTED: &str = "Operation started successfully";
const DELETED: &str = "Destination deleted successfully";

/// The longest name, in bytes: with its prefix it is the name of a subscription.
const NAME_BYTES_MAX: usize = 100;
const NAME_EXPECTED: &str = "a name of 1 to 100 bytes without control characters";

/// A destination as a request gives it.
struct Destination {
    name: String,
    hook: Hook,
}

/// `/multi_webhook`
pub(super) fn all(asked: &Asked<'_>) -> Answer {
    match *asked.call.method {
        Method::GET => list(asked),
        Method::POST => {
            let body = Object::read(utf8(asked.call.body)?, &["enabled", "destinations"])?;
            let enabled: bool = body.required_value("enabled", "true or false")?;
            enable(asked, enabled, destinations(&asked.reader(), &body)?.unwrap_or_default())
        }
        Method::PUT => {
            let body = Object::read(utf8(asked.call.body)?, &["destinations"])?;
            let given = destinations(&asked.reader(), &body)?;
            append(asked, given.ok_or_else(|| body.missing("destinations", LIST_EXPECTED))?)
        }
        Method::PATCH => amend(asked),
        _ => Err(Refusal::method(&[Method::GET, Method::POST, Method::PUT, Method::PATCH])),
    }
}

/// `/multi_webhook/{dest_name}`
pub(super) fn one(asked: &Asked<'_>, encoded: &str) -> Answer {
    if *asked.call.method != Method::DELETE {
        return Err(Refusal::method(&[Method::DELETE]));
    }
    let expected = "dest_name: expected a name in UTF-8, percent-encoded";
    let name = percent_decoded(encoded).ok_or_else(|| Refusal::bad_request(expected))?;
    change(asked, DELETED, |hooks| {
        check_enabled(hooks)?;
        Ok(vec![Change::Remove(known(hooks, &name)?.id)])
    })
}

fn list(asked: &Asked<'_>) -> Answer {
    let standing = asked.call.engine.standing(asked.key.account.name())?;
    let hooks = Hooks::of(&standing);
    let each = hooks.destinations.iter().map(|(name, one)| {
        let mut shown = hook::shown(&one.target);
        shown.insert("name".to_owned(), Value::from(*name));
        Value::Object(shown)
    });
    let destinations: Vec<_> = each.collect();
    Ok(json!({"enabled": hooks.are_enabled, "destinations": destinations}))
}

fn enable(asked: &Asked<'_>, enabled: bool, given: Vec<Destination>) -> Answer {
    if !enabled && !given.is_empty() {
        let problem = "given with enabled: false; expected with enabled: true alone";
        return Err(Problem::at("destinations", problem).into());
    }
    change(asked, STARTED, |hooks| {
        if enabled && hooks.are_enabled {
            let message = "multi-webhook is already enabled; append destinations with PUT";
            return Err(Refusal::new(StatusCode::CONFLICT, message));
        }
        let mut changes = hooks.enable(enabled, asked.options);
        changes.extend(created(asked, hooks, given)?);
        Ok(changes)
    })
}

fn append(asked: &Asked<'_>, given: Vec<Destination>) -> Answer {
    if given.is_empty() {
        return Err(Problem::at("destinations", format!("empty; expected {LIST_EXPECTED}")).into());
    }
    change(asked, STARTED, |hooks| {
        check_enabled(hooks)?;
        created(asked, hooks, given)
    })
}

fn amend(asked: &Asked<'_>) -> Answer {
    let body = Object::read(utf8(asked.call.body)?, &["name", "url", "headers"])?;
    let name = body.required_text("name", "the name of a destination")?;
    let amendment = asked.reader().amendment(&body)?;
    change(asked, STARTED, |hooks| {
        check_enabled(hooks)?;
        let before = known(hooks, &name)?;
        Ok(vec![Change::Replace(before.id, amendment.subscription(before))])
    })
}

/// Makes the changes that are decided from how the webhooks stand.
fn change(
    asked: &Asked<'_>,
    message: &str,
    decide: impl FnOnce(&Hooks<'_>) -> Result<Vec<Change>, Refusal>,
) -> Answer {
    let account = asked.key.account.name();
    asked.call.engine.change(account, |standing| {
        let changes = decide(&Hooks::of(standing))?;
        Ok::<_, Refusal>((changes, ()))
    })?;
    Ok(json!({"message": message}))
}

fn check_enabled(hooks: &Hooks<'_>) -> Result<(), Refusal> {
    match hooks.are_enabled {
        true => Ok(()),
        false => Err(Refusal::bad_request("multi-webhook is not enabled; enable it with POST")),
    }
}

fn known<'a>(hooks: &Hooks<'a>, name: &str) -> Result<&'a Registered, Refusal> {
    let unknown = || {
        let message = "there is no destination of this name; names are case-sensitive";
        Refusal::new(StatusCode::NOT_FOUND, message)
    };
    hooks.destination(name).ok_or_else(unknown)
}

/// What creates these destinations beside those that are there.
fn created(
    asked: &Asked<'_>,
    hooks: &Hooks<'_>,
    given: Vec<Destination>,
) -> Result<Vec<Change>, Refusal> {
    let limit = asked.options.destinations_max;
    let too_many = |count| {
        let problem = format!("there would be {count}; expected at most {limit} in all");
        Err(Problem::at("destinations", problem).into())
    };
    if given.len() > limit {
        return too_many(given.len());
    }
    for (place, one) in given.iter().enumerate() {
        let is_before = given.iter().take(place).any(|other| other.name == one.name);
        if is_before || hooks.destination(&one.name).is_some() {
            let message = format!("destinations[{place}].name: taken; names are unique");
            return Err(Refusal::new(StatusCode::CONFLICT, message));
        }
    }
    let count = hooks.destinations.len() + given.len();
    if !given.is_empty() && count > limit {
        return too_many(count);
    }
    let create = |one: Destination| {
        let fresh = fresh(hooks::name_of_destination(&one.name));
        let created = one.hook.subscription(None, fresh).numbers_or_all(asked.key.numbers());
        Change::Create(hooks::following(created, hooks.main(), true, asked.options))
    };
    Ok(given.into_iter().map(create).collect())
}

const LIST_EXPECTED: &str = "a list of destinations, each with name, url and headers";

fn destinations(
    reader: &Reader<'_>,
    body: &Object<'_>,
) -> Result<Option<Vec<Destination>>, Refusal> {
    let Some(given) = body.value::<Vec<&RawValue>>("destinations", LIST_EXPECTED)? else {
        return Ok(None);
    };
    let each = given.into_iter().enumerate().map(|(place, raw)| {
        let field = format!("destinations[{place}]");
        let given = Object::read_inner(&field, "", raw);
        given
            .map_err(Refusal::from)
            .and_then(|given| destination(reader, &given).map_err(|refusal| refusal.within(&field)))
    });
    each.collect::<Result<_, _>>().map(Some)
}

fn destination(reader: &Reader<'_>, given: &Object<'_>) -> Result<Destination, Refusal> {
    given.check_names(&["name", "url", "headers"])?;
    let name = given.required_text("name", NAME_EXPECTED)?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Problem::at("name", format!("expected {NAME_EXPECTED}")).into());
    }
    Ok(Destination { name, hook: reader.hook(given)? })
}

/// The text that a segment of a path stands for; none where it stands for none.
fn percent_decoded(segment: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

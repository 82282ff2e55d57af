//! Enables, lists, appends, changes and deletes the further destinations of a key (`/multi_webhook`). A
//! request is applied as a whole or not at all. Names are unique and case-sensitive, and no request exceeds
//! the configured maximum.

use http::{Method, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::key_webhooks::{self, KeyWebhooks};
use super::request::{Dialog360Request, fresh};
use crate::engine::SubscriptionChange;
use crate::registration::body::percent_decoded;
use crate::registration::fields::{Problem, RequestObject, utf8};
use crate::registration::webhook_config::{self, ConfigError, ConfigResult, WebhookConfigReader};
use crate::subscription::{SubscriptionInfo, Target};

const DELETED: &str = "Destination deleted successfully";

/// The longest name in bytes; with its prefix it is the name of a subscription.
const NAME_BYTES_MAX: usize = 100;
const NAME_EXPECTED: &str = "a name of 1 to 100 bytes without control characters";

/// A destination as given in a request.
struct Destination {
    name: String,
    target: Target,
}

/// `/multi_webhook`
pub(super) fn all(request: &Dialog360Request<'_>) -> ConfigResult {
    match *request.http.method {
        Method::GET => list(request),
        Method::POST => {
            let body = RequestObject::read(utf8(request.http.body)?, &["enabled", "destinations"])?;
            let enabled: bool = body.required_value("enabled", "true or false")?;
            enable(request, enabled, destinations(&request.reader(), &body)?.unwrap_or_default())
        }
        Method::PUT => {
            let body = RequestObject::read(utf8(request.http.body)?, &["destinations"])?;
            let given = destinations(&request.reader(), &body)?;
            append(request, given.ok_or_else(|| body.missing("destinations", LIST_EXPECTED))?)
        }
        Method::PATCH => amend(request),
        _ => Err(ConfigError::method(&[Method::GET, Method::POST, Method::PUT, Method::PATCH])),
    }
}

/// `/multi_webhook/{dest_name}`
pub(super) fn one(request: &Dialog360Request<'_>, encoded: &str) -> ConfigResult {
    if *request.http.method != Method::DELETE {
        return Err(ConfigError::method(&[Method::DELETE]));
    }
    let expected = "dest_name: expected a name in UTF-8, percent-encoded";
    let name = percent_decoded(encoded).ok_or_else(|| ConfigError::bad_request(expected))?;
    request.change(|webhooks| {
        check_enabled(webhooks)?;
        Ok(vec![SubscriptionChange::Remove(known(webhooks, &name)?.id)])
    })?;
    Ok(json!({"message": DELETED}))
}

fn list(request: &Dialog360Request<'_>) -> ConfigResult {
    let account_snapshot = request.http.engine.account_snapshot(request.key.account.id())?;
    let webhooks = KeyWebhooks::of(&account_snapshot);
    let each = webhooks.destinations.iter().map(|(name, one)| {
        let mut shown = webhook_config::shown(&one.target);
        shown.insert("name".to_owned(), Value::from(*name));
        Value::Object(shown)
    });
    let destinations: Vec<_> = each.collect();
    Ok(json!({"enabled": webhooks.are_enabled, "destinations": destinations}))
}

fn enable(request: &Dialog360Request<'_>, enabled: bool, given: Vec<Destination>) -> ConfigResult {
    request.change(|webhooks| {
        // A client may send back what it was shown, with `enabled` changed.
        if let Some(place) =
            given.iter().position(|one| !enabled && webhooks.destination(&one.name).is_none())
        {
            let problem = "not known; new ones are expected only with enabled: true";
            return Err(Problem::at(&format!("destinations[{place}]"), problem).into());
        }
        if enabled && webhooks.are_enabled {
            let message = "multi-webhook is already enabled; append destinations with PUT";
            return Err(ConfigError::new(StatusCode::CONFLICT, message));
        }
        let mut changes = webhooks.enable(enabled, request.options);
        if enabled {
            changes.extend(created(request, webhooks, given)?);
        }
        Ok(changes)
    })?;
    started()
}

fn append(request: &Dialog360Request<'_>, given: Vec<Destination>) -> ConfigResult {
    if given.is_empty() {
        return Err(Problem::at("destinations", format!("empty; expected {LIST_EXPECTED}")).into());
    }
    request.change(|webhooks| {
        check_enabled(webhooks)?;
        created(request, webhooks, given)
    })?;
    started()
}

fn amend(request: &Dialog360Request<'_>) -> ConfigResult {
    let body = RequestObject::read(utf8(request.http.body)?, &["name", "url", "headers"])?;
    let name = body.required_text("name", "the name of a destination")?;
    let patch = request.reader().patch(&body)?;
    request.change(|webhooks| {
        check_enabled(webhooks)?;
        let before = known(webhooks, &name)?;
        Ok(vec![SubscriptionChange::Replace(before.id, patch.subscription(before))])
    })?;
    started()
}

/// The answer of operations that 360dialog applies later. Here they are already in force.
fn started() -> ConfigResult {
    Ok(json!({"message": "Operation started successfully"}))
}

fn check_enabled(webhooks: &KeyWebhooks<'_>) -> Result<(), ConfigError> {
    match webhooks.are_enabled {
        true => Ok(()),
        false => Err(ConfigError::bad_request("multi-webhook is not enabled; enable it with POST")),
    }
}

fn known<'a>(webhooks: &KeyWebhooks<'a>, name: &str) -> Result<&'a SubscriptionInfo, ConfigError> {
    let unknown = || {
        let message = "unknown destination; names are case-sensitive";
        ConfigError::new(StatusCode::NOT_FOUND, message)
    };
    webhooks.destination(name).ok_or_else(unknown)
}

/// The changes that create these destinations.
fn created(
    request: &Dialog360Request<'_>,
    webhooks: &KeyWebhooks<'_>,
    given: Vec<Destination>,
) -> Result<Vec<SubscriptionChange>, ConfigError> {
    let limit = request.options.destinations_max;
    let too_many = |count| {
        let problem = format!("{count} in all; expected at most {limit}");
        Err(Problem::at("destinations", problem).into())
    };
    if given.len() > limit {
        return too_many(given.len());
    }
    for (place, one) in given.iter().enumerate() {
        let is_before = given.iter().take(place).any(|other| other.name == one.name);
        if is_before || webhooks.destination(&one.name).is_some() {
            let message = format!("destinations[{place}].name: already in use; names are unique");
            return Err(ConfigError::new(StatusCode::CONFLICT, message));
        }
    }
    let count = webhooks.destinations.len() + given.len();
    if !given.is_empty() && count > limit {
        return too_many(count);
    }
    let create = |one: Destination| {
        let fresh = fresh(key_webhooks::name_of_destination(&one.name));
        let created = fresh(one.target).numbers_or_all(request.key.numbers());
        SubscriptionChange::Create(key_webhooks::following(
            created,
            webhooks.main(),
            true,
            request.options,
        ))
    };
    Ok(given.into_iter().map(create).collect())
}

const LIST_EXPECTED: &str = "an array of destinations, each with name, url and headers";

fn destinations(
    reader: &WebhookConfigReader<'_>,
    body: &RequestObject<'_>,
) -> Result<Option<Vec<Destination>>, ConfigError> {
    let Some(given) = body.value::<Vec<&RawValue>>("destinations", LIST_EXPECTED)? else {
        return Ok(None);
    };
    let each = given.into_iter().enumerate().map(|(place, raw)| {
        let field = format!("destinations[{place}]");
        let given = RequestObject::read_inner(&field, "", raw);
        given
            .map_err(ConfigError::from)
            .and_then(|given| destination(reader, &given).map_err(|refusal| refusal.within(&field)))
    });
    each.collect::<Result<_, _>>().map(Some)
}

fn destination(
    reader: &WebhookConfigReader<'_>,
    given: &RequestObject<'_>,
) -> Result<Destination, ConfigError> {
    given.log_unknown(&["name", "url", "headers"]);
    let name = given.required_text("name", NAME_EXPECTED)?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Problem::at("name", format!("expected {NAME_EXPECTED}")).into());
    }
    Ok(Destination { name, target: reader.config(given)? })
}

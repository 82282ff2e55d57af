//! Decides the layout in which a subscription is stored, in the book and in its log.
//!
//! Leaves to others: where it is written (`book`, `journal`). Invariant: a layout is frozen; a
//! change is a new version beside it.

use serde::{Deserialize, Serialize};

use super::{Filter, Policy, Profile, Registered, Secret, State, SubscriptionId, Target};
use crate::error::{Error, Result};
use crate::event::{Catalogue, WabaNumber};

/// A subscription as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredV1 {
    account: String,
    name: String,
    events: Option<Vec<String>>,
    numbers: Option<Vec<u64>>,
    url: String,
    headers: Vec<(String, String)>,
    policy: Policy,
    secret: Option<String>,
    profile: Profile,
    state: State,
    created_at_ms: u64,
}

/// The stored form of a subscription.
pub(super) fn stored(registered: &Registered) -> StoredV1 {
    let Filter { events, numbers } = &registered.filter;
    let secret = registered.secret.as_ref();
    StoredV1 {
        account: registered.account.clone(),
        name: registered.name.clone(),
        events: events.as_ref().map(|set| set.iter().map(ToString::to_string).collect()),
        numbers: numbers.as_ref().map(|set| set.iter().map(|number| number.digits()).collect()),
        url: registered.target.url().to_string(),
        headers: registered.target.headers().to_vec(),
        policy: registered.policy.clone(),
        secret: secret.map(|secret| String::from_utf8_lossy(secret.reveal()).into_owned()),
        profile: registered.profile,
        state: registered.state,
        created_at_ms: registered.created_at_ms,
    }
}

/// A subscription out of its stored form.
pub(super) fn restore(
    id: SubscriptionId,
    stored: StoredV1,
    catalogue: &Catalogue,
) -> Result<Registered> {
    let invalid = |error: Error| damaged(id, error.to_string());
    let events = stored.events.map(|names| {
        names.iter().map(|name| catalogue.canonical(name)).collect::<Result<_>>().map_err(invalid)
    });
    let numbers = stored.numbers.map(|digits| {
        let number = |digits| WabaNumber::from_digits(digits);
        let all = digits.into_iter().map(number).collect::<Option<_>>();
        all.ok_or_else(|| damaged(id, "it names no number".to_owned()))
    });
    let mut target = Target::new(&stored.url).map_err(invalid)?;
    stored.headers.into_iter().for_each(|(name, value)| target.add_header(name, value));
    Ok(Registered {
        id,
        account: stored.account,
        name: stored.name,
        filter: Filter { events: events.transpose()?, numbers: numbers.transpose()? },
        target,
        policy: stored.policy,
        secret: stored.secret.map(Secret::new),
        profile: stored.profile,
        state: stored.state,
        created_at_ms: stored.created_at_ms,
    })
}

fn damaged(id: SubscriptionId, why: String) -> Error {
    Error::Damaged { record: format!("subscription {id}"), why }
}

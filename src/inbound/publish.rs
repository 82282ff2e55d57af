//! Publishes a callback in one step: its events, and the counters and notices for what became no event.

use std::collections::BTreeMap;
use std::fmt;

use super::malformed::MalformedCallback;
use super::reader::{CallbackBounds, events_within};
use crate::engine::Engine;
use crate::error::Error;
use crate::event::{Accepted, Event, PublishError};
use crate::receipt::Receipt;
use crate::stats::CallbackRefusal;

/// Resolves when the events of a callback are durable; `None` if the callback became no event.
pub type CallbackReceipt = Option<Receipt<Vec<Accepted>>>;

/// Why nothing of a callback was published.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CallbackError {
    /// The body is not a callback. Answer 400.
    Malformed(MalformedCallback),
    /// The engine did not accept the events. Answer 503, so that Meta sends the callback again.
    Publish(PublishError),
}

impl fmt::Display for CallbackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallbackError::Malformed(malformed) => malformed.fmt(f),
            CallbackError::Publish(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CallbackError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CallbackError::Malformed(malformed) => Some(malformed),
            CallbackError::Publish(error) => Some(error),
        }
    }
}

/// Publishes the events of a callback's body, as [`events`](super::cloud_api::events) makes them within the
/// engine's limits.
///
/// Parts that are malformed, too large or owned by no account do not affect the others. They are counted in
/// [`Stats`](crate::Stats), and unowned numbers and WABAs are listed by
/// [`Engine::unowned`](crate::Engine::unowned).
///
/// # Errors
/// [`CallbackError`], when nothing was published.
///
/// ```
/// use wabahook::{Engine, Secret};
/// use wabahook::inbound::cloud_api;
///
/// fn received(
///     engine: &Engine, app_secret: &Secret, header: Option<&str>, body: &[u8],
/// ) -> Result<(), Box<dyn std::error::Error>> {
///     cloud_api::verify([app_secret], header, body)?;              // else 401, and nothing is stored
///     if let Some(receipt) = cloud_api::publish(engine, body)? {  // else 400 or 503
///         receipt.wait()?;                                        // durable: now answer 200
///     }
///     Ok(())
/// }
/// ```
pub fn publish(engine: &Engine, body: &[u8]) -> Result<CallbackReceipt, CallbackError> {
    let limits = engine.limits();
    let bounds = CallbackBounds {
        events_max: limits.queue_events_max,
        payload_bytes_max: limits.payload_bytes_max,
        bytes_max: limits.queue_bytes_max,
    };
    let callback = events_within(body, engine.accounts(), &bounds).map_err(|malformed| {
        engine.count_refused_callbacks(CallbackRefusal::Malformed, 1, &malformed.to_string());
        CallbackError::Malformed(malformed)
    })?;
    let receipt = publish_events(engine, callback.events).map_err(CallbackError::Publish)?;
    // Counted after the rest was accepted, so that a callback that Meta sends again counts once.
    for unowned in callback.unowned {
        engine.count_unowned(unowned.number, unowned.waba, unowned.events);
    }
    if let Some(first) = callback.malformed.first() {
        let (reason, parts) = (CallbackRefusal::MalformedPart, callback.malformed_parts);
        engine.count_refused_callbacks(reason, parts, &first.to_string());
    }
    Ok(receipt)
}

/// Publishes the events of the accounts that are within their limits. Returns those of the others, which the source
/// sends again, with all that was accepted; that is then a duplicate.
fn publish_neighbours(engine: &Engine, refused: PublishError) -> PublishError {
    let PublishError { error, events, .. } = refused;
    let mut accounts = BTreeMap::<Option<String>, Vec<Event>>::new();
    for event in events {
        accounts.entry(event.account.clone()).or_default().push(event);
    }
    if accounts.len() == 1 {
        return PublishError::new(error, accounts.into_values().flatten().collect());
    }
    let outcomes = accounts.into_values().map(|events| engine.publish_many(events));
    let (mut error, mut left) = (error, Vec::new());
    for refused in outcomes.filter_map(Result::err) {
        error = refused.error;
        left.extend(refused.events);
    }
    PublishError::new(error, left)
}

/// Publishes what the engine accepts of these events. An event that it refuses for what it says, such as a
/// WABA whose configured id is too long, does not refuse the others.
fn publish_events(engine: &Engine, events: Vec<Event>) -> Result<CallbackReceipt, PublishError> {
    if events.is_empty() {
        return Ok(None);
    }
    let error = match engine.publish_many(events) {
        Ok(receipt) => return Ok(Some(receipt)),
        Err(error) if matches!(error.error, Error::LimitReached { .. }) => {
            return Err(publish_neighbours(engine, error));
        }
        Err(error) => error,
    };
    let is_odd =
        |event: &Event| engine.check_event(event).is_err_and(|error| error.field().is_some());
    if !error.events.iter().any(is_odd) {
        return Err(error);
    }
    let (odd, others): (Vec<_>, Vec<_>) = error.events.into_iter().partition(is_odd);
    let receipt = match others.is_empty() {
        true => None,
        false => Some(engine.publish_many(others)?),
    };
    let (reason, parts) = (CallbackRefusal::MalformedPart, odd.len() as u64);
    engine.count_refused_callbacks(reason, parts, &error.error.to_string());
    Ok(receipt)
}

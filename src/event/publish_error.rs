//! Why `publish` did not accept events. It carries the events back, so that a host can try them again.

use std::fmt;

use super::Event;
use crate::error::Error;
use crate::text::debug_fields;

/// Why [`publish`](crate::Engine::publish) or [`publish_many`](crate::Engine::publish_many) accepted nothing.
///
/// The events come back whatever the reason: nothing of them was stored. `?` turns it into an [`Error`] or
/// a `Box<dyn Error>` and drops the events.
///
/// ```
/// use wabahook::{Event, PublishError};
///
/// /// Keeps the events for a later attempt if the queue is full, and gives up otherwise.
/// fn held_back(error: PublishError) -> wabahook::Result<Vec<Event>> {
///     match error.is_busy() {
///         true => Ok(error.into_events()),
///         false => Err(error.into()),
///     }
/// }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct PublishError {
    /// What went wrong.
    pub error: Error,
    /// The events, in the order they were given.
    pub events: Vec<Event>,
}

impl PublishError {
    pub(crate) fn new(error: Error, events: Vec<Event>) -> PublishError {
        PublishError { error, events }
    }

    /// Whether a bound of the engine ([`Error::Busy`]) or of the account ([`Error::LimitReached`]) is reached, so that
    /// the same events may pass later.
    pub fn is_busy(&self) -> bool {
        matches!(self.error, Error::Busy { .. } | Error::LimitReached { .. })
    }

    /// Takes the events back, in the order they were given.
    pub fn into_events(self) -> Vec<Event> {
        self.events
    }
}

impl From<PublishError> for Error {
    fn from(refused: PublishError) -> Error {
        refused.error
    }
}

// Without the events: their payloads stay out of logs (I9).
debug_fields!(PublishError: error, events.len());

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_the_events_back_and_hides_their_payloads() {
        fn is_shareable<T: Send + Sync + 'static>() {}
        is_shareable::<PublishError>();
        let events = vec![Event::new("T", "hidden-payload")];
        let error = PublishError::new(Error::Busy { reason: "full".into() }, events);
        assert!(!format!("{error:?} {error}").contains("hidden-payload"));
        assert!(error.is_busy());
        assert_eq!(error.into_events()[0].payload(), b"hidden-payload");
    }
}

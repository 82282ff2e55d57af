//! The canonical name of an event type.
//!
//! An [`EventType`] is checked when it is made, so one that exists can be sent in a header.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};

/// An event type by its canonical name, such as `MESSAGE_RECEIVED`. The vocabulary is open; a
/// [`Catalogue`](crate::Catalogue) translates other names into canonical ones.
///
/// A name has 1 to 128 visible ASCII characters and may contain spaces inside, because it is sent in a header
/// (`x-webhook-event`).
///
/// ```
/// use wabahook::EventType;
/// let event_type: EventType = "MESSAGE_RECEIVED".parse()?;
/// assert_eq!(event_type.as_str(), "MESSAGE_RECEIVED");
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

impl EventType {
    pub(crate) const EXPECTED: &str = "an event type of 1 to 128 visible ASCII characters";

    pub(crate) fn new(name: &str) -> Result<EventType> {
        let visible = name.bytes().all(|b| (b' '..=b'~').contains(&b));
        let tight = !name.starts_with(' ') && !name.ends_with(' ');
        if name.is_empty() || name.len() > 128 || !visible || !tight {
            return Err(Error::invalid("type", name, Self::EXPECTED));
        }
        Ok(EventType(Arc::from(name)))
    }

    /// The canonical name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EventType {
    type Err = Error;

    /// Takes the name as canonical.
    fn from_str(name: &str) -> Result<EventType> {
        EventType::new(name)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for EventType {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

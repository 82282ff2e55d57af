//! The id of an event and its text, which receivers see as `webhook-id`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::text::hex_digits;

/// The id of an event: the random incarnation of its outbox, then its sequence. Its text is the `webhook-id` of
/// every attempt. It has no dots, because signatures use dots as separators.
///
/// ```
/// use wabahook::EventId;
/// let id: EventId = "evt_1c9d0d2f6b7a4e580000000000000007".parse()?;
/// assert_eq!(id.sequence(), 7);
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    incarnation: u64,
    sequence: u64,
}

impl EventId {
    pub(crate) fn new(incarnation: u64, sequence: u64) -> EventId {
        EventId { incarnation, sequence }
    }

    pub(crate) fn incarnation(self) -> u64 {
        self.incarnation
    }

    /// The event's sequence in its outbox. Later events have greater sequences.
    pub fn sequence(self) -> u64 {
        self.sequence
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = *b"evt_00000000000000000000000000000000";
        let [_, _, _, _, digits @ ..] = &mut text;
        let bytes = self.incarnation.to_be_bytes().into_iter().chain(self.sequence.to_be_bytes());
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&hex_digits(byte));
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EventId {
    type Err = Error;

    fn from_str(given: &str) -> Result<EventId> {
        let refused = || Error::invalid("id", given, "an event id: evt_ and 32 hexadecimal digits");
        let hex = given.strip_prefix("evt_").ok_or_else(refused)?;
        let (incarnation, sequence) = hex.split_at_checked(16).ok_or_else(refused)?;
        let part = |text: &str| {
            let plain = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
            u64::from_str_radix(text, 16).ok().filter(|_| plain).ok_or_else(refused)
        };
        Ok(EventId { incarnation: part(incarnation)?, sequence: part(sequence)? })
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_and_have_no_dots() {
        let id = EventId::new(u64::MAX, 42);
        assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        assert!(!id.to_string().contains('.'));
        for given in [
            "evt_",
            "evt_0",
            "msg_00000000000000000000000000000000",
            "evt_+000000000000000+000000000000000",
            "evt_ääääääääääääääää",
        ] {
            assert!(given.parse::<EventId>().is_err(), "{given}");
        }
    }
}

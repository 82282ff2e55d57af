//! Decides what an event is: its type, its number, its id, and what makes each acceptable.
//!
//! Leaves to others: who asked for it (`routing`) and how it is kept (`outbox`). Invariant: a
//! [`WabaNumber`] and an [`EventType`] that exist are valid and are never checked again; `Debug`
//! never shows a payload (I9).

mod catalogue;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub(crate) use catalogue::TEST;
pub use catalogue::{Catalogue, RAW_CLOUD_API_WEBHOOK};

use crate::error::{Error, Result};

/// A WhatsApp Business number in international form: 7 to 15 digits (ITU-T E.164), first not 0.
///
/// ```
/// use wabahook::WabaNumber;
/// let number: WabaNumber = "+91 99999-99999".parse()?;
/// assert_eq!(number.to_string(), "919999999999");
/// assert!("91-CALL-ME".parse::<WabaNumber>().is_err());
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WabaNumber(u64);

impl WabaNumber {
    const EXPECTED: &str = "7 to 15 digits with the country code, such as +919999999999";

    /// The digits as one number. E.164 has no leading zeros, so nothing is lost.
    pub fn digits(self) -> u64 {
        self.0
    }

    /// Takes digits that were stored before.
    pub(crate) fn from_digits(digits: u64) -> Option<WabaNumber> {
        (1_000_000..1_000_000_000_000_000).contains(&digits).then_some(WabaNumber(digits))
    }
}

impl FromStr for WabaNumber {
    type Err = Error;

    /// Accepts a leading `+` and the separators people write (space, `-`, `.`, parentheses).
    fn from_str(given: &str) -> Result<WabaNumber> {
        let refused = || Error::invalid("number", given, Self::EXPECTED);
        let trimmed = given.trim();
        let mut digits = 0_u64;
        let mut count = 0;
        for c in trimmed.strip_prefix('+').unwrap_or(trimmed).chars() {
            match c {
                '0'..='9' if count < 15 => {
                    digits = digits * 10 + u64::from(c.to_digit(10).unwrap_or(0));
                    count += 1;
                }
                ' ' | '-' | '.' | '(' | ')' => {}
                _ => return Err(refused()),
            }
        }
        // A leading zero would shorten the number and so fall below the smallest of its length.
        let leading_zero = digits < 10_u64.pow(u32::try_from(count).unwrap_or(0).max(1) - 1);
        if leading_zero {
            return Err(refused());
        }
        WabaNumber::from_digits(digits).ok_or_else(refused)
    }
}

impl fmt::Display for WabaNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An event type by its canonical name, such as `MESSAGE_RECEIVED`. The vocabulary is open.
///
/// 1 to 128 visible ASCII characters, spaces inside allowed: the name travels in a header
/// (`x-webhook-event`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

impl EventType {
    const EXPECTED: &str = "an event type of 1 to 128 visible ASCII characters";

    fn new(name: &str) -> Result<EventType> {
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

/// The identity of an event: the random incarnation of its outbox, then its sequence. Its text is
/// the `webhook-id` of every attempt; it has no dots, because signatures separate by them.
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

    /// The place of the event in its outbox. Later events have greater sequences.
    pub fn sequence(self) -> u64 {
        self.sequence
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Digit by digit, because every attempt needs it and the formatter is slow at padding.
        let mut text = *b"evt_00000000000000000000000000000000";
        let [_, _, _, _, digits @ ..] = &mut text;
        let bytes = self.incarnation.to_be_bytes().into_iter().chain(self.sequence.to_be_bytes());
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[byte >> 4, byte & 0xf].map(hex_digit));
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// The lower-case hexadecimal digit of a value below 16.
fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
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

/// What the host publishes. The builder only collects; `publish` checks and says what is wrong.
///
/// ```
/// use wabahook::Event;
/// let event = Event::new("MESSAGE_RECEIVED", r#"{"text":"hello"}"#)
///     .number("+919999999999")
///     .key("919812300001")               // order is kept per key where a subscription asks for it
///     .dedup_key("wamid.HBgMOTE5");      // a second publish with this key stores nothing
/// # let _ = event;
/// ```
#[derive(Clone)]
pub struct Event {
    pub(crate) account: Option<String>,
    pub(crate) kind: String,
    pub(crate) number: Option<NumberGiven>,
    pub(crate) waba: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) dedup_key: Option<String>,
    pub(crate) payload: Vec<u8>,
    /// Whether it is a part of a callback that is published whole beside it.
    pub(crate) is_part: bool,
}

/// A number as the host gave it: parsed, or the text that could not be.
pub(crate) type NumberGiven = std::result::Result<WabaNumber, String>;

pub(crate) fn number_given(text: &str) -> NumberGiven {
    text.parse().map_err(|_| text.to_owned())
}

impl Event {
    /// An event of this type, in any vocabulary of the catalogue, with the bytes to deliver.
    pub fn new(event_type: impl Into<String>, payload: impl Into<Vec<u8>>) -> Event {
        Event {
            account: None,
            kind: event_type.into(),
            number: None,
            waba: None,
            key: None,
            dedup_key: None,
            payload: payload.into(),
            is_part: false,
        }
    }

    /// The account that publishes. Defaults to the only account, where there is one.
    #[must_use]
    pub fn account(mut self, name: impl Into<String>) -> Event {
        self.account = Some(name.into());
        self
    }

    /// The WABA number the event belongs to: it decides who gets the event.
    #[must_use]
    pub fn number(mut self, number: impl AsRef<str>) -> Event {
        self.number = Some(number_given(number.as_ref()));
        self
    }

    /// The WABA the event belongs to. Decides who gets the event only where there is no number.
    #[must_use]
    pub fn waba(mut self, waba_id: impl Into<String>) -> Event {
        self.waba = Some(waba_id.into());
        self
    }

    /// What the event is about, the contact as a rule. Ordered subscriptions keep order per key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Event {
        self.key = Some(key.into());
        self
    }

    /// Identifies the event at its source: a second event of the same account, type and dedup key
    /// within the dedup window stores nothing and is answered with the first one's id.
    #[must_use]
    pub fn dedup_key(mut self, dedup_key: impl Into<String>) -> Event {
        self.dedup_key = Some(dedup_key.into());
        self
    }

    /// The event type as given.
    pub fn event_type(&self) -> &str {
        &self.kind
    }

    /// The bytes to deliver.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("account", &self.account)
            .field("type", &self.kind)
            .field("number", &self.number)
            .field("waba", &self.waba)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// An event as the outbox holds it and a worker delivers it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoredEvent {
    pub(crate) id: EventId,
    pub(crate) account: Arc<str>,
    pub(crate) kind: EventType,
    pub(crate) number: Option<WabaNumber>,
    pub(crate) waba: Option<String>,
    /// Hash of the event's key, for order; 0 where it has none.
    pub(crate) key_hash: u64,
    pub(crate) accepted_wall_ms: u64,
    pub(crate) payload: Vec<u8>,
}

impl fmt::Debug for StoredEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredEvent")
            .field("id", &self.id)
            .field("type", &self.kind)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// An event that was accepted, as it is kept as long as it is owed to somebody or lies among the dead
/// letters.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Its id.
    pub id: EventId,
    /// Its type.
    pub event_type: EventType,
    /// The number it belongs to.
    pub number: Option<WabaNumber>,
    /// The WABA it belongs to.
    pub waba: Option<String>,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub accepted_at_ms: u64,
    /// Its bytes, as they were published.
    pub payload: Vec<u8>,
}

impl From<&StoredEvent> for Published {
    fn from(event: &StoredEvent) -> Published {
        Published {
            id: event.id,
            event_type: event.kind.clone(),
            number: event.number,
            waba: event.waba.clone(),
            accepted_at_ms: event.accepted_wall_ms,
            payload: event.payload.clone(),
        }
    }
}

impl fmt::Debug for Published {
    /// Without the payload (I9).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published")
            .field("id", &self.id)
            .field("event_type", &self.event_type)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// What a receipt resolves to when the event is on the device.
///
/// ```
/// # use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// engine.subscribe(Subscription::to("https://crm.example/hook")?)?;
/// let event = || Event::new("ADD_TAG", "{}").dedup_key("tag-17");
/// let first = engine.publish(event())?.wait()?;
/// let again = engine.publish(event())?.wait()?;
/// assert_eq!((first.owed, first.duplicate), (1, false));
/// assert_eq!((again.owed, again.duplicate, again.id), (0, true, first.id));
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// The event's id: the `webhook-id` of each of its attempts.
    pub id: EventId,
    /// How many deliveries this call made durable; 0 when nobody asked for the event, or when it
    /// is a duplicate.
    pub owed: u32,
    /// Whether an event with the same dedup key was accepted before; `id` is then that event's.
    pub duplicate: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_the_forms_people_write() {
        for (given, digits) in [
            ("919999999999", "919999999999"),
            ("+919999999999", "919999999999"),
            (" +1 (631) 555-5555 ", "16315555555"),
            ("1234567", "1234567"),
            ("123456789012345", "123456789012345"),
        ] {
            assert_eq!(given.parse::<WabaNumber>().unwrap().to_string(), digits, "{given}");
        }
    }

    #[test]
    fn numbers_that_are_none_are_refused_with_the_field_and_what_was_given() {
        for given in [
            "",
            "+",
            "91x9999999",
            "123456",
            "1234567890123456",
            "0919999999",
            "+0",
            "९१९९९९९९९९९९",
        ] {
            let error = given.parse::<WabaNumber>().unwrap_err();
            assert_eq!(error.field(), Some("number"), "{given}");
            assert!(error.to_string().contains("15 digits"), "{error}");
        }
    }

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

    #[test]
    fn debug_hides_the_payload() {
        let text = format!("{:?}", Event::new("ADD_TAG", "hidden-payload").key("hidden-key"));
        assert!(!text.contains("hidden"), "{text}");
    }
}

//! Decides what an event is: its type, its number, its id, and what makes each acceptable.
//!
//! Leaves to others: who asked for it (`routing`) and how it is kept (`outbox`). Invariant: a
//! [`WabaNumber`] and an [`EventType`] that exist are valid and are never checked again; `Debug`
//! never shows a payload (I9).

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::subscription::Profile;

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

/// The event types known by more than one name. Data, extendable: a vendor's list drifts.
///
/// ```
/// use wabahook::Catalogue;
/// let catalogue = Catalogue::default().with("ORDER_PLACED", ["order.placed"]);
/// assert_eq!(catalogue.canonical("Message Received")?.as_str(), "MESSAGE_RECEIVED");
/// assert_eq!(catalogue.canonical("order.placed")?.as_str(), "ORDER_PLACED");
/// assert_eq!(catalogue.canonical("anything.else")?.as_str(), "anything.else");
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Catalogue {
    by_name: HashMap<Box<str>, EventType>,
    by_folded_alias: HashMap<Box<str>, EventType>,
    /// What gateways call a type that has another name with them.
    vocabularies: Vec<(Profile, HashMap<EventType, EventType>)>,
}

impl Catalogue {
    /// Adds a type, or aliases to a type already known. Names that are no valid type are left out,
    /// because no event could carry them.
    #[must_use]
    pub fn with<'a>(
        mut self,
        canonical: &str,
        aliases: impl IntoIterator<Item = &'a str>,
    ) -> Catalogue {
        let Ok(kind) = EventType::new(canonical) else { return self };
        self.by_name.insert(canonical.into(), kind.clone());
        for alias in aliases {
            self.by_name.insert(alias.into(), kind.clone());
            self.by_folded_alias.insert(alias.to_ascii_lowercase().into(), kind.clone());
        }
        self
    }

    /// Adds the name that a gateway has for a type: its deliveries carry it, and a filter that gives it
    /// means this type. Names that are no valid type are left out.
    ///
    /// ```
    /// use wabahook::{Catalogue, Profile};
    /// let catalogue = Catalogue::default().named(Profile::Session, "ADD_TAG", "label.added");
    /// let kind = catalogue.canonical("label.added")?;
    /// assert_eq!(kind.as_str(), "ADD_TAG");
    /// assert_eq!(catalogue.name_in(Profile::Session, &kind), "label.added");
    /// assert_eq!(catalogue.name_in(Profile::DoubleTick, &kind), "ADD_TAG");
    /// # Ok::<(), wabahook::Error>(())
    /// ```
    #[must_use]
    pub fn named(self, profile: Profile, canonical: &str, name: &str) -> Catalogue {
        let mut catalogue = self.with(canonical, [name]);
        let (Ok(kind), Ok(name)) = (EventType::new(canonical), EventType::new(name)) else {
            return catalogue;
        };
        let known = catalogue.vocabularies.iter_mut().find(|(known, _)| *known == profile);
        match known {
            Some((_, names)) => drop(names.insert(kind, name)),
            None => catalogue.vocabularies.push((profile, HashMap::from([(kind, name)]))),
        }
        catalogue
    }

    /// What a gateway calls a type: its own name for it, or the canonical one.
    pub fn name_in<'a>(&'a self, profile: Profile, kind: &'a EventType) -> &'a str {
        let known = self.vocabularies.iter().find(|(known, _)| *known == profile);
        known.and_then(|(_, names)| names.get(kind)).unwrap_or(kind).as_str()
    }

    /// The canonical type for a name in any vocabulary. An unknown name is its own canonical name.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name is no acceptable event type.
    pub fn canonical(&self, name: &str) -> Result<EventType> {
        if let Some(kind) = self.by_name.get(name) {
            return Ok(kind.clone());
        }
        if let Some(kind) = self.by_folded_alias.get(name.to_ascii_lowercase().as_str()) {
            return Ok(kind.clone());
        }
        EventType::new(name)
    }

    /// Whether the name or an alias of it is listed.
    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
            || self.by_folded_alias.contains_key(name.to_ascii_lowercase().as_str())
    }
}

impl Default for Catalogue {
    /// DoubleTick's event types, its trigger names, and the session gateway's names that mean the
    /// same.
    fn default() -> Catalogue {
        let empty = Catalogue {
            by_name: HashMap::new(),
            by_folded_alias: HashMap::new(),
            vocabularies: Vec::new(),
        };
        let built_in = BUILT_IN.iter().fold(empty, |catalogue, (canonical, aliases)| {
            catalogue.with(canonical, aliases.iter().copied())
        });
        SESSION.iter().fold(built_in, |catalogue, (canonical, name)| {
            catalogue.named(Profile::Session, canonical, name)
        })
    }
}

/// Canonical name, then aliases: the trigger names of DoubleTick's settings page, and the misspelling
/// in its documents.
const BUILT_IN: &[(&str, &[&str])] = &[
    ("MESSAGE_RECEIVED", &["Message Received"]),
    ("MESSAGE_STATUS_UPDATE", &["Message Status Update"]),
    ("CHAT_ASSIGNED_TO_AGENT", &["Chat Assigned to Agent"]),
    ("ASSIGNED_AGENT_STATUS_CHANGED", &[]),
    ("CHAT_UNASSIGNED", &["Chat Unassigned"]),
    ("UPDATE_CUSTOMER_CUSTOM_FIELD", &["Customer Custom Field Updated"]),
    ("WIDGET_LEAD_RECEIVED", &["Lead Received from Widget"]),
    ("VERIFIED_WIDGET_LEAD_RECEIVED", &["Verified Lead Received from Widget"]),
    ("NEW_LEAD", &["First Time Message Trigger from Customer"]),
    (RAW_CLOUD_API_WEBHOOK, &[]),
    ("CLOSE_CONVERSATION", &[]),
    ("TEMPLATE_UPDATE", &["Template Updated"]),
    ("ADD_TAG", &["Tag added"]),
    ("REMOVE_TAG", &["Tag removed"]),
    ("CALL_TO_WHATSAPP_MESSAGE_RECEIVED", &[]),
    ("CONVERSATION_OPENED", &["COVERSATION_OPENED"]),
    ("CUSTOMER_BUSINESS_CHAT_OPEN", &[]),
    ("CUSTOMER_NOTE_CREATED", &[]),
    ("CUSTOMER_NOTE_UPDATED", &[]),
    ("CUSTOMER_NOTE_DELETED", &[]),
    ("POST_CALL_DISPOSITION", &[]),
    ("CALL_INCOMING_INITIATED", &[]),
    ("CALL_OUTGOING_INITIATED", &[]),
    ("CALL_ACCEPTED", &[]),
    ("CALL_ENDED", &[]),
    ("CALL_REJECTED", &[]),
    ("CALL_MISSED", &[]),
    ("CALL_NOT_PICKED", &[]),
    ("STANDBY_MESSAGE_RECEIVED", &[]),
    ("MESSAGING_HANDOVER", &[]),
    ("ON_SLA_ESCALATED_PUBLIC", &[]),
    ("CALL_PERMISSION_REPLY_RECEIVED", &[]),
    ("WA_GROUP_MESSAGE_RECEIVED", &[]),
    (TEST, &[]),
];

/// Canonical name, then what the session gateway calls it. All its other names are types of their own.
const SESSION: &[(&str, &str)] = &[("MESSAGE_RECEIVED", "message.received"), (TEST, "test.ping")];

/// The type of the event that a test of a subscription sends.
pub(crate) const TEST: &str = "TEST";

/// The type of a Meta callback's change as it came.
pub const RAW_CLOUD_API_WEBHOOK: &str = "RAW_CLOUD_API_WEBHOOK";

/// The identity of an event: the random incarnation of its outbox, then its sequence. Its text is
/// the `webhook-id` of every attempt; it has no dots, because signatures separate by them.
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
    pub(crate) account: String,
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

/// What a receipt resolves to when the event is on the device.
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
    fn every_vocabulary_names_the_same_type() {
        let catalogue = Catalogue::default();
        for (given, canonical) in [
            ("MESSAGE_RECEIVED", "MESSAGE_RECEIVED"),
            ("Message Received", "MESSAGE_RECEIVED"),
            ("message received", "MESSAGE_RECEIVED"),
            ("message.received", "MESSAGE_RECEIVED"),
            ("COVERSATION_OPENED", "CONVERSATION_OPENED"),
            ("First Time Message Trigger from Customer", "NEW_LEAD"),
            ("message.ack", "message.ack"),
            ("message_received", "message_received"),
        ] {
            assert_eq!(catalogue.canonical(given).unwrap().as_str(), canonical, "{given}");
        }
        assert!(catalogue.knows("tag added") && !catalogue.knows("message.ack"));
    }

    #[test]
    fn a_gateway_names_a_type_in_its_own_vocabulary_and_no_other_does() {
        let catalogue = Catalogue::default()
            .named(Profile::Session, "ADD_TAG", "label.added")
            .named(Profile::Session, "REMOVE_TAG", "label\r\nremoved");
        for (canonical, session) in [
            ("MESSAGE_RECEIVED", "message.received"),
            ("TEST", "test.ping"),
            ("ADD_TAG", "label.added"),
            ("REMOVE_TAG", "REMOVE_TAG"),
            ("message.ack", "message.ack"),
        ] {
            let kind = catalogue.canonical(canonical).unwrap();
            assert_eq!(catalogue.name_in(Profile::Session, &kind), session);
            assert_eq!(catalogue.canonical(session).unwrap(), kind);
            for profile in [Profile::Wabahook, Profile::DoubleTick, Profile::Dialog360] {
                assert_eq!(catalogue.name_in(profile, &kind), canonical, "{profile:?}");
            }
        }
    }

    #[test]
    fn types_that_no_header_could_carry_are_refused() {
        let catalogue = Catalogue::default();
        for given in ["", " A", "A ", "A\r\nB", "Ä", &"A".repeat(129)] {
            assert_eq!(catalogue.canonical(given).unwrap_err().field(), Some("type"), "{given:?}");
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

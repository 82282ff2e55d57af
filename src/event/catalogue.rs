//! The names of event types in the vocabularies of the gateways.
//!
//! A name means the same type in every vocabulary, and a name that is not listed is its own canonical name.

use std::collections::HashMap;

use super::EventType;
use crate::error::Result;
use crate::profile::Profile;

/// The event types that have more than one name. A host can extend it, because vendors add types.
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
    /// The names of types that a gateway calls differently.
    vocabularies: Vec<(Profile, HashMap<EventType, EventType>)>,
}

impl Catalogue {
    /// Adds a type, or aliases of a known type. Invalid names are ignored, because no event can have them.
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

    /// Adds a gateway's own name for a type: its deliveries use it, and a filter may use it for this type. Invalid
    /// names are ignored.
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

    /// The name that a gateway uses for a type: its own, or the canonical one.
    pub fn name_in<'a>(&'a self, profile: Profile, kind: &'a EventType) -> &'a str {
        let known = self.vocabularies.iter().find(|(known, _)| *known == profile);
        known.and_then(|(_, names)| names.get(kind)).unwrap_or(kind).as_str()
    }

    /// The canonical type for a name in any vocabulary. An unknown name is its own canonical name.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the name is no valid event type.
    pub fn canonical(&self, name: &str) -> Result<EventType> {
        if let Some(kind) = self.by_name.get(name) {
            return Ok(kind.clone());
        }
        if let Some(kind) = self.by_folded_alias.get(name.to_ascii_lowercase().as_str()) {
            return Ok(kind.clone());
        }
        EventType::new(name)
    }

    /// Every listed type by its canonical name, with its display name if it has one: the alias with a space.
    pub fn types(&self) -> Vec<(&EventType, Option<&str>)> {
        let mut types: Vec<(&EventType, Option<&str>)> = Vec::new();
        for (name, kind) in &self.by_name {
            if **name == *kind.as_str() {
                let display_name =
                    self.by_name.iter().find(|(alias, of)| *of == kind && alias.contains(' '));
                types.push((kind, display_name.map(|(alias, _)| &**alias)));
            }
        }
        types.sort_unstable();
        types
    }

    /// Whether the name is listed, canonical or as an alias.
    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
            || self.by_folded_alias.contains_key(name.to_ascii_lowercase().as_str())
    }
}

impl Default for Catalogue {
    /// DoubleTick's event types and trigger names, and the session gateway's names for the same types.
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

/// Canonical names and aliases: the trigger names of DoubleTick's settings page, and a misspelling of its
/// documents.
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

/// Canonical names and the session gateway's names. All its other names are types of their own.
const SESSION: &[(&str, &str)] = &[("MESSAGE_RECEIVED", "message.received"), (TEST, "test.ping")];

/// The type of a test event.
pub(crate) const TEST: &str = "TEST";

/// The type of the unchanged changes of a Meta callback.
pub const RAW_CLOUD_API_WEBHOOK: &str = "RAW_CLOUD_API_WEBHOOK";

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_gateway_uses_its_own_names_only_for_itself() {
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
    fn names_that_do_not_fit_a_header_are_refused() {
        let catalogue = Catalogue::default();
        for given in ["", " A", "A ", "A\r\nB", "Ä", &"A".repeat(129)] {
            assert_eq!(catalogue.canonical(given).unwrap_err().field(), Some("type"), "{given:?}");
        }
    }
}

//! The names of event types in the vocabularies of the gateways, and which types Meta's callbacks become.
//!
//! A name means the same type in every vocabulary, and a name that is not listed is its own canonical name.

use std::collections::{HashMap, HashSet};

use super::EventType;
use super::type_hint::{TypeHint, nearest};
use crate::error::Result;
use crate::profile::Profile;

/// The known event types with their names. A host can extend it, because vendors add types.
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
    /// The types that callbacks of Meta become.
    from_callbacks: HashSet<EventType>,
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
    /// [`Error::Invalid`](crate::Error::Invalid) if the name is not a valid event type.
    pub fn canonical(&self, name: &str) -> Result<EventType> {
        if let Some(kind) = self.by_name.get(name) {
            return Ok(kind.clone());
        }
        if let Some(kind) = self.by_folded_alias.get(name.to_ascii_lowercase().as_str()) {
            return Ok(kind.clone());
        }
        EventType::new(name)
    }

    /// Whether callbacks of Meta become events of this type. Events of every other type exist only if the host
    /// publishes them.
    ///
    /// ```
    /// use wabahook::Catalogue;
    /// let catalogue = Catalogue::default();
    /// let [received, tag] = ["MESSAGE_RECEIVED", "ADD_TAG"].map(|name| catalogue.canonical(name));
    /// assert!(catalogue.is_from_callbacks(&received?) && !catalogue.is_from_callbacks(&tag?));
    /// # Ok::<(), wabahook::Error>(())
    /// ```
    pub fn is_from_callbacks(&self, kind: &EventType) -> bool {
        self.from_callbacks.contains(kind)
    }

    /// The hint for a publisher of a type: none, or that its name is unknown.
    ///
    /// ```
    /// use wabahook::Catalogue;
    /// let catalogue = Catalogue::default();
    /// assert!(catalogue.publish_hint("MESSAGE_RECEIVED").is_none());
    /// let hint = catalogue.publish_hint("MESSAGE_RECIEVED").map(|hint| hint.to_string());
    /// assert_eq!(hint.as_deref(), Some("MESSAGE_RECIEVED: did you mean MESSAGE_RECEIVED?"));
    /// ```
    pub fn publish_hint(&self, name: &str) -> Option<TypeHint> {
        if self.knows(name) || SESSION_ONLY.contains(&name) {
            return None;
        }
        let known = self.by_name.keys().map(AsRef::as_ref).chain(SESSION_ONLY.iter().copied());
        Some(TypeHint::unknown(name, nearest(name, known)))
    }

    /// The hint for a subscriber of a type: none, that its name is unknown, or that no callback of Meta becomes an
    /// event of it.
    ///
    /// ```
    /// use wabahook::Catalogue;
    /// let catalogue = Catalogue::default();
    /// assert!(catalogue.subscribe_hint("message.received").is_none());
    /// let hint = catalogue.subscribe_hint("ADD_TAG").map(|hint| hint.to_string());
    /// assert!(hint.is_some_and(|hint| hint.starts_with("ADD_TAG: no callback of Meta becomes")));
    /// ```
    pub fn subscribe_hint(&self, name: &str) -> Option<TypeHint> {
        if let Some(hint) = self.publish_hint(name) {
            return Some(hint);
        }
        let is_made = self.canonical(name).is_ok_and(|kind| self.is_from_callbacks(&kind));
        (!is_made).then(|| TypeHint::publish_only(name))
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
            from_callbacks: HashSet::new(),
        };
        let types = FROM_CALLBACKS.iter().chain(PUBLISHED);
        let mut built_in = types.fold(empty, |catalogue, (canonical, aliases)| {
            catalogue.with(canonical, aliases.iter().copied())
        });
        let from_callbacks =
            FROM_CALLBACKS.iter().filter_map(|(name, _)| built_in.by_name.get(*name));
        built_in.from_callbacks = from_callbacks.cloned().collect();
        SESSION.iter().fold(built_in, |catalogue, (canonical, name)| {
            catalogue.named(Profile::Session, canonical, name)
        })
    }
}

/// Canonical names and aliases of the types that `inbound` makes of Meta's callbacks. An alias is a trigger name
/// of DoubleTick's settings page.
const FROM_CALLBACKS: &[(&str, &[&str])] = &[
    ("MESSAGE_RECEIVED", &["Message Received"]),
    ("MESSAGE_STATUS_UPDATE", &["Message Status Update"]),
    ("WA_GROUP_MESSAGE_RECEIVED", &[]),
    ("CALL_TO_WHATSAPP_MESSAGE_RECEIVED", &[]),
    ("STANDBY_MESSAGE_RECEIVED", &[]),
    ("MESSAGE_ECHO", &[]),
    ("CUSTOMER_BUSINESS_CHAT_OPEN", &[]),
    ("CUSTOMER_IDENTITY_CHANGED", &[]),
    ("USER_PREFERENCES_UPDATE", &[]),
    ("MESSAGING_HANDOVER", &[]),
    ("PAYMENT_UPDATE", &[]),
    ("CALL_INCOMING_INITIATED", &[]),
    ("CALL_OUTGOING_INITIATED", &[]),
    ("CALL_RINGING", &[]),
    ("CALL_ACCEPTED", &[]),
    ("CALL_REJECTED", &[]),
    ("CALL_MISSED", &[]),
    ("CALL_ENDED", &[]),
    ("CALL_UPDATE", &[]),
    ("CALL_PERMISSION_REPLY_RECEIVED", &[]),
    ("TEMPLATE_UPDATE", &["Template Updated"]),
    ("TEMPLATE_QUALITY_UPDATE", &[]),
    ("TEMPLATE_CATEGORY_UPDATE", &[]),
    ("TEMPLATE_COMPONENTS_UPDATE", &[]),
    ("PHONE_NUMBER_QUALITY_UPDATE", &[]),
    ("PHONE_NUMBER_NAME_UPDATE", &[]),
    ("ACCOUNT_UPDATE", &[]),
    ("ACCOUNT_ALERT", &[]),
    ("ACCOUNT_REVIEW_UPDATE", &[]),
    ("ACCOUNT_SETTINGS_UPDATE", &[]),
    ("BUSINESS_CAPABILITY_UPDATE", &[]),
    ("BUSINESS_STATUS_UPDATE", &[]),
    ("PARTNER_SOLUTION_UPDATE", &[]),
    ("PAYMENT_CONFIGURATION_UPDATE", &[]),
    ("SECURITY_UPDATE", &[]),
    ("FLOW_UPDATE", &[]),
    ("CONSUMER_PROFILE_UPDATE", &[]),
    ("TRACKING_EVENT", &[]),
    ("AUTOMATIC_EVENT", &[]),
    ("GROUP_LIFECYCLE_UPDATE", &[]),
    ("GROUP_PARTICIPANTS_UPDATE", &[]),
    ("GROUP_SETTINGS_UPDATE", &[]),
    ("GROUP_STATUS_UPDATE", &[]),
    ("HISTORY_SYNC", &[]),
    ("SMB_APP_STATE_SYNC", &[]),
    ("CLOUD_API_ERROR", &[]),
    (RAW_CLOUD_API_WEBHOOK, &[]),
];

/// The types that only a host publishes: they are about something that Meta does not know. One alias is a misspelling
/// of DoubleTick's documents.
const PUBLISHED: &[(&str, &[&str])] = &[
    ("CHAT_ASSIGNED_TO_AGENT", &["Chat Assigned to Agent"]),
    ("ASSIGNED_AGENT_STATUS_CHANGED", &[]),
    ("CHAT_UNASSIGNED", &["Chat Unassigned"]),
    ("UPDATE_CUSTOMER_CUSTOM_FIELD", &["Customer Custom Field Updated"]),
    ("WIDGET_LEAD_RECEIVED", &["Lead Received from Widget"]),
    ("VERIFIED_WIDGET_LEAD_RECEIVED", &["Verified Lead Received from Widget"]),
    ("NEW_LEAD", &["First Time Message Trigger from Customer"]),
    ("CLOSE_CONVERSATION", &[]),
    ("ADD_TAG", &["Tag added"]),
    ("REMOVE_TAG", &["Tag removed"]),
    ("CONVERSATION_OPENED", &["COVERSATION_OPENED"]),
    ("CUSTOMER_NOTE_CREATED", &[]),
    ("CUSTOMER_NOTE_UPDATED", &[]),
    ("CUSTOMER_NOTE_DELETED", &[]),
    ("POST_CALL_DISPOSITION", &[]),
    ("CALL_NOT_PICKED", &[]),
    ("ON_SLA_ESCALATED_PUBLIC", &[]),
    (TEST, &[]),
];

/// Canonical names and the session gateway's names. All its other names are types of their own.
const SESSION: &[(&str, &str)] = &[
    ("MESSAGE_RECEIVED", "message.received"),
    ("CALL_INCOMING_INITIATED", "call.offer"),
    ("CALL_ACCEPTED", "call.accept"),
    ("CALL_REJECTED", "call.reject"),
    ("CALL_ENDED", "call.terminate"),
    ("HISTORY_SYNC", "history.sync"),
    ("SMB_APP_STATE_SYNC", "contact.update"),
    (TEST, "test.ping"),
];

/// The names that only the session gateway has. They are known, and only a host publishes them.
const SESSION_ONLY: &[&str] = &[
    "appstate.patch_received",
    "appstate.sync_complete",
    "blocklist.change",
    "connection.connected",
    "connection.disconnected",
    "connection.keepalive_timeout",
    "connection.logged_out",
    "connection.reconnecting",
    "connection.temporary_ban",
    "group.info_update",
    "group.join",
    "group.leave",
    "group.participant_update",
    "media.downloaded",
    "media.received",
    "message.deleted",
    "message.delivered",
    "message.played",
    "message.read",
    "newsletter.join",
    "newsletter.leave",
    "newsletter.message_received",
    "newsletter.update",
    "poll.created",
    "poll.update",
    "poll.vote",
    "status.deleted",
    "status.posted",
    "status.viewed",
];

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
    fn the_document_says_who_makes_each_type() {
        let document = include_str!("../../docs/events.md");
        let (made, published) = document.split_once("## Types that only a host publishes").unwrap();
        for (types, section) in [(FROM_CALLBACKS, made), (PUBLISHED, published)] {
            for (name, _) in types {
                let words = section.split(|c: char| !c.is_ascii_uppercase() && c != '_');
                assert!(
                    words.into_iter().any(|word| word == *name),
                    "{name} is not in its section"
                );
            }
        }
    }

    fn check_hints(name: &str, publish: Option<&str>, subscribe: Option<&str>) {
        let catalogue = Catalogue::default().with("ORDER_PLACED", ["order.placed"]);
        let text = |hint: Option<TypeHint>| hint.map(|hint| hint.to_string());
        let begins = |hint: Option<String>, expected: Option<&str>| match (&hint, expected) {
            (Some(hint), Some(expected)) => assert!(hint.starts_with(expected), "{hint}"),
            _ => assert_eq!(hint.as_deref(), expected, "{name}"),
        };
        begins(text(catalogue.publish_hint(name)), publish);
        begins(text(catalogue.subscribe_hint(name)), subscribe);
    }

    #[test]
    fn a_hint_names_the_nearest_type_or_who_publishes_it() {
        for known in ["MESSAGE_RECEIVED", "message.received", "template updated", "call.offer"] {
            check_hints(known, None, None);
        }
        for published in ["ADD_TAG", "Tag added", "message.read", "TEST", "order.placed"] {
            let hint = format!("{published}: no callback of Meta becomes this type");
            check_hints(published, None, Some(&hint));
        }
        for (given, meant) in [
            ("MESSAGE_RECIEVED", "MESSAGE_RECEIVED"),
            ("message_received", "MESSAGE_RECEIVED"),
            ("MESSAGE_STATUS_UPDATES", "MESSAGE_STATUS_UPDATE"),
            ("mesage.received", "message.received"),
            ("message.raed", "message.read"),
            ("ORDER_PLACE", "ORDER_PLACED"),
        ] {
            let hint = format!("{given}: did you mean {meant}?");
            check_hints(given, Some(&hint), Some(&hint));
        }
        for unlike in ["INVOICE_PAID", "X", "T", ""] {
            let hint = format!("{unlike}: unknown event type");
            check_hints(unlike, Some(&hint), Some(&hint));
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

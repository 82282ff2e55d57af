//! The event types of Meta's updates: which lists of a change hold updates, and the type of each update. The
//! names are DoubleTick's where it has one, else they follow the name of Meta's field. A field or a list that is
//! not listed here becomes no typed event; the change still becomes a RAW_CLOUD_API_WEBHOOK.

use smallvec::{SmallVec, smallvec};

use super::update::{FieldUpdates, Update, UpdateList};
use crate::text::json::JsonObject;

/// The types of one update: its own, and that of an advertisement it answers.
pub(super) type TypeNames = SmallVec<[&'static str; 2]>;

pub(super) const MESSAGE_RECEIVED: &str = "MESSAGE_RECEIVED";
const CALL_ENDED: &str = "CALL_ENDED";

const ERRORS: UpdateList = UpdateList::Plain { name: "errors", event_type: "CLOUD_API_ERROR" };

const fn whole(event_type: &'static str) -> FieldUpdates {
    FieldUpdates { lists: &[], otherwise: None, whole: Some(event_type) }
}

const fn lists(lists: &'static [UpdateList]) -> FieldUpdates {
    FieldUpdates { lists, otherwise: None, whole: None }
}

/// A field with one list, which is one update as a whole where it lacks the list.
macro_rules! list_or_whole {
    ($name:literal, $event_type:literal) => {
        FieldUpdates {
            lists: &[UpdateList::Plain { name: $name, event_type: $event_type }],
            otherwise: None,
            whole: Some($event_type),
        }
    };
}

/// The updates of a field. Every type named here is also listed in the catalogue as made by callbacks.
pub(super) fn updates_of(field: &str) -> FieldUpdates {
    match field {
        "messages" => FieldUpdates {
            lists: &[UpdateList::Messages, UpdateList::Statuses],
            otherwise: Some(ERRORS),
            whole: None,
        },
        "standby" => lists(&[UpdateList::Standby]),
        "calls" => lists(&[UpdateList::Calls, UpdateList::CallStatuses]),
        "message_echoes" | "smb_message_echoes" => FieldUpdates {
            lists: &[UpdateList::Echoes],
            otherwise: None,
            whole: Some("MESSAGE_ECHO"),
        },
        "user_preferences" => FieldUpdates {
            lists: &[UpdateList::Preferences],
            otherwise: None,
            whole: Some("USER_PREFERENCES_UPDATE"),
        },
        "group_lifecycle_update" => list_or_whole!("groups", "GROUP_LIFECYCLE_UPDATE"),
        "group_participants_update" => list_or_whole!("groups", "GROUP_PARTICIPANTS_UPDATE"),
        "group_settings_update" => list_or_whole!("groups", "GROUP_SETTINGS_UPDATE"),
        "group_status_update" => list_or_whole!("groups", "GROUP_STATUS_UPDATE"),
        "history" => list_or_whole!("history", "HISTORY_SYNC"),
        "smb_app_state_sync" => list_or_whole!("state_sync", "SMB_APP_STATE_SYNC"),
        "automatic_events" => list_or_whole!("automatic_events", "AUTOMATIC_EVENT"),
        "messaging_handovers" => whole("MESSAGING_HANDOVER"),
        "message_template_status_update" => whole("TEMPLATE_UPDATE"),
        "message_template_quality_update" => whole("TEMPLATE_QUALITY_UPDATE"),
        "message_template_components_update" => whole("TEMPLATE_COMPONENTS_UPDATE"),
        "template_category_update" => whole("TEMPLATE_CATEGORY_UPDATE"),
        "phone_number_quality_update" => whole("PHONE_NUMBER_QUALITY_UPDATE"),
        "phone_number_name_update" => whole("PHONE_NUMBER_NAME_UPDATE"),
        "account_update" => whole("ACCOUNT_UPDATE"),
        "account_alerts" => whole("ACCOUNT_ALERT"),
        "account_review_update" => whole("ACCOUNT_REVIEW_UPDATE"),
        "account_settings_update" => whole("ACCOUNT_SETTINGS_UPDATE"),
        "business_capability_update" => whole("BUSINESS_CAPABILITY_UPDATE"),
        "business_status_update" => whole("BUSINESS_STATUS_UPDATE"),
        "partner_solutions" => whole("PARTNER_SOLUTION_UPDATE"),
        "payment_configuration_update" => whole("PAYMENT_CONFIGURATION_UPDATE"),
        "security" => whole("SECURITY_UPDATE"),
        "flows" => whole("FLOW_UPDATE"),
        "consumer_profile" => whole("CONSUMER_PROFILE_UPDATE"),
        "tracking_events" => whole("TRACKING_EVENT"),
        _ => lists(&[]),
    }
}

pub(super) fn types_of(update: &Update<'_>) -> TypeNames {
    smallvec![match update.list {
        UpdateList::Messages => return message_types(update),
        UpdateList::Statuses => status_type(update),
        UpdateList::Standby => "STANDBY_MESSAGE_RECEIVED",
        UpdateList::Echoes => "MESSAGE_ECHO",
        UpdateList::Calls => call_type(update),
        UpdateList::CallStatuses => call_status_type(update),
        UpdateList::Preferences => "USER_PREFERENCES_UPDATE",
        UpdateList::Plain { event_type, .. } => event_type,
    }]
}

/// A message has one type, and one that answers an advertisement is also a CALL_TO_WHATSAPP_MESSAGE_RECEIVED:
/// DoubleTick sends that one in addition, and for no message of a group.
fn message_types(update: &Update<'_>) -> TypeNames {
    if update.id("group_id").is_some() {
        return smallvec!["WA_GROUP_MESSAGE_RECEIVED"];
    }
    let nested = |name| update.object.value(name).and_then(|text| JsonObject::parse(text).ok());
    let nested_type = |name| nested(name).and_then(|object| object.id("type"));
    let of_type = match update.id("type").as_deref() {
        Some("request_welcome") => Some("CUSTOMER_BUSINESS_CHAT_OPEN"),
        Some("system") => nested_type("system").and_then(|kind| system_type(&kind)),
        Some("interactive") => nested_type("interactive")
            .filter(|kind| kind == "call_permission_reply")
            .map(|_| "CALL_PERMISSION_REPLY_RECEIVED"),
        _ => None,
    };
    if let Some(of_type) = of_type {
        return smallvec![of_type];
    }
    match nested("referral") {
        Some(_) => smallvec![MESSAGE_RECEIVED, "CALL_TO_WHATSAPP_MESSAGE_RECEIVED"],
        None => smallvec![MESSAGE_RECEIVED],
    }
}

/// The type of a message that WhatsApp itself writes about a customer.
fn system_type(kind: &str) -> Option<&'static str> {
    let is_identity = kind.ends_with("_identity_changed") || kind.contains("_changed_");
    is_identity.then_some("CUSTOMER_IDENTITY_CHANGED")
}

fn status_type(update: &Update<'_>) -> &'static str {
    match update.id("type").as_deref() {
        Some("payment") => "PAYMENT_UPDATE",
        _ => "MESSAGE_STATUS_UPDATE",
    }
}

/// A call of a customer that ends and never started was missed: `start_time` is there only if it was picked up.
fn call_type(update: &Update<'_>) -> &'static str {
    let is_outgoing = update.is_outgoing_call();
    let was_answered = ["start_time", "duration"].iter().any(|name| update.id(name).is_some());
    match update.id("event").as_deref() {
        Some("connect") if is_outgoing => "CALL_OUTGOING_INITIATED",
        Some("connect") => "CALL_INCOMING_INITIATED",
        Some("terminate") if is_outgoing || was_answered => CALL_ENDED,
        Some("terminate") => "CALL_MISSED",
        _ => "CALL_UPDATE",
    }
}

fn call_status_type(update: &Update<'_>) -> &'static str {
    match update.id("status").as_deref() {
        Some("RINGING") => "CALL_RINGING",
        Some("ACCEPTED") => "CALL_ACCEPTED",
        Some("REJECTED") => "CALL_REJECTED",
        _ => "CALL_UPDATE",
    }
}

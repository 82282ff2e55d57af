//! The event types of every sample and of every other update that Meta documents.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::samples::SAMPLES;
use super::*;
use crate::event::{Catalogue, RAW_CLOUD_API_WEBHOOK};

/// The types of a callback's events without the whole changes, each once, in order of name.
fn types(body: &str) -> Vec<String> {
    let callback = read_events(body, &open());
    assert_eq!(callback.malformed_parts, 0, "{body}");
    let mut types: Vec<_> = callback.events.iter().map(|event| event.kind.clone()).collect();
    types.retain(|kind| kind != RAW_CLOUD_API_WEBHOOK);
    types.sort_unstable();
    types.dedup();
    types
}

const MESSAGE: &str = "MESSAGE_RECEIVED";
const STATUS: &str = "MESSAGE_STATUS_UPDATE";

#[test]
fn every_sample_has_its_types() {
    let expected: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("account_alerts_number.json", ["ACCOUNT_ALERT"].as_slice()),
        ("account_settings_update.json", &["ACCOUNT_SETTINGS_UPDATE"]),
        ("account_update_partner_added.json", &["ACCOUNT_UPDATE"]),
        ("brazil_ninth_digit.json", &[MESSAGE]),
        ("call_connect.json", &["CALL_OUTGOING_INITIATED"]),
        ("call_status.json", &["CALL_RINGING"]),
        ("call_terminate.json", &["CALL_ENDED"]),
        ("cloud_batch_two_wabas_three_numbers.json", &[MESSAGE, STATUS, "TEMPLATE_UPDATE"]),
        ("cloud_escaped_raw_bytes.json", &[MESSAGE]),
        ("cloud_message_text.json", &[MESSAGE]),
        ("cloud_status_read.json", &[STATUS]),
        ("cloud_status_sent.json", &[STATUS]),
        ("cloud_template_status_rejected.json", &["TEMPLATE_UPDATE"]),
        ("group_status_update.json", &["GROUP_STATUS_UPDATE"]),
        ("history_chunk.json", &["HISTORY_SYNC"]),
        ("message_edit.json", &[MESSAGE]),
        ("message_group.json", &["WA_GROUP_MESSAGE_RECEIVED"]),
        ("message_referral.json", &["CALL_TO_WHATSAPP_MESSAGE_RECEIVED", MESSAGE]),
        ("message_unsupported.json", &[MESSAGE]),
        ("message_user_id_only.json", &[MESSAGE]),
        ("messaging_handovers.json", &["MESSAGING_HANDOVER"]),
        ("partner_solutions.json", &["PARTNER_SOLUTION_UPDATE"]),
        ("payment_failed.json", &["PAYMENT_UPDATE"]),
        ("payment_second_try.json", &["PAYMENT_UPDATE"]),
        ("phone_number_name_update.json", &["PHONE_NUMBER_NAME_UPDATE"]),
        ("phone_number_quality_update.json", &["PHONE_NUMBER_QUALITY_UPDATE"]),
        ("refund_captured.json", &["PAYMENT_UPDATE"]),
        ("security_pin_changed.json", &["SECURITY_UPDATE"]),
        ("smb_app_state_sync.json", &["SMB_APP_STATE_SYNC"]),
        ("standby_message.json", &["STANDBY_MESSAGE_RECEIVED"]),
        ("status_failed.json", &[STATUS]),
        ("status_group_aggregated.json", &[STATUS]),
        ("status_group_read.json", &[STATUS]),
        ("status_played.json", &[STATUS]),
        ("template_quality_update.json", &["TEMPLATE_QUALITY_UPDATE"]),
        ("three_changes.json", &[MESSAGE, "USER_PREFERENCES_UPDATE"]),
        ("two_messages.json", &[MESSAGE]),
        ("user_preferences.json", &["USER_PREFERENCES_UPDATE"]),
        ("value_errors_only.json", &["CLOUD_API_ERROR"]),
    ]);
    let seen: BTreeMap<&str, Vec<String>> =
        SAMPLES.iter().map(|(name, body)| (name.as_str(), types(&body.to_string()))).collect();
    for (name, expected) in &expected {
        assert_eq!(seen.get(name).unwrap(), expected, "{name}");
    }
    let untested: Vec<_> = seen.keys().filter(|name| !expected.contains_key(*name)).collect();
    assert!(untested.is_empty(), "{untested:?}");
    // A profile name that is cut inside an emoji, which serde_json cannot hold as a value.
    let cut = include_str!("../../../docs/samples/callbacks/lone_surrogate.json");
    assert_eq!(types(cut), [MESSAGE]);
}

fn check(field: &str, value: &Value, expected: &[&str]) {
    let mut value = value.clone();
    value["metadata"] = json!({"display_phone_number": "919000000001", "phone_number_id": "7"});
    let body = callback_of("1", &[json!({"field": field, "value": value})]);
    assert_eq!(types(&body), expected, "{body}");
    let catalogue = Catalogue::default();
    assert!(expected.iter().all(|name| catalogue.knows(name)), "{expected:?}");
}

#[test]
fn messages_and_statuses_are_typed_by_their_content() {
    let message = |kind: &str, content: Value| json!({"messages": [{"id": "m", "from": "911", "type": kind, kind: content}]});
    let system = |kind: &str| message("system", json!({"type": kind}));
    check("messages", &message("text", json!({"body": "x"})), &[MESSAGE]);
    check("messages", &system("user_changed_number"), &["CUSTOMER_IDENTITY_CHANGED"]);
    check("messages", &system("customer_identity_changed"), &["CUSTOMER_IDENTITY_CHANGED"]);
    check("messages", &system("user_changed_user_id"), &["CUSTOMER_IDENTITY_CHANGED"]);
    check("messages", &system("something_new"), &[MESSAGE]);
    check("messages", &message("request_welcome", json!({})), &["CUSTOMER_BUSINESS_CHAT_OPEN"]);
    let reply = message("interactive", json!({"type": "call_permission_reply"}));
    check("messages", &reply, &["CALL_PERMISSION_REPLY_RECEIVED"]);
    check("messages", &message("interactive", json!({"type": "nfm_reply"})), &[MESSAGE]);
    let mut of_group = message("text", json!({"body": "x"}));
    of_group["messages"][0]["group_id"] = json!("g");
    of_group["messages"][0]["referral"] = json!({"source_type": "ad"});
    check("messages", &of_group, &["WA_GROUP_MESSAGE_RECEIVED"]);
    // The platform's own errors count only where there is no update that they may belong to.
    let mut with_errors = message("text", json!({"body": "x"}));
    with_errors["errors"] = json!([{"code": 1}]);
    check("messages", &with_errors, &[MESSAGE]);
    for field in ["message_echoes", "smb_message_echoes"] {
        check(field, &json!({"message_echoes": [{"id": "m", "to": "911"}]}), &["MESSAGE_ECHO"]);
    }
}

#[test]
fn calls_are_typed_by_event_direction_and_status() {
    let call = |event: &str, direction: &str, more: Value| {
        let mut call = json!({"id": "c", "event": event, "direction": direction, "from": "911"});
        call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"calls": [call]})
    };
    let none = || json!({});
    for (value, expected) in [
        (call("connect", "USER_INITIATED", none()), "CALL_INCOMING_INITIATED"),
        (call("connect", "BUSINESS_INITIATED", none()), "CALL_OUTGOING_INITIATED"),
        (call("terminate", "USER_INITIATED", json!({"start_time": "1"})), "CALL_ENDED"),
        (call("terminate", "USER_INITIATED", json!({"status": "FAILED"})), "CALL_MISSED"),
        (call("terminate", "BUSINESS_INITIATED", none()), "CALL_ENDED"),
        (call("something_new", "USER_INITIATED", none()), "CALL_UPDATE"),
        (json!({"statuses": [{"id": "c", "status": "RINGING"}]}), "CALL_RINGING"),
        (json!({"statuses": [{"id": "c", "status": "ACCEPTED"}]}), "CALL_ACCEPTED"),
        (json!({"statuses": [{"id": "c", "status": "REJECTED"}]}), "CALL_REJECTED"),
        (json!({"statuses": [{"id": "c", "status": "NEW"}]}), "CALL_UPDATE"),
    ] {
        check("calls", &value, &[expected]);
    }
}

#[test]
fn other_fields_are_typed_by_their_name() {
    for (field, expected) in [
        ("template_category_update", "TEMPLATE_CATEGORY_UPDATE"),
        ("message_template_components_update", "TEMPLATE_COMPONENTS_UPDATE"),
        ("account_review_update", "ACCOUNT_REVIEW_UPDATE"),
        ("business_capability_update", "BUSINESS_CAPABILITY_UPDATE"),
        ("business_status_update", "BUSINESS_STATUS_UPDATE"),
        ("payment_configuration_update", "PAYMENT_CONFIGURATION_UPDATE"),
        ("flows", "FLOW_UPDATE"),
        ("consumer_profile", "CONSUMER_PROFILE_UPDATE"),
        ("tracking_events", "TRACKING_EVENT"),
        ("automatic_events", "AUTOMATIC_EVENT"),
        ("group_lifecycle_update", "GROUP_LIFECYCLE_UPDATE"),
        ("group_participants_update", "GROUP_PARTICIPANTS_UPDATE"),
        ("group_settings_update", "GROUP_SETTINGS_UPDATE"),
    ] {
        check(field, &json!({}), &[expected]);
        let with_list = json!({"groups": [{"group_id": "g", "timestamp": "1"}]});
        check(field, &with_list, &[expected]);
    }
    check("a_field_of_tomorrow", &json!({"messages": [{}]}), &[]);
}

/// The dedup keys and ordering keys of the events that are made of lists.
#[test]
fn updates_of_lists_have_their_own_payload_and_key() {
    let value = json!({
        "metadata": {"display_phone_number": "919000000001"},
        "contacts": [{"wa_id": "911", "user_id": "IN.1"}, {"wa_id": "912", "user_id": "IN.2"}],
        "user_preferences": [{"wa_id": "911", "value": "stop"}, {"wa_id": "912", "value": "stop"}],
    });
    let body = callback_of("1", &[json!({"field": "user_preferences", "value": value})]);
    let callback = read_events(&body, &open());
    let [first, second, _] = callback.events.as_slice() else {
        panic!("{}", callback.events.len())
    };
    assert_ne!(first.dedup_key, second.dedup_key);
    assert_eq!((first.key.as_deref(), second.key.as_deref()), (Some("IN.1"), Some("IN.2")));
    assert!(payload(first).contains("911") && !payload(first).contains("912"), "{first:?}");
    assert!(payload(second).contains("912") && !payload(second).contains("911"), "{second:?}");
}

/// Every event of one call has the key of its contact, also where the business started it.
#[test]
fn the_events_of_a_call_have_the_key_of_its_contact() {
    let call = |direction: &str, from: &str, to: &str| json!({"calls": [{"id": "c", "event": "connect", "direction": direction, "from": from, "to": to}]});
    for value in [
        call("USER_INITIATED", "911", "919000000001"),
        call("BUSINESS_INITIATED", "919000000001", "911"),
        json!({"statuses": [{"id": "c", "status": "RINGING", "recipient_id": "911"}]}),
    ] {
        let body = callback_of("1", &[json!({"field": "calls", "value": value})]);
        let callback = read_events(&body, &open());
        assert_eq!(callback.events[0].key.as_deref(), Some("911"), "{body}");
    }
}

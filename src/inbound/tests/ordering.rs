//! Ordering keys: one for each contact and each group.

use serde_json::{Value, json};

use super::*;

fn keys_of(value: Value) -> Vec<Option<String>> {
    let mut value = value;
    value["metadata"] = json!({"display_phone_number": "919000000001"});
    let body = callback_of("1", &[json!({"field": "messages", "value": value})]);
    let callback = read_events(&body, &open());
    let updates = callback.events.iter().filter(|event| event.is_part);
    updates.map(|event| event.key.clone()).collect()
}

fn check_keys(value: Value, expected: &[&str]) {
    let keys = keys_of(value.clone());
    let keys: Vec<&str> = keys.iter().map(|key| key.as_deref().unwrap_or("-")).collect();
    assert_eq!(keys, expected, "{value}");
}

/// A message shows number and user id, and its edit the user id alone.
#[test]
fn a_contact_has_one_key_with_and_without_its_number() {
    let bystander = json!({"from": "919812300009", "id": "b"});
    let message = json!({"from": "919812300001", "from_user_id": "IN.111", "id": "a"});
    let edit = json!({"from_user_id": "IN.111", "id": "b", "type": "edit"});
    check_keys(json!({"messages": [message, bystander]}), &["IN.111", "919812300009"]);
    check_keys(json!({"messages": [edit]}), &["IN.111"]);
    // The user id may stand in the contacts alone.
    let contacts = json!([{"wa_id": "919812300001", "user_id": "IN.111"}, {"wa_id": "1"}]);
    let message = json!({"from": "919812300001", "id": "a"});
    check_keys(
        json!({"contacts": contacts, "messages": [message, bystander]}),
        &["IN.111", "919812300009"],
    );
    let status = json!({"id": "a", "status": "sent", "recipient_id": "919812300001"});
    check_keys(json!({"contacts": contacts, "statuses": [status]}), &["IN.111"]);
}

/// The message, or another change of the same WABA, shows both; its status shows the number alone.
#[test]
fn a_user_id_is_learnt_from_the_other_updates_of_an_entry() {
    let message = json!({"from": "911", "from_user_id": "IN.1", "id": "a"});
    let status = |to: &str| json!({"id": "b", "status": "sent", "recipient_id": to});
    check_keys(
        json!({"messages": [message], "statuses": [status("911"), status("912")]}),
        &["IN.1", "IN.1", "912"],
    );
    let change = |value: &Value| json!({"field": "messages", "value": value});
    let statuses = json!({"statuses": [status("911")]});
    let contacts = json!({"contacts": [{"wa_id": "911", "user_id": "IN.1"}, {"wa_id": "9"}],
        "messages": [{"from": "9", "id": "c"}]});
    let failing = r#"{"field":"messages","value":{"statuses":[{"id":"x","recipient_id":"911"},{"a":1,"a":1}]}}"#;
    let body = format!(
        r#"{{"entry":[{{"id":"1","changes":[{},{failing},{}]}},{{"id":"2","changes":[{}]}}]}}"#,
        change(&statuses),
        change(&contacts),
        change(&statuses)
    );
    let callback = read_events(&body, &open());
    let keys: Vec<_> = callback.events.iter().filter(|event| event.is_part).collect();
    let keys: Vec<_> = keys.iter().map(|event| event.key.as_deref().unwrap()).collect();
    assert_eq!(keys, ["IN.1", "9", "911"], "user ids belong to the business of the WABA");
}

/// In some countries the number of the only contact differs from its `wa_id`.
#[test]
fn an_only_contact_belongs_to_an_only_update() {
    let contacts = json!([{"wa_id": "555499000111", "user_id": "BR.1"}]);
    let message = |from: &str| json!({"from": from, "id": from});
    check_keys(json!({"contacts": contacts, "messages": [message("5554999000111")]}), &["BR.1"]);
    let two = json!([message("5554999000111"), message("5554999000222")]);
    check_keys(json!({"contacts": contacts, "messages": two}), &["5554999000111", "5554999000222"]);
}

#[test]
fn a_group_has_one_key_for_all_its_members() {
    let group = "120@g.us";
    check_keys(
        json!({
            "messages": [
                {"from": "911111111111", "group_id": group, "id": "1"},
                {"from_user_id": "IN.2", "group_id": group, "id": "2"},
                {"from": "911111111111", "id": "3"},
            ],
            "statuses": [
                {"id": "1", "status": "read", "recipient_id": group, "recipient_type": "group",
                    "recipient_participant_id": "911111111111",
                    "recipient_participant_user_id": "IN.1"},
                {"id": "1", "status": "read", "recipient_id": group, "recipient_user_id": "IN.9",
                    "participant_recipient_id": "912222222222"},
            ],
        }),
        &[group, group, "911111111111", group, group],
    );
}

#[test]
fn a_payment_status_is_ordered_with_its_sender() {
    let payment =
        json!({"id": "p", "status": "pending", "type": "payment", "from": "911111111111"});
    let sent = json!({"id": "m", "status": "sent", "recipient_id": "911111111111"});
    check_keys(
        json!({"statuses": [payment, sent, {"id": "x", "status": "sent"}]}),
        &["911111111111", "911111111111", "-"],
    );
}

/// So that a purge of a contact reaches the change that is passed on whole.
#[test]
fn a_change_of_one_contact_has_its_key() {
    let raw_key = |value: Value| {
        let body = callback_of("1", &[json!({"field": "messages", "value": value})]);
        let callback = read_events(&body, &open());
        callback.events.into_iter().find(|event| !event.is_part).unwrap().key
    };
    let metadata = json!({"display_phone_number": "919000000001"});
    let message = |from: &str, id: &str| json!({"from": from, "id": id});
    let status = json!({"id": "a", "status": "sent", "recipient_id": "911"});
    let own = json!([message("911", "b"), message("911", "c")]);
    let value = json!({"metadata": metadata, "messages": own, "statuses": [status.clone()]});
    assert_eq!(raw_key(value).as_deref(), Some("911"));
    let contacts = json!([{"wa_id": "911", "user_id": "IN.1"}]);
    let value = json!({"metadata": metadata, "contacts": contacts, "messages": own});
    assert_eq!(raw_key(value).as_deref(), Some("IN.1"));
    // The message shows the user id of the status's contact.
    let shown = json!([{"from": "911", "from_user_id": "IN.1", "id": "b"}]);
    let value = json!({"metadata": metadata, "messages": shown, "statuses": [status]});
    assert_eq!(raw_key(value).as_deref(), Some("IN.1"));
    let two = json!([message("911", "b"), message("912", "c")]);
    assert_eq!(raw_key(json!({"metadata": metadata, "messages": two})), None);
    assert_eq!(raw_key(json!({"metadata": metadata})), None, "no contact is named");
}

//! Dedup keys: two updates that differ are two events, the same update sent again is one.

use serde_json::{Value, json};

use super::*;

const NUMBER: &str = "919999999999";

/// The identity of the only update in a callback, and that of a bystander in the same change.
fn identity_at(number: &str, list: &str, update: &Value) -> [(String, String); 2] {
    let bystander = json!({"id": "bystander", "from": "911", "type": "text"});
    let mut value = json!({"metadata": {"display_phone_number": number, "phone_number_id": "7"}});
    value["messages"] = json!([bystander]);
    match list {
        "messages" => value["messages"] = json!([bystander, update]),
        list => value[list] = json!([update]),
    }
    let body = callback_of("1", &[json!({"field": "messages", "value": value})]);
    let mut events = identities(&read_events(&body, &open())).into_iter();
    let [bystander, update] = [events.next().unwrap(), events.next().unwrap()];
    [update, bystander]
}

fn check_two(list: &str, one: &Value, other: &Value) {
    let [[one_id, bystander], [other_id, other_bystander]] =
        [one, other].map(|update| identity_at(NUMBER, list, update));
    assert_ne!(one_id, other_id, "{one} and {other}");
    assert_eq!(bystander, other_bystander, "the same update is one, whatever comes with it");
    assert_eq!(identity_at(NUMBER, list, one)[0], one_id, "the same update again: {one}");
}

#[test]
fn each_participant_of_a_group_has_its_own_status() {
    let status = |name: &str, participant: &str| {
        let mut status = json!({"id": "g", "status": "read", "timestamp": "1",
            "recipient_id": "1@g.us", "recipient_type": "group"});
        status[name] = json!(participant);
        status
    };
    for name in ["recipient_participant_id", "participant_recipient_id", "participant_user_id"] {
        check_two("statuses", &status(name, "911"), &status(name, "912"));
    }
    let aggregated = |participants: &[&str]| {
        let mut status = status("recipient_id", "1@g.us");
        status["participants"] = json!(participants);
        status
    };
    check_two("statuses", &aggregated(&["911", "912"]), &aggregated(&["911", "913"]));
}

#[test]
fn payments_refunds_and_failures_repeat_their_ids() {
    let payment = |transaction: &str, refund: Value| {
        json!({"id": "p", "status": "captured", "type": "payment", "from": "911",
            "payment": {"transaction": {"id": transaction}, "refunds": refund}})
    };
    check_two("statuses", &payment("TX1", json!([])), &payment("TX2", json!([])));
    let refund = |status: &str| payment("TX1", json!([{"id": "R1", "status": status}]));
    check_two("statuses", &refund("pending"), &refund("processed"));
    let failed = |code: u32| json!({"id": "m", "status": "failed", "recipient_id": "911", "errors": [{"code": code}]});
    check_two("statuses", &failed(131_026), &failed(131_047));
    // A plain status with an error is not plain.
    let sent = json!({"id": "m", "status": "sent", "recipient_id": "911"});
    let mut with_error = sent.clone();
    with_error["errors"] = json!([{"code": 1}]);
    check_two("statuses", &sent, &with_error);
    let to_user = json!({"id": "m", "status": "sent", "recipient_user_id": "911"});
    check_two("statuses", &sent, &to_user);
}

/// An `unsupported` message may be sent again with its content, and an edit repeats what it edits.
#[test]
fn messages_of_one_id_in_two_forms_are_two() {
    let message = |kind: &str, more: Value| {
        let mut message = json!({"id": "m", "from": "911", "timestamp": "1", "type": kind});
        message[kind] = more;
        message
    };
    let text = message("text", json!({"body": "x"}));
    let unsupported =
        json!({"id": "m", "from": "911", "type": "unsupported", "errors": [{"code": 1}]});
    check_two("messages", &text, &unsupported);
    let other = json!({"id": "m", "from": "911", "type": "unsupported", "errors": [{"code": 2}]});
    check_two("messages", &unsupported, &other);
    let edit = |body: &str| message("edit", json!({"message": {"text": {"body": body}}}));
    check_two("messages", &edit("first"), &edit("second"));
    check_two("messages", &text, &message("image", json!({"id": "i"})));
    let without_type = json!({"id": "m", "from": "911", "location": {"latitude": 1}});
    let elsewhere = json!({"id": "m", "from": "911", "location": {"latitude": 2}});
    check_two("messages", &without_type, &elsewhere);
    // An id that holds the separator of the key.
    check_two(
        "messages",
        &json!({"id": "a:text", "from": "1", "type": "text"}),
        &json!(
            {"id": "a", "from": "1", "type": "text"}
        ),
    );
}

#[test]
fn one_id_at_two_numbers_is_two() {
    let message = json!({"id": "wamid.SAME", "from": "911", "type": "text", "text": {"body": "x"}});
    let status = json!({"id": "wamid.SAME", "status": "read", "recipient_id": "911"});
    let failed = json!({"id": "wamid.SAME", "status": "failed", "recipient_id": "911"});
    for (list, update) in [("messages", message), ("statuses", status), ("statuses", failed)] {
        let [one, other] =
            [NUMBER, "918888888888"].map(|number| identity_at(number, list, &update));
        assert_ne!(one[0], other[0], "{update}");
        // Also numbers that cannot be read.
        let [one, other] = ["short", "other"].map(|number| identity_at(number, list, &update));
        assert_eq!(
            one[0], other[0],
            "told apart by their phone_number_id alone, which is the same"
        );
    }
}

/// What is known to be safe does not depend on how Meta writes the rest of the update.
#[test]
fn a_plain_update_is_one_however_it_is_written() {
    let message = json!({"id": "m", "from": "911", "timestamp": "1", "type": "text",
        "text": {"body": "x"}});
    let with_referral = json!({"type": "text", "text": {"body": "x"}, "referral": {}, "from": "911",
        "id": "m", "timestamp": "1"});
    assert_eq!(
        identity_at(NUMBER, "messages", &message)[0],
        identity_at(NUMBER, "messages", &with_referral)[0]
    );
    let expected = format!("{NUMBER}:m:text");
    assert_eq!(identity_at(NUMBER, "messages", &message)[0].1, expected);
    let read = json!({"id": "m", "status": "read", "recipient_id": "911", "pricing": {}});
    assert_eq!(identity_at(NUMBER, "statuses", &read)[0].1, format!("{NUMBER}:m:read:to=911"));
}

#[test]
fn long_ids_are_hashed_and_still_differ() {
    let long = |last: &str| format!("{}{last}", "x".repeat(600));
    let message = |id: &str| json!({"id": id, "from": id, "type": "text"});
    check_two("messages", &message(&long("1")), &message(&long("2")));
    let status = |to: &str| json!({"id": "m", "status": "sent", "recipient_id": to});
    check_two("statuses", &status(&long("1")), &status(&long("2")));
    let [update, _] = identity_at(NUMBER, "messages", &message(&long("1")));
    assert_eq!(update.1.len(), 64);
}

/// The same error or the same decision at two moments is two events.
#[test]
fn a_change_without_updates_is_identified_by_its_time() {
    let body = |field: &str, value: &Value, waba: &str, time: u64| {
        let change = json!({"field": field, "value": value});
        json!({"entry": [{"id": waba, "time": time, "changes": [change]}]}).to_string()
    };
    let keys = |body: &str| -> Vec<String> {
        let callback = read_events(body, &open());
        callback.events.into_iter().filter_map(|event| event.dedup_key).collect()
    };
    let metadata = json!({"display_phone_number": NUMBER});
    for (field, value) in [
        ("message_template_status_update", json!({"event": "APPROVED"})),
        ("messages", json!({"metadata": metadata, "errors": [{"code": 130_429}]})),
        ("account_settings_update", json!({"metadata": metadata})),
    ] {
        let first = keys(&body(field, &value, "1", 10));
        assert_eq!(first, keys(&body(field, &value, "1", 10)), "the same callback again");
        let have_one_key = first.windows(2).all(|pair| pair[0] == pair[1]);
        assert_eq!(have_one_key, field != "messages", "an update of a list has its own key");
        let mut changed = value.clone();
        changed["event"] = json!("REJECTED");
        let later = body(field, &value, "1", 12);
        for other in [body(field, &changed, "1", 10), later, body(field, &value, "2", 10)] {
            assert_ne!(first, keys(&other), "{other}");
        }
    }
}

//! A callback is split into the payloads of its changes and updates.

use serde_json::{Value, json};

use super::*;
use crate::inbound::identity::hash;

fn check_single(body: &str, expected: [&str; 2]) {
    let callback = read_events(body, &open());
    let seen: Vec<String> = lines(&callback);
    assert_eq!(unowned(&callback), 0);
    assert_eq!(seen.len(), 2, "{seen:?}");
    for (event, (seen, expected)) in callback.events.iter().zip(seen.iter().zip(expected)) {
        assert!(seen.starts_with(expected), "{seen} is not {expected}");
        assert_eq!(payload(event), body, "untouched");
    }
}

#[test]
fn a_single_update_is_passed_on_untouched() {
    for (body, origin, expected) in [
        (
            include_str!("../../../docs/samples/cloud_message_text.json"),
            "972123456789 1234567890987654321",
            "MESSAGE_RECEIVED default 972123456789 1234567890987654321 US.13491208655302741918 \
             972123456789:wamid.xyzxyz:text",
        ),
        (
            include_str!("../../../docs/samples/cloud_status_sent.json"),
            "972123456789 5467539754836534",
            "MESSAGE_STATUS_UPDATE default 972123456789 5467539754836534 \
             US.13491208655302741918 972123456789:wamid.xyzxyz:sent:to=972987654321",
        ),
        (
            include_str!("../../../docs/samples/cloud_status_read.json"),
            "972123456789 5467539754836534",
            "MESSAGE_STATUS_UPDATE default 972123456789 5467539754836534 \
             US.13491208655302741918 972123456789:wamid.xyzxyz:read:to=972987654321",
        ),
        (
            include_str!("../../../docs/samples/cloud_escaped_raw_bytes.json"),
            "919000000001 100000000000001",
            "MESSAGE_RECEIVED default 919000000001 100000000000001 919812300001 \
             919000000001:wamid.ESC0001:text",
        ),
    ] {
        let number = origin.split(' ').next().unwrap();
        let sha = hash([number, change_text(body, 0, 0)]);
        let key = expected.split(' ').nth(4).unwrap();
        let raw = format!("RAW_CLOUD_API_WEBHOOK default {origin} {key} {sha}");
        check_single(body, [expected, &raw]);
    }
    check_single(
        include_str!("../../../docs/samples/cloud_template_status_rejected.json"),
        [
            "TEMPLATE_UPDATE default - 102290129340398 1689556908129835 ",
            "RAW_CLOUD_API_WEBHOOK default - 102290129340398 1689556908129835 ",
        ],
    );
}

#[test]
fn a_batch_becomes_each_accounts_own_events_in_order() {
    let callback = read_events(BATCH, &two());
    let sha = |number, entry, change| hash([number, change_text(BATCH, entry, change)]);
    let template = hash(["", change_text(BATCH, 1, 0), "100000000000002", "1700000020"]);
    let first = "acme 919000000001 100000000000001";
    let second = "acme 919000000002 100000000000001";
    let third = "beta 919000000003 100000000000002";
    assert_eq!(
        lines(&callback),
        [
            format!("MESSAGE_RECEIVED {first} 919812300001 919000000001:wamid.TEST0001:text"),
            format!("MESSAGE_RECEIVED {first} 919812300001 919000000001:wamid.TEST0002:text"),
            format!("RAW_CLOUD_API_WEBHOOK {first} 919812300001 {}", sha("919000000001", 0, 0)),
            format!(
                "MESSAGE_STATUS_UPDATE {second} 919812300002 919000000002:wamid.OUT0001:read:to=919812300002"
            ),
            format!(
                "MESSAGE_STATUS_UPDATE {second} 919812300002 919000000002:wamid.OUT0001:delivered:to=919812300002"
            ),
            format!("RAW_CLOUD_API_WEBHOOK {second} 919812300002 {}", sha("919000000002", 0, 1)),
            format!("TEMPLATE_UPDATE beta - 100000000000002 1 {template}"),
            format!("RAW_CLOUD_API_WEBHOOK beta - 100000000000002 1 {template}"),
            format!("MESSAGE_RECEIVED {third} 919812300001 919000000003:wamid.TEST0003:text"),
            format!("RAW_CLOUD_API_WEBHOOK {third} 919812300001 {}", sha("919000000003", 1, 1)),
        ]
    );
    assert_eq!(unowned(&callback), 0);
}

#[test]
fn no_payload_holds_a_byte_of_another() {
    // What tells each event of the batch, in its order, from all the others.
    let own: [&[&str]; 10] = [
        &["TEST0001", "919000000001", "200000000000001", "Asha"],
        &["TEST0002", "919000000001", "200000000000001", "Asha"],
        &["TEST0001", "TEST0002", "919000000001", "200000000000001", "Asha"],
        &["OUT0001", "\"read\"", "919812300002", "919000000002", "200000000000002"],
        &["OUT0001", "\"delivered\"", "919812300002", "919000000002", "200000000000002"],
        &[
            "OUT0001",
            "\"read\"",
            "\"delivered\"",
            "919812300002",
            "919000000002",
            "200000000000002",
        ],
        &["promo"],
        &["promo"],
        &["TEST0003", "919000000003", "200000000000003"],
        &["TEST0003", "919000000003", "200000000000003"],
    ];
    let all: Vec<&str> = own.concat();
    let callback = read_events(BATCH, &two());
    assert_eq!(callback.events.len(), own.len());
    for (event, own) in callback.events.iter().zip(own) {
        for mark in &all {
            let holds = payload(event).contains(mark);
            assert_eq!(holds, own.contains(mark), "{mark} in {}", line(event));
        }
        let waba = event.waba.as_deref().unwrap();
        for other in ["100000000000001", "100000000000002"] {
            assert_eq!(payload(event).contains(other), other == waba, "{}", line(event));
        }
    }
}

#[test]
fn a_payload_keeps_what_was_around_its_update() {
    let callback = read_events(BATCH, &two());
    let batch: Value = serde_json::from_str(BATCH).unwrap();
    let mut expected = batch.clone();
    expected["entry"] = json!([batch["entry"][0]]);
    expected["entry"][0]["changes"] = json!([batch["entry"][0]["changes"][0]]);
    assert_eq!(value_of(&callback.events[2]), expected);
    let messages = &batch["entry"][0]["changes"][0]["value"]["messages"];
    expected["entry"][0]["changes"][0]["value"]["messages"] = json!([messages[1]]);
    assert_eq!(value_of(&callback.events[1]), expected);
    let template = value_of(&callback.events[6]);
    assert_eq!(template["entry"][0]["time"], json!(1700000020), "the entry keeps its time");
    assert_eq!(template, value_of(&callback.events[7]));
    assert!(payload(&callback.events[2]).contains(change_text(BATCH, 0, 0)), "byte for byte");
}

#[test]
fn a_split_event_keeps_every_byte_of_its_values() {
    let first = r#"{ "from":"911111111111","id" : "a\/\u0062","n":1.50e+2, "t":"\ud83d\ude00"}"#;
    let second = r#"{"from":"912222222222","id":"second"}"#;
    let body = format!(
        r#"{{"object":"\u0077","x":[1,  2],"entry":[{{"z":-0.0,"id":"1","changes":[{{"field":"m\u0065ssages","k":{{ }},"value":{{"m\u0065tadata":{{"display_phone_number":"+91 90000 00001" }},"messages":[{first},{second}],"later":"\/"}}}}]}}]}} "#
    );
    let callback = read_events(&body, &open());
    // Spaces between the members that were opened are not kept; all within a value are.
    let split = body.trim_end().replace(&format!(",{second}"), "");
    assert_eq!(payload(&callback.events[0]), split);
    assert!(callback.events[0].dedup_key.is_some());
    assert!(payload(&callback.events[1]).contains(second));
    assert!(!payload(&callback.events[1]).contains(first));
    assert_eq!(payload(&callback.events[2]), body, "the only change: untouched");
}

fn check_contacts(contacts: Value, expected: &[Option<Value>]) {
    let sent = json!([
        {"from": "911111111111", "from_user_id": "IN.1", "id": "m1"},
        {"from_user_id": "IN.2", "id": "m2"},
    ]);
    let callback =
        read_events(&callback_of("1", &[messages("919000000001", contacts, sent)]), &open());
    for (event, expected) in callback.events.iter().zip(expected) {
        let value = &value_of(event)["entry"][0]["changes"][0]["value"];
        assert_eq!(value.get("contacts"), expected.as_ref(), "{}", line(event));
    }
}

#[test]
fn a_split_event_keeps_its_own_contacts() {
    let one = json!({"wa_id": "911111111111", "profile": {"name": "one"}});
    let two = json!({"user_id": "IN.2", "profile": {"name": "two"}});
    let other = json!({"wa_id": "913333333333"});
    check_contacts(json!([one, two]), &[Some(json!([one])), Some(json!([two]))]);
    check_contacts(json!([other, two]), &[None, Some(json!([two]))]);
    check_contacts(json!([other]), &[Some(json!([other])), Some(json!([other]))]);
    check_contacts(json!({"wa_id": "911111111111"}), &[None, None]);
    let by_user = json!({"user_id": "IN.1"});
    check_contacts(json!([by_user, two]), &[Some(json!([by_user])), Some(json!([two]))]);
}

#[test]
fn an_aggregated_status_keeps_every_contact_that_it_names() {
    let contact = |n: u32| json!({"wa_id": format!("91{n}"), "user_id": format!("US.{n}")});
    let status = |participants: Value| {
        json!({"id": "g", "status": "read", "recipient_id": "1@g.us", "recipient_type": "group",
            "participants": participants})
    };
    let statuses = json!([
        status(json!([{"recipient_participant_id": "911"}, {"recipient_participant_id": "913"}])),
        {"id": "g", "status": "read", "recipient_id": "1@g.us", "participant_recipient_id": "912"},
        {"id": "g", "status": "read", "recipient_id": "1@g.us",
            "recipient_participant_user_id": "US.3"},
    ]);
    let value = json!({"metadata": {"display_phone_number": "919000000001"},
        "contacts": [contact(1), contact(2), contact(3)], "statuses": statuses});
    let body = callback_of("1", &[json!({"field": "messages", "value": value})]);
    let callback = read_events(&body, &open());
    let kept: Vec<_> = of_kind(&callback, "MESSAGE_STATUS_UPDATE")
        .into_iter()
        .map(|event| value_of(event)["entry"][0]["changes"][0]["value"]["contacts"].clone())
        .collect();
    assert_eq!(kept, [json!([contact(1), contact(3)]), json!([contact(2)]), json!([contact(3)])]);
}

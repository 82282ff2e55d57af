//! Bodies that are refused, parts that fail alone, and bounds.

use serde_json::{Value, json};

use super::*;
use crate::inbound::reader::{CallbackBounds, events_within};

fn check_malformed(body: &str, place: &str, found: &str) {
    let error = events(body.as_bytes(), &open()).unwrap_err();
    assert_eq!((error.place.as_str(), error.found.as_str()), (place, found), "{error}");
    assert!(!error.expected.is_empty());
    assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
}

#[test]
fn an_error_names_the_place_and_never_the_content() {
    for (body, place, found) in [
        ("", "body", "something that is not JSON at line 1, column 0"),
        ("hidden", "body", "something that is not JSON at line 1, column 1"),
        ("{\"hidden\":}", "body", "something that is not JSON at line 1, column 11"),
        ("{} {}", "body", "something that is not JSON at line 1, column 4"),
        ("[\"hidden\"]", "body", "an array"),
        ("\"hidden\"", "body", "a string"),
        (" null", "body", "null"),
        ("{}", "entry", "nothing"),
        (include_str!("../../../docs/samples/onprem_message_text.json"), "entry", "nothing"),
        (r#"{"entry":"hidden"}"#, "entry", "a string"),
        (r#"{"entry":{"hidden":1}}"#, "entry", "an object"),
        (r#"{"entry":7}"#, "entry", "a number"),
        (r#"{"entry":true}"#, "entry", "a boolean"),
        (r#"{"entry":[],"entry":["hidden"]}"#, "body", "a member named twice"),
    ] {
        check_malformed(body, place, found);
    }
    let error = events(b"{\"hidden\":\"\xff\"}", &open()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "body: found bytes that are not UTF-8 after byte 11; expected JSON in UTF-8"
    );
}

/// The texts of a callback's entries.
fn entries_of(body: &str) -> Vec<String> {
    let root = JsonObject::parse(body).unwrap();
    let entries = elements(root.value("entry").unwrap()).unwrap();
    entries.into_iter().map(str::to_owned).collect()
}

/// Reads a callback in which these entries are malformed and two of another account are not.
fn check_part(odd: &[String], place: &str, found: &str) {
    let bystander = |id: &str| {
        callback_of(
            "2",
            &[messages(
                "447700900000",
                json!([]),
                json!([
                    {"from": "1", "id": id, "type": "text"}
                ]),
            )],
        )
    };
    let (before, after) = (bystander("a"), bystander("b"));
    let (before, after) = (&entries_of(&before)[0], &entries_of(&after)[0]);
    let alone = read_events(&format!(r#"{{"entry":[{before},{after}]}}"#), &open());
    let body = format!(r#"{{"entry":[{},{before},{after}]}}"#, odd.join(","));
    let callback = read_events(&body, &open());
    assert_eq!(lines(&callback), lines(&alone), "the others are accepted: {place}");
    let one = &callback.malformed[0];
    assert_eq!((one.place.as_str(), one.found.as_str()), (place, found), "{one}");
    assert_eq!(callback.malformed_parts, 1);
    assert!(!one.to_string().contains("hidden"), "{one}");
}

#[test]
fn a_part_that_names_a_member_twice_fails_alone() {
    for (entry, place) in [
        (r#"{"id":1,"i\u0064":2}"#, "entry[0]"),
        (r#"{"changes":[{"value":{},"value":"hidden"}]}"#, "entry[0].changes[0]"),
        (
            r#"{"changes":[{"value":{"metadata":{"a":1,"a":2}}}]}"#,
            "entry[0].changes[0].value.metadata",
        ),
        (
            r#"{"changes":[{"value":{"waba_info":{"waba_id":1,"waba_id":2}}}]}"#,
            "entry[0].changes[0].value.waba_info",
        ),
        (
            r#"{"changes":[{"field":"messages","value":{"messages":[{},{"id":1,"id":2}]}}]}"#,
            "entry[0].changes[0].value.messages[1]",
        ),
    ] {
        check_part(&[entry.to_owned()], place, "a member named twice");
    }
}

#[test]
fn a_change_that_fails_leaves_those_of_its_entry() {
    let good = json!({"field": "x"});
    let body = format!(r#"{{"entry":[{{"id":"1","changes":[{good},{{"a":1,"a":2}},{good}]}}]}}"#);
    let callback = read_events(&body, &open());
    assert_eq!(callback.events.len(), 2);
    assert_eq!(callback.malformed[0].place, "entry[0].changes[1]");
}

#[test]
fn a_part_that_is_nested_too_deep_fails_alone() {
    let deep = |levels: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert_eq!(read_events(&format!(r#"{{"entry":[{}]}}"#, deep(124)), &open()).malformed, []);
    check_part(&[deep(125)], "entry[0]", "arrays and objects nested 128 deep");
    check_part(&[deep(400_000)], "entry[0]", "arrays and objects nested 400003 deep");
}

#[test]
fn a_part_over_a_bound_fails_alone() {
    let bounds = |events_max, payload_bytes_max, bytes_max| CallbackBounds {
        events_max,
        payload_bytes_max,
        bytes_max,
    };
    let sent = |id: &str| json!({"from": "1", "id": id, "type": "text"});
    let change = |updates: Value| messages("919000000001", json!([]), updates);
    let large = change(json!([sent(&"x".repeat(2_000))]));
    let many = change((0..50).map(|n| sent(&n.to_string())).collect());
    let small = change(json!([sent("bystander")]));
    let kept = |bounds: CallbackBounds| {
        let body = callback_of("1", &[large.clone(), many.clone(), small.clone()]);
        let callback = events_within(body.as_bytes(), &open(), &bounds).unwrap();
        assert!(payload(callback.events.last().unwrap()).contains("bystander"));
        (callback.events.len(), callback.malformed_parts)
    };
    assert_eq!(kept(bounds(100, 10_000, 100_000)), (2 + 51 + 2, 0));
    assert_eq!(kept(bounds(100, 9_000, 100_000)), (2 + 51 + 2, 0));
    assert_eq!(kept(bounds(100, 2_000, 100_000)), (2, 2));
    assert_eq!(kept(bounds(40, 10_000, 100_000)), (2 + 2, 1));
    assert_eq!(kept(bounds(100, 10_000, 8_000)), (2 + 2, 1));
}

/// Ids longer than a key may be are hashed, so that the engine accepts the event.
#[test]
fn long_ids_make_keys_of_an_accepted_length() {
    let id = "x".repeat(600);
    let change =
        messages("919000000001", json!([]), json!([{"from": id, "id": id, "type": "text"}]));
    let template = json!({"field": "message_template_status_update", "value": {
        "message_template_id": id}});
    let callback = read_events(&callback_of(&id, &[change, template]), &open());
    assert_eq!(callback.events.len(), 4);
    for event in &callback.events {
        for text in [&event.waba, &event.key, &event.dedup_key].into_iter().flatten() {
            assert!((1..=512).contains(&text.len()), "{}", line(event));
        }
    }
    assert_eq!(callback.events[0].key.as_ref().map(String::len), Some(64));
}

#[test]
fn only_the_first_malformed_parts_are_described() {
    let entries = vec![r#"{"a":1,"a":2}"#; 250].join(",");
    let callback = read_events(&format!(r#"{{"entry":[{entries}]}}"#), &open());
    assert_eq!((callback.malformed.len(), callback.malformed_parts), (100, 250));
}

#[test]
fn nesting_around_the_entries_is_bounded() {
    let nested = |levels: usize| {
        format!(r#"{{"entry":[],"x":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1))
    };
    assert!(events(nested(127).as_bytes(), &open()).is_ok());
    assert!(serde_json::from_str::<Value>(&nested(127)).is_ok());
    check_malformed(&nested(128), "body", "arrays and objects nested 128 deep");
    check_malformed(&nested(500_000), "body", "arrays and objects nested 500000 deep");
}

#[test]
fn updates_that_share_a_large_field_are_bounded() {
    let updates = |count: usize, shared: usize| {
        let ids: Vec<Value> = (0..count).map(|id| json!({"id": id})).collect();
        let mut change = messages("919000000001", json!([]), json!(ids));
        change["value"]["shared"] = json!("x".repeat(shared));
        callback_of("1", &[change])
    };
    assert_eq!(read_events(&updates(1000, 10_000), &open()).events.len(), 1001);
    let found = "updates that share too much with each other";
    let body = updates(1000, 100_000);
    check_part(&entries_of(&body), "body", found);
}

#[test]
fn a_full_batch_is_split_with_its_own_contacts() {
    let sent: Vec<Value> =
        (0..1000).map(|n| json!({"from": n.to_string(), "id": format!("m{n}")})).collect();
    let contacts: Vec<Value> = (0..1000).map(|n| json!({"wa_id": n.to_string()})).collect();
    let body = callback_of("1", &[messages("919000000001", json!(contacts), json!(sent))]);
    let callback = read_events(&body, &open());
    assert_eq!(callback.events.len(), 1001);
    for (n, event) in callback.events.iter().take(1000).enumerate() {
        let value = &value_of(event)["entry"][0]["changes"][0]["value"];
        assert_eq!(value["contacts"], json!([{"wa_id": n.to_string()}]));
        assert_eq!(value["messages"], json!([sent[n]]));
    }
}

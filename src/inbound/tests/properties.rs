//! Properties that hold for every JSON text.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::event::RAW_CLOUD_API_WEBHOOK;

/// Any JSON, rich in the names that decide something.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(json!("messages")),
        Just(json!("919000000001")),
        Just(json!("100000000000001")),
    ];
    let name = prop_oneof![
        Just("entry"),
        Just("changes"),
        Just("id"),
        Just("time"),
        Just("field"),
        Just("value"),
        Just("metadata"),
        Just("messages"),
        Just("statuses"),
        Just("contacts"),
        Just("display_phone_number"),
        Just("from"),
        Just("x\"\\"),
    ];
    leaf.prop_recursive(10, 200, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(name.clone().prop_map(String::from), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_change() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        Just("919000000001"),
        Just("919000000002"),
        Just("919000000003"),
        Just("919000000009"),
        Just("none"),
    ];
    let contact = || "9[0-9]{1}".prop_map(Value::from);
    let update = (contact(), "[a-z\"\\\\]{0,6}", any_json()).prop_map(|(who, id, any)| {
        json!({"id": id, "status": "read", "from": who, "recipient_id": who, "any": any})
    }).boxed();
    let updates = || prop::collection::vec(update.clone(), 0..4);
    let contacts = prop::collection::vec(contact(), 0..4);
    (number, updates(), updates(), contacts, any_json()).prop_map(
        |(number, messages, statuses, contacts, any)| {
            let contacts: Vec<Value> =
                contacts.into_iter().map(|who| json!({"wa_id": who})).collect();
            json!({"field": "messages", "any": any, "value": {
                "metadata": {"display_phone_number": number}, "any": any,
                "contacts": contacts, "messages": messages, "statuses": statuses,
            }})
        },
    )
}

/// A callback of a few entries, some of a WABA that nobody owns.
pub(super) fn any_callback() -> impl Strategy<Value = Value> {
    prop::collection::vec(prop::collection::vec(any_change(), 0..4), 0..4).prop_map(|entries| {
        let wabas = ["100000000000001", "9", "100000000000002"];
        let entry = |(changes, waba)| json!({"id": waba, "changes": changes});
        json!({"entry": entries.into_iter().zip(wabas.into_iter().cycle()).map(entry).collect::<Vec<_>>()})
    })
}

proptest! {
    #[test]
    fn no_json_panics(body in any_json(), entry in any_json(), change in any_json()) {
        for body in [
            body.clone(),
            json!({"entry": [body, entry]}),
            json!({"entry": [{"id": "100000000000001", "changes": [entry, change]}]}),
            json!({"entry": [{"changes": [{"field": "messages", "value": change}]}]}),
        ] {
            let text = body.to_string();
            for accounts in [open(), two()] {
                if let Ok(callback) = events(text.as_bytes(), &accounts) {
                    for event in callback.events {
                        prop_assert!(serde_json::from_slice::<Value>(&event.payload).is_ok());
                    }
                }
            }
        }
    }

    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = events(&body, &open());
    }

    #[test]
    fn each_owned_change_is_raw_once_each_update_typed_once(
        entries in prop::collection::vec(prop::collection::vec(any_change(), 0..4), 0..4),
    ) {
        let accounts = two();
        let wabas = ["100000000000001", "9"];
        let body = json!({"object": "o", "entry": entries.iter().zip(wabas.iter().cycle()).map(
            |(changes, waba)| json!({"id": waba, "changes": changes})
        ).collect::<Vec<_>>()});
        let callback = events(body.to_string().as_bytes(), &accounts).unwrap();
        let (mut raw, mut typed, mut unowned) = (Vec::new(), Vec::new(), 0);
        let changes = entries.iter().zip(wabas.iter().cycle());
        for (change, waba) in changes.flat_map(|(all, waba)| all.iter().map(move |one| (one, waba))) {
            let value = &change["value"];
            let lists = [&value["messages"], &value["statuses"]];
            let updates = lists.iter().flat_map(|list| list.as_array().unwrap());
            let number = value["metadata"]["display_phone_number"].as_str().unwrap();
            if *waba == "9" && ["919000000009", "none"].contains(&number) {
                unowned += 1 + updates.count();
            } else {
                raw.push(change.to_string());
                typed.extend(updates.map(Value::to_string));
            }
        }
        prop_assert_eq!(super::unowned(&callback), u64::try_from(unowned).unwrap());
        prop_assert_eq!(callback.malformed_parts, 0);
        let (mut raw_seen, mut typed_seen) = (Vec::new(), Vec::new());
        for event in &callback.events {
            let written = value_of(event);
            prop_assert_eq!(written["entry"].as_array().unwrap().len(), 1);
            prop_assert_eq!(written["entry"][0]["changes"].as_array().unwrap().len(), 1);
            let change = change_text(payload(event), 0, 0);
            if event.kind == RAW_CLOUD_API_WEBHOOK {
                raw_seen.push(change.to_owned());
                continue;
            }
            let change = JsonObject::parse(change).unwrap();
            let value = JsonObject::parse(change.value("value").unwrap());
            let updates: Vec<String> = ["messages", "statuses"]
                .iter()
                .filter_map(|list| value.as_ref().unwrap().value(list))
                .flat_map(|list| elements(list).unwrap())
                .map(str::to_owned)
                .collect();
            prop_assert_eq!(updates.len(), 1);
            typed_seen.extend(updates);
        }
        prop_assert_eq!(raw_seen, raw);
        prop_assert_eq!(typed_seen, typed);
    }
}

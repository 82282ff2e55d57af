//! The bodies of the gateways: golden bytes for every sample of a callback, the kinds of messages that the
//! samples lack, and a property of callbacks that hold two accounts.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::account::{Account, Accounts};
use crate::event::{Catalogue, Event, RAW_CLOUD_API_WEBHOOK};
use crate::inbound::cloud_api;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The events of a callback as the outbox would hold them, with their accounts.
fn stored(callback: &[u8], accounts: &Accounts) -> Vec<StoredEvent> {
    let events = cloud_api::events(callback, accounts).unwrap().events;
    let catalogue = Catalogue::default();
    let stored = |event: Event| StoredEvent {
        account: event.account.as_deref().unwrap_or("acme").into(),
        event_type: catalogue.canonical(&event.kind).unwrap(),
        number: event.number.map(Result::unwrap),
        waba: event.waba,
        payload: event.payload,
        ..StoredEvent::example()
    };
    events.into_iter().map(stored).collect()
}

/// Every sample of a callback of Meta, by name.
fn samples() -> Vec<(String, Vec<u8>)> {
    let folder = root().join("docs/samples");
    let mut samples = Vec::new();
    for folder in [folder.join("callbacks"), folder] {
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let body = if path.is_file() { std::fs::read(&path).unwrap() } else { continue };
            let is_callback = String::from_utf8_lossy(&body).contains("\"entry\"");
            if is_callback && path.extension().is_some_and(|one| one == "json") {
                samples.push((path.file_stem().unwrap().to_str().unwrap().to_owned(), body));
            }
        }
    }
    samples.sort();
    samples
}

/// What a gateway receives for every event of every sample.
fn received(profile: Profile) -> String {
    let mut text = String::new();
    for (sample, body) in samples() {
        for event in stored(&body, &Accounts::declared(&[]).unwrap()) {
            let is_whole = event.event_type.as_str() == RAW_CLOUD_API_WEBHOOK;
            if is_whole == profile.receives_split_events() {
                // DoubleTick and the session gateway receive whole callbacks as published, the
                // premises nothing but those.
                let is_published = matches!(of_gateway(profile, &event).bytes, Cow::Borrowed(_));
                assert!(is_published || !is_whole, "{sample}");
                continue;
            }
            let GatewayPayload { name, bytes } = of_gateway(profile, &event);
            let named = name.map(|name| format!(" as {name}")).unwrap_or_default();
            writeln!(text, "## {sample} {}{named}", event.event_type).unwrap();
            match bytes {
                Cow::Borrowed(_) => writeln!(text, "(as published)").unwrap(),
                Cow::Owned(bytes) => {
                    serde_json::from_slice::<&serde_json::value::RawValue>(&bytes).unwrap();
                    writeln!(text, "{}", String::from_utf8(bytes).unwrap()).unwrap();
                }
            }
        }
    }
    text
}

fn check_golden(profile: Profile) {
    let path: PathBuf = root().join(format!("src/payload/golden/{profile}.txt"));
    let received = received(profile);
    // Where to write the present bodies, to be looked at before they become golden.
    if let Some(folder) = std::env::var_os("GOLDEN_TO") {
        std::fs::write(Path::new(&folder).join(format!("{profile}.txt")), &received).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (line, (found, expected)) in received.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, expected, "{} line {}", path.display(), line + 1);
    }
    assert_eq!(received.len(), golden.len(), "{}", path.display());
}

#[test]
fn doubletick_s_bodies_are_golden() {
    check_golden(Profile::DoubleTick);
}

#[test]
fn the_session_gateway_s_data_is_golden() {
    check_golden(Profile::Session);
}

#[test]
fn the_bodies_of_the_premises_are_golden() {
    check_golden(Profile::BusinessApi);
}

/// A callback with one change of the field `messages`.
fn messages(value: Value) -> Vec<u8> {
    let mut value = value;
    value["metadata"] = json!({"display_phone_number": "+91 99999 99999", "phone_number_id": "1"});
    let change = json!({"field": "messages", "value": value});
    let entry = json!([{"id": "123", "changes": [change]}]);
    json!({"object": "whatsapp_business_account", "entry": entry}).to_string().into_bytes()
}

fn event(event_type: &str, payload: Vec<u8>) -> StoredEvent {
    StoredEvent {
        event_type: Catalogue::default().canonical(event_type).unwrap(),
        number: Some("919999999999".parse().unwrap()),
        payload,
        ..StoredEvent::example()
    }
}

/// The body that a gateway builds, as JSON.
fn built(profile: Profile, event: &StoredEvent) -> Option<Value> {
    match of_gateway(profile, event).bytes {
        Cow::Borrowed(_) => None,
        Cow::Owned(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
    }
}

fn check_message(message: Value, expected: Value) {
    let mut message = message;
    message["id"] = json!("wamid.1");
    message["from"] = json!("919812300001");
    let event = event("MESSAGE_RECEIVED", messages(json!({"messages": [message]})));
    let body = built(Profile::DoubleTick, &event).unwrap();
    assert_eq!(body["message"], expected);
    assert_eq!((&body["to"], &body["from"]), (&json!("919999999999"), &json!("919812300001")));
}

#[test]
fn doubletick_has_every_kind_of_message() {
    let none = json!({});
    check_message(
        json!({"type": "text", "text": {"body": "hi"}, "context": {"from": "1", "id": "w"}}),
        json!({"type": "TEXT", "text": "hi", "context": {"from": "1", "id": "w"}}),
    );
    check_message(
        json!({"type": "image", "image": {"id": "7", "mime_type": "image/png", "caption": "c"}}),
        json!({"type": "IMAGE", "id": "7", "mimeType": "image/png", "caption": "c", "context": none}),
    );
    let link = "https://lookaside.example/7";
    check_message(
        json!({"type": "document", "document": {"id": "7", "filename": "a.pdf", "url": link}}),
        json!({"type": "DOCUMENT", "url": link, "id": "7", "fileName": "a.pdf", "context": none}),
    );
    check_message(
        json!({"type": "location", "location": {"latitude": 1.5, "longitude": -2, "name": "n"}}),
        json!({"type": "LOCATION", "latitude": 1.5, "longitude": -2, "name": "n", "context": none}),
    );
    check_message(
        json!({"type": "contacts", "contacts": [{"name": {"formatted_name": "J"}}]}),
        json!({"type": "CONTACTS", "contacts": [{"name": {"formatted_name": "J"}}], "context": none}),
    );
    check_message(
        json!({"type": "button", "button": {"text": "Yes", "payload": "Y"}}),
        json!({"type": "BUTTON", "text": "Yes", "payload": "Y", "context": none}),
    );
    let reply = json!({"type": "button_reply", "button_reply": {"id": "b1", "title": "Yes"}});
    check_message(
        json!({"type": "interactive", "interactive": reply}),
        json!({"type": "BUTTON", "text": "Yes", "id": "b1", "context": none}),
    );
    let flow =
        json!({"type": "nfm_reply", "nfm_reply": {"response_json": "{\"a\":\"x\",\"n\":1.0}"}});
    let fields = json!([{"id": "a", "value": "x"}, {"id": "n", "value": 1.0}]);
    check_message(
        json!({"type": "interactive", "interactive": flow}),
        json!({"type": "FLOW", "flowResponse": fields, "context": none}),
    );
    // Kinds that DoubleTick does not document keep Meta's content.
    let list = json!({"type": "list_reply", "list_reply": {"id": "1", "title": "One"}});
    check_message(
        json!({"type": "interactive", "interactive": list}),
        json!({"type": "INTERACTIVE", "interactive": list, "context": none}),
    );
    check_message(
        json!({"type": "reaction", "reaction": {"message_id": "w", "emoji": "x"}}),
        json!({"type": "REACTION", "reaction": {"message_id": "w", "emoji": "x"}, "context": none}),
    );
    check_message(
        json!({"sticker": {"id": "7"}}),
        json!({"type": "STICKER", "id": "7", "context": none}),
    );
    check_message(json!({}), json!({"context": none}));
}

#[test]
fn doubletick_has_a_lead_and_a_permission_reply() {
    let contact = json!({"wa_id": "919812300001", "profile": {"name": "Asha"}});
    let message = json!({
        "from": "919812300001", "id": "wamid.1", "timestamp": "1700000000", "type": "interactive",
        "context": {"id": "wamid.0"}, "referral": {"source_id": "AD"},
        "interactive": {"type": "call_permission_reply", "call_permission_reply": {
            "response": "accept", "is_permanent": false, "expiration_timestamp": "1768470600",
            "response_source": "user_action",
        }},
    });
    let payload = messages(json!({"contacts": [contact], "messages": [message]}));
    let reply = event("CALL_PERMISSION_REPLY_RECEIVED", payload.clone());
    let expected = json!({
        "from": "+919812300001", "to": "+919999999999", "receivedAt": "2023-11-14T22:13:20.000Z",
        "messageId": "wamid.1", "pairedMessageId": "wamid.0", "response": "accept",
        "responseSource": "user_action", "expirationTimestamp": 1_768_470_600, "isPermanent": false,
    });
    assert_eq!(built(Profile::DoubleTick, &reply), Some(expected));
    let expected = json!({
        "customerName": "Asha", "customerPhone": "+919812300001", "from": "+919812300001",
        "to": "+919999999999", "isCTWA": true, "wabaNumber": "+919999999999", "newLead": true,
        "referral": {"source_id": "AD"},
    });
    assert_eq!(built(Profile::DoubleTick, &event("NEW_LEAD", payload)), Some(expected));
}

#[test]
fn what_a_gateway_has_no_body_for_is_passed_on_as_published() {
    let message = json!({"from": "919812300001", "id": "wamid.1"});
    let one = messages(json!({"messages": [message]}));
    let two = messages(json!({"messages": [message, message]}));
    let mixed =
        messages(json!({"messages": [message], "statuses": [{"id": "x", "status": "read"}]}));
    let own = json!({"tagId": "tag_1", "tagName": "VIP", "tagAdded": true}).to_string();
    for (event_type, payload) in [
        ("MESSAGE_RECEIVED", two),
        ("MESSAGE_RECEIVED", mixed),
        ("MESSAGE_RECEIVED", b"no json".to_vec()),
        ("MESSAGE_RECEIVED", b"\xff".to_vec()),
        ("MESSAGE_RECEIVED", br#"{"entry":[{"changes":[]}]}"#.to_vec()),
        ("MESSAGE_STATUS_UPDATE", one.clone()),
        ("RAW_CLOUD_API_WEBHOOK", one.clone()),
        ("TEMPLATE_UPDATE", one.clone()),
        ("CALL_ENDED", one.clone()),
        ("order.placed", one.clone()),
        ("ADD_TAG", own.into_bytes()),
    ] {
        let event = event(event_type, payload);
        for profile in [Profile::DoubleTick, Profile::Session] {
            assert_eq!(built(profile, &event), None, "{profile} {event_type}");
        }
    }
    for profile in [Profile::Wabahook, Profile::Dialog360] {
        assert_eq!(built(profile, &event("MESSAGE_RECEIVED", one.clone())), None, "{profile}");
    }
}

/// A body in the shape of its gateway, as a host publishes it: what only DoubleTick's inbox knows, and what only
/// a WhatsApp Web session or the premises know. Its golden bytes are its own.
#[test]
fn a_gateways_own_body_is_passed_on_byte_for_byte() {
    let assigned = r#"{ "from": "+919812300001", "assignedTo": {"name": "Bela"}, "n": 1.0 }"#;
    let sample =
        |name: &str| std::fs::read(root().join(format!("docs/samples/{name}.json"))).unwrap();
    let (mut count, tag) = (0, sample("doubletick_add_tag"));
    for (profile, types, body) in [
        (Profile::DoubleTick, &["ADD_TAG", "REMOVE_TAG"][..], tag.as_slice()),
        (
            Profile::DoubleTick,
            &["CHAT_ASSIGNED_TO_AGENT", "CHAT_UNASSIGNED", "ASSIGNED_AGENT_STATUS_CHANGED"],
            assigned.as_bytes(),
        ),
        (
            Profile::DoubleTick,
            &["WIDGET_LEAD_RECEIVED", "VERIFIED_WIDGET_LEAD_RECEIVED", "NEW_LEAD"],
            &sample("doubletick_widget_lead_received"),
        ),
        (
            Profile::DoubleTick,
            &["MESSAGE_RECEIVED", "CALL_TO_WHATSAPP_MESSAGE_RECEIVED", "MESSAGE_STATUS_UPDATE"],
            &sample("doubletick_message_received"),
        ),
        (Profile::DoubleTick, &["TEMPLATE_UPDATE"], &sample("doubletick_template_update")),
        (
            Profile::Session,
            &["MESSAGE_RECEIVED", "connection.connected"],
            &sample("gateway_connection_connected"),
        ),
        (Profile::BusinessApi, &[RAW_CLOUD_API_WEBHOOK], &sample("onprem_message_text")),
        (Profile::BusinessApi, &[RAW_CLOUD_API_WEBHOOK], &sample("onprem_statuses_batch")),
    ] {
        for event_type in types {
            let event = event(event_type, body.to_vec());
            let received = of_gateway(profile, &event);
            assert_eq!(received, GatewayPayload { name: None, bytes: Cow::Borrowed(body) });
            count += 1;
        }
    }
    assert_eq!(count, 16);
}

/// One update of an account: which of its customers, and what.
type DrawnUpdate = (bool, usize, u8);

const ACCOUNTS: [(&str, &str, &str); 2] =
    [("acme", "100", "919000000001"), ("beta", "200", "918000000002")];

fn customer(is_beta: bool, place: usize) -> String {
    format!("{}00000{place}", if is_beta { "4477000" } else { "3366000" })
}

/// The marks of an account, or of one of its customers, in any text.
fn marks(is_beta: bool, customers: impl IntoIterator<Item = usize>) -> Vec<String> {
    customers
        .into_iter()
        .flat_map(|place| {
            let number = customer(is_beta, place);
            [format!("name-{number}"), format!("user-{number}"), number]
        })
        .collect()
}

/// The changes of an account: one of the field `messages`, one of calls and one of contacts. Each names all
/// customers of the account.
fn changes(drawn: &[DrawnUpdate], is_beta: bool) -> Vec<Value> {
    let contacts: Vec<Value> = (0..3)
        .map(|place| {
            let number = customer(is_beta, place);
            let (name, user) = (format!("name-{number}"), format!("user-{number}"));
            json!({"wa_id": number, "user_id": user, "profile": {"name": name, "username": name}})
        })
        .collect();
    let own = ACCOUNTS[usize::from(is_beta)].2;
    let mut value = json!({
        "metadata": {"display_phone_number": own, "phone_number_id": "1"}, "contacts": contacts,
    });
    for (at, (_, place, kind)) in drawn.iter().filter(|one| one.0 == is_beta).enumerate() {
        let number = customer(is_beta, *place);
        let (id, timestamp) = (format!("wamid-{number}-{at}"), "1700000000");
        let (list, mut update) = match kind {
            0 => ("messages", json!({"type": "text", "text": {"body": "b"}, "from": number})),
            1 => (
                "messages",
                json!({"type": "text", "text": {"body": "b"},
                "from_user_id": format!("user-{number}")}),
            ),
            2 => (
                "messages",
                json!({"type": "text", "text": {"body": "b"}, "from": number,
                "referral": {"source_id": "AD"}}),
            ),
            3 => (
                "messages",
                json!({"type": "text", "text": {"body": "b"}, "from": number,
                "group_id": format!("group-{number}")}),
            ),
            4 => ("statuses", json!({"status": "read", "recipient_id": number})),
            6 => (
                "calls",
                json!({"event": "connect", "direction": "USER_INITIATED", "from": number, "to": own}),
            ),
            7 => (
                "calls",
                json!({"event": "terminate", "direction": "BUSINESS_INITIATED", "from": own,
                "to": number, "status": "COMPLETED", "duration": 7}),
            ),
            8 => (
                "state_sync",
                json!({"type": "contact", "action": "add",
                "contact": {"full_name": format!("name-{number}"), "phone_number": number}}),
            ),
            _ => (
                "statuses",
                json!({"status": "failed", "recipient_id": number,
                "errors": [{"title": "t"}]}),
            ),
        };
        update["id"] = json!(id);
        update["timestamp"] = json!(timestamp);
        let list = value.as_object_mut().unwrap().entry(list).or_insert(json!([]));
        list.as_array_mut().unwrap().push(update);
    }
    let fields = [
        ("messages", &["messages", "statuses"][..]),
        ("calls", &["calls"]),
        ("smb_app_state_sync", &["state_sync"]),
    ];
    let change = |(field, lists): (&str, &[&str])| {
        let mut own = json!({"metadata": value["metadata"], "contacts": value["contacts"]});
        for list in lists.iter().filter(|list| value.get(**list).is_some()) {
            own[*list] = value[*list].clone();
        }
        json!({"field": field, "value": own})
    };
    fields.into_iter().map(change).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// A callback may hold updates of two accounts, and contacts of many customers.
    #[test]
    fn a_built_body_names_nobody_but_its_own_account_and_customer(
        drawn in prop::collection::vec((any::<bool>(), 0..3_usize, 0..9_u8), 1..12),
    ) {
        let entry: Vec<Value> = [false, true].iter().map(|is_beta| {
            let (_, waba, _) = ACCOUNTS[usize::from(*is_beta)];
            json!({"id": waba, "changes": changes(&drawn, *is_beta)})
        }).collect();
        let callback = json!({"object": "whatsapp_business_account", "entry": entry}).to_string();
        let declared: Vec<Account> = ACCOUNTS.iter()
            .map(|(name, waba, number)| Account::new(*name).waba(*waba, [*number])).collect();
        let profiles = [Profile::DoubleTick, Profile::Session, Profile::BusinessApi];
        let mut built_by = [0; 3];
        for event in stored(callback.as_bytes(), &Accounts::declared(&declared).unwrap()) {
            // An account is known by an id that it was given; its number tells which one it is.
            let number = event.number.map(|number| number.to_string());
            let is_beta = number.as_deref() == Some(ACCOUNTS[1].2);
            prop_assert!(number.is_some(), "{event:?}");
            let other = ACCOUNTS[usize::from(!is_beta)];
            for (profile, built_by) in profiles.into_iter().zip(&mut built_by) {
                let Some(body) = built(profile, &event).map(|body| body.to_string()) else { continue };
                *built_by += 1;
                prop_assert!(!body.contains(other.2), "{profile} {body}");
                for mark in marks(!is_beta, 0..3) {
                    prop_assert!(!body.contains(&mark), "{profile} {mark}: {body}");
                }
                // A whole callback holds all customers of its account; a typed event holds one.
                if profile != Profile::BusinessApi {
                    let named = (0..3).filter(|place| {
                        marks(is_beta, [*place]).iter().any(|mark| body.contains(mark))
                    });
                    prop_assert!(named.count() <= 1, "{profile}: {body}");
                }
            }
        }
        let has_message = drawn.iter().any(|(_, _, kind)| *kind < 4);
        prop_assert!(!has_message || built_by.iter().all(|bodies| *bodies > 0), "{built_by:?}");
    }
}

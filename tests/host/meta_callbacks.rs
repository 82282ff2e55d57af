//! `/meta/webhook`: the challenge, the signature, and the split of one callback by account.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::client::{Answer, assert_members};
use crate::host_process::{ACME, BETA, CONFIGURATION, HostDirectory, HostProcess, OPERATOR};
use crate::receiver::{Attempt, Receiver};

pub(crate) const ESCAPED: &str = include_str!("../../docs/samples/cloud_escaped_raw_bytes.json");
const BATCH: &str = include_str!("../../docs/samples/cloud_batch_two_wabas_three_numbers.json");

pub(crate) fn signature(secret: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    let digest = mac.finalize().into_bytes();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

fn post(served: &HostProcess, body: &str, signature: Option<&str>) -> Answer {
    let headers: Vec<(&str, &str)> =
        signature.iter().map(|value| ("x-hub-signature-256", *value)).collect();
    served.request("POST", "/meta/webhook", &headers, body.as_bytes())
}

pub(crate) fn post_signed(served: &HostProcess, body: &str) -> Answer {
    post(served, body, Some(&signature("app-secret", body)))
}

/// A callback for a number and a WABA of no account.
pub(crate) fn post_unowned(served: &HostProcess) -> Answer {
    let body = ESCAPED.replace("919000000001", "916666666666").replace("100000000000001", "1000");
    post_signed(served, &body)
}

#[test]
fn the_challenge_is_echoed_for_the_right_token() {
    let (_place, served) = HostProcess::fresh();
    let ask = |query: &str| served.request("GET", &format!("/meta/webhook{query}"), &[], b"");
    let right = "?hub.mode=subscribe&hub.challenge=11582%2001444&hub.verify_token=verify-token";
    let answer = ask(right);
    assert_eq!((answer.status, answer.body.as_str()), (200, "11582 01444"));
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    for wrong in [
        "",
        "?hub.mode=subscribe&hub.challenge=1&hub.verify_token=wrong",
        "?hub.mode=subscribe&hub.challenge=1",
        "?hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=verify-token",
        "?hub.mode=subscribe&hub.verify_token=verify-token",
    ] {
        let answer = ask(wrong);
        answer.assert_refused(403, "forbidden", None);
        assert!(!answer.body.contains("verify-token"), "{answer:?}");
    }
}

#[test]
fn a_signed_callback_reaches_its_subscribers_unchanged() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    let first = json!({"events": ["MESSAGE_RECEIVED"], "numbers": ["919000000001"]});
    served.subscribe(ACME, &receiver.url("/typed"), first);
    served.subscribe(ACME, &receiver.url("/raw"), json!({"events": ["RAW_CLOUD_API_WEBHOOK"]}));
    served.subscribe(ACME, &receiver.url("/all"), json!({"numbers": ["919000000001"]}));
    let status = json!({"events": ["MESSAGE_STATUS_UPDATE"]});
    served.subscribe(ACME, &receiver.url("/other-event"), status);
    served.subscribe(ACME, &receiver.url("/other-number"), json!({"numbers": ["919000000002"]}));
    served.subscribe(BETA, &receiver.url("/other-account"), json!({}));
    let answer = post_signed(&served, ESCAPED);
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let mut arrived: Vec<(String, String)> = served
        .all_arrived(&receiver)
        .into_iter()
        .map(|attempt| {
            assert_eq!(attempt.text(), ESCAPED);
            assert_eq!(attempt.header("x-webhook-number"), Some("919000000001"));
            let event = attempt.header("x-webhook-event").unwrap().to_owned();
            (attempt.path, event)
        })
        .collect();
    arrived.sort();
    let expected = [
        ("/all", "MESSAGE_RECEIVED"),
        ("/all", "RAW_CLOUD_API_WEBHOOK"),
        ("/raw", "RAW_CLOUD_API_WEBHOOK"),
        ("/typed", "MESSAGE_RECEIVED"),
    ];
    assert_eq!(arrived, expected.map(|(path, event)| (path.to_owned(), event.to_owned())));
    // Meta repeats a callback whose response it missed; the repetition stores nothing.
    post_signed(&served, ESCAPED).with_status(200);
    let stats = served.stats();
    assert_members(&stats, json!({"duplicates": 2, "owed": 0}));
}

#[test]
fn a_wrong_signature_is_401_and_nothing_is_stored() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/"), json!({}));
    let before = served.stats();
    let right = signature("app-secret", ESCAPED);
    for wrong in [
        None,
        Some(""),
        Some("sha256="),
        Some(right.trim_start_matches("sha256=")),
        Some(signature("other-secret", ESCAPED).as_str()),
        Some(signature("app-secret", &ESCAPED.replace("\\/", "/")).as_str()),
    ] {
        let answer = post(&served, ESCAPED, wrong);
        answer.assert_refused(401, "unauthorized", None);
        assert!(!answer.body.contains("app-secret") && !answer.body.contains(&right[8..]));
    }
    let mut expected = before;
    expected["callbacks_refused_signature"] = json!(6);
    assert_eq!(served.stats(), expected);
    post(&served, ESCAPED, Some(&right)).with_status(200);
    assert_eq!(served.all_arrived(&receiver).len(), 2);
}

#[test]
fn an_old_and_a_new_app_secret_are_both_accepted() {
    let secrets = "app_secrets = [\"new-secret\", \"app-secret\"]";
    let configuration = CONFIGURATION.replace("app_secret = \"app-secret\"", secrets);
    let directory = HostDirectory::new(&configuration);
    let served = directory.start();
    for (secret, status) in [("new-secret", 200), ("app-secret", 200), ("other-secret", 401)] {
        let answer = post(&served, ESCAPED, Some(&signature(secret, ESCAPED)));
        assert_eq!(answer.status, status, "{answer:?}");
    }
    assert_eq!(served.stats()["accepted"], 4, "two events each");
}

#[test]
fn a_callback_is_split_by_account_and_number() {
    let (_place, served) = HostProcess::fresh();
    let (acme, beta) = (Receiver::answering(200), Receiver::answering(200));
    served.subscribe(ACME, &acme.url("/"), json!({}));
    served.subscribe(BETA, &beta.url("/"), json!({}));
    post_signed(&served, BATCH).with_status(200);
    served.until(|stats| stats["owed"] == 0);
    let (acme, beta) = (acme.arrived(), beta.arrived());
    let of = |event: &str, number: Option<&str>| (event.to_owned(), number.map(str::to_owned));
    let raw = "RAW_CLOUD_API_WEBHOOK";
    assert_eq!(
        counted(&acme),
        BTreeMap::from([
            (of("MESSAGE_RECEIVED", Some("919000000001")), 2),
            (of(raw, Some("919000000001")), 1),
            (of("MESSAGE_STATUS_UPDATE", Some("919000000002")), 2),
            (of(raw, Some("919000000002")), 1),
        ])
    );
    assert_eq!(
        counted(&beta),
        BTreeMap::from([
            (of("TEMPLATE_UPDATE", None), 1),
            (of(raw, None), 1),
            (of("MESSAGE_RECEIVED", Some("919000000003")), 1),
            (of(raw, Some("919000000003")), 1),
        ])
    );
    let acmes = ["100000000000001", "919000000001", "919000000002", "TEST0001", "OUT0001", "Asha"];
    let betas = ["100000000000002", "919000000003", "TEST0003", "promo", "\"three\""];
    assert_holds_none(&acme, &betas);
    assert_holds_none(&beta, &acmes);
    for message in acme.iter().filter(|a| a.header("x-webhook-event") == Some("MESSAGE_RECEIVED")) {
        let body: Value = serde_json::from_str(message.text()).unwrap();
        let messages = &body["entry"][0]["changes"][0]["value"]["messages"];
        assert_eq!(messages.as_array().unwrap().len(), 1, "{body}");
    }
}

fn counted(attempts: &[Attempt]) -> BTreeMap<(String, Option<String>), usize> {
    let mut counts = BTreeMap::new();
    for attempt in attempts {
        let number = attempt.header("x-webhook-number").map(str::to_owned);
        let event = attempt.header("x-webhook-event").unwrap().to_owned();
        *counts.entry((event, number)).or_default() += 1;
    }
    counts
}

fn assert_holds_none(attempts: &[Attempt], others: &[&str]) {
    for attempt in attempts {
        for other in others {
            assert!(!attempt.text().contains(other), "{} holds {other}", attempt.text());
        }
    }
}

#[test]
fn unowned_updates_are_200_and_non_callbacks_400() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/"), json!({}));
    post_unowned(&served).with_status(200);
    let stats = served.stats();
    let seen = ["unowned", "unrouted", "accepted"].map(|name| stats[name].clone());
    assert_eq!(seen, [2, 0, 0], "{stats}");
    for malformed in ["", "no json", "[]", "{\"object\":7", "\"hidden\""] {
        let answer = post_signed(&served, malformed);
        answer.assert_refused(400, "invalid", None);
        assert!(!answer.body.contains("hidden"));
    }
    let large = format!("{{\"a\":\"{}\"}}", "a".repeat(5 * 1024 * 1024));
    post_signed(&served, &large).assert_refused(413, "too_large", Some("body"));
    assert_eq!(served.stats()["owed"], 0);
    assert_eq!(receiver.arrived().len(), 0);
}

#[test]
fn unowned_numbers_are_listed_masked() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/"), json!({}));
    served.get("/admin/unowned", "nobody").assert_refused(401, "unauthorized", None);
    served.get("/admin/unowned?since=1", ACME).assert_refused(400, "invalid", Some("since"));
    let listed = |query: &str| served.get(&format!("/admin/unowned{query}"), BETA).json();
    assert_eq!(listed(""), json!({"items": [], "cursor": null}));
    for _ in 0..2 {
        post_unowned(&served).with_status(200);
    }
    post_signed(&served, ESCAPED).with_status(200);
    let source = &listed("?limit=1")["items"][0];
    assert_members(source, json!({"number": "********6666", "waba": "1000"}));
    assert_eq!(source["events"], 4);
    assert!(source["first_at"].as_str().unwrap() <= source["last_at"].as_str().unwrap());
    assert_eq!(served.get("/admin/unowned", ACME).json(), listed(""), "any account may read it");
    assert_eq!(served.all_arrived(&receiver).len(), 2, "the owner's callback is delivered");
}

/// A contact whose user id a callback shows is found and purged by its number as well.
#[test]
fn a_contact_is_found_and_purged_by_number_and_user_id() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(503);
    served.subscribe(ACME, &receiver.url("/"), json!({"events": ["MESSAGE_RECEIVED"]}));
    let callback = |contact: Value, message: Value| {
        let value = json!({
            "messaging_product": "whatsapp", "metadata": {"display_phone_number": "919000000001"},
            "contacts": [contact], "messages": [message],
        });
        let changes = json!([{"field": "messages", "value": value}]);
        json!({"entry": [{"id": "100000000000001", "changes": changes}]}).to_string()
    };
    let text = |id: &str, from: &str, user_id: Option<&str>| {
        let contact = json!({"wa_id": from, "user_id": user_id});
        let body = json!({"body": "hello"});
        let message = json!({"id": id, "from": from, "type": "text", "text": body});
        post_signed(&served, &callback(contact, message)).with_status(200);
    };
    text("wamid.WITHBOTH", "919812300001", Some("IN.111"));
    text("wamid.NUMBERONLY", "919812300001", None);
    text("wamid.BYSTANDER", "919812300002", Some("IN.222"));
    let found = |contact: &str| {
        served.items(&format!("/events?contact={contact}&type=received"), ACME).len()
    };
    assert_eq!((found("919812300001"), found("IN.111"), found("IN.222")), (2, 1, 1));
    let purge = |contact: &str| {
        let purged =
            served.post("/purge", ACME, json!({"contact": contact}).to_string()).with_status(202);
        purged.json()["purged"].clone()
    };
    assert_eq!(purge("919812300001"), 2, "of both callbacks");
    assert_eq!((found("919812300001"), found("IN.111"), found("IN.222")), (0, 0, 1));
    text("wamid.AGAIN", "919812300002", None);
    assert_eq!(purge("IN.222"), 2, "by the user id, what shows the number alone too");
}

#[test]
fn a_number_given_to_an_account_leaves_the_unowned() {
    let (_place, served) = HostProcess::operated();
    post_unowned(&served).with_status(200);
    let other = ESCAPED.replace("919000000001", "915555555555").replace("100000000000001", "2000");
    post_signed(&served, &other).with_status(200);
    let unowned = || {
        let items = served.items("/admin/unowned", OPERATOR);
        items.iter().map(|one| one["number"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(unowned().len(), 2);
    let wabas = json!([{"id": "1000", "numbers": ["916666666666"]}]);
    let body = json!({"name": "gamma", "wabas": wabas}).to_string();
    served.post("/admin/accounts", OPERATOR, body).with_status(201);
    assert_eq!(unowned(), [json!("915555555555")]);
}

/// The line says what to look at first: the address of the sender.
#[test]
fn refused_callbacks_are_logged_once_with_their_address() {
    let (place, served) = HostProcess::fresh();
    for _ in 0..3 {
        post(&served, ESCAPED, Some("sha256=hidden")).with_status(401);
        served.request("GET", "/meta/webhook?hidden", &[], b"").with_status(403);
        post_signed(&served, "{\"hidden\":").with_status(400);
    }
    let log = std::fs::read_to_string(place.path("stderr.log")).unwrap();
    for reason in ["(signature)", "(verify_token)", "(malformed)"] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(reason)).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains(" WARN ") && lines[0].ends_with(" remote=127.0.0.1"), "{log}");
    }
    assert!(!log.contains("hidden"), "{log}");
    // What is not refused is not logged.
    post_signed(&served, ESCAPED).with_status(200);
    assert_eq!(std::fs::read_to_string(place.path("stderr.log")).unwrap(), log);
}

#[test]
fn without_a_meta_section_the_route_does_not_exist() {
    let (before, after) = CONFIGURATION.split_once("[meta]").unwrap();
    let (_, after) = after.split_once("[network]").unwrap();
    let place = HostDirectory::new(&format!("{before}[network]{after}"));
    let served = place.start();
    post_signed(&served, ESCAPED).assert_refused(404, "not_found", None);
    let answer = served.request("GET", "/meta/webhook?hub.mode=subscribe", &[], b"");
    answer.assert_refused(404, "not_found", None);
    assert_eq!(served.stats()["accepted"], 0);
}

//! `POST /events`: an accepted event is delivered byte for byte; a refused one is named and leaves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde_json::json;

use crate::DEADLINE;
use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostDirectory, HostProcess, line};
use crate::receiver::{HANG, Receiver};

#[test]
fn a_payload_reaches_its_subscribers_byte_for_byte() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    let both = json!({"events": ["Message Received"], "numbers": ["919000000001"], "secret": "s"});
    served.subscribe(ACME, &receiver.url("/both"), both);
    served.subscribe(ACME, &receiver.url("/events"), json!({"events": ["message.received"]}));
    served.subscribe(ACME, &receiver.url("/numbers"), json!({"numbers": ["919000000001"]}));
    served.subscribe(ACME, &receiver.url("/all"), json!({}));
    served.subscribe(ACME, &receiver.url("/other-event"), json!({"events": ["ADD_TAG"]}));
    served.subscribe(ACME, &receiver.url("/other-number"), json!({"numbers": ["919000000002"]}));
    served.subscribe(BETA, &receiver.url("/other-account"), json!({}));
    let payload = "{ \"a\\u0040b\" : \"\\/ é \\ud83d\\ude00\",\t\"n\":1.0e+2 ,\n \"n\": [ ] }";
    let body = format!(
        "{{\"type\":\"MESSAGE_RECEIVED\", \"number\":\"+91 90000 00001\",\"payload\" : {payload} }}"
    );
    let answer = served.post("/events", ACME, body).with_status(202);
    assert_eq!(answer.json()["owed"], 4);
    assert!(answer.json().get("duplicate").is_none());
    let attempts = served.all_arrived(&receiver);
    let paths: BTreeSet<&str> = attempts.iter().map(|attempt| attempt.path.as_str()).collect();
    assert_eq!(paths, BTreeSet::from(["/both", "/events", "/numbers", "/all"]));
    assert_eq!(attempts.len(), 4);
    for attempt in &attempts {
        assert_eq!(attempt.text(), payload);
        assert_eq!(attempt.id(), answer.json()["id"].as_str().unwrap());
        assert_eq!(attempt.header("x-webhook-event"), Some("MESSAGE_RECEIVED"));
        assert_eq!(attempt.header("x-webhook-number"), Some("919000000001"));
        assert_eq!(attempt.header("x-webhook-attempt"), Some("1"));
        let signed = attempt.header("webhook-signature").is_some();
        assert_eq!(signed, attempt.path == "/both");
    }
}

/// Editors and shells of Windows begin a text with a byte order mark.
#[test]
fn a_byte_order_mark_before_the_body_is_ignored() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/acme"), json!({}));
    served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    let event = r#"{"type":"T","number":"919000000001","payload":{"i":1}}"#;
    let answer = served.post("/events", ACME, format!("\u{feff}{event}\r\n"));
    assert_eq!((answer.status, &answer.json()["owed"]), (202, &json!(1)), "{answer:?}");
    let answer = served.post("/events", ACME, format!("\u{feff}{event}\r\n{event}\r\n"));
    assert_eq!((answer.status, answer.json().as_array().map(Vec::len)), (202, Some(2)));
    let attempts = served.all_arrived(&receiver);
    let seen = attempts.iter().map(|attempt| (attempt.path.as_str(), attempt.text()));
    assert_eq!(seen.collect::<Vec<_>>(), [("/acme", r#"{"i":1}"#); 3]);
    let answer = served.post("/events", ACME, format!("{event}\n\u{feff}{event}"));
    assert_eq!(answer.status, 400, "it is one only where a text begins");
}

#[test]
fn any_event_type_is_accepted_and_unrouted_ones_counted() {
    let (_place, served) = HostProcess::fresh();
    let event = |kind: &str| {
        format!("{{\"type\":\"{kind}\",\"waba\":\"100000000000001\",\"payload\":null}}")
    };
    let answer = served.post("/events", ACME, event("never.heard.of"));
    assert_eq!((answer.status, &answer.json()["owed"]), (202, &json!(0)), "{answer:?}");
    assert_eq!(served.stats()["unrouted"], 1);
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/"), json!({"events": ["never.heard.of"]}));
    assert_eq!(served.post("/events", ACME, event("never.heard.of")).json()["owed"], 1);
    assert_eq!(receiver.next().header("x-webhook-event"), Some("never.heard.of"));
    assert_eq!(served.stats()["unrouted"], 1);
}

#[test]
fn a_repeated_dedup_key_returns_the_first_id() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/"), json!({}));
    let event = |dedup_key: &str, n: u8| {
        let body = json!({
            "type": "MESSAGE_RECEIVED", "number": "919000000001", "payload": n, "key": "k", "dedup_key": dedup_key,
        });
        served.post("/events", ACME, body.to_string())
    };
    let first = event("one", 1);
    let again = event("one", 2);
    let other = event("two", 3);
    assert_eq!((first.status, again.status), (202, 202), "{again:?}");
    assert_eq!(again.json(), json!({"id": first.json()["id"], "owed": 0, "duplicate": true}));
    assert!(other.json().get("duplicate").is_none());
    let mut bodies: Vec<String> =
        served.all_arrived(&receiver).iter().map(|attempt| attempt.text().to_owned()).collect();
    bodies.sort();
    assert_eq!(bodies, ["1", "3"]);
}

#[test]
fn a_bad_event_is_refused_by_field_and_not_stored() {
    let (_place, served) = HostDirectory::with("[limits]\npayload_bytes_max = 1000").serving();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/"), json!({}));
    let before = served.stats();
    let refused = |body: &str, status: u16, code: &str, field: Option<&str>| {
        let answer = served.post("/events", ACME, body);
        answer.assert_refused(status, code, field);
        assert!(!answer.body.contains("hidden"), "{answer:?}");
        // The same on a line after a good one and an empty one.
        if !body.is_empty() {
            let answer = served.post_lines(ACME, &format!("{}\n{body}", line(0)));
            answer.assert_refused(status, code, field);
            answer.assert_says(&["line 3: "]);
        }
    };
    refused("", 400, "invalid", None);
    refused("hidden", 400, "invalid", None);
    refused("{\"type\":\"T\"", 400, "invalid", None);
    refused("[{\"type\":\"T\"}]", 400, "invalid", None);
    refused("\"hidden\"", 400, "invalid", None);
    refused(r#"{"number":"919000000001","payload":1}"#, 400, "invalid", Some("type"));
    refused(r#"{"type":"","number":"919000000001","payload":1}"#, 400, "invalid", Some("type"));
    refused(r#"{"type":"A\nB","number":"919000000001","payload":1}"#, 400, "invalid", Some("type"));
    refused(r#"{"type":7,"number":"919000000001","payload":1}"#, 400, "invalid", Some("type"));
    refused(r#"{"type":"T","payload":1}"#, 400, "invalid", Some("number"));
    refused(r#"{"type":"T","number":"91-CALL-ME","payload":1}"#, 400, "invalid", Some("number"));
    refused(r#"{"type":"T","number":919000000001,"payload":1}"#, 400, "invalid", Some("number"));
    refused(r#"{"type":"T","number":"919000000001"}"#, 400, "invalid", Some("payload"));
    let unknown = r#"{"type":"T","number":"919000000001","payload":1,"dedup":"hidden"}"#;
    refused(unknown, 400, "invalid", Some("dedup"));
    let key = r#"{"type":"T","number":"919000000001","payload":1,"key":{"hidden":1}}"#;
    refused(key, 400, "invalid", Some("key"));
    let other = r#"{"type":"T","number":"919000000003","payload":1}"#;
    refused(other, 403, "forbidden", Some("number"));
    let nobodys = r#"{"type":"T","number":"916666666666","payload":1}"#;
    refused(nobodys, 403, "forbidden", Some("number"));
    let waba = r#"{"type":"T","waba":"100000000000002","payload":1}"#;
    refused(waba, 403, "forbidden", Some("waba"));
    // A WABA of its own does not tell whether another account has the number.
    for number in ["919000000003", "916666666666"] {
        let own =
            format!(r#"{{"type":"T","number":"{number}","waba":"100000000000001","payload":1}}"#);
        refused(&own, 403, "forbidden", Some("number"));
    }
    let payload = "x".repeat(999);
    let large = format!(r#"{{"type":"T","number":"919000000001","payload":"{payload}"}}"#);
    refused(&large, 413, "too_large", Some("payload"));
    served.post("/events", ACME, b"\xff\xfe").assert_refused(400, "invalid", None);

    let after = served.stats();
    assert_eq!((&after["accepted"], &after["groups"]), (&before["accepted"], &before["groups"]));
    assert_eq!(after["owed"], 0);
    let fits = large.replacen("xx", "", 1);
    served.post("/events", ACME, fits).with_status(202);
    assert_eq!(receiver.next().body.len(), 999);
    assert_eq!(receiver.arrived().len(), 0);
}

#[test]
fn ten_thousand_lines_are_accepted_in_one_request() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/"), json!({}));
    let lines: String = (0..10_000).map(line).collect();
    let answer = served.post_lines(ACME, &lines).with_status(202);
    let answer = answer.json();
    let answered = answer.as_array().unwrap();
    assert_eq!(answered.len(), 10_000);
    assert!(answered.iter().all(|item| item["owed"] == 1));
    let payload_of_id: BTreeMap<String, String> = (0..)
        .zip(answered)
        .map(|(n, item)| (item["id"].as_str().unwrap().to_owned(), format!("{{\"n\":{n}}}")))
        .collect();
    assert_eq!(payload_of_id.len(), 10_000, "each line has an id of its own");
    let arrived: BTreeMap<String, String> = served
        .all_arrived(&receiver)
        .iter()
        .map(|attempt| (attempt.id().to_owned(), attempt.text().to_owned()))
        .collect();
    assert!(arrived == payload_of_id, "each payload arrives under the id of its line");
}

#[test]
fn one_bad_line_refuses_the_whole_request() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/"), json!({}));
    let with = |bad: &str| -> String {
        (1..=10_000).map(|n| if n == 5_000 { format!("{bad}\n") } else { line(n) }).collect()
    };
    for (bad, status, field) in [
        ("{\"type\":", 400, None),
        (r#"{"type":"T","number":"91x","payload":1}"#, 400, Some("number")),
        (r#"{"type":"T","number":"919000000003","payload":1}"#, 403, Some("number")),
        (r#"{"type":"T","number":"919000000001","payload":1,"extra":1}"#, 400, Some("extra")),
    ] {
        let code = if status == 403 { "forbidden" } else { "invalid" };
        let answer = served.post_lines(ACME, &with(bad));
        answer.assert_refused(status, code, field);
        answer.assert_says(&["line 5000: "]);
        // A body of several lines is NDJSON, whatever its content type.
        let answer = served.post("/events", ACME, with(bad));
        answer.assert_refused(status, code, field);
        answer.assert_says(&["line 5000: "]);
    }
    let stats = served.stats();
    assert_members(&stats, json!({"accepted": 0, "owed": 0}));
    assert_eq!(served.post_lines(ACME, &line(0)).json().as_array().unwrap().len(), 1);
    assert_eq!(receiver.next().text(), "{\"n\":0}");
    assert_eq!(receiver.arrived().len(), 0);
}

#[test]
fn a_body_over_the_limit_or_compressed_is_refused() {
    let (_place, served) = HostDirectory::with("[limits]\nbody_bytes_max = 100000").serving();
    let lines: String = (0..2_000).map(line).collect();
    served.post_lines(ACME, &lines).assert_refused(413, "too_large", Some("body"));
    // Far more than the host reads before it responds; the sender must still get the response.
    let far_more = vec![b' '; 40 * 1024 * 1024];
    served.post("/events", ACME, &far_more).assert_refused(413, "too_large", Some("body"));
    served.post("/events", "no key", &far_more).assert_refused(401, "unauthorized", None);
    let compressed = [("authorization", ACME), ("content-encoding", "gzip")];
    let answer = served.request("POST", "/events", &compressed, b"\x1f\x8b");
    answer.assert_refused(415, "unsupported_media_type", None);
    assert_eq!(served.stats()["accepted"], 0);
    served.post_lines(ACME, &line(0)).with_status(202);
}

#[test]
fn a_full_queue_is_429_and_accepts_nothing_more() {
    let (place, served) = HostDirectory::with("[limits]\nqueue_events_max = 64").serving();
    let receiver = Receiver::answering(HANG);
    served.subscribe(ACME, &receiver.url("/"), json!({}));
    let too_many: String = (0..65).map(line).collect();
    served.post_lines(ACME, &too_many).with_status(413);

    let (seen, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    let publish = || {
        let lines: String = (0..64).map(line).collect();
        while !seen.load(Ordering::SeqCst) && started.elapsed() < DEADLINE {
            let answer = served.post_lines(ACME, &lines);
            if answer.status == 202 {
                taken.fetch_add(64, Ordering::SeqCst);
                continue;
            }
            answer.assert_refused(429, "busy", None);
            assert_eq!(answer.header("retry-after"), Some("1"));
            // Of two accounts only this one was given events back.
            let health = served.request("GET", "/healthz", &[], b"").json();
            assert_eq!(health["reasons"], json!([]), "{health}");
            seen.store(true, Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(publish);
        }
    });
    assert!(seen.load(Ordering::SeqCst), "the queue was never full");
    let taken = taken.load(Ordering::SeqCst);
    let stats = served.stats();
    assert!(stats["busy"].as_u64().unwrap() >= 64, "{stats}");
    assert_eq!(stats["accepted"], taken);
    served.kill();
    assert_eq!(place.start().stats()["recovered"], taken);
}

/// The lines are counted before any is read, because an event takes many times the memory of a short line.
#[test]
fn too_many_events_are_refused_before_they_are_read() {
    let (_place, served) = HostDirectory::with("[limits]\nqueue_events_max = 4").serving();
    let wrong = "{\"type\": 1}\n\n";
    let refused = served.post_lines(ACME, &wrong.repeat(5));
    refused.assert_refused(413, "too_large", Some("events"));
    refused.assert_says(&["events: 5 is over the limit of 4"]);
    served.post_lines(ACME, &wrong.repeat(4)).assert_refused(400, "invalid", Some("type"));
    let other = r#"{"type":"T","number":"919000000003","payload":1}"#;
    served.post("/events", BETA, other).with_status(202);
}

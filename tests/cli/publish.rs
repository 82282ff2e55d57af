//! `publish` sends a payload or lines, reports the result, and names the line to go on from.

use std::fs;

use serde_json::json;

use crate::host_process::{ACME, BETA, HostProcess, line};
use crate::program::{against, ask, run};
use crate::receiver::Receiver;

#[test]
fn a_file_is_published_as_one_payload_byte_for_byte() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/acme"), json!({}));
    served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    let payload = "{ \"text\" :\n  \"h\\u00e9\" }";
    fs::write(place.path("payload.json"), payload).unwrap();
    let file = place.path("payload.json");
    let arguments = [
        "publish",
        file.to_str().unwrap(),
        "--type",
        "MESSAGE_RECEIVED",
        "--number",
        "919000000001",
    ];
    let ran = ask(&served, &[&arguments[..], &["--json"]].concat()).done();
    assert_eq!(ran.json(), json!({"published": 1, "owed": 1, "duplicates": 0, "unrouted": 0}));
    let attempt = receiver.next();
    assert_eq!((attempt.path.as_str(), attempt.text()), ("/acme", payload));
    served.until(|stats| stats["owed"] == 0);
    assert_eq!(receiver.arrived().len(), 0);
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_file() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/acme"), json!({}));
    served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    fs::write(place.path("payload.json"), "\u{feff}{\"i\":1}\r\n").unwrap();
    let event = r#"{"type":"T","number":"919000000001","payload":{"i":1}}"#;
    fs::write(place.path("lines.ndjson"), format!("\u{feff}{event}\r\n")).unwrap();
    let (payload, lines) = (place.path("payload.json"), place.path("lines.ndjson"));
    let one = ["publish", payload.to_str().unwrap(), "--type", "T", "--number", "919000000001"];
    ask(&served, &one).done().says(&["1 event published"]);
    ask(&served, &["publish", lines.to_str().unwrap()]).done().says(&["1 event published"]);
    let attempts = served.all_arrived(&receiver);
    let seen = attempts.iter().map(|attempt| (attempt.path.as_str(), attempt.text()));
    assert_eq!(seen.collect::<Vec<_>>(), [("/acme", "{\"i\":1}"); 2]);
}

#[test]
fn an_unknown_type_is_published_with_a_hint() {
    let (place, served) = HostProcess::fresh();
    fs::write(place.path("payload.json"), "{}").unwrap();
    let file = place.path("payload.json");
    let arguments = [
        "publish",
        file.to_str().unwrap(),
        "--type",
        "MESSAGE_RECIEVED",
        "--number",
        "919000000001",
    ];
    let hint = "MESSAGE_RECIEVED: did you mean MESSAGE_RECEIVED?";
    ask(&served, &arguments).done().says(&["1 event published", &format!("hint: {hint}")]);
    let ran = ask(&served, &[&arguments[..], &["--json"]].concat()).done();
    assert_eq!(ran.json()["hints"], json!([hint]));
}

#[test]
fn lines_go_in_batches_and_a_bad_one_is_named() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/hook"), json!({}));
    let good: String = (0..7).map(line).collect();
    let ran = run(&mut against(&served, &["publish", "--batch", "3"]), &good).done();
    ran.says(&["7 events published, 7 deliveries owed"]);
    assert_eq!(served.all_arrived(&receiver).len(), 7);

    let bad = format!("{}\n\n{}{}{{\"type\":1}}\n{}", line(0), line(1), line(2), line(3));
    let file = place.path("events.ndjson");
    fs::write(&file, &bad).unwrap();
    let file = file.to_str().unwrap();
    let ran = ask(&served, &["publish", file, "--batch", "2"]);
    ran.failed(2, &["2 events were published", "--from-line 5", "events.ndjson: line 6: type"]);
    assert_eq!(served.all_arrived(&receiver).len(), 2);
    let of_beta = line(3).replace("919000000001", "919000000003");
    fs::write(file, bad.replace("{\"type\":1}\n", &of_beta)).unwrap();
    let ran = ask(&served, &["publish", file, "--from-line", "5"]);
    ran.failed(4, &["0 events were published", "events.ndjson: line 6: ", "919000000003"]);
    fs::write(file, bad.replace("{\"type\":1}\n", "")).unwrap();
    ask(&served, &["publish", file, "--from-line", "5"]).done().says(&["2 events published"]);
    assert_eq!(served.all_arrived(&receiver).len(), 2);
}

#[test]
fn duplicates_and_unrouted_events_are_counted() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/hook"), json!({"events": ["T"]}));
    let event = |kind: &str, dedup_key: &str| {
        format!(
            "{{\"type\":\"{kind}\",\"number\":\"919000000001\",\"payload\":1,\"dedup_key\":\"{dedup_key}\"}}\n"
        )
    };
    let lines = [event("T", "a"), event("T", "a"), event("U", "b")].concat();
    let ran = run(&mut against(&served, &["publish", "-"]), &lines).done();
    ran.says(&[
        "3 events published, 1 delivery owed",
        "1 of them duplicates",
        "1 without a subscription",
    ]);
}

#[test]
fn bad_input_is_refused_before_anything_is_sent() {
    let (_place, served) = HostProcess::fresh();
    for (arguments, input, says) in [
        (&["publish", "--type", "T", "--number", "919000000001"][..], "no json", "not JSON"),
        (&["publish", "--type", "T"][..], "{}", "--number or --waba"),
        (&["publish", "--number", "919000000001"][..], "{}", "--type"),
        (&["publish", "/nowhere/at.all"][..], "", "cannot be read"),
        (&["publish", "--batch", "0"][..], "", "--batch"),
    ] {
        run(&mut against(&served, arguments), input).failed(2, &[says]);
    }
    assert_eq!(served.stats()["accepted"], 0);
}

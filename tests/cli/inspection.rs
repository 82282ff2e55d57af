//! `inspect` shows what is in a data directory, changes no byte of it, and refuses one that is in use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::client::assert_members;
use crate::host_process::{ACME, CONFIGURATION, HostDirectory, HostProcess, line};
use crate::program::alone;
use crate::receiver::Receiver;

/// Each file below a directory: its bytes, and when it was written last.
type Picture = BTreeMap<PathBuf, (Vec<u8>, SystemTime)>;

fn picture(directory: &Path) -> Picture {
    let mut all = Picture::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        match path.is_dir() {
            true => all.extend(picture(&path)),
            false => {
                let written = entry.metadata().unwrap().modified().unwrap();
                all.insert(path.clone(), (fs::read(&path).unwrap(), written));
            }
        }
    }
    all
}

fn inspect(directory: &Path) -> Value {
    alone(&["inspect", directory.to_str().unwrap(), "--json"]).done().json()
}

/// A report without what grows while the engine that makes it is open.
fn timeless(mut report: Value) -> Value {
    for lane in report["subscriptions"].as_array_mut().unwrap() {
        lane.as_object_mut().unwrap().remove("failing_for_ms").unwrap();
    }
    report
}

/// A directory with owed deliveries and dead letters.
fn stopped_host() -> HostDirectory {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(404);
    let dead = served.subscribe(ACME, &receiver.url("/dead"), json!({"name": "dead"}));
    let paused = served.subscribe(ACME, &receiver.url("/paused"), json!({"name": "paused"}));
    served.post(&format!("/subscriptions/{paused}/pause"), ACME, "");
    (0..3).for_each(|n| assert_eq!(served.post("/events", ACME, line(n)).status, 202));
    let all_dead = format!("/dead-letters?subscription={dead}");
    served.until(|_| served.items(&all_dead, ACME).len() == 3);
    served.send_signal("TERM");
    assert!(served.ended().success());
    place
}

#[test]
fn a_directory_is_described_and_left_as_it_is() {
    let place = stopped_host();
    let data = place.path("data");
    let before = picture(&data);
    let report = inspect(&data);
    assert_members(&report, json!({"owed": 3, "dead_letters": 3}));
    assert_eq!(report["dead_letters_by_reason"], json!({"status:404": 3}));
    assert_eq!(report["damaged"], json!([]));
    let lanes = report["subscriptions"].as_array().unwrap();
    assert_members(&lanes[0], json!({"name": "dead", "owed": 0}));
    assert_members(&lanes[1], json!({"state": "paused", "owed": 3}));
    assert_eq!(timeless(inspect(&data)), timeless(report), "a second look sees the same");
    let shown = alone(&["inspect", data.to_str().unwrap()]).done();
    shown.says(&["owed: 3 deliveries", "dead letters: 3", "3 status:404", "outbox-"]);
    assert_eq!(picture(&data), before, "nothing was written");
    // The owed deliveries are still there.
    let served = place.start();
    assert_eq!(served.stats()["owed"], 3);
}

#[test]
fn a_directory_in_use_or_of_another_kind_is_refused() {
    let place = HostDirectory::new(CONFIGURATION);
    let served = place.start();
    let data = place.path("data");
    alone(&["inspect", data.to_str().unwrap()]).failed(6, &["open in a running engine"]);
    served.get("/healthz", "").with_status(200);
    fs::create_dir(place.path("other")).unwrap();
    let other = place.path("other");
    alone(&["inspect", other.to_str().unwrap()]).failed(2, &["not a data directory"]);
    assert_eq!(picture(&other), Picture::new());
    alone(&["inspect", "/nowhere/at-all"]).failed(5, &["not a directory"]);
    served.kill();
    // A killed host leaves no lock behind.
    assert_eq!(inspect(&data)["owed"], 0);
}

#[test]
fn damage_is_reported_and_the_rest_is_shown() {
    let place = stopped_host();
    let data = place.path("data");
    fs::write(data.join("outbox-0000000000000001").join("conf"), b"not a database").unwrap();
    let before = picture(&data);
    let ran = alone(&["inspect", data.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    ran.says(&["damaged", "outbox-0000000000000001", "paused"]);
    assert_eq!(picture(&data), before);
}

/// The database panics at such damage, and the text of a panic on stderr hides the error.
#[test]
fn damage_in_the_middle_is_one_line() {
    let (place, served) = HostDirectory::new(CONFIGURATION).serving();
    let id = served.subscribe(ACME, "https://crm.example/hook", json!({"name": "paused"}));
    served.post(&format!("/subscriptions/{id}/pause"), ACME, "").with_status(200);
    let text = "x".repeat(2_000);
    let event = json!({"type": "T", "number": "919000000001", "payload": text}).to_string();
    served.post_lines(ACME, &format!("{event}\n").repeat(1_500)).with_status(202);
    served.kill();
    let data = place.path("data");
    let database = data.join("outbox-0000000000000001").join("db");
    let mut bytes = fs::read(&database).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 4..used / 2].fill(0);
    fs::write(&database, bytes).unwrap();
    let ran = alone(&["inspect", data.to_str().unwrap()]).failed(1, &["1 part of"]);
    assert!(!ran.err.contains("panicked"), "{ran:?}");
}

//! The log on stderr: nothing about a healthy delivery above `debug`, each problem at its level, and never a
//! payload or a secret.

use std::fs;

use serde_json::json;

use crate::host_process::{ACME, CONFIGURATION, HostDirectory, HostProcess};
use crate::receiver::Receiver;

/// The level and message of each line.
fn told(place: &HostDirectory) -> Vec<(String, String)> {
    let text = fs::read_to_string(place.path("stderr.log")).unwrap();
    let read = |line: &str| {
        let mut words = line.splitn(4, ' ');
        assert_eq!(words.next(), Some("wabahook:"), "{line}");
        assert!(words.next().unwrap().ends_with('Z'), "{line}");
        (words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
    };
    text.lines().map(read).collect()
}

fn publish(served: &HostProcess) {
    let event = json!({"type": "T", "number": "919000000001", "payload": "hidden-payload"});
    served.post("/events", ACME, event.to_string()).with_status(202);
}

#[test]
fn each_event_has_its_log_level_and_no_secret() {
    let place = HostDirectory::new(CONFIGURATION);
    let served = place.start_with(&["--log", "debug"]);
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/hook"), json!({"secret": "hidden-secret"}));
    let before = told(&place).len();
    publish(&served);
    served.until(|stats| stats["owed"] == 0);
    let healthy = told(&place).split_off(before);
    assert!(healthy.iter().any(|(_, text)| text.contains("attempt ended")), "{healthy:?}");
    assert!(healthy.iter().all(|(level, _)| level == "DEBUG"), "{healthy:?}");

    let level_of = |part: &str| {
        let mut told = told(&place).into_iter();
        told.find(|(_, text)| text.contains(part)).map(|(level, _)| level)
    };
    receiver.answer(404);
    publish(&served);
    served.until(|_| level_of("became a dead letter").is_some());
    assert_eq!(level_of("became a dead letter").as_deref(), Some("INFO"));
    receiver.answer(410);
    publish(&served);
    served.until(|_| level_of("was disabled").is_some());
    assert_eq!(level_of("was disabled").as_deref(), Some("WARN"));
    assert_eq!(level_of("the engine is open").as_deref(), Some("INFO"));
    for (_, text) in told(&place) {
        assert!(!text.contains("hidden") && !text.contains("acme-key"), "{text}");
    }
}

#[test]
fn an_opened_breaker_is_logged_once_as_a_warning() {
    let place = HostDirectory::new(CONFIGURATION);
    let served = place.start();
    let (failing, healthy) = (Receiver::answering(500), Receiver::answering(200));
    let breaker = json!({"breaker": {"failures": 2, "initial_ms": 100, "max_ms": 100}});
    served.subscribe(ACME, &failing.url("/hook"), breaker);
    served.subscribe(ACME, &healthy.url("/bystander"), json!({}));
    publish(&served);
    served.until(|_| told(&place).iter().any(|(_, text)| text.contains("breaker opened")));
    failing.answer(200);
    served.until(|stats| stats["owed"] == 0);
    let told = told(&place);
    assert!(told.iter().all(|(level, _)| level == "WARN"), "{told:?}");
    let opened: Vec<_> = told.iter().filter(|(_, text)| text.contains("breaker")).collect();
    assert_eq!(opened.len(), 1, "{told:?}");
    assert!(opened[0].1.contains("subscription=1"), "{told:?}");
}

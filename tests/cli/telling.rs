//! What the host tells on stderr: nothing of a healthy delivery above debug, what went wrong at its
//! level, and never a payload or a secret.

use std::fs;

use serde_json::json;

use crate::receiver::Receiver;
use crate::served::{ACME, CONFIGURATION, Place, Served};

/// What was told, as level and message.
fn told(place: &Place) -> Vec<(String, String)> {
    let text = fs::read_to_string(place.path("stderr.log")).unwrap();
    let read = |line: &str| {
        let mut words = line.splitn(4, ' ');
        assert_eq!(words.next(), Some("wabahook:"), "{line}");
        assert!(words.next().unwrap().ends_with('Z'), "{line}");
        (words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
    };
    text.lines().map(read).collect()
}

fn publish(served: &Served) {
    let event = json!({"type": "T", "number": "919000000001", "payload": "hidden-payload"});
    assert_eq!(served.post("/events", ACME, event.to_string()).status, 202);
}

#[test]
fn a_healthy_delivery_is_told_at_debug_and_failures_at_their_level_without_secrets() {
    let place = Place::new(CONFIGURATION);
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
    served.until(|_| level_of("was given up").is_some());
    assert_eq!(level_of("was given up").as_deref(), Some("INFO"));
    receiver.answer(410);
    publish(&served);
    served.until(|_| level_of("was disabled by its receiver").is_some());
    assert_eq!(level_of("was disabled by its receiver").as_deref(), Some("WARN"));
    assert_eq!(level_of("the engine is open").as_deref(), Some("INFO"));
    for (_, text) in told(&place) {
        assert!(!text.contains("hidden") && !text.contains("acme-key"), "{text}");
    }
}

#[test]
fn a_breaker_is_told_when_it_opens_and_when_it_closes_and_a_quiet_host_tells_warnings_alone() {
    let place = Place::new(CONFIGURATION);
    let served = place.start();
    let (failing, healthy) = (Receiver::answering(500), Receiver::answering(200));
    let breaker = json!({"breaker": {"failures": 2, "initial_ms": 100, "max_ms": 100}});
    served.subscribe(ACME, &failing.url("/hook"), breaker);
    served.subscribe(ACME, &healthy.url("/bystander"), json!({}));
    publish(&served);
    served.until(|_| told(&place).iter().any(|(_, text)| text.contains("its breaker opened")));
    failing.answer(200);
    served.until(|stats| stats["owed"] == 0);
    let told = told(&place);
    assert!(told.iter().all(|(level, _)| level == "WARN"), "{told:?}");
    let opened: Vec<_> = told.iter().filter(|(_, text)| text.contains("breaker")).collect();
    assert_eq!(opened.len(), 1, "{told:?}");
    assert!(opened[0].1.contains("subscription=1"), "{told:?}");
}

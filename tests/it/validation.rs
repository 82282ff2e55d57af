//! Bad input is refused with the field, the value and what would be valid, and changes nothing.

use std::time::Duration;

use wabahook::policy::Policy;
use wabahook::{Config, Engine, Error, Event, Limits, Subscription};

use crate::world::{World, quick};

fn check_event(event: Event, field: &str, says: &str) {
    let world = World::with(|config| config.limits(Limits::default().payload_bytes_max(100)));
    world.subscribe("bystander");
    let error = world.engine.publish(event).unwrap_err().error;
    assert_eq!(error.field(), Some(field), "{error}");
    assert!(error.to_string().contains(says), "{error} does not say {says:?}");
    let stats = world.engine.stats();
    assert_eq!((stats.accepted, stats.owed, stats.queued_events), (0, 0, 0));
}

#[test]
fn invalid_events_are_refused() {
    let event = || Event::new("ADD_TAG", "{}");
    check_event(event().number("91-CALL-ME"), "number", "\"91-CALL-ME\"");
    check_event(event().number("12"), "number", "7 to 15 digits");
    check_event(Event::new("", "{}"), "type", "event type");
    check_event(Event::new("A\r\nB", "{}"), "type", "visible ASCII");
    check_event(event().account("nobody"), "account", "\"nobody\"");
    check_event(event().key(""), "key", "1 to 512 bytes");
    check_event(event().dedup_key("k".repeat(513)), "dedup_key", "513 bytes");
    check_event(Event::new("ADD_TAG", vec![0; 101]), "payload", "101 is over the limit of 100");
}

#[test]
fn an_unknown_event_type_is_accepted() {
    let world = World::new();
    world.subscribe("crm");
    assert_eq!(world.publish("never.heard.of", "not even JSON").owed, 1);
    assert_eq!(world.receivers.wait_for("crm", 1)[0].body, b"not even JSON");
}

fn check_subscription(subscription: Subscription, field: &str, says: &str) {
    let world = World::new();
    world.subscribe("bystander");
    let error = world.engine.subscribe(subscription).unwrap_err();
    assert_eq!(error.field(), Some(field), "{error}");
    assert!(error.to_string().contains(says), "{error} does not say {says:?}");
    assert!(!error.to_string().contains("hidden"), "{error}");
    assert_eq!(world.engine.subscriptions().len(), 1);
    assert_eq!(world.publish("ADD_TAG", "{}").owed, 1, "the bystander is still served");
}

#[test]
fn invalid_subscriptions_are_refused() {
    let none: [&str; 0] = [];
    check_subscription(quick("x").events(none), "events", "at least one event type");
    check_subscription(quick("x").numbers(none), "numbers", "at least one number");
    check_subscription(quick("x").numbers(["919999999999", "none"]), "numbers[1]", "\"none\"");
    check_subscription(quick("x").events(["A", ""]), "events[1]", "event type");
    check_subscription(quick("x").secret("whsec_hidden!"), "secret", "redacted");
    check_subscription(quick("x").header("Host", "hidden"), "headers", "Host");
    check_subscription(quick("x").header("x", "hidden\r\n"), "headers.x", "redacted");
    check_subscription(quick("x").name("a\nb"), "name", "control characters");
    let never = Policy::default().timeout(Duration::from_millis(0));
    check_subscription(quick("x").policy(never), "timeout_ms", "1 to 300000");
    let to = |url: &str| Subscription::to(url).unwrap();
    check_subscription(to("http://crm.example/"), "url", "https");
    check_subscription(to("https://127.0.0.1/"), "url", "127.0.0.1");
    check_subscription(to("https://2130706433/"), "url", "2130706433");
    check_subscription(to("https://[::ffff:10.0.0.1]/"), "url", "url");
}

#[test]
fn invalid_settings_are_refused_by_name() {
    let check = |change: fn(&mut Limits), field: &str| {
        let mut limits = Limits::default();
        change(&mut limits);
        let error = Engine::open(Config::new("unused").limits(limits)).unwrap_err();
        assert_eq!(error.field(), Some(field), "{error}");
    };
    check(|limits| limits.in_flight_max = Some(0), "limits.in_flight_max");
    check(|limits| limits.transport_threads = 0, "limits.transport_threads");
    check(|limits| limits.queue_bytes_max = 1, "limits.queue_bytes_max");
    assert!(!std::path::Path::new("unused").exists(), "nothing was touched");
}

#[test]
fn an_error_tells_what_to_do() {
    let error = Engine::open(Config::new("/proc/no-such-place/data")).unwrap_err();
    assert!(matches!(error, Error::Directory { .. }), "{error}");
    assert!(error.to_string().contains("/proc/no-such-place/data"), "{error}");
}

#[test]
fn the_secrets_of_the_examples_are_accepted() {
    let world = World::new();
    for page in [include_str!("../../README.md"), include_str!("../../docs/embedding.md")] {
        let quoted: Vec<_> = page.split('"').filter(|text| text.starts_with("whsec_")).collect();
        assert!(!quoted.is_empty());
        for secret in quoted {
            world.engine.subscribe(quick("example").secret(secret)).unwrap();
        }
    }
}

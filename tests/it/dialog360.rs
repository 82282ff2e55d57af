//! Which 360dialog webhook gets an event: the one of the number or of its WABA, and the additional
//! destinations after the main one. A bystander gets everything throughout.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wabahook::clock::ManualClock;
use wabahook::store::Memory;
use wabahook::{
    Account, Config, DeadLetterFilter, DeliveryFilter, DeliveryState, Event, Failure, Reason,
};

use crate::business_api::call_back;
use crate::world::{BEGIN_WALL_MS, DEADLINE, World};
use wabahook::testing::ScriptedReply;

const KEY: (&str, &str) = ("d360-api-key", "acme-key");
const WABA: &str = "102290129340398";
const NUMBER: &str = "919999999999";
const OTHER: &str = "918888888888";

/// The API key belongs to one of two numbers of one WABA.
fn configured(config: Config) -> Config {
    let account = Account::new("acme").api_key("acme-key").waba(WABA, [NUMBER, OTHER]);
    config.account(account.bound_to(NUMBER))
}

fn world() -> World {
    let world =
        World::on(Memory::default(), Arc::new(ManualClock::new(BEGIN_WALL_MS, 11)), configured);
    world.subscribe("bystander");
    world
}

fn set_number(world: &World) {
    world.register("POST", "/v1/configs/webhook", KEY, r#"{"url":"https://number/hook"}"#);
}

fn set_waba(world: &World, overrides: bool) {
    let body = format!(r#"{{"url":"https://waba/hook","override_all":{overrides}}}"#);
    world.register("POST", "/waba_webhook", KEY, &body);
}

fn enable(world: &World, names: &[&str]) {
    let list: Vec<_> = names
        .iter()
        .map(|name| format!(r#"{{"name":"{name}","url":"https://{name}/hook"}}"#))
        .collect();
    let body = format!(r#"{{"enabled":true,"destinations":[{}]}}"#, list.join(","));
    world.register("POST", "/multi_webhook", KEY, &body);
}

/// Publishes an event and returns which receivers got it, except the bystander.
fn reached(world: &World, event: Event) -> Vec<&'static str> {
    let accepted = world.engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    world.wait_until(|stats| stats.owed == 0);
    let id = accepted.id.to_string();
    let got = |host: &&str| world.receivers.at(host).iter().any(|arrival| arrival.id == id);
    assert!(got(&"bystander"));
    let reached: Vec<_> = ["number", "waba", "extra"].into_iter().filter(got).collect();
    assert_eq!(reached.len() + 1, accepted.owed as usize);
    reached
}

fn of(number: &str) -> Event {
    Event::new("MESSAGE_RECEIVED", "{}").number(number)
}

fn template_update() -> Event {
    Event::new("TEMPLATE_UPDATE", "{}").waba(WABA)
}

#[test]
fn the_webhook_of_a_number_precedes_that_of_its_waba() {
    let world = world();
    set_waba(&world, false);
    assert_eq!(reached(&world, of(NUMBER)), ["waba"], "it has none of its own yet");
    set_number(&world);
    assert_eq!(reached(&world, of(NUMBER)), ["number"]);
    assert_eq!(reached(&world, of(OTHER)), ["waba"]);
    assert_eq!(reached(&world, template_update()), ["waba"]);
}

#[test]
fn templates_go_to_the_waba_and_messages_to_the_number() {
    let world = world();
    set_waba(&world, false);
    set_number(&world);
    enable(&world, &["extra"]);
    let body = include_bytes!("../../docs/samples/cloud_template_status_rejected.json");
    call_back(&world.engine, body);
    world.wait_until(|stats| stats.owed == 0);
    let bodies = |host: &str| -> Vec<_> {
        world.receivers.at(host).into_iter().map(|arrival| arrival.body).collect()
    };
    assert_eq!(bodies("waba"), [body]);
    assert_eq!((bodies("number").len(), bodies("extra").len()), (0, 0));
    assert_ne!(bodies("bystander").len(), 0);
}

#[test]
fn override_all_silences_the_number_until_it_ends() {
    let world = world();
    set_number(&world);
    assert_eq!(reached(&world, of(NUMBER)), ["number"]);
    assert_eq!(reached(&world, of(OTHER)), [""; 0], "nobody has a webhook for it");
    set_waba(&world, true);
    assert_eq!(reached(&world, of(NUMBER)), ["waba"]);
    assert_eq!(reached(&world, of(OTHER)), ["waba"]);
    set_number(&world);
    assert_eq!(reached(&world, of(NUMBER)), ["number"], "a later write wins again");
    assert_eq!(reached(&world, of(OTHER)), ["waba"]);
    set_waba(&world, true);
    assert_eq!(reached(&world, of(NUMBER)), ["waba"]);
    set_waba(&world, false);
    assert_eq!(reached(&world, of(NUMBER)), ["number"], "the WABA's is a fallback again");
}

#[test]
fn an_additional_destination_mirrors_its_main_webhook() {
    let world = world();
    enable(&world, &["extra"]);
    assert_eq!(reached(&world, of(NUMBER)), ["extra"]);
    set_waba(&world, false);
    assert_eq!(reached(&world, of(NUMBER)), ["waba", "extra"]);
    assert_eq!(reached(&world, of(OTHER)), ["waba"], "it is of the key's number");
    set_number(&world);
    assert_eq!(reached(&world, of(NUMBER)), ["number", "extra"]);
    assert_eq!(reached(&world, template_update()), ["waba"]);
    world.register("POST", "/multi_webhook", KEY, r#"{"enabled":false}"#);
    assert_eq!(reached(&world, of(NUMBER)), ["number"]);
    enable(&world, &[]);
    assert_eq!(reached(&world, of(NUMBER)), ["number", "extra"]);
    world.register("DELETE", "/multi_webhook/extra", KEY, "");
    assert_eq!(reached(&world, of(NUMBER)), ["number"]);
}

/// Makes the main webhook fail with these answers, and returns the world with one event in flight.
fn with_main_failing(failures: &[ScriptedReply]) -> World {
    let world = world();
    set_number(&world);
    enable(&world, &["extra"]);
    world.receivers.script("number", failures);
    assert_eq!(world.publish("MESSAGE_RECEIVED", "{}").owed, 3);
    world.wait_until(|stats| (stats.retried, stats.delivered) == (1, 1));
    world
}

fn blocked(world: &World) -> usize {
    let blocked = DeliveryFilter::default().states([DeliveryState::Blocked]);
    world.engine.deliveries(&blocked, None, 10).unwrap().items.len()
}

#[test]
fn an_additional_destination_waits_for_exactly_200() {
    let failures = [
        ScriptedReply::Status(204),
        ScriptedReply::Status(410),
        ScriptedReply::Fails(Failure::Timeout),
    ];
    let answers: Vec<_> = failures.iter().cloned().chain([ScriptedReply::Status(200)]).collect();
    let world = with_main_failing(&answers);
    for failed in 2..=failures.len() as u64 {
        assert_eq!((world.receivers.at("extra").len(), blocked(&world)), (0, 1));
        world.clock.advance(Duration::from_millis(60_000));
        world.wait_until(|stats| stats.retried == failed);
    }
    assert_eq!((world.receivers.at("extra").len(), blocked(&world)), (0, 1));
    world.receivers.script("extra", &[ScriptedReply::Status(201), ScriptedReply::Status(200)]);
    world.clock.advance(Duration::from_millis(60_000));
    assert_eq!(world.receivers.wait_for("extra", 1)[0].timeout, Duration::from_secs(5));
    world.wait_until(|stats| (stats.retried, stats.delivered) == (4, 2));
    world.clock.advance(Duration::from_millis(60_000));
    world.wait_until(|stats| (stats.owed, stats.delivered) == (0, 3));
    let attempts = ["number", "extra", "bystander"].map(|host| world.receivers.at(host).len());
    assert_eq!(attempts, [4, 2, 1], "its own failures are not the main one's");
}

#[test]
fn after_7_days_the_main_webhook_ends_with_its_destinations() {
    const HOUR_MS: u64 = 3_600_000;
    let world = with_main_failing(&[ScriptedReply::Status(503)]);
    let mut hours = 0;
    while world.engine.stats().dead == 0 {
        let attempts = world.engine.stats().attempts;
        world.clock.advance(Duration::from_millis(2 * HOUR_MS));
        hours += 2;
        world.wait_until(|stats| stats.attempts > attempts || stats.dead > 0);
    }
    assert!((7 * 24 - 2..=7 * 24 + 2).contains(&hours), "{hours}");
    world.wait_until(|stats| (stats.dead, stats.owed) == (2, 0));
    // Dead letters are written with the next group.
    world.register("POST", "/multi_webhook", KEY, r#"{"enabled":false}"#);
    world.publish("MESSAGE_RECEIVED", "{}");
    let letters = world.engine.dead_letters(&DeadLetterFilter::default(), None, 10).unwrap().items;
    let mut reasons: Vec<_> = letters.iter().map(|one| one.reason.to_string()).collect();
    reasons.sort();
    assert_eq!(reasons, [Reason::Expired.to_string(), Reason::Gate.to_string()]);
    assert_eq!(world.receivers.at("extra").len(), 0);
    assert_eq!(world.receivers.wait_for("bystander", 2).len(), 2);
}

#[test]
fn webhook_states_survive_a_power_cut() {
    let world = world();
    set_number(&world);
    set_waba(&world, true);
    enable(&world, &["extra"]);
    let (store, clock) = (world.store.crash(), world.clock.clone());
    drop(world);
    let world = World::on(store, clock, configured);
    assert_eq!(reached(&world, of(NUMBER)), ["waba", "extra"]);
    world.register("POST", "/multi_webhook", KEY, r#"{"enabled":false}"#);
    set_number(&world);
    let (store, clock) = (world.store.crash(), world.clock.clone());
    drop(world);
    let world = World::on(store, clock, configured);
    assert_eq!(reached(&world, of(NUMBER)), ["number"]);
    enable(&world, &[]);
    assert_eq!(reached(&world, of(NUMBER)), ["number", "extra"]);
}

#[test]
fn a_request_that_the_device_refuses_changes_nothing() {
    let (world, faults) = World::faulty(configured);
    world.subscribe("bystander");
    set_number(&world);
    enable(&world, &["extra"]);
    faults.fail_after(0);
    let request = http::Request::post("/waba_webhook").header(KEY.0, KEY.1);
    let body = r#"{"url":"https://waba/hook","override_all":true}"#;
    let registration = wabahook::registration::Registration::new(world.engine.clone());
    let response = registration.respond(&request.body(body).unwrap());
    assert_eq!(response.status(), 500);
    faults.heal();
    assert_eq!(world.engine.subscriptions_of("acme").len(), 3);
    let stats = world.engine.stats();
    assert_eq!(reached(&world, of(NUMBER)), ["number", "extra"], "{stats:?}");
    set_waba(&world, true);
    assert_eq!(reached(&world, of(NUMBER)), ["waba", "extra"]);
}

#[test]
fn no_event_is_lost_while_one_webhook_replaces_another() {
    let world = world();
    set_number(&world);
    enable(&world, &["extra"]);
    let changed = AtomicBool::new(false);
    let owed: BTreeSet<u32> = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            loop {
                let receipt = world.engine.publish(of(NUMBER)).unwrap();
                seen.insert(receipt.wait_timeout(DEADLINE).unwrap().unwrap().owed);
                if changed.load(Ordering::Relaxed) {
                    return seen;
                }
            }
        });
        for _ in 0..300 {
            set_waba(&world, true);
            set_number(&world);
        }
        changed.store(true, Ordering::Relaxed);
        publishing.join().unwrap()
    });
    assert_eq!(owed, [3].into(), "one main webhook, its destination and the bystander");
}

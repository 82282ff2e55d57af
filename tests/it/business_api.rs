//! The webhook of the on-premises WhatsApp Business API: what it is sent and when it is retried, next
//! to a bystander that must not be affected.

use std::time::Duration;

use serde_json::Value;
use wabahook::inbound::cloud_api;
use wabahook::{
    Account, DeadLetterFilter, DeliveryFilter, Engine, Event, Failure, RAW_CLOUD_API_WEBHOOK,
    Reason, SubscriptionId, SubscriptionState,
};

use crate::world::{DEADLINE, World};
use wabahook::testing::ScriptedReply;

const KEY: (&str, &str) = ("whizard-key", "acme-key");
const NUMBER: &str = "919999999999";

/// A world with the gateway's webhook at `premises`, and a bystander.
fn world() -> (World, SubscriptionId) {
    let world = World::with(|config| {
        let account = Account::new("acme").api_key("acme-key");
        config.account(account.waba("1", [NUMBER, "918888888888"]).bound_to(NUMBER))
    });
    let body = r#"{"url":"https://premises/webhook","headers":{"Authorization":"Basic dGVzdHVzZXI6dGVzdHBhc3M="}}"#;
    world.register("POST", "/v1/configs/webhook", KEY, body);
    let id = world.engine.subscriptions()[0].id;
    world.subscribe("bystander");
    (world, id)
}

/// How long the only delivery in retry still waits.
fn wait_ms(world: &World, id: SubscriptionId) -> u64 {
    let of_it = DeliveryFilter::default().subscription(id);
    let page = world.engine.deliveries(&of_it, None, 10).unwrap();
    assert_eq!(page.items.len(), 1);
    let now_ms = wabahook::clock::Clock::wall_ms(&*world.clock);
    page.items[0].due_at_ms.unwrap() - now_ms
}

#[test]
fn only_200_is_success_and_each_retry_waits_3_s_more() {
    let (world, id) = world();
    let failures = [
        ScriptedReply::Status(201),
        ScriptedReply::Status(204),
        ScriptedReply::Status(302),
        ScriptedReply::Status(404),
        ScriptedReply::Status(410),
        ScriptedReply::Status(500),
        ScriptedReply::Fails(Failure::Timeout),
        ScriptedReply::Fails(Failure::Connect),
    ];
    let script: Vec<_> = failures.iter().cloned().chain([ScriptedReply::Status(200)]).collect();
    world.receivers.script("premises", &script);
    let accepted = world.publish("MESSAGE_RECEIVED", "{\"a\": 1}");
    assert_eq!(accepted.owed, 2);
    for failed in 1..=failures.len() as u64 {
        world.wait_until(|stats| (stats.retried, stats.delivered) == (failed, 1));
        assert_eq!(wait_ms(&world, id), 3_000 * failed);
        world.clock.advance(Duration::from_millis(3_000 * failed));
    }
    world.wait_until(|stats| (stats.owed, stats.delivered) == (0, 2));
    let arrivals = world.receivers.at("premises");
    assert_eq!(arrivals.len(), failures.len() + 1);
    for arrival in arrivals {
        assert_eq!(arrival.header("authorization"), Some("Basic dGVzdHVzZXI6dGVzdHBhc3M="));
        assert_eq!(arrival.id, accepted.id.to_string());
        assert_eq!(arrival.body, b"{\"a\": 1}");
    }
    assert_eq!(world.engine.subscription(id).unwrap().state, SubscriptionState::Active);
    assert_eq!(world.receivers.at("bystander").len(), 1);
}

#[test]
fn backoff_ends_at_15_min_and_retries_after_7_days() {
    const WEEK_MS: u64 = 7 * 24 * 3_600_000;
    let (world, id) = world();
    world.receivers.script("premises", &[ScriptedReply::Status(503)]);
    world.publish("MESSAGE_RECEIVED", "{}");
    let (mut failed, mut waited_ms) = (1, 0);
    loop {
        let stats = world.wait_until(|stats| stats.retried == failed || stats.dead == 1);
        if stats.dead == 1 {
            break;
        }
        let wait = wait_ms(&world, id);
        assert!(wait == (3_000 * failed).min(900_000) || waited_ms + wait >= WEEK_MS, "{wait}");
        world.clock.advance(Duration::from_millis(wait));
        (failed, waited_ms) = (failed + 1, waited_ms + wait);
    }
    assert!((WEEK_MS - 900_000..=WEEK_MS).contains(&waited_ms), "{waited_ms}");
    assert!(failed > 300, "the longest wait was reached");
    assert_eq!(world.publish("MESSAGE_RECEIVED", "{}").owed, 2, "it is served on");
    // Dead letters are written with the next group.
    let letters = world.engine.dead_letters(&DeadLetterFilter::default(), None, 10).unwrap().items;
    assert_eq!((letters.len(), letters[0].subscription), (1, id));
    assert_eq!(letters[0].reason, Reason::Expired);
    assert_eq!(world.engine.subscription(id).unwrap().state, SubscriptionState::Active);
    assert_eq!(world.receivers.wait_for("bystander", 2).len(), 2);
}

#[test]
fn a_bound_key_gets_only_the_events_of_its_number() {
    let (world, _) = world();
    let other = Event::new("MESSAGE_RECEIVED", "other").number("918888888888");
    let accepted = world.engine.publish(other).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(accepted.owed, 1);
    assert_eq!(world.publish("anything.else", "its own").owed, 2);
    world.wait_until(|stats| (stats.delivered, stats.owed) == (3, 0));
    let bodies: Vec<_> = world.receivers.at("premises").into_iter().map(|one| one.body).collect();
    assert_eq!(bodies, [b"its own"]);
    assert_eq!(world.receivers.at("bystander").len(), 2);
}

/// Publishes the events of a Meta callback.
pub fn call_back(engine: &Engine, body: &[u8]) {
    let callback = cloud_api::events(body, engine.accounts()).unwrap();
    assert!(callback.unowned.is_empty() && callback.malformed.is_empty());
    engine.publish_many(callback.events).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
}

#[test]
fn cloud_api_gateways_get_callbacks_whole() {
    let body = include_bytes!("../../docs/samples/cloud_message_text.json");
    let world = World::with(|config| {
        let account = Account::new("acme").api_key("acme-key");
        config.account(account.waba("1234567890987654321", ["972123456789"]))
    });
    for (key, host) in [("whizard-key", "premises"), ("d360-api-key", "number")] {
        let hook = format!(r#"{{"url":"https://{host}/webhook"}}"#);
        world.register("POST", "/v1/configs/webhook", (key, "acme-key"), &hook);
    }
    world.subscribe("bystander");
    call_back(&world.engine, body);
    let own = Event::new("MESSAGE_RECEIVED", "own").number("972123456789");
    world.engine.publish(own).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    world.wait_until(|stats| (stats.delivered, stats.owed) == (7, 0));
    for host in ["premises", "number"] {
        let mut got = world.receivers.at(host);
        got.sort_by_key(|arrival| arrival.id.clone());
        let types: Vec<_> = got.iter().map(|one| one.event_type()).collect();
        assert_eq!(types, [RAW_CLOUD_API_WEBHOOK, "MESSAGE_RECEIVED"], "{host}");
        let flat = host == "premises";
        let whole: Value = serde_json::from_slice(&got[0].body).unwrap();
        assert_eq!(whole.get("messages").is_some(), flat, "the flat body of v1");
        assert!(flat || got[0].body == body, "{host}: byte for byte");
        assert_eq!(got[1].body, b"own");
    }
    assert_eq!(world.receivers.at("bystander").len(), 3, "it knows the parts, too");
}

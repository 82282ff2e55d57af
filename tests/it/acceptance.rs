//! I1, I7, I8: an accepted event is durable and reaches exactly the subscriptions that match.

use std::time::Duration;

use wabahook::policy::{Breaker, Policy};
use wabahook::{Account, Error, Event, Limits, Notice, Stats, Subscription, Transport};

use crate::world::{DEADLINE, World};
use wabahook::testing::ScriptedReply;

fn to(host: &str) -> Subscription {
    Subscription::to(format!("https://{host}/")).unwrap().name(host)
}

#[test]
fn an_event_reaches_exactly_the_four_kinds_of_filter_that_match() {
    let world = World::new();
    let subscribe = |subscription| world.engine.subscribe(subscription).unwrap();
    subscribe(to("all.all"));
    subscribe(to("type.all").events(["Message Received"]));
    subscribe(to("all.number").numbers(["+91 9999 999999"]));
    subscribe(to("type.number").events(["MESSAGE_RECEIVED", "ADD_TAG"]).numbers(["919999999999"]));
    subscribe(to("other.type").events(["ADD_TAG"]));
    subscribe(to("other.number").numbers(["918888888888"]));
    subscribe(to("other.both").events(["ADD_TAG"]).numbers(["918888888888"]));
    let accepted = world.publish("message.received", "{ \"a\" : \"\\u0040\" }");
    assert_eq!((accepted.owed, accepted.duplicate), (4, false));
    world.wait_until(|stats| stats.delivered == 4);
    for host in ["all.all", "type.all", "all.number", "type.number"] {
        let [arrival] = world.receivers.at(host).try_into().unwrap();
        assert_eq!(arrival.body, b"{ \"a\" : \"\\u0040\" }", "byte for byte");
        assert_eq!(arrival.id, accepted.id.to_string());
        assert_eq!(arrival.event_type(), "MESSAGE_RECEIVED");
        assert_eq!(arrival.header("x-webhook-number"), Some("919999999999"));
        assert_eq!(arrival.attempt, 1);
    }
    for bystander in ["other.type", "other.number", "other.both"] {
        assert!(world.receivers.at(bystander).is_empty(), "{bystander}");
    }
}

#[test]
fn a_waba_event_reaches_the_numbers_of_that_waba() {
    let world = World::with(|config| {
        config
            .account(
                Account::new("acme")
                    .waba("1", ["919999999999", "918888888888"])
                    .waba("2", ["917777777777"]),
            )
            .account(Account::new("beta").waba("3", ["916666666666"]))
    });
    let subscribe = |subscription: Subscription, account| {
        world.engine.subscribe(subscription.account(account)).unwrap()
    };
    subscribe(to("all"), "acme");
    subscribe(to("both.numbers").numbers(["919999999999", "918888888888"]), "acme");
    subscribe(to("other.waba").numbers(["917777777777"]), "acme");
    subscribe(to("other.account"), "beta");
    let event = Event::new("TEMPLATE_UPDATE", "{}").account("acme").waba("1");
    assert_eq!(world.engine.publish(event).unwrap().wait().unwrap().owed, 2);
    world.wait_until(|stats| stats.delivered == 2);
    assert_eq!(world.receivers.at("all").len(), 1);
    assert_eq!(world.receivers.at("both.numbers").len(), 1);
    assert!(world.receivers.at("other.waba").is_empty());
    assert!(world.receivers.at("other.account").is_empty());
}

#[test]
fn an_unrouted_event_has_an_id_and_is_counted() {
    let world = World::new();
    world.engine.subscribe(to("tags").events(["ADD_TAG"])).unwrap();
    let first = world.publish("NEW_LEAD", "{}");
    let second = world.publish("NEW_LEAD", "{}");
    assert_eq!((first.owed, second.owed), (0, 0));
    assert_ne!(first.id, second.id);
    let stats = world.engine.stats();
    assert_eq!((stats.accepted, stats.unrouted, stats.owed), (2, 2, 0));
    assert!(world.receivers.at("tags").is_empty());
}

#[test]
fn dedup_keys_over_the_limit_are_reported_once_in_a_burst() {
    let limits = || Limits::default().dedup_keys_max(3);
    let world = World::with(|config| config.limits(limits()));
    let notices = world.engine.notices();
    world.subscribe("all.invalid");
    let publish = |world: &World, key: u32| {
        let event = Event::new("ADD_TAG", "{}").number("919999999999");
        let receipt = world.engine.publish(event.dedup_key(key.to_string())).unwrap();
        receipt.wait_timeout(DEADLINE).unwrap().unwrap()
    };
    (1..=3).for_each(|key| assert!(!publish(&world, key).duplicate));
    assert_eq!(world.engine.stats().keys_dropped, 0);
    (4..=8).for_each(|key| assert!(!publish(&world, key).duplicate));
    assert!(publish(&world, 8).duplicate, "the newest keys stay");
    world.wait_until(|stats| stats.keys_dropped == 5);
    assert_eq!(notices.try_next(), Some(Notice::DedupKeysDropped(1)));
    assert_eq!(notices.try_next(), None, "told once");
    assert!(!publish(&world, 1).duplicate, "the oldest went first");
    world.wait_until(|stats| stats.delivered == 9);
    assert_eq!(world.engine.stats().letters_dropped, 0, "nothing else is dropped");
    let store = world.store.crash();
    let clock = world.clock.clone();
    drop(world);
    let world = World::on(store, clock, |config| config.limits(limits()));
    assert_eq!(world.engine.stats().keys_dropped, 6, "what lies on the device is held to it too");
    assert_eq!(world.engine.notices().try_next(), Some(Notice::DedupKeysDropped(6)));
}

#[test]
fn a_repeated_dedup_key_returns_the_first_id() {
    let world = World::new();
    world.subscribe("crm");
    let publish = |event_type: &str, key: &str| {
        let event = Event::new(event_type, "{}").number("919999999999").dedup_key(key);
        world.engine.publish(event).unwrap().wait().unwrap()
    };
    let first = publish("MESSAGE_RECEIVED", "wamid.1");
    let again = publish("Message Received", "wamid.1");
    let bystander = publish("MESSAGE_STATUS_UPDATE", "wamid.1");
    assert!(again.duplicate && again.id == first.id && again.owed == 0);
    assert!(!bystander.duplicate);
    let stats = world.wait_until(|stats| stats.delivered == 2);
    assert_eq!((stats.accepted, stats.duplicates), (2, 1));
    assert_eq!(world.receivers.at("crm").len(), 2);
}

#[test]
fn publish_many_is_all_or_none_and_names_the_event_at_fault() {
    let world = World::new();
    world.subscribe("crm");
    let events = |bad: Option<usize>| {
        let event = |n| Event::new("ADD_TAG", format!("{n}"));
        let numbered = |n| match bad {
            Some(bad) if bad == n => event(n).number("call me"),
            _ => event(n).number("919999999999"),
        };
        (0..50).map(numbered).collect::<Vec<_>>()
    };
    let error = world.engine.publish_many(events(Some(30))).unwrap_err();
    assert_eq!(error.error.field(), Some("events[30].number"));
    assert_eq!(world.engine.stats().accepted, 0);
    let accepted = world.engine.publish_many(events(None)).unwrap().wait().unwrap();
    assert_eq!(accepted.len(), 50);
    assert!(accepted.windows(2).all(|pair| pair[0].id < pair[1].id), "in the order given");
    world.wait_until(|stats| stats.delivered == 50);
    assert!(world.engine.publish_many(Vec::new()).unwrap().wait().unwrap().is_empty());
}

#[test]
fn events_that_could_never_fit_are_too_large_and_not_busy() {
    let limits = Limits::default().outbox_events_max(2).outbox_bytes_max(100);
    let world = World::with(|config| config.limits(limits));
    world.subscribe("crm");
    let event = |bytes: usize| Event::new("ADD_TAG", vec![b'1'; bytes]).number("919999999999");
    let many = world.engine.publish_many((0..3).map(|_| event(1)).collect()).unwrap_err();
    assert!(matches!(many.error, Error::TooLarge { given: 3, limit: 2, .. }), "{many}");
    let bytes = world.engine.publish_many(vec![event(60), event(60)]).unwrap_err();
    assert!(matches!(bytes.error, Error::TooLarge { given: 120, limit: 100, .. }), "{bytes}");
    let one = world.engine.publish(event(101)).unwrap_err();
    assert!(matches!(one.error, Error::TooLarge { given: 101, limit: 100, .. }), "{one}");
    assert!(world.engine.publish_many(vec![event(1), event(1)]).unwrap().wait().is_ok());
    world.receivers.wait_for("crm", 2);
}

#[test]
fn receipts_wait_for_the_sync_and_a_full_queue_is_busy() {
    let limits =
        Limits::default().queue_events_max(4).queue_bytes_max(1_000).payload_bytes_max(1_000);
    let (world, faults) = World::faulty(|config| config.limits(limits));
    world.subscribe("crm");
    faults.hold_syncs();
    let event = || Event::new("ADD_TAG", "body").number("919999999999");
    let receipts: Vec<_> = (0..4).map(|_| world.engine.publish(event()).unwrap()).collect();
    let busy = world.engine.publish(event()).unwrap_err();
    assert!(matches!(&busy.error, Error::Busy { reason } if reason.contains("4 events")), "{busy}");
    let back = busy.into_events();
    assert_eq!(back[0].payload(), b"body");
    let many = world.engine.publish_many((0..5).map(|_| event()).collect()).unwrap_err();
    assert!(matches!(many.error, Error::TooLarge { given: 5, limit: 4, .. }), "{many}");
    assert!(receipts.iter().all(|receipt| !receipt.is_done()));
    assert!(world.receivers.at("crm").is_empty(), "nothing is sent before it is durable");
    faults.release_syncs();
    for receipt in &receipts {
        assert_eq!(receipt.wait_timeout(DEADLINE).unwrap().unwrap().owed, 1);
    }
    assert!(world.engine.publish(back[0].clone()).unwrap().wait().is_ok());
    world.receivers.wait_for("crm", 5);
    assert_eq!(world.engine.stats().busy, 1);
}

#[test]
fn a_receipt_is_a_future_for_any_runtime() {
    let world = World::new();
    world.subscribe("crm");
    let engine = world.engine.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let event = || Event::new("ADD_TAG", "{}").number("919999999999");
    let in_task = runtime.block_on(async { engine.publish(event()).unwrap().await.unwrap() });
    let engine = world.engine.clone();
    let in_thread = std::thread::spawn(move || engine.publish(event()).unwrap().wait().unwrap())
        .join()
        .unwrap();
    assert_eq!((in_task.owed, in_thread.owed), (1, 1));
    assert_eq!(world.receivers.wait_for("crm", 2).len(), 2);
}

#[test]
fn a_failing_device_refuses_events_and_is_tried_again() {
    let (world, faults) = World::faulty(|config| config);
    world.subscribe("crm");
    world.receivers.script("slow", &[ScriptedReply::Status(503)]);
    world.subscribe("slow");
    world.publish("ADD_TAG", "before");
    let notices = world.engine.notices();
    world.wait_until(|stats| stats.delivered == 1 && stats.retried == 1);
    faults.fail_after(0);
    let event = || Event::new("ADD_TAG", "refused").number("919999999999");
    let error = world.engine.publish(event()).unwrap().wait().unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    let next = || notices.next_timeout(DEADLINE).unwrap();
    assert!(matches!(next(), Notice::Stalled { why } if why.contains("an injected fault")));
    let busy = world.engine.publish(event()).unwrap_err();
    assert!(matches!(&busy.error, Error::Busy { reason } if reason.contains("refuses")), "{busy}");
    assert_eq!(busy.into_events()[0].payload(), b"refused");
    world.clock.advance(Duration::from_millis(1_000));
    world.receivers.wait_for("slow", 2);
    faults.heal();
    assert_eq!(next(), Notice::Resumed);
    assert_eq!(world.publish("ADD_TAG", "after").owed, 2);
    world.wait_until(|stats| stats.delivered == 2);
    let bodies: Vec<_> = world.receivers.at("crm").into_iter().map(|a| a.body).collect();
    assert_eq!(bodies, [&b"before"[..], b"after"], "what was refused was never sent");
    world.engine.close(DEADLINE).unwrap();
}

#[test]
fn a_hanging_receiver_delays_no_other() {
    let world = World::new();
    world.receivers.script("hangs", &[ScriptedReply::Hangs]);
    world.subscribe("hangs");
    world.subscribe("crm");
    (0..200).for_each(|_| {
        world.publish("ADD_TAG", "{}");
    });
    assert_eq!(world.receivers.wait_for("crm", 200).len(), 200);
    assert_eq!(world.receivers.at("hangs").len(), 1);
    world.receivers.interrupt();
}

#[test]
fn counters_add_up_while_deliveries_end_in_every_way() {
    const EVENTS: u64 = 4_000;
    let world = World::new();
    let breaker = Breaker::default().failures(None);
    let once = Policy::default().attempts_max(Some(1)).breaker(breaker);
    world.receivers.script("gone", &[ScriptedReply::Status(500)]);
    world.receivers.script("removed", &[ScriptedReply::Hangs]);
    world.subscribe("all");
    world.engine.subscribe(to("gone").policy(once)).unwrap();
    let removed = world.subscribe("removed");
    let read = |stats: &Stats| {
        let ended = stats.delivered + stats.dead + stats.cancelled;
        assert_eq!(stats.owed + ended, 3 * stats.accepted, "{stats:?}");
        assert_eq!(stats.lanes.iter().map(|lane| lane.dead).sum::<u64>(), stats.dead, "{stats:?}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..EVENTS {
                let event = Event::new("ADD_TAG", format!("{n}")).number("919999999999");
                let receipt = world.engine.publish(event).unwrap();
                if n % 100 == 99 {
                    receipt.wait_timeout(DEADLINE).unwrap().unwrap();
                }
            }
        });
        world.wait_until(|stats| {
            read(stats);
            stats.accepted == EVENTS && stats.delivered == EVENTS && stats.dead == EVENTS
        });
    });
    world.engine.unsubscribe(removed).unwrap();
    let stats = world.wait_until(|stats| {
        read(stats);
        stats.owed == 0
    });
    assert_eq!((stats.delivered, stats.dead, stats.cancelled), (EVENTS, EVENTS, EVENTS));
}

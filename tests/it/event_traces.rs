//! "Where is this message?": what became of an event, with a history and without one.

use std::sync::Arc;
use std::time::Duration;

use wabahook::clock::ManualClock;
use wabahook::testing::{ScriptedReply, ScriptedTransport};
use wabahook::{
    Config, DeliveryOutcome, DeliveryState, Engine, Event, EventQuery, Limits, Page, PurgeFilter,
};

use crate::support::{DEADLINE, wait_until};
use crate::world::{BEGIN_WALL_MS, World, quick};

fn ids<C>(page: &Page<wabahook::EventTrace, C>) -> Vec<wabahook::EventId> {
    page.items.iter().map(|trace| trace.id).collect()
}

#[test]
fn what_is_owed_and_dead_is_found_without_a_history() {
    let world = World::new();
    world.receivers.script("slow", &[ScriptedReply::Status(503)]);
    world.receivers.script("dead", &[ScriptedReply::Status(404)]);
    let (slow, dead) = (world.subscribe("slow"), world.subscribe("dead"));
    let bystander = world.subscribe("bystander");
    let first = world.publish("MESSAGE_RECEIVED", r#"{"id":"wamid.FIRST"}"#);
    world.wait_until(|stats| (stats.retried, stats.dead, stats.delivered) == (1, 1, 1));
    let trace = world.engine.event(first.id).unwrap().unwrap();
    let outcome = |id| trace.deliveries.iter().find(|one| one.subscription == id).unwrap();
    let retrying = outcome(slow);
    assert_eq!(retrying.outcome, DeliveryOutcome::Current(DeliveryState::Retrying));
    assert_eq!(retrying.due_at_ms, Some(BEGIN_WALL_MS + 1_000));
    assert_eq!(retrying.reason.as_ref().unwrap().to_string(), "status:503");
    assert_eq!(outcome(dead).outcome, DeliveryOutcome::Current(DeliveryState::Dead));
    assert_eq!(outcome(bystander).outcome, DeliveryOutcome::Delivered);
    assert_eq!(outcome(bystander).attempts[0].status, Some(200));
    assert_eq!(trace.payload, br#"{"id":"wamid.FIRST"}"#);

    let second = world.publish("ADD_TAG", r#"{"id":"wamid.SECOND"}"#);
    let find = |query: EventQuery| ids(&world.engine.find_events(&query, None, 10).unwrap());
    let query = EventQuery::default;
    assert_eq!(find(query()), [second.id, first.id]);
    assert_eq!(find(query().message_id("wamid.FIRST")), [first.id]);
    assert_eq!(find(query().event_type("tag")), [second.id]);
    assert_eq!(find(query().number("919999999999".parse().unwrap())), [second.id, first.id]);
    assert_eq!(find(query().since_ms(BEGIN_WALL_MS + 1)), []);
    assert_eq!(find(query().account("another")), []);
    let page = world.engine.find_events(&query(), None, 1).unwrap();
    assert_eq!(ids(&page), [second.id]);
    let rest = world.engine.find_events(&query(), page.next, 10).unwrap();
    assert_eq!((ids(&rest), rest.next), (vec![first.id], None));
}

/// An engine with a history in a directory.
fn opened(
    path: &std::path::Path,
    receivers: &Arc<ScriptedTransport>,
    clock: &Arc<ManualClock>,
) -> Engine {
    let limits = Limits::default().history_bytes_max(1 << 20);
    let config = Config::new(path).limits(limits).clock(clock.clone());
    Engine::open(config.transport(receivers.clone())).unwrap()
}

#[test]
fn a_history_tells_what_ended_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let receivers = Arc::new(ScriptedTransport::default());
    let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 11));
    let engine = opened(directory.path(), &receivers, &clock);
    let crm = engine.subscribe(quick("crm").events(["MESSAGE_RECEIVED"])).unwrap();
    receivers.script("crm", &[ScriptedReply::Status(503), ScriptedReply::Status(200)]);
    let event = |id: &str, event_type: &str, contact: &str| {
        let payload = format!(r#"{{"id":"{id}"}}"#);
        Event::new(event_type, payload).number("919999999999").key(contact).dedup_key(id)
    };
    let publish =
        |event: Event| engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    let one = publish(event("wamid.ONE", "MESSAGE_RECEIVED", "919812300001"));
    assert!(wait_until(|| engine.stats().retried == 1));
    clock.advance(Duration::from_millis(1_000));
    assert!(wait_until(|| engine.stats().delivered == 1));
    let again = publish(event("wamid.ONE", "MESSAGE_RECEIVED", "919812300001"));
    let nobody = publish(event("wamid.TWO", "ADD_TAG", "919812300002"));
    assert_eq!((again.duplicate, nobody.owed), (true, 0));

    let check = |engine: &Engine| {
        let trace = engine.event(one.id).unwrap().unwrap();
        assert_eq!((trace.duplicates, trace.deliveries.len()), (1, 1));
        let delivery = &trace.deliveries[0];
        assert_eq!((delivery.subscription, delivery.outcome), (crm, DeliveryOutcome::Delivered));
        let attempts: Vec<_> =
            delivery.attempts.iter().map(|one| (one.number, one.status)).collect();
        assert_eq!(attempts, [(1, Some(503)), (2, Some(200))]);
        let found = engine.event(nobody.id).unwrap().unwrap();
        assert_eq!((found.deliveries.len(), found.payload), (0, br#"{"id":"wamid.TWO"}"#.to_vec()));
        let find = |query| ids(&engine.find_events(&query, None, 10).unwrap());
        let query = EventQuery::default;
        assert_eq!(find(query().message_id("wamid.ONE")), [one.id]);
        assert_eq!(find(query().dedup_key("wamid.TWO")), [nobody.id]);
        assert_eq!(find(query().contact("919812300001")), [one.id]);
        assert_eq!(find(query().message_id("wamid.THREE")), []);
    };
    check(&engine);
    engine.close(DEADLINE).unwrap();
    let engine = opened(directory.path(), &receivers, &clock);
    check(&engine);
    assert!(engine.stats().history_bytes > 0 && engine.stats().history_dropped == 0);

    let purged = engine.purge(&PurgeFilter::default().contact("919812300001")).unwrap();
    assert_eq!((purged.deliveries, purged.history_events), (0, 1), "it was delivered");
    let left = engine.find_events(&EventQuery::default(), None, 10).unwrap();
    assert_eq!(ids(&left), [nobody.id], "another contact's is untouched");
    engine.close(DEADLINE).unwrap();
}

// Nothing that is accepted or delivered waits for the history.
#[test]
fn a_history_that_cannot_be_written_costs_no_event() {
    let directory = tempfile::tempdir().unwrap();
    let receivers = Arc::new(ScriptedTransport::default());
    let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 11));
    let engine = opened(directory.path(), &receivers, &clock);
    engine.subscribe(quick("crm")).unwrap();
    let history = directory.path().join("history");
    std::fs::remove_dir_all(&history).unwrap();
    std::fs::write(&history, "a file in the way").unwrap();
    let event = |_| Event::new("ADD_TAG", vec![b'x'; 1_024]).number("919999999999");
    let receipt = engine.publish_many((0..500).map(event).collect::<Vec<_>>()).unwrap();
    assert_eq!(receipt.wait_timeout(DEADLINE).unwrap().unwrap().len(), 500);
    assert!(wait_until(|| engine.stats().delivered == 500));
    assert!(wait_until(|| engine.stats().history_dropped > 0));
    engine.close(DEADLINE).unwrap();
}

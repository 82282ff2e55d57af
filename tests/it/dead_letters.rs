//! Dead letters: who sees which, page by page, with their attempts, and what a replay owes again, also
//! after a power cut.

use std::time::Duration;

use wabahook::policy::Policy;
use wabahook::{
    Account, Config, DeadLetter, DeadLetterFilter, DeadLetterId, DeliveryFilter, DeliveryState,
    Engine, Error, Event, EventId, Failure, Notice, Reason, Subscription, SubscriptionId,
};

use crate::world::{BEGIN_WALL_MS, DEADLINE, World, quick};
use wabahook::testing::ScriptedReply;

fn letters(engine: &Engine, filter: &DeadLetterFilter) -> Vec<DeadLetter> {
    engine.dead_letters(filter, None, 1_000).unwrap().items
}

fn all(engine: &Engine) -> Vec<DeadLetter> {
    letters(engine, &DeadLetterFilter::default())
}

/// A subscription of `host` to one event type.
fn asks(host: &str) -> Subscription {
    quick(host).events(["ADD_TAG"])
}

/// Publishes, and waits until so many deliveries have ended and this is durable.
fn publish(world: &World, event: impl Fn(&str) -> Event, ends: u64) -> EventId {
    let before = world.engine.stats();
    let accepted = world.engine.publish(event("ADD_TAG")).unwrap().wait().unwrap();
    world.wait_until(|now| now.dead + now.delivered == before.dead + before.delivered + ends);
    // Its group contains every record that was sent before it.
    assert_eq!(world.engine.publish(event("DELETE_TAG")).unwrap().wait().unwrap().owed, 0);
    accepted.id
}

fn event(kind: &str) -> Event {
    Event::new(kind, "{}").number("919999999999")
}

/// Two accounts: `acme` with the receivers `refuses` and `fine`, and `other` with `absent`.
fn two_accounts(config: Config) -> Config {
    config
        .account(Account::new("acme").waba("1", ["919999999999"]))
        .account(Account::new("other").waba("2", ["918888888888"]))
}

#[test]
fn dead_letters_are_filtered_by_every_criterion() {
    let world = World::with(two_accounts);
    let subscribe =
        |account: &str, host: &str| world.engine.subscribe(asks(host).account(account)).unwrap();
    world.receivers.script("refuses", &[ScriptedReply::Status(404), ScriptedReply::Status(400)]);
    world.receivers.script("absent", &[ScriptedReply::Status(404)]);
    let (refuses, fine) = (subscribe("acme", "refuses"), subscribe("acme", "fine"));
    let absent = subscribe("other", "absent");
    let dies = |account: &str, number: &str, ends: u64| {
        let event = |kind: &str| Event::new(kind, "{}").account(account).number(number);
        let id = publish(&world, event, ends);
        all(&world.engine).into_iter().find(|letter| letter.event == id).unwrap()
    };
    let first = dies("acme", "919999999999", 2);
    world.clock.advance(Duration::from_millis(1_000));
    let second = dies("acme", "919999999999", 2);
    world.clock.advance(Duration::from_millis(1_000));
    let third = dies("other", "918888888888", 1);
    let id_of = |name: &str| world.engine.accounts().named(name).unwrap().id.to_string();
    assert_eq!((&first.account, &third.account), (&id_of("acme"), &id_of("other")));
    let any = DeadLetterFilter::default;
    let check = |filter: DeadLetterFilter, expected: &[&DeadLetter]| {
        let found = letters(&world.engine, &filter);
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{filter:?}");
    };
    check(any(), &[&third, &second, &first]);
    check(any().account("acme"), &[&second, &first]);
    check(any().account("other"), &[&third]);
    check(any().account("nobody"), &[]);
    check(any().subscription(refuses), &[&second, &first]);
    check(any().subscription(fine), &[]);
    check(any().account("acme").subscription(absent), &[]);
    check(any().reason("status:404"), &[&third, &first]);
    check(any().reason("STATUS:40"), &[&third, &second, &first]);
    check(any().reason("status:500"), &[]);
    check(any().since_ms(second.at_ms), &[&third, &second]);
    check(any().until_ms(second.at_ms), &[&first]);
    check(any().since_ms(second.at_ms).until_ms(third.at_ms).reason("status:400"), &[&second]);
    // A dead letter outlives its subscription and stays with its account.
    world.engine.unsubscribe(refuses).unwrap();
    check(any().account("acme"), &[&second, &first]);
    check(any().account("other"), &[&third]);
}

#[test]
fn pages_show_every_dead_letter_once_despite_replays() {
    let world = World::new();
    world.receivers.script("refuses", &[ScriptedReply::Status(404)]);
    let refuses = world.engine.subscribe(asks("refuses")).unwrap();
    world.engine.subscribe(asks("bystander")).unwrap();
    let published: Vec<_> = (0..5)
        .map(|_| {
            world.clock.advance(Duration::from_millis(1));
            publish(&world, event, 2)
        })
        .collect();
    world.receivers.script("refuses", &[ScriptedReply::Hangs]);
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = world.engine.dead_letters(&DeadLetterFilter::default(), after, 2).unwrap();
        seen.extend(page.items.iter().map(|letter| letter.event));
        page.items.iter().for_each(|letter| world.engine.replay(letter).unwrap());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, published.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!(world.engine.stats().replayed, 5);
    assert_eq!(all(&world.engine), []);
    let never = DeadLetterId { event: published[0], subscription: SubscriptionId(refuses.0 + 77) };
    let error = world.engine.dead_letters(&DeadLetterFilter::default(), Some(never), 2);
    assert!(matches!(error, Err(Error::NotFound { what: "dead letter", .. })), "{error:?}");
    world.engine.close(std::time::Duration::ZERO).unwrap();
}

#[test]
fn a_dead_letter_is_found_by_its_id_after_a_power_cut() {
    let world = World::new();
    world.receivers.script("refuses", &[ScriptedReply::Status(404)]);
    let refuses = world.engine.subscribe(asks("refuses")).unwrap();
    let bystander = world.engine.subscribe(asks("bystander")).unwrap();
    let event = publish(&world, event, 2);
    world.engine.close(DEADLINE).unwrap();
    let again = world.after_a_power_cut();
    let id: DeadLetterId = format!("{event}.{refuses}").parse().unwrap();
    let (letter, _) = again.engine.dead_letter(id).unwrap().unwrap();
    assert_eq!((letter.id(), letter.reason.clone()), (id, Reason::Status(404)));
    assert_eq!(all(&again.engine), [letter]);
    let another = DeadLetterId { subscription: bystander, ..id };
    assert_eq!(again.engine.dead_letter(another).unwrap(), None);
    let elsewhere = "evt_00000000000000010000000000000001".parse().unwrap();
    let elsewhere = DeadLetterId { event: elsewhere, ..id };
    assert_eq!(again.engine.dead_letter(elsewhere).unwrap(), None);
    let refused = again.engine.history(elsewhere.event, refuses);
    assert!(matches!(refused, Err(Error::NotFound { what: "event", .. })), "{refused:?}");
    assert_eq!(again.engine.history(event, bystander).unwrap(), []);
}

#[test]
fn a_filter_replays_many_in_few_groups() {
    const EVENTS: u64 = 3_000;
    let world = World::new();
    world.receivers.script("refuses", &[ScriptedReply::Status(404)]);
    world.receivers.script("also", &[ScriptedReply::Status(404)]);
    let refuses = world.engine.subscribe(asks("refuses")).unwrap();
    world.engine.subscribe(asks("also")).unwrap();
    let events = (0..EVENTS).map(|n| Event::new("ADD_TAG", format!("{n}")));
    world.engine.publish_many(events.collect()).unwrap().wait().unwrap();
    world.wait_until(|stats| stats.dead == 2 * EVENTS);
    for host in ["refuses", "also"] {
        world.receivers.script(host, &[ScriptedReply::Status(200)]);
    }
    publish(&world, event, 2);
    let mine = DeadLetterFilter::default().subscription(refuses);
    assert_eq!(world.engine.replay_matching(&mine).unwrap(), EVENTS);
    let stats = world.wait_until(|stats| stats.delivered == 2 + EVENTS);
    assert_eq!((stats.replayed, stats.owed), (EVENTS, 0));
    assert_eq!(world.engine.replay_matching(&mine).unwrap(), 0);
    let left =
        world.engine.dead_letters(&DeadLetterFilter::default(), None, usize::MAX).unwrap().items;
    assert!(left.len() as u64 == EVENTS && left.iter().all(|l| l.subscription != refuses));
}

/// A host that learns of a dead letter looks it up at once: its group may not be written yet.
#[test]
fn a_dead_letter_is_found_once_it_is_announced() {
    type Look = fn(&Engine, DeadLetterId) -> u64;
    let looks: [(&str, Look); 9] = [
        ("dead_letters", |engine, _| all(engine).len() as u64),
        ("dead_letter", |engine, id| u64::from(engine.dead_letter(id).unwrap().is_some())),
        ("event_of", |engine, id| u64::from(engine.event_of(id).is_ok())),
        ("history", |engine, id| engine.history(id.event, id.subscription).unwrap().len() as u64),
        ("deliveries", |engine, _| {
            let dead = DeliveryFilter::default().states([DeliveryState::Dead]);
            engine.deliveries(&dead, None, 10).unwrap().items.len() as u64
        }),
        ("count_dead_letters", |engine, _| engine.count_dead_letters(&Default::default()).unwrap()),
        ("discard_matching", |engine, _| engine.discard_matching(&Default::default()).unwrap()),
        ("replay_matching", |engine, _| engine.replay_matching(&Default::default()).unwrap()),
        ("replay_these", |engine, id| engine.replay_these(&[id], &Default::default()).unwrap()),
    ];
    let world = World::new();
    world.receivers.script("refuses", &[ScriptedReply::Status(404)]);
    let refuses = world.engine.subscribe(asks("refuses")).unwrap();
    let bystander = world.engine.subscribe(quick("bystander").events(["DELETE_TAG"])).unwrap();
    let notices = world.engine.notices();
    for (name, look) in looks.into_iter().cycle().take(27) {
        let event = world.publish("ADD_TAG", "{}").id;
        let id = DeadLetterId { event, subscription: refuses };
        let is_it = |notice: &Notice| matches!(notice, Notice::DeadLettered { event, .. } if *event == id.event);
        assert!(std::iter::from_fn(|| notices.next_timeout(DEADLINE)).any(|notice| is_it(&notice)));
        assert_eq!(look(&world.engine, id), 1, "{name}");
        if name.starts_with("replay") {
            assert!(notices.next_timeout(DEADLINE).is_some_and(|notice| is_it(&notice)));
        }
        let left = u64::from(name != "discard_matching");
        assert_eq!(world.engine.discard_matching(&DeadLetterFilter::default()).unwrap(), left);
    }
    world.publish("DELETE_TAG", "{}");
    world.wait_until(|stats| stats.delivered == 1);
    assert_eq!(letters(&world.engine, &DeadLetterFilter::default().subscription(bystander)), []);
}

/// A device that hangs holds up no reader: what was written before is listed.
#[test]
fn dead_letters_are_listed_while_the_device_hangs() {
    let (world, faults) = World::faulty(|config| config);
    world.receivers.script("refuses", &[ScriptedReply::Status(404)]);
    world.engine.subscribe(asks("refuses")).unwrap();
    let bystander = world.engine.subscribe(quick("bystander").events(["DELETE_TAG"])).unwrap();
    let id = world.publish("ADD_TAG", "{}").id;
    world.wait_until(|stats| stats.dead == 1);
    assert_eq!(all(&world.engine).len(), 1);
    faults.hold_syncs();
    let receipt = world.engine.publish(Event::new("DELETE_TAG", "{}")).unwrap();
    let (sender, listed) = std::sync::mpsc::channel();
    let engine = world.engine.clone();
    let lister = std::thread::spawn(move || {
        let none = DeadLetterFilter::default().reason("status:500");
        sender.send((all(&engine), engine.discard_matching(&none).unwrap()))
    });
    let listed = listed.recv_timeout(DEADLINE);
    let (letters, discarded) = listed.expect("the list is read, and no letter found to discard");
    assert_eq!(discarded, 0);
    assert!(letters.len() == 1 && letters[0].event == id && !receipt.is_done());
    faults.release_syncs();
    lister.join().unwrap().unwrap();
    assert_eq!(receipt.wait().unwrap().owed, 1);
    world.wait_until(|stats| stats.delivered == 1);
    assert!(letters.iter().all(|letter| letter.subscription != bystander));
}

#[test]
fn a_dead_letter_keeps_its_attempts_until_it_is_replayed() {
    let world = World::new();
    let answers = [
        ScriptedReply::Status(503),
        ScriptedReply::Fails(Failure::Timeout),
        ScriptedReply::Status(404),
    ];
    world.receivers.script("refuses", &answers);
    let refuses = world.engine.subscribe(asks("refuses")).unwrap();
    let bystander = world.engine.subscribe(asks("bystander")).unwrap();
    let id = world.publish("ADD_TAG", "{}").id;
    world.wait_until(|stats| stats.retried == 1 && stats.delivered == 1);
    world.clock.advance(Duration::from_millis(1_000));
    world.wait_until(|stats| stats.retried == 2);
    world.clock.advance(Duration::from_millis(2_000));
    world.wait_until(|stats| stats.dead == 1);
    world.engine.close(DEADLINE).unwrap();
    let again = world.after_a_power_cut();
    let letter = DeadLetterId { event: id, subscription: refuses };
    let (letter, history) = again.engine.dead_letter(letter).unwrap().unwrap();
    assert_eq!(letter.attempts, 3);
    let seen: Vec<_> = history.into_iter().map(|t| (t.number, t.at_ms, t.reason)).collect();
    let expected = [
        (1, BEGIN_WALL_MS, Reason::Status(503)),
        (2, BEGIN_WALL_MS + 1_000, Reason::Failed(Failure::Timeout)),
        (3, BEGIN_WALL_MS + 3_000, Reason::Status(404)),
    ];
    assert_eq!(seen, expected);
    assert_eq!(again.engine.history(id, bystander).unwrap(), []);

    again.receivers.script("refuses", &[ScriptedReply::Status(500), ScriptedReply::Status(200)]);
    again.engine.replay(&letter).unwrap();
    again.wait_until(|stats| stats.retried == 1);
    let nobodys = again.engine.publish(event("DELETE_TAG")).unwrap();
    assert_eq!(nobodys.wait().unwrap().owed, 0);
    let history = again.engine.history(id, refuses).unwrap();
    let seen: Vec<_> = history.into_iter().map(|t| (t.number, t.reason)).collect();
    assert_eq!(seen, [(1, Reason::Status(500))]);
    again.clock.advance(Duration::from_millis(1_000));
    again.wait_until(|stats| stats.delivered == 1);
    assert_eq!(again.engine.publish(event("DELETE_TAG")).unwrap().wait().unwrap().owed, 0);
    assert_eq!(again.engine.history(id, refuses).unwrap(), [], "it was delivered");
}

#[test]
fn dependents_die_and_are_replayed_with_their_main_delivery() {
    let world = World::new();
    world.receivers.script("main", &[ScriptedReply::Status(404)]);
    world.receivers.script("bystander", &[ScriptedReply::Status(404)]);
    let main = world.engine.subscribe(asks("main")).unwrap();
    let policy = Policy::default().after(Some(main));
    let waits = world.engine.subscribe(asks("waits").policy(policy)).unwrap();
    let bystander = world.engine.subscribe(asks("bystander")).unwrap();
    let id = publish(&world, event, 3);
    let reasons = |engine: &Engine| {
        let mut reasons: Vec<_> =
            all(engine).into_iter().map(|one| (one.subscription, one.reason)).collect();
        reasons.sort_unstable_by_key(|(subscription, _)| *subscription);
        reasons
    };
    let refused = Reason::Status(404);
    let expected = [(main, refused.clone()), (waits, Reason::Gate), (bystander, refused.clone())];
    assert_eq!(reasons(&world.engine), expected);
    let again = world.after_a_power_cut();
    assert_eq!(reasons(&again.engine), expected);
    assert!(again.receivers.at("waits").is_empty());

    let letter = DeadLetterId { event: id, subscription: main };
    let (letter, _) = again.engine.dead_letter(letter).unwrap().unwrap();
    again.receivers.script("main", &[ScriptedReply::Hangs]);
    again.engine.replay(&letter).unwrap();
    again.receivers.wait_for("main", 1);
    let last = again.after_a_power_cut();
    assert_eq!(last.engine.stats().recovered, 2, "both are owed");
    let stats = last.wait_until(|stats| stats.delivered == 2);
    assert_eq!((stats.owed, stats.dead), (0, 0));
    let arrivals = ["main", "waits"].map(|host| last.receivers.at(host));
    assert!(arrivals.iter().all(|at| at.len() == 1 && at[0].id == id.to_string()));
    assert_eq!(reasons(&last.engine), [(bystander, refused)]);
}

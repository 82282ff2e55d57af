//! Promises of dead letters: who sees which, page by page, with their attempts, and what a replay
//! owes again, also after a power cut.

use wabahook::{
    Account, Config, DeadLetter, DeadLetterFilter, DeadLetterId, Engine, Error, Event, EventId,
    Reason, Subscription, SubscriptionId,
};

use crate::world::{Answer, DEADLINE, World, quick};

fn letters(engine: &Engine, filter: &DeadLetterFilter) -> Vec<DeadLetter> {
    engine.dead_letters(filter, None, 1_000).unwrap()
}

fn all(engine: &Engine) -> Vec<DeadLetter> {
    letters(engine, &DeadLetterFilter::default())
}

/// A subscription of `host`, to one type alone.
fn asks(host: &str) -> Subscription {
    quick(host).events(["ADD_TAG"])
}

/// Publishes, and waits until so many deliveries have ended and their ends are on the device.
fn publish(world: &World, event: impl Fn(&str) -> Event, ends: u64) -> EventId {
    let before = world.engine.stats();
    let accepted = world.engine.publish(event("ADD_TAG")).unwrap().wait().unwrap();
    world.wait_until(|now| now.dead + now.delivered == before.dead + before.delivered + ends);
    // Its group holds all records that were sent before.
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
fn letters_are_filtered_by_account_subscription_reason_and_time() {
    let world = World::with(two_accounts);
    let subscribe =
        |account: &str, host: &str| world.engine.subscribe(asks(host).account(account)).unwrap();
    world.receivers.script("refuses", &[Answer::Status(404), Answer::Status(400)]);
    world.receivers.script("absent", &[Answer::Status(404)]);
    let (refuses, fine) = (subscribe("acme", "refuses"), subscribe("acme", "fine"));
    let absent = subscribe("other", "absent");
    let dies = |account: &str, number: &str, ends: u64| {
        let event = |kind: &str| Event::new(kind, "{}").account(account).number(number);
        let id = publish(&world, event, ends);
        all(&world.engine).into_iter().find(|letter| letter.event == id).unwrap()
    };
    let first = dies("acme", "919999999999", 2);
    world.clock.advance_ms(1_000);
    let second = dies("acme", "919999999999", 2);
    world.clock.advance_ms(1_000);
    let third = dies("other", "918888888888", 1);
    assert_eq!((first.account.as_str(), third.account.as_str()), ("acme", "other"));
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
    check(any().reason("status:40"), &[]);
    check(any().since_ms(second.at_ms), &[&third, &second]);
    check(any().until_ms(second.at_ms), &[&first]);
    check(any().since_ms(second.at_ms).until_ms(third.at_ms).reason("status:400"), &[&second]);
    // A letter outlives its subscription, and stays with its account.
    world.engine.unsubscribe(refuses).unwrap();
    check(any().account("acme"), &[&second, &first]);
    check(any().account("other"), &[&third]);
}

#[test]
fn pages_show_every_letter_once_also_when_shown_ones_are_replayed_meanwhile() {
    let world = World::new();
    world.receivers.script("refuses", &[Answer::Status(404)]);
    let refuses = world.engine.subscribe(asks("refuses")).unwrap();
    world.engine.subscribe(asks("bystander")).unwrap();
    let published: Vec<_> = (0..5)
        .map(|_| {
            world.clock.advance_ms(1);
            publish(&world, event, 2)
        })
        .collect();
    world.receivers.script("refuses", &[Answer::Hangs]);
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = world.engine.dead_letters(&DeadLetterFilter::default(), after, 2).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id());
        seen.extend(page.iter().map(|letter| letter.event));
        page.iter().for_each(|letter| world.engine.replay(letter).unwrap());
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
fn one_letter_is_found_by_its_id_alone_also_after_a_power_cut() {
    let world = World::new();
    world.receivers.script("refuses", &[Answer::Status(404)]);
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
fn many_are_replayed_by_a_filter_in_few_groups_and_the_others_stay() {
    const EVENTS: u64 = 3_000;
    let world = World::new();
    world.receivers.script("refuses", &[Answer::Status(404)]);
    world.receivers.script("also", &[Answer::Status(404)]);
    let refuses = world.engine.subscribe(asks("refuses")).unwrap();
    world.engine.subscribe(asks("also")).unwrap();
    let events = (0..EVENTS).map(|n| Event::new("ADD_TAG", format!("{n}")));
    world.engine.publish_many(events.collect()).unwrap().wait().unwrap();
    world.wait_until(|stats| stats.dead == 2 * EVENTS);
    for host in ["refuses", "also"] {
        world.receivers.script(host, &[Answer::Status(200)]);
    }
    publish(&world, event, 2);
    let mine = DeadLetterFilter::default().subscription(refuses);
    assert_eq!(world.engine.replay_matching(&mine).unwrap(), EVENTS);
    let stats = world.wait_until(|stats| stats.delivered == 2 + EVENTS);
    assert_eq!((stats.replayed, stats.owed), (EVENTS, 0));
    assert_eq!(world.engine.replay_matching(&mine).unwrap(), 0);
    let left = world.engine.dead_letters(&DeadLetterFilter::default(), None, usize::MAX).unwrap();
    assert!(left.len() as u64 == EVENTS && left.iter().all(|l| l.subscription != refuses));
}

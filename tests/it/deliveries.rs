//! The list of deliveries that are owed, in retry, blocked or dead.

use std::collections::BTreeSet;

use wabahook::policy::Ordering;
use wabahook::{
    Account, Config, Delivery, DeliveryFilter, DeliveryState, Event, Reason, SubscriptionId,
};

use crate::world::{BEGIN_WALL_MS, DEADLINE, World, quick};
use wabahook::testing::ScriptedReply;

/// Everything that a filter matches, read in pages of this size.
fn read(world: &World, filter: &DeliveryFilter, count_max: usize) -> Vec<Delivery> {
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        let page = world.engine.deliveries(filter, from, count_max).unwrap();
        assert!(page.items.len() <= count_max);
        all.extend(page.items);
        match page.next {
            Some(next) => from = Some(next.to_string().parse().unwrap()),
            None => return all,
        }
    }
}

fn all() -> DeliveryFilter {
    DeliveryFilter::default()
}

fn accounts(config: Config) -> Config {
    config
        .account(Account::new("acme").waba("1", ["919999999999"]))
        .account(Account::new("beta").waba("2", ["918888888888"]))
}

fn publish(world: &World, account: &str, number: &str, count: usize) -> Vec<wabahook::Accepted> {
    let event = || Event::new("ADD_TAG", "{}").account(account).number(number).key("k");
    let events = (0..count).map(|_| event()).collect();
    world.engine.publish_many(events).unwrap().wait_timeout(DEADLINE).unwrap().unwrap()
}

#[test]
fn every_delivery_of_an_account_is_listed_once() {
    let world = World::with(accounts);
    world.receivers.script("fails", &[ScriptedReply::Status(503)]);
    world.receivers.script("main", &[ScriptedReply::Status(503)]);
    world.receivers.script("dead", &[ScriptedReply::Status(404)]);
    let of_acme = |name: &str| quick(name).account("acme");
    let fails = of_acme("fails").ordering(Ordering::PerKey);
    let fails = world.engine.subscribe(fails).unwrap();
    let dead = world.engine.subscribe(of_acme("dead")).unwrap();
    let paused = world.engine.subscribe(of_acme("paused")).unwrap();
    let main = world.engine.subscribe(of_acme("main")).unwrap();
    let waits = world.engine.subscribe(of_acme("waits").after(main)).unwrap();
    let beta = world.engine.subscribe(quick("beta").account("beta")).unwrap();
    for id in [paused, beta] {
        world.engine.pause(id).unwrap();
    }
    let events = publish(&world, "acme", "919999999999", 3);
    publish(&world, "beta", "918888888888", 2);
    let letters = || world.engine.dead_letters(&Default::default(), None, 9).unwrap().items.len();
    world.wait_until(|stats| stats.retried == 4 && stats.dead == 3 && letters() == 3);

    let acme = all().account("acme");
    let listed = read(&world, &acme, 100);
    let state = |id: SubscriptionId| -> Vec<_> {
        listed.iter().filter(|one| one.subscription == id).map(|one| one.state).collect()
    };
    use DeliveryState::{Blocked, Dead, Retrying};
    assert_eq!(state(fails), [Retrying, Blocked, Blocked], "one key, one after the other");
    assert_eq!((state(paused), state(waits)), (vec![Blocked; 3], vec![Blocked; 3]));
    assert_eq!((state(main), state(dead)), (vec![Retrying; 3], vec![Dead; 3]));
    assert_eq!(state(beta), []);
    let first = &listed[0];
    assert_eq!((first.event, first.subscription, first.attempts), (events[0].id, fails, 1));
    assert_eq!(first.due_at_ms, Some(BEGIN_WALL_MS + 1_000));
    assert_eq!(first.reason, Some(Reason::Status(503)));
    let last = listed.last().unwrap();
    assert_eq!((last.reason.clone(), last.attempts), (Some(Reason::Status(404)), 1));
    assert_eq!(last.died_at_ms, Some(BEGIN_WALL_MS));
    for count_max in 1..=listed.len() + 1 {
        assert_eq!(read(&world, &acme, count_max), listed, "pages of {count_max}");
    }
    for state in DeliveryState::ALL {
        let expected: Vec<_> = listed.iter().filter(|one| one.state == state).cloned().collect();
        assert_eq!(read(&world, &acme.clone().states([state]), 2), expected, "{state:?}");
    }
    let of_main: Vec<_> = listed.iter().filter(|one| one.subscription == main).cloned().collect();
    assert_eq!(read(&world, &acme.clone().subscription(main), 2), of_main);
    assert_eq!(read(&world, &acme.clone().subscription(beta), 2), []);
    assert_eq!(read(&world, &all(), 4).len(), listed.len() + 2);
    assert_eq!(world.engine.deliveries(&all().states([]), None, 5).unwrap().items, []);
}

#[test]
fn a_long_backlog_is_listed_in_publish_order() {
    let world = World::with(accounts);
    let crm = world.engine.subscribe(quick("crm").account("acme")).unwrap();
    let bystander = world.engine.subscribe(quick("bystander").account("acme")).unwrap();
    world.engine.pause(crm).unwrap();
    let events = publish(&world, "acme", "919999999999", 1_500);
    world.wait_until(|stats| stats.delivered == 1_500);
    for count_max in [1_000, 257, 1_500, 1_501] {
        let listed = read(&world, &all(), count_max);
        let ids: Vec<_> = listed.iter().map(|one| one.event).collect();
        assert_eq!(ids, events.iter().map(|one| one.id).collect::<Vec<_>>(), "{count_max}");
        assert!(listed.iter().all(|one| one.subscription == crm), "{bystander} is owed nothing");
    }
    let page = world.engine.deliveries(&all(), None, 700).unwrap();
    world.engine.resume(crm).unwrap();
    world.wait_until(|stats| stats.owed == 0);
    let rest = world.engine.deliveries(&all(), page.next, 700).unwrap();
    assert_eq!((rest.items, rest.next), (Vec::new(), None), "all of them went meanwhile");
    let seen: BTreeSet<_> = page.items.iter().map(|one| one.event.sequence()).collect();
    assert_eq!(seen.len(), 700);
}

#[test]
fn a_new_ordering_applies_to_the_backlog() {
    let world = World::new();
    let event = |key: &str| Event::new("ADD_TAG", key).number("919999999999").key(key);
    let crm = world.subscribe("crm");
    world.engine.pause(crm).unwrap();
    world.receivers.script("crm", &[ScriptedReply::Status(503)]);
    let events = ["a", "b", "a", "b"].map(event).into();
    world.engine.publish_many(events).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    let bystander = world.subscribe("bystander");
    assert_eq!(world.engine.subscribe(quick("crm").ordering(Ordering::PerKey)).unwrap(), crm);
    let states = || -> Vec<_> { read(&world, &all(), 9).iter().map(|one| one.state).collect() };
    assert_eq!(states(), [DeliveryState::Blocked; 4], "paused");
    world.engine.resume(crm).unwrap();
    world.wait_until(|stats| stats.retried == 2);
    use DeliveryState::{Blocked, Retrying};
    assert_eq!(states(), [Retrying, Retrying, Blocked, Blocked]);
    let arrived: Vec<_> = world.receivers.at("crm").into_iter().map(|one| one.body).collect();
    assert_eq!(arrived, [b"a", b"b"], "the first of each key");
    assert!(world.receivers.at("bystander").is_empty(), "{bystander} came later");
}

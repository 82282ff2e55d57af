//! What the host no longer wants ends durably and visibly: discarded dead letters, cancelled deliveries, and
//! everything of a purged contact, number or account. Everything else stays (I8, I13).

use std::ops::ControlFlow;

use wabahook::policy::Ordering;
use wabahook::store::{Memory, Store};
use wabahook::testing::ScriptedReply;
use wabahook::{
    DeadLetterFilter, DeliveryFilter, DeliveryState, Error, Event, Limits, Notice, PurgeFilter,
    SubscriptionId, Transport as _,
};

use crate::world::{DEADLINE, World, quick, quick_policy};

fn letters(world: &World) -> Vec<(SubscriptionId, String)> {
    let page = world.engine.dead_letters(&DeadLetterFilter::default(), None, 100).unwrap();
    page.items.iter().map(|letter| (letter.subscription, letter.reason.to_string())).collect()
}

/// Waits until so many dead letters are listed: one is counted shortly before it is durable.
fn until_listed(world: &World, count: usize) {
    assert!(crate::support::wait_until(|| letters(world).len() == count), "not in time");
}

fn publish(world: &World, key: &str, payload: &str) {
    let event = Event::new("ADD_TAG", payload).number("919999999999").key(key);
    world.engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
}

/// Whether a text is in any record of the store.
fn is_stored(store: &Memory, text: &str) -> bool {
    let (mut found, store) = (false, store.crash());
    for name in store.list().unwrap() {
        let database = store.open(&name).unwrap();
        let mut visit = |_: &[u8], value: &[u8]| {
            found |= value.windows(text.len()).any(|window| window == text.as_bytes());
            ControlFlow::Continue(())
        };
        database.scan(b"", b"", &mut visit).unwrap();
    }
    found
}

#[test]
fn a_discarded_letter_stays_discarded_and_others_stay() {
    let world = World::new();
    let notices = world.engine.notices();
    let (crm, bystander) = (world.subscribe("crm"), world.subscribe("bystander"));
    for host in ["crm", "bystander"] {
        world.receivers.script(host, &[ScriptedReply::Status(404)]);
    }
    publish(&world, "a", "1");
    publish(&world, "b", "2");
    until_listed(&world, 4);
    // One was a dead letter twice: its record is newer than its replay.
    let of_crm = DeadLetterFilter::default().subscription(crm);
    assert_eq!(world.engine.replay_matching(&of_crm).unwrap(), 2);
    until_listed(&world, 4);
    let ids: Vec<_> = world.engine.dead_letters(&of_crm, None, 1).unwrap().items;
    let ids: Vec<_> = ids.iter().map(wabahook::DeadLetter::id).collect();
    let other = DeadLetterFilter::default().subscription(bystander);
    assert_eq!(world.engine.discard(&ids, &other).unwrap(), 0, "it does not match");
    assert_eq!(world.engine.discard(&ids, &of_crm).unwrap(), 1);
    assert_eq!(world.engine.discard(&ids, &of_crm).unwrap(), 0);
    assert_eq!(world.engine.discard_matching(&of_crm).unwrap(), 1);
    let left = vec![(bystander, "status:404".to_owned()); 2];
    assert_eq!(letters(&world), left);
    assert_eq!(world.engine.replay_these(&ids, &of_crm).unwrap(), 0);
    assert_eq!(world.engine.stats().letters_discarded, 2);
    assert!(
        std::iter::from_fn(|| notices.try_next()).any(|one| one == Notice::DeadLettersDiscarded(1))
    );
    let again = world.after_a_power_cut();
    assert_eq!((letters(&again), again.engine.stats().owed), (left, 0));
    assert!(again.engine.history(ids[0].event, ids[0].subscription).unwrap().is_empty());
}

#[test]
fn a_discard_that_the_device_refused_happens_when_it_recovers() {
    let (world, faults) = World::faulty(|config| config);
    let (crm, bystander) = (world.subscribe("crm"), world.subscribe("bystander"));
    world.receivers.script("crm", &[ScriptedReply::Status(404), ScriptedReply::Status(200)]);
    publish(&world, "a", "1");
    until_listed(&world, 1);
    world.wait_until(|stats| stats.owed == 0);
    // What is queued is written first: if that failed, the discard would not begin.
    let none = DeadLetterFilter::default().reason("none");
    assert_eq!(world.engine.discard_matching(&none).unwrap(), 0);
    let notices = world.engine.notices();
    faults.fail_after(0);
    let refused = world.engine.discard_matching(&DeadLetterFilter::default().subscription(crm));
    assert!(matches!(refused, Err(Error::Unknown { .. } | Error::Refused { .. })), "{refused:?}");
    // A dead letter until the device takes writes; it cannot be read while its database is opened again.
    match world.engine.dead_letters(&DeadLetterFilter::default(), None, 100) {
        Ok(page) => assert_eq!(page.items.len(), 1),
        Err(error) => assert!(matches!(error, Error::Unknown { .. }), "{error:?}"),
    }
    faults.heal();
    let resumed = || notices.next_timeout(DEADLINE).expect("it resumes in time");
    while resumed() != Notice::Resumed {}
    until_listed(&world, 0);
    publish(&world, "a", "2");
    let again = world.after_a_power_cut();
    assert!(letters(&again).iter().all(|(id, _)| *id != crm), "it stays discarded");
    assert!(again.engine.subscription(bystander).is_some());
}

#[test]
fn deliveries_are_cancelled_at_every_stage_and_others_stay() {
    let world = World::new();
    let notices = world.engine.notices();
    let strict = quick_policy().ordering(Ordering::Strict);
    let crm = world.engine.subscribe(quick("crm").policy(strict)).unwrap();
    let paused = world.subscribe("paused");
    let after = quick_policy().after(Some(crm));
    let dependent = world.engine.subscribe(quick("dependent").policy(after)).unwrap();
    let bystander = world.subscribe("bystander");
    world.engine.pause(paused).unwrap();
    world.engine.pause(bystander).unwrap();
    world.receivers.script("crm", &[ScriptedReply::Hangs]);
    for payload in ["1", "2", "3"] {
        publish(&world, "a", payload);
    }
    world.receivers.wait_for("crm", 1);
    let of = |id| DeliveryFilter::default().subscription(id);
    // One in flight, and two that wait for it.
    assert_eq!(world.engine.cancel_matching(&of(crm)).unwrap(), 3);
    assert_eq!(world.engine.cancel_matching(&of(crm)).unwrap(), 0);
    let retrying = of(paused).states([DeliveryState::Retrying, DeliveryState::Dead]);
    assert_eq!(world.engine.cancel_matching(&retrying).unwrap(), 0);
    assert_eq!(world.engine.cancel_matching(&of(paused)).unwrap(), 3);
    let stats = world.engine.stats();
    assert_eq!((stats.owed, stats.cancelled, stats.dead), (3, 6, 3), "{stats:?}");
    until_listed(&world, 3);
    assert_eq!(letters(&world), vec![(dependent, "gate".to_owned()); 3]);
    let told = Notice::Cancelled { subscription: crm, deliveries: 3 };
    assert!(std::iter::from_fn(|| notices.try_next()).any(|one| one == told));
    // The attempt in flight ends and changes nothing; the lane goes on.
    world.receivers.interrupt();
    world.wait_until(|stats| stats.in_flight == 0);
    let again = world.after_a_power_cut();
    assert_eq!(again.engine.stats().owed, 3);
    again.engine.resume(bystander).unwrap();
    again.receivers.wait_for("bystander", 3);
    assert_eq!(again.receivers.at("crm").len(), 0);
    publish(&again, "a", "4");
    again.receivers.wait_for("crm", 1);
}

#[test]
fn a_cancelled_delivery_frees_its_key_when_its_attempt_ends() {
    let world = World::new();
    let per_key = quick_policy().ordering(Ordering::PerKey);
    let crm = world.engine.subscribe(quick("crm").policy(per_key)).unwrap();
    world.receivers.script("crm", &[ScriptedReply::Status(503), ScriptedReply::Status(200)]);
    publish(&world, "a", "1");
    world.wait_until(|stats| stats.retried == 1);
    publish(&world, "a", "2");
    let retrying = DeliveryFilter::default().subscription(crm).states([DeliveryState::Retrying]);
    assert_eq!(world.engine.cancel_matching(&retrying).unwrap(), 1);
    let stats = world.wait_until(|stats| stats.owed == 0);
    assert_eq!((stats.cancelled, stats.delivered), (1, 1));
    let texts: Vec<_> =
        world.receivers.at("crm").iter().map(|arrival| arrival.text().to_owned()).collect();
    assert_eq!(texts, ["1", "2"]);
    // Its timer is gone with it.
    world.clock.advance(std::time::Duration::from_secs(60));
    publish(&world, "a", "3");
    world.receivers.wait_for("crm", 3);
    assert_eq!(world.receivers.at("crm").len(), 3);
}

#[test]
fn a_purge_ends_everything_of_a_contact_and_nothing_else() {
    let limits = Limits::default().generation_bytes(4_096);
    let world = World::with(|config| config.limits(limits));
    let notices = world.engine.notices();
    let paused = world.subscribe("paused");
    let after = quick_policy().after(Some(paused));
    world.engine.subscribe(quick("dependent").policy(after)).unwrap();
    world.subscribe("refuses");
    world.engine.pause(paused).unwrap();
    world.receivers.script("refuses", &[ScriptedReply::Status(404)]);
    for _ in 0..2 {
        publish(&world, "purged", "text of the purged contact");
        publish(&world, "other", "text of the other contact");
    }
    until_listed(&world, 4);
    let nothing = world.engine.purge(&PurgeFilter::default());
    assert_eq!(nothing.unwrap_err().field(), Some("filter"));
    let contact = PurgeFilter::default().contact("purged");
    let elsewhere = PurgeFilter::default().contact("purged").account("elsewhere");
    assert_eq!(world.engine.purge(&elsewhere).unwrap().deliveries, 0);
    // Two owed, the two that depended on them and died with them, and two dead letters.
    assert_eq!(world.engine.purge(&contact).unwrap().deliveries, 6);
    assert_eq!(world.engine.purge(&contact).unwrap().deliveries, 0);
    let stats = world.engine.stats();
    assert_eq!((stats.owed, stats.purged), (4, 6), "{stats:?}");
    let told: Vec<_> = std::iter::from_fn(|| notices.try_next()).collect();
    assert!(told.iter().any(|one| matches!(one, Notice::Purged { events: 2, deliveries: 6 })));
    assert_eq!(letters(&world).len(), 2);
    // Its generation is cleared once newer ones follow and little of it is owed.
    let others = PurgeFilter::default().number("919999999999".parse().unwrap());
    for _ in 0..40 {
        publish(&world, "filler", &"x".repeat(500));
        world.engine.purge(&PurgeFilter::default().contact("filler")).unwrap();
    }
    let cleared = crate::support::wait_until(|| {
        publish(&world, "filler", "x");
        !is_stored(&world.store, "text of the purged contact")
    });
    assert!(cleared, "the payload goes with its generation");
    assert!(is_stored(&world.store, "text of the other contact"));
    let again = world.after_a_power_cut();
    assert_eq!(again.engine.purge(&contact).unwrap().deliveries, 0);
    assert!(is_stored(&again.store, "text of the other contact"));
    assert!(again.engine.purge(&others).unwrap().deliveries >= 6);
    assert_eq!(again.engine.stats().owed, 0);
}

#[test]
fn a_purge_of_an_account_leaves_other_accounts_alone() {
    let accounts = ["acme", "bystander"].map(wabahook::Account::new);
    let world = World::with(|config| accounts.into_iter().fold(config, wabahook::Config::account));
    for account in ["acme", "bystander"] {
        let id = world.engine.subscribe(quick(account).account(account)).unwrap();
        world.engine.pause(id).unwrap();
        let event = Event::new("ADD_TAG", "{}").account(account);
        world.engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    }
    assert_eq!(world.engine.stats().owed, 2);
    let purged = world.engine.purge(&PurgeFilter::default().account("acme")).unwrap();
    assert_eq!(purged.deliveries, 1);
    assert_eq!(world.engine.stats().owed, 1);
    let owed = world.engine.deliveries(&DeliveryFilter::default(), None, 10).unwrap();
    let left = world.engine.subscription(owed.items[0].subscription).unwrap();
    assert_eq!(left.name, "bystander");
}

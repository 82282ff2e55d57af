//! Nothing is owed for longer than its age, which counts from acceptance: also what was never tried, is paused or
//! disabled, or waits behind a breaker, a rate limit or its order (I13). Nothing of another account is touched.

use std::time::Duration;

use wabahook::policy::{Breaker, Ordering, Policy, RateLimit};
use wabahook::testing::ScriptedReply;
use wabahook::{
    Account, Config, DeadLetterFilter, Event, Failure, Limits, Notice, Notices, Reason,
    SubscriptionId, SubscriptionState,
};

use crate::support::wait_until;
use crate::world::{DEADLINE, World, quick};

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);
const EVENTS: usize = 2_000;

fn two_accounts(config: Config) -> Config {
    let limits = Limits::default().notices_max(100_000).dead_letters_max(100_000);
    let config = config.limits(limits).account(Account::new("acme"));
    config.account(Account::new("other"))
}

fn subscribe(world: &World, name: &str, account: &str, policy: Policy) -> SubscriptionId {
    world.engine.subscribe(quick(name).account(account).policy(policy)).unwrap()
}

fn publish(world: &World, account: &str, count: usize) {
    let event = |_| Event::new("ADD_TAG", "{}").account(account).key("919812345678");
    let events = (0..count).map(event).collect();
    world.engine.publish_many(events).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
}

/// The dead letters of a subscription with this reason.
fn letters(world: &World, id: SubscriptionId, reason: &str) -> usize {
    let filter = DeadLetterFilter::default().subscription(id).reason(reason);
    world.engine.dead_letters(&filter, None, usize::MAX).unwrap().items.len()
}

fn told_expired(notices: &Notices) -> usize {
    let is_expired = |notice: &Notice| matches!(notice, Notice::DeadLettered { reason, .. } if *reason == Reason::Expired);
    std::iter::from_fn(|| notices.try_next()).filter(is_expired).count()
}

fn owed(world: &World, id: SubscriptionId) -> u64 {
    let stats = world.engine.stats();
    stats.lanes.iter().find(|lane| lane.subscription == id).map_or(0, |lane| lane.owed)
}

/// The engine attempts what is owed as soon as it is open, so the receivers keep their scripts.
fn reopened(World { engine, store, clock, receivers }: World) -> World {
    engine.close(DEADLINE).unwrap();
    let transport = receivers.clone();
    let world = World::on(store, clock, |config| two_accounts(config).transport(transport));
    World { receivers, ..world }
}

/// One lane for each reason why deliveries wait, each owed 2,000 events.
fn stopped_lanes(world: &World) -> Vec<SubscriptionId> {
    let plain = Policy::default;
    let down = subscribe(world, "down", "acme", plain());
    world.receivers.script("down", &[ScriptedReply::Fails(Failure::Connect)]);
    let paused = subscribe(world, "paused", "acme", plain());
    let disabled = subscribe(world, "disabled", "acme", plain());
    world.engine.pause(paused).unwrap();
    let slow = RateLimit::new(1, 24 * HOUR);
    let limited = subscribe(world, "limited", "acme", plain().rate_limit(Some(slow)));
    let strict = subscribe(world, "down-strict", "acme", plain().ordering(Ordering::Strict));
    let keyed = subscribe(world, "down-keyed", "acme", plain().ordering(Ordering::PerKey));
    let dependent = subscribe(world, "dependent", "acme", plain().after(Some(paused)));
    for host in ["down-strict", "down-keyed"] {
        world.receivers.script(host, &[ScriptedReply::Status(503)]);
    }
    world.receivers.script("disabled", &[ScriptedReply::Status(410)]);
    // Deliveries that were accepted before the receiver disabled its subscription stay owed.
    world.engine.pause(disabled).unwrap();
    publish(world, "acme", EVENTS);
    world.engine.resume(disabled).unwrap();
    let is_disabled = || {
        let info = world.engine.subscription(disabled).unwrap();
        info.state == SubscriptionState::Disabled
    };
    assert!(wait_until(is_disabled));
    vec![down, paused, disabled, limited, strict, keyed, dependent]
}

#[test]
fn a_day_later_nothing_is_owed_and_all_are_told() {
    let world = World::with(two_accounts);
    let bystander = Policy::default().age_max(48 * HOUR);
    let bystander = subscribe(&world, "bystander", "other", bystander);
    world.engine.pause(bystander).unwrap();
    publish(&world, "other", 1);
    let lanes = stopped_lanes(&world);
    for _ in 0..12 {
        world.clock.advance(HOUR);
        publish(&world, "other", 1);
    }
    let before = lanes.iter().map(|id| owed(&world, *id)).sum::<u64>();
    assert!(before > 6 * EVENTS as u64, "{before} owed half a day later");
    let world = reopened(world);
    for host in ["down", "down-strict", "down-keyed"] {
        world.receivers.script(host, &[ScriptedReply::Fails(Failure::Connect)]);
    }
    let notices = world.engine.notices();
    world.clock.advance(12 * HOUR - MINUTE);
    let ends = |world: &World| lanes.iter().map(|id| owed(world, *id)).sum::<u64>();
    assert!(ends(&world) > 5 * EVENTS as u64, "none before its time");
    world.clock.advance(2 * MINUTE);
    let stepped = wait_until(|| {
        world.clock.advance(Duration::from_millis(20));
        ends(&world) == 0
    });
    assert!(stepped, "{} owed a day later", ends(&world));
    publish(&world, "other", 1);
    for (place, id) in lanes.iter().enumerate() {
        // One answered 410, one or two were within the rate, and dependents die with their main delivery or by age.
        let others = [0..=0, 0..=0, 1..=1, 1..=2, 0..=0, 0..=0, 0..=EVENTS][place].clone();
        let expired = || letters(&world, *id, "expired");
        // The last ones may be counted shortly before they are listed.
        assert!(
            wait_until(|| others.contains(&(EVENTS - expired()))),
            "{} of {} letters in lane {place}",
            expired(),
            letters(&world, *id, "")
        );
    }
    assert!(told_expired(&notices) > 5 * EVENTS);
    assert!(wait_until(|| owed(&world, bystander) == 14), "the bystander's");
    let world = reopened(world);
    assert_eq!((ends(&world), owed(&world, bystander)), (0, 14), "also after a restart");
    world.engine.resume(bystander).unwrap();
    world.receivers.wait_for("bystander", 14);
}

#[test]
fn a_last_attempt_is_made_although_the_breaker_is_open() {
    let world = World::with(two_accounts);
    let breaker = Breaker::default().failures(Some(2)).initial(5 * MINUTE).max(5 * MINUTE);
    let crm = subscribe(&world, "crm", "acme", Policy::default().breaker(breaker));
    let bystander = subscribe(&world, "bystander", "other", Policy::default());
    world.receivers.script("crm", &[ScriptedReply::Status(503)]);
    publish(&world, "acme", 20);
    publish(&world, "other", 1);
    world.clock.advance(24 * HOUR - MINUTE);
    let rests = || world.engine.stats().lanes[0].rests_for > MINUTE;
    assert!(wait_until(rests), "it was probed a moment ago");
    world.receivers.script("crm", &[ScriptedReply::Status(200)]);
    world.clock.advance(MINUTE);
    let stats = world.wait_until(|stats| stats.owed == 0);
    assert_eq!((stats.dead, stats.delivered), (0, 21));
    assert_eq!(letters(&world, crm, "expired") + letters(&world, bystander, "expired"), 0);
}

#[test]
fn a_retry_after_ends_with_the_age() {
    let world = World::with(two_accounts);
    let policy = Policy::default().age_max(Duration::from_secs(10));
    subscribe(&world, "crm", "acme", policy);
    let asks = ScriptedReply::RetryAfter(429, Duration::from_secs(3_600));
    world.receivers.script("crm", &[asks, ScriptedReply::Status(200)]);
    publish(&world, "acme", 1);
    world.wait_until(|stats| stats.retried == 1);
    world.clock.advance(Duration::from_secs(5));
    publish(&world, "acme", 1);
    world.clock.advance(Duration::from_millis(4_999));
    assert_eq!(world.receivers.at("crm").len(), 1);
    world.clock.advance(Duration::from_millis(1));
    // The rest of the whole endpoint is over too.
    let stats = world.wait_until(|stats| stats.owed == 0);
    assert_eq!((stats.dead, stats.delivered), (0, 2));
}

#[test]
fn a_replay_begins_a_new_age_that_survives_a_restart() {
    let world = World::with(two_accounts);
    let crm = subscribe(&world, "crm", "acme", Policy::default());
    world.engine.pause(crm).unwrap();
    publish(&world, "acme", 3);
    let stats = world.engine.stats();
    assert_eq!((stats.owed_events, stats.owed_bytes), (3, 6));
    world.clock.advance(24 * HOUR);
    world.wait_until(|stats| stats.dead == 3);
    assert!(wait_until(|| letters(&world, crm, "expired") == 3));
    let stats = world.engine.stats();
    assert_eq!((stats.owed_events, stats.owed_bytes, stats.outbox_events), (0, 0, 3));
    world.clock.advance(5 * HOUR);
    let filter = DeadLetterFilter::default().subscription(crm);
    assert_eq!(world.engine.replay_matching(&filter).unwrap(), 3);
    for _ in 0..23 {
        world.clock.advance(HOUR);
        assert_eq!(world.engine.stats().owed, 3);
    }
    let world = reopened(world);
    assert_eq!(world.engine.stats().owed, 3);
    world.clock.advance(59 * MINUTE);
    assert_eq!(world.engine.stats().owed, 3);
    world.clock.advance(MINUTE);
    world.wait_until(|stats| stats.owed == 0 && stats.dead == 3);
}

#[test]
fn a_jump_of_the_clock_while_down_leaves_a_part_of_the_age() {
    let world = World::with(two_accounts);
    let crm = subscribe(&world, "crm", "acme", Policy::default());
    world.engine.pause(crm).unwrap();
    publish(&world, "acme", 3);
    let (wall_ms, year_ms) = (crate::world::BEGIN_WALL_MS, 365 * 24 * 3_600_000);
    // Back, and then on: the first ages nothing, the second leaves an hour.
    world.clock.set_wall_ms(wall_ms - year_ms);
    let world = reopened(world);
    world.clock.advance(HOUR);
    assert_eq!(world.engine.stats().owed, 3);
    world.clock.set_wall_ms(wall_ms + year_ms);
    let world = reopened(world);
    world.clock.advance(59 * MINUTE);
    assert_eq!(world.engine.stats().owed, 3);
    world.clock.advance(MINUTE);
    world.wait_until(|stats| stats.owed == 0 && stats.dead == 3);
}

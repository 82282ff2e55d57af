//! I1 and I3 when another host owns the store: what was accepted stays, nothing more is accepted, and no attempt is
//! made by a host that may not be the owner any more.

use std::time::Duration;

use wabahook::{Error, Event, Notice};

use crate::world::{DEADLINE, World};

#[test]
fn an_engine_whose_store_was_taken_over_stops() {
    let (world, faults) = World::faulty(|config| config);
    let (bystander, _) = World::faulty(|config| config);
    let notices = world.engine.notices();
    world.subscribe("crm");
    bystander.subscribe("crm");
    world.publish("ADD_TAG", "accepted");
    world.wait_until(|stats| stats.delivered == 1);
    faults.fence();
    let event = || Event::new("ADD_TAG", "refused").number("919999999999");
    let told = world.engine.publish(event()).unwrap().wait_timeout(DEADLINE).unwrap();
    assert!(matches!(told, Err(Error::Refused { .. })), "{told:?}");
    while notices.next_timeout(DEADLINE).expect("it is told in time") != Notice::NotOwner {}
    let refused = world.engine.publish(event()).unwrap_err();
    assert!(matches!(refused.error, Error::NotOwner), "{refused}");
    assert!(matches!(world.engine.close(DEADLINE), Err(Error::NotOwner)));
    assert_eq!(world.receivers.at("crm").len(), 1, "nothing of what was refused is sent");
    bystander.publish("ADD_TAG", "accepted");
    bystander.wait_until(|stats| stats.delivered == 1);
}

#[test]
fn no_attempt_starts_while_the_lease_has_ended() {
    let (world, faults) = World::faulty(|config| config);
    world.subscribe("crm");
    world.publish("ADD_TAG", "before");
    world.wait_until(|stats| stats.delivered == 1);
    faults.suspend_ownership();
    world.publish("ADD_TAG", "meanwhile");
    world.clock.advance(Duration::from_secs(60));
    let notices = world.engine.notices();
    assert!(notices.next_timeout(Duration::from_millis(300)).is_none());
    assert_eq!(world.receivers.at("crm").len(), 1);
    faults.restore_ownership();
    world.wait_until(|stats| stats.delivered == 2);
    assert_eq!(world.receivers.at("crm").len(), 2);
}

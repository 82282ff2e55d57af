//! A panic of the host's store while it reads an event for the I/O threads costs that attempt alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wabahook::clock::ManualClock;
use wabahook::store::{Database, Memory, Store, StoreFailure};
use wabahook::testing::{LayeredStore, StoreLayer};
use wabahook::{Config, Engine, Event, Subscription};

use super::client::*;

/// A store whose reads panic once that is set.
#[derive(Clone, Default)]
struct Panicking(Memory, Arc<AtomicBool>);

impl StoreLayer for Panicking {
    fn inner(&self) -> &dyn Store {
        &self.0
    }

    fn get(&self, from: &dyn Database, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFailure> {
        assert!(!self.1.load(Ordering::SeqCst), "a bug of the host's store");
        from.get(key)
    }
}

#[test]
fn a_panic_of_the_store_ends_the_attempt_uncounted() {
    let (receiver, bystander) = (Receiver::start(|_| say(OK)), Receiver::start(|_| say(OK)));
    let (store, clock) = (Panicking::default(), Arc::new(ManualClock::new(WALL_MS, 1)));
    let open = || {
        let config = Config::new("unused").store(Arc::new(LayeredStore(store.clone())));
        let config = config.clock(clock.clone()).allow_http(true);
        Engine::open(config.allow_addresses(["127.0.0.0/8".parse().unwrap()])).unwrap()
    };
    let to = |receiver: &Receiver, name: &str| Subscription::to(receiver.url()).unwrap().name(name);
    let engine = open();
    let crm = engine.subscribe(to(&receiver, "crm")).unwrap();
    engine.pause(crm).unwrap();
    engine.publish(Event::new("ADD_TAG", "{}")).unwrap().wait().unwrap();
    engine.close(DEADLINE).unwrap();
    // Now it is on the device alone.
    let engine = open();
    store.1.store(true, Ordering::SeqCst);
    engine.resume(crm).unwrap();
    assert!(wait_until(|| engine.stats().uncounted > 0), "the delivery would never end");
    engine.subscribe(to(&bystander, "bystander")).unwrap();
    engine.publish(Event::new("ADD_TAG", "{}")).unwrap().wait().unwrap();
    assert_eq!((bystander.next().body, receiver.next().body), (b"{}".to_vec(), b"{}".to_vec()));
    store.1.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(5));
    receiver.next();
    engine.close(DEADLINE).unwrap();
}

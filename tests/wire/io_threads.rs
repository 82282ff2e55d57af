//! I/O threads share the bounds on attempts, and none keeps all of them.

use std::sync::Arc;

use wabahook::store::Memory;
use wabahook::{Config, Engine, Event, Limits, Subscription};

use super::client::*;

const EVENTS: usize = 40;

#[test]
fn all_threads_deliver_within_one_bound() {
    for in_flight_max in [1, 2, 5] {
        // Ports differ, so each thread has some of them.
        let receivers: Vec<_> = (0..8).map(|_| Receiver::start(|_| say(OK))).collect();
        let limits = Limits::default().io_threads(3).in_flight_max(Some(in_flight_max));
        let config = Config::new("unused").store(Arc::new(Memory::default())).limits(limits);
        let config = config.allow_http(true).allow_addresses(["127.0.0.0/8".parse().unwrap()]);
        let engine = Engine::open(config).unwrap();
        for (number, receiver) in receivers.iter().enumerate() {
            let to = Subscription::to(receiver.url()).unwrap().name(format!("receiver-{number}"));
            engine.subscribe(to).unwrap();
        }
        let events = (0..EVENTS).map(|_| Event::new("ADD_TAG", "{}")).collect();
        engine.publish_many(events).unwrap().wait().unwrap();
        for receiver in &receivers {
            (0..EVENTS).for_each(|_| drop(receiver.next()));
        }
        engine.close(DEADLINE).unwrap();
    }
}

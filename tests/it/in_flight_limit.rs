//! However many endpoints there are, at most `in_flight_max` attempts are in flight.

use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use wabahook::store::Memory;
use wabahook::testing::{ScriptedReply, ScriptedTransport};
use wabahook::{Config, Engine, Event, Limits, Subscription};

use crate::support::{DEADLINE, wait_until};

const LANES: usize = 12;
const EVENTS: u64 = 60;

#[derive(Default)]
struct InFlight {
    now: usize,
    most: usize,
}

fn answer(in_flight: &Mutex<InFlight>) -> ScriptedReply {
    let mut counted = in_flight.lock();
    counted.now += 1;
    counted.most = counted.most.max(counted.now);
    drop(counted);
    (0..50).for_each(|_| thread::yield_now());
    in_flight.lock().now -= 1;
    ScriptedReply::Status(200)
}

#[test]
fn attempts_in_flight_stay_within_the_limit() {
    let in_flight = Arc::new(Mutex::<InFlight>::default());
    let counted = Arc::clone(&in_flight);
    let transport = ScriptedTransport::new(move |_| answer(&counted)).unrecorded();
    let limits = Limits::default().in_flight_max(Some(2));
    let config = Config::new("unused").store(Arc::new(Memory::default())).limits(limits);
    let engine = Engine::open(config.transport(Arc::new(transport))).unwrap();
    for n in 0..LANES {
        let url = format!("https://receiver-{n}.example/hook");
        engine.subscribe(Subscription::to(url).unwrap().name(n.to_string())).unwrap();
    }
    let events = (0..EVENTS).map(|n| Event::new("ADD_TAG", n.to_string())).collect();
    let accepted = engine.publish_many(events).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(accepted.len() as u64, EVENTS);
    let all = EVENTS * LANES as u64;
    assert!(wait_until(|| engine.stats().delivered == all), "{:?}", engine.stats());
    let most = in_flight.lock().most;
    assert!((1..=2).contains(&most), "{most} at once");
    engine.close(DEADLINE).unwrap();
}

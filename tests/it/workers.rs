//! How many workers are busy: what the stuck budget lends for endpoints that nothing is known of is
//! given back as soon as they have answered.

use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use wabahook::store::Memory;
use wabahook::{Config, Engine, Event, Failure, Limits, Reply, Request, Subscription, Transport};

use crate::world::DEADLINE;

const LANES: usize = 12;
const EVENTS: u64 = 60;

/// Holds the first attempts until all of them are there, and counts how many run at once after that.
#[derive(Default)]
struct Counting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    together: bool,
    under_way: usize,
    /// The most at once after the first attempts had ended.
    most: usize,
    held: usize,
    interrupted: bool,
}

impl Transport for Counting {
    fn send(&self, _: &Request<'_>) -> Reply {
        let mut state = self.state.lock();
        if !state.together {
            state.held += 1;
            state.together = state.held == LANES;
            self.changed.notify_all();
            self.changed.wait_while(&mut state, |s| !s.together && !s.interrupted);
            state.held -= 1;
            return if state.interrupted {
                Reply::Failed(Failure::Interrupted)
            } else {
                Reply::status(200)
            };
        }
        state.under_way += 1;
        // The first ones may still be on their way back.
        if state.held == 0 {
            state.most = state.most.max(state.under_way);
        }
        drop(state);
        (0..50).for_each(|_| thread::yield_now());
        self.state.lock().under_way -= 1;
        Reply::status(200)
    }

    fn interrupt(&self) {
        self.state.lock().interrupted = true;
        self.changed.notify_all();
    }
}

#[test]
fn endpoints_that_answered_share_the_workers_and_no_more() {
    let transport = Arc::new(Counting::default());
    // On a busy machine an attempt that only waits for a core would count as stuck, and be replaced.
    let limits = Limits { workers_max: 2, stuck_after_ms: 60_000, ..Limits::default() };
    let config = Config::new("unused").store(Arc::new(Memory::default())).limits(limits);
    let engine = Engine::open(config.transport(Arc::clone(&transport) as _)).unwrap();
    for n in 0..LANES {
        let url = format!("https://receiver-{n}.example/hook");
        engine.subscribe(Subscription::to(url).unwrap().name(n.to_string())).unwrap();
    }
    let events = (0..EVENTS).map(|n| Event::new("ADD_TAG", n.to_string())).collect();
    let accepted = engine.publish_many(events).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(accepted.len() as u64, EVENTS);
    let deadline = std::time::Instant::now() + DEADLINE;
    while engine.stats().delivered < EVENTS * LANES as u64 {
        assert!(std::time::Instant::now() < deadline, "{:?}", engine.stats());
        thread::yield_now();
    }
    let most = transport.state.lock().most;
    assert!((1..=2).contains(&most), "{most} at once, of 2 workers");
    engine.close(DEADLINE).unwrap();
}

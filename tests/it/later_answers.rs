//! A transport that answers later needs no thread for an attempt in flight.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wabahook::{Answer, Failure, Limits, Reason, Reply, Request, Transport};

use crate::support::wait_until;
use crate::world::{DEADLINE, World, quick};

/// Holds the answers of hosts that start with `slow`, drops the first of `dropping`, and acknowledges all others.
#[derive(Default)]
struct Later {
    held: Mutex<Vec<Answer>>,
    has_dropped: Mutex<bool>,
}

impl Transport for Later {
    fn send(&self, request: &Request<'_>) -> Reply {
        Answer::wait(|answer| self.begin(request.clone(), answer))
    }

    fn begin(&self, request: Request<'_>, answer: Answer) {
        let host = request.url.host().unwrap();
        let mut has_dropped = self.has_dropped.lock();
        match host {
            "dropping" if !std::mem::replace(&mut *has_dropped, true) => drop(answer),
            "panics" => panic!("a bug of the host"),
            _ if host.starts_with("slow") => self.held.lock().push(answer),
            _ => answer.reply(Reply::status(200)),
        }
    }

    fn answers_later(&self) -> bool {
        true
    }

    fn interrupt(&self) {
        for answer in self.held.lock().drain(..) {
            answer.reply(Reply::Failed(Failure::Interrupted));
        }
    }
}

fn world() -> (World, Arc<Later>) {
    let transport = Arc::new(Later::default());
    let limits = Limits::default().transport_threads(1).in_flight_max(Some(1_000));
    let world = World::with(|config| config.transport(transport.clone()).limits(limits));
    (world, transport)
}

#[test]
fn hundreds_in_flight_on_one_thread_do_not_delay_a_bystander() {
    const SLOW: usize = 300;
    let (world, transport) = world();
    for n in 0..SLOW {
        world.subscribe(&format!("slow-{n}"));
    }
    world.subscribe("bystander");
    world.publish("ADD_TAG", "{}");
    assert!(wait_until(|| transport.held.lock().len() == SLOW));
    let stats = world.wait_until(|stats| stats.delivered == 1);
    assert_eq!((stats.transport_threads, stats.owed), (1, SLOW as u64));
    for answer in transport.held.lock().drain(..) {
        answer.reply(Reply::status(200));
    }
    world.wait_until(|stats| stats.delivered == SLOW as u64 + 1);
    world.engine.close(DEADLINE).unwrap();
}

#[test]
fn a_dropped_answer_is_repeated_uncounted() {
    let (world, _transport) = world();
    world.subscribe("dropping");
    world.subscribe("bystander");
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.delivered == 1 && stats.uncounted == 1);
    assert!(wait_until(|| {
        world.clock.advance(Duration::from_secs(1));
        world.engine.stats().delivered == 2
    }));
    assert_eq!(world.engine.stats().attempts, 2);
    world.engine.close(DEADLINE).unwrap();
}

#[test]
fn a_panic_of_begin_costs_that_attempt_alone() {
    let (world, _transport) = world();
    let panics = world.engine.subscribe(quick("panics")).unwrap();
    world.subscribe("bystander");
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.delivered == 1 && stats.uncounted == 1);
    let tested = world.engine.test(panics).unwrap();
    assert_eq!(tested.reason, Some(Reason::Failed(Failure::Internal)));
    world.engine.close(DEADLINE).unwrap();
}

#[test]
fn close_interrupts_what_is_unanswered_and_keeps_it_owed() {
    let (world, transport) = world();
    world.subscribe("slow");
    world.publish("ADD_TAG", "{}");
    assert!(wait_until(|| !transport.held.lock().is_empty()));
    world.engine.close(Duration::from_millis(10)).unwrap();
    assert!(transport.held.lock().is_empty());
    assert_eq!((world.engine.stats().owed, world.engine.stats().attempts), (1, 0));
}

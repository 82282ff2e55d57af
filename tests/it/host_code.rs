//! Code of the host that the engine calls: callbacks of notices, wakers of receipts, closures of `revise`, and
//! `Transport::interrupt`. It may panic and it may call the engine. Every wait here has a deadline.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use wabahook::testing::ScriptedReply;
use wabahook::{
    Accepted, Engine, Error, Event, Notice, Notices, Receipt, Reply, Request, Subscription,
    Transport,
};

use crate::world::{DEADLINE, World, quick};

/// A call that blocks for longer hangs.
const HANGS: Duration = Duration::from_secs(10);

/// Runs `work` on its own thread, so that a deadlock fails the test instead of stopping it.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = channel();
    std::thread::spawn(move || sender.send(work()));
    done.recv_timeout(HANGS).expect("it returns in time")
}

fn event() -> Event {
    Event::new("ADD_TAG", "{}").number("919999999999")
}

/// Waits for an error of ours, and counts those that came until the engine was closed.
fn internal_errors(world: &World, notices: Notices) -> usize {
    let is_error = |notice: &Notice| matches!(notice, Notice::InternalError { .. });
    let mut told = std::iter::from_fn(|| notices.next_timeout(HANGS));
    assert!(told.any(|notice| is_error(&notice)), "it is told");
    world.engine.close(DEADLINE).unwrap();
    1 + notices.filter(is_error).count()
}

/// Calls a closure each time it is woken.
struct Calls<F>(F);

impl<F: Fn() + Send + Sync> Wake for Calls<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// Polls a receipt once with a waker that calls `woken`; it must not be resolved yet.
fn polled(receipt: &mut Receipt, woken: impl Fn() + Send + Sync + 'static) {
    let waker = Waker::from(Arc::new(Calls(woken)));
    let polled = Pin::new(receipt).poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending(), "it resolved too early for this test");
}

fn accepted(receipt: Receipt) -> Accepted {
    receipt.wait_timeout(HANGS).expect("it resolves in time").unwrap()
}

#[test]
fn a_panic_of_on_notice_costs_no_lane_and_is_told_once() {
    let world = World::new();
    let notices = world.engine.notices();
    let (calls, others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (called, counted) = (Arc::clone(&calls), Arc::clone(&others));
    world.engine.on_notice(move || {
        called.fetch_add(1, Ordering::SeqCst);
        panic!("a bug of the host");
    });
    world.engine.on_notice(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    world.receivers.script("crm", &[ScriptedReply::Status(404)]);
    world.subscribe("crm");
    world.subscribe("bystander");
    for _ in 0..10 {
        world.publish("ADD_TAG", "{}");
    }
    let stats = world.wait_until(|stats| stats.owed == 0);
    assert_eq!((stats.dead, stats.delivered, stats.in_flight), (10, 10, 0));
    let both_called = || calls.load(Ordering::SeqCst) > 1 && others.load(Ordering::SeqCst) > 0;
    assert!(crate::support::wait_until(both_called), "a callback is called again after its panic");
    assert_eq!(internal_errors(&world, notices), 1);
    assert_eq!(world.receivers.at("bystander").len(), 10);
}

#[test]
fn on_notice_may_call_the_engine() {
    let world = World::new();
    let crm = world.subscribe("crm");
    world.subscribe("bystander");
    world.receivers.script("crm", &[ScriptedReply::Status(503)]);
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| (stats.retried, stats.delivered) == (1, 1));
    let (sender, done) = channel();
    let engine = world.engine.clone();
    world.engine.on_notice(move || {
        let published = engine.publish(event()).map(Receipt::wait).is_ok();
        let subscribed = engine.subscribe(quick("from-a-notice")).is_ok();
        let _ = sender.send(published && subscribed);
    });
    // The removal is told while it holds the book.
    let engine = world.engine.clone();
    in_time(move || engine.unsubscribe(crm)).unwrap();
    assert!(done.recv_timeout(HANGS).expect("the callback returns"));
    let stats = world.wait_until(|stats| stats.owed == 0);
    assert!(stats.delivered >= 2, "{stats:?}");
}

#[test]
fn a_panic_of_a_waker_costs_no_receipt_and_is_told_once() {
    let (world, faults) = World::faulty(|config| config);
    world.subscribe("bystander");
    let notices = world.engine.notices();
    faults.hold_syncs();
    let mut receipts: Vec<_> = (0..3).map(|_| world.engine.publish(event()).unwrap()).collect();
    for receipt in receipts.iter_mut().take(2) {
        polled(receipt, || panic!("a bug of the host"));
    }
    faults.release_syncs();
    for receipt in receipts {
        accepted(receipt);
    }
    accepted(world.engine.publish(event()).expect("the engine goes on"));
    world.receivers.wait_for("bystander", 4);
    assert_eq!(internal_errors(&world, notices), 1);
}

#[test]
fn a_waker_may_call_the_engine() {
    let (world, faults) = World::faulty(|config| config);
    let crm = world.subscribe("crm");
    world.subscribe("bystander");
    faults.hold_syncs();
    let mut receipt = world.engine.publish(event()).unwrap();
    let (sender, done) = channel();
    let engine = world.engine.clone();
    polled(&mut receipt, move || {
        let waited = engine.publish(event()).map(Receipt::wait).is_ok();
        // Blocks on the committer.
        let _ = sender.send(waited && engine.unsubscribe(crm).is_ok());
    });
    faults.release_syncs();
    assert!(done.recv_timeout(HANGS).expect("the waker returns"));
    assert!(world.engine.subscription(crm).is_none());
    world.receivers.wait_for("bystander", 2);
}

#[test]
fn a_closure_of_revise_may_call_the_engine() {
    let world = World::new();
    let (crm, bystander) = (world.subscribe("crm"), world.subscribe("bystander"));
    let engine = world.engine.clone();
    let revised = in_time(move || {
        engine.revise(crm, |one| {
            let other =
                |other: &_| Ok::<_, Error>(Subscription::from(other).name("renamed meanwhile"));
            engine.revise(bystander, other)?;
            engine.pause(crm)?;
            Ok::<_, Error>(Subscription::from(one).events(["ADD_TAG"]))
        })
    });
    revised.unwrap();
    let info = |id| world.engine.subscription(id).unwrap();
    assert_eq!(info(bystander).name, "renamed meanwhile");
    // The closure ran again on what it changed itself.
    assert_eq!(info(crm).state, wabahook::SubscriptionState::Paused);
    assert!(info(crm).filter.events.is_some());
}

#[test]
fn a_closure_of_revise_that_never_settles_ends_as_busy() {
    let world = World::new();
    let (crm, bystander) = (world.subscribe("crm"), world.subscribe("bystander"));
    let engine = world.engine.clone();
    let count = AtomicUsize::new(0);
    let revised = in_time(move || {
        engine.revise(crm, |one| {
            let name = format!("crm {}", count.fetch_add(1, Ordering::SeqCst));
            engine.revise(crm, |inner| {
                Ok::<_, Error>(Subscription::from(inner).name(name.clone()))
            })?;
            Ok::<_, Error>(Subscription::from(one))
        })
    });
    assert!(matches!(revised, Err(Error::Busy { .. })), "{revised:?}");
    world.engine.pause(bystander).unwrap();
}

/// Closes on threads of their own; each tells whether the receipt had resolved when `close` returned.
fn closers(engine: &Engine, receipt: Receipt) -> Receiver<(wabahook::Result<()>, bool)> {
    let (sender, closed) = channel();
    let receipt = Arc::new(receipt);
    for _ in 0..2 {
        let (engine, sender, receipt) = (engine.clone(), sender.clone(), Arc::clone(&receipt));
        std::thread::spawn(move || sender.send((engine.close(DEADLINE), receipt.is_done())));
    }
    closed
}

#[test]
fn two_concurrent_calls_of_close_both_wait_until_it_is_closed() {
    let (world, faults) = World::faulty(|config| config);
    world.subscribe("bystander");
    faults.hold_syncs();
    let receipt = world.engine.publish(event()).unwrap();
    let closed = closers(&world.engine, receipt);
    let early = closed.recv_timeout(Duration::from_millis(300));
    assert!(early.is_err(), "one returned while the device held the committer: {early:?}");
    faults.release_syncs();
    for _ in 0..2 {
        let (result, is_done) = closed.recv_timeout(HANGS).expect("both return");
        assert!(result.is_ok() && is_done, "{result:?}");
    }
    assert!(matches!(world.engine.publish(event()).unwrap_err().error, Error::Closed));
}

#[test]
fn close_is_bounded_while_the_device_hangs() {
    let (world, faults) = World::faulty(|config| config);
    world.subscribe("bystander");
    world.publish("ADD_TAG", "{}");
    world.receivers.wait_for("bystander", 1);
    faults.hold_syncs();
    let receipt = world.engine.publish(event()).unwrap();
    let closed = closers(&world.engine, receipt);
    for _ in 0..2 {
        let (result, is_done) = closed.recv_timeout(HANGS).expect("close is bounded");
        assert!(matches!(result, Err(Error::Store { .. })) && !is_done, "{result:?}");
    }
    faults.release_syncs();
    // A later call waits for what the device had held up.
    let engine = world.engine.clone();
    in_time(move || engine.close(DEADLINE)).unwrap();
    assert_eq!(world.engine.stats().owed, 1, "it is durable and owed at the next open");
}

/// Replies 200 and panics when it is interrupted.
struct PanicsAtInterrupt;

impl Transport for PanicsAtInterrupt {
    fn send(&self, _: &Request<'_>) -> Reply {
        Reply::status(200)
    }

    fn interrupt(&self) {
        panic!("a bug of the host");
    }
}

#[test]
fn a_panic_of_interrupt_does_not_keep_the_engine_open() {
    let world = World::with(|config| config.transport(Arc::new(PanicsAtInterrupt)));
    world.subscribe("bystander");
    let notices = world.engine.notices();
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.delivered == 1);
    let engine = world.engine.clone();
    in_time(move || engine.close(DEADLINE)).unwrap();
    assert_eq!(internal_errors(&world, notices), 1);
}

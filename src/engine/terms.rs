//! Decides who may wait for whom, and what pausing, resuming and removing do to a subscription's
//! terms.
//!
//! Leaves to others: what a lane does with its terms (`dispatch`) and keeping them
//! (`subscription::book`). Invariant: what is in force is on the device first; nobody waits for a
//! subscription that waits itself, nor for one that is removed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::core::Core;
use super::registry::Served;
use crate::attempt::{LaneHealth, Record};
use crate::error::{Error, Result};
use crate::subscription::{Book, BookChange, Ordering, Registered, State, SubscriptionId};

/// How many subscriptions may wait for one: what becomes of a delivery and of those that wait for it
/// is written as a whole.
const DEPENDENTS_MAX: usize = 16;

/// A subscription that is to be in force, in place of what it was.
pub(super) struct Adopted {
    pub(super) served: Served,
    pub(super) before: Option<Arc<Registered>>,
}

impl Adopted {
    fn is_served_again(&self) -> bool {
        let was_disabled = self.before.as_ref().is_some_and(|one| one.state == State::Disabled);
        was_disabled && self.served.registered.state == State::Active
    }

    /// What it was before an order by keys begins with it.
    fn unordered(&self) -> Option<&Registered> {
        let per_key = |one: &Registered| one.policy.ordering == Ordering::PerKey;
        let begins = per_key(&self.served.registered);
        self.before.as_deref().filter(|before| begins && !per_key(before))
    }
}

impl Core {
    /// Checks whom a subscription would wait for, which may be one that is adopted beside it. Another
    /// account's is answered like one that does not exist (I9).
    pub(super) fn check_after(&self, registered: &Registered, beside: &[Adopted]) -> Result<()> {
        let Some(main) = registered.policy.after else { return Ok(()) };
        let refused = |expected: &str| Err(Error::invalid("after", main, expected));
        if main == registered.id {
            return refused("another subscription than this one");
        }
        let registry = self.registry.read();
        let beside: Vec<_> = beside.iter().map(|one| &one.served.registered).collect();
        let known = beside.iter().find(|one| one.id == main).map(|one| Arc::clone(one));
        let known =
            known.or_else(|| registry.served(main).map(|served| Arc::clone(&served.registered)));
        let Some(known) = known.filter(|known| known.account == registered.account) else {
            return refused("the id of a subscription of the same account");
        };
        if known.policy.after.is_some() {
            return refused("a subscription that waits for no other itself");
        }
        if !registry.dependents_of(registered.id).is_empty() {
            return refused("none: other subscriptions wait for this one");
        }
        let mut others: BTreeSet<_> = registry.dependents_of(main).into_iter().collect();
        for one in beside {
            match one.policy.after == Some(main) {
                true => others.insert(one.id),
                false => others.remove(&one.id),
            };
        }
        others.remove(&registered.id);
        if others.len() >= DEPENDENTS_MAX {
            return refused("a subscription for which fewer than 16 others wait");
        }
        Ok(())
    }

    /// Keeps a subscription and puts it in force, in place of what it was before.
    pub(super) fn adopt(
        &self,
        book: &mut Book,
        served: Served,
        before: Option<&Arc<Registered>>,
    ) -> Result<()> {
        let adopted = Adopted { served, before: before.map(Arc::clone) };
        self.adopt_all(book, vec![adopted], Vec::new())
    }

    /// Keeps subscriptions, together with other changes of the book, and puts them in force.
    pub(super) fn adopt_all(
        &self,
        book: &mut Book,
        adopted: Vec<Adopted>,
        beside: Vec<BookChange<'_>>,
    ) -> Result<()> {
        for one in adopted.iter().filter(|one| one.is_served_again()) {
            self.forget_failures(one.served.registered.id)?;
        }
        let keys = adopted.iter().map(|one| self.keys_for(one)).collect::<Result<Vec<_>>>();
        let puts = adopted.iter().map(|one| BookChange::Put(&one.served.registered));
        let changes = beside.into_iter().chain(puts).collect();
        match keys.and_then(|keys| book.apply(changes).map(|()| keys)) {
            Ok(keys) => {
                let served = adopted.into_iter().map(|one| one.served);
                self.enforce_all(served.zip(keys).collect());
                Ok(())
            }
            Err(error) => {
                adopted.iter().for_each(|one| self.forget_keys(one));
                Err(error)
            }
        }
    }

    /// The keys of what a subscription is owed, where an order by them begins. What comes while they
    /// are read is noted by the lane.
    fn keys_for(&self, adopted: &Adopted) -> Result<HashMap<u64, u64>> {
        let Some(unordered) = adopted.unordered() else { return Ok(HashMap::new()) };
        let owed = self.drive.lock().dispatcher.note_keys(unordered.id);
        self.outbox.key_hashes(&owed)
    }

    fn forget_keys(&self, adopted: &Adopted) {
        let Some(unordered) = adopted.unordered() else { return };
        let (policy, state) = (unordered.policy.clone(), unordered.state);
        let mut drive = self.drive.lock();
        drive.dispatcher.set_lane(unordered.id, policy, state, &HashMap::new());
    }

    /// Forgets, on the device first of all, how the endpoint of a disabled subscription failed. Were it
    /// served first, a crash in between would bring its time of failing back, and the next failure
    /// disable it again.
    fn forget_failures(&self, id: SubscriptionId) -> Result<()> {
        let (now_ms, saved_wall_ms) = (self.clock.monotonic_ms(), self.clock.wall_ms());
        let clean = LaneHealth { saved_wall_ms, ..LaneHealth::default() };
        let mut drive = self.drive.lock();
        // The lane goes with it: an attempt that is still under way and fails is recorded after
        // this, and must not bring back what came before.
        drive.dispatcher.recovered_health(id, &clean, now_ms, saved_wall_ms);
        let told = self.outbox.record_and_tell(Record::Health(id, clean));
        drop(drive);
        self.outbox.wait(told)
    }

    /// Puts subscriptions that are on the device in force. With each come the keys of what it is owed,
    /// where an order by them begins. No event finds a part of them changed and the others not: it
    /// could fall between one that is silenced already and another that is not yet served.
    pub(super) fn enforce_all(&self, all: Vec<(Served, HashMap<u64, u64>)>) {
        // The lanes come before the index: an event that matches must find somebody to owe it to.
        let mut drive = self.drive.lock();
        for (served, keys) in &all {
            let Registered { id, policy, state, .. } = &*served.registered;
            drive.dispatcher.set_lane(*id, policy.clone(), *state, keys);
        }
        self.rouse(&drive);
        drop(drive);
        for (served, _) in &all {
            let Registered { id, account, state, .. } = &*served.registered;
            tracing::info!(subscription = %id, account, state = state.as_str(), "subscription in force");
        }
        let mut registry = self.registry.write();
        all.into_iter().for_each(|(served, _)| registry.put(served));
    }

    /// Holds a subscription back. One that is disabled is held back already and stays so.
    pub(super) fn pause(&self, id: SubscriptionId) -> Result<()> {
        self.change_state(id, |before| match before {
            State::Active => State::Paused,
            held_back => held_back,
        })
    }

    /// Serves a subscription again.
    pub(super) fn resume(&self, id: SubscriptionId) -> Result<()> {
        self.change_state(id, |_| State::Active)
    }

    fn change_state(&self, id: SubscriptionId, change: impl Fn(State) -> State) -> Result<()> {
        self.check_open()?;
        let mut book = self.book.lock();
        let book = book.as_mut().ok_or(Error::Closed)?;
        let known = self.registry.read().known(id)?;
        let (before, after) = (known.registered.state, change(known.registered.state));
        if before == after {
            return Ok(());
        }
        let served = Served::new(Registered { state: after, ..(*known.registered).clone() })?;
        self.adopt(book, served, Some(&known.registered))
    }

    /// Lets those go that waited for a subscription that is removed from this engine. Returns them as
    /// they are now, to be kept once the removal is on the device: before, it may yet be undone by a
    /// crash, and they must wait again.
    pub(super) fn open_gates_of(&self, main: SubscriptionId) -> Result<Vec<Arc<Registered>>> {
        let dependents = self.registry.read().dependents_of(main);
        let mut freed = Vec::new();
        for id in dependents {
            let Some(dependent) = self.registry.read().served(id) else { continue };
            let mut registered = (*dependent.registered).clone();
            registered.wait_no_longer();
            let served = Served::new(registered)?;
            freed.push(Arc::clone(&served.registered));
            self.enforce_all(vec![(served, HashMap::new())]);
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use parking_lot::{Condvar, Mutex};

    use super::*;
    use crate::attempt::{Reason, Reply};
    use crate::config::Config;
    use crate::delivery::{Request, Transport};
    use crate::engine::{DeliveryFilter, DeliveryState, Engine};
    use crate::event::Event;
    use crate::notice::Notice;
    use crate::store::Memory;
    use crate::subscription::Subscription;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// Answers the first attempt at `gone` with 410 and no other one there; everybody else with 200.
    #[derive(Default)]
    struct GoneOnce {
        attempts: Mutex<(usize, bool)>,
        changed: Condvar,
    }

    impl Transport for GoneOnce {
        fn send(&self, request: &Request<'_>) -> Reply {
            if request.url.host() != Some("gone") {
                return Reply::status(200);
            }
            let mut attempts = self.attempts.lock();
            attempts.0 += 1;
            self.changed.notify_all();
            if attempts.0 == 1 {
                return Reply::status(410);
            }
            self.changed.wait_while(&mut attempts, |attempts| !attempts.1);
            Reply::Failed(crate::attempt::Failure::Interrupted)
        }

        fn interrupt(&self) {
            self.attempts.lock().1 = true;
            self.changed.notify_all();
        }
    }

    impl GoneOnce {
        fn wait_for(&self, count: usize) {
            let mut attempts = self.attempts.lock();
            let too_few = |attempts: &mut (usize, bool)| attempts.0 < count;
            let late = self.changed.wait_while_for(&mut attempts, too_few, DEADLINE).timed_out();
            assert!(!late, "{} attempts of {count} in time", attempts.0);
        }
    }

    fn states_of(engine: &Engine, id: SubscriptionId) -> Vec<DeliveryState> {
        let of_it = DeliveryFilter::default().subscription(id);
        let of_it = of_it.states([DeliveryState::Owed, DeliveryState::Blocked]);
        let page = engine.deliveries(&of_it, None, 10).unwrap();
        page.items.iter().map(|delivery| delivery.state).collect()
    }

    /// A receiver answers 410, and before that is kept in the book a host's call has its turn.
    /// Returns the engine with what the receiver asked for in force.
    fn disabled_after(call: State) -> (Engine, SubscriptionId, Arc<GoneOnce>) {
        let transport = Arc::new(GoneOnce::default());
        let config = Config::new("unused").store(Arc::new(Memory::default()));
        let engine = Engine::open(config.transport(transport.clone())).unwrap();
        let named = |host: &str| Subscription::to(format!("https://{host}/hook")).unwrap();
        let id = engine.subscribe(named("gone").name("gone")).unwrap();
        let bystander = engine.subscribe(named("bystander")).unwrap();
        let notices = engine.notices();
        let core = &engine.core;
        let mut book = core.book.lock();
        let events = ["1", "2", "3"].map(|payload| Event::new("ADD_TAG", payload));
        let events = events.map(|one| one.number("919999999999"));
        engine.publish_many(events.into()).unwrap().wait().unwrap();
        // The worker that is about to ask for the book holds no attempt of another's meanwhile.
        let deadline = Instant::now() + DEADLINE;
        while core.counters.attempts.value() < 4 {
            assert!(Instant::now() < deadline, "the bystander waits for the book");
            std::thread::yield_now();
        }
        assert_eq!(states_of(&engine, id), [DeliveryState::Blocked; 2]);
        let before = core.registry.read().served(id).unwrap();
        let called = Registered { state: call, ..(*before.registered).clone() };
        let served = Served::new(called).unwrap();
        core.adopt(book.as_mut().unwrap(), served, Some(&before.registered)).unwrap();
        if call == State::Active {
            transport.wait_for(2);
        }
        drop(book);
        let reason = Reason::Status(410);
        let disabled = Notice::Disabled { subscription: id, reason };
        let told = || notices.next_timeout(DEADLINE).unwrap();
        assert!(std::iter::repeat_with(told).take(2).any(|notice| notice == disabled));
        let state = |id| engine.subscription(id).unwrap().state;
        assert_eq!((state(id), state(bystander)), (State::Disabled, State::Active));
        (engine, id, transport)
    }

    #[test]
    fn a_subscription_that_is_replaced_while_it_is_being_disabled_is_served_no_more() {
        let (engine, id, _transport) = disabled_after(State::Active);
        // The second attempt, which began in between, is not called back; the third never begins.
        assert_eq!(states_of(&engine, id), [DeliveryState::Owed, DeliveryState::Blocked]);
    }

    #[test]
    fn a_subscription_that_is_paused_while_it_is_being_disabled_is_disabled_until_it_is_resumed() {
        let (engine, id, transport) = disabled_after(State::Paused);
        assert_eq!(states_of(&engine, id), [DeliveryState::Blocked; 2]);
        engine.resume(id).unwrap();
        transport.wait_for(2);
        assert_eq!(states_of(&engine, id), [DeliveryState::Owed; 2]);
    }
}

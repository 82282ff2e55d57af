//! Decides who may wait for whom, and what pausing, resuming and removing do to a subscription's
//! terms.
//!
//! Leaves to others: what a lane does with its terms (`dispatch`) and keeping them
//! (`subscription::book`). Invariant: what is in force is on the device first; nobody waits for a
//! subscription that waits itself, nor for one that is removed.

use std::collections::HashMap;
use std::sync::Arc;

use super::core::Core;
use super::registry::Served;
use crate::attempt::{LaneHealth, Record};
use crate::error::{Error, Result};
use crate::subscription::{Book, Ordering, Registered, State, SubscriptionId};

/// How many subscriptions may wait for one: what becomes of a delivery and of those that wait for it
/// is written as a whole.
const DEPENDENTS_MAX: usize = 16;

impl Core {
    /// Checks whom a subscription would wait for. Another account's is answered like one that does
    /// not exist (I9).
    pub(super) fn check_after(&self, registered: &Registered) -> Result<()> {
        let Some(main) = registered.policy.after else { return Ok(()) };
        let refused = |expected: &str| Err(Error::invalid("after", main, expected));
        if main == registered.id {
            return refused("another subscription than this one");
        }
        let registry = self.registry.read();
        let known = registry.served(main).map(|served| Arc::clone(&served.registered));
        let Some(known) = known.filter(|known| known.account == registered.account) else {
            return refused("the id of a subscription of the same account");
        };
        if known.policy.after.is_some() {
            return refused("a subscription that waits for no other itself");
        }
        if !registry.dependents_of(registered.id).is_empty() {
            return refused("none: other subscriptions wait for this one");
        }
        let others = registry.dependents_of(main).into_iter().filter(|id| *id != registered.id);
        if others.count() >= DEPENDENTS_MAX {
            return refused("a subscription for which fewer than 16 others wait");
        }
        Ok(())
    }

    /// Keeps a subscription and puts it in force, in place of what it was before.
    pub(super) fn adopt(
        &self,
        book: &mut Book,
        served: Served,
        before: Option<&Registered>,
    ) -> Result<()> {
        let begins = |before: &&Registered| {
            let per_key = |one: &Registered| one.policy.ordering == Ordering::PerKey;
            per_key(&served.registered) && !per_key(before)
        };
        let Some(unordered) = before.filter(begins) else {
            book.put(&served.registered)?;
            self.enforce(served, before.map(|before| before.state), &HashMap::new());
            return Ok(());
        };
        // What comes while the keys are read is noted by the lane.
        let owed = self.drive.lock().dispatcher.note_keys(unordered.id);
        let keys = self.outbox.key_hashes(&owed);
        match keys.and_then(|keys| book.put(&served.registered).map(|()| keys)) {
            Ok(keys) => self.enforce(served, Some(unordered.state), &keys),
            Err(error) => {
                let (policy, state) = (unordered.policy.clone(), unordered.state);
                let mut drive = self.drive.lock();
                drive.dispatcher.set_lane(unordered.id, policy, state, &HashMap::new());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts a subscription that is on the device in force. `keys` are of what it is owed, where an
    /// order by them begins.
    fn enforce(&self, served: Served, before: Option<State>, keys: &HashMap<u64, u64>) {
        let registered = Arc::clone(&served.registered);
        // The lane comes before the index: an event that matches must find somebody to owe it to.
        let mut drive = self.drive.lock();
        let (policy, state) = (registered.policy.clone(), registered.state);
        drive.dispatcher.set_lane(registered.id, policy, state, keys);
        self.rouse(&drive);
        drop(drive);
        if (before, registered.state) == (Some(State::Disabled), State::Active) {
            // The lane has forgotten its failures, and the next open must not remember them.
            let saved_wall_ms = self.clock.wall_ms();
            let clean = LaneHealth { saved_wall_ms, ..LaneHealth::default() };
            self.outbox.record(Record::Health(registered.id, clean));
        }
        self.registry.write().put(served);
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
        let unknown = || Error::NotFound { what: "subscription", given: id.to_string() };
        let known = self.registry.read().served(id).ok_or_else(unknown)?;
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
            registered.policy.after = None;
            let served = Served::new(registered)?;
            freed.push(Arc::clone(&served.registered));
            self.enforce(served, None, &HashMap::new());
        }
        Ok(freed)
    }
}

//! Puts subscriptions in force, pauses, resumes and disables them, and checks the rules of `after` (one
//! subscription that waits for another's deliveries). A change is durable in the book before it is in
//! force. No subscription waits for one that waits itself, nor for one that is removed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::log::log_in_force;
use super::table::ActiveSubscription;
use crate::attempt::{LaneHealth, Record};
use crate::book::{BookChange, SubscriptionStore};
use crate::delivery::destination_number;
use crate::engine::accounts::lane_state;
use crate::engine::shared::{DispatchState, Shared};
use crate::error::{Error, Result};
use crate::receipt::Receipt;
use crate::subscription::{Ordering, SubscriptionId, SubscriptionInfo, SubscriptionState};

/// How many subscriptions may wait for one. The end of a delivery and those of its dependents are written
/// in one batch, so their number is bounded.
const DEPENDENTS_MAX: usize = 16;

/// A checked subscription that replaces `before` once it is durable.
pub(in crate::engine) struct PreparedSubscription {
    pub(in crate::engine) active: ActiveSubscription,
    pub(in crate::engine) before: Option<Arc<SubscriptionInfo>>,
}

impl PreparedSubscription {
    /// Whether what is known of the endpoint no longer holds: the host resumes the subscription, or the
    /// requests go elsewhere or prove themselves differently.
    fn clears_health(&self) -> bool {
        let Some(before) = &self.before else { return false };
        let after = &self.active.info;
        let is_resumed =
            before.state != SubscriptionState::Active && after.state == SubscriptionState::Active;
        is_resumed || !before.target.has_same_endpoint(&after.target)
    }

    /// The previous form of a subscription that begins to order its deliveries by key.
    fn unordered(&self) -> Option<&SubscriptionInfo> {
        let per_key = |one: &SubscriptionInfo| one.policy.ordering == Ordering::PerKey;
        let begins = per_key(&self.active.info);
        self.before.as_deref().filter(|before| begins && !per_key(before))
    }
}

impl Shared {
    /// Checks the `after` of a subscription against what is in force and the `others` of the same change.
    /// A subscription of another account is treated as unknown (I9).
    pub(in crate::engine) fn check_after(
        &self,
        info: &SubscriptionInfo,
        others: &[PreparedSubscription],
    ) -> Result<()> {
        let Some(main) = info.policy.after else { return Ok(()) };
        let refused = |expected: &str| Err(Error::invalid("after", main, expected));
        if main == info.id {
            return refused("another subscription than this one");
        }
        let subscription_table = self.subscriptions.read();
        let others: Vec<_> = others.iter().map(|one| &one.active.info).collect();
        let changed = others.iter().find(|one| one.id == main).map(|one| Arc::clone(one));
        let in_force = || subscription_table.get(main).map(|active| Arc::clone(&active.info));
        let found = changed.or_else(in_force).filter(|found| found.account == info.account);
        let Some(found) = found else {
            return refused("the id of a subscription of the same account");
        };
        if found.policy.after.is_some() {
            return refused("a subscription that does not wait for another one");
        }
        if !subscription_table.dependents_of(info.id).is_empty() {
            return refused("none, because other subscriptions wait for this one");
        }
        let mut dependents: BTreeSet<_> =
            subscription_table.dependents_of(main).into_iter().collect();
        for one in others {
            match one.policy.after == Some(main) {
                true => dependents.insert(one.id),
                false => dependents.remove(&one.id),
            };
        }
        dependents.remove(&info.id);
        if dependents.len() >= DEPENDENTS_MAX {
            return refused("a subscription for which fewer than 16 others wait");
        }
        Ok(())
    }

    /// Saves a subscription in the book and puts it in force.
    pub(in crate::engine) fn save_and_activate(
        &self,
        book: &mut SubscriptionStore,
        active: ActiveSubscription,
        before: Option<&Arc<SubscriptionInfo>>,
    ) -> Result<()> {
        let prepared = PreparedSubscription { active, before: before.map(Arc::clone) };
        self.save_and_activate_all(book, vec![prepared], Vec::new())
    }

    /// Saves subscriptions in one batch with `other_changes` of the book, and puts them in force.
    pub(in crate::engine) fn save_and_activate_all(
        &self,
        book: &mut SubscriptionStore,
        prepared: Vec<PreparedSubscription>,
        other_changes: Vec<BookChange>,
    ) -> Result<()> {
        for one in prepared.iter().filter(|one| one.clears_health()) {
            self.clear_failures(one.active.info.id)?;
        }
        let keys = prepared.iter().map(|one| self.keys_for(one)).collect::<Result<Vec<_>>>();
        let puts = prepared.iter().map(|one| BookChange::put(&one.active.info));
        let changes = other_changes.into_iter().chain(puts).collect();
        match keys.and_then(|keys| book.apply(changes).map(|()| keys)) {
            Ok(keys) => {
                let active = prepared.into_iter().map(|one| one.active);
                self.activate(active.zip(keys).collect());
                Ok(())
            }
            Err(error) => {
                prepared.iter().for_each(|one| self.forget_keys(one));
                Err(error)
            }
        }
    }

    /// The key hashes of a subscription's owed events, if it begins to order by key. The lane notes the
    /// keys of events that arrive while these are read.
    fn keys_for(&self, prepared: &PreparedSubscription) -> Result<HashMap<u64, u64>> {
        let Some(unordered) = prepared.unordered() else { return Ok(HashMap::new()) };
        let owed = self.dispatch_state.lock().dispatcher.note_keys(unordered.id);
        self.outbox.key_hashes(&owed)
    }

    fn forget_keys(&self, prepared: &PreparedSubscription) {
        let Some(unordered) = prepared.unordered() else { return };
        let SubscriptionInfo { id, account, policy, .. } = unordered;
        let state = lane_state(&self.accounts, unordered);
        let mut dispatch = self.dispatch_state.lock();
        dispatch.dispatcher.set_lane(*id, account, policy.clone(), state, &HashMap::new());
    }

    /// Clears the health of a subscription's endpoint, and waits until that is durable. If the subscription
    /// were active first, a crash in between would restore its failing time, and the next failure could
    /// disable it.
    fn clear_failures(&self, id: SubscriptionId) -> Result<()> {
        let durable = self.clear_health(&mut self.dispatch_state.lock(), id);
        self.outbox.wait(durable)
    }

    /// Clears the health of a subscription's endpoint if it has failed, without waiting.
    pub(in crate::engine) fn clear_known_failures(&self, id: SubscriptionId) {
        let mut dispatch = self.dispatch_state.lock();
        if dispatch.dispatcher.has_failures(id) {
            drop(self.clear_health(&mut dispatch, id));
            self.wake_workers(&mut dispatch);
        }
    }

    /// Clears the health in the lane and in the outbox under one lock: the failure of an attempt in flight is
    /// recorded after this and must not restore the old health. The receipt resolves when that is durable.
    fn clear_health(&self, dispatch: &mut DispatchState, id: SubscriptionId) -> Receipt<()> {
        let (now_ms, saved_wall_ms) = (self.clock.monotonic_ms(), self.clock.wall_ms());
        let clean = LaneHealth { saved_wall_ms, ..LaneHealth::default() };
        dispatch.dispatcher.recovered_health(id, &clean, now_ms, saved_wall_ms);
        self.outbox.record_and_tell(Record::Health(id, clean))
    }

    /// Puts durable subscriptions in force, each with the key hashes of its owed events if it begins to
    /// order by key. All change under one lock: an event between two of them could miss both, where one
    /// takes precedence over the other.
    pub(in crate::engine) fn activate(&self, all: Vec<(ActiveSubscription, HashMap<u64, u64>)>) {
        // Lanes first: an event that matches must find the lane that owes it.
        let mut dispatch = self.dispatch_state.lock();
        dispatch.dispatcher.advance(self.clock.monotonic_ms());
        for (active, keys) in &all {
            let SubscriptionInfo { id, account, policy, target, .. } = &*active.info;
            let state = lane_state(&self.accounts, &active.info);
            dispatch.dispatcher.set_lane(*id, account, policy.clone(), state, keys);
            dispatch.dispatcher.set_destination(*id, destination_number(target.authority()));
        }
        self.wake_workers(&mut dispatch);
        drop(dispatch);
        for (active, _) in &all {
            log_in_force(&active.info);
        }
        let mut subscription_table = self.subscriptions.write();
        all.into_iter().for_each(|(active, _)| subscription_table.put(active));
    }

    pub(in crate::engine) fn change_state(
        &self,
        id: SubscriptionId,
        change: impl Fn(SubscriptionState) -> SubscriptionState,
    ) -> Result<()> {
        let mut book = self.lock_book()?;
        let current = self.subscriptions.read().require(id)?;
        let (before, after) = (current.info.state, change(current.info.state));
        if before == after {
            return Ok(());
        }
        let mut info = (*current.info).clone();
        info.set_state(after);
        self.save_and_activate(&mut book, ActiveSubscription::new(info)?, Some(&current.info))
    }

    /// Clears `after` of the subscriptions that waited for a removed one. Returns them, to be saved once
    /// the removal is durable: until then a crash may undo it, and they must wait again.
    pub(in crate::engine) fn release_dependents_of(
        &self,
        main: SubscriptionId,
    ) -> Result<Vec<Arc<SubscriptionInfo>>> {
        let dependents = self.subscriptions.read().dependents_of(main);
        let mut released = Vec::new();
        for id in dependents {
            let Some(dependent) = self.subscriptions.read().get(id) else { continue };
            let mut info = (*dependent.info).clone();
            info.clear_after();
            let active = ActiveSubscription::new(info)?;
            released.push(Arc::clone(&active.info));
            self.activate(vec![(active, HashMap::new())]);
        }
        Ok(released)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::attempt::Reason;
    use crate::config::Config;
    use crate::engine::{DeliveryFilter, DeliveryState, Engine};
    use crate::event::Event;
    use crate::notice::Notice;
    use crate::store::Memory;
    use crate::subscription::Subscription;
    use crate::testing::{DEADLINE, ScriptedReply, ScriptedTransport, is_within};

    fn states_of(engine: &Engine, id: SubscriptionId) -> Vec<DeliveryState> {
        let of_it = DeliveryFilter::default().subscription(id);
        let of_it = of_it.states([DeliveryState::Owed, DeliveryState::Blocked]);
        let page = engine.deliveries(&of_it, None, 10).unwrap();
        page.items.iter().map(|delivery| delivery.state).collect()
    }

    /// A receiver answers 410, and before that is kept in the book a host's call has its turn.
    /// Returns the engine with what the receiver asked for in force.
    fn disabled_after(call: SubscriptionState) -> (Engine, SubscriptionId, Arc<ScriptedTransport>) {
        let transport = Arc::new(ScriptedTransport::default());
        transport.script("gone", &[ScriptedReply::Status(410), ScriptedReply::Hangs]);
        let config = Config::new("unused").store(Arc::new(Memory::default()));
        let engine = Engine::open(config.transport(transport.clone())).unwrap();
        let named = |host: &str| Subscription::to(format!("https://{host}/hook")).unwrap();
        let id = engine.subscribe(named("gone").name("gone")).unwrap();
        let bystander = engine.subscribe(named("bystander")).unwrap();
        let notices = engine.notices();
        let shared = &engine.shared;
        let mut book = shared.book.lock();
        let events = ["1", "2", "3"].map(|payload| Event::new("ADD_TAG", payload));
        let events = events.map(|one| one.number("919999999999"));
        engine.publish_many(events.into()).unwrap().wait().unwrap();
        // The worker that is about to ask for the book holds no attempt of another's meanwhile.
        let in_time = is_within(DEADLINE, || shared.counters.attempts.value() >= 4);
        assert!(in_time, "the bystander waits for the book");
        assert_eq!(states_of(&engine, id), [DeliveryState::Blocked; 2]);
        let before = shared.subscriptions.read().get(id).unwrap();
        let called = SubscriptionInfo { state: call, ..(*before.info).clone() };
        let active = ActiveSubscription::new(called).unwrap();
        shared.save_and_activate(book.as_mut().unwrap(), active, Some(&before.info)).unwrap();
        if call == SubscriptionState::Active {
            transport.wait_for("gone", 2);
        }
        drop(book);
        let reason = Reason::Status(410);
        let disabled = Notice::Disabled { subscription: id, reason };
        let told = || notices.next_timeout(DEADLINE).unwrap();
        assert!(std::iter::repeat_with(told).take(2).any(|notice| notice == disabled));
        let state = |id| engine.subscription(id).unwrap().state;
        assert_eq!(state(id), SubscriptionState::Disabled);
        assert_eq!(state(bystander), SubscriptionState::Active);
        (engine, id, transport)
    }

    #[test]
    fn replacing_a_subscription_while_it_is_disabled_keeps_that() {
        let (engine, id, _transport) = disabled_after(SubscriptionState::Active);
        // The second attempt, which began in between, is not called back; the third never begins.
        assert_eq!(states_of(&engine, id), [DeliveryState::Owed, DeliveryState::Blocked]);
    }

    #[test]
    fn pausing_a_subscription_while_it_is_disabled_keeps_that() {
        let (engine, id, transport) = disabled_after(SubscriptionState::Paused);
        assert_eq!(states_of(&engine, id), [DeliveryState::Blocked; 2]);
        engine.resume(id).unwrap();
        transport.wait_for("gone", 2);
        assert_eq!(states_of(&engine, id), [DeliveryState::Owed; 2]);
    }
}

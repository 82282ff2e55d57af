//! Changes the set of subscriptions: one, or several together, all or none. Everything is checked before
//! anything changes, and a change is durable before it is in force. Removals come first and are not undone:
//! the deliveries of a removed subscription are cancelled by then.

pub(super) mod lifecycle;
mod log;
pub(super) mod match_report;
mod secret_rotation;
pub(super) mod table;
pub(super) mod test_delivery;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use self::lifecycle::PreparedSubscription;
use self::log::log_removed;
use self::table::ActiveSubscription;
use super::Engine;
use super::shared::Shared;
use crate::book::{BookChange, SubscriptionStore};
use crate::error::{Error, Result};
use crate::event::WabaNumber;
use crate::notice::Notice;
use crate::subscription::{
    Filter, Subscription, SubscriptionId, SubscriptionInfo, SubscriptionState,
};

/// One change of an account's subscriptions.
#[derive(Debug)]
pub(crate) enum SubscriptionChange {
    /// Adds a subscription; its name must be free.
    Create(Subscription),
    /// Replaces the subscription of this id, which keeps its owed deliveries. It becomes active if it was
    /// disabled, and stays paused if it was paused.
    Replace(SubscriptionId, Subscription),
    /// Removes a subscription and cancels its owed deliveries.
    Remove(SubscriptionId),
    /// Saves a gateway's note for the account under a key; an empty text deletes it.
    Note { key: &'static str, text: String },
}

/// The subscriptions of an account while a change is decided.
#[derive(Debug)]
pub(crate) struct AccountSnapshot {
    /// Ordered by id.
    pub(crate) subscriptions: Vec<Arc<SubscriptionInfo>>,
    /// The gateways' notes for the account, by key.
    pub(crate) notes: BTreeMap<String, String>,
    /// The id of the first subscription created, so that others can refer to it in the same change.
    pub(crate) fresh_id: SubscriptionId,
}

/// What happens when a name is registered that is already in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExistingName {
    /// Replaces the subscription, which keeps its id and its owed deliveries.
    Replace,
    Refuse,
}

#[derive(Default)]
struct ChangePlan {
    prepared: Vec<PreparedSubscription>,
    removed: Vec<SubscriptionId>,
    notes: Vec<(&'static str, String)>,
}

impl Engine {
    /// Checks whether a subscription could be registered, except for its name and `after`. Changes nothing.
    pub(crate) fn check_subscription(&self, subscription: Subscription) -> Result<()> {
        let shared = &self.shared;
        ActiveSubscription::new(shared.validated(subscription)?).map(drop)
    }

    /// Removes a subscription. What it is owed is cancelled and counted; those that waited for its
    /// deliveries ([`Policy::after`](crate::policy::Policy::after)) wait no longer. Durable and in force when
    /// it returns: blocks on two syncs, and one more for each that waited. An attempt under way is
    /// not called back.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Store`] or [`Error::Directory`] when the book took no write, and then
    /// the removal is finished by the next call that writes to it, or at the next open; [`Error::Refused`] or [`Error::Unknown`] while the device refuses,
    /// and then it is in force in this engine and made durable when the device takes writes;
    /// [`Error::Closed`] when the engine ended first, and then the next open shows whether it was
    /// removed.
    pub fn unsubscribe(&self, id: SubscriptionId) -> Result<()> {
        let shared = &self.shared;
        let mut book = shared.lock_book()?;
        if !shared.subscriptions.read().is_held(id) {
            shared.subscriptions.read().require(id)?;
        }
        let plan = ChangePlan { removed: vec![id], ..ChangePlan::default() };
        shared.carry_out(&mut book, "", plan).map(drop)
    }
}

/// For gateways, which change several subscriptions at a time.
impl Engine {
    /// Makes several changes to the subscriptions of an account, all or none. `decide` is given their
    /// current state, and no other change happens meanwhile. Returns the ids created or replaced, in
    /// order, and the second value of `decide`.
    pub(crate) fn change<T, E: From<Error>>(
        &self,
        account: &str,
        decide: impl FnOnce(&AccountSnapshot) -> std::result::Result<(Vec<SubscriptionChange>, T), E>,
    ) -> std::result::Result<(Vec<SubscriptionId>, T), E> {
        let shared = &self.shared;
        let mut book = shared.lock_book()?;
        let account_snapshot = shared.snapshot_in(&mut book, account)?;
        let (changes, answer) = decide(&account_snapshot)?;
        let plan = shared.plan(account, account_snapshot, changes)?;
        Ok((shared.carry_out(&mut book, account, plan)?, answer))
    }

    pub(crate) fn account_snapshot(&self, account: &str) -> Result<AccountSnapshot> {
        let shared = &self.shared;
        shared.snapshot_in(&mut *shared.lock_book()?, account)
    }
}

/// How often a change is tried while other changes of the same subscription get ahead of it.
const AMEND_TRIES_MAX: usize = 100;

impl Shared {
    /// Registers subscriptions under names that each occur once, in one batch. One that is already
    /// registered in the same form is not written again.
    pub(super) fn subscribe(
        &self,
        subscriptions: Vec<Subscription>,
        existing: ExistingName,
    ) -> Result<Vec<SubscriptionId>> {
        let mut book = self.lock_book()?;
        let (mut plan, mut ids) = (ChangePlan::default(), Vec::new());
        let (mut names, mut fresh_id) = (HashSet::new(), book.fresh_id());
        for subscription in subscriptions {
            let mut info = self.validated(subscription)?;
            let before = self.subscriptions.read().named(&info.account, &info.name);
            let held = self.subscriptions.read().held_named(&info.account, &info.name);
            let is_free = names.insert((info.account.clone(), info.name.clone()));
            if !is_free || (before.is_some() && existing == ExistingName::Refuse) {
                return Err(Error::NameTaken { name: info.name });
            }
            match &before {
                Some(before) => inherit(&mut info, before),
                None => info.id = held.map_or_else(|| take_id(&mut fresh_id), Ok)?,
            }
            ids.push(info.id);
            if before.as_deref() == Some(&info) {
                continue;
            }
            self.check_after(&info, &plan.prepared)?;
            let active = ActiveSubscription::new(info)?;
            plan.prepared.push(PreparedSubscription { active, before });
        }
        self.check_room(&plan)?;
        if !plan.prepared.is_empty() {
            self.save_and_activate_all(&mut book, plan.prepared, Vec::new())?;
        }
        Ok(ids)
    }

    fn snapshot_in(&self, book: &mut SubscriptionStore, account: &str) -> Result<AccountSnapshot> {
        let notes = book.notes_of(account)?;
        let subscriptions = self.subscriptions.read().of_account(account);
        Ok(AccountSnapshot { subscriptions, notes, fresh_id: book.fresh_id() })
    }

    pub(super) fn revise<E: From<Error>>(
        &self,
        id: SubscriptionId,
        mut revise: impl FnMut(
            &SubscriptionInfo,
        ) -> std::result::Result<(Subscription, SubscriptionState), E>,
    ) -> std::result::Result<(), E> {
        self.amend(id, |before| {
            let (subscription, state) = revise(before)?;
            let mut after = self.validated_change(subscription, Some(before))?;
            after.disabled_reason.clone_from(&before.disabled_reason);
            after.set_state(state);
            keep_retiring(&mut after, before);
            Ok(after)
        })
    }

    /// Replaces a subscription by a changed form of itself. `amend` may be code of the host, so it is called
    /// without a lock, and again if the subscription was changed meanwhile.
    pub(super) fn amend<E: From<Error>>(
        &self,
        id: SubscriptionId,
        mut amend: impl FnMut(&SubscriptionInfo) -> std::result::Result<SubscriptionInfo, E>,
    ) -> std::result::Result<(), E> {
        for _ in 0..AMEND_TRIES_MAX {
            self.check_open()?;
            let before = Arc::clone(&self.subscriptions.read().require(id)?.info);
            let after = amend(&before)?;
            let mut book = self.lock_book()?;
            if self.subscriptions.read().require(id)?.info == before {
                return Ok(self.replace(&mut book, &before, after)?);
            }
        }
        Err(Error::Busy { reason: format!("subscription {id} was changed again and again") }.into())
    }

    fn replace(
        &self,
        book: &mut SubscriptionStore,
        before: &Arc<SubscriptionInfo>,
        mut after: SubscriptionInfo,
    ) -> Result<()> {
        let id = before.id;
        (after.id, after.created_at_ms) = (id, before.created_at_ms);
        let taken = self.subscriptions.read().named(&after.account, &after.name);
        let is_held = self.subscriptions.read().held_named(&after.account, &after.name).is_some();
        let is_taken = is_held || taken.is_some_and(|taken| taken.id != id);
        if after.account != before.account || is_taken {
            return Err(Error::NameTaken { name: after.name });
        }
        self.check_after(&after, &[])?;
        let changed = std::iter::once((Some(&**before), &after));
        self.check_text_room(changed, &[])?;
        self.save_and_activate(book, ActiveSubscription::new(after)?, Some(before))
    }

    /// Checks each change against the state that the changes before it leave.
    fn plan(
        &self,
        account: &str,
        account_snapshot: AccountSnapshot,
        changes: Vec<SubscriptionChange>,
    ) -> Result<ChangePlan> {
        let mut names: HashMap<String, SubscriptionId> = account_snapshot
            .subscriptions
            .iter()
            .map(|known| (known.name.clone(), known.id))
            .collect();
        let known: HashMap<_, _> =
            account_snapshot.subscriptions.into_iter().map(|known| (known.id, known)).collect();
        names.extend(self.subscriptions.read().held_names(account));
        let mut plan = ChangePlan::default();
        let mut fresh_id = account_snapshot.fresh_id;
        for change in changes {
            let (before, subscription) = match change {
                SubscriptionChange::Note { key, text } => {
                    plan.notes.push((key, text));
                    continue;
                }
                SubscriptionChange::Remove(id) => {
                    let removed = known.get(&id).ok_or_else(|| table::unknown(id))?;
                    names.remove(&removed.name);
                    plan.removed.push(id);
                    continue;
                }
                SubscriptionChange::Create(subscription) => (None, subscription),
                SubscriptionChange::Replace(id, subscription) => {
                    let before = known.get(&id).ok_or_else(|| table::unknown(id))?;
                    (Some(Arc::clone(before)), subscription)
                }
            };
            let subscription = subscription.account(account);
            let mut info = self.validated_change(subscription, before.as_deref())?;
            match &before {
                Some(before) => {
                    inherit(&mut info, before);
                    names.remove(&before.name);
                }
                None => info.id = take_id(&mut fresh_id)?,
            }
            if names.insert(info.name.clone(), info.id).is_some() {
                return Err(Error::NameTaken { name: info.name });
            }
            self.check_after(&info, &plan.prepared)?;
            plan.prepared
                .push(PreparedSubscription { active: ActiveSubscription::new(info)?, before });
        }
        self.check_room(&plan)?;
        Ok(plan)
    }

    fn check_room(&self, plan: &ChangePlan) -> Result<()> {
        let created = plan.prepared.iter().filter(|one| one.before.is_none()).count();
        let left = self.subscriptions.read().len().saturating_sub(plan.removed.len());
        let (given, limit) = (left + created, self.limits.subscriptions_max);
        if created > 0 && given > limit {
            let (given, limit) = (given as u64, limit as u64);
            return Err(Error::TooLarge { field: "subscriptions".to_owned(), given, limit });
        }
        let changed = plan.prepared.iter().map(|one| (one.before.as_deref(), &*one.active.info));
        self.check_text_room(changed, &plan.removed)?;
        let created = plan.prepared.iter().filter(|one| one.before.is_none());
        let accounts = created.map(|one| one.active.info.account.as_str());
        self.check_account_room(accounts, &plan.removed)
    }

    /// Makes a plan durable and puts it in force.
    fn carry_out(
        &self,
        book: &mut SubscriptionStore,
        account: &str,
        plan: ChangePlan,
    ) -> Result<Vec<SubscriptionId>> {
        let ChangePlan { prepared, removed, notes } = plan;
        let ids = prepared.iter().map(|one| one.active.info.id).collect();
        let mut released = Vec::new();
        for (place, id) in removed.iter().enumerate() {
            match self.remove_subscription(*id) {
                Ok(dependents) => released.extend(dependents),
                Err(error) => {
                    // It is no longer in force, and its name is free: it must be gone from the book
                    // before another one of its name is in it.
                    book.remove_later(removed.iter().take(place + 1));
                    return Err(error);
                }
            }
        }
        // Those that the same change replaces are saved in their new form.
        released.retain(|one| prepared.iter().all(|other| other.active.info.id != one.id));
        let mut changes: Vec<_> = released.iter().map(|one| BookChange::put(one)).collect();
        changes.extend(removed.iter().map(|id| BookChange::Remove(*id)));
        let notes = notes.iter();
        changes.extend(notes.map(|(key, text)| BookChange::note(account, key, text)));
        self.save_and_activate_all(book, prepared, changes)?;
        self.outbox.removals_stored(&removed);
        Ok(ids)
    }

    /// Removes a subscription from this engine and writes its tombstone. Returns the subscriptions that
    /// waited for it, released. The caller writes the book afterwards: an entry with a tombstone is
    /// removed at the next open, and its dependents are released.
    fn remove_subscription(&self, id: SubscriptionId) -> Result<Vec<Arc<SubscriptionInfo>>> {
        let mut subscription_table = self.subscriptions.write();
        let removed = subscription_table.remove(id);
        if !subscription_table.release_held(id) && removed.is_none() {
            return Err(table::unknown(id));
        }
        drop(subscription_table);
        if let Some(removed) = &removed {
            // Paused first, so that no attempt starts while the tombstone becomes durable.
            let (policy, paused) = (removed.policy.clone(), SubscriptionState::Paused);
            let mut dispatch = self.dispatch_state.lock();
            dispatch.dispatcher.set_lane(id, &removed.account, policy, paused, &HashMap::new());
        }
        let told = self.outbox.wait(self.outbox.forget(id));
        let mut dispatch = self.dispatch_state.lock();
        if let Some(removed) = &removed
            && let Some(lane) = dispatch.dispatcher.lane_stats_of(id, self.clock.monotonic_ms())
        {
            self.shares.of(&removed.account).note_removed(&lane);
        }
        let cancelled = dispatch.dispatcher.remove_lane(id);
        let deliveries = cancelled.len();
        self.counters.cancelled.add(deliveries);
        drop(dispatch);
        self.outbox.cancel(cancelled);
        if deliveries > 0 {
            self.notices.send(&Notice::Cancelled { subscription: id, deliveries });
        }
        log_removed(id, removed.as_deref(), deliveries);
        let released = self.release_dependents_of(id)?;
        told.map(|()| released)
    }

    /// Checks everything about a subscription that can be checked before it is used.
    fn validated(&self, subscription: Subscription) -> Result<SubscriptionInfo> {
        self.validated_change(subscription, None)
    }

    /// The same for a new form of `before`: what stays as it was is not checked again, because a number may have
    /// gone to another account meanwhile, and that account may be removed.
    fn validated_change(
        &self,
        subscription: Subscription,
        before: Option<&SubscriptionInfo>,
    ) -> Result<SubscriptionInfo> {
        let kept = before.filter(|before| subscription.account.as_ref() == Some(&before.account));
        let kept = kept.and_then(|before| self.accounts.get(&before.account));
        let account = match kept {
            Some(account) => account,
            None => self.accounts.resolve(subscription.account.as_deref())?,
        };
        let before = before.filter(|before| before.account == account.id());
        let had_number = |number: &WabaNumber| {
            let numbers = before.and_then(|before| before.filter.numbers.as_ref());
            numbers.is_some_and(|numbers| numbers.contains(number))
        };
        let mut filter = Filter::parse(
            subscription.events.as_deref(),
            subscription.numbers.as_deref(),
            &self.catalogue,
        )?;
        filter.condition.clone_from(&subscription.condition);
        for (place, given) in subscription.numbers.iter().flatten().enumerate() {
            if let Ok(number) = given
                && !had_number(number)
                && !self.accounts.may_use_number(&account, *number)
            {
                return Err(Error::forbidden(format!("numbers[{place}]"), number));
            }
        }
        if before.is_none_or(|before| before.target.url() != subscription.target.url()) {
            self.guard.admit_url(subscription.target.url())?;
        }
        subscription.target.check()?;
        subscription.policy.check()?;
        subscription.check_name()?;
        Ok(SubscriptionInfo {
            id: SubscriptionId::default(),
            account: account.id().to_owned(),
            name: subscription.name_or_url(),
            description: subscription.description,
            filter,
            target: subscription.target,
            policy: subscription.policy,
            secret: subscription.secret,
            retiring: Vec::new(),
            profile: subscription.profile,
            precedence: subscription.precedence,
            state: SubscriptionState::Active,
            disabled_reason: None,
            created_at_ms: self.clock.wall_ms(),
        })
    }
}

/// The next id. Ids are never reused, so they can be exhausted.
fn take_id(fresh_id: &mut SubscriptionId) -> Result<SubscriptionId> {
    let id = *fresh_id;
    if id.0 == u32::MAX {
        let field = "ids of subscriptions, which are never reused".to_owned();
        let (given, limit) = (u64::from(id.0), u64::from(id.0) - 1);
        return Err(Error::TooLarge { field, given, limit });
    }
    *fresh_id = SubscriptionId(id.0 + 1);
    Ok(id)
}

/// What a replaced subscription hands on to the new one.
fn inherit(info: &mut SubscriptionInfo, before: &SubscriptionInfo) {
    info.id = before.id;
    info.created_at_ms = before.created_at_ms;
    if before.state == SubscriptionState::Paused {
        info.state = SubscriptionState::Paused;
    }
    keep_retiring(info, before);
}

/// Keeps the retiring secrets while the secret stays the same.
fn keep_retiring(info: &mut SubscriptionInfo, before: &SubscriptionInfo) {
    if info.secret == before.secret {
        info.retiring.clone_from(&before.retiring);
    }
}

#[cfg(test)]
mod tests;

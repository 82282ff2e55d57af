//! Decides how the set of subscriptions changes: several together, all or none.
//!
//! Leaves to others: keeping them (`subscription::book`), who may wait for whom (`terms`), what each
//! gateway asks for (`registration`). Invariant: everything is checked before anything is changed, and
//! what is in force is on the device first. Removals come before the rest and are not undone: what a
//! subscription was owed is cancelled by then.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Engine;
use super::core::Core;
use super::registry::{self, Served};
use super::terms::Adopted;
use crate::clock::fill_random;
use crate::error::{Error, Result};
use crate::notice::Notice;
use crate::subscription::{
    Book, BookChange, Filter, LONGEST_MS, Registered, Retiring, Secret, State, Subscription,
    SubscriptionId,
};

/// One change of the subscriptions of an account.
#[derive(Debug)]
pub(crate) enum Change {
    /// A subscription under a name that is not taken.
    Create(Subscription),
    /// Another subscription under this id, which keeps what it is owed. It is served again if it was
    /// disabled, and stays paused.
    Replace(SubscriptionId, Subscription),
    /// The subscription is no more, and what it is owed is cancelled.
    Remove(SubscriptionId),
    /// What the gateway keeps for the account under a key; an empty text for no longer.
    Note {
        /// The gateway's key.
        key: &'static str,
        /// What it keeps.
        text: String,
    },
}

/// How the subscriptions of an account stand while a change is decided.
#[derive(Debug)]
pub(crate) struct Standing {
    /// In the order of their ids.
    pub(crate) subscriptions: Vec<Arc<Registered>>,
    /// What gateways keep for the account, by key.
    pub(crate) notes: BTreeMap<String, String>,
    /// The id of the first that is created, so that others can name it in the same change.
    pub(crate) fresh_id: SubscriptionId,
}

/// Changes that were checked.
#[derive(Default)]
struct Plan {
    adopted: Vec<Adopted>,
    removed: Vec<SubscriptionId>,
    notes: Vec<(&'static str, String)>,
}

/// For gateways, which change several subscriptions at a time.
impl Engine {
    /// Makes several changes to the subscriptions of an account together, all or none, of which
    /// `decide` is told how they stand; nothing else changes them meanwhile. Returns the ids of those
    /// that were created or replaced, in order, and what `decide` answers beside.
    pub(crate) fn change<T, E: From<Error>>(
        &self,
        account: &str,
        decide: impl FnOnce(&Standing) -> std::result::Result<(Vec<Change>, T), E>,
    ) -> std::result::Result<(Vec<SubscriptionId>, T), E> {
        self.core.change(account, decide)
    }

    /// How the subscriptions of an account stand, with what gateways keep beside them.
    pub(crate) fn standing(&self, account: &str) -> Result<Standing> {
        self.core.standing(account)
    }
}

/// How many replaced secrets sign beside the newest.
const RETIRING_MAX: usize = 4;

impl Core {
    pub(super) fn subscribe(
        &self,
        subscription: Subscription,
        replace: bool,
    ) -> Result<SubscriptionId> {
        self.check_open()?;
        let mut book = self.book.lock();
        let book = book.as_mut().ok_or(Error::Closed)?;
        let mut registered = self.registered(subscription)?;
        let before = self.registry.read().named(&registered.account, &registered.name);
        match &before {
            Some(_) if !replace => return Err(Error::NameTaken { name: registered.name }),
            Some(before) => take_over(&mut registered, before),
            None => registered.id = book.fresh_id(),
        }
        self.check_after(&registered, &[])?;
        let id = registered.id;
        let adopted = vec![Adopted { served: Served::new(registered)?, before }];
        let plan = Plan { adopted, ..Plan::default() };
        self.check_room(&plan)?;
        self.adopt_all(book, plan.adopted, Vec::new())?;
        Ok(id)
    }

    /// Whether a subscription could be registered, but for its name and for who it waits for.
    pub(super) fn check_subscription(&self, subscription: Subscription) -> Result<()> {
        Served::new(self.registered(subscription)?).map(drop)
    }

    pub(super) fn unsubscribe(&self, id: SubscriptionId) -> Result<()> {
        self.check_open()?;
        let mut book = self.book.lock();
        let book = book.as_mut().ok_or(Error::Closed)?;
        let known = self.registry.read().known(id)?;
        let plan = Plan { removed: vec![id], ..Plan::default() };
        self.carry_out(book, &known.registered.account, plan).map(drop)
    }

    pub(super) fn change<T, E: From<Error>>(
        &self,
        account: &str,
        decide: impl FnOnce(&Standing) -> std::result::Result<(Vec<Change>, T), E>,
    ) -> std::result::Result<(Vec<SubscriptionId>, T), E> {
        self.check_open()?;
        let mut book = self.book.lock();
        let book = book.as_mut().ok_or(Error::Closed)?;
        let standing = self.standing_in(book, account)?;
        let (changes, answer) = decide(&standing)?;
        let plan = self.plan(account, standing, changes)?;
        Ok((self.carry_out(book, account, plan)?, answer))
    }

    /// How the subscriptions of an account stand.
    pub(super) fn standing(&self, account: &str) -> Result<Standing> {
        self.check_open()?;
        let mut book = self.book.lock();
        self.standing_in(book.as_mut().ok_or(Error::Closed)?, account)
    }

    fn standing_in(&self, book: &mut Book, account: &str) -> Result<Standing> {
        let notes = book.notes_of(account)?;
        let subscriptions = self.registry.read().of_account(account);
        Ok(Standing { subscriptions, notes, fresh_id: book.fresh_id() })
    }

    pub(super) fn revise(
        &self,
        id: SubscriptionId,
        revise: impl FnOnce(&Registered) -> Result<(Subscription, State)>,
    ) -> Result<()> {
        self.amend(id, |before| {
            let (subscription, state) = revise(before)?;
            let mut after = self.registered(subscription)?;
            after.state = state;
            keep_retiring(&mut after, before);
            Ok(after)
        })
    }

    pub(super) fn rotate_secret(
        &self,
        id: SubscriptionId,
        secret: Option<Secret>,
        overlap_ms: u64,
    ) -> Result<Secret> {
        if overlap_ms > LONGEST_MS {
            let expected = format!("0 to {LONGEST_MS} milliseconds");
            return Err(Error::invalid("overlap_ms", overlap_ms, expected));
        }
        let secret = secret.map_or_else(fresh_secret, Ok)?;
        let newest = secret.clone();
        self.amend(id, |before| {
            let now_ms = self.clock.wall_ms();
            let mut after = before.clone();
            match after.secret.replace(newest).filter(|_| overlap_ms > 0) {
                Some(secret) => {
                    after.retiring.retain(|one| one.until_ms > now_ms);
                    after.retiring.push(Retiring { secret, until_ms: now_ms + overlap_ms });
                    let surplus = after.retiring.len().saturating_sub(RETIRING_MAX);
                    after.retiring.drain(..surplus);
                }
                None => after.retiring.clear(),
            }
            Ok(after)
        })?;
        Ok(secret)
    }

    /// Puts another form of a subscription in force, as one change.
    fn amend(
        &self,
        id: SubscriptionId,
        amend: impl FnOnce(&Registered) -> Result<Registered>,
    ) -> Result<()> {
        self.check_open()?;
        let mut book = self.book.lock();
        let book = book.as_mut().ok_or(Error::Closed)?;
        let known = self.registry.read().known(id)?;
        let before = &known.registered;
        let mut after = amend(before)?;
        (after.id, after.created_at_ms) = (id, before.created_at_ms);
        let taken = self.registry.read().named(&after.account, &after.name);
        if after.account != before.account || taken.is_some_and(|taken| taken.id != id) {
            return Err(Error::NameTaken { name: after.name });
        }
        self.check_after(&after, &[])?;
        self.adopt(book, Served::new(after)?, Some(before))
    }

    /// Checks the changes, one after the other, against what the ones before leave.
    fn plan(&self, account: &str, standing: Standing, changes: Vec<Change>) -> Result<Plan> {
        let mut names: HashMap<String, SubscriptionId> =
            standing.subscriptions.iter().map(|known| (known.name.clone(), known.id)).collect();
        let known: HashMap<_, _> =
            standing.subscriptions.into_iter().map(|known| (known.id, known)).collect();
        let mut plan = Plan::default();
        let mut fresh_id = standing.fresh_id;
        for change in changes {
            let (before, subscription) = match change {
                Change::Note { key, text } => {
                    plan.notes.push((key, text));
                    continue;
                }
                Change::Remove(id) => {
                    let removed = known.get(&id).ok_or_else(|| registry::unknown(id))?;
                    names.remove(&removed.name);
                    plan.removed.push(id);
                    continue;
                }
                Change::Create(subscription) => (None, subscription),
                Change::Replace(id, subscription) => {
                    let before = known.get(&id).ok_or_else(|| registry::unknown(id))?;
                    (Some(Arc::clone(before)), subscription)
                }
            };
            let mut registered = self.registered(subscription.account(account))?;
            match &before {
                Some(before) => {
                    take_over(&mut registered, before);
                    names.remove(&before.name);
                }
                None => {
                    registered.id = fresh_id;
                    fresh_id = SubscriptionId(fresh_id.0.saturating_add(1));
                }
            }
            if names.insert(registered.name.clone(), registered.id).is_some() {
                return Err(Error::NameTaken { name: registered.name });
            }
            self.check_after(&registered, &plan.adopted)?;
            plan.adopted.push(Adopted { served: Served::new(registered)?, before });
        }
        self.check_room(&plan)?;
        Ok(plan)
    }

    fn check_room(&self, plan: &Plan) -> Result<()> {
        let created = plan.adopted.iter().filter(|one| one.before.is_none()).count();
        let left = self.registry.read().len().saturating_sub(plan.removed.len());
        let (given, limit) = (left + created, self.limits.subscriptions_max);
        if created > 0 && given > limit {
            let (given, limit) = (given as u64, limit as u64);
            return Err(Error::TooLarge { field: "subscriptions".to_owned(), given, limit });
        }
        Ok(())
    }

    /// Makes a plan durable and puts it in force.
    fn carry_out(&self, book: &mut Book, account: &str, plan: Plan) -> Result<Vec<SubscriptionId>> {
        let Plan { adopted, removed, notes } = plan;
        let ids = adopted.iter().map(|one| one.served.registered.id).collect();
        let mut freed = Vec::new();
        for id in &removed {
            freed.extend(self.let_go(*id)?);
        }
        // What is replaced besides is kept as it is replaced.
        freed.retain(|one| adopted.iter().all(|other| other.served.registered.id != one.id));
        let mut changes: Vec<_> = freed.iter().map(|one| BookChange::Put(one)).collect();
        changes.extend(removed.iter().map(|id| BookChange::Remove(*id)));
        let notes = notes.iter();
        changes.extend(notes.map(|(key, text)| BookChange::Note { account, key, text }));
        self.adopt_all(book, adopted, changes)?;
        Ok(ids)
    }

    /// Removes a subscription from this engine, its tombstone on the device. Returns those that waited
    /// for it as they are now. The book goes second: what is in it and has a tombstone is removed at
    /// the next open, and those that waited for it are let go.
    fn let_go(&self, id: SubscriptionId) -> Result<Vec<Arc<Registered>>> {
        let removed = self.registry.write().remove(id).ok_or_else(|| registry::unknown(id))?;
        // Paused first, so that nothing more is tried while the removal becomes durable.
        let policy = removed.policy.clone();
        self.drive.lock().dispatcher.set_lane(id, policy, State::Paused, &HashMap::new());
        let told = self.outbox.wait(self.outbox.forget(id));
        let mut drive = self.drive.lock();
        let cancelled = drive.dispatcher.remove_lane(id);
        let deliveries = cancelled.len();
        self.counters.cancelled.add(deliveries);
        drop(drive);
        self.outbox.cancel(cancelled);
        if deliveries > 0 {
            self.board.tell(&Notice::Cancelled { subscription: id, deliveries });
        }
        tracing::info!(subscription = %id, deliveries, "subscription removed");
        let freed = self.open_gates_of(id)?;
        told.map(|()| freed)
    }

    /// Checks everything about a subscription that can be known before it is used.
    fn registered(&self, subscription: Subscription) -> Result<Registered> {
        let account = self.accounts.meant(subscription.account.as_deref())?;
        let filter = Filter::parse(
            subscription.events.as_deref(),
            subscription.numbers.as_deref(),
            &self.catalogue,
        )?;
        for (place, given) in subscription.numbers.iter().flatten().enumerate() {
            if let Ok(number) = given
                && !self.accounts.may_use_number(account, *number)
            {
                return Err(Error::forbidden(format!("numbers[{place}]"), number));
            }
        }
        self.guard.admit_url(subscription.target.url())?;
        subscription.target.check()?;
        subscription.policy.check()?;
        subscription.check_name()?;
        Ok(Registered {
            id: SubscriptionId::default(),
            account: account.name().to_owned(),
            name: subscription.name_or_url(),
            filter,
            target: subscription.target,
            policy: subscription.policy,
            secret: subscription.secret,
            retiring: Vec::new(),
            profile: subscription.profile,
            level: subscription.level,
            state: State::Active,
            created_at_ms: self.clock.wall_ms(),
        })
    }
}

/// What a subscription keeps when another takes its place.
fn take_over(registered: &mut Registered, before: &Registered) {
    registered.id = before.id;
    registered.created_at_ms = before.created_at_ms;
    if before.state == State::Paused {
        registered.state = State::Paused;
    }
    keep_retiring(registered, before);
}

/// With another secret, what was replaced before is of no use to the receiver.
fn keep_retiring(registered: &mut Registered, before: &Registered) {
    if registered.secret == before.secret {
        registered.retiring.clone_from(&before.retiring);
    }
}

/// A secret of Standard Webhooks with as many random bytes as its hash has.
fn fresh_secret() -> Result<Secret> {
    let mut key = [0_u8; 32];
    fill_random(&mut key).map_err(|error| Error::Poisoned { why: error.to_string() })?;
    Ok(Secret::new(format!("{}{}", Secret::STANDARD_PREFIX, STANDARD.encode(key))))
}

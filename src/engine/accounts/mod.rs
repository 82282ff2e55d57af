//! Changes accounts while the engine runs. A change is one record of the book, so it is whole or not at all, also
//! across a crash, and it is durable before it is in force. The deliveries of an account that is not active are
//! held: their lanes are paused, whatever the state of their subscriptions.

#[cfg(feature = "postgres")]
pub(super) mod adopted;
pub(super) mod declarations;
pub(super) mod stats;
pub(super) mod usage;

use std::collections::HashMap;
use std::sync::Arc;

use self::declarations::AccountChanges;
use super::Engine;
use super::deliveries::dead_letter_filter::DeadLetterFilter;
use super::deliveries::purge::{PurgeFilter, Purged};
use super::shared::Shared;
use super::storage::migration;
use super::subscriptions::table::ActiveSubscription;
use crate::account::{Account, AccountId, AccountInfo, AccountState, Accounts, ApiKey, fresh_key};
use crate::book::{BookChange, SubscriptionStore};
use crate::clock::fill_random;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::notice::Notice;
use crate::secret::Secret;
use crate::subscription::{SubscriptionInfo, SubscriptionState};
use crate::text::{hex, rfc3339};

/// How often a change is tried while other changes of the same account get ahead of it.
const TRIES_MAX: usize = 100;

const KEYS_MAX: usize = 100;

impl Engine {
    /// The accounts. What the handle finds is always current.
    pub fn accounts(&self) -> &Accounts {
        &self.shared.accounts
    }

    /// Creates an account. Its keys stay until they are removed. Durable and in force when it returns: blocks on
    /// a sync.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault: a name, WABA, number or key that another account has, too.
    /// After [`Error::Store`] or [`Error::Directory`] it does not exist in this engine.
    ///
    /// ```
    /// # use wabahook::{Account, ApiKey, Config, Engine};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let key = ApiKey::generate()?;
    /// let acme = Account::new("acme").api_key(key.reveal_text()).waba("123065260884961", ["919999999999"]);
    /// let acme = engine.create_account(acme)?;
    /// assert_eq!(engine.accounts().authenticate(key.reveal_text().as_bytes()).unwrap().id, acme.id);
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create_account(&self, account: Account) -> Result<Arc<AccountInfo>> {
        let shared = &self.shared;
        let mut book = shared.lock_book()?;
        let mut info = account.checked(AccountId::fresh()?, shared.clock.wall_ms(), &[])?;
        for key in &mut info.keys {
            *key =
                ApiKey::new(fresh_key_id()?, "first key".to_owned(), key.digest, key.created_at_ms);
        }
        shared.accounts.check(&info)?;
        shared.save_account(&mut book, info)
    }

    /// Changes an account's name, WABAs, number, limits or state: `revise` is given its current form and returns
    /// the new one, usually [`Account::from`] with changes. It is called without a lock, and again if the account
    /// was changed meanwhile. Keys are left as they are. Durable and in force when it returns: blocks on a sync.
    ///
    /// # Errors
    /// As [`create_account`](Engine::create_account); [`Error::NotFound`]; what `revise` returns;
    /// [`Error::Invalid`] for an account that the configuration declares, unless only its state changes.
    ///
    /// ```
    /// # use wabahook::{Account, AccountState, Config, Engine, Error};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let acme = engine.create_account(Account::new("acme"))?;
    /// let suspended = AccountState::Suspended;
    /// engine.revise_account(acme.id(), |acme| Ok::<_, Error>(Account::from(acme).state(suspended)))?;
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn revise_account<E: From<Error>>(
        &self,
        id: &str,
        mut revise: impl FnMut(&AccountInfo) -> std::result::Result<Account, E>,
    ) -> std::result::Result<Arc<AccountInfo>, E> {
        for _ in 0..TRIES_MAX {
            let before = self.shared.require_account(id)?;
            let account = revise(&before)?;
            if let Some(after) = self.shared.revise_account(&before, &account)? {
                return Ok(after);
            }
        }
        Err(Error::Busy { reason: format!("account {id} was changed again and again") }.into())
    }

    /// Removes an account: its keys end, its name, numbers and WABAs are free for others, and its deliveries are
    /// held until it is resumed, until they are [moved](Engine::move_account), or until they are
    /// [forgotten](Engine::forget_account). A later account of the same name is another one. Durable and in force
    /// when it returns: blocks on a sync.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for an account that the configuration declares.
    pub fn remove_account(&self, id: &str) -> Result<Arc<AccountInfo>> {
        let shared = &self.shared;
        let mut book = shared.lock_book()?;
        let before = shared.require_account(id)?;
        match (before.is_removed(), before.is_declared) {
            (true, _) => Ok(before),
            (false, true) => Err(declared(&before)),
            (false, false) => {
                shared.save_account(&mut book, before.removed(shared.clock.wall_ms()))
            }
        }
    }

    /// Moves the subscriptions of an account, with all they are owed and their dead letters, to another account,
    /// and removes the first. After a crash in between, the next open finishes the move. Blocks on a sync for
    /// about every hundred subscriptions.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] while the first is active or declared, or the second is removed or
    /// the same; [`Error::NameTaken`] where both have a subscription of the same name.
    pub fn move_account(&self, from: &str, to: &str) -> Result<Arc<AccountInfo>> {
        let shared = &self.shared;
        let mut book = shared.lock_book()?;
        let (from, to) = (shared.require_account(from)?, shared.require_account(to)?);
        // A move that failed halfway is finished by another call.
        let is_moved_elsewhere = from.moved_to.as_ref().is_some_and(|other| *other != to.id);
        if from.state == AccountState::Active || from.is_declared || is_moved_elsewhere {
            let expected = "a suspended or removed account that is not declared and was not moved";
            return Err(Error::invalid("account", from.id(), expected));
        }
        if to.is_removed() || to.id == from.id {
            let expected = "another account, which is not removed";
            return Err(Error::invalid("to", to.id(), expected));
        }
        let own = shared.subscriptions.read().of_account(from.id());
        for one in &own {
            let table = shared.subscriptions.read();
            let is_held = table.held_named(to.id(), &one.name).is_some();
            if is_held || table.named(to.id(), &one.name).is_some() {
                return Err(Error::NameTaken { name: one.name.clone() });
            }
        }
        let moved =
            AccountInfo { moved_to: Some(to.id.clone()), ..from.removed(shared.clock.wall_ms()) };
        let from = shared.save_account(&mut book, moved)?;
        let own = own.iter().map(|one| moved_to(one, &to.id));
        let own: Vec<_> = own.map(ActiveSubscription::new).collect::<Result<_>>()?;
        book.apply_each(own.iter().map(|one| BookChange::put(&one.info)).collect())?;
        shared.activate(own.into_iter().map(|one| (one, HashMap::new())).collect());
        Ok(from)
    }

    /// Ends everything that is kept of a removed account: its dead letters, its deliveries, its subscriptions and
    /// then its record. After a crash in between the account is still removed, and can be forgotten again.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for an account that is not removed, or that others were moved to;
    /// otherwise as [`purge`](Engine::purge).
    pub fn forget_account(&self, id: &str) -> Result<Purged> {
        let info = self.shared.require_account(id)?;
        let has_moved_here = |one: &Arc<AccountInfo>| one.moved_to.as_ref() == Some(&info.id);
        if !info.is_removed() || self.accounts().list().iter().any(has_moved_here) {
            let expected = "a removed account that no other was moved to";
            return Err(Error::invalid("account", id, expected));
        }
        let mut ended = Purged::default();
        if info.moved_to.is_none() {
            ended = self.purge(&PurgeFilter::default().account(id))?;
            ended.deliveries += self.discard_matching(&DeadLetterFilter::default().account(id))?;
            for one in self.subscriptions_of(id) {
                self.unsubscribe(one.id)?;
            }
        }
        self.shared.drop_account(&info)?;
        Ok(ended)
    }

    /// Adds an API key to an account and returns it: it is not kept, and cannot be shown again. Durable and in
    /// force when it returns: blocks on a sync.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for a removed account, or a key that has expired already;
    /// [`Error::TooLarge`] for more than 100 keys.
    pub fn add_api_key(
        &self,
        id: &str,
        name: impl Into<String>,
        expires_at_ms: Option<u64>,
    ) -> Result<(ApiKey, Secret)> {
        let secret = fresh_key()?;
        let shared = &self.shared;
        let mut book = shared.lock_book()?;
        let mut info = (*shared.require_account(id)?).clone();
        if info.is_removed() {
            return Err(Error::invalid("account", id, "an account that is not removed"));
        }
        if info.keys.len() >= KEYS_MAX {
            let (given, limit) = (info.keys.len() as u64 + 1, KEYS_MAX as u64);
            return Err(Error::TooLarge { field: "keys".to_owned(), given, limit });
        }
        let (digest, now_ms) =
            (crate::account::KeyDigest::of(secret.reveal()), shared.clock.wall_ms());
        if let Some(past_ms) = expires_at_ms.filter(|at_ms| *at_ms <= now_ms) {
            let expected = "a time in the future";
            return Err(Error::invalid("expires_at", rfc3339(past_ms), expected));
        }
        let mut key = ApiKey::new(fresh_key_id()?, name.into(), digest, now_ms);
        key.expires_at_ms = expires_at_ms;
        info.keys.push(key.clone());
        shared.save_account(&mut book, info)?;
        Ok((key, secret))
    }

    /// Removes an API key of an account: it is refused from now on. Durable and in force when it returns: blocks
    /// on a sync.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for a key that the configuration declares.
    pub fn remove_api_key(&self, id: &str, key_id: &str) -> Result<()> {
        let shared = &self.shared;
        let mut book = shared.lock_book()?;
        let mut info = (*shared.require_account(id)?).clone();
        let place = info.keys.iter().position(|key| key.id == key_id);
        let missing = || Error::NotFound { what: "API key", given: key_id.to_owned() };
        let key = info.keys.remove(place.ok_or_else(missing)?);
        if key.is_declared {
            return Err(declared(&info));
        }
        shared.save_account(&mut book, info).map(drop)
    }

    /// Brings the declared accounts in line with these, as [`Config::account`](crate::Config::account) does at
    /// open: new names get new accounts, and declared accounts that are left out are removed. Accounts created by
    /// [`create_account`](Engine::create_account) stay. Checked together before anything changes. Durable and in
    /// force when it returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault, and nothing changes. After [`Error::Store`] or
    /// [`Error::Directory`] nothing changes in this engine, and the next open may find some of the changes.
    pub fn declare_accounts(
        &self,
        accounts: impl IntoIterator<Item = Account>,
    ) -> Result<AccountChanges> {
        let (shared, declared) = (&self.shared, accounts.into_iter().collect::<Vec<_>>());
        let mut book = shared.lock_book()?;
        let plan = declarations::plan(shared.accounts.index(), &declared, shared.clock.wall_ms())?;
        book.apply_each(plan.changed.iter().map(BookChange::account).collect())?;
        shared.accounts.update(|index| *index = plan.index);
        plan.changed.iter().for_each(|info| shared.account_changed(info));
        shared.apply_in_flight_limits();
        Ok(plan.summary)
    }

    /// Checks a configuration without opening anything, and tells what it would change among the accounts of its
    /// data directory, which another engine may have open. A changed key is not told.
    ///
    /// # Errors
    /// As [`open`](Engine::open) for a setting that cannot be right; [`Error::Directory`] or [`Error::Damaged`]
    /// when the accounts of the directory cannot be read.
    ///
    /// ```
    /// # use wabahook::{Account, Config, Engine};
    /// # let directory = tempfile::tempdir()?;
    /// let config = Config::new(directory.path()).account(Account::new("acme"));
    /// assert_eq!(Engine::check_config(&config)?.created, ["acme"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_config(config: &Config) -> Result<AccountChanges> {
        config.check()?;
        if config.store.is_none() {
            migration::check_directory(&config.path)?;
        }
        declarations::check(config)
    }

    /// What [`declare_accounts`](Engine::declare_accounts) would change.
    ///
    /// # Errors
    /// As [`declare_accounts`](Engine::declare_accounts).
    pub fn check_accounts(
        &self,
        accounts: impl IntoIterator<Item = Account>,
    ) -> Result<AccountChanges> {
        let (accounts, now_ms) =
            (accounts.into_iter().collect::<Vec<_>>(), self.shared.clock.wall_ms());
        let index = self.shared.accounts.index();
        declarations::plan(index, &accounts, now_ms).map(|plan| plan.summary)
    }
}

/// The state of a subscription's lane: paused while its account is not active.
pub(super) fn lane_state(accounts: &Accounts, one: &SubscriptionInfo) -> SubscriptionState {
    let is_active = accounts.get(&one.account).is_some_and(|a| a.state == AccountState::Active);
    match one.state {
        SubscriptionState::Active if !is_active => SubscriptionState::Paused,
        state => state,
    }
}

impl Shared {
    fn require_account(&self, id: &str) -> Result<Arc<AccountInfo>> {
        self.check_open()?;
        let unknown = || Error::NotFound { what: "account", given: id.to_owned() };
        self.accounts.get(id).ok_or_else(unknown)
    }

    /// Changes an account; `None` if it is no longer `before`.
    fn revise_account(
        &self,
        before: &Arc<AccountInfo>,
        account: &Account,
    ) -> Result<Option<Arc<AccountInfo>>> {
        let mut book = self.lock_book()?;
        let current = self.require_account(before.id())?;
        if !Arc::ptr_eq(&current, before) {
            return Ok(None);
        }
        if before.moved_to.is_some() {
            return Err(Error::invalid("account", before.id(), "an account that was not moved"));
        }
        let checked = account.checked(before.id.clone(), before.created_at_ms, &[])?;
        let (is_declared, keys) = (before.is_declared, before.keys.clone());
        let state_since_ms = match checked.state == before.state {
            true => before.state_since_ms,
            false => self.clock.wall_ms(),
        };
        let mut after =
            AccountInfo { is_declared, keys, moved_to: None, state_since_ms, ..checked };
        let with_state = AccountInfo { state: after.state, state_since_ms, ..(**before).clone() };
        let changes_more = BookChange::account(&with_state) != BookChange::account(&after);
        if before.is_declared && (changes_more || after.is_removed()) {
            return Err(declared(before));
        }
        if after.is_removed() {
            after = after.removed(state_since_ms);
        }
        self.accounts.check(&after)?;
        self.save_account(&mut book, after).map(Some)
    }

    /// Makes a checked account durable and puts it in force.
    fn save_account(
        &self,
        book: &mut SubscriptionStore,
        info: AccountInfo,
    ) -> Result<Arc<AccountInfo>> {
        book.apply(vec![BookChange::account(&info)])?;
        let info = self.accounts.update(|index| index.put(info));
        self.account_changed(&info);
        self.apply_in_flight_limits();
        Ok(info)
    }

    /// Holds the deliveries of an account, or lets them go on, and sets its limits. After one or more of them
    /// [`apply_in_flight_limits`](Self::apply_in_flight_limits) is due, because each account's limit may change.
    pub(super) fn account_changed(&self, info: &AccountInfo) {
        let (id, state) = (info.id(), info.state.as_str());
        match info.is_removed() {
            true => self.shares.remove(id),
            false => self.shares.put(id, info.limits.clone()),
        }
        let own = self.subscriptions.read().of_account(id);
        let mut dispatch = self.dispatch_state.lock();
        dispatch.dispatcher.advance(self.clock.monotonic_ms());
        let mut deliveries = 0;
        for one in &own {
            let (policy, state) = (one.policy.clone(), lane_state(&self.accounts, one));
            dispatch.dispatcher.set_lane(one.id, id, policy, state, &HashMap::new());
            deliveries += dispatch.dispatcher.owed_of(one.id);
        }
        self.wake_workers(&mut dispatch);
        drop(dispatch);
        tracing::info!(account = id, name = info.name, state, "account in force");
        if info.state != AccountState::Active && deliveries > 0 {
            self.notices.send(&held(info, deliveries));
        }
    }

    /// Removes the record of an account that nothing is left of.
    pub(super) fn drop_account(&self, info: &AccountInfo) -> Result<()> {
        let mut book = self.lock_book()?;
        let notes = book.notes_of(info.id())?;
        let mut changes: Vec<_> =
            notes.keys().map(|key| BookChange::note(info.id(), key, "")).collect();
        changes.push(BookChange::forget_account(&info.id));
        book.apply(changes)?;
        self.accounts.update(|index| index.remove(&info.id));
        Ok(())
    }
}

pub(super) fn moved_to(one: &SubscriptionInfo, to: &AccountId) -> SubscriptionInfo {
    SubscriptionInfo { account: to.as_str().to_owned(), ..one.clone() }
}

pub(super) fn held(info: &AccountInfo, deliveries: u64) -> Notice {
    let (account, name, state) = (info.id.clone(), info.name.clone(), info.state);
    Notice::AccountHeld { account, name, state, deliveries }
}

fn declared(info: &AccountInfo) -> Error {
    let expected = "an account made while the host runs; this one is declared, so its settings and its end are in \
                    the configuration";
    Error::invalid("account", info.name(), expected)
}

fn fresh_key_id() -> Result<String> {
    let mut bytes = [0_u8; 6];
    fill_random(&mut bytes).map_err(|error| Error::Poisoned { why: error.to_string() })?;
    Ok(format!("key_{}", hex(&bytes)))
}

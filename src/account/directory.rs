//! The accounts of an engine, found by id, name, API key, number and WABA. All views of an account change together,
//! under one lock that is held for no longer than that. The caller of a change has made it durable before.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use parking_lot::RwLock;

use super::api_key::{ApiKey, KeyDigest, key_in_header};
use super::id::AccountId;
use super::info::{AccountInfo, AccountState};
use super::{Account, DEFAULT_ACCOUNT};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::event::WabaNumber;

/// The accounts of an engine: a cheap handle on the engine's own, so what it finds is always current.
///
/// ```
/// # use wabahook::{Account, Config, Engine};
/// # let directory = tempfile::tempdir()?;
/// let acme = Account::new("acme").api_key("acme-key").waba("123065260884961", ["919999999999"]);
/// let engine = Engine::open(Config::new(directory.path()).account(acme))?;
/// let accounts = engine.accounts();
/// let acme = accounts.authenticate(b"acme-key").expect("the key is acme's");
/// assert_eq!(acme.name(), "acme");
/// assert!(accounts.owner_of_number("918888888888".parse()?).is_none());
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Accounts {
    index: Arc<RwLock<AccountIndex>>,
    clock: Arc<dyn Clock>,
}

/// The views of all accounts.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccountIndex {
    by_id: HashMap<AccountId, Arc<AccountInfo>>,
    /// The order of listings: by age.
    by_age: BTreeMap<(u64, AccountId), ()>,
    /// Without removed accounts, as all further views.
    by_name: HashMap<String, AccountId>,
    by_number: HashMap<WabaNumber, (AccountId, Arc<str>)>,
    by_waba: HashMap<Arc<str>, AccountId>,
    by_phone_number_id: HashMap<String, WabaNumber>,
    by_key: HashMap<KeyDigest, AccountId>,
}

impl AccountIndex {
    /// Refuses an account that conflicts with itself or with another one.
    pub(crate) fn check(&self, info: &AccountInfo) -> Result<()> {
        if info.is_removed() {
            return Ok(());
        }
        let is_other = |owner: Option<&AccountId>| owner.is_some_and(|owner| *owner != info.id);
        if is_other(self.by_name.get(&info.name)) {
            return Err(Error::invalid("account.name", &info.name, "a name used once"));
        }
        let (mut numbers, mut wabas) = (HashSet::default(), HashSet::default());
        for waba in &info.wabas {
            if let Some(expected) =
                conflict(is_other(self.by_waba.get(&*waba.id)), wabas.insert(&waba.id))
            {
                return Err(Error::invalid("account.waba.id", &waba.id, expected));
            }
            for number in &waba.numbers {
                let owner = self.by_number.get(number).map(|(owner, _)| owner);
                if let Some(expected) = conflict(is_other(owner), numbers.insert(*number)) {
                    return Err(Error::invalid("account.waba.numbers", number, expected));
                }
            }
        }
        self.check_phone_number_ids(info)?;
        if let Some(number) = info.number.filter(|number| !numbers.contains(number)) {
            return Err(Error::invalid("account.number", number, "a number of the account"));
        }
        let mut digests = HashSet::default();
        for key in &info.keys {
            if is_other(self.by_key.get(&key.digest)) || !digests.insert(key.digest) {
                let expected = "a key that nothing else has";
                return Err(Error::invalid("account.api_key", "[redacted]", expected));
            }
        }
        Ok(())
    }

    fn check_phone_number_ids(&self, info: &AccountInfo) -> Result<()> {
        let mut ids = HashSet::default();
        for waba in &info.wabas {
            for (id, number) in &waba.phone_number_ids {
                let known = self.by_phone_number_id.get(id).and_then(|of| self.by_number.get(of));
                let is_other = known.is_some_and(|(owner, _)| *owner != info.id);
                if is_other || !ids.insert(id) || !waba.numbers.contains(number) {
                    return Err(phone_number_id_refused(id));
                }
            }
        }
        Ok(())
    }

    /// Adds an account, or replaces the one of its id.
    pub(crate) fn put(&mut self, info: AccountInfo) -> Arc<AccountInfo> {
        self.remove(&info.id);
        let (id, info) = (info.id.clone(), Arc::new(info));
        self.by_age.insert((info.created_at_ms, id.clone()), ());
        if !info.is_removed() {
            self.by_name.insert(info.name.clone(), id.clone());
            for waba in &info.wabas {
                let waba_id: Arc<str> = waba.id.as_str().into();
                let owned = waba.numbers.iter();
                self.by_number.extend(owned.map(|one| (*one, (id.clone(), Arc::clone(&waba_id)))));
                let ids = waba.phone_number_ids.iter();
                self.by_phone_number_id.extend(ids.map(|(id, number)| (id.clone(), *number)));
                self.by_waba.insert(waba_id, id.clone());
            }
            self.by_key.extend(info.keys.iter().map(|key| (key.digest, id.clone())));
        }
        self.by_id.insert(id, Arc::clone(&info));
        info
    }

    /// Removes an account from all views.
    pub(crate) fn remove(&mut self, id: &AccountId) {
        let Some(info) = self.by_id.remove(id) else { return };
        self.by_age.remove(&(info.created_at_ms, id.clone()));
        if info.is_removed() {
            return;
        }
        self.by_name.remove(&info.name);
        for waba in &info.wabas {
            self.by_waba.remove(&*waba.id);
            for number in &waba.numbers {
                self.by_number.remove(number);
            }
            for id in waba.phone_number_ids.keys() {
                self.by_phone_number_id.remove(id);
            }
        }
        for key in &info.keys {
            self.by_key.remove(&key.digest);
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<AccountInfo>> {
        self.by_age.keys().filter_map(|(_, id)| self.by_id.get(id))
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Arc<AccountInfo>> {
        self.by_id.get(id)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<AccountInfo>> {
        self.by_id.get(self.by_name.get(name)?)
    }

    pub(crate) fn successor(&self, id: &str) -> String {
        let mut id = id;
        while let Some(next) = self.get(id).and_then(|info| info.moved_to.as_ref()) {
            id = next.as_str();
        }
        id.to_owned()
    }

    /// The account of this id, or else of this name.
    fn find(&self, id_or_name: &str) -> Option<&Arc<AccountInfo>> {
        self.get(id_or_name).or_else(|| self.named(id_or_name))
    }
}

impl Accounts {
    pub(crate) fn of_index(index: AccountIndex, clock: Arc<dyn Clock>) -> Accounts {
        Accounts { index: Arc::new(RwLock::new(index)), clock }
    }

    pub(crate) fn default_account(now_ms: u64) -> Result<AccountInfo> {
        Account::new(DEFAULT_ACCOUNT).checked(AccountId::of_default_account(), now_ms, &[])
    }

    /// Changes accounts whose change is durable.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut AccountIndex) -> T) -> T {
        change(&mut self.index.write())
    }

    /// A copy of all views, to check several changes together.
    pub(crate) fn index(&self) -> AccountIndex {
        self.index.read().clone()
    }

    pub(crate) fn check(&self, info: &AccountInfo) -> Result<()> {
        self.index.read().check(info)
    }

    /// The account of this id or name that events may be published for; without a name the default account, or
    /// the only one.
    pub(crate) fn resolve(&self, id_or_name: Option<&str>) -> Result<Arc<AccountInfo>> {
        let index = self.index.read();
        let unknown = |given: &str| Error::invalid("account", given, "an account of this engine");
        let Some(given) = id_or_name else {
            let default = index.by_id.get(&AccountId::of_default_account());
            if let Some(default) = default.filter(|default| !default.is_removed()) {
                return Ok(Arc::clone(default));
            }
            let mut present = index.by_name.values();
            let only = present.next().filter(|_| present.next().is_none());
            let only = only.and_then(|id| index.by_id.get(id));
            return only.cloned().ok_or_else(|| unknown(""));
        };
        let found = index.find(given).filter(|found| !found.is_removed());
        found.cloned().ok_or_else(|| unknown(given))
    }

    /// The id of the account that a caller names by its id or its name. A text that names no account is returned
    /// unchanged, and then matches no account.
    pub(crate) fn id_of(&self, id_or_name: &str) -> String {
        let index = self.index.read();
        let found = index.find(id_or_name);
        found.map_or_else(|| id_or_name.to_owned(), |found| found.id.as_str().to_owned())
    }

    /// The account that now has what belonged to the account of this id: itself, unless it was moved.
    pub(crate) fn successor(&self, id: &str) -> String {
        self.index.read().successor(id)
    }

    /// The ids of the account of this id or name, and of those that were moved to it.
    pub(crate) fn ids_of(&self, id_or_name: &str) -> Vec<String> {
        let (id, index) = (self.id_of(id_or_name), self.index.read());
        let ids = index.all().map(|one| one.id.as_str().to_owned());
        let mut ids: Vec<_> = ids.filter(|one| index.successor(one) == id && *one != id).collect();
        ids.insert(0, id);
        ids
    }

    /// The account of an API key that is valid now, if the account is active.
    pub fn authenticate(&self, api_key: &[u8]) -> Option<Arc<AccountInfo>> {
        let (account, _) = self.identify(api_key)?;
        Some(account).filter(|account| account.state == AccountState::Active)
    }

    /// The account of the API key in a header value, with or without `Bearer` in front, as
    /// [`authenticate`](Accounts::authenticate) finds it.
    pub fn authenticate_header(&self, value: &[u8]) -> Option<Arc<AccountInfo>> {
        self.authenticate(key_in_header(value))
    }

    /// The account and the key of a header value, in whichever state the account is. Notes the use of the key.
    pub fn identify_header(&self, value: &[u8]) -> Option<(Arc<AccountInfo>, ApiKey)> {
        self.identify(key_in_header(value))
    }

    fn identify(&self, api_key: &[u8]) -> Option<(Arc<AccountInfo>, ApiKey)> {
        let (given, wall_ms) = (KeyDigest::of(api_key), self.clock.wall_ms());
        let account = {
            let index = self.index.read();
            Arc::clone(index.by_id.get(index.by_key.get(&given)?)?)
        };
        let key = account.keys.iter().find(|key| key.digest.same_as(&given))?;
        if !key.is_valid_at(wall_ms) {
            return None;
        }
        key.note_use(wall_ms);
        let key = key.clone();
        Some((account, key))
    }

    /// The account that owns a number.
    pub fn owner_of_number(&self, number: WabaNumber) -> Option<Arc<AccountInfo>> {
        let index = self.index.read();
        index.by_id.get(&index.by_number.get(&number)?.0).cloned()
    }

    /// The account that owns a WABA.
    pub fn owner_of_waba(&self, waba_id: &str) -> Option<Arc<AccountInfo>> {
        let index = self.index.read();
        index.by_id.get(index.by_waba.get(waba_id)?).cloned()
    }

    /// The id of the WABA that a number belongs to.
    pub fn waba_of_number(&self, number: WabaNumber) -> Option<Arc<str>> {
        self.index.read().by_number.get(&number).map(|(_, waba_id)| Arc::clone(waba_id))
    }

    /// The number configured for one of Meta's `phone_number_id`s.
    pub fn number_of(&self, phone_number_id: &str) -> Option<WabaNumber> {
        self.index.read().by_phone_number_id.get(phone_number_id).copied()
    }

    /// The numbers of a WABA. Empty for an unknown one.
    pub fn numbers_of_waba(&self, waba_id: &str) -> Vec<WabaNumber> {
        let owner = self.owner_of_waba(waba_id);
        owner.map(|owner| owner.numbers_of_waba(waba_id).to_vec()).unwrap_or_default()
    }

    /// Whether the account may publish and register for the number.
    pub fn may_use_number(&self, account: &AccountInfo, number: WabaNumber) -> bool {
        match self.index.read().by_number.get(&number) {
            Some((owner, _)) => *owner == account.id,
            None => account.is_open(),
        }
    }

    /// Whether the account may publish an event of the number and this WABA: it owns the number, or it owns
    /// the WABA and no other account owns the number.
    pub fn may_publish_for(
        &self,
        account: &AccountInfo,
        number: WabaNumber,
        waba_id: Option<&str>,
    ) -> bool {
        let owns_waba = || waba_id.is_some_and(|waba_id| self.may_use_waba(account, waba_id));
        self.may_use_number(account, number)
            || (self.owner_of_number(number).is_none() && owns_waba())
    }

    /// Whether the account may publish for the WABA.
    pub fn may_use_waba(&self, account: &AccountInfo, waba_id: &str) -> bool {
        match self.index.read().by_waba.get(waba_id) {
            Some(owner) => *owner == account.id,
            None => account.is_open(),
        }
    }

    /// The account that owns what no other account owns, where the engine has it.
    pub(crate) fn open_account(&self) -> Option<Arc<AccountInfo>> {
        let found = self.get(AccountId::of_default_account().as_str());
        found.filter(|found| !found.is_removed())
    }

    /// The account of this id.
    pub fn get(&self, id: &str) -> Option<Arc<AccountInfo>> {
        self.index.read().get(id).cloned()
    }

    /// The account of this name. Removed accounts are found by their id alone.
    pub fn named(&self, name: &str) -> Option<Arc<AccountInfo>> {
        self.index.read().named(name).cloned()
    }

    /// All accounts, removed ones too, the oldest first.
    pub fn list(&self) -> Vec<Arc<AccountInfo>> {
        self.index.read().all().cloned().collect()
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.index.read().all()).finish()
    }
}

/// What is expected of a WABA or number that another account owns, or that this one names again.
fn conflict(is_of_other: bool, is_first: bool) -> Option<&'static str> {
    match (is_of_other, is_first) {
        (true, _) => Some("one that no other account has; another account owns it"),
        (false, false) => Some("each one once; it is given twice"),
        (false, true) => None,
    }
}

pub(super) fn phone_number_id_refused(id: &str) -> Error {
    let expected = "an id named once, for a number of the same WABA";
    Error::invalid("account.waba.phone_number_ids", id, expected)
}

#[cfg(test)]
impl Accounts {
    /// Accounts whose ids are made of their names; without any there is the default account.
    pub(crate) fn declared(accounts: &[Account]) -> Result<Accounts> {
        let mut index = AccountIndex::default();
        for (at, account) in (0..).zip(accounts) {
            let info =
                account.checked(AccountId::stored(&format!("acct_{}", account.name())), at, &[])?;
            index.check(&info)?;
            if index.named(&info.name).is_some() {
                return Err(Error::invalid("account.name", &info.name, "a name used once"));
            }
            index.put(info);
        }
        if accounts.is_empty() {
            index.put(Accounts::default_account(0)?);
        }
        Ok(Accounts::of_index(index, Arc::new(crate::clock::SystemClock::new())))
    }
}

//! Accounts that another engine of a fleet owns. The engine of a shard serves some of them and changes none by itself:
//! it puts in force what the directory of the fleet says. They are stored here too, so that after a restart deliveries
//! of a suspended account are held from the beginning.

use std::collections::HashSet;
use std::sync::Arc;

use super::declarations::{is_same, unstored};
use crate::account::{AccountInfo, ApiKey};
use crate::engine::Engine;
use crate::engine::shared::Shared;
use crate::error::Result;

impl Engine {
    /// Puts these accounts in force, and no others: what is left of an account that is not among them is held, like that
    /// of a removed account. Durable and in force when it returns.
    pub(crate) fn adopt_accounts(&self, accounts: &[Arc<AccountInfo>]) -> Result<()> {
        for gone in self.shared.adopt_accounts(accounts)? {
            self.shared.drop_account(&gone)?;
        }
        Ok(())
    }

    /// Fails if the engine no longer accepts anything.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.shared.check_open()
    }
}

impl Shared {
    /// Returns the accounts of which nothing is left.
    fn adopt_accounts(&self, accounts: &[Arc<AccountInfo>]) -> Result<Vec<Arc<AccountInfo>>> {
        let mut book = self.lock_book()?;
        let index = self.accounts.index();
        let is_new = |info: &&Arc<AccountInfo>| {
            let before = index.get(info.id());
            before.is_none_or(|before| !is_same(&without_uses(before), &without_uses(info)))
        };
        let mut changed: Vec<AccountInfo> =
            accounts.iter().filter(is_new).map(|info| (**info).clone()).collect();
        let given: HashSet<&str> = accounts.iter().map(|info| info.id()).collect();
        let others = index.all().filter(|info| !given.contains(info.id())).cloned();
        let is_empty = |info: &Arc<AccountInfo>| self.subscriptions.read().count_of(info.id()) == 0;
        let (gone, left): (Vec<_>, Vec<_>) = others.partition(is_empty);
        let now_ms = self.clock.wall_ms();
        let left = left.iter().filter(|info| !info.is_removed());
        changed.extend(left.map(|info| info.removed(now_ms)));
        book.apply_each(unstored(&index, &changed))?;
        // A number may go from one of them to another, so all give up theirs first.
        self.accounts.update(|index| {
            changed.iter().for_each(|info| index.remove(&info.id));
            changed.iter().for_each(|info| drop(index.put(info.clone())));
        });
        changed.iter().for_each(|info| self.account_changed(info));
        self.apply_in_flight_limits();
        Ok(gone)
    }
}

/// An account whose keys were never used, for a comparison of everything else.
fn without_uses(info: &AccountInfo) -> AccountInfo {
    AccountInfo { keys: info.keys.iter().map(ApiKey::unused).collect(), ..info.clone() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::account::{Account, AccountId, AccountState};
    use crate::config::Config;
    use crate::store::Memory;
    use crate::subscription::Subscription;

    fn info(id: &str, name: &str, number: &str, key: &str) -> Arc<AccountInfo> {
        let account = Account::new(name).waba(format!("waba-{name}"), [number]).api_key(key);
        Arc::new(account.checked(AccountId::stored(id), 5, &[]).unwrap())
    }

    #[test]
    fn an_engine_follows_the_directory_and_keeps_it_over_a_restart() {
        let store = Arc::new(Memory::default());
        let config = || Config::new("shard").store(store.clone()).adopted_accounts();
        let engine = Engine::open(config()).unwrap();
        let (acme, beta) = (
            info("acct_1", "acme", "919999999911", "key-1"),
            info("acct_2", "beta", "919999999912", "key-2"),
        );
        engine.adopt_accounts(&[Arc::clone(&acme), Arc::clone(&beta)]).unwrap();
        let id_of =
            |key: &str| engine.accounts().authenticate(key.as_bytes()).map(|one| one.id.clone());
        assert_eq!(id_of("key-1"), Some(AccountId::stored("acct_1")));
        for account in ["acct_1", "acct_2"] {
            let to = Subscription::to("https://crm.example/hook").unwrap();
            engine.subscribe(to.account(account).name("crm")).unwrap();
        }
        // The number and the WABA go from one account to another, and the first is suspended.
        let mut first = (*acme).clone();
        (first.wabas, first.state) = (Vec::new(), AccountState::Suspended);
        let mut second = (*beta).clone();
        second.wabas.extend(acme.wabas.clone());
        engine.adopt_accounts(&[Arc::new(first), Arc::new(second)]).unwrap();
        let number = "919999999911".parse().unwrap();
        assert_eq!(engine.accounts().owner_of_number(number).unwrap().id(), "acct_2");
        engine.close(Duration::from_secs(5)).unwrap();
        let again = Engine::open(config()).unwrap();
        assert_eq!(again.accounts().get("acct_1").unwrap().state, AccountState::Suspended);
        assert_eq!(again.accounts().owner_of_number(number).unwrap().id(), "acct_2");
        again.close(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn an_account_that_is_left_out_is_held_or_forgotten() {
        let config = Config::new("shard").store(Arc::new(Memory::default())).adopted_accounts();
        let engine = Engine::open(config).unwrap();
        let (acme, beta) = (
            info("acct_1", "acme", "919999999911", "key-1"),
            info("acct_2", "beta", "919999999912", "key-2"),
        );
        let bystander = info("acct_3", "gamma", "919999999913", "key-3");
        engine.adopt_accounts(&[acme, beta, Arc::clone(&bystander)]).unwrap();
        let to = Subscription::to("https://crm.example/hook").unwrap();
        engine.subscribe(to.account("acct_1").name("crm")).unwrap();
        engine.adopt_accounts(&[bystander]).unwrap();
        assert_eq!(engine.accounts().get("acct_1").unwrap().state, AccountState::Removed);
        assert!(engine.accounts().get("acct_2").is_none());
        assert!(engine.accounts().authenticate(b"key-3").is_some());
        assert!(engine.accounts().authenticate(b"key-1").is_none());
        engine.close(Duration::from_secs(5)).unwrap();
    }
}

//! The accounts of all shards. The engine of shard 0 owns them, as an engine without other shards owns its own; every
//! host reads them from the server, and each engine of another shard is given those of its shard. So a change is made in
//! one place, is fenced like any other write, and is the same for all hosts within a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::rendezvous::shard_of;
use crate::account::{Account, AccountIndex, AccountInfo, Accounts};
use crate::book::{ACCOUNT_RECORDS, accounts_in_records};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::store::PostgresCluster;

/// The shard whose engine owns the accounts.
pub(crate) const DIRECTORY_SHARD: u16 = 0;

/// What this host knows of the accounts.
pub(super) struct Directory {
    pub(super) accounts: Accounts,
    /// What the configuration declares. The keys in it are not stored.
    declared: Mutex<Vec<Account>>,
    /// The digest of what was read last; `None` where it has to be read again. Held while the server is asked.
    seen: Mutex<Option<String>>,
    is_known: AtomicBool,
}

impl Directory {
    pub(super) fn new(declared: Vec<Account>, clock: Arc<dyn Clock>) -> Directory {
        let accounts = Accounts::of_index(AccountIndex::default(), clock);
        let (seen, is_known) = (Mutex::default(), AtomicBool::new(false));
        Directory { accounts, declared: Mutex::new(declared), seen, is_known }
    }

    /// Whether the accounts were ever read.
    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    /// Other keys count from the next refresh on.
    pub(super) fn declare(&self, declared: Vec<Account>) {
        *self.declared.lock() = declared;
        self.read_again();
    }

    /// The next refresh reads the accounts, whether they have changed or not.
    pub(super) fn read_again(&self) {
        *self.seen.lock() = None;
    }

    /// Reads the accounts again if they have changed. Returns whether they have.
    pub(super) fn refresh(&self, cluster: &PostgresCluster) -> Result<bool> {
        let (database, prefix) = ACCOUNT_RECORDS;
        let mut seen = self.seen.lock();
        let failed = |failure| Error::store("reading the accounts", failure);
        let found = cluster.digest(DIRECTORY_SHARD, database, prefix).map_err(failed)?;
        if found.is_none() || found == *seen {
            return Ok(false);
        }
        let records = cluster.records(DIRECTORY_SHARD, database, prefix).map_err(failed)?;
        let index = with_declared_keys(accounts_in_records(&records)?, &self.declared.lock())?;
        self.accounts.update(|known| *known = index);
        *seen = found;
        self.is_known.store(true, Ordering::Release);
        Ok(true)
    }

    /// The accounts of a shard.
    pub(super) fn of_shard(&self, shard: u16, shards: u16) -> Vec<Arc<AccountInfo>> {
        let mut all = self.accounts.list();
        all.retain(|info| shard_of(info.id(), shards) == shard);
        all
    }
}

/// Stored accounts, with the keys that are only in the configuration. An account that this host's configuration does not
/// declare stays as it is: the host of shard 0 decides which there are.
fn with_declared_keys(stored: Vec<AccountInfo>, declared: &[Account]) -> Result<AccountIndex> {
    let mut index = AccountIndex::default();
    for info in stored {
        let is_named = |account: &&Account| info.is_declared && account.name() == info.name();
        let Some(account) = declared.iter().find(is_named).filter(|_| !info.is_removed()) else {
            index.put(info);
            continue;
        };
        let mut keys = account.checked(info.id.clone(), info.created_at_ms, &info.keys)?.keys;
        keys.extend(info.keys.iter().filter(|key| !key.is_declared).cloned());
        index.put(AccountInfo { keys, ..info });
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountId;

    #[test]
    fn declared_keys_are_added_to_stored_accounts() {
        let stored = |id: &str, name: &str, is_declared| {
            let info = Account::new(name).checked(AccountId::stored(id), 5, &[]).unwrap();
            AccountInfo { is_declared, ..info }
        };
        let all = vec![
            stored("acct_1", "acme", true),
            stored("acct_2", "beta", true),
            stored("acct_3", "gamma", false),
        ];
        let declared = [
            Account::new("acme").api_key("acme-key"),
            Account::new("gamma").api_key("gamma-key"),
            Account::new("new").api_key("new-key"),
        ];
        let index = with_declared_keys(all, &declared).unwrap();
        let clock = Arc::new(crate::clock::SystemClock::new());
        let accounts = Accounts::of_index(index, clock);
        let id_of = |key: &[u8]| accounts.authenticate(key).map(|one| one.id().to_owned());
        assert_eq!(id_of(b"acme-key").as_deref(), Some("acct_1"));
        assert_eq!((id_of(b"gamma-key"), id_of(b"new-key")), (None, None));
        assert_eq!(accounts.list().len(), 3);
    }
}

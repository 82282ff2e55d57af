//! Which account each event belongs to, in 4 bytes an event, so that what is owed is counted by account (I4).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::shares::{AccountShare, AccountShares};

/// The account of an event. The default stands for no account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::outbox) struct AccountRef(u32);

/// Some accounts, for reads that are limited to what is theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccountRefs(Vec<AccountRef>);

impl AccountRefs {
    /// Whether this is one of the accounts, or unknown, because then it may be.
    pub(in crate::outbox) fn may_include(&self, account: AccountRef) -> bool {
        account == AccountRef::default() || self.0.contains(&account)
    }

    pub(in crate::outbox) fn iter(&self) -> impl Iterator<Item = &AccountRef> {
        self.0.iter()
    }
}

#[cfg(test)]
impl AccountRefs {
    pub(in crate::outbox) const fn new(accounts: Vec<AccountRef>) -> AccountRefs {
        AccountRefs(accounts)
    }
}

#[cfg(test)]
impl AccountRef {
    pub(in crate::outbox) const fn new(number: u32) -> AccountRef {
        AccountRef(number)
    }
}

#[derive(Debug)]
pub(in crate::outbox) struct EventAccounts {
    shares: Arc<AccountShares>,
    /// A leaf among the locks.
    known: RwLock<KnownAccounts>,
}

#[derive(Debug, Default)]
struct KnownAccounts {
    refs: HashMap<Arc<str>, AccountRef>,
    shares: Vec<Arc<AccountShare>>,
}

impl EventAccounts {
    pub(in crate::outbox) fn new(shares: Arc<AccountShares>) -> EventAccounts {
        EventAccounts { shares, known: RwLock::default() }
    }

    pub(in crate::outbox) fn refer(&self, account: &str) -> AccountRef {
        if let Some(found) = self.find(account) {
            return found;
        }
        let share = self.shares.of(account);
        let mut known = self.known.write();
        let KnownAccounts { refs, shares } = &mut *known;
        *refs.entry(Arc::clone(share.name())).or_insert_with(|| {
            shares.push(share);
            AccountRef(u32::try_from(shares.len()).unwrap_or(0))
        })
    }

    /// The reference to an account that events refer to already.
    pub(in crate::outbox) fn find(&self, account: &str) -> Option<AccountRef> {
        self.known.read().refs.get(account).copied()
    }

    pub(in crate::outbox) fn find_all(&self, accounts: &[String]) -> AccountRefs {
        AccountRefs(accounts.iter().filter_map(|account| self.find(account)).collect())
    }

    pub(in crate::outbox) fn share(&self, account: AccountRef) -> Option<Arc<AccountShare>> {
        let index = account.0.checked_sub(1)? as usize;
        self.known.read().shares.get(index).map(Arc::clone)
    }

    pub(in crate::outbox) fn letters_max(&self, account: AccountRef) -> usize {
        self.share(account).map_or(usize::MAX, |share| self.shares.bounds(&share).dead_letters_max)
    }
}

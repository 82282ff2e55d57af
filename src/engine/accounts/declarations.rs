//! Brings the accounts in line with what the host declares: a name that is new gets an account of its own, and an
//! account that is no longer declared is removed. A later declaration of its name is another account, which gets
//! nothing of the former. Everything is checked together before anything changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::account::{Account, AccountId, AccountIndex, AccountInfo, Accounts, Waba};
use crate::book::{BookChange, SubscriptionStore, logged_accounts};
use crate::config::Config;
use crate::engine::storage::data_directory::BOOK_LOG;
use crate::error::{Error, Result};
use crate::subscription::SubscriptionInfo;

/// The names of the accounts that a declaration changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountChanges {
    /// Accounts that are new.
    pub created: Vec<String>,
    /// Accounts that exist and change.
    pub changed: Vec<String>,
    /// Accounts that are no longer declared. Their deliveries are held.
    pub removed: Vec<String>,
    /// Of the removed ones, those with a number or WABA that now belongs to a new one: from the id to the name of the
    /// new one. An account whose name was changed in the declaration looks like this. Its subscriptions stay with the
    /// removed account.
    pub replaced: BTreeMap<String, String>,
}

impl AccountChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == AccountChanges::default()
    }
}

/// Checked changes, and all accounts as they are afterwards.
pub(in crate::engine) struct DeclarationPlan {
    pub(in crate::engine) summary: AccountChanges,
    pub(in crate::engine) changed: Vec<AccountInfo>,
    pub(in crate::engine) index: AccountIndex,
}

pub(in crate::engine) fn plan(
    mut index: AccountIndex,
    declared: &[Account],
    now_ms: u64,
) -> Result<DeclarationPlan> {
    let (mut summary, mut changed) = (AccountChanges::default(), Vec::new());
    let mut names = HashSet::new();
    for account in declared {
        if !names.insert(account.name()) {
            return Err(Error::invalid("account.name", account.name(), "a name used once"));
        }
    }
    for before in index.all() {
        if before.is_declared && !before.is_removed() && !names.contains(before.name()) {
            summary.removed.push(before.name.clone());
            changed.push(before.removed(now_ms));
        }
    }
    for account in declared {
        match index.named(account.name()) {
            None => {
                let info = account.checked(AccountId::fresh()?, now_ms, &[])?;
                summary.created.push(info.name.clone());
                changed.push(AccountInfo { is_declared: true, ..info });
            }
            Some(before) => {
                let info = declared_again(account, before)?;
                if !is_same(before, &info) {
                    summary.changed.push(info.name.clone());
                    changed.push(info);
                }
            }
        }
    }
    summary.replaced = replaced(&changed, &summary.created);
    // A number may go from one of them to another, so all give up theirs first.
    changed.iter().for_each(|info| index.remove(&info.id));
    for info in &changed {
        index.check(info)?;
        index.put(info.clone());
    }
    Ok(DeclarationPlan { summary, changed, index })
}

/// Which removed accounts have a number or WABA of one of the created ones.
fn replaced(changed: &[AccountInfo], created: &[String]) -> BTreeMap<String, String> {
    let owned = |info: &AccountInfo| {
        let of_waba = |waba: &Waba| {
            let numbers = waba.numbers.iter().map(ToString::to_string);
            std::iter::once(format!("WABA {}", waba.id)).chain(numbers).collect::<Vec<_>>()
        };
        info.wabas.iter().flat_map(of_waba).collect::<Vec<_>>()
    };
    let created = changed.iter().filter(|info| !info.is_removed() && created.contains(&info.name));
    let owners = created.flat_map(|info| owned(info).into_iter().map(move |one| (one, &info.name)));
    let owners: HashMap<_, _> = owners.collect();
    let removed = changed.iter().filter(|info| info.is_removed());
    let replaced = removed.filter_map(|info| {
        let owner = owned(info).iter().find_map(|one| owners.get(one))?;
        Some((info.id().to_owned(), (*owner).clone()))
    });
    replaced.collect()
}

/// An account that exists as it is declared now. Its state, and the keys that it got while the engine ran, stay.
fn declared_again(account: &Account, before: &AccountInfo) -> Result<AccountInfo> {
    let mut info = account.checked(before.id.clone(), before.created_at_ms, &before.keys)?;
    info.keys.extend(before.keys.iter().filter(|key| !key.is_declared).cloned());
    let (state, state_since_ms) = (before.state, before.state_since_ms);
    Ok(AccountInfo { state, state_since_ms, is_declared: true, ..info })
}

/// The changed accounts whose stored form differs. Declared keys are not stored, so after a restart most differ only in
/// memory and need no write.
pub(in crate::engine) fn unstored(
    before: &AccountIndex,
    changed: &[AccountInfo],
) -> Vec<BookChange> {
    let unstored = changed.iter().filter_map(|info| {
        let change = BookChange::account(info);
        let before = before.get(info.id()).map(|before| BookChange::account(before));
        (before.as_ref() != Some(&change)).then_some(change)
    });
    unstored.collect()
}

pub(in crate::engine) fn is_same(before: &AccountInfo, after: &AccountInfo) -> bool {
    let digests = |info: &AccountInfo| info.keys.iter().map(|key| key.digest).collect::<Vec<_>>();
    BookChange::account(before) == BookChange::account(after) && digests(before) == digests(after)
}

/// What opening an engine with this configuration would change among its accounts.
pub(in crate::engine) fn check(config: &Config) -> Result<AccountChanges> {
    let mut index = AccountIndex::default();
    for info in logged_accounts(&config.path.join(BOOK_LOG))? {
        index.put(info);
    }
    // The keys of a declaration are not stored, so every account counts as changed here.
    let is_changed = |info: &AccountInfo| {
        let before = index.get(info.id()).map(|before| BookChange::account(before));
        before.is_some_and(|before| before != BookChange::account(info))
    };
    let plan = plan(index.clone(), &config.accounts, config.clock.wall_ms())?;
    let changed = plan.changed.iter().filter(|info| !info.is_removed() && is_changed(info));
    let changed = changed.map(|info| info.name.clone()).collect();
    Ok(AccountChanges { changed, ..plan.summary })
}

/// The accounts of an engine that opens: those that are stored, in line with what the configuration declares. Moves
/// that a crash interrupted are finished. Subscriptions of an account that is not known are held under its id.
pub(in crate::engine) fn open(
    book: &mut SubscriptionStore,
    stored: Vec<AccountInfo>,
    subscriptions: &mut [SubscriptionInfo],
    config: &Config,
) -> Result<Accounts> {
    let now_ms = config.clock.wall_ms();
    let mut index = AccountIndex::default();
    stored.into_iter().for_each(|info| drop(index.put(info)));
    if !config.adopts_accounts {
        let plan = plan(index.clone(), &config.accounts, now_ms)?;
        book.apply_each(unstored(&index, &plan.changed))?;
        index = plan.index;
    }
    let default = Accounts::default_account(now_ms)?;
    let has_default = config.accounts.is_empty() && config.has_default_account;
    let default = if has_default { default } else { default.removed(now_ms) };
    for one in subscriptions.iter_mut() {
        let successor = index.successor(&one.account);
        if successor != one.account {
            one.account = successor;
            book.put(one)?;
        }
        if one.account == default.id() || index.get(&one.account).is_some() {
            continue;
        }
        index.put(AccountInfo::unknown(AccountId::stored(&one.account), now_ms));
    }
    if has_default || subscriptions.iter().any(|one| one.account == default.id()) {
        index.put(default);
    }
    Ok(Accounts::of_index(index, Arc::clone(&config.clock)))
}

//! Subscriptions and accounts on disk. [`SubscriptionStore`] writes each change durably: a subscription is stored
//! whole as it was last put, or not at all, and an id is never assigned twice, also after its
//! subscription was removed. Where the store is a directory, every change is first appended to a
//! readable log, from which a damaged database is rebuilt.

mod change;
mod database;
mod log;
mod stored;
mod stored_account;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::change::BookChange;
use self::database::{BookDatabase, check_size, failed, in_batches};
use self::log::{LogContents, StaleSecrets};
pub(crate) use self::stored_account::StoredAccount;
use crate::account::AccountInfo;
use crate::config::OnDamage;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::store::{Store, StoreFailure};
use crate::subscription::{SubscriptionId, SubscriptionInfo};

/// The subscriptions on disk. After a failed write the next call opens the database again and
/// restores the state before that write, except that removals are completed.
#[derive(Debug)]
pub(crate) struct SubscriptionStore {
    store: Arc<dyn Store>,
    /// `None` where the store is not a directory.
    log: Option<PathBuf>,
    /// `None` after a failed write.
    database: Option<BookDatabase>,
    /// What undoes the writes that failed.
    undo: Vec<BookChange>,
    next_id: u32,
}

/// A stored subscription that this build cannot serve: another build wrote it, or what was valid
/// then is no longer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeldSubscription {
    pub(crate) id: SubscriptionId,
    /// The account and the name, where they can be read.
    pub(crate) name: Option<(String, String)>,
    pub(crate) why: String,
}

/// The subscription store and what it holds at open.
pub(crate) struct LoadedSubscriptions {
    pub(crate) store: SubscriptionStore,
    /// In the order of their ids.
    pub(crate) subscriptions: Vec<SubscriptionInfo>,
    pub(crate) accounts: Vec<AccountInfo>,
    /// Those that this build cannot serve. They stay stored as they are.
    pub(crate) held: Vec<HeldSubscription>,
    /// Damaged parts that were set aside: the new name, and what was wrong.
    pub(crate) set_aside: Vec<(String, String)>,
}

/// The accounts that the log of a data directory has; none without one. The directory may be open elsewhere.
pub(crate) fn logged_accounts(log: &Path) -> Result<Vec<AccountInfo>> {
    let contents = LogContents::read(log)?.unwrap_or_default();
    contents.accounts.values().map(StoredAccount::restore).collect()
}

/// The database and the first byte of the keys of the accounts, for a reader that does not open the book.
#[cfg(feature = "postgres")]
pub(crate) const ACCOUNT_RECORDS: (&str, u8) = (database::NAME, database::ACCOUNT);

/// The accounts in such records, in the order of their keys.
#[cfg(feature = "postgres")]
pub(crate) fn accounts_in_records(records: &[crate::store::KeyValue]) -> Result<Vec<AccountInfo>> {
    database::accounts_in(records)
}

/// Whether a database with this name is the book's.
pub(crate) fn has_database(name: &str) -> bool {
    name == database::NAME
}

impl SubscriptionStore {
    /// Reads every subscription. Where the log knows more, because the engine stopped between the
    /// two writes or the database lost records silently, the database follows the log.
    pub(crate) fn open(
        store: Arc<dyn Store>,
        log: Option<&Path>,
        catalogue: &Catalogue,
        on_damage: OnDamage,
    ) -> Result<LoadedSubscriptions> {
        let mut set_aside = Vec::new();
        let mut database = open_database(&*store, log, on_damage, &mut set_aside)?;
        if let Some(path) = log
            && database.is_empty()
            && let Err(error @ Error::Damaged { .. }) = LogContents::read(path)
        {
            if on_damage == OnDamage::Refuse {
                let advice = "the book itself is empty, so this log may be the only copy of the \
                              subscriptions: restore it from a backup, or open with \
                              OnDamage::SetAside (a host: on_damage = \"set_aside\"), which keeps a \
                              copy and reads the lines that can be read";
                return Err(error.advised(advice));
            }
            set_aside.push(log::salvage(path)?);
        }
        database.follow(log)?;
        let (mut subscriptions, mut held) = (Vec::new(), Vec::new());
        let contents = database.contents()?;
        let accounts = contents.accounts.values().map(StoredAccount::restore);
        let accounts = accounts.collect::<Result<Vec<_>>>()?;
        for (id, record) in contents.subscriptions {
            let name = record.name();
            match record.restore(id, catalogue) {
                Ok(subscription) => subscriptions.push(subscription),
                Err(error) => held.push(HeldSubscription { id, name, why: what_is_wrong(&error) }),
            }
        }
        let (next_id, log) = (database.next_id, log.map(Path::to_owned));
        let store =
            SubscriptionStore { store, log, database: Some(database), undo: Vec::new(), next_id };
        Ok(LoadedSubscriptions { store, subscriptions, accounts, held, set_aside })
    }

    fn database(&mut self) -> Result<&mut BookDatabase> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        Ok(self.database.insert(database))
    }

    fn reopen(&mut self) -> Result<BookDatabase> {
        let mut database = BookDatabase::open(&*self.store)?;
        database.next_id = database.next_id.max(self.next_id);
        database.follow(self.log.as_deref())?;
        // The log or the database may hold changes that were reported as failed. They are undone
        // from the last to the first, so that each is what it was before all of them.
        // A removal is final, whatever of the subscription failed before it.
        let is_removal = |one: &&BookChange| matches!(one, BookChange::Remove(_));
        let removed: BTreeSet<_> =
            self.undo.iter().filter(is_removal).filter_map(BookChange::id).collect();
        let mut undone = Vec::new();
        for change in self.undo.iter().rev() {
            let is_removed = change.id().is_some_and(|id| removed.contains(&id));
            if is_removed && !is_removal(&change) {
                continue;
            }
            if !database.has(change)? {
                undone.push(change.clone());
            }
        }
        database.apply(&undone)?;
        self.undo.clear();
        self.next_id = database.next_id;
        Ok(database)
    }

    /// Writes a copy of everything into an empty store.
    pub(crate) fn copy_to(&mut self, target: &dyn Store) -> Result<()> {
        let from = Arc::clone(&self.database()?.database);
        let copied = target.open(database::NAME);
        let copied = copied.and_then(|to| crate::store::copy_database(&*from, &*to));
        copied.map_err(|failure| failed("writing the backup", failure))
    }

    /// An id that was never assigned. It counts as assigned once a subscription is put under it.
    pub(crate) fn fresh_id(&self) -> SubscriptionId {
        SubscriptionId(self.next_id)
    }

    /// Writes a subscription; durable when it returns.
    pub(crate) fn put(&mut self, info: &SubscriptionInfo) -> Result<()> {
        self.apply(vec![BookChange::put(info)])
    }

    /// Removes a subscription; durable when it returns. After an error it is removed before
    /// anything else is written.
    pub(crate) fn remove(&mut self, id: SubscriptionId) -> Result<()> {
        self.apply(vec![BookChange::Remove(id)])
    }

    /// Applies all changes; durable when it returns. Where that fails it applies none but the
    /// removals, which are completed before anything else is written. Changes that change nothing
    /// write nothing.
    pub(crate) fn apply(&mut self, changes: Vec<BookChange>) -> Result<()> {
        check_size(&changes)?;
        let database = match self.database() {
            Ok(database) => database,
            Err(error) => {
                let is_removal = |one: &BookChange| matches!(one, BookChange::Remove(_));
                self.undo.extend(changes.into_iter().filter(is_removal));
                return Err(error);
            }
        };
        let mut is_unchanged = true;
        for change in &changes {
            is_unchanged &= database.has(change)?;
        }
        if is_unchanged {
            return Ok(());
        }
        let undo = changes.iter().map(|one| database.inverse(one)).collect::<Result<Vec<_>>>()?;
        let secrets = stale_secrets(&changes, &undo);
        let written = database.apply(&changes);
        // The changes are durable also if the log cannot be replaced; it is read again then.
        let is_compacted = written.is_err() || database.compact_log(secrets).is_ok();
        let highest = changes.iter().filter_map(BookChange::id).max();
        self.next_id = self.next_id.max(highest.map_or(0, |id| id.0.saturating_add(1)));
        if written.is_err() {
            self.undo.extend(undo);
        }
        if written.is_err() || !is_compacted {
            // After a failed write this handle would refuse every further one.
            self.database = None;
        }
        written
    }

    /// Applies independent changes, in as few writes as they fit in. After an error some may be applied.
    pub(crate) fn apply_each(&mut self, changes: Vec<BookChange>) -> Result<()> {
        in_batches(changes)?.into_iter().try_for_each(|batch| self.apply(batch))
    }

    /// Removes subscriptions before anything else is written.
    pub(crate) fn remove_later<'a>(&mut self, ids: impl Iterator<Item = &'a SubscriptionId>) {
        self.undo.extend(ids.map(|id| BookChange::Remove(*id)));
        self.database = None;
    }

    /// What gateways keep for an account, by key.
    pub(crate) fn notes_of(&mut self, account: &str) -> Result<BTreeMap<String, String>> {
        let notes = self.database()?.notes()?.into_iter();
        Ok(notes.filter(|((of, _), _)| of == account).map(|((_, key), text)| (key, text)).collect())
    }
}

/// Whether changes take a secret out of force, given what each replaces.
fn stale_secrets(changes: &[BookChange], replaced: &[BookChange]) -> StaleSecrets {
    let is_stale = |(change, replaced): (&BookChange, &BookChange)| match (change, replaced) {
        (
            BookChange::Put { subscription: after, .. },
            BookChange::Put { subscription: before, .. },
        ) => !after.keeps_secrets_of(before),
        // Of a removed subscription, or a record whose secrets cannot be told.
        (BookChange::Remove(_), _) | (_, BookChange::Keep { .. }) => true,
        _ => false,
    };
    match changes.iter().zip(replaced).any(is_stale) {
        true => StaleSecrets::Some,
        false => StaleSecrets::None,
    }
}

/// Opens the database, or sets a damaged one aside and opens an empty one where a log can rebuild it.
fn open_database(
    store: &dyn Store,
    log: Option<&Path>,
    on_damage: OnDamage,
    set_aside: &mut Vec<(String, String)>,
) -> Result<BookDatabase> {
    match BookDatabase::open(store) {
        Err(error) if error.is_damage() => {
            if on_damage == OnDamage::Refuse || log.is_none_or(|log| !log.exists()) {
                return Err(advised(&error, log));
            }
            let name = store.set_aside(database::NAME);
            let name = name.map_err(|failure| failed("setting the book aside", failure))?;
            let why = format!(
                "{}; it was rebuilt from its log, and no subscription is lost",
                what_is_wrong(&error)
            );
            set_aside.push((name, why));
            BookDatabase::open(store)
        }
        opened => opened,
    }
}

/// The error for a damaged book, with what can be done about it.
fn advised(error: &Error, log: Option<&Path>) -> Error {
    let advice = match log.map(LogContents::read) {
        Some(Ok(Some(_))) => {
            "its log holds the subscriptions and is whole: open with OnDamage::SetAside (a host: \
             on_damage = \"set_aside\"), which renames the book and rebuilds it"
                .to_owned()
        }
        Some(Err(damage)) => format!(
            "its log cannot be read whole either ({damage}): restore a copy of it, or open with \
             OnDamage::SetAside (a host: on_damage = \"set_aside\"), which keeps both and reads the \
             lines that can be read"
        ),
        Some(Ok(None)) | None => {
            "it has no log to rebuild it from: restore a copy of book or book.log".to_owned()
        }
    };
    let wrong = what_is_wrong(error);
    let why = format!("{wrong}; {advice}; the outbox is not touched, and what it owes is kept");
    Error::Damaged { record: "book of subscriptions".to_owned(), why }
}

fn what_is_wrong(error: &Error) -> String {
    match error {
        Error::Damaged { record, why } => format!("{record}: {why}"),
        Error::Store { source: StoreFailure::Damaged(why), .. } => why.clone(),
        other => other.to_string(),
    }
}

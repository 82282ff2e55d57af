//! The generations of the outbox: their databases, and which of them holds which event.
//!
//! Only the newest generation is written to, and it is always open. A sealed generation is opened when something
//! is read from it and closed when it was not read for a while. How many stay open is bounded (I10).

mod index;
mod owed;
mod sealed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{MutexGuard, RwLock};
use roaring::RoaringTreemap;

use crate::error::{Error, Result};
use crate::event::EventId;
use crate::store::{Batch, Database, Operation, Store, StoreFailure};

use super::accounts::events::{AccountRef, EventAccounts};
use super::codec::meta::{GenerationMeta, Incarnations, SealedGeneration};
use super::cursor::Cursor;
use super::dead_letters::LetterAccounts;

pub(crate) use self::index::OutboxUsage;
pub(super) use self::index::{Generation, GenerationIndex, MovedEvent};
pub(super) use self::owed::EventCount;
use self::sealed::{Handle, SealedGenerations, SealedSlot};

/// How many bytes of sealed generations may be open. Lanes that are far apart read from different ones, and sled
/// keeps everything that was read from an open database in memory, in about twice its size.
const SEALED_OPEN_BYTES_MAX: u64 = 192 * 1024 * 1024;

/// How many sealed generations may be open, whatever their size.
const SEALED_OPEN_MIN: u64 = 2;
const SEALED_OPEN_MAX: u64 = 64;

const PREFIX: &str = "outbox-";

pub(super) fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

/// The number of the generation with this database name.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    u64::from_str_radix(digits, 16).ok().filter(|number| name_of(*number) == name)
}

/// The generations, shared by the committer and all readers.
#[derive(Debug)]
pub(super) struct Generations {
    store: Arc<dyn Store>,
    index: RwLock<GenerationIndex>,
    accounts: Arc<EventAccounts>,
    /// Copies of the index's totals, which `publish` reads without a lock.
    owed_events: AtomicU64,
    owed_bytes: AtomicU64,
    incarnations: RwLock<Incarnations>,
    sealed: SealedGenerations,
    /// How many backups read generations now.
    removal_holds: Arc<AtomicUsize>,
    active: RwLock<Option<Arc<dyn Database>>>,
}

pub(super) struct RemovalHold(Arc<AtomicUsize>);

impl Drop for RemovalHold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GenerationStart {
    Begun,
    /// The store refused and nothing is left of it; the newest generation stays as it is.
    Refused,
}

impl Generations {
    pub(super) fn new(
        store: Arc<dyn Store>,
        generation_bytes: u64,
        accounts: Arc<EventAccounts>,
    ) -> Generations {
        let open_max = SEALED_OPEN_BYTES_MAX / generation_bytes.max(1);
        let open_max = open_max.clamp(SEALED_OPEN_MIN, SEALED_OPEN_MAX);
        Generations {
            store,
            index: RwLock::new(GenerationIndex::new(Arc::clone(&accounts))),
            accounts,
            owed_events: AtomicU64::new(0),
            owed_bytes: AtomicU64::new(0),
            incarnations: RwLock::default(),
            sealed: SealedGenerations::new(usize::try_from(open_max).unwrap_or(usize::MAX)),
            removal_holds: Arc::default(),
            active: RwLock::default(),
        }
    }

    /// Begins the generation `number` and makes it the active one. Its meta record is on the device when this
    /// returns. After an error something of it may be left, and nothing may be written to the generation
    /// before it, because the meta record declares that one sealed.
    pub(super) fn begin(&self, cursor: &mut Cursor, number: u64) -> Result<GenerationStart> {
        let newest = self.newest();
        let sealing = newest.as_ref().map(|newest| newest.number).zip(self.active());
        let previous =
            newest.map(|newest| SealedGeneration { number: newest.number, pages: newest.pages });
        let first_sequence = cursor.next_sequence;
        let meta = GenerationMeta { first_sequence, previous, ..cursor.meta.clone() };
        let database = match self.store.open(&name_of(number)) {
            Ok(database) => database,
            Err(StoreFailure::Fenced) => return Err(failed(StoreFailure::Fenced)),
            Err(_) => {
                // Without a meta record the next open removes it anyway.
                let _ = self.store.remove(&name_of(number));
                return Ok(GenerationStart::Refused);
            }
        };
        let mut batch = Batch::default();
        if let Operation::Put(key, value) = meta.write()? {
            batch.put(key, value);
        }
        if database.commit(vec![batch]).is_err() {
            drop(database);
            self.store.remove(&name_of(number)).map_err(failed)?;
            return Ok(GenerationStart::Refused);
        }
        cursor.meta = meta;
        cursor.generation = number;
        // Before it is sealed, so that readers find it open.
        if let Some((number, database)) = sealing {
            self.sealed.add(number, database);
        }
        let new = Generation { number, first_sequence, ..Generation::default() };
        self.update(|index| index.add(new));
        self.activate(database);
        Ok(GenerationStart::Begun)
    }

    pub(super) fn open_other(&self, name: &str) -> Result<Arc<dyn Database>> {
        self.store.open(name).map_err(failed)
    }

    /// Makes the database of the newest generation the one that is written to.
    pub(super) fn activate(&self, database: Arc<dyn Database>) {
        if let Some(newest) = self.newest() {
            database.set_expected_records(newest.pages);
        }
        *self.active.write() = Some(database);
    }

    /// The database that is written to; none while the device refuses writes.
    pub(super) fn active(&self) -> Option<Arc<dyn Database>> {
        self.active.read().clone()
    }

    /// Whether the store is on another machine.
    pub(super) fn is_remote(&self) -> bool {
        self.store.is_remote()
    }

    /// Closes the active database, so that it can be opened again.
    pub(super) fn deactivate(&self) {
        *self.active.write() = None;
    }

    /// Opens the active generation again after the device refused a write.
    pub(super) fn reopen(&self, number: u64) -> Result<()> {
        let database = self.store.open(&name_of(number)).map_err(|failure| match failure {
            StoreFailure::Damaged(why) => {
                Error::Damaged { record: format!("generation {number}"), why }
            }
            other => failed(other),
        })?;
        self.activate(database);
        Ok(())
    }

    pub(super) fn close(&self) {
        self.deactivate();
        self.sealed.close_all();
    }

    pub(super) fn newest(&self) -> Option<Generation> {
        self.index.read().newest().cloned()
    }

    /// The oldest generation, unless it is the newest too.
    pub(super) fn oldest_sealed(&self) -> Option<Generation> {
        self.index.read().oldest_sealed().cloned()
    }

    pub(super) fn sealed_numbers(&self) -> Vec<u64> {
        self.index.read().sealed_numbers()
    }

    pub(super) fn hold_removals(&self) -> RemovalHold {
        self.removal_holds.fetch_add(1, Ordering::AcqRel);
        RemovalHold(Arc::clone(&self.removal_holds))
    }

    pub(super) fn is_removal_held(&self) -> bool {
        self.removal_holds.load(Ordering::Acquire) > 0
    }

    pub(super) fn sealed_total(&self) -> Generation {
        self.index.read().sealed_total()
    }

    pub(super) fn totals(&self) -> OutboxUsage {
        self.index.read().totals()
    }

    /// Events that are owed and the bytes of their payloads. Takes no lock.
    pub(super) fn owed(&self) -> (u64, u64) {
        (self.owed_events.load(Ordering::Acquire), self.owed_bytes.load(Ordering::Acquire))
    }

    pub(super) fn accounts(&self) -> &EventAccounts {
        &self.accounts
    }

    pub(super) fn generation_of(&self, sequence: u64) -> Option<u64> {
        self.index.read().generation_of(sequence)
    }

    pub(super) fn set_incarnations(&self, incarnations: &Incarnations) {
        *self.incarnations.write() = incarnations.clone();
    }

    pub(super) fn id_of(&self, sequence: u64) -> EventId {
        EventId::new(self.incarnations.read().of(sequence), sequence)
    }

    pub(super) fn sequences_in(&self, number: u64, next_sequence: u64) -> RoaringTreemap {
        self.index.read().sequences_in(number, next_sequence)
    }

    /// Changes what is known of the active generation after a write to it.
    pub(super) fn change(&self, number: u64, change: impl FnOnce(&mut Generation)) {
        let pages = self.update(|index| index.change(number, change));
        // No successor says yet how many pages it must have.
        if let (Some(pages), Some(active)) = (pages, self.active()) {
            active.set_expected_records(pages);
        }
    }

    /// Changes the index, and publishes its totals.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut GenerationIndex) -> T) -> T {
        let mut index = self.index.write();
        let outcome = change(&mut index);
        let totals = index.totals();
        self.owed_events.store(totals.owed_events, Ordering::Release);
        self.owed_bytes.store(totals.owed_bytes, Ordering::Release);
        outcome
    }

    /// A database to read from. A sealed generation is opened if it is not open.
    pub(super) fn database(&self, number: u64) -> Result<Arc<dyn Database>> {
        if let Some(newest) = self.database_of_newest(number) {
            return newest;
        }
        let slot = self.sealed.slot(number);
        self.open_sealed(number, &slot, slot.handle.lock())
    }

    /// Like [`database`](Generations::database), for the committer: `None` while another thread opens it.
    pub(super) fn try_database(&self, number: u64) -> Result<Option<Arc<dyn Database>>> {
        if let Some(newest) = self.database_of_newest(number) {
            return newest.map(Some);
        }
        let slot = self.sealed.slot(number);
        let handle = slot.handle.try_lock();
        handle.map(|handle| self.open_sealed(number, &slot, handle)).transpose()
    }

    fn open_sealed(
        &self,
        number: u64,
        slot: &SealedSlot,
        handle: MutexGuard<'_, Handle>,
    ) -> Result<Arc<dyn Database>> {
        let open = || self.store.open(&name_of(number));
        let exists = || self.index.read().contains(number);
        let found = self.sealed.get(number, slot, handle, exists, open).map_err(failed)?;
        let (record, why) = (format!("generation {number}"), "it is gone".to_owned());
        found.ok_or(Error::Damaged { record, why })
    }

    /// The database of the newest generation, if `number` is the newest.
    fn database_of_newest(&self, number: u64) -> Option<Result<Arc<dyn Database>>> {
        let newest = self.index.read().newest().map(|newest| newest.number);
        let why = "the outbox is being opened again after a failed write";
        let refused = || Error::Unknown { why: why.to_owned() };
        (newest == Some(number)).then(|| self.active().ok_or_else(refused))
    }

    /// Closes a generation that was just sealed, unless it is being read: its events are in the cache, and the
    /// next generation needs the memory that it gives back.
    pub(super) fn close_sealed(&self, number: u64) {
        self.sealed.close(number);
    }

    /// Closes the sealed generations that were not read since the last call.
    pub(super) fn close_unread(&self) {
        self.sealed.close_unread();
    }

    pub(super) fn has_open_sealed(&self) -> bool {
        self.sealed.has_open()
    }

    /// Removes a sealed generation. Returns false while it is being read.
    pub(super) fn remove(&self, number: u64) -> Result<bool> {
        self.sealed.remove(number, || match self.store.remove(&name_of(number)) {
            Err(StoreFailure::InUse) => Ok(false),
            removed => {
                removed.map_err(failed)?;
                self.update(|index| index.remove(number));
                Ok(true)
            }
        })
    }
}

impl LetterAccounts for Generations {
    fn account_of(&self, sequence: u64) -> AccountRef {
        self.index.read().account_of(sequence)
    }

    fn letters_max(&self, account: AccountRef) -> usize {
        self.accounts().letters_max(account)
    }
}

fn failed(failure: StoreFailure) -> Error {
    Error::store("opening or removing a generation", failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::cursor::tests::cursor;
    use crate::store::Memory;

    #[test]
    fn a_generation_can_be_read_while_it_is_being_sealed() {
        let store = Arc::new(Memory::default());
        let accounts =
            Arc::new(EventAccounts::new(crate::outbox::accounts::shares::tests::shares_of(&[])));
        let generations = Generations::new(Arc::clone(&store) as Arc<dyn Store>, 1_000, accounts);
        let mut cursor = cursor();
        assert_eq!(generations.begin(&mut cursor, 1).unwrap(), GenerationStart::Begun);
        let first = generations.active().unwrap();
        assert_eq!(generations.begin(&mut cursor, 2).unwrap(), GenerationStart::Begun);
        // The committer still holds the first; a reader must not open it a second time.
        assert!(Arc::ptr_eq(&generations.database(1).unwrap(), &first));
        assert!(Arc::ptr_eq(&generations.database(2).unwrap(), &generations.active().unwrap()));
        drop(first);
        generations.close_sealed(1);
        assert!(!generations.has_open_sealed());
        assert!(generations.database(1).is_ok());
    }
}

//! Decides which generation holds which event, and which generations are open.
//!
//! Leaves to others: what is written (`committer`) and when a generation goes (`reclaim`).
//! Invariant: the newest generation is the only one written to and is always open; a sealed one is
//! opened when something is read from it and closed when nothing was for a while, and at most
//! [`SEALED_OPEN_MAX`] of them stay open beside those that are being read from (I10).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use roaring::RoaringTreemap;

use crate::error::{Error, Result};
use crate::event::EventId;
use crate::store::{Batch, Database, Failure, Operation, Store};

use super::group::Cursor;
use super::meta::{Incarnations, Meta, Sealed};

/// How many sealed generations stay open for reading: lanes that are far apart read from different
/// ones, and each open one may hold all that was read from it in memory.
const SEALED_OPEN_MAX: usize = 2;

const PREFIX: &str = "outbox-";

/// The name of a generation's database.
pub(super) fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

/// The number of the generation that a database's name names.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    u64::from_str_radix(digits, 16).ok().filter(|number| name_of(*number) == name)
}

/// What is known of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generation {
    pub(super) number: u64,
    /// Events accepted into it have this sequence or a greater one, up to the next generation's.
    pub(super) first_sequence: u64,
    /// Bytes of keys and values written.
    pub(super) bytes: u64,
    /// Events in it, those copied into it included.
    pub(super) events: u64,
    /// Deliveries of its events that are owed.
    pub(super) owed: u64,
    /// Head pages and settle pages in it: what a sealed generation must still have when it is read.
    pub(super) pages: u64,
}

/// The generations, oldest first, shared by the committer and those who read.
#[derive(Debug)]
pub(super) struct Row {
    store: Arc<dyn Store>,
    places: RwLock<Places>,
    /// The sealed generations that are open, the one used last at the end.
    open: Mutex<Vec<OpenSealed>>,
    active: RwLock<Option<Arc<dyn Database>>>,
}

/// A sealed generation that is open.
#[derive(Debug)]
struct OpenSealed {
    number: u64,
    database: Arc<dyn Database>,
    /// Whether it was read from since the unread ones were last closed.
    was_read: bool,
}

impl OpenSealed {
    /// One that somebody reads from stays open: it could not be opened a second time.
    fn is_being_read(&self) -> bool {
        Arc::strong_count(&self.database) > 1
    }
}

#[derive(Debug, Default)]
struct Places {
    generations: BTreeMap<u64, Generation>,
    /// Where each generation's own sequences begin, and its number: of several that begin at one
    /// sequence only the newest has any of its own.
    begins: BTreeSet<(u64, u64)>,
    /// Events that were copied forward, and the generation that holds each.
    moved: HashMap<u64, u64>,
    incarnations: Incarnations,
}

impl Places {
    fn generation_of(&self, sequence: u64) -> Option<u64> {
        let own =
            || self.begins.range(..=(sequence, u64::MAX)).next_back().map(|(_, number)| *number);
        self.moved.get(&sequence).copied().or_else(own)
    }
}

impl Row {
    pub(super) fn new(store: Arc<dyn Store>) -> Row {
        Row { store, places: RwLock::default(), open: Mutex::default(), active: RwLock::default() }
    }

    /// Adds a generation that was read back.
    pub(super) fn add(&self, generation: Generation) {
        let mut places = self.places.write();
        places.begins.insert((generation.first_sequence, generation.number));
        places.generations.insert(generation.number, generation);
    }

    /// Notes which events were found copied forward.
    pub(super) fn place_moved(&self, moved: HashMap<u64, u64>) {
        self.places.write().moved = moved;
    }

    /// Begins the generation after the newest, and makes it the one that is written to. Its meta
    /// record is on the device when this returns. Answers false when it could not be begun and
    /// nothing of it is left, so that the newest stays as it is; after an error something may be
    /// left, and then nothing may be written to the newest, which that says is sealed.
    pub(super) fn begin(&self, cursor: &mut Cursor, number: u64) -> Result<bool> {
        let newest = self.newest();
        let sealing = newest.as_ref().map(|newest| newest.number).zip(self.active());
        let previous = newest.map(|newest| Sealed { number: newest.number, pages: newest.pages });
        let first_sequence = cursor.next_sequence;
        let meta = Meta { first_sequence, previous, ..cursor.meta.clone() };
        let Ok(database) = self.store.open(&name_of(number)) else {
            // Without a meta record it would be removed at the next open all the same.
            let _ = self.store.remove(&name_of(number));
            return Ok(false);
        };
        let mut batch = Batch::default();
        if let Operation::Put(key, value) = meta.write()? {
            batch.put(key, value);
        }
        if database.apply(batch).and_then(|()| database.sync()).is_err() {
            drop(database);
            self.store.remove(&name_of(number)).map_err(failed)?;
            return Ok(false);
        }
        cursor.meta = meta;
        cursor.generation = number;
        // Before it is sealed, so that whoever reads from it then finds it open.
        if let Some((number, database)) = sealing {
            self.open.lock().push(OpenSealed { number, database, was_read: false });
        }
        self.add(Generation { number, first_sequence, bytes: 0, events: 0, owed: 0, pages: 0 });
        self.activate(database);
        Ok(true)
    }

    /// Opens a database that is no generation.
    pub(super) fn open_beside(&self, name: &str) -> Result<Arc<dyn Database>> {
        self.store.open(name).map_err(failed)
    }

    /// Makes an added generation the one that is written to.
    pub(super) fn activate(&self, database: Arc<dyn Database>) {
        if let Some(newest) = self.newest() {
            database.vouch(newest.pages);
        }
        *self.active.write() = Some(database);
    }

    /// The database that is written to; none while the device refuses.
    pub(super) fn active(&self) -> Option<Arc<dyn Database>> {
        self.active.read().clone()
    }

    /// Lets go of the active database, so that it can be opened again.
    pub(super) fn deactivate(&self) {
        *self.active.write() = None;
    }

    /// Opens the generation that is written to again, after the device had refused.
    pub(super) fn reopen(&self, number: u64) -> Result<()> {
        let database = self.store.open(&name_of(number)).map_err(|failure| match failure {
            Failure::Damaged(why) => Error::Damaged { record: format!("generation {number}"), why },
            other => failed(other),
        })?;
        self.activate(database);
        Ok(())
    }

    /// Lets go of every database.
    pub(super) fn close(&self) {
        self.deactivate();
        self.open.lock().clear();
    }

    /// What is known of the newest generation.
    pub(super) fn newest(&self) -> Option<Generation> {
        self.places.read().generations.last_key_value().map(|(_, newest)| newest.clone())
    }

    /// What is known of the oldest generation, unless it is the newest too.
    pub(super) fn oldest_sealed(&self) -> Option<Generation> {
        let places = self.places.read();
        let oldest = places.generations.first_key_value().map(|(_, oldest)| oldest.clone());
        oldest.filter(|_| places.generations.len() > 1)
    }

    /// The counts of all sealed generations added up, under the number of none.
    pub(super) fn sealed_together(&self) -> Generation {
        let places = self.places.read();
        let sealed = places.generations.len().saturating_sub(1);
        let mut sum =
            Generation { number: 0, first_sequence: 0, bytes: 0, events: 0, owed: 0, pages: 0 };
        for generation in places.generations.values().take(sealed) {
            sum.bytes += generation.bytes;
            sum.events += generation.events;
            sum.owed += generation.owed.min(generation.events);
        }
        sum
    }

    /// Events and bytes held on the device, over all generations.
    pub(super) fn held(&self) -> (u64, u64) {
        let places = self.places.read();
        let all = places.generations.values();
        all.fold((0, 0), |(events, bytes), one| (events + one.events, bytes + one.bytes))
    }

    pub(super) fn generations(&self) -> usize {
        self.places.read().generations.len()
    }

    /// The generation that holds an event.
    pub(super) fn generation_of(&self, sequence: u64) -> Option<u64> {
        self.places.read().generation_of(sequence)
    }

    /// Notes the incarnations as they are now.
    pub(super) fn name_after(&self, incarnations: &Incarnations) {
        self.places.write().incarnations = incarnations.clone();
    }

    /// The name of a sequence to the outside.
    pub(super) fn id_of(&self, sequence: u64) -> EventId {
        EventId::new(self.places.read().incarnations.of(sequence), sequence)
    }

    /// The sequences of the events in a generation, and perhaps more that never were events, all of
    /// them below the next that will be given.
    pub(super) fn sequences_in(&self, number: u64, next_sequence: u64) -> RoaringTreemap {
        let places = self.places.read();
        let mut sequences = RoaringTreemap::new();
        if let Some(generation) = places.generations.get(&number) {
            let after = places.begins.range((generation.first_sequence, number + 1)..).next();
            let end = after.map_or(next_sequence, |(begin, _)| next_sequence.min(*begin));
            sequences.insert_range(generation.first_sequence..end);
        }
        places.moved.keys().for_each(|sequence| {
            sequences.remove(*sequence);
        });
        let inside = places.moved.iter().filter(|(_, holder)| **holder == number);
        sequences.extend(inside.map(|(sequence, _)| *sequence));
        sequences
    }

    /// Changes what is known of a generation that is written to, all of it on the device.
    pub(super) fn change(&self, number: u64, change: impl FnOnce(&mut Generation)) {
        let mut places = self.places.write();
        let Some(generation) = places.generations.get_mut(&number) else { return };
        let before = generation.pages;
        change(generation);
        let pages = generation.pages;
        drop(places);
        // No successor says yet how many pages it must have.
        if pages != before
            && let Some(active) = self.active()
        {
            active.vouch(pages);
        }
    }

    /// Counts deliveries that ended, each in the generation of its event.
    pub(super) fn ended(&self, sequences: impl Iterator<Item = u64>) {
        let mut places = self.places.write();
        for sequence in sequences {
            let number = places.generation_of(sequence);
            if let Some(generation) = number.and_then(|n| places.generations.get_mut(&n)) {
                generation.owed = generation.owed.saturating_sub(1);
            }
        }
    }

    /// Counts deliveries that are owed again, each in the generation of its event.
    pub(super) fn revived(&self, sequences: impl Iterator<Item = u64>) {
        let mut places = self.places.write();
        for sequence in sequences {
            let number = places.generation_of(sequence);
            if let Some(generation) = number.and_then(|n| places.generations.get_mut(&n)) {
                generation.owed += 1;
            }
        }
    }

    /// Notes that an event, with what it owes, now lies in another generation.
    pub(super) fn moved(&self, sequence: u64, owed: u64, to: u64) {
        let mut places = self.places.write();
        let from = places.generation_of(sequence);
        if let Some(generation) = from.and_then(|n| places.generations.get_mut(&n)) {
            generation.owed = generation.owed.saturating_sub(owed);
            generation.events = generation.events.saturating_sub(1);
        }
        if let Some(generation) = places.generations.get_mut(&to) {
            generation.owed += owed;
            generation.events += 1;
        }
        places.moved.insert(sequence, to);
    }

    /// A database to read from; opened if it is sealed and not open.
    pub(super) fn database(&self, number: u64) -> Result<Arc<dyn Database>> {
        if self.newest().is_some_and(|newest| newest.number == number) {
            let busy = "the outbox is being opened again after a failed write";
            return self.active().ok_or_else(|| Error::Unknown { why: busy.to_owned() });
        }
        // Held while opening, so that two readers do not open the same one.
        let mut open = self.open.lock();
        if let Some(place) = open.iter().position(|known| known.number == number) {
            let used = OpenSealed { was_read: true, ..open.remove(place) };
            let database = Arc::clone(&used.database);
            open.push(used);
            return Ok(database);
        }
        if !self.places.read().generations.contains_key(&number) {
            let record = format!("generation {number}");
            return Err(Error::Damaged { record, why: "it is gone".to_owned() });
        }
        let database = self.store.open(&name_of(number)).map_err(failed)?;
        open.push(OpenSealed { number, database: Arc::clone(&database), was_read: true });
        close_unused(&mut open);
        Ok(database)
    }

    /// Closes a generation that has just been sealed, unless somebody reads from it: what was
    /// accepted last is at hand, and what the next one takes in memory is what this one gives back.
    pub(super) fn close_sealed(&self, number: u64) {
        // Held while closing, so that a reader does not open one that is not closed yet.
        let mut open = self.open.lock();
        open.retain(|one| one.number != number || one.is_being_read());
        close_unused(&mut open);
    }

    /// Closes the sealed generations that nobody read from since this was called last.
    pub(super) fn close_unread(&self) {
        // Held while closing, so that a reader does not open one that is not closed yet.
        self.open.lock().retain_mut(|one| {
            let stays = one.was_read || one.is_being_read();
            one.was_read = false;
            stays
        });
    }

    /// Whether any sealed generation is open.
    pub(super) fn has_open_sealed(&self) -> bool {
        !self.open.lock().is_empty()
    }

    /// Removes a sealed generation whole. Answers false while somebody still reads from it.
    pub(super) fn remove(&self, number: u64) -> Result<bool> {
        let mut open = self.open.lock();
        if let Some(place) = open.iter().position(|known| known.number == number) {
            if open.get(place).is_some_and(OpenSealed::is_being_read) {
                return Ok(false);
            }
            open.remove(place);
        }
        match self.store.remove(&name_of(number)) {
            Err(Failure::InUse) => return Ok(false),
            removed => removed.map_err(failed)?,
        }
        let mut places = self.places.write();
        if let Some(gone) = places.generations.remove(&number) {
            places.begins.remove(&(gone.first_sequence, gone.number));
        }
        places.moved.retain(|_, holder| *holder != number);
        Ok(true)
    }
}

/// Closes those used longest ago.
fn close_unused(open: &mut Vec<OpenSealed>) {
    while open.len() > SEALED_OPEN_MAX
        && let Some(place) = open.iter().position(|one| !one.is_being_read())
    {
        open.remove(place);
    }
}

fn failed(failure: Failure) -> Error {
    Error::store("opening or removing a generation", failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    fn row(first_sequences: &[u64]) -> Row {
        let row = Row::new(Arc::new(Memory::default()));
        for (number, first_sequence) in (1..).zip(first_sequences.iter().copied()) {
            row.add(Generation { number, first_sequence, bytes: 0, events: 0, owed: 0, pages: 0 });
        }
        row
    }

    fn sequences(row: &Row, number: u64, next_sequence: u64) -> Vec<u64> {
        row.sequences_in(number, next_sequence).iter().collect()
    }

    #[test]
    fn the_sequences_of_a_generation_end_where_those_of_the_next_begin_or_no_more_were_given() {
        let row = row(&[1, 4, 4, 8]);
        assert_eq!(sequences(&row, 1, 10), [1, 2, 3]);
        assert_eq!(sequences(&row, 2, 10), [0; 0], "nothing was accepted into it");
        assert_eq!(sequences(&row, 3, 10), [4, 5, 6, 7]);
        // Without the bound this would fill memory until the process ends.
        assert_eq!(sequences(&row, 4, 10), [8, 9]);
        assert_eq!(sequences(&row, 9, 10), [0; 0], "there is no such generation");
    }

    #[test]
    fn a_generation_that_is_being_sealed_can_be_read_from_and_another_too() {
        let store = Arc::new(Memory::default());
        let row = Row::new(Arc::clone(&store) as Arc<dyn Store>);
        let mut cursor = crate::outbox::group::tests::cursor();
        assert!(row.begin(&mut cursor, 1).unwrap());
        let first = row.active().unwrap();
        assert!(row.begin(&mut cursor, 2).unwrap());
        // The committer holds the first still; a reader must not open it a second time.
        assert!(Arc::ptr_eq(&row.database(1).unwrap(), &first));
        assert!(Arc::ptr_eq(&row.database(2).unwrap(), &row.active().unwrap()));
        drop(first);
        row.close_sealed(1);
        assert!(!row.has_open_sealed());
        assert!(row.database(1).is_ok());
    }

    #[test]
    fn an_event_that_moved_is_in_the_generation_that_it_moved_to_and_in_no_other() {
        let row = row(&[1, 4]);
        row.moved(2, 0, 2);
        assert_eq!(sequences(&row, 1, 6), [1, 3]);
        assert_eq!(sequences(&row, 2, 6), [2, 4, 5]);
    }
}

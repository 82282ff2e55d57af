//! Opens an outbox after any stop: finds which deliveries are owed, and where to continue.
//!
//! A delivery is owed if its event exists and no generation says that it ended (I2, I3). Generations are read from
//! the newest to the oldest. Damage costs no more than the generation it is in, and is reported.

mod dedup_keys;
mod merge;
mod scan;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread::{self, Builder};

use parking_lot::Mutex;
use roaring::RoaringBitmap;

use crate::attempt::DeliveryId;
use crate::clock::{Clock, millis};
use crate::config::{Limits, OnDamage};
use crate::error::{Error, Result};
use crate::event::{AcceptanceTimes, Catalogue};
use crate::outbox::accounts::shares::AccountShares;
use crate::store::{Batch, Database, Store, StoreFailure};

use super::accounts::events::EventAccounts;
use super::codec::dedup_page::{self, BucketEntries};
use super::codec::keys;
use super::codec::meta::GenerationMeta;
use super::cursor::Cursor;
use super::dead_letters::DeadLetterIndex;
use super::dedup::database::{DEDUP_DATABASE, DedupDatabase};
use super::dedup::{AccountKeyLimits, DedupTable};
use super::generations::{self, GenerationStart, Generations};
use super::writer::commit_all;

use self::dedup_keys::ReadKeys;
pub(crate) use self::merge::RecoveredOutbox;
use self::merge::RecoveryState;
use self::scan::{GenerationScan, KnownNames, ScanMode, too_short};

/// What is out of reach in a damaged generation that stays as it is.
const REFUSED: &str = "its events that may be owed, dead letters and dedup keys are out of reach; the \
                       subscriptions and the other generations are not touched: restore a copy of it, or \
                       open with OnDamage::SetAside (a host: on_damage = \"set_aside\"), which renames \
                       it and goes on without it";

/// What is lost with a generation that was set aside.
const LOST: &str = "its events, dead letters and dedup keys are out of reach, and deliveries that ended \
                    in it may be repeated; the subscriptions and the other generations go on";

const DEDUP_REFUSED: &str = "events, dead letters and subscriptions are not touched: restore a copy of \
                             it, or open with OnDamage::SetAside (a host: on_damage = \"set_aside\"), \
                             which renames it; duplicates may then be accepted";

const DEDUP_LOST: &str = "no event is lost, duplicates may be accepted";

const READERS: usize = 4;

/// An outbox that was read but has no committer yet.
pub(crate) struct OpenedOutbox {
    pub(in crate::outbox) generations: Generations,
    pub(in crate::outbox) cursor: Cursor,
    pub(in crate::outbox) dedup_database: DedupDatabase,
    pub(in crate::outbox) catalogue: Catalogue,
}

pub(crate) struct OutboxOptions<'a> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) limits: &'a Limits,
    pub(crate) on_damage: OnDamage,
    /// Subscriptions that need the keys of their events.
    pub(crate) ordered: RoaringBitmap,
    pub(crate) shares: Arc<AccountShares>,
    pub(crate) clock: &'a dyn Clock,
}

impl OutboxOptions<'_> {
    /// Reads the outbox in a store, or begins a new one.
    pub(crate) fn read(self) -> Result<(OpenedOutbox, RecoveredOutbox)> {
        let accounts = Arc::new(EventAccounts::new(Arc::clone(&self.shares)));
        let (wall_ms, new_incarnation) = (self.clock.wall_ms(), self.clock.random_u64());
        GenerationReader { options: self, accounts, wall_ms, new_incarnation }.read()
    }
}

struct GenerationReader<'a> {
    options: OutboxOptions<'a>,
    accounts: Arc<EventAccounts>,
    wall_ms: u64,
    /// The name of a new incarnation, if one begins.
    new_incarnation: u64,
}

impl GenerationReader<'_> {
    /// Reads every generation, and opens the newest for writing.
    fn read(self) -> Result<(OpenedOutbox, RecoveredOutbox)> {
        let names = self.options.store.list().map_err(failed)?;
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|name| generations::number_of(name)).collect();
        numbers.sort_unstable();
        let dedup_keys = ReadKeys::new(
            self.options.limits.dedup_keys_max,
            AccountKeyLimits::of(&self.options.shares),
        );
        let mut state = RecoveryState::new(self.options.ordered.clone(), dedup_keys);
        let mut newest_first = numbers.iter().rev().copied();
        while !state.knows_newest()
            && let Some(number) = newest_first.next()
        {
            let read = self.read_possibly_newest(number, &mut state);
            self.or_set_aside(number, read, &mut state)?;
        }
        self.read_sealed(&newest_first.collect::<Vec<_>>(), &mut state)?;
        let next_number = numbers.last().map_or(1, |last| last + 1);
        let dedup_database = match self.read_dedup_database(&mut state) {
            Err(error) if error.is_damage() => {
                let error = in_part("the database of dedup keys", error);
                if self.options.on_damage == OnDamage::Refuse {
                    return Err(error.advised(DEDUP_REFUSED));
                }
                let name = self.options.store.set_aside(DEDUP_DATABASE).map_err(failed)?;
                state.recovered.set_aside.push((name, format!("{error}; {DEDUP_LOST}")));
                self.read_dedup_database(&mut state)?
            }
            read => read?,
        };
        self.finish(state, next_number, dedup_database)
    }

    /// Reads the database of dedup keys. Returns it and how many keys it has.
    fn read_dedup_database(&self, state: &mut RecoveryState) -> Result<(Arc<dyn Database>, usize)> {
        let database = self.options.store.open(DEDUP_DATABASE).map_err(failed)?;
        let (mut none, mut stored) = (BucketEntries::new(), 0);
        let last_page = dedup_page::read_all(&*database, &mut none, |key, page| {
            state.dedup_keys.add(keys::number_of(key).unwrap_or(0), page);
            stored += page.len();
            false
        })?;
        state.last_record = state.last_record.max(last_page);
        Ok((database, stored))
    }

    /// Reads generations that are certainly sealed, newest first. Several are read at a time, because opening
    /// one mostly waits for the device, and they are merged in order. A reader is at most one generation ahead,
    /// so that memory does not grow with their number.
    fn read_sealed(&self, numbers: &[u64], state: &mut RecoveryState) -> Result<()> {
        thread::scope(|scope| {
            let (mut channels, mut readers) = (Vec::new(), Vec::new());
            for first in 0..READERS.min(numbers.len()) {
                let (sender, channel) = crossbeam_channel::bounded(0);
                let mut own = numbers.iter().skip(first).step_by(READERS);
                let read = move || own.all(|number| sender.send(self.scan_sealed(*number)).is_ok());
                let thread = Builder::new().name("wabahook-reader".to_owned());
                readers.push(thread.spawn_scoped(scope, read).map_err(Error::thread)?);
                channels.push(channel);
            }
            let mut in_order = numbers.iter().zip(channels.iter().cycle());
            let merged = in_order.try_for_each(|(number, channel)| {
                let found = channel.recv();
                let found = found.unwrap_or_else(|_| {
                    Err(Error::Poisoned { why: "a reader panicked".to_owned() })
                });
                let read = found.and_then(|found| state.add_sealed(*number, found));
                self.or_set_aside(*number, read, state)
            });
            // Readers that are ahead end when their channel closes. A panic of one was reported above and
            // must not end the host.
            drop(channels);
            readers.into_iter().for_each(|reader| drop(reader.join()));
            merged
        })
    }

    fn scan_sealed(&self, number: u64) -> Result<GenerationScan> {
        let database = self.options.store.open(&generations::name_of(number)).map_err(failed)?;
        self.scan(&*database, ScanMode::Sealed)?.ok_or_else(nothing_there)
    }

    /// Reads a generation, which must have as many pages as its manifest says.
    fn scan(&self, database: &dyn Database, mode: ScanMode) -> Result<Option<GenerationScan>> {
        let expected = database.expected_records();
        let (catalogue, ordered) = (self.options.catalogue, &self.options.ordered);
        let known = KnownNames { catalogue, ordered, accounts: &self.accounts };
        let found = scan::generation(database, known, mode)?;
        match (&found, expected) {
            (None, Some(_)) => Err(nothing_there()),
            (Some(found), Some(expected)) if found.pages < expected => {
                let there = found.pages;
                Err(too_short(format!("{expected} were on the device and {there} are there")))
            }
            _ => Ok(found),
        }
    }

    fn or_set_aside(&self, number: u64, read: Result<()>, state: &mut RecoveryState) -> Result<()> {
        match read {
            Ok(()) => Ok(()),
            Err(error) if error.is_damage() => {
                let name = generations::name_of(number);
                let error = in_part(&format!("generation {number} ({name})"), error);
                if self.options.on_damage == OnDamage::Refuse {
                    return Err(error.advised(REFUSED));
                }
                let name = self.options.store.set_aside(&name).map_err(failed)?;
                state.newest_set_aside |= state.newest.is_none();
                state.recovered.set_aside.push((name, format!("{error}; {LOST}")));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn read_possibly_newest(&self, number: u64, state: &mut RecoveryState) -> Result<()> {
        let database = self.options.store.open(&generations::name_of(number)).map_err(failed)?;
        let may_be_newest = state.newest.is_none() || state.newest_is_unused;
        let mode = match may_be_newest && !state.newest_set_aside {
            true => ScanMode::Newest,
            false => ScanMode::Sealed,
        };
        let Some(found) = self.scan(&*database, mode)? else {
            if state.newest.is_some() || state.newest_set_aside {
                return Err(nothing_there());
            }
            // The engine stopped while it began this generation: nothing was ever written to it.
            drop(database);
            return self.options.store.remove(&generations::name_of(number)).map_err(failed);
        };
        let expected_pages = state.expected_pages(number, &found);
        let is_longer = found.pages > expected_pages || !found.leftovers.is_empty();
        if mode == ScanMode::Newest && is_longer {
            self.abandon_unused(state)?;
        } else {
            found.check_pages(expected_pages)?;
        }
        remove_leftovers(&*database, &found.leftovers)?;
        state.newest_is_unused = state.newest.is_none() && found.is_unused();
        if state.newest.is_none() {
            state.newest = Some((found.meta.clone(), database));
        }
        state.add(number, found);
        Ok(())
    }

    /// Drops an unused newest generation: the device refused it while it was begun, and the generation before it
    /// was written to once more.
    fn abandon_unused(&self, state: &mut RecoveryState) -> Result<()> {
        state.newest = None;
        match state.generations.pop() {
            Some((unused, _)) => {
                self.options.store.remove(&generations::name_of(unused.number)).map_err(failed)
            }
            None => Ok(()),
        }
    }

    fn finish(
        self,
        mut state: RecoveryState,
        next_number: u64,
        (dedup_database, stored_keys): (Arc<dyn Database>, usize),
    ) -> Result<(OpenedOutbox, RecoveredOutbox)> {
        let mut dedup = DedupTable::new(
            millis(self.options.limits.dedup_window),
            self.options.limits.dedup_keys_max,
        );
        std::mem::take(&mut state.dedup_keys).fill(&mut dedup, self.wall_ms);
        state.recovered.keys_dropped = dedup.take_dropped();
        let dedup_database = DedupDatabase::new(dedup_database, stored_keys, dedup.len());
        // After all generations are read: an event of another generation may lie between two runs and have an older time.
        let wall_ms = i64::try_from(self.wall_ms).unwrap_or(i64::MAX);
        let accepted = std::mem::take(&mut state.accepted);
        state.recovered.accepted = AcceptanceTimes::recovered(accepted, wall_ms);
        let generations = self.generations(&mut state);
        let (letters, dropped_letters) = self.letters(&mut state, &generations);
        state.recovered.letters_dropped = dropped_letters.len() as u64;
        let newest = state.newest.take();
        let mut cursor = Cursor {
            generation: generations.newest().map_or(0, |newest| newest.number),
            meta: newest.as_ref().map_or_else(GenerationMeta::first, |(meta, _)| meta.clone()),
            next_sequence: 1,
            next_page: state.last_page + 1,
            next_record: state.last_record + 1,
            dedup,
            retrying: state.take_retries(),
            attempts: Arc::new(Mutex::new(state.take_attempts(&letters))),
            health: state.take_health(),
            letters: Arc::new(Mutex::new(letters)),
            dropped_letters,
            tombstones: HashMap::new(),
            stored_removals: Arc::default(),
            removed: HashSet::new(),
            shares: Arc::clone(&self.options.shares),
        };
        // After a failed group a generation may begin above what is reserved.
        let assigned = cursor.meta.reserved.max(state.last_sequence);
        cursor.next_sequence = cursor.meta.first_sequence.max(assigned + 1);
        match newest {
            Some((_, database)) if !state.newest_set_aside => generations.activate(database),
            _ => self.begin_incarnation(&mut cursor, &generations, next_number)?,
        }
        generations.set_incarnations(&cursor.meta.incarnations);
        let catalogue = self.options.catalogue.clone();
        let opened = OpenedOutbox { generations, cursor, dedup_database, catalogue };
        Ok((opened, state.recovered))
    }

    /// The generations with what their events owe.
    fn generations(&self, state: &mut RecoveryState) -> Generations {
        let (store, accounts) = (Arc::clone(&self.options.store), Arc::clone(&self.accounts));
        let generations = Generations::new(store, self.options.limits.generation_bytes, accounts);
        generations.update(|index| {
            for (generation, events) in std::mem::take(&mut state.generations) {
                let number = generation.number;
                index.add(generation);
                index.add_events(number, events.into_iter());
            }
            for (sequence, moved) in std::mem::take(&mut state.moved) {
                index.add_moved(sequence, moved);
            }
        });
        generations
    }

    /// The dead letters within their bounds, and the others.
    fn letters(
        &self,
        state: &mut RecoveryState,
        generations: &Generations,
    ) -> (DeadLetterIndex, Vec<DeliveryId>) {
        let limits = self.options.limits;
        let mut letters =
            DeadLetterIndex::new(limits.dead_letters_max, millis(limits.dead_letter_age_max));
        for ((at_wall_ms, delivery), generation) in std::mem::take(&mut state.letters) {
            letters.keep(at_wall_ms, delivery, generation);
        }
        let dropped = letters.trim(self.wall_ms, generations);
        (letters, dropped.iter().map(|letter| letter.delivery).collect())
    }

    /// Begins a generation under a new incarnation, because there is no newest generation to continue. It is not
    /// known which sequences a generation that was set aside had assigned, so they are skipped.
    fn begin_incarnation(
        &self,
        cursor: &mut Cursor,
        generations: &Generations,
        number: u64,
    ) -> Result<()> {
        const SKIPPED: u64 = 1 << 32;
        if cursor.generation != 0 {
            cursor.next_sequence += SKIPPED;
        }
        let first_sequence = cursor.next_sequence;
        let begins = if cursor.generation == 0 { 0 } else { first_sequence };
        cursor.meta.incarnations.begin(begins, self.new_incarnation);
        cursor.meta.reserved = first_sequence - 1;
        if generations.begin(cursor, number)? == GenerationStart::Begun {
            return Ok(());
        }
        let refused = std::io::Error::other("a new generation could not be written");
        Err(failed(StoreFailure::io(refused)))
    }
}

fn nothing_there() -> Error {
    too_short("it was written to and nothing is there")
}

fn remove_leftovers(database: &dyn Database, leftovers: &[Vec<u8>]) -> Result<()> {
    let removals = leftovers.chunks(64).map(|keys| {
        let mut batch = Batch::default();
        keys.iter().for_each(|key| batch.remove(key.as_slice()));
        batch
    });
    commit_all(database, removals.collect())
}

/// Names the part of the outbox in which something is damaged.
fn in_part(part: &str, error: Error) -> Error {
    match error {
        Error::Damaged { record, why } => {
            Error::Damaged { record: format!("{part}, {record}"), why }
        }
        Error::Store { source: StoreFailure::Damaged(why), .. } => {
            Error::Damaged { record: part.to_owned(), why }
        }
        other => other,
    }
}

fn failed(failure: StoreFailure) -> Error {
    Error::store("recovering the outbox", failure)
}

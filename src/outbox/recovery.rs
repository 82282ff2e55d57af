//! Decides what the generations say after any stop: which deliveries are owed, and where to go on.
//!
//! Leaves to others: reading one generation (`reading`) and who the subscriptions are
//! (`engine::recovery`). Invariant (I2, I3): a delivery is owed iff its event counts and no
//! generation says that it ended; damage costs no more than the generation it lies in, and is told.
//!
//! Generations are read from the newest to the oldest, because what became of a delivery lies in
//! its event's generation or a newer one: when a head is read, everything about it is known.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread::{self, Builder};

use parking_lot::Mutex;
use roaring::{RoaringBitmap, RoaringTreemap};

use crate::attempt::{DeliveryId, LaneHealth, RetryState};
use crate::config::{Limits, OnDamage};
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::store::{Batch, Database, Failure, Store};
use crate::subscription::SubscriptionId;

use super::dedup::{Dedup, Dropped};
use super::group::Cursor;
use super::known::Known;
use super::letters::Letters;
use super::meta::{Incarnations, Meta};
use super::reading::{self, Found};
use super::row::{self, Row};

/// The database of dedup keys whose generation is gone.
pub(super) const DEDUP_DATABASE: &str = "dedup";

/// What is said of a damaged generation that stays as it is.
const REFUSED: &str = "what it holds is out of reach: events that may be owed, dead letters, dedup \
                       keys; the subscriptions and the other generations are not touched: put back \
                       a copy of it, or open with OnDamage::SetAside, which renames it and goes on \
                       without it";

/// What is said of one that was set aside.
const LOST: &str = "the events, dead letters and dedup keys in it are out of reach, and what had \
                    ended in it may be delivered again; the subscriptions and the other generations \
                    go on";

const DEDUP_REFUSED: &str = "events, dead letters and subscriptions are not touched: put back \
                             a copy of it, or open with OnDamage::SetAside, which renames it; \
                             duplicates may then be accepted";

const DEDUP_LOST: &str = "no event is lost, duplicates may be accepted";

/// How many sealed generations are read at a time.
const READERS: usize = 4;

/// What was found owed when the outbox was opened.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Sequences owed, by subscription.
    pub(crate) owed: HashMap<SubscriptionId, RoaringTreemap>,
    /// The state of those that failed before; they are in `owed` too.
    pub(crate) retries: Vec<(DeliveryId, RetryState)>,
    /// The newest health of each lane that ever failed.
    pub(crate) health: HashMap<SubscriptionId, LaneHealth>,
    /// The hash of the key of each event that is owed to a subscription whose deliveries need it;
    /// events without a key are left out.
    pub(crate) keys: HashMap<u64, u64>,
    /// Subscriptions that were removed.
    pub(crate) removed: HashSet<SubscriptionId>,
    /// Deliveries owed to removed subscriptions, which are cancelled.
    pub(crate) cancelled: u64,
    /// Dead letters dropped because they were over their bounds.
    pub(crate) letters_dropped: u64,
    /// Dedup keys dropped because there were more than the bound.
    pub(crate) keys_dropped: Option<Dropped>,
    /// Generations set aside because they could not be read: the new name, and why.
    pub(crate) set_aside: Vec<(String, String)>,
}

/// An outbox that was read back.
pub(super) struct Read {
    pub(super) row: Row,
    pub(super) cursor: Cursor,
    pub(super) recovered: Recovered,
    pub(super) dedup_database: Arc<dyn Database>,
}

/// What reading needs to know.
pub(super) struct Reader<'a> {
    pub(super) store: Arc<dyn Store>,
    pub(super) catalogue: &'a Catalogue,
    pub(super) limits: &'a Limits,
    pub(super) on_damage: OnDamage,
    pub(super) wall_ms: u64,
    /// Subscriptions whose deliveries need the key of their event.
    pub(super) ordered: RoaringBitmap,
    /// Names a new incarnation, where one begins.
    pub(super) fresh_name: u64,
}

impl Reader<'_> {
    /// Reads every generation, and opens the newest for writing.
    pub(super) fn read(self) -> Result<Read> {
        let names = self.store.list().map_err(failed)?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| row::number_of(name)).collect();
        numbers.sort_unstable();
        let mut known = Known { ordered: self.ordered.clone(), ..Known::default() };
        let mut newest_first = numbers.iter().rev().copied();
        while !known.newest_is_certain()
            && let Some(number) = newest_first.next()
        {
            let read = self.try_one(number, &mut known);
            self.or_set_aside(number, read, &mut known)?;
        }
        self.read_sealed(&newest_first.collect::<Vec<_>>(), &mut known)?;
        let next_number = numbers.last().map_or(1, |last| last + 1);
        let dedup_database = match self.read_dedup_database(&mut known) {
            Err(error) if error.is_damage() => {
                let error = in_part("the database of dedup keys", error);
                if self.on_damage == OnDamage::Refuse {
                    return Err(error.advised(DEDUP_REFUSED));
                }
                let name = self.store.set_aside(DEDUP_DATABASE).map_err(failed)?;
                known.recovered.set_aside.push((name, format!("{error}; {DEDUP_LOST}")));
                self.read_dedup_database(&mut known)?
            }
            read => read?,
        };
        self.finish(known, next_number, dedup_database)
    }

    fn read_dedup_database(&self, known: &mut Known) -> Result<Arc<dyn Database>> {
        let database = self.store.open(DEDUP_DATABASE).map_err(failed)?;
        let last_page = reading::dedup_pages(&*database, &mut known.dedup_entries)?;
        known.last_record = known.last_record.max(last_page);
        Ok(database)
    }

    /// Reads generations that are sealed beyond doubt, newest first: several at a time, because
    /// opening one waits for the device more than it computes, and taken in their order. A reader is
    /// at most one generation ahead, so that memory does not follow their number.
    fn read_sealed(&self, numbers: &[u64], known: &mut Known) -> Result<()> {
        let no_thread = |why: &dyn ToString| Error::Poisoned { why: why.to_string() };
        thread::scope(|scope| {
            let (mut queues, mut readers) = (Vec::new(), Vec::new());
            for first in 0..READERS.min(numbers.len()) {
                let (sender, queue) = crossbeam_channel::bounded(0);
                let mut own = numbers.iter().skip(first).step_by(READERS);
                let read = move || own.all(|number| sender.send(self.sealed(*number)).is_ok());
                let thread = Builder::new().name("wabahook-reader".to_owned());
                readers.push(thread.spawn_scoped(scope, read).map_err(|e| no_thread(&e))?);
                queues.push(queue);
            }
            let taken =
                numbers.iter().zip(queues.iter().cycle()).try_for_each(|(number, queue)| {
                    let found =
                        queue.recv().unwrap_or_else(|_| Err(no_thread(&"a reader panicked")));
                    let read = found.and_then(|found| known.take_sealed(*number, found));
                    self.or_set_aside(*number, read, known)
                });
            // Readers that are ahead end when nobody takes what they send. One that panicked was
            // told of above, and must not end the host.
            drop(queues);
            readers.into_iter().for_each(|reader| drop(reader.join()));
            taken
        })
    }

    /// What a sealed generation says; it is closed again.
    fn sealed(&self, number: u64) -> Result<Found> {
        let database = self.store.open(&row::name_of(number)).map_err(failed)?;
        self.found(&*database, false)?.ok_or_else(nothing_there)
    }

    /// What a generation says, with no fewer pages than were on the device.
    fn found(&self, database: &dyn Database, is_newest: bool) -> Result<Option<Found>> {
        let vouched = database.vouched();
        let found = reading::generation(database, self.catalogue, &self.ordered, is_newest)?;
        match (&found, vouched) {
            (None, Some(_)) => Err(nothing_there()),
            (Some(found), Some(vouched)) if found.pages < vouched => {
                let there = found.pages;
                Err(too_short(format!("{vouched} were on the device and {there} are there")))
            }
            _ => Ok(found),
        }
    }

    fn or_set_aside(&self, number: u64, read: Result<()>, known: &mut Known) -> Result<()> {
        match read {
            Ok(()) => Ok(()),
            Err(error) if error.is_damage() => {
                let name = row::name_of(number);
                let error = in_part(&format!("generation {number} ({name})"), error);
                if self.on_damage == OnDamage::Refuse {
                    return Err(error.advised(REFUSED));
                }
                let name = self.store.set_aside(&name).map_err(failed)?;
                known.newest_set_aside |= known.newest.is_none();
                known.recovered.set_aside.push((name, format!("{error}; {LOST}")));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn try_one(&self, number: u64, known: &mut Known) -> Result<()> {
        let database = self.store.open(&row::name_of(number)).map_err(failed)?;
        let may_be_newest = known.newest.is_none() || known.newest_is_unused;
        let is_newest = may_be_newest && !known.newest_set_aside;
        let Some(found) = self.found(&*database, is_newest)? else {
            if known.newest.is_some() || known.newest_set_aside {
                return Err(nothing_there());
            }
            // It was being begun when the engine stopped: nothing was ever written to it.
            drop(database);
            return self.store.remove(&row::name_of(number)).map_err(failed);
        };
        let sealed_pages = known.sealed_pages(number, &found);
        if is_newest && (found.pages > sealed_pages || !found.leftovers.is_empty()) {
            self.abandon_unused(known)?;
        } else {
            check_pages(&found, sealed_pages)?;
        }
        remove_leftovers(&*database, &found.leftovers)?;
        known.newest_is_unused = known.newest.is_none() && found.is_unused();
        if known.newest.is_none() {
            known.newest = Some((found.meta.clone(), database));
        }
        known.take(number, found);
        Ok(())
    }

    /// The device refused the newest generation while it was begun, and the one before it was
    /// written to once more: that one is the newest.
    fn abandon_unused(&self, known: &mut Known) -> Result<()> {
        known.newest = None;
        match known.generations.pop() {
            Some(unused) => self.store.remove(&row::name_of(unused.number)).map_err(failed),
            None => Ok(()),
        }
    }

    fn finish(
        self,
        mut known: Known,
        next_number: u64,
        dedup_database: Arc<dyn Database>,
    ) -> Result<Read> {
        let mut dedup = Dedup::new(self.limits.dedup_window_ms, self.limits.dedup_keys_max);
        known.remember_keys(&mut dedup, self.wall_ms);
        known.recovered.keys_dropped = dedup.take_dropped(self.wall_ms);
        let mut letters =
            Letters::new(self.limits.dead_letters_max, self.limits.dead_letter_age_max_ms);
        for ((at_wall_ms, delivery), generation) in std::mem::take(&mut known.letters) {
            letters.keep(at_wall_ms, delivery, generation);
        }
        known.recovered.letters_dropped = letters.trim(self.wall_ms).len() as u64;
        let retrying = known.owed_retries();
        let histories = known.owed_histories(&letters);
        let health = known.lane_health();
        let row = Row::new(Arc::clone(&self.store));
        known.generations.iter().for_each(|generation| row.add(generation.clone()));
        row.place_moved(std::mem::take(&mut known.moved));
        let newest = known.newest.take();
        let generation = row.newest().map_or(0, |newest| newest.number);
        let mut cursor = Cursor {
            generation,
            meta: newest.as_ref().map_or_else(fresh_meta, |(meta, _)| meta.clone()),
            next_sequence: 1,
            next_page: known.last_page + 1,
            next_record: known.last_record + 1,
            dedup,
            letters: Arc::new(Mutex::new(letters)),
            histories: Arc::new(Mutex::new(histories)),
            health,
            retrying,
            removed: HashSet::new(),
        };
        // After a group that failed a generation may begin above what is reserved.
        let given = cursor.meta.reserved.max(known.last_sequence);
        cursor.next_sequence = cursor.meta.first_sequence.max(given + 1);
        match newest {
            Some((_, database)) if !known.newest_set_aside => row.activate(database),
            _ => self.begin_again(&mut cursor, &row, next_number)?,
        }
        row.name_after(&cursor.meta.incarnations);
        Ok(Read { row, cursor, recovered: known.recovered, dedup_database })
    }

    /// Begins a generation under a new incarnation: there is no newest one to go on with. What
    /// sequences a generation that was set aside had given is not known, so they are skipped.
    fn begin_again(&self, cursor: &mut Cursor, row: &Row, number: u64) -> Result<()> {
        const SKIPPED: u64 = 1 << 32;
        if cursor.generation != 0 {
            cursor.next_sequence += SKIPPED;
        }
        let first_sequence = cursor.next_sequence;
        let begins = if cursor.generation == 0 { 0 } else { first_sequence };
        cursor.meta.incarnations.begin(begins, self.fresh_name);
        cursor.meta.reserved = first_sequence - 1;
        if row.begin(cursor, number)? {
            return Ok(());
        }
        let refused = std::io::Error::other("a new generation could not be written");
        Err(failed(Failure::io(refused)))
    }
}

pub(super) fn check_pages(found: &Found, sealed_pages: u64) -> Result<()> {
    let there = found.pages;
    match there == sealed_pages {
        true => Ok(()),
        false => Err(too_short(format!("it was sealed with {sealed_pages} and {there} are there"))),
    }
}

fn nothing_there() -> Error {
    too_short("it was written to and nothing is there".to_owned())
}

fn fresh_meta() -> Meta {
    let incarnations = Incarnations::default();
    Meta { incarnations, reserved: 0, first_sequence: 1, previous: None }
}

fn remove_leftovers(database: &dyn Database, leftovers: &[Vec<u8>]) -> Result<()> {
    for keys in leftovers.chunks(64) {
        let mut batch = Batch::default();
        keys.iter().for_each(|key| batch.remove(key.as_slice()));
        database.apply(batch).map_err(failed)?;
    }
    if leftovers.is_empty() {
        return Ok(());
    }
    database.sync().map_err(failed)
}

fn too_short(why: String) -> Error {
    Error::Damaged { record: "pages of events and ends".to_owned(), why }
}

/// Names the part of the outbox in which something is damaged.
fn in_part(part: &str, error: Error) -> Error {
    match error {
        Error::Damaged { record, why } => {
            Error::Damaged { record: format!("{part}, {record}"), why }
        }
        Error::Store { source: Failure::Damaged(why), .. } => {
            Error::Damaged { record: part.to_owned(), why }
        }
        other => other,
    }
}

fn failed(failure: Failure) -> Error {
    Error::store("recovering the outbox", failure)
}

//! Decides what the generations say after any stop: which deliveries are owed, and where to go on.
//!
//! Leaves to others: reading one generation (`reading`) and who the subscriptions are
//! (`engine::recovery`). Invariant (I2, I3): a delivery is owed iff its event counts and no
//! generation says that it ended; damage costs no more than the generation it lies in, and is told.
//!
//! Generations are read from the newest to the oldest, because what became of a delivery lies in
//! its event's generation or a newer one: when a head is read, everything about it is known.

use std::collections::{BTreeMap, HashMap, HashSet};
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

use super::dedup::{Dedup, Dropped, KeyHash};
use super::group::Cursor;
use super::history::{Histories, Place};
use super::letters::Letters;
use super::meta::{Incarnations, Meta, Sealed};
use super::reading::{self, Found, FoundAttempt};
use super::row::{self, Generation, Row};

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

/// What is known so far, generation by generation.
#[derive(Default)]
struct Known {
    generations: Vec<Generation>,
    /// The newest generation's meta record and open database.
    newest: Option<(Meta, Arc<dyn Database>)>,
    newest_set_aside: bool,
    /// Nothing but its beginning was ever written to the newest.
    newest_is_unused: bool,
    /// What the generation read last says of the one before it.
    expected: Option<Sealed>,
    /// Deliveries that ended, by subscription.
    ended: HashMap<SubscriptionId, RoaringTreemap>,
    /// Dead letters owed again, and the number of the record that says so: an end with a smaller
    /// number came before.
    revived: HashMap<DeliveryId, u64>,
    /// Events of which a newer copy was read, and the generation that holds it.
    moved: HashMap<u64, u64>,
    retries: HashMap<DeliveryId, (RetryState, u64)>,
    histories: Histories,
    /// The newest health of each lane, and the generation that holds it.
    health: HashMap<SubscriptionId, (LaneHealth, u64)>,
    /// Subscriptions whose deliveries need the key of their event.
    ordered: RoaringBitmap,
    letters: BTreeMap<(u64, DeliveryId), u64>,
    /// The deliveries of these letters.
    dead: HashSet<DeliveryId>,
    dedup_entries: BTreeMap<u64, Vec<(KeyHash, u64)>>,
    last_sequence: u64,
    last_page: u64,
    last_record: u64,
    recovered: Recovered,
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

impl Known {
    /// Whether what is not read yet is sealed.
    fn newest_is_certain(&self) -> bool {
        self.newest.is_some() && !self.newest_is_unused
    }

    /// How many pages a generation must have: what the one after it says, or as many as it has.
    fn sealed_pages(&mut self, number: u64, found: &Found) -> u64 {
        let expected = self.expected.take().filter(|expected| expected.number == number);
        expected.map_or(found.pages, |expected| expected.pages)
    }

    fn take_sealed(&mut self, number: u64, found: Found) -> Result<()> {
        let sealed_pages = self.sealed_pages(number, &found);
        check_pages(&found, sealed_pages)?;
        self.take(number, found);
        Ok(())
    }

    fn take(&mut self, number: u64, found: Found) {
        self.expected = found.meta.previous.clone();
        // Before the revivals: a state from before a revival lies in an older generation than that.
        for (delivery, state) in found.retries {
            if !self.revived.contains_key(&delivery) {
                self.retries.entry(delivery).or_insert((state, number));
            }
        }
        for (delivery, record) in found.revived {
            let newest = self.revived.entry(delivery).or_default();
            *newest = record.max(*newest);
        }
        for (record, deliveries) in found.settles {
            deliveries.into_iter().for_each(|delivery| {
                self.end(delivery, record);
            });
        }
        for (delivery, record, at_wall_ms) in found.letters {
            // A newer copy of the same letter may have been read already.
            if self.end(delivery, record) {
                self.letters.insert((at_wall_ms, delivery), number);
                self.dead.insert(delivery);
            }
        }
        self.recovered.removed.extend(found.removed);
        self.take_attempts(number, found.attempts);
        for (id, health) in found.health {
            self.health.entry(id).or_insert((health, number));
        }
        for (bucket, entries) in found.dedup_entries {
            self.dedup_entries.entry(bucket).or_default().extend(entries);
        }
        self.last_page = self.last_page.max(found.last_page);
        self.last_record = self.last_record.max(found.last_record);
        let mut generation = Generation {
            number,
            first_sequence: found.meta.first_sequence,
            bytes: found.bytes,
            events: 0,
            owed: 0,
            pages: found.pages,
        };
        for (mut sequences, targets) in found.events {
            if !self.moved.is_empty() {
                sequences = sequences.iter().filter(|one| !self.moved.contains_key(one)).collect();
            }
            let copied = sequences.iter().take_while(|one| *one < generation.first_sequence);
            self.moved.extend(copied.map(|sequence| (sequence, number)));
            self.last_sequence = self.last_sequence.max(sequences.max().unwrap_or(0));
            generation.events += sequences.len();
            generation.owed += self.owe(&sequences, &targets);
        }
        for (sequence, key_hash, targets) in found.keyed {
            self.keep_key(sequence, key_hash, &targets);
        }
        self.generations.push(generation);
    }

    /// Notes that a delivery ended, unless it was revived after. Answers whether that is news.
    fn end(&mut self, delivery: DeliveryId, record: u64) -> bool {
        if self.revived.get(&delivery).is_some_and(|revived| *revived > record) {
            return false;
        }
        self.ended.entry(delivery.subscription).or_default().insert(delivery.sequence)
    }

    /// Owes events to those of their targets for whom they have not ended; says how many deliveries.
    fn owe(&mut self, sequences: &RoaringTreemap, targets: &RoaringBitmap) -> u64 {
        let mut owed = 0;
        for id in targets.iter().map(SubscriptionId) {
            let mut theirs = sequences.clone();
            if let Some(ended) = self.ended.get(&id) {
                theirs -= ended;
            }
            if self.recovered.removed.contains(&id) {
                self.recovered.cancelled += theirs.len();
                continue;
            }
            owed += theirs.len();
            *self.recovered.owed.entry(id).or_default() |= theirs;
        }
        owed
    }

    /// Keeps the key of an event where somebody who is owed it needs it.
    fn keep_key(&mut self, sequence: u64, key_hash: u64, targets: &RoaringBitmap) {
        let needs = |id: u32| {
            let owed = self.recovered.owed.get(&SubscriptionId(id));
            owed.is_some_and(|owed| owed.contains(sequence))
        };
        if (targets & &self.ordered).into_iter().any(needs) {
            self.recovered.keys.insert(sequence, key_hash);
        }
    }

    /// Keeps the newest record of each slot, which is the one read first, where its delivery may
    /// need it: neither settled nor revived since.
    fn take_attempts(&mut self, generation: u64, found: Vec<FoundAttempt>) {
        for FoundAttempt { delivery, slot, record, bytes } in found {
            let is_past = self.revived.get(&delivery).is_some_and(|revived| *revived > record);
            let ended = self.ended.get(&delivery.subscription);
            let is_settled = ended.is_some_and(|ended| ended.contains(delivery.sequence))
                && !self.dead.contains(&delivery);
            if !is_past && !is_settled && self.histories.place_of(delivery, slot).is_none() {
                self.histories.keep(delivery, slot, Place { generation, bytes });
            }
        }
    }

    /// The histories of deliveries that are owed and of dead letters.
    fn owed_histories(&mut self, letters: &Letters) -> Histories {
        let mut histories = std::mem::take(&mut self.histories);
        histories.retain(|delivery| {
            let owed = self.recovered.owed.get(&delivery.subscription);
            let is_owed = owed.is_some_and(|owed| owed.contains(delivery.sequence));
            is_owed || letters.holder_of(delivery).is_some()
        });
        histories
    }

    /// Tells the health of the lanes that are left, and where the record of each lies.
    fn lane_health(&mut self) -> HashMap<SubscriptionId, u64> {
        let mut all = std::mem::take(&mut self.health);
        all.retain(|id, _| !self.recovered.removed.contains(id));
        let holders = all.iter().map(|(id, (_, generation))| (*id, *generation)).collect();
        self.recovered.health = all.into_iter().map(|(id, (health, _))| (id, health)).collect();
        holders
    }

    /// Retry states of deliveries still owed; others are left over from a delivery that ended.
    fn owed_retries(&mut self) -> HashMap<DeliveryId, u64> {
        let owed = &self.recovered.owed;
        self.retries.retain(|delivery, _| {
            let sequences = owed.get(&delivery.subscription);
            sequences.is_some_and(|sequences| sequences.contains(delivery.sequence))
        });
        let states = self.retries.iter().map(|(id, (state, _))| (*id, state.clone()));
        self.recovered.retries = states.collect();
        self.retries.iter().map(|(id, (_, generation))| (*id, *generation)).collect()
    }

    /// Keys within the window whose event counts; the others are left to expire.
    fn remember_keys(&mut self, dedup: &mut Dedup, wall_ms: u64) {
        for (bucket, entries) in std::mem::take(&mut self.dedup_entries) {
            if !dedup.is_current(bucket, wall_ms) {
                dedup.found_expired(bucket);
                continue;
            }
            for (key, sequence) in entries.into_iter().filter(|(_, s)| *s <= self.last_sequence) {
                dedup.remember(bucket, key, sequence);
            }
        }
    }
}

fn check_pages(found: &Found, sealed_pages: u64) -> Result<()> {
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

//! Decides what a generation says after any stop: which deliveries are owed, and where to go on.
//!
//! Leaves to others: who the subscriptions are (`engine::recovery`). Invariant (I2, I3): an event
//! counts iff its whole unit is there; a delivery is owed iff its event counts and it is neither
//! settled, dead nor owed to a subscription that was removed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use roaring::RoaringTreemap;

use crate::attempt::{DeliveryId, RetryState};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::store::record::{self, unseal};
use crate::store::{Batch, Database, Visit};
use crate::subscription::SubscriptionId;

use super::dedup::{self, Dedup};
use super::group::{self, Cursor, PAIR_BYTES};
use super::heads::{self, Page};
use super::keys;

/// What was found owed when the outbox was opened.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Sequences owed, by subscription.
    pub(crate) owed: HashMap<SubscriptionId, RoaringTreemap>,
    /// The state of those that failed before; they are in `owed` too.
    pub(crate) retries: Vec<(DeliveryId, RetryState)>,
    /// Subscriptions that were removed.
    pub(crate) removed: HashSet<SubscriptionId>,
    /// Deliveries owed to removed subscriptions, which are cancelled.
    pub(crate) cancelled: u64,
    /// Dead letters kept.
    pub(crate) dead: u64,
}

/// Reads a generation whole and removes what an unfinished group left above the last finished one.
pub(super) fn recover(
    database: &dyn Database,
    catalogue: &Catalogue,
    limits: &Limits,
    wall_ms: u64,
    fresh_incarnation: u64,
) -> Result<(Cursor, Recovered)> {
    let mut reading = Reading::start(database, catalogue);
    reading.read_meta(fresh_incarnation)?;
    reading.read_ends()?;
    reading.read_heads()?;
    let retries = reading.read_retries()?;
    let dedup = reading.read_dedup(limits, wall_ms)?;
    let next_page = reading.first_free_page()?;
    reading.remove_leftovers()?;
    let retrying = retries.iter().map(|(delivery, _)| *delivery).collect();
    let next_sequence = reading.reserved.max(reading.last_sequence) + 1;
    let cursor = Cursor {
        incarnation: reading.incarnation,
        next_sequence,
        reserved: reading.reserved,
        next_page,
        next_record: reading.last_record + 1,
        dedup,
        retrying,
    };
    Ok((cursor, Recovered { retries, ..reading.recovered }))
}

struct Reading<'a> {
    database: &'a dyn Database,
    catalogue: &'a Catalogue,
    incarnation: u64,
    reserved: u64,
    last_sequence: u64,
    last_record: u64,
    /// Deliveries that ended, by subscription.
    ended: HashMap<SubscriptionId, RoaringTreemap>,
    recovered: Recovered,
    leftovers: Vec<Vec<u8>>,
}

impl<'a> Reading<'a> {
    fn start(database: &'a dyn Database, catalogue: &'a Catalogue) -> Reading<'a> {
        Reading {
            database,
            catalogue,
            incarnation: 0,
            reserved: 0,
            last_sequence: 0,
            last_record: 0,
            ended: HashMap::new(),
            recovered: Recovered::default(),
            leftovers: Vec::new(),
        }
    }

    fn read_meta(&mut self, fresh_incarnation: u64) -> Result<()> {
        let sealed = self.database.get(keys::META).map_err(failed)?;
        let Some(sealed) = sealed else {
            self.incarnation = fresh_incarnation;
            return Ok(());
        };
        let damaged = |why: String| Error::Damaged { record: "meta record".to_owned(), why };
        let (version, body) = unseal(&sealed).map_err(damaged)?;
        let (numbers, rest) = body.as_chunks::<8>();
        let ([incarnation, reserved], true, group::VERSION) = (numbers, rest.is_empty(), version)
        else {
            return Err(damaged(format!("version {version}, {} bytes", body.len())));
        };
        self.incarnation = u64::from_le_bytes(*incarnation);
        self.reserved = u64::from_le_bytes(*reserved);
        Ok(())
    }

    /// Settled deliveries, dead letters and removed subscriptions.
    fn read_ends(&mut self) -> Result<()> {
        let mut ended: HashMap<SubscriptionId, RoaringTreemap> = HashMap::new();
        let mut last_record = 0;
        scan(self.database, keys::SETTLED, |key, sealed| {
            last_record = keys::number_of(key).unwrap_or(0).max(last_record);
            let damaged =
                |why| Error::Damaged { record: format!("settle record {last_record}"), why };
            let (_, body) = unseal(sealed).map_err(damaged)?;
            for pair in body.as_chunks::<PAIR_BYTES>().0 {
                let [a, b, c, d, e, f, g, h, i, j, k, l] = *pair;
                let sequence = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                let id = SubscriptionId(u32::from_le_bytes([i, j, k, l]));
                ended.entry(id).or_default().insert(sequence);
            }
            Ok(())
        })?;
        let mut dead = 0;
        scan(self.database, keys::DEAD, |key, _| {
            if let Some(delivery) = keys::delivery_of(key) {
                ended.entry(delivery.subscription).or_default().insert(delivery.sequence);
                dead += 1;
            }
            Ok(())
        })?;
        let mut removed = HashSet::new();
        scan(self.database, keys::TOMBSTONE, |key, _| {
            removed.extend(keys::subscription_of(key));
            Ok(())
        })?;
        self.last_record = last_record;
        self.ended = ended;
        self.recovered.dead = dead;
        self.recovered.removed = removed;
        Ok(())
    }

    /// Takes each unit whole or not at all. An unfinished one can only be the last.
    fn read_heads(&mut self) -> Result<()> {
        let (database, catalogue) = (self.database, self.catalogue);
        let mut unit: Vec<(Vec<u8>, Page)> = Vec::new();
        scan(database, keys::HEADS, |key, sealed| {
            let first_sequence = keys::number_of(key).unwrap_or(0);
            let page = heads::read(database, catalogue, first_sequence, sealed)?;
            if page.unit_page == 0 && !unit.is_empty() {
                return Err(unfinished(&unit));
            }
            if page.unit_page as usize != unit.len() {
                return Err(out_of_place(first_sequence, &page));
            }
            unit.push((key.to_vec(), page));
            if unit.last().is_some_and(|(_, last)| last.unit_page + 1 == last.unit_pages) {
                unit.drain(..).for_each(|(_, page)| self.take(page));
            }
            Ok(())
        })?;
        self.leftovers.extend(unit.into_iter().map(|(key, _)| key));
        Ok(())
    }

    fn take(&mut self, page: Page) {
        for head in page.heads {
            self.last_sequence = self.last_sequence.max(head.sequence);
            for target in head.targets {
                let id = SubscriptionId(target);
                if self.ended.get(&id).is_some_and(|ended| ended.contains(head.sequence)) {
                    continue;
                }
                if self.recovered.removed.contains(&id) {
                    self.recovered.cancelled += 1;
                    continue;
                }
                self.recovered.owed.entry(id).or_default().insert(head.sequence);
            }
        }
    }

    /// Retry states of deliveries still owed; others are left over from a delivery that ended.
    fn read_retries(&mut self) -> Result<Vec<(DeliveryId, RetryState)>> {
        let mut retries = Vec::new();
        let (owed, leftovers) = (&self.recovered.owed, &mut self.leftovers);
        scan(self.database, keys::RETRY, |key, sealed| {
            let Some(delivery) = keys::delivery_of(key) else { return Ok(()) };
            let is_owed = owed
                .get(&delivery.subscription)
                .is_some_and(|sequences| sequences.contains(delivery.sequence));
            if !is_owed {
                leftovers.push(key.to_vec());
                return Ok(());
            }
            let state = record::decode(group::VERSION, sealed).map_err(|why| Error::Damaged {
                record: format!("retry state of event {}", delivery.sequence),
                why,
            })?;
            retries.push((delivery, state));
            Ok(())
        })?;
        Ok(retries)
    }

    /// Keys within the window whose event counts; the pages of older buckets are left to expire.
    fn read_dedup(&mut self, limits: &Limits, wall_ms: u64) -> Result<Dedup> {
        let mut dedup = Dedup::new(limits.dedup_window_ms, limits.dedup_keys_max);
        let last_sequence = self.last_sequence;
        let mut last_record = self.last_record;
        let mut entries: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        scan(self.database, keys::DEDUP, |key, sealed| {
            let Some(bucket) = keys::number_of(key) else { return Ok(()) };
            last_record = last_record.max(key.get(8..).and_then(keys::number_of).unwrap_or(0));
            if !dedup.is_current(bucket, wall_ms) {
                dedup.found_expired(bucket);
                return Ok(());
            }
            let page = dedup::read_page(sealed).map_err(|why| Error::Damaged {
                record: format!("dedup page of bucket {bucket}"),
                why,
            })?;
            entries.entry(bucket).or_default().extend(page);
            Ok(())
        })?;
        for (bucket, page) in entries {
            for (key, sequence) in page.into_iter().filter(|(_, s)| *s <= last_sequence) {
                dedup.remember(bucket, key, sequence);
            }
        }
        self.last_record = last_record;
        Ok(dedup)
    }

    fn first_free_page(&self) -> Result<u64> {
        let last = self.database.last(keys::PAYLOAD, &keys::numbered(keys::PAYLOAD, u64::MAX));
        let number = last.map_err(failed)?.and_then(|(key, _)| keys::number_of(&key));
        Ok(number.map_or(1, |number| number + 1))
    }

    fn remove_leftovers(&mut self) -> Result<()> {
        for keys in self.leftovers.chunks(64) {
            let mut batch = Batch::default();
            keys.iter().for_each(|key| batch.remove(key.as_slice()));
            self.database.apply(batch).map_err(failed)?;
        }
        if !self.leftovers.is_empty() {
            self.database.sync().map_err(failed)?;
        }
        Ok(())
    }
}

/// Shows each record of a kind; the first error ends the scan and is returned.
fn scan(
    database: &dyn Database,
    kind: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut outcome = Ok(());
    let visit: &mut Visit<'_> = &mut |key, value| match visit(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            outcome = Err(error);
            ControlFlow::Break(())
        }
    };
    database.scan(kind, b"", visit).map_err(failed)?;
    outcome
}

fn failed(failure: crate::store::Failure) -> Error {
    Error::store("recovering the outbox", failure)
}

fn unfinished(unit: &[(Vec<u8>, Page)]) -> Error {
    let first = unit.first().map_or(0, |(_, page)| page.unit_first_sequence);
    Error::Damaged {
        record: format!("unit of head pages from {first}"),
        why: format!("{} page(s) of it are there and later units follow", unit.len()),
    }
}

fn out_of_place(first_sequence: u64, page: &Page) -> Error {
    Error::Damaged {
        record: format!("head page {first_sequence}"),
        why: format!("it is page {} of its unit and those before it are gone", page.unit_page),
    }
}

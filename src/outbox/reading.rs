//! Decides what one generation says.
//!
//! Leaves to others: what the generations say together (`recovery`). Invariant (I2): the heads of
//! a unit count all together or not at all; an unfinished unit can only be the last of the newest
//! generation, and anywhere else it is damage.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use roaring::{RoaringBitmap, RoaringTreemap};

use crate::attempt::{DeliveryId, LaneHealth, Letter, RetryState, Tried};
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::store::record::{self, unseal};
use crate::store::{Database, Visit};
use crate::subscription::SubscriptionId;

use super::dedup::{self, KeyHash};
use super::group::{self, PAIR_BYTES};
use super::heads::{self, Page};
use super::keys;
use super::meta::Meta;

/// What a generation says.
pub(super) struct Found {
    pub(super) meta: Meta,
    /// The settle pages: each one's number, and the deliveries in it.
    pub(super) settles: Vec<(u64, Vec<DeliveryId>)>,
    /// Dead letters: the number of each one's record, and when it was given up.
    pub(super) letters: Vec<(DeliveryId, u64, u64)>,
    /// Dead letters owed again: the number of each one's record.
    pub(super) revived: Vec<(DeliveryId, u64)>,
    pub(super) removed: Vec<SubscriptionId>,
    /// The sequences of events that have the same targets, and those targets.
    pub(super) events: Vec<(RoaringTreemap, Arc<RoaringBitmap>)>,
    /// The hash of the key of each event that has one and is for somebody who needs it.
    pub(super) keyed: Vec<(u64, u64, Arc<RoaringBitmap>)>,
    pub(super) retries: Vec<(DeliveryId, RetryState)>,
    /// Failed attempts, in the order of their keys.
    pub(super) attempts: Vec<FoundAttempt>,
    pub(super) health: Vec<(SubscriptionId, LaneHealth)>,
    pub(super) dedup_entries: BTreeMap<u64, Vec<(KeyHash, u64)>>,
    pub(super) last_page: u64,
    pub(super) last_record: u64,
    /// Head pages and settle pages.
    pub(super) pages: u64,
    /// Bytes of what was counted, payloads included.
    pub(super) bytes: u64,
    /// What an unfinished group left, by key.
    pub(super) leftovers: Vec<Vec<u8>>,
}

/// The record of a failed attempt, without what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FoundAttempt {
    pub(super) delivery: DeliveryId,
    pub(super) slot: u8,
    /// Greater than those of records written before.
    pub(super) record: u64,
    /// What key and value take.
    pub(super) bytes: u32,
}

/// Reads a generation; `None` when it was never written to.
pub(super) fn generation(
    database: &dyn Database,
    catalogue: &Catalogue,
    ordered: &RoaringBitmap,
    is_newest: bool,
) -> Result<Option<Found>> {
    let Some(sealed) = database.get(keys::META).map_err(failed)? else {
        let heads = database.last(keys::HEADS, &keys::numbered(keys::HEADS, u64::MAX));
        return match heads.map_err(failed)? {
            None => Ok(None),
            Some(_) => Err(damaged("meta record".to_owned(), "it is missing".to_owned())),
        };
    };
    let mut found = Found {
        meta: Meta::read(&sealed)?,
        settles: Vec::new(),
        letters: Vec::new(),
        revived: Vec::new(),
        removed: Vec::new(),
        events: Vec::new(),
        keyed: Vec::new(),
        retries: Vec::new(),
        attempts: Vec::new(),
        health: Vec::new(),
        dedup_entries: BTreeMap::new(),
        last_page: 0,
        last_record: 0,
        pages: 0,
        bytes: 0,
        leftovers: Vec::new(),
    };
    found.read_settles(database)?;
    found.read_letters(database)?;
    scan(database, keys::TOMBSTONE, |key, _| {
        found.removed.extend(keys::subscription_of(key));
        Ok(())
    })?;
    found.read_heads(database, catalogue, ordered, is_newest)?;
    found.read_retries(database)?;
    found.read_attempts(database)?;
    found.read_health(database)?;
    if is_newest {
        found.find_keys_without_events(database)?;
    }
    let last_dedup_record = dedup_pages(database, &mut found.dedup_entries)?;
    found.last_record = found.last_record.max(last_dedup_record);
    let last = database.last(keys::PAYLOAD, &keys::numbered(keys::PAYLOAD, u64::MAX));
    found.last_page = last.map_err(failed)?.and_then(|(key, _)| keys::number_of(&key)).unwrap_or(0);
    Ok(Some(found))
}

impl Found {
    /// Whether there is nothing but the record that begins it.
    pub(super) fn is_unused(&self) -> bool {
        self.pages == 0
            && self.last_page == 0
            && self.last_record == 0
            && self.leftovers.is_empty()
            && self.letters.is_empty()
            && self.retries.is_empty()
            && self.health.is_empty()
            && self.removed.is_empty()
    }

    fn read_settles(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::SETTLED, |key, sealed| {
            let number = keys::number_of(key).unwrap_or(0);
            self.last_record = self.last_record.max(number);
            self.pages += 1;
            self.bytes += sealed.len() as u64;
            let (_, body) =
                unseal(sealed).map_err(|why| damaged(format!("settle record {number}"), why))?;
            let pairs = body.as_chunks::<PAIR_BYTES>().0.iter().map(|pair| {
                let [a, b, c, d, e, f, g, h, i, j, k, l] = *pair;
                let sequence = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                let subscription = SubscriptionId(u32::from_le_bytes([i, j, k, l]));
                DeliveryId { sequence, subscription }
            });
            self.settles.push((number, pairs.collect()));
            Ok(())
        })
    }

    fn read_letters(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::DEAD, |key, sealed| {
            let Some(delivery) = keys::delivery_of(key) else { return Ok(()) };
            let what = || format!("dead letter of event {}", delivery.sequence);
            let (number, letter): (u64, Letter) =
                record::decode(group::VERSION, sealed).map_err(|why| damaged(what(), why))?;
            self.last_record = self.last_record.max(number);
            self.letters.push((delivery, number, letter.at_wall_ms));
            Ok(())
        })?;
        scan(database, keys::REVIVED, |key, sealed| {
            let Some(delivery) = keys::delivery_of(key) else { return Ok(()) };
            let what = || format!("revival of event {}", delivery.sequence);
            let number =
                record::decode(group::VERSION, sealed).map_err(|why| damaged(what(), why))?;
            self.last_record = self.last_record.max(number);
            self.revived.push((delivery, number));
            Ok(())
        })
    }

    /// Takes each unit whole or not at all.
    fn read_heads(
        &mut self,
        database: &dyn Database,
        catalogue: &Catalogue,
        ordered: &RoaringBitmap,
        is_newest: bool,
    ) -> Result<()> {
        // Units may lie between each other's pages, because a copied event keeps its sequence.
        let mut unfinished: BTreeMap<u64, Vec<(Vec<u8>, Page, u64)>> = BTreeMap::new();
        scan(database, keys::HEADS, |key, sealed| {
            let first_sequence = keys::number_of(key).unwrap_or(0);
            let page = heads::read(database, catalogue, ordered, first_sequence, sealed)?;
            let (unit, pages) = (page.unit, page.unit_pages as usize);
            // Units are numbered with the records: two of one number would be taken for one.
            self.last_record = self.last_record.max(unit);
            let parts = unfinished.entry(unit).or_default();
            parts.push((key.to_vec(), page, sealed.len() as u64));
            if parts.len() == pages
                && let Some(parts) = unfinished.remove(&unit)
            {
                parts.into_iter().for_each(|(_, page, bytes)| self.take(page, bytes));
            }
            Ok(())
        })?;
        if unfinished.len() > usize::from(is_newest) {
            let unit = unfinished.keys().next().copied().unwrap_or(0);
            return Err(damaged(format!("unit {unit} of head pages"), "pages are missing".into()));
        }
        let left = unfinished.into_values().flatten();
        self.leftovers.extend(left.map(|(key, _, _)| key));
        Ok(())
    }

    fn take(&mut self, page: Page, bytes: u64) {
        self.pages += 1;
        self.bytes += bytes + page.payload_bytes;
        self.events.extend(page.events);
        self.keyed.extend(page.keyed);
    }

    /// The pages of dedup keys that an unfinished group left: its events come after all that count.
    /// If they stayed, later events would make them look as if theirs counted.
    fn find_keys_without_events(&mut self, database: &dyn Database) -> Result<()> {
        let last_sequence = self.events.iter().filter_map(|(sequences, _)| sequences.max());
        let last_sequence = last_sequence.max().unwrap_or(0);
        scan(database, keys::DEDUP, |key, sealed| {
            let page = dedup::read_page(sealed).map_err(|why| damaged("dedup page".into(), why))?;
            if page.iter().any(|(_, sequence)| *sequence > last_sequence) {
                self.leftovers.push(key.to_vec());
            }
            Ok(())
        })
    }

    fn read_retries(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::RETRY, |key, sealed| {
            let Some(delivery) = keys::delivery_of(key) else { return Ok(()) };
            let what = || format!("retry state of event {}", delivery.sequence);
            let state =
                record::decode(group::VERSION, sealed).map_err(|why| damaged(what(), why))?;
            self.retries.push((delivery, state));
            Ok(())
        })
    }
}

impl Found {
    fn read_attempts(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::TRIED, |key, sealed| {
            let Some((delivery, slot)) = keys::attempt_of(key) else { return Ok(()) };
            let what = || format!("failed attempt of event {}", delivery.sequence);
            let (record, _): (u64, Tried) =
                record::decode(group::VERSION, sealed).map_err(|why| damaged(what(), why))?;
            self.last_record = self.last_record.max(record);
            let bytes = u32::try_from(key.len() + sealed.len()).unwrap_or(u32::MAX);
            self.bytes += u64::from(bytes);
            self.attempts.push(FoundAttempt { delivery, slot, record, bytes });
            Ok(())
        })
    }

    fn read_health(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::HEALTH, |key, sealed| {
            let Some(id) = keys::subscription_of(key) else { return Ok(()) };
            let what = || format!("health of the lane of subscription {id}");
            let health =
                record::decode(group::VERSION, sealed).map_err(|why| damaged(what(), why))?;
            self.health.push((id, health));
            Ok(())
        })
    }
}

/// How many head pages and settle pages there are.
pub(super) fn count_pages(database: &dyn Database) -> Result<u64> {
    let mut pages = 0;
    for kind in [keys::HEADS, keys::SETTLED] {
        scan(database, kind, |_, _| {
            pages += 1;
            Ok(())
        })?;
    }
    Ok(pages)
}

/// Adds the entries of every dedup page, by bucket; says the greatest number of a page.
pub(super) fn dedup_pages(
    database: &dyn Database,
    entries: &mut BTreeMap<u64, Vec<(KeyHash, u64)>>,
) -> Result<u64> {
    let mut last_record = 0;
    scan(database, keys::DEDUP, |key, sealed| {
        let Some(bucket) = keys::number_of(key) else { return Ok(()) };
        last_record = last_record.max(key.get(8..).and_then(keys::number_of).unwrap_or(0));
        let page = dedup::read_page(sealed)
            .map_err(|why| damaged(format!("dedup page of bucket {bucket}"), why))?;
        entries.entry(bucket).or_default().extend(page);
        Ok(())
    })?;
    Ok(last_record)
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

fn damaged(record: String, why: String) -> Error {
    Error::Damaged { record, why }
}

fn failed(failure: crate::store::Failure) -> Error {
    Error::store("reading a generation", failure)
}

//! Reads one generation.
//!
//! The heads of a unit count all together or not at all (I2). An incomplete unit can only be the last one of the
//! newest generation; anywhere else it is damage.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::{RoaringBitmap, RoaringTreemap};

use crate::attempt::{DeliveryId, FailedAttempt, LaneHealth, RetryState, StoredDeadLetter};
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::outbox::accounts::events::EventAccounts;
use crate::outbox::codec::dedup_page::{self, BucketEntries, DedupKey};
use crate::outbox::codec::heads::{self, EventSize, HeadPage};
use crate::outbox::codec::meta::GenerationMeta;
use crate::outbox::codec::{damaged, decoded, keys, scan, scan_failed, settles, tombstones};
use crate::outbox::generations::EventCount;
use crate::store::Database;
use crate::subscription::SubscriptionId;

#[derive(Default)]
pub(super) struct GenerationScan {
    pub(super) meta: GenerationMeta,
    /// The record number of each settle page, and its deliveries.
    pub(super) settles: Vec<(u64, Vec<DeliveryId>)>,
    pub(super) letters: Vec<ScannedLetter>,
    /// Replayed dead letters, each with its record number.
    pub(super) revived: Vec<(DeliveryId, u64)>,
    pub(super) removed: Vec<SubscriptionId>,
    /// Sequences of events with the same targets, and those targets.
    pub(super) events: Vec<(RoaringTreemap, Arc<RoaringBitmap>)>,
    /// Each event with its size and account, and not yet with what it owes.
    pub(super) counts: Vec<EventCount>,
    /// When events were accepted, in wall time: the last sequence of each run with the same time.
    pub(super) accepted: Vec<(u64, i64)>,
    /// Sequence, key hash and targets of each event that has a key and a target that needs it.
    pub(super) keyed: Vec<(u64, u64, Arc<RoaringBitmap>)>,
    pub(super) retries: Vec<(DeliveryId, RetryState)>,
    /// Failed attempts, in the order of their keys.
    pub(super) attempts: Vec<ScannedAttempt>,
    pub(super) health: Vec<(SubscriptionId, LaneHealth)>,
    pub(super) dedup_entries: BucketEntries,
    pub(super) last_page: u64,
    pub(super) last_record: u64,
    /// Head pages and settle pages.
    pub(super) pages: u64,
    /// The size of what was counted, with payloads.
    pub(super) bytes: u64,
    /// The keys of what an incomplete group left.
    pub(super) leftovers: Vec<Vec<u8>>,
}

/// A dead letter, without its reason.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScannedLetter {
    pub(super) delivery: DeliveryId,
    /// Greater than the record numbers of older records.
    pub(super) record: u64,
    pub(super) at_wall_ms: u64,
}

/// A failed attempt, without what happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScannedAttempt {
    pub(super) delivery: DeliveryId,
    pub(super) slot: u8,
    /// Greater than the record numbers of older records.
    pub(super) record: u64,
    /// The size of key and value.
    pub(super) bytes: u32,
}

/// Whether a generation may end with an incomplete group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanMode {
    Newest,
    Sealed,
}

/// The types, orderings and accounts that reading heads needs.
#[derive(Clone, Copy)]
pub(super) struct KnownNames<'a> {
    pub(super) catalogue: &'a Catalogue,
    /// The subscriptions that need the keys of their events.
    pub(super) ordered: &'a RoaringBitmap,
    pub(super) accounts: &'a EventAccounts,
}

/// Reads a generation; `None` if it was never written to.
pub(super) fn generation(
    database: &dyn Database,
    known: KnownNames<'_>,
    mode: ScanMode,
) -> Result<Option<GenerationScan>> {
    let Some(sealed) = database.get(keys::META).map_err(scan_failed)? else {
        let heads = database.last(keys::HEADS, &keys::numbered(keys::HEADS, u64::MAX));
        return match heads.map_err(scan_failed)? {
            None => Ok(None),
            Some(_) => Err(damaged("meta record", "it is missing")),
        };
    };
    let meta = GenerationMeta::read(&sealed)?;
    let mut found = GenerationScan { meta, ..GenerationScan::default() };
    found.read_settles(database)?;
    found.read_letters(database)?;
    found.read_revivals(database)?;
    found.read_tombstones(database)?;
    found.read_heads(database, known, mode)?;
    found.read_retries(database)?;
    found.read_attempts(database)?;
    found.read_health(database)?;
    found.read_dedup_pages(database, mode)?;
    let last = database.last(keys::PAYLOAD, &keys::numbered(keys::PAYLOAD, u64::MAX));
    let last = last.map_err(scan_failed)?;
    let last_page = last.and_then(|(key, _)| keys::number_of(&key)).unwrap_or(0);
    found.last_page = found.last_page.max(last_page);
    Ok(Some(found))
}

impl GenerationScan {
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

    pub(super) fn check_pages(&self, expected: u64) -> Result<()> {
        let there = self.pages;
        match there == expected {
            true => Ok(()),
            false => Err(too_short(format!("it was sealed with {expected} and {there} are there"))),
        }
    }

    fn saw_record(&mut self, number: u64) {
        self.last_record = self.last_record.max(number);
    }

    fn read_settles(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::SETTLED, |key, sealed| {
            let number = keys::number_of(key).unwrap_or(0);
            self.saw_record(number);
            self.pages += 1;
            self.bytes += sealed.len() as u64;
            let settled = settles::read(sealed);
            let settled = settled.map_err(|why| damaged(format!("settle page {number}"), why))?;
            self.settles.push((number, settled));
            Ok(())
        })
    }

    fn read_letters(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::DEAD, |key, sealed| {
            let Some(delivery) = keys::delivery_of(key) else { return Ok(()) };
            let what = || format!("dead letter of event {}", delivery.sequence);
            let (record, letter): (u64, StoredDeadLetter) = decoded(sealed, what)?;
            self.saw_record(record);
            let at_wall_ms = letter.at_wall_ms;
            self.letters.push(ScannedLetter { delivery, record, at_wall_ms });
            Ok(())
        })
    }

    fn read_revivals(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::REVIVED, |key, sealed| {
            let Some(delivery) = keys::delivery_of(key) else { return Ok(()) };
            let number = decoded(sealed, || format!("revival of event {}", delivery.sequence))?;
            self.saw_record(number);
            self.revived.push((delivery, number));
            Ok(())
        })
    }

    fn read_tombstones(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::TOMBSTONE, |key, sealed| {
            let ids =
                tombstones::read(key, sealed).map_err(|why| damaged("tombstone page", why))?;
            self.removed.extend(ids);
            Ok(())
        })
    }

    /// Takes each unit whole or not at all.
    fn read_heads(
        &mut self,
        database: &dyn Database,
        known: KnownNames<'_>,
        mode: ScanMode,
    ) -> Result<()> {
        let KnownNames { catalogue, ordered, accounts } = known;
        // The pages of different units may alternate, because a copied event keeps its sequence.
        let mut incomplete: BTreeMap<u64, Vec<(Vec<u8>, HeadPage, u64)>> = BTreeMap::new();
        scan(database, keys::HEADS, |key, sealed| {
            let first_sequence = keys::number_of(key).unwrap_or(0);
            let page = heads::read(database, catalogue, ordered, first_sequence, sealed)?;
            let (unit, pages) = (page.unit, page.unit_pages as usize);
            // Units are numbered together with records: two with the same number would be taken for one.
            self.saw_record(unit);
            // A payload page that was lost keeps its number.
            self.last_page = self.last_page.max(page.last_payload_page);
            let parts = incomplete.entry(unit).or_default();
            parts.push((key.to_vec(), page, sealed.len() as u64));
            if parts.len() == pages
                && let Some(parts) = incomplete.remove(&unit)
            {
                let parts = parts.into_iter();
                parts.for_each(|(_, page, bytes)| self.add_page(page, bytes, accounts));
            }
            Ok(())
        })?;
        if incomplete.len() > usize::from(mode == ScanMode::Newest) {
            let unit = incomplete.keys().next().copied().unwrap_or(0);
            return Err(damaged(format!("unit {unit} of head pages"), "pages are missing"));
        }
        let left = incomplete.into_values().flatten();
        self.leftovers.extend(left.map(|(key, _, _)| key));
        Ok(())
    }

    fn add_page(&mut self, page: HeadPage, bytes: u64, accounts: &EventAccounts) {
        self.pages += 1;
        let payload_bytes = page.sizes.iter().map(|size| u64::from(size.payload_bytes));
        self.bytes += bytes + payload_bytes.sum::<u64>();
        // The next event often has the same account.
        let mut last = None;
        self.counts.extend(page.sizes.iter().map(|size| {
            let EventSize { sequence, payload_bytes, account } = *size;
            let referred = last
                .filter(|(index, _)| *index == account)
                .or_else(|| Some((account, accounts.refer(page.texts.get(usize::from(account))?))));
            last = referred;
            let account = referred.map(|(_, account)| account).unwrap_or_default();
            EventCount { sequence, deliveries: 0, payload_bytes, account }
        }));
        self.accepted.extend(page.accepted);
        self.events.extend(page.events);
        self.keyed.extend(page.keyed);
    }

    /// Reads the dedup pages. The events of an incomplete group come after all that count; its pages are
    /// leftovers, because later events would make their keys count.
    fn read_dedup_pages(&mut self, database: &dyn Database, mode: ScanMode) -> Result<()> {
        let last_sequence = self.events.iter().filter_map(|(sequences, _)| sequences.max());
        let last_sequence = last_sequence.max().unwrap_or(0);
        let mut leftovers = Vec::new();
        let mut counts = |key: &[u8], page: &[(DedupKey, u64)]| {
            let has_events = page.iter().all(|(_, sequence)| *sequence <= last_sequence);
            let counts = mode == ScanMode::Sealed || has_events;
            leftovers.extend((!counts).then(|| key.to_vec()));
            counts
        };
        let last = dedup_page::read_all(database, &mut self.dedup_entries, &mut counts)?;
        self.saw_record(last);
        self.leftovers.extend(leftovers);
        Ok(())
    }

    fn read_retries(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::RETRY, |key, sealed| {
            let Some(delivery) = keys::delivery_of(key) else { return Ok(()) };
            let what = || format!("retry state of event {}", delivery.sequence);
            self.retries.push((delivery, decoded(sealed, what)?));
            Ok(())
        })
    }

    fn read_attempts(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::TRIED, |key, sealed| {
            let Some((delivery, slot)) = keys::attempt_of(key) else { return Ok(()) };
            let what = || format!("failed attempt of event {}", delivery.sequence);
            let (record, _): (u64, FailedAttempt) = decoded(sealed, what)?;
            self.saw_record(record);
            let bytes = u32::try_from(key.len() + sealed.len()).unwrap_or(u32::MAX);
            self.bytes += u64::from(bytes);
            self.attempts.push(ScannedAttempt { delivery, slot, record, bytes });
            Ok(())
        })
    }

    fn read_health(&mut self, database: &dyn Database) -> Result<()> {
        scan(database, keys::HEALTH, |key, sealed| {
            let Some(id) = keys::subscription_of(key) else { return Ok(()) };
            let what = || format!("health of the lane of subscription {id}");
            self.health.push((id, decoded(sealed, what)?));
            Ok(())
        })
    }
}

/// The error for a generation that has fewer pages than it must have.
pub(super) fn too_short(why: impl Into<String>) -> Error {
    damaged("head pages and settle pages", why)
}

//! Decides what the generations say together, each taken after the newer ones.
//!
//! Leaves to others: reading them, in that order (`recovery`). Invariant (I2, I3): what became of a
//! delivery lies in its event's generation or a newer one, so when a head is taken, everything about
//! it is known; the newest copy of a record is the one that counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use roaring::{RoaringBitmap, RoaringTreemap};

use crate::attempt::{DeliveryId, LaneHealth, RetryState};
use crate::error::Result;
use crate::store::Database;
use crate::subscription::SubscriptionId;

use super::dedup::{Dedup, KeyHash};
use super::history::{Histories, Place};
use super::letters::Letters;
use super::meta::{Meta, Sealed};
use super::reading::{Found, FoundAttempt};
use super::recovery::{Recovered, check_pages};
use super::row::Generation;

/// What is known so far, generation by generation.
#[derive(Default)]
pub(super) struct Known {
    pub(super) generations: Vec<Generation>,
    /// The newest generation's meta record and open database.
    pub(super) newest: Option<(Meta, Arc<dyn Database>)>,
    pub(super) newest_set_aside: bool,
    /// Nothing but its beginning was ever written to the newest.
    pub(super) newest_is_unused: bool,
    /// What the generation read last says of the one before it.
    pub(super) expected: Option<Sealed>,
    /// Deliveries that ended, by subscription.
    pub(super) ended: HashMap<SubscriptionId, RoaringTreemap>,
    /// Dead letters owed again, and the number of the record that says so: an end with a smaller
    /// number came before.
    pub(super) revived: HashMap<DeliveryId, u64>,
    /// Events of which a newer copy was read, and the generation that holds it.
    pub(super) moved: HashMap<u64, u64>,
    pub(super) retries: HashMap<DeliveryId, (RetryState, u64)>,
    pub(super) histories: Histories,
    /// The newest health of each lane, and the generation that holds it.
    pub(super) health: HashMap<SubscriptionId, (LaneHealth, u64)>,
    /// Subscriptions whose deliveries need the key of their event.
    pub(super) ordered: RoaringBitmap,
    pub(super) letters: BTreeMap<(u64, DeliveryId), u64>,
    /// The deliveries of these letters.
    pub(super) dead: HashSet<DeliveryId>,
    pub(super) dedup_entries: BTreeMap<u64, Vec<(KeyHash, u64)>>,
    pub(super) last_sequence: u64,
    pub(super) last_page: u64,
    pub(super) last_record: u64,
    pub(super) recovered: Recovered,
}

impl Known {
    /// Whether what is not read yet is sealed.
    pub(super) fn newest_is_certain(&self) -> bool {
        self.newest.is_some() && !self.newest_is_unused
    }

    /// How many pages a generation must have: what the one after it says, or as many as it has.
    pub(super) fn sealed_pages(&mut self, number: u64, found: &Found) -> u64 {
        let expected = self.expected.take().filter(|expected| expected.number == number);
        expected.map_or(found.pages, |expected| expected.pages)
    }

    pub(super) fn take_sealed(&mut self, number: u64, found: Found) -> Result<()> {
        let sealed_pages = self.sealed_pages(number, &found);
        check_pages(&found, sealed_pages)?;
        self.take(number, found);
        Ok(())
    }

    pub(super) fn take(&mut self, number: u64, found: Found) {
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
    pub(super) fn end(&mut self, delivery: DeliveryId, record: u64) -> bool {
        if self.revived.get(&delivery).is_some_and(|revived| *revived > record) {
            return false;
        }
        self.ended.entry(delivery.subscription).or_default().insert(delivery.sequence)
    }

    /// Owes events to those of their targets for whom they have not ended; says how many deliveries.
    pub(super) fn owe(&mut self, sequences: &RoaringTreemap, targets: &RoaringBitmap) -> u64 {
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
    pub(super) fn keep_key(&mut self, sequence: u64, key_hash: u64, targets: &RoaringBitmap) {
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
    pub(super) fn take_attempts(&mut self, generation: u64, found: Vec<FoundAttempt>) {
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
    pub(super) fn owed_histories(&mut self, letters: &Letters) -> Histories {
        let mut histories = std::mem::take(&mut self.histories);
        histories.retain(|delivery| {
            let owed = self.recovered.owed.get(&delivery.subscription);
            let is_owed = owed.is_some_and(|owed| owed.contains(delivery.sequence));
            is_owed || letters.holder_of(delivery).is_some()
        });
        histories
    }

    /// Tells the health of the lanes that are left, and where the record of each lies.
    pub(super) fn lane_health(&mut self) -> HashMap<SubscriptionId, u64> {
        let mut all = std::mem::take(&mut self.health);
        all.retain(|id, _| !self.recovered.removed.contains(id));
        let holders = all.iter().map(|(id, (_, generation))| (*id, *generation)).collect();
        self.recovered.health = all.into_iter().map(|(id, (health, _))| (id, health)).collect();
        holders
    }

    /// Retry states of deliveries still owed; others are left over from a delivery that ended.
    pub(super) fn owed_retries(&mut self) -> HashMap<DeliveryId, u64> {
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
    pub(super) fn remember_keys(&mut self, dedup: &mut Dedup, wall_ms: u64) {
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

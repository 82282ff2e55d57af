//! Merges what the generations contain, from the newest to the oldest.
//!
//! What became of a delivery is recorded in its event's generation or a newer one. So when a head is merged,
//! everything about it is known (I2, I3). Of several copies of a record the newest counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use roaring::{RoaringBitmap, RoaringTreemap};

use crate::attempt::{DeliveryId, LaneHealth, RetryState};
use crate::error::Result;
use crate::event::AcceptanceTimes;
use crate::outbox::attempts::{AttemptIndex, AttemptPlace};
use crate::outbox::codec::meta::{GenerationMeta, SealedGeneration};
use crate::outbox::dead_letters::{DeadLetterIndex, LetterPosition};
use crate::outbox::dedup::DroppedKeys;
use crate::outbox::generations::{EventCount, Generation, MovedEvent};
use crate::store::Database;
use crate::subscription::SubscriptionId;

use super::dedup_keys::ReadKeys;
use super::scan::{GenerationScan, ScannedAttempt};

/// What was owed when the outbox was opened.
#[derive(Debug, Default)]
pub(crate) struct RecoveredOutbox {
    pub(crate) owed: HashMap<SubscriptionId, RoaringTreemap>,
    /// The retry states of owed deliveries that failed before.
    pub(crate) retries: Vec<(DeliveryId, RetryState)>,
    /// The newest health of each lane that ever failed.
    pub(crate) health: HashMap<SubscriptionId, LaneHealth>,
    /// When events were accepted, in wall time.
    pub(crate) accepted: AcceptanceTimes,
    /// The key hash of each event that has a key and is owed to a subscription that needs it.
    pub(crate) keys: HashMap<u64, u64>,
    pub(crate) removed: HashSet<SubscriptionId>,
    /// Deliveries owed to removed subscriptions, which are cancelled.
    pub(crate) cancelled: u64,
    /// Dead letters dropped because they were over their bounds.
    pub(crate) letters_dropped: u64,
    /// Dedup keys dropped because there were more than the bound.
    pub(crate) keys_dropped: Option<DroppedKeys>,
    /// The new name of each database that was set aside because it could not be read, and why.
    pub(crate) set_aside: Vec<(String, String)>,
}

/// What the generations read so far contain together.
#[derive(Default)]
pub(super) struct RecoveryState {
    /// With the counts of their own events.
    pub(super) generations: Vec<(Generation, Vec<EventCount>)>,
    /// The meta record and the open database of the newest generation.
    pub(super) newest: Option<(GenerationMeta, Arc<dyn Database>)>,
    pub(super) newest_set_aside: bool,
    /// Whether the newest generation contains nothing but its meta record.
    pub(super) newest_is_unused: bool,
    /// What the generation read last says about the one before it.
    expected: Option<SealedGeneration>,
    ended: HashMap<SubscriptionId, RoaringTreemap>,
    /// Replayed dead letters, each with its record number: an end with a smaller number is older.
    revived: HashMap<DeliveryId, u64>,
    /// Events of which a newer copy was read.
    pub(super) moved: HashMap<u64, MovedEvent>,
    retries: HashMap<DeliveryId, (RetryState, u64)>,
    attempts: AttemptIndex,
    /// The newest health of each lane, and the generation that holds it.
    health: HashMap<SubscriptionId, (LaneHealth, u64)>,
    /// Subscriptions that need the keys of their events.
    ordered: RoaringBitmap,
    pub(super) letters: BTreeMap<LetterPosition, u64>,
    /// The deliveries of these letters.
    dead: HashSet<DeliveryId>,
    pub(super) dedup_keys: ReadKeys,
    pub(super) last_sequence: u64,
    pub(super) last_page: u64,
    pub(super) last_record: u64,
    /// The last sequence and the wall time of each run of events that was accepted.
    pub(super) accepted: Vec<(u64, i64)>,
    pub(super) recovered: RecoveredOutbox,
}

impl RecoveryState {
    pub(super) fn new(ordered: RoaringBitmap, dedup_keys: ReadKeys) -> RecoveryState {
        RecoveryState { ordered, dedup_keys, ..RecoveryState::default() }
    }

    /// Whether all generations that are not read yet are sealed.
    pub(super) fn knows_newest(&self) -> bool {
        self.newest.is_some() && !self.newest_is_unused
    }

    /// How many pages a generation must have: what its successor says, or as many as it has.
    pub(super) fn expected_pages(&mut self, number: u64, found: &GenerationScan) -> u64 {
        let expected = self.expected.take().filter(|expected| expected.number == number);
        expected.map_or(found.pages, |expected| expected.pages)
    }

    pub(super) fn add_sealed(&mut self, number: u64, found: GenerationScan) -> Result<()> {
        found.check_pages(self.expected_pages(number, &found))?;
        self.add(number, found);
        Ok(())
    }

    pub(super) fn add(&mut self, number: u64, found: GenerationScan) {
        self.expected = found.meta.previous.clone();
        // Before the revivals: a state from before a revival is in an older generation than the revival.
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
        for letter in found.letters {
            // A newer copy of the same letter may have been read already.
            if self.end(letter.delivery, letter.record) {
                self.letters.insert((letter.at_wall_ms, letter.delivery), number);
                self.dead.insert(letter.delivery);
            }
        }
        self.recovered.removed.extend(found.removed);
        self.add_attempts(number, found.attempts);
        for (id, health) in found.health {
            self.health.entry(id).or_insert((health, number));
        }
        for (bucket, entries) in found.dedup_entries {
            self.dedup_keys.add(bucket, &entries);
        }
        // Other generations may hold events between those that were copied into this one.
        let is_copied = |(sequence, _): &(u64, i64)| *sequence < found.meta.first_sequence;
        let (copied, mut own): (Vec<_>, Vec<_>) = found.accepted.into_iter().partition(is_copied);
        AcceptanceTimes::merge_near(&mut own);
        self.accepted.extend(copied.into_iter().chain(own));
        self.last_page = self.last_page.max(found.last_page);
        self.last_record = self.last_record.max(found.last_record);
        let generation = Generation {
            number,
            first_sequence: found.meta.first_sequence,
            bytes: found.bytes,
            pages: found.pages,
            ..Generation::default()
        };
        let with_counts = self.add_events(generation, found.events, found.counts);
        for (sequence, key_hash, targets) in found.keyed {
            self.keep_key(sequence, key_hash, &targets);
        }
        self.generations.push(with_counts);
    }

    /// Owes the events of a generation that no newer one has, and counts them.
    fn add_events(
        &mut self,
        mut generation: Generation,
        events: Vec<(RoaringTreemap, Arc<RoaringBitmap>)>,
        mut counts: Vec<EventCount>,
    ) -> (Generation, Vec<EventCount>) {
        if !self.moved.is_empty() {
            counts.retain(|count| !self.moved.contains_key(&count.sequence));
        }
        counts.sort_unstable_by_key(|count| count.sequence);
        for (mut sequences, targets) in events {
            if !self.moved.is_empty() {
                sequences = sequences.iter().filter(|one| !self.moved.contains_key(one)).collect();
            }
            self.last_sequence = self.last_sequence.max(sequences.max().unwrap_or(0));
            let (owed, ended) = self.owe(&sequences, &targets);
            for sequence in &sequences {
                let position = counts.binary_search_by_key(&sequence, |count| count.sequence);
                if let Some(count) = position.ok().and_then(|position| counts.get_mut(position)) {
                    count.deliveries = owed - ended.get(&sequence).copied().unwrap_or(0);
                }
            }
        }
        generation.events = counts.len() as u64;
        generation.owed = counts.iter().map(|count| u64::from(count.deliveries)).sum();
        let copied = counts.partition_point(|count| count.sequence < generation.first_sequence);
        for EventCount { sequence, deliveries, payload_bytes, account } in counts.drain(..copied) {
            let generation = generation.number;
            let moved = MovedEvent { generation, deliveries, payload_bytes, account };
            self.moved.insert(sequence, moved);
        }
        (generation, counts)
    }

    /// Records that a delivery ended, unless it was replayed later. Returns whether that is new.
    fn end(&mut self, delivery: DeliveryId, record: u64) -> bool {
        if self.revived.get(&delivery).is_some_and(|revived| *revived > record) {
            return false;
        }
        self.ended.entry(delivery.subscription).or_default().insert(delivery.sequence)
    }

    /// Owes events to their targets, without the deliveries that ended. Returns how many targets are not removed, and
    /// how many of them each event does not owe any more.
    fn owe(
        &mut self,
        sequences: &RoaringTreemap,
        targets: &RoaringBitmap,
    ) -> (u32, HashMap<u64, u32>) {
        let (mut owed, mut ended_counts) = (0, HashMap::new());
        for id in targets.iter().map(SubscriptionId) {
            let mut theirs = sequences.clone();
            let ended = self.ended.get(&id).map(|ended| ended & sequences);
            if let Some(ended) = &ended {
                theirs -= ended;
            }
            if self.recovered.removed.contains(&id) {
                self.recovered.cancelled += theirs.len();
                continue;
            }
            owed += 1;
            for sequence in ended.iter().flatten() {
                *ended_counts.entry(sequence).or_default() += 1;
            }
            *self.recovered.owed.entry(id).or_default() |= theirs;
        }
        (owed, ended_counts)
    }

    /// Keeps the key of an event that is owed to a subscription that needs it.
    fn keep_key(&mut self, sequence: u64, key_hash: u64, targets: &RoaringBitmap) {
        let needs = |id: u32| {
            let owed = self.recovered.owed.get(&SubscriptionId(id));
            owed.is_some_and(|owed| owed.contains(sequence))
        };
        if (targets & &self.ordered).into_iter().any(needs) {
            self.recovered.keys.insert(sequence, key_hash);
        }
    }

    /// Keeps the newest record of each slot, which is read first, if its delivery was neither settled nor
    /// replayed since.
    fn add_attempts(&mut self, generation: u64, found: Vec<ScannedAttempt>) {
        for ScannedAttempt { delivery, slot, record, bytes } in found {
            let is_past = self.revived.get(&delivery).is_some_and(|revived| *revived > record);
            let ended = self.ended.get(&delivery.subscription);
            let is_settled = ended.is_some_and(|ended| ended.contains(delivery.sequence))
                && !self.dead.contains(&delivery);
            if !is_past && !is_settled && self.attempts.place_of(delivery, slot).is_none() {
                self.attempts.keep(delivery, slot, AttemptPlace { generation, bytes });
            }
        }
    }

    pub(super) fn take_attempts(&mut self, letters: &DeadLetterIndex) -> AttemptIndex {
        let mut attempts = std::mem::take(&mut self.attempts);
        attempts.retain(|delivery| {
            let owed = self.recovered.owed.get(&delivery.subscription);
            let is_owed = owed.is_some_and(|owed| owed.contains(delivery.sequence));
            is_owed || letters.holder_of(delivery).is_some()
        });
        attempts
    }

    /// Recovers the health of the lanes that are left. Returns the generation of each record.
    pub(super) fn take_health(&mut self) -> HashMap<SubscriptionId, u64> {
        let mut all = std::mem::take(&mut self.health);
        all.retain(|id, _| !self.recovered.removed.contains(id));
        let holders = all.iter().map(|(id, (_, generation))| (*id, *generation)).collect();
        self.recovered.health = all.into_iter().map(|(id, (health, _))| (id, health)).collect();
        holders
    }

    /// Recovers the retry states of owed deliveries; others were left behind by a delivery that ended. Returns
    /// the generation of each state.
    pub(super) fn take_retries(&mut self) -> HashMap<DeliveryId, u64> {
        let owed = &self.recovered.owed;
        self.retries.retain(|delivery, _| {
            let sequences = owed.get(&delivery.subscription);
            sequences.is_some_and(|sequences| sequences.contains(delivery.sequence))
        });
        let states = self.retries.iter().map(|(id, (state, _))| (*id, state.clone()));
        self.recovered.retries = states.collect();
        self.retries.iter().map(|(id, (_, generation))| (*id, *generation)).collect()
    }
}

//! Decides what one group writes: the operations, in their order, and what each publisher is told.
//!
//! Leaves to others: writing them (`committer`). Invariant: the operations of a group end with its
//! head pages, so whatever a crash leaves of it, no event is visible before all that it needs; and
//! a dedup key is written before its head but counts only with it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use roaring::RoaringBitmap;

use crate::attempt::DeliveryId;
use crate::error::{Error, Result};
use crate::event::{Accepted, EventId, EventType, StoredEvent, WabaNumber};
use crate::receipt::{Bell, Promised};
use crate::store::record;
use crate::store::{BATCH_OPERATIONS_MAX, Batch, Operation};
use crate::subscription::{Reached, SubscriptionId};

use super::dedup::{self, Dedup, KeyHash};
use super::heads::{Head, Packer};
use super::history::Histories;
use super::keys;
use super::letters::Letters;
use super::meta::Meta;
use super::page::Stream;
use super::records::{self, Records};

pub(super) const VERSION: u8 = 1;
pub(super) const PAIR_BYTES: usize = 12;

/// How many sequences are reserved at a time. A restart skips what is left of a block.
const RESERVED_BLOCK: u64 = 1 << 16;

/// An event that is checked and matched, on its way to the device.
pub(crate) struct Matched {
    pub(crate) account: Arc<str>,
    pub(crate) kind: EventType,
    pub(crate) number: Option<WabaNumber>,
    pub(crate) waba: Option<String>,
    pub(crate) key_hash: u64,
    pub(crate) dedup: Option<KeyHash>,
    pub(crate) targets: Reached,
    pub(crate) payload: Vec<u8>,
}

/// The events of one publish call, which become durable together, and who waits for them.
pub(crate) struct Submission {
    pub(crate) events: Vec<Matched>,
    pub(crate) promised: Answer,
}

/// How a publisher is answered.
pub(crate) enum Answer {
    /// To `publish`.
    One(Promised<Accepted>),
    /// To `publish_many`.
    Many(Promised<Vec<Accepted>>),
}

impl Answer {
    /// Resolves the receipt and leaves its bell to be rung.
    fn resolve(&self, accepted: Result<Vec<Accepted>>) -> Option<&Arc<Bell>> {
        match self {
            Answer::Many(promised) => promised.resolve(accepted),
            Answer::One(promised) => {
                promised.resolve(accepted.and_then(|all| all.first().copied().ok_or(Error::Closed)))
            }
        }
    }
}

/// Answers publishers, and wakes those who share a bell together.
pub(super) fn answer_all<'a>(answers: impl Iterator<Item = (&'a Answer, Result<Vec<Accepted>>)>) {
    let mut silent: Option<&Arc<Bell>> = None;
    for (answer, accepted) in answers {
        let Some(bell) = answer.resolve(accepted) else { continue };
        if let Some(before) = silent.replace(bell).filter(|before| !Arc::ptr_eq(before, bell)) {
            before.ring();
        }
    }
    if let Some(bell) = silent {
        bell.ring();
    }
}

/// An event that is durable, and whom it is owed to.
#[derive(Debug, Clone)]
pub(crate) struct Owed {
    pub(crate) event: Arc<StoredEvent>,
    pub(crate) targets: Arc<[SubscriptionId]>,
}

/// Everything that a group writes and answers.
#[derive(Default)]
pub(super) struct Group {
    pub(super) operations: Vec<Operation>,
    /// Which of the operations lie in one batch, in ascending order.
    pub(super) together: Vec<Range<usize>>,
    pub(super) owed: Vec<Owed>,
    pub(super) answers: Vec<(Answer, Vec<Accepted>)>,
    pub(super) unrouted: u64,
    pub(super) duplicates: u64,
    /// The sequences of deliveries that ended, one for each delivery.
    pub(super) ended: Vec<u64>,
    /// Dead letters that are owed again: when each was given up, and where its record lies.
    pub(super) revived: Vec<(DeliveryId, u64, u64)>,
    /// Settled deliveries for whose end others wait.
    pub(super) settled_mains: Vec<DeliveryId>,
    /// The dedup keys that came with its events.
    pub(super) dedup_keys: Vec<KeyHash>,
    /// The pages of these keys.
    pub(super) dedup_page_keys: Vec<Vec<u8>>,
    /// Its head pages: the last one is there if and only if the group's events are.
    pub(super) head_keys: Vec<Vec<u8>>,
    /// Whether it wrote anything.
    pub(super) synced: bool,
}

impl Group {
    /// Bytes of keys and values that it writes.
    pub(super) fn bytes(&self) -> u64 {
        self.operations.iter().map(bytes_of).sum::<usize>() as u64
    }

    /// Puts an operation before all others.
    pub(super) fn put_first(&mut self, operation: Operation) {
        self.operations.insert(0, operation);
        for range in &mut self.together {
            *range = range.start + 1..range.end + 1;
        }
    }

    /// Head pages and settle pages that it writes.
    pub(super) fn pages(&self) -> u64 {
        let counted = self.operations.iter().filter(|operation| match operation {
            Operation::Put(key, _) => keys::is_page(key),
            Operation::Remove(_) => false,
        });
        counted.count() as u64
    }
}

fn bytes_of(operation: &Operation) -> usize {
    match operation {
        Operation::Put(key, value) => key.len() + value.len(),
        Operation::Remove(key) => key.len(),
    }
}

/// Operations as batches, which reach the device in this order, each with its bytes. What lies together
/// is one batch, and every other operation is a batch of its own: a group may be cut anywhere else, and
/// the store takes a single operation for a fraction of what it asks for several at once.
pub(super) fn batches(
    operations: Vec<Operation>,
    together: &[Range<usize>],
) -> Vec<(usize, Batch)> {
    let mut batches: Vec<(usize, Batch)> = Vec::with_capacity(operations.len());
    let mut ranges = together.iter().peekable();
    for (place, operation) in operations.into_iter().enumerate() {
        while ranges.next_if(|range| range.end <= place).is_some() {}
        let goes_on = ranges.peek().is_some_and(|range| range.start < place);
        // The store refuses more, for ever; what is sent together is far below that.
        let has_room = |last: &&mut (usize, Batch)| last.1.len() < BATCH_OPERATIONS_MAX;
        let bytes = bytes_of(&operation);
        match batches.last_mut().filter(|_| goes_on).filter(has_room) {
            Some((taken, batch)) => {
                *taken += bytes;
                batch.push(operation);
            }
            None => batches.push((bytes, operation.into())),
        }
    }
    batches
}

/// Where the next group continues.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The number of the generation that is written to.
    pub(super) generation: u64,
    /// Its meta record as it stands.
    pub(super) meta: Meta,
    pub(super) next_sequence: u64,
    pub(super) next_page: u64,
    pub(super) next_record: u64,
    pub(super) dedup: Dedup,
    pub(super) letters: Arc<Mutex<Letters>>,
    pub(super) histories: Arc<Mutex<Histories>>,
    /// Lanes with a record of their health, and the generation of the newest.
    pub(super) health: HashMap<SubscriptionId, u64>,
    /// Deliveries with a retry record, and the generation of the newest.
    pub(super) retrying: HashMap<DeliveryId, u64>,
    /// Subscriptions removed since the start: an event that was matched before is not owed to them.
    pub(super) removed: HashSet<SubscriptionId>,
}

/// Builds a group from what waited. Records first, then events; sequences in the order given.
pub(super) fn build(
    cursor: &mut Cursor,
    submissions: Vec<Submission>,
    records: &Records,
    wall_ms: u64,
) -> Result<Group> {
    let mut group = Group::default();
    records::write(cursor, records, &mut group)?;
    cursor.dedup.expire(wall_ms);
    let mut events = Events {
        stream: Stream::new(cursor.next_page),
        packer: Packer::default(),
        dedup_entries: Vec::new(),
        bucket: cursor.dedup.bucket_at(wall_ms),
        wall_ms,
        last: None,
    };
    for submission in submissions {
        let mut accepted = Vec::with_capacity(submission.events.len());
        for matched in submission.events {
            accepted.push(events.add(cursor, matched, &mut group)?);
        }
        group.answers.push((submission.promised, accepted));
    }
    events.finish(cursor, &mut group)?;
    Ok(group)
}

/// The events of the group being built.
struct Events {
    stream: Stream,
    packer: Packer,
    dedup_entries: Vec<(KeyHash, u64)>,
    bucket: u64,
    wall_ms: u64,
    /// The targets seen last: the next event often has the same.
    last: Option<Targets>,
}

/// The targets of an event, without those removed since it was matched.
struct Targets {
    matched: Reached,
    kept: Arc<[SubscriptionId]>,
    set: Arc<RoaringBitmap>,
}

impl Targets {
    fn new(matched: Reached, removed: &HashSet<SubscriptionId>) -> Targets {
        let stay = matched.iter().filter(|target| !removed.contains(target)).copied();
        let kept: Arc<[SubscriptionId]> = match &matched {
            Reached::Many(all) if stay.clone().count() == all.len() => Arc::clone(all),
            _ => stay.collect(),
        };
        let set = Arc::new(kept.iter().map(|target| target.0).collect());
        Targets { matched, kept, set }
    }
}

impl Events {
    fn add(
        &mut self,
        cursor: &mut Cursor,
        matched: Matched,
        group: &mut Group,
    ) -> Result<Accepted> {
        let (targets, set) = self.kept_targets(cursor, &matched.targets);
        let known = matched.dedup.and_then(|key| cursor.dedup.sequence_of(key));
        if let Some(sequence) = known {
            group.duplicates += 1;
            let id = EventId::new(cursor.meta.incarnations.of(sequence), sequence);
            return Ok(Accepted { id, owed: 0, duplicate: true });
        }
        let sequence = cursor.next_sequence;
        cursor.next_sequence += 1;
        let id = EventId::new(cursor.meta.incarnations.of(sequence), sequence);
        let owed = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        if targets.is_empty() {
            group.unrouted += 1;
            return Ok(Accepted { id, owed, duplicate: false });
        }
        if let Some(key) = matched.dedup {
            cursor.dedup.remember(self.bucket, key, sequence);
            self.dedup_entries.push((key, sequence));
            group.dedup_keys.push(key);
        }
        let event = self.store(id, matched, set)?;
        group.owed.push(Owed { event: Arc::new(event), targets });
        Ok(Accepted { id, owed, duplicate: false })
    }

    /// An event's targets without the subscriptions removed since, and the same as a set.
    fn kept_targets(
        &mut self,
        cursor: &Cursor,
        matched: &Reached,
    ) -> (Arc<[SubscriptionId]>, Arc<RoaringBitmap>) {
        let last = self.last.take().filter(|last| last.matched == *matched);
        let targets = last.unwrap_or_else(|| Targets::new(matched.clone(), &cursor.removed));
        let Targets { kept, set, .. } = self.last.insert(targets);
        (Arc::clone(kept), Arc::clone(set))
    }

    fn store(
        &mut self,
        id: EventId,
        matched: Matched,
        targets: Arc<RoaringBitmap>,
    ) -> Result<StoredEvent> {
        let head = Head {
            sequence: id.sequence(),
            accepted_wall_ms: self.wall_ms,
            account: matched.account.clone(),
            kind: matched.kind.clone(),
            number: matched.number,
            waba: matched.waba.clone(),
            key_hash: matched.key_hash,
            targets,
            payload: self.stream.append(&matched.payload),
        };
        self.packer.add(&head, &mut self.stream)?;
        Ok(StoredEvent {
            id,
            account: matched.account,
            kind: matched.kind,
            number: matched.number,
            waba: matched.waba,
            key_hash: matched.key_hash,
            accepted_wall_ms: self.wall_ms,
            payload: matched.payload,
        })
    }

    fn finish(self, cursor: &mut Cursor, group: &mut Group) -> Result<()> {
        // Ids are given out of what is reserved on the device, so that none is given twice.
        if cursor.next_sequence > cursor.meta.reserved + 1 {
            cursor.meta.reserved = cursor.next_sequence + RESERVED_BLOCK;
            group.operations.push(cursor.meta.write()?);
        }
        let (payload_pages, next_page) = self.stream.into_pages();
        cursor.next_page = next_page;
        let dedup_pages = dedup::pages(self.bucket, cursor.next_record, &self.dedup_entries);
        cursor.next_record += dedup_pages.len() as u64;
        group.dedup_page_keys = dedup_pages.iter().map(|(key, _)| key.clone()).collect();
        let head_pages = self.packer.into_pages(cursor.next_record)?;
        cursor.next_record += 1;
        group.head_keys = head_pages.iter().map(|(key, _)| key.clone()).collect();
        let puts = payload_pages.into_iter().chain(dedup_pages).chain(head_pages);
        group.operations.extend(puts.map(|(key, value)| Operation::Put(key, value)));
        Ok(())
    }
}

pub(super) fn encoded<T: serde::Serialize>(what: &str, value: &T) -> Result<Vec<u8>> {
    record::encode(VERSION, value).map_err(|why| Error::Damaged { record: what.to_owned(), why })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::attempt::Record;
    use crate::event::Catalogue;
    use crate::outbox::meta::Incarnations;
    use crate::receipt::promise;

    pub(in crate::outbox) fn cursor() -> Cursor {
        let mut incarnations = Incarnations::default();
        incarnations.begin(0, 7);
        Cursor {
            generation: 1,
            meta: Meta { incarnations, reserved: 0, first_sequence: 1, previous: None },
            next_sequence: 1,
            next_page: 1,
            next_record: 1,
            dedup: Dedup::new(1_000, 10),
            letters: Arc::new(Mutex::new(Letters::new(10, 1_000))),
            histories: Arc::default(),
            health: HashMap::new(),
            retrying: HashMap::new(),
            removed: HashSet::new(),
        }
    }

    fn submission(dedup: Option<KeyHash>, targets: &[u32], bytes: usize) -> Submission {
        let matched = Matched {
            account: "acme".into(),
            kind: Catalogue::default().canonical("ADD_TAG").unwrap(),
            number: None,
            waba: None,
            key_hash: 0,
            dedup,
            targets: targets.iter().copied().map(SubscriptionId).collect(),
            payload: vec![1; bytes],
        };
        Submission { events: vec![matched], promised: Answer::One(promise().0) }
    }

    fn kinds(operations: &[Operation]) -> String {
        operations
            .iter()
            .map(|operation| match operation {
                Operation::Put(key, _) => key[0] as char,
                Operation::Remove(key) => key[0].to_ascii_uppercase() as char,
            })
            .collect()
    }

    fn alone(all: impl IntoIterator<Item = Record>) -> Records {
        let mut records = Records::default();
        all.into_iter().for_each(|record| records.push(record));
        records
    }

    fn delivery(sequence: u64) -> DeliveryId {
        DeliveryId { sequence, subscription: SubscriptionId(3) }
    }

    #[test]
    fn heads_come_last_and_everything_they_need_before() {
        let group = build(
            &mut cursor(),
            vec![submission(Some(1), &[3], 20_000), submission(None, &[3, 4], 10)],
            &alone([Record::Settle(delivery(1))]),
            0,
        )
        .unwrap();
        assert_eq!(kinds(&group.operations), "smpppkh");
        assert_eq!(group.owed.len(), 2);
    }

    #[test]
    fn a_duplicate_names_the_first_event_and_stores_nothing() {
        let mut cursor = cursor();
        let events = vec![submission(Some(1), &[3], 10), submission(Some(1), &[3], 10)];
        let group = build(&mut cursor, events, &alone([]), 0).unwrap();
        let answers: Vec<_> = group.answers.iter().map(|(_, accepted)| accepted[0]).collect();
        assert_eq!(answers[0], Accepted { id: EventId::new(7, 1), owed: 1, duplicate: false });
        assert_eq!(answers[1], Accepted { id: EventId::new(7, 1), owed: 0, duplicate: true });
        assert_eq!((group.owed.len(), group.duplicates), (1, 1));
    }

    #[test]
    fn a_subscription_removed_since_the_match_is_owed_nothing_and_the_others_are() {
        let mut cursor = cursor();
        cursor.removed.insert(SubscriptionId(4));
        let events = [&[3, 4, 5][..], &[3, 4, 5], &[4], &[9]];
        let events = events.map(|targets| submission(None, targets, 10));
        let group = build(&mut cursor, events.into(), &alone([]), 0).unwrap();
        let owed: Vec<_> = group.owed.iter().map(|owed| owed.targets.to_vec()).collect();
        let kept = [3, 5].map(SubscriptionId).to_vec();
        assert_eq!(owed, [kept.clone(), kept, vec![SubscriptionId(9)]]);
        assert!(Arc::ptr_eq(&group.owed[0].targets, &group.owed[1].targets));
        assert_eq!(group.unrouted, 1);
        let told: Vec<_> = group.answers.iter().map(|(_, accepted)| accepted[0].owed).collect();
        assert_eq!(told, [2, 2, 0, 1], "a receipt says what is left");
    }

    #[test]
    fn targets_shared_by_events_stay_shared_unless_one_of_them_was_removed() {
        let shared: Arc<[_]> = (10..40).map(SubscriptionId).collect();
        let owed = |removed: Option<u32>| {
            let mut cursor = cursor();
            cursor.removed.extend(removed.map(SubscriptionId));
            let mut submission = submission(None, &[], 10);
            submission.events[0].targets = Reached::Many(Arc::clone(&shared));
            let mut group = build(&mut cursor, vec![submission], &alone([]), 0).unwrap();
            group.owed.remove(0).targets
        };
        assert!(Arc::ptr_eq(&owed(None), &shared));
        assert!(Arc::ptr_eq(&owed(Some(9)), &shared), "removed, and no target");
        let left = owed(Some(20));
        assert!(left.len() == 29 && !left.contains(&SubscriptionId(20)));
    }

    #[test]
    fn an_event_that_nobody_asked_for_has_an_id_and_no_record() {
        let mut cursor = cursor();
        cursor.meta.reserved = 100;
        let group = build(&mut cursor, vec![submission(Some(1), &[], 10)], &alone([]), 0).unwrap();
        assert_eq!((kinds(&group.operations).as_str(), group.unrouted), ("", 1));
        assert_eq!(cursor.dedup.sequence_of(1), None);
    }

    #[test]
    fn a_retry_record_goes_with_its_delivery_and_another_stays() {
        let mut cursor = cursor();
        let state =
            crate::attempt::RetryState { attempts: 1, age_ms: 0, due_wall_ms: 9, saved_wall_ms: 8 };
        let retries =
            [Record::Retry(delivery(1), state.clone()), Record::Retry(delivery(2), state)];
        let group = build(&mut cursor, vec![], &alone(retries), 0).unwrap();
        assert_eq!(kinds(&group.operations), "rr");
        let settled = [Record::Settle(delivery(1)), Record::Settle(delivery(5))];
        let group = build(&mut cursor, vec![], &alone(settled), 0).unwrap();
        assert_eq!(kinds(&group.operations), "Rs");
        assert_eq!(cursor.retrying, HashMap::from([(delivery(2), 1)]));
        assert_eq!(group.ended, [1, 5]);
    }

    #[test]
    fn batches_keep_the_order_and_their_size() {
        let mut cursor = cursor();
        let group =
            build(&mut cursor, vec![submission(None, &[3], 1 << 20)], &alone([]), 0).unwrap();
        let expected = group.operations.clone();
        let batches = batches(group.operations, &group.together);
        assert!(batches.len() > 1 && batches.iter().all(|(_, batch)| batch.check().is_ok()));
        assert!(batches.iter().all(|(_, batch)| batch.len() == 1), "nothing lies together");
        let flat: Vec<_> =
            batches.into_iter().flat_map(|(_, batch)| batch.into_operations()).collect();
        assert_eq!(flat, expected);
    }

    #[test]
    fn what_lies_together_is_never_cut_and_all_else_keeps_its_order() {
        let operations: Vec<_> =
            (0..1_000_u64).map(|n| Operation::Remove(n.to_be_bytes().to_vec())).collect();
        for length in [1, 2, 17, 63, 64, 65, 200] {
            let starts = [0, 300, 300 + length, 530, 1_000 - length];
            let together: Vec<_> = starts.map(|start| start..start + length).to_vec();
            let cut = batches(operations.clone(), &together);
            let ends = cut.iter().scan(0, |end, batch| {
                *end += batch.1.len();
                Some(*end)
            });
            for end in ends {
                let within = together.iter().find(|range| range.start < end && end < range.end);
                assert_eq!(within, None, "a batch of {length} together ends at {end}");
            }
            assert!(cut.iter().all(|(_, batch)| batch.check().is_ok() && !batch.is_empty()));
            let flat: Vec<_> =
                cut.into_iter().flat_map(|(_, batch)| batch.into_operations()).collect();
            assert_eq!(flat, operations);
        }
    }

    #[test]
    fn a_letter_whose_subscription_was_removed_stays_one_and_brings_back_none_that_waited_for_it() {
        let mut cursor = cursor();
        cursor.removed.insert(SubscriptionId(3));
        let of = |sequence, id| DeliveryId { sequence, subscription: SubscriptionId(id) };
        for (sequence, id) in [(1, 3), (1, 4), (2, 4), (2, 3), (3, 5)] {
            cursor.letters.lock().keep(10, of(sequence, id), 1);
        }
        let mut records = Records::default();
        for together in [vec![of(1, 3), of(1, 4)], vec![of(2, 4), of(2, 3)], vec![of(3, 5)]] {
            records.push_together(together.into_iter().map(Record::Revive));
        }
        let group = build(&mut cursor, vec![], &records, 0).unwrap();
        let revived: Vec<_> = group.revived.iter().map(|(delivery, _, _)| *delivery).collect();
        assert_eq!(revived, [of(2, 4), of(3, 5)]);
        let left: Vec<_> = cursor.letters.lock().before(None, 9).into_iter().map(|m| m.1).collect();
        assert_eq!(left, [of(2, 3), of(1, 4), of(1, 3)]);
    }

    #[test]
    fn an_operation_put_first_moves_what_lies_together() {
        let mut records = alone([Record::Settle(delivery(9))]);
        records.push_together([Record::SettleMain(delivery(1)), Record::Settle(delivery(2))]);
        let mut group = build(&mut cursor(), vec![], &records, 0).unwrap();
        assert_eq!(
            (kinds(&group.operations).as_str(), group.together.as_slice()),
            ("ss", std::slice::from_ref(&(0..1)))
        );
        group.put_first(Operation::Remove(b"t".to_vec()));
        assert_eq!(
            (kinds(&group.operations).as_str(), group.together.as_slice()),
            ("Tss", std::slice::from_ref(&(1..2)))
        );
        assert_eq!(group.settled_mains, [delivery(1)]);
    }

    #[test]
    fn a_group_writes_the_health_of_a_lane_once_and_of_another_too() {
        let health = |failures_in_row| crate::attempt::LaneHealth {
            failures_in_row,
            ..crate::attempt::LaneHealth::default()
        };
        let (id, other) = (SubscriptionId(3), SubscriptionId(4));
        let mut cursor = cursor();
        cursor.removed.insert(SubscriptionId(5));
        let records = [(id, 1), (other, 7), (id, 2), (SubscriptionId(5), 3)];
        let records = records.map(|(id, failures)| Record::Health(id, health(failures)));
        let group = build(&mut cursor, vec![], &alone(records), 0).unwrap();
        assert_eq!(kinds(&group.operations), "ll");
        let newest = encoded("health of a lane", &health(2)).unwrap();
        let key = keys::of_subscription(keys::HEALTH, id);
        assert!(group.operations.contains(&Operation::Put(key, newest)));
        assert_eq!(cursor.health, HashMap::from([(id, 1), (other, 1)]));
    }
}

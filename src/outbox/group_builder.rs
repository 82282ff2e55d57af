//! Builds the group of a batch: the operations, in their order, and what each publisher is answered.
//!
//! The operations end with the head pages, so whatever a crash leaves of a group, no event is visible before
//! everything that it needs. Dedup keys are written before the heads but count only with them.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Result;
use crate::event::{Accepted, EventId};
use crate::store::{KeyValue, Operation};
use crate::subscription::{SubscriptionId, Targets};

use super::codec::dedup_page::{self, DedupKey};
use super::codec::heads::{HeadPacker, PackedTargets};
use super::codec::payload::PayloadWriter;
use super::command::{AcceptedEvents, RoutedEvent, Submission};
use super::commit_event::{OwedEvent, TracedEvent};
use super::cursor::Cursor;
use super::group::CommitGroup;
use super::records::{self, BatchRecords};

/// How many sequences are reserved at a time. A restart skips the rest of a block.
const RESERVED_BLOCK: u64 = 1 << 16;

/// Builds a group: records first, then events with ascending sequences.
pub(super) fn build(
    cursor: &mut Cursor,
    submissions: Vec<Submission>,
    records: &BatchRecords,
    wall_ms: u64,
) -> Result<CommitGroup> {
    let mut group = CommitGroup::default();
    records::end_dropped_letters(cursor, &mut group);
    records::write(cursor, records, wall_ms, &mut group)?;
    cursor.dedup.expire(wall_ms);
    let mut events = GroupEvents {
        payloads: PayloadWriter::new(cursor.next_page),
        packer: HeadPacker::default(),
        dedup_entries: Vec::new(),
        bucket: cursor.dedup.bucket_at(wall_ms),
        wall_ms,
        last: None,
    };
    for submission in submissions {
        let mut accepted = AcceptedEvents::with_capacity(submission.events.len());
        for event in submission.events {
            accepted.push(events.add(cursor, event, &mut group)?);
        }
        // From here on its events count as owed.
        drop(submission.claims);
        group.answers.push((submission.sender, accepted));
    }
    events.finish(cursor, &mut group)?;
    Ok(group)
}

struct GroupEvents {
    payloads: PayloadWriter,
    packer: HeadPacker,
    dedup_entries: Vec<(DedupKey, u64)>,
    bucket: u64,
    wall_ms: u64,
    /// The targets of the last event: the next one often has the same.
    last: Option<KeptTargets>,
}

/// The targets of an event, without subscriptions removed since it was routed.
struct KeptTargets {
    routed: Targets,
    kept: Arc<[SubscriptionId]>,
    packed: PackedTargets,
}

impl KeptTargets {
    fn new(routed: Targets, removed: &HashSet<SubscriptionId>) -> Result<KeptTargets> {
        let stay = routed.iter().filter(|target| !removed.contains(target)).copied();
        let kept: Arc<[SubscriptionId]> = match &routed {
            Targets::Many(all) if stay.clone().count() == all.len() => Arc::clone(all),
            _ => stay.collect(),
        };
        let packed = PackedTargets::of(&kept)?;
        Ok(KeptTargets { routed, kept, packed })
    }
}

impl GroupEvents {
    fn add(
        &mut self,
        cursor: &mut Cursor,
        routed: RoutedEvent,
        group: &mut CommitGroup,
    ) -> Result<Accepted> {
        let RoutedEvent { mut event, dedup, targets, traced } = routed;
        let original = dedup.and_then(|key| cursor.dedup.sequence_of(key));
        if let Some(sequence) = original {
            group.duplicates += 1;
            let id = EventId::new(cursor.meta.incarnations.of(sequence), sequence);
            group.traced.extend(traced.map(|_| TracedEvent::Duplicate(id)));
            return Ok(Accepted { id, owed: 0, duplicate: true });
        }
        let last = self.last.take().filter(|last| last.routed == targets);
        let targets = match last {
            Some(last) => last,
            None => KeptTargets::new(targets, &cursor.removed)?,
        };
        let targets = self.last.insert(targets);
        let sequence = cursor.next_sequence;
        cursor.next_sequence += 1;
        let id = EventId::new(cursor.meta.incarnations.of(sequence), sequence);
        (event.id, event.accepted_at_ms) = (id, self.wall_ms);
        let owed = u32::try_from(targets.kept.len()).unwrap_or(u32::MAX);
        if targets.kept.is_empty() {
            group.unrouted += 1;
            if let Some(hashes) = traced {
                let event = Arc::new(event);
                let targets = Arc::clone(&targets.kept);
                group.traced.push(TracedEvent::Accepted { event, targets, hashes });
            }
            return Ok(Accepted { id, owed, duplicate: false });
        }
        if let Some(key) = dedup {
            let keys_max = cursor.shares.bounds_of(&event.account).dedup_keys_max;
            cursor.dedup.remember(self.bucket, key, sequence, keys_max);
            self.dedup_entries.push((key, sequence));
            group.dedup_keys.push(key);
        }
        let payload = self.payloads.append(&event.payload);
        self.packer.add(&event, &mut targets.packed, payload, &mut self.payloads)?;
        let (event, targets) = (Arc::new(event), Arc::clone(&targets.kept));
        if let Some(hashes) = traced {
            let (event, targets) = (Arc::clone(&event), Arc::clone(&targets));
            group.traced.push(TracedEvent::Accepted { event, targets, hashes });
        }
        group.owed.push(OwedEvent { event, targets });
        Ok(Accepted { id, owed, duplicate: false })
    }

    fn finish(self, cursor: &mut Cursor, group: &mut CommitGroup) -> Result<()> {
        // Sequences are reserved on the device before they are used, so that none is used twice.
        if cursor.next_sequence > cursor.meta.reserved + 1 {
            cursor.meta.reserved = cursor.next_sequence + RESERVED_BLOCK;
            group.operations.push(cursor.meta.write()?);
        }
        let (payload_pages, next_page) = self.payloads.into_pages();
        cursor.next_page = next_page;
        let dedup_pages = dedup_page::pages(self.bucket, cursor.next_record, &self.dedup_entries);
        cursor.next_record += dedup_pages.len() as u64;
        group.dedup_page_keys = keys_of(&dedup_pages);
        let head_pages = self.packer.into_pages(cursor.next_record)?;
        cursor.next_record += 1;
        group.head_keys = keys_of(&head_pages);
        let puts = payload_pages.into_iter().chain(dedup_pages).chain(head_pages);
        group.operations.extend(puts.map(|(key, value)| Operation::Put(key, value)));
        Ok(())
    }
}

pub(super) fn keys_of(pages: &[KeyValue]) -> Vec<Vec<u8>> {
    pages.iter().map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::{DeliveryId, Record};
    use crate::event::StoredEvent;
    use crate::outbox::codec::{encoded, keys};
    use crate::outbox::command::SubmissionSender;
    use crate::outbox::cursor::tests::cursor;
    use crate::outbox::group::batches;
    use crate::receipt::receipt_pair;
    use crate::store::Batch;
    use std::collections::HashMap;

    fn submission(dedup: Option<DedupKey>, targets: &[u32], bytes: usize) -> Submission {
        let event = StoredEvent { payload: vec![1; bytes], ..StoredEvent::example() };
        let targets = targets.iter().copied().map(SubscriptionId).collect();
        let event = RoutedEvent { event, dedup, targets, traced: None };
        let (events, claims) = ([event].into(), [].into_iter().collect());
        Submission { events, claims, sender: SubmissionSender::One(receipt_pair().0) }
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

    fn alone(all: impl IntoIterator<Item = Record>) -> BatchRecords {
        let mut records = BatchRecords::default();
        all.into_iter().for_each(|record| records.push([record]));
        records
    }

    fn delivery(sequence: u64) -> DeliveryId {
        DeliveryId { sequence, subscription: SubscriptionId(3) }
    }

    #[test]
    fn heads_come_after_everything_they_need() {
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
    fn a_subscription_removed_after_routing_is_owed_nothing() {
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
    fn shared_targets_stay_shared_unless_one_was_removed() {
        let shared: Arc<[_]> = (10..40).map(SubscriptionId).collect();
        let owed = |removed: Option<u32>| {
            let mut cursor = cursor();
            cursor.removed.extend(removed.map(SubscriptionId));
            let mut submission = submission(None, &[], 10);
            submission.events[0].targets = Targets::Many(Arc::clone(&shared));
            let mut group = build(&mut cursor, vec![submission], &alone([]), 0).unwrap();
            group.owed.remove(0).targets
        };
        assert!(Arc::ptr_eq(&owed(None), &shared));
        assert!(Arc::ptr_eq(&owed(Some(9)), &shared), "removed, and no target");
        let left = owed(Some(20));
        assert!(left.len() == 29 && !left.contains(&SubscriptionId(20)));
    }

    #[test]
    fn an_event_without_a_subscriber_has_an_id_and_no_record() {
        let mut cursor = cursor();
        cursor.meta.reserved = 100;
        let group = build(&mut cursor, vec![submission(Some(1), &[], 10)], &alone([]), 0).unwrap();
        assert_eq!((kinds(&group.operations).as_str(), group.unrouted), ("", 1));
        assert_eq!(cursor.dedup.sequence_of(1), None);
    }

    #[test]
    fn a_retry_state_is_removed_with_its_delivery() {
        let mut cursor = cursor();
        let state =
            crate::attempt::RetryState { attempts: 1, age_ms: 0, due_wall_ms: 9, saved_wall_ms: 8 };
        let retries =
            [Record::Retry(delivery(1), state.clone()), Record::Retry(delivery(2), state)];
        let group = build(&mut cursor, vec![], &alone(retries), 0).unwrap();
        assert_eq!(kinds(&group.operations), "rr");
        let settled = [Record::Settle(delivery(1)), Record::Settle(delivery(5))];
        let group = build(&mut cursor, vec![], &alone(settled), 0).unwrap();
        assert_eq!(kinds(&group.operations), "sR", "a crash in between restarts no attempts");
        assert_eq!(cursor.retrying, HashMap::from([(delivery(2), 1)]));
        assert_eq!(group.ended, [1, 5]);
    }

    #[test]
    fn batches_keep_order_and_size() {
        let mut cursor = cursor();
        let group =
            build(&mut cursor, vec![submission(None, &[3], 1 << 20)], &alone([]), 0).unwrap();
        let expected = group.operations.clone();
        let batches = batches(group.operations, &group.atomic);
        assert!(batches.len() > 1 && batches.iter().all(|batch| batch.check().is_ok()));
        assert!(batches.iter().all(|batch| batch.len() == 1), "nothing lies together");
        let flat: Vec<_> = batches.into_iter().flat_map(Batch::into_operations).collect();
        assert_eq!(flat, expected);
    }

    #[test]
    fn a_letter_of_a_removed_subscription_is_not_revived() {
        let mut cursor = cursor();
        cursor.removed.insert(SubscriptionId(3));
        let of = |sequence, id| DeliveryId { sequence, subscription: SubscriptionId(id) };
        for (sequence, id) in [(1, 3), (1, 4), (2, 4), (2, 3), (3, 5)] {
            cursor.letters.lock().keep(10, of(sequence, id), 1);
        }
        let mut records = BatchRecords::default();
        for together in [vec![of(1, 3), of(1, 4)], vec![of(2, 4), of(2, 3)], vec![of(3, 5)]] {
            records.push_together(together.into_iter().map(Record::Revive));
        }
        let group = build(&mut cursor, vec![], &records, 0).unwrap();
        let revived: Vec<_> = group.revived.iter().map(|letter| letter.delivery).collect();
        assert_eq!(revived, [of(2, 4), of(3, 5)]);
        let left: Vec<_> =
            cursor.letters.lock().before(None, None, 9).into_iter().map(|m| m.1).collect();
        assert_eq!(left, [of(2, 3), of(1, 4), of(1, 3)]);
    }

    #[test]
    fn prepended_operations_move_the_atomic_runs() {
        let mut records = alone([Record::Settle(delivery(9))]);
        records.push_together([Record::SettleMain(delivery(1)), Record::Settle(delivery(2))]);
        let mut group = build(&mut cursor(), vec![], &records, 0).unwrap();
        assert_eq!(
            (kinds(&group.operations).as_str(), group.atomic.as_slice()),
            ("ss", std::slice::from_ref(&(0..1)))
        );
        group.prepend(vec![Operation::Remove(b"t".to_vec())]);
        assert_eq!(
            (kinds(&group.operations).as_str(), group.atomic.as_slice()),
            ("Tss", std::slice::from_ref(&(1..2)))
        );
        assert_eq!(group.settled_mains, [delivery(1)]);
    }

    #[test]
    fn a_group_writes_the_health_of_each_lane_once() {
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

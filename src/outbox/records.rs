//! Decides what each change of a delivery writes, and which changes lie in one batch.
//!
//! Leaves to others: the events of a group (`group`) and when it is written (`committer`).
//! Invariant (I2): records sent together are one batch of the store, so a crash leaves all of them
//! or none; those sent alone keep their order and may be cut anywhere between them.

use std::collections::HashMap;
use std::ops::{Deref, Range};

use crate::attempt::{DeliveryId, LaneHealth, Letter, Record};
use crate::error::Result;
use crate::store::record::{ENVELOPE_BYTES, seal};
use crate::store::{Operation, VALUE_BYTES_MAX};
use crate::subscription::SubscriptionId;

use super::group::{self, Cursor, Group, PAIR_BYTES, encoded};
use super::{history, keys};

const PAIRS_PER_PAGE: usize = (VALUE_BYTES_MAX - ENVELOPE_BYTES) / PAIR_BYTES;

/// The records of one group, in the order sent.
#[derive(Debug, Default)]
pub(super) struct Records {
    all: Vec<Record>,
    /// Which of them lie in one batch, in ascending order.
    together: Vec<Range<usize>>,
}

impl Deref for Records {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        &self.all
    }
}

impl Records {
    pub(super) fn push(&mut self, record: Record) {
        self.all.push(record);
    }

    /// Adds records that take effect as a whole or not at all.
    pub(super) fn push_together(&mut self, records: impl IntoIterator<Item = Record>) {
        let start = self.all.len();
        self.all.extend(records);
        self.together.push(start..self.all.len());
    }

    /// Runs of records, in their order, and whether each is one that lies together.
    fn runs(&self) -> Vec<(&[Record], bool)> {
        let mut runs = Vec::with_capacity(2 * self.together.len() + 1);
        let (mut rest, mut done) = (self.all.as_slice(), 0);
        for range in &self.together {
            let (alone, others) = rest.split_at(range.start - done);
            let (together, others) = others.split_at(range.len());
            runs.extend([(alone, false), (together, true)]);
            (rest, done) = (others, range.end);
        }
        runs.push((rest, false));
        runs
    }
}

/// Adds the operations of all records. Settled pairs go into pages of their own, for each run that
/// lies together and for all others; everything else is an operation or two.
pub(super) fn write(cursor: &mut Cursor, records: &Records, group: &mut Group) -> Result<()> {
    let mut pairs = Vec::new();
    let mut health = HashMap::new();
    for (run, together) in records.runs() {
        if together && is_revival_in_vain(cursor, run) {
            continue;
        }
        let start = group.operations.len();
        let mut own_pairs = Vec::new();
        let pairs = if together { &mut own_pairs } else { &mut pairs };
        for record in run {
            match record {
                Record::Health(id, newest) => health.extend([(*id, newest)]),
                record => write_one(cursor, record, pairs, group)?,
            }
        }
        if together {
            write_pairs(cursor, &own_pairs, group);
            group.together.push(start..group.operations.len());
        }
    }
    write_health(cursor, &health, group)?;
    write_pairs(cursor, &pairs, group);
    Ok(())
}

fn write_one(
    cursor: &mut Cursor,
    record: &Record,
    pairs: &mut Vec<u8>,
    group: &mut Group,
) -> Result<()> {
    match record {
        Record::Settle(delivery) => settle(cursor, *delivery, pairs, group),
        Record::SettleMain(delivery) => {
            settle(cursor, *delivery, pairs, group);
            group.settled_mains.push(*delivery);
        }
        Record::Retry(delivery, state) => {
            let value = encoded("retry state", state)?;
            let key = keys::of_delivery(keys::RETRY, *delivery);
            group.operations.push(Operation::Put(key, value));
            cursor.retrying.insert(*delivery, cursor.generation);
        }
        Record::Dead(letter) => bury(cursor, letter, group)?,
        Record::Revive(delivery) => revive(cursor, *delivery, group)?,
        Record::Tried(delivery, tried) => {
            group.operations.extend(history::write(cursor, *delivery, tried)?);
        }
        // Written once for a lane, by `write`.
        Record::Health(..) => {}
    }
    Ok(())
}

fn settle(cursor: &mut Cursor, delivery: DeliveryId, pairs: &mut Vec<u8>, group: &mut Group) {
    pairs.extend_from_slice(&delivery.sequence.to_le_bytes());
    pairs.extend_from_slice(&delivery.subscription.0.to_le_bytes());
    // The records of its history are read no more, and go with their generation.
    cursor.histories.lock().forget(delivery);
    end(cursor, delivery, group);
}

fn bury(cursor: &mut Cursor, letter: &Letter, group: &mut Group) -> Result<()> {
    let reason = history::bounded_reason(&letter.reason);
    let letter = Letter { reason, ..letter.clone() };
    let value = encoded("dead letter", &(cursor.next_record, &letter))?;
    cursor.next_record += 1;
    let key = keys::of_delivery(keys::DEAD, letter.delivery);
    group.operations.push(Operation::Put(key, value));
    cursor.letters.lock().keep(letter.at_wall_ms, letter.delivery, cursor.generation);
    end(cursor, letter.delivery, group);
    Ok(())
}

/// Whether records revive a delivery, the first of them, whose subscription was removed: nobody is there
/// to be owed it, and those that ended because it did stay with it.
fn is_revival_in_vain(cursor: &Cursor, run: &[Record]) -> bool {
    matches!(run.first(), Some(Record::Revive(first)) if is_of_removed(cursor, *first))
}

fn is_of_removed(cursor: &Cursor, delivery: DeliveryId) -> bool {
    cursor.removed.contains(&delivery.subscription)
}

/// A letter that is kept is owed again, as if it had never been tried; one that is not, or was
/// revived before, or whose subscription was removed, stays as it is: a revival outlives the tombstone
/// that would cancel it.
fn revive(cursor: &mut Cursor, delivery: DeliveryId, group: &mut Group) -> Result<()> {
    if is_of_removed(cursor, delivery) {
        return Ok(());
    }
    let Some((at_wall_ms, generation)) = cursor.letters.lock().take(delivery) else {
        return Ok(());
    };
    cursor.histories.lock().forget(delivery);
    // A crash may have kept the letter and not the removal of the state that came with it.
    group.operations.push(Operation::Remove(keys::of_delivery(keys::RETRY, delivery)));
    let value = encoded("revival", &cursor.next_record)?;
    cursor.next_record += 1;
    let key = keys::of_delivery(keys::REVIVED, delivery);
    group.operations.push(Operation::Put(key, value));
    group.revived.push((delivery, at_wall_ms, generation));
    Ok(())
}

/// A delivery that ended needs its retry record no more. One in a sealed generation goes with it.
fn end(cursor: &mut Cursor, delivery: DeliveryId, group: &mut Group) {
    group.ended.push(delivery.sequence);
    if cursor.retrying.remove(&delivery) == Some(cursor.generation) {
        group.operations.push(Operation::Remove(keys::of_delivery(keys::RETRY, delivery)));
    }
}

/// The newest of each lane; none of a lane that is removed.
fn write_health(
    cursor: &mut Cursor,
    health: &HashMap<SubscriptionId, &LaneHealth>,
    group: &mut Group,
) -> Result<()> {
    for (id, newest) in health {
        if cursor.removed.contains(id) {
            continue;
        }
        let value = encoded("health of a lane", newest)?;
        group.operations.push(Operation::Put(keys::of_subscription(keys::HEALTH, *id), value));
        cursor.health.insert(*id, cursor.generation);
    }
    Ok(())
}

fn write_pairs(cursor: &mut Cursor, pairs: &[u8], group: &mut Group) {
    for page in pairs.chunks(PAIRS_PER_PAGE * PAIR_BYTES) {
        let key = keys::numbered(keys::SETTLED, cursor.next_record);
        cursor.next_record += 1;
        group.operations.push(Operation::Put(key, seal(group::VERSION, page)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle_of(sequence: u64) -> Record {
        Record::Settle(DeliveryId { sequence, subscription: SubscriptionId(3) })
    }

    #[test]
    fn runs_give_every_record_once_in_its_order() {
        let mut records = Records::default();
        assert_eq!(records.runs(), [(&[][..], false)]);
        records.push_together([settle_of(1), settle_of(2)]);
        records.push(settle_of(3));
        records.push(settle_of(4));
        records.push_together([settle_of(5)]);
        records.push_together([]);
        records.push(settle_of(6));
        let together: Vec<usize> =
            records.runs().iter().filter(|(_, together)| *together).map(|(r, _)| r.len()).collect();
        assert_eq!(together, [2, 1, 0]);
        let flat: Vec<Record> = records.runs().iter().flat_map(|(run, _)| run.to_vec()).collect();
        assert_eq!(flat, (1..=6).map(settle_of).collect::<Vec<_>>());
        assert_eq!(records.len(), 6);
    }
}

//! What each record of a delivery writes, and which records go into one batch.
//!
//! Records that were sent together are one batch of the store, so a crash leaves all of them or none (I2).
//! Records that were sent alone keep their order, and a crash may cut anywhere between them.

use std::collections::HashMap;
use std::ops::{Deref, Range};

use crate::attempt::{DeliveryId, FailedAttempt, LaneHealth, Record, RetryState, StoredDeadLetter};
use crate::error::Result;
use crate::store::Operation;
use crate::subscription::SubscriptionId;

use super::attempts::{self, AttemptPlace};
use super::codec::{encoded, keys, settles};
use super::cursor::Cursor;
use super::group::{CommitGroup, TakenLetter};

#[derive(Debug, Default)]
pub(super) struct BatchRecords {
    all: Vec<Record>,
    /// The runs that were sent together, in ascending order.
    atomic: Vec<Range<usize>>,
}

impl Deref for BatchRecords {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        &self.all
    }
}

impl BatchRecords {
    /// Adds the records of one command. More than one take effect all together or not at all.
    pub(super) fn push(&mut self, records: impl IntoIterator<Item = Record>) {
        let start = self.all.len();
        self.all.extend(records);
        if self.all.len() - start > 1 {
            self.atomic.push(start..self.all.len());
        }
    }

    /// Adds records that take effect all together or not at all.
    pub(super) fn push_together(&mut self, records: impl IntoIterator<Item = Record>) {
        let start = self.all.len();
        self.all.extend(records);
        self.atomic.push(start..self.all.len());
    }

    /// Runs of records in their order, each with whether it is atomic.
    fn runs(&self) -> Vec<(&[Record], bool)> {
        let mut runs = Vec::with_capacity(2 * self.atomic.len() + 1);
        let (mut rest, mut done) = (self.all.as_slice(), 0);
        for range in &self.atomic {
            let (alone, others) = rest.split_at(range.start - done);
            let (together, others) = others.split_at(range.len());
            runs.extend([(alone, false), (together, true)]);
            (rest, done) = (others, range.end);
        }
        runs.push((rest, false));
        runs
    }
}

/// Ends the dead letters that were dropped since the last group, so that no restart finds them again.
pub(super) fn end_dropped_letters(cursor: &mut Cursor, group: &mut CommitGroup) {
    let dropped = std::mem::take(&mut cursor.dropped_letters);
    write_settles(cursor, &dropped, group);
    group.dropped = dropped;
}

/// Adds the operations of all records to the group. The settles of an atomic run are pages of their own; all
/// other settles share pages.
pub(super) fn write(
    cursor: &mut Cursor,
    records: &BatchRecords,
    wall_ms: u64,
    group: &mut CommitGroup,
) -> Result<()> {
    let mut settled = Vec::new();
    let mut health = HashMap::new();
    let mut retries_after = Vec::new();
    for (run, is_atomic) in records.runs() {
        if is_atomic && is_futile_revival(cursor, run) {
            continue;
        }
        let start = group.operations.len();
        let mut settled_together = Vec::new();
        let settled = if is_atomic { &mut settled_together } else { &mut settled };
        for record in run {
            match record {
                Record::Health(id, newest) => health.extend([(*id, newest)]),
                Record::Settle(delivery) | Record::SettleMain(delivery) if !is_atomic => {
                    // Removed after the settle is written: a crash in between must not restart its attempts.
                    let before = group.operations.len();
                    write_one(cursor, record, settled, wall_ms, group)?;
                    retries_after.extend(group.operations.drain(before..));
                    debug_assert!(settled.last() == Some(delivery));
                }
                record => write_one(cursor, record, settled, wall_ms, group)?,
            }
        }
        if is_atomic {
            write_settles(cursor, &settled_together, group);
            group.atomic.push(start..group.operations.len());
        }
    }
    write_health(cursor, &health, group)?;
    write_settles(cursor, &settled, group);
    group.operations.extend(retries_after);
    Ok(())
}

fn write_one(
    cursor: &mut Cursor,
    record: &Record,
    settled: &mut Vec<DeliveryId>,
    wall_ms: u64,
    group: &mut CommitGroup,
) -> Result<()> {
    match record {
        Record::Settle(delivery) => settle(cursor, *delivery, settled, group),
        Record::SettleMain(delivery) => {
            settle(cursor, *delivery, settled, group);
            group.settled_mains.push(*delivery);
        }
        Record::Retry(delivery, state) => write_retry(cursor, *delivery, state, group)?,
        Record::Dead(letter) => write_letter(cursor, letter, group)?,
        Record::Revive(delivery) => revive(cursor, *delivery, wall_ms, group)?,
        Record::Discard(delivery) => discard(cursor, *delivery, settled, group),
        Record::FailedAttempt(delivery, tried) => write_attempt(cursor, *delivery, tried, group)?,
        // Written once per lane, by `write`.
        Record::Health(..) => {}
    }
    Ok(())
}

fn write_retry(
    cursor: &mut Cursor,
    delivery: DeliveryId,
    state: &RetryState,
    group: &mut CommitGroup,
) -> Result<()> {
    let value = encoded("retry state", state)?;
    let key = keys::of_delivery(keys::RETRY, delivery);
    group.operations.push(Operation::Put(key, value));
    cursor.retrying.insert(delivery, cursor.generation);
    Ok(())
}

fn settle(
    cursor: &mut Cursor,
    delivery: DeliveryId,
    settled: &mut Vec<DeliveryId>,
    group: &mut CommitGroup,
) {
    settled.push(delivery);
    // The records of its history are not read any more and go with their generation.
    cursor.attempts.lock().forget(delivery);
    end(cursor, delivery, group);
}

fn write_letter(
    cursor: &mut Cursor,
    letter: &StoredDeadLetter,
    group: &mut CommitGroup,
) -> Result<()> {
    let reason = attempts::bounded_reason(&letter.reason);
    let letter = StoredDeadLetter { reason, ..letter.clone() };
    let value = encoded("dead letter", &(cursor.next_record, &letter))?;
    cursor.next_record += 1;
    let key = keys::of_delivery(keys::DEAD, letter.delivery);
    group.operations.push(Operation::Put(key, value));
    cursor.letters.lock().keep(letter.at_wall_ms, letter.delivery, cursor.generation);
    end(cursor, letter.delivery, group);
    Ok(())
}

/// Whether the first delivery that a run revives belongs to a removed subscription. Nobody can be owed it, and
/// the deliveries that ended because of it stay dead too.
fn is_futile_revival(cursor: &Cursor, run: &[Record]) -> bool {
    matches!(run.first(), Some(Record::Revive(first)) if is_removed(cursor, *first))
}

fn is_removed(cursor: &Cursor, delivery: DeliveryId) -> bool {
    cursor.removed.contains(&delivery.subscription)
}

/// Makes a dead letter owed again, as if it had never been tried. Its age begins now, so a retry state without
/// attempts keeps the time. Does nothing where there is no letter, or where its subscription was removed: a revival
/// outlives the tombstone that would cancel it.
fn revive(
    cursor: &mut Cursor,
    delivery: DeliveryId,
    wall_ms: u64,
    group: &mut CommitGroup,
) -> Result<()> {
    if is_removed(cursor, delivery) {
        return Ok(());
    }
    let Some((at_wall_ms, generation)) = cursor.letters.lock().take(delivery) else {
        return Ok(());
    };
    cursor.attempts.lock().forget(delivery);
    let begins =
        RetryState { attempts: 0, age_ms: 0, due_wall_ms: wall_ms, saved_wall_ms: wall_ms };
    write_retry(cursor, delivery, &begins, group)?;
    let value = encoded("revival", &cursor.next_record)?;
    cursor.next_record += 1;
    let key = keys::of_delivery(keys::REVIVED, delivery);
    group.operations.push(Operation::Put(key, value));
    group.revived.push(TakenLetter { delivery, at_wall_ms, generation });
    Ok(())
}

/// Ends a dead letter. Its settle is newer than its record, so it counts. Does nothing where there is no letter.
fn discard(
    cursor: &mut Cursor,
    delivery: DeliveryId,
    settled: &mut Vec<DeliveryId>,
    group: &mut CommitGroup,
) {
    let Some((at_wall_ms, generation)) = cursor.letters.lock().take(delivery) else { return };
    settled.push(delivery);
    cursor.attempts.lock().forget(delivery);
    group.discarded.push(TakenLetter { delivery, at_wall_ms, generation });
}

fn write_attempt(
    cursor: &mut Cursor,
    delivery: DeliveryId,
    tried: &FailedAttempt,
    group: &mut CommitGroup,
) -> Result<()> {
    if is_removed(cursor, delivery) {
        // It was cancelled with its subscription, so nothing would remove the record from the index again.
        return Ok(());
    }
    let slot = attempts::slot_of(tried.number);
    let value = encoded("failed attempt", &(cursor.next_record, attempts::bounded(tried)))?;
    cursor.next_record += 1;
    let key = keys::of_attempt(delivery, slot);
    let bytes = u32::try_from(key.len() + value.len()).unwrap_or(u32::MAX);
    let place = AttemptPlace { generation: cursor.generation, bytes };
    cursor.attempts.lock().keep(delivery, slot, place);
    group.operations.push(Operation::Put(key, value));
    Ok(())
}

/// Removes the retry state of a delivery that ended. One in a sealed generation goes with the generation.
fn end(cursor: &mut Cursor, delivery: DeliveryId, group: &mut CommitGroup) {
    group.ended.push(delivery.sequence);
    if cursor.retrying.remove(&delivery) == Some(cursor.generation) {
        group.operations.push(Operation::Remove(keys::of_delivery(keys::RETRY, delivery)));
    }
}

/// Writes the newest health of each lane whose subscription is not removed.
fn write_health(
    cursor: &mut Cursor,
    health: &HashMap<SubscriptionId, &LaneHealth>,
    group: &mut CommitGroup,
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

fn write_settles(cursor: &mut Cursor, settled: &[DeliveryId], group: &mut CommitGroup) {
    for page in settles::pages(settled) {
        let key = keys::numbered(keys::SETTLED, cursor.next_record);
        cursor.next_record += 1;
        group.operations.push(Operation::Put(key, page));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle_of(sequence: u64) -> Record {
        Record::Settle(DeliveryId { sequence, subscription: SubscriptionId(3) })
    }

    #[test]
    fn runs_contain_every_record_once_in_order() {
        let mut records = BatchRecords::default();
        assert_eq!(records.runs(), [(&[][..], false)]);
        records.push([settle_of(1), settle_of(2)]);
        records.push([settle_of(3)]);
        records.push([settle_of(4)]);
        records.push_together([settle_of(5)]);
        records.push_together([]);
        records.push([settle_of(6)]);
        let together: Vec<usize> =
            records.runs().iter().filter(|(_, together)| *together).map(|(r, _)| r.len()).collect();
        assert_eq!(together, [2, 1, 0]);
        let flat: Vec<Record> = records.runs().iter().flat_map(|(run, _)| run.to_vec()).collect();
        assert_eq!(flat, (1..=6).map(settle_of).collect::<Vec<_>>());
        assert_eq!(records.len(), 6);
    }
}

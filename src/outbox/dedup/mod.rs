//! The table of dedup keys seen within the dedup window.
//!
//! A key counts only together with its event. Keys expire in buckets: a bucket is named by the time at which it
//! ends, so that a stored bucket means the same under any window. The number of keys is bounded for each account and
//! for all together: at its bound an account's oldest keys are forgotten early and counted, and at the bound of all
//! those of the account with the most keys.

pub(super) mod database;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::codec::dedup_page::{AccountTag, DedupKey, account_of, account_tag};
use crate::outbox::accounts::shares::AccountShares;

/// The part of all keys that is dropped at once is one divided by this.
const ROOM_MADE: usize = 1_024;

/// How many keys each account may have, by the tag in its keys.
#[derive(Debug, Default)]
pub(super) struct AccountKeyLimits {
    limits: HashMap<AccountTag, usize>,
    default: usize,
}

impl AccountKeyLimits {
    pub(super) fn of(shares: &AccountShares) -> AccountKeyLimits {
        let mut limits = HashMap::new();
        for account in shares.accounts() {
            let keys_max = shares.bounds_of(&account).dedup_keys_max;
            // Accounts with the same tag share one bound.
            let limit = limits.entry(account_tag(&account)).or_insert(keys_max);
            *limit = keys_max.max(*limit);
        }
        AccountKeyLimits { limits, default: shares.bounds_of_others().dedup_keys_max }
    }

    #[cfg(test)]
    pub(super) fn all(keys_max: usize) -> AccountKeyLimits {
        AccountKeyLimits { limits: HashMap::new(), default: keys_max }
    }

    pub(super) fn of_account(&self, tag: AccountTag) -> usize {
        self.limits.get(&tag).copied().unwrap_or(self.default)
    }
}

/// The number of buckets that begin in a window.
const BUCKETS_PER_WINDOW: u64 = 24;

#[derive(Debug, Default)]
pub(super) struct DedupTable {
    window_ms: u64,
    bucket_ms: u64,
    keys_max: usize,
    sequences: HashMap<DedupKey, u64>,
    accounts: HashMap<AccountTag, AccountKeys>,
    /// The end of each bucket with keys, in ms since the Unix epoch, and its names on the device: more than one
    /// after the clock was set back.
    buckets: BTreeMap<u64, BTreeSet<u64>>,
    /// Names of buckets whose pages can be removed from the device.
    expired: Vec<u64>,
    dropped: DroppedKeys,
}

/// The keys of one account, oldest first.
#[derive(Debug, Default)]
struct AccountKeys {
    /// By the end of their bucket, ascending.
    buckets: VecDeque<(u64, VecDeque<DedupKey>)>,
    count: usize,
    /// The bound when its last key was added.
    keys_max: usize,
    /// Whether the bound was reached and the count has not fallen below half of it since.
    is_full: bool,
}

/// Keys that were forgotten before their window ended, because an account had too many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DroppedKeys {
    pub(crate) keys: u64,
    /// Whether an account reached its bound with these.
    pub(crate) begins: bool,
}

impl AccountKeys {
    /// Adds a key and returns the bucket in which it counts: the newest, if the given one ends before it.
    fn push(&mut self, bucket: u64, key: DedupKey) -> u64 {
        self.count += 1;
        match self.buckets.back_mut().filter(|(end, _)| *end >= bucket) {
            Some((end, keys)) => {
                keys.push_back(key);
                *end
            }
            None => {
                self.buckets.push_back((bucket, VecDeque::from([key])));
                bucket
            }
        }
    }

    fn pop_oldest(&mut self) -> Option<DedupKey> {
        let (_, keys) = self.buckets.front_mut()?;
        let key = keys.pop_front();
        if keys.is_empty() {
            self.buckets.pop_front();
        }
        self.count -= usize::from(key.is_some());
        key
    }

    /// Removes a key, which is among the newest.
    fn remove(&mut self, key: DedupKey) {
        for (_, keys) in self.buckets.iter_mut().rev() {
            if let Some(position) = keys.iter().rposition(|one| *one == key) {
                keys.remove(position);
                self.count -= 1;
                return;
            }
        }
    }
}

impl DedupTable {
    /// A table of at most `keys_max` keys of all accounts.
    pub(super) fn new(window_ms: u64, keys_max: usize) -> DedupTable {
        DedupTable {
            window_ms,
            bucket_ms: (window_ms / BUCKETS_PER_WINDOW).max(1),
            keys_max,
            ..DedupTable::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sequences.len()
    }

    /// The keys forgotten early since the last call.
    pub(super) fn take_dropped(&mut self) -> Option<DroppedKeys> {
        let dropped = std::mem::take(&mut self.dropped);
        (dropped.keys > 0).then_some(dropped)
    }

    /// Counts keys that were forgotten before they came here.
    pub(super) fn note_dropped(&mut self, keys: u64) {
        self.dropped.keys += keys;
        self.dropped.begins |= keys > 0;
    }

    /// The bucket of a time. A clock that was set back a little stays in the newest bucket, so that no key
    /// expires early.
    pub(super) fn bucket_at(&self, wall_ms: u64) -> u64 {
        let now = self.end_after(wall_ms);
        let newest = self.buckets.last_key_value().map(|(end, _)| *end);
        newest.filter(|newest| *newest > now && !self.is_ahead(*newest, wall_ms)).unwrap_or(now)
    }

    fn end_after(&self, wall_ms: u64) -> u64 {
        (wall_ms / self.bucket_ms + 1).saturating_mul(self.bucket_ms)
    }

    /// Whether a bucket ends so far in the future that the clock must have been wrong.
    fn is_ahead(&self, bucket: u64, wall_ms: u64) -> bool {
        bucket > self.end_after(wall_ms).saturating_add(self.window_ms)
    }

    fn is_over(&self, bucket: u64, wall_ms: u64) -> bool {
        bucket.saturating_add(self.window_ms) <= wall_ms
    }

    pub(super) fn sequence_of(&self, key: DedupKey) -> Option<u64> {
        self.sequences.get(&key).copied()
    }

    /// Adds a key to a bucket that [`bucket_at`](DedupTable::bucket_at) returned. Its account may have
    /// `account_keys_max`.
    pub(super) fn remember(
        &mut self,
        bucket: u64,
        key: DedupKey,
        sequence: u64,
        account_keys_max: usize,
    ) {
        if account_keys_max.min(self.keys_max) == 0 {
            return;
        }
        self.sequences.insert(key, sequence);
        let tag = account_of(key);
        let account = self.accounts.entry(tag).or_default();
        account.keys_max = account_keys_max;
        let counted = account.push(bucket, key);
        self.buckets.entry(counted).or_default().insert(bucket);
        let surplus = account.count.saturating_sub(account_keys_max);
        self.drop_oldest(tag, surplus);
        if self.sequences.len() > self.keys_max {
            self.make_room();
        }
    }

    /// Drops the oldest keys of the account with the most. Several at once, so that finding it costs little.
    fn make_room(&mut self) {
        let largest = self.accounts.iter().max_by_key(|(_, account)| account.count);
        if let Some((tag, _)) = largest {
            self.drop_oldest(*tag, (self.keys_max / ROOM_MADE).max(1));
        }
    }

    fn drop_oldest(&mut self, tag: AccountTag, count: usize) {
        let Some(account) = self.accounts.get_mut(&tag) else { return };
        for _ in 0..count {
            let Some(oldest) = account.pop_oldest() else { break };
            self.sequences.remove(&oldest);
            self.dropped.keys += 1;
            self.dropped.begins |= !account.is_full;
            account.is_full = true;
        }
    }

    /// Adds the keys of a stored bucket, oldest first. Stored buckets ascend. Those past their window are only
    /// noted as expired; keys from a time when the clock was ahead count as seen now.
    pub(super) fn restore(
        &mut self,
        bucket: u64,
        keys: &[(DedupKey, u64)],
        keys_max: &AccountKeyLimits,
        wall_ms: u64,
    ) {
        if self.is_over(bucket, wall_ms) {
            self.expired.push(bucket);
            return;
        }
        let counted = match self.is_ahead(bucket, wall_ms) {
            true => self.bucket_at(wall_ms),
            false => bucket,
        };
        for (key, sequence) in keys {
            self.remember(counted, *key, *sequence, keys_max.of_account(account_of(*key)));
        }
        self.buckets.entry(counted).or_default().insert(bucket);
    }

    /// Removes a key whose event was not stored.
    pub(super) fn forget(&mut self, key: DedupKey) {
        if self.sequences.remove(&key).is_some()
            && let Some(account) = self.accounts.get_mut(&account_of(key))
        {
            account.remove(key);
        }
    }

    pub(super) fn expire(&mut self, wall_ms: u64) {
        self.correct_buckets_ahead(wall_ms);
        let first = self.buckets.first_key_value().map(|(end, _)| *end);
        if first.is_none_or(|end| !self.is_over(end, wall_ms)) {
            return;
        }
        let window_ms = self.window_ms;
        let is_over = |end: u64| end.saturating_add(window_ms) <= wall_ms;
        while let Some(bucket) = self.buckets.first_entry().filter(|bucket| is_over(*bucket.key()))
        {
            self.expired.extend(bucket.remove());
        }
        for account in self.accounts.values_mut() {
            while account.buckets.front().is_some_and(|(end, _)| is_over(*end)) {
                let Some((_, keys)) = account.buckets.pop_front() else { break };
                account.count -= keys.len();
                keys.iter().for_each(|key| {
                    self.sequences.remove(key);
                });
            }
            account.is_full &= account.count > account.keys_max.min(self.keys_max) / 2;
        }
        self.accounts.retain(|_, account| account.count > 0);
    }

    /// Moves keys from a time when the clock was ahead to the bucket of now. They would never expire otherwise.
    fn correct_buckets_ahead(&mut self, wall_ms: u64) {
        let mut names = BTreeSet::new();
        while let Some(newest) = self.buckets.last_key_value().map(|(end, _)| *end)
            && self.is_ahead(newest, wall_ms)
        {
            names.extend(self.buckets.remove(&newest).unwrap_or_default());
        }
        if names.is_empty() {
            return;
        }
        let now = self.bucket_at(wall_ms);
        for account in self.accounts.values_mut() {
            account.buckets.iter_mut().for_each(|(end, _)| *end = (*end).min(now));
        }
        self.buckets.entry(now).or_default().extend(names);
    }

    /// The bucket in which the keys of a stored bucket count.
    pub(super) fn counted_bucket(&self, bucket: u64) -> u64 {
        let holds = |names: &BTreeSet<u64>| names.contains(&bucket);
        let found = self.buckets.iter().find(|(_, names)| holds(names));
        found.map_or(bucket, |(end, _)| *end)
    }

    /// A bucket whose pages can be removed, until [`pages_removed`](DedupTable::pages_removed) is called.
    pub(super) fn expired_bucket(&self) -> Option<u64> {
        self.expired.last().copied()
    }

    pub(super) fn pages_removed(&mut self, bucket: u64) {
        self.expired.retain(|expired| *expired != bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn dedup(keys_max: usize) -> DedupTable {
        DedupTable::new(24 * HOUR_MS, keys_max)
    }

    fn remember_at(dedup: &mut DedupTable, wall_ms: u64, key: DedupKey, sequence: u64) {
        let bucket = dedup.bucket_at(wall_ms);
        dedup.remember(bucket, key, sequence, usize::MAX);
    }

    #[test]
    fn a_key_is_known_for_the_window() {
        let mut dedup = dedup(100);
        remember_at(&mut dedup, HOUR_MS, 1, 10);
        remember_at(&mut dedup, 20 * HOUR_MS, 2, 20);
        dedup.expire(25 * HOUR_MS);
        assert_eq!((dedup.sequence_of(1), dedup.sequence_of(2)), (Some(10), Some(20)));
        dedup.expire(27 * HOUR_MS);
        assert_eq!((dedup.sequence_of(1), dedup.sequence_of(2)), (None, Some(20)));
        assert_eq!(dedup.expired_bucket(), Some(2 * HOUR_MS), "named by its end");
        dedup.pages_removed(2 * HOUR_MS);
        assert_eq!(dedup.expired_bucket(), None);
    }

    #[test]
    fn at_the_bound_the_oldest_key_is_forgotten() {
        let mut dedup = dedup(2);
        (1..=3).for_each(|n| remember_at(&mut dedup, n * HOUR_MS, n.into(), n));
        assert_eq!(dedup.sequence_of(1), None);
        assert_eq!((dedup.sequence_of(2), dedup.sequence_of(3)), (Some(2), Some(3)));
    }

    #[test]
    fn accounts_over_a_bound_on_keys_lose_their_own() {
        const TAG: u128 = 1 << 104;
        let mut dedup = dedup(6);
        let bucket = dedup.bucket_at(HOUR_MS);
        (1..=5).for_each(|n| dedup.remember(bucket, n.into(), n, 3));
        (1..=2).for_each(|n| dedup.remember(bucket, TAG + u128::from(n), n, 100));
        let known = |dedup: &DedupTable, tag: u128| {
            (1..=9).filter(|n| dedup.sequence_of(tag + n).is_some()).collect::<Vec<_>>()
        };
        assert_eq!((known(&dedup, 0), known(&dedup, TAG)), (vec![3, 4, 5], vec![1, 2]));
        (3..=9).for_each(|n| dedup.remember(bucket, TAG + u128::from(n), n, 100));
        assert_eq!((known(&dedup, 0), known(&dedup, TAG)), (vec![3, 4, 5], vec![7, 8, 9]));
    }

    #[test]
    fn dropped_keys_are_counted_and_a_burst_begins_once() {
        let mut dedup = dedup(2);
        let mut take = |at_ms, key: u64| {
            remember_at(&mut dedup, at_ms, key.into(), key);
            dedup.take_dropped().map(|dropped| (dropped.keys, dropped.begins))
        };
        assert_eq!([take(1, 1), take(2, 2), take(3, 3)], [None, None, Some((1, true))]);
        assert_eq!([take(4, 4), take(5, 5)], [Some((1, false)), Some((1, false))]);
        assert_eq!(take(HOUR_MS + 1, 6), Some((1, false)));
        dedup.expire(100 * HOUR_MS);
        assert_eq!(dedup.take_dropped(), None, "their window had ended");
        let mut take = |at_ms, key: u64| {
            remember_at(&mut dedup, at_ms, key.into(), key);
            dedup.take_dropped().map(|dropped| (dropped.keys, dropped.begins))
        };
        let later = 100 * HOUR_MS;
        assert_eq!([take(later, 7), take(later, 8), take(later, 9)], [None, None, Some((1, true))]);
    }

    #[test]
    fn a_clock_set_back_forgets_nothing_early() {
        let mut dedup = dedup(100);
        remember_at(&mut dedup, 100 * HOUR_MS, 1, 10);
        dedup.expire(80 * HOUR_MS);
        remember_at(&mut dedup, 80 * HOUR_MS, 2, 20);
        dedup.expire(120 * HOUR_MS);
        assert_eq!((dedup.sequence_of(1), dedup.sequence_of(2)), (Some(10), Some(20)));
    }

    #[test]
    fn keys_seen_during_a_jump_of_the_clock_expire_after_it() {
        let mut dedup = dedup(100);
        let start = 1_000 * HOUR_MS;
        remember_at(&mut dedup, start, 1, 10);
        dedup.expire(start + 1_000_000 * HOUR_MS);
        remember_at(&mut dedup, start + 1_000_000 * HOUR_MS, 2, 20);
        for hour in 1..48 {
            dedup.expire(start + hour * HOUR_MS);
            remember_at(&mut dedup, start + hour * HOUR_MS, u128::from(100 + hour), 100 + hour);
        }
        assert_eq!(dedup.sequence_of(101), None, "keys expire again");
        assert_eq!(dedup.sequence_of(147), Some(147));
        assert_eq!(dedup.sequence_of(2), None, "that of the jump too");
        assert!(dedup.expired_bucket().is_some(), "and their pages can be removed");
    }

    #[test]
    fn a_key_refused_and_published_again_is_known_for_the_window() {
        let mut dedup = dedup(3);
        remember_at(&mut dedup, HOUR_MS, 1, 10);
        dedup.forget(1);
        remember_at(&mut dedup, 20 * HOUR_MS, 1, 11);
        dedup.expire(30 * HOUR_MS);
        assert_eq!(dedup.sequence_of(1), Some(11));
        remember_at(&mut dedup, 30 * HOUR_MS, 2, 12);
        remember_at(&mut dedup, 30 * HOUR_MS, 3, 13);
        assert_eq!(dedup.sequence_of(1), Some(11), "three keys are within the bound");
    }
}

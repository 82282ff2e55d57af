//! The dedup keys that an open has read. The device may hold far more than the bounds allow, because dropped keys
//! stay there until their window ends, so what is over the bounds is forgotten while it is read.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::outbox::codec::dedup_page::{BucketEntries, DedupKey, account_of};
use crate::outbox::dedup::{AccountKeyLimits, DedupTable};

/// The newest keys of each account, together up to about twice as many as all may have.
#[derive(Default)]
pub(super) struct ReadKeys {
    buckets: BucketEntries,
    count: usize,
    keys_max: usize,
    limits: AccountKeyLimits,
    dropped: u64,
}

impl ReadKeys {
    pub(super) fn new(keys_max: usize, limits: AccountKeyLimits) -> ReadKeys {
        ReadKeys { keys_max, limits, ..ReadKeys::default() }
    }

    pub(super) fn add(&mut self, bucket: u64, entries: &[(DedupKey, u64)]) {
        self.buckets.entry(bucket).or_default().extend(entries);
        self.count += entries.len();
        if self.count > self.keys_max.saturating_mul(2) {
            self.trim();
        }
    }

    /// Forgets the oldest keys of accounts above their bound, and then those of the accounts with the most. Their
    /// buckets stay, so that their pages are removed when their window ends.
    fn trim(&mut self) {
        let most = self.most_of_account();
        let (mut kept, mut of_accounts) = (0, HashMap::<_, usize>::new());
        for entries in self.buckets.values_mut().rev() {
            entries.sort_unstable_by_key(|(_, sequence)| Reverse(*sequence));
            entries.retain(|(key, _)| {
                let tag = account_of(*key);
                let of_account = of_accounts.entry(tag).or_default();
                let stays = *of_account < self.limits.of_account(tag).min(most);
                *of_account += usize::from(stays);
                kept += usize::from(stays);
                stays
            });
            entries.shrink_to_fit();
        }
        self.dropped += (self.count - kept) as u64;
        self.count = kept;
    }

    /// How many keys any account may keep, so that all together are within the bound.
    fn most_of_account(&self) -> usize {
        let mut counts = HashMap::<_, usize>::new();
        for (key, _) in self.buckets.values().flatten() {
            *counts.entry(account_of(*key)).or_default() += 1;
        }
        let mut counts: Vec<usize> =
            counts.into_iter().map(|(tag, count)| count.min(self.limits.of_account(tag))).collect();
        counts.sort_unstable();
        let (mut left, mut accounts) = (self.keys_max, counts.len());
        for count in counts {
            // The remaining accounts have at least as many keys, so they share what is left.
            if count.saturating_mul(accounts) > left {
                return left / accounts;
            }
            left -= count;
            accounts -= 1;
        }
        usize::MAX
    }

    /// Adds the keys that are within the window to a table, oldest first.
    pub(super) fn fill(self, dedup: &mut DedupTable, wall_ms: u64) {
        for (bucket, mut entries) in self.buckets {
            entries.sort_unstable_by_key(|(_, sequence)| *sequence);
            dedup.restore(bucket, &entries, &self.limits, wall_ms);
        }
        dedup.note_dropped(self.dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::codec::dedup_page::dedup_key_of;

    #[test]
    fn the_newest_keys_stay_and_memory_is_bounded() {
        let mut read = ReadKeys::new(100, AccountKeyLimits::all(60));
        let key = |account: &str, n: u64| (dedup_key_of(account, "ADD_TAG", &n.to_string()), n);
        read.add(1_000, &[key("quiet", 1)]);
        for bucket in 1..=50 {
            let first = bucket * 100;
            let page: Vec<_> = (first..first + 100).map(|n| key("busy", n)).collect();
            read.add(bucket * 1_000, &page);
            assert!(read.count <= 300, "{} keys in memory", read.count);
        }
        let mut dedup = DedupTable::new(1_000_000, 100);
        read.fill(&mut dedup, 50_000);
        assert_eq!(dedup.sequence_of(key("quiet", 1).0), Some(1), "the bystander's");
        assert_eq!(dedup.sequence_of(key("busy", 5_099).0), Some(5_099));
        assert_eq!(dedup.sequence_of(key("busy", 5_039).0), None, "over its account's bound");
        assert_eq!(dedup.take_dropped().map(|dropped| dropped.keys), Some(5_000 - 60));
    }
}

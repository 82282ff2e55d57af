//! Caches long match results, so that events with the same query share them. A change of the index
//! invalidates every entry. The size of the cache is bounded (I10).

use std::sync::Arc;

use foldhash::HashMap;
use parking_lot::Mutex;

use crate::subscription::SubscriptionId;

/// The query of an event without a WABA, by which its result is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct MatchKey {
    pub(super) number: u64,
    pub(super) account: u32,
    pub(super) kind: u32,
    pub(super) is_part: bool,
}

/// Results of recent matches.
#[derive(Debug, Default)]
pub(super) struct MatchCache {
    entries: Mutex<CacheEntries>,
    /// How many times the index has changed.
    changes: u64,
}

#[derive(Debug, Default)]
struct CacheEntries {
    by_key: HashMap<MatchKey, CachedMatch>,
    /// The weight of all entries.
    weight: usize,
}

#[derive(Debug)]
struct CachedMatch {
    /// `MatchCache::changes` when the entry was made.
    changes: u64,
    targets: Arc<[SubscriptionId]>,
}

/// The bound of the cache's weight, in ids of 4 bytes.
const WEIGHT_MAX: usize = 1 << 18;

/// The weight of an entry without its ids.
const ENTRY_WEIGHT: usize = 16;

impl MatchCache {
    /// The cached result, or the result of `find`, which is then cached.
    pub(super) fn get_or_insert(
        &self,
        key: MatchKey,
        find: impl FnOnce() -> Arc<[SubscriptionId]>,
    ) -> Arc<[SubscriptionId]> {
        let entries = self.entries.lock();
        if let Some(entry) = entries.by_key.get(&key)
            && entry.changes == self.changes
        {
            return Arc::clone(&entry.targets);
        }
        drop(entries);
        let targets = find();
        let entry = CachedMatch { changes: self.changes, targets: Arc::clone(&targets) };
        self.entries.lock().insert(key, entry);
        targets
    }

    /// Invalidates every entry. Entries are freed when their space is needed, so this costs nothing.
    pub(super) fn invalidate(&mut self) {
        self.changes += 1;
    }
}

impl CacheEntries {
    fn insert(&mut self, key: MatchKey, entry: CachedMatch) {
        let weight = weight(&entry);
        if weight > WEIGHT_MAX {
            return;
        }
        if self.weight + weight > WEIGHT_MAX {
            *self = CacheEntries::default();
        }
        self.weight += weight;
        if let Some(before) = self.by_key.insert(key, entry) {
            self.weight -= self::weight(&before);
        }
    }
}

fn weight(entry: &CachedMatch) -> usize {
    entry.targets.len() + ENTRY_WEIGHT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> MatchKey {
        MatchKey { number, account: 1, kind: 1, is_part: false }
    }

    fn ids(count: u32) -> Arc<[SubscriptionId]> {
        (0..count).map(SubscriptionId).collect()
    }

    #[test]
    fn a_result_is_shared_until_the_index_changes() {
        let mut match_cache = MatchCache::default();
        let first = match_cache.get_or_insert(key(1), || ids(20));
        let bystander = match_cache.get_or_insert(key(2), || ids(30));
        assert!(Arc::ptr_eq(&first, &match_cache.get_or_insert(key(1), || ids(0))));
        match_cache.invalidate();
        let found = match_cache.get_or_insert(key(1), || ids(21));
        assert_eq!((found.len(), first.len()), (21, 20));
        assert!(Arc::ptr_eq(&found, &match_cache.get_or_insert(key(1), || ids(0))));
        assert_eq!(bystander.len(), 30, "a result in use stays valid");
    }

    #[test]
    fn the_cache_is_bounded_and_skips_results_over_its_bound() {
        let match_cache = MatchCache::default();
        for number in 0..2 * u32::try_from(WEIGHT_MAX / ENTRY_WEIGHT).unwrap() {
            match_cache.get_or_insert(key(u64::from(number % 20_000)), || ids(number % 40));
        }
        let sum = |entries: &CacheEntries| entries.by_key.values().map(weight).sum::<usize>();
        let before = {
            let entries = match_cache.entries.lock();
            assert!(entries.weight <= WEIGHT_MAX && !entries.by_key.is_empty());
            assert_eq!(entries.weight, sum(&entries));
            entries.by_key.len()
        };
        let most = u32::try_from(WEIGHT_MAX).unwrap();
        assert_eq!(match_cache.get_or_insert(key(1 << 40), || ids(most)).len(), WEIGHT_MAX);
        assert_eq!(match_cache.entries.lock().by_key.len(), before);
    }
}

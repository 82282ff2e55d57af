//! Decides whether an event was accepted before, by its dedup key.
//!
//! Leaves to others: reading and writing the pages (`recovery`, `group`). Invariant: a key is
//! remembered only together with its event, for the window, and the table never holds more than its
//! bound; what leaves it early is the oldest, and is counted.
//!
//! Layout of a page: the envelope of `store::record`, version 1, then entries of 24 bytes: the hash
//! (16, little-endian) and the event's sequence (8, little-endian).

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};

use crate::store::record::{ENVELOPE_BYTES, seal, unseal};
use crate::store::{Pair, VALUE_BYTES_MAX};

use super::keys;

const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 24;
const ENTRIES_PER_PAGE: usize = (VALUE_BYTES_MAX - ENVELOPE_BYTES) / ENTRY_BYTES;

/// Into how many buckets the window is cut: keys are forgotten a bucket at a time.
const BUCKETS_PER_WINDOW: u64 = 24;

/// A dedup key with its account and type, as 128 bits of SHA-256: nobody can make two collide.
pub(crate) type KeyHash = u128;

/// Hashes a dedup key in its scope.
pub(crate) fn key_hash(account: &str, kind: &str, dedup_key: &str) -> KeyHash {
    let mut hasher = Sha256::new();
    for part in [account, kind, dedup_key] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest.first_chunk::<16>().map_or(0, |bytes| u128::from_le_bytes(*bytes))
}

/// The keys seen within the window.
#[derive(Debug)]
pub(super) struct Dedup {
    bucket_ms: u64,
    keys_max: usize,
    sequences: HashMap<KeyHash, u64>,
    /// Oldest first; within a bucket in the order seen.
    buckets: VecDeque<Bucket>,
    /// Buckets whose pages are still to be removed.
    expired: Vec<u64>,
    /// Keys that left early and were not taken note of yet.
    dropped: u64,
    /// The bucket in which the host was told last that keys leave early.
    told: Option<u64>,
}

/// Keys that left before their window ended, because there were too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) keys: u64,
    /// Whether a burst begins: nobody was told in this bucket yet.
    pub(crate) begins: bool,
}

#[derive(Debug)]
struct Bucket {
    number: u64,
    keys: VecDeque<KeyHash>,
}

impl Dedup {
    pub(super) fn new(window_ms: u64, keys_max: usize) -> Dedup {
        Dedup {
            bucket_ms: (window_ms / BUCKETS_PER_WINDOW).max(1),
            keys_max,
            sequences: HashMap::new(),
            buckets: VecDeque::new(),
            expired: Vec::new(),
            dropped: 0,
            told: None,
        }
    }

    /// Takes note of the keys that left early since it was called last.
    pub(super) fn take_dropped(&mut self, wall_ms: u64) -> Option<Dropped> {
        let keys = std::mem::take(&mut self.dropped);
        if keys == 0 {
            return None;
        }
        let bucket = Some(self.bucket_at(wall_ms));
        let begins = std::mem::replace(&mut self.told, bucket) != bucket;
        Some(Dropped { keys, begins })
    }

    /// The bucket of a moment. Never one before the newest, so that a clock set back cannot make
    /// a key expire early.
    pub(super) fn bucket_at(&self, wall_ms: u64) -> u64 {
        let now = wall_ms / self.bucket_ms;
        self.buckets.back().map_or(now, |newest| newest.number.max(now))
    }

    /// The sequence of the event that brought this key first.
    pub(super) fn sequence_of(&self, key: KeyHash) -> Option<u64> {
        self.sequences.get(&key).copied()
    }

    /// Remembers a key. Buckets come in order.
    pub(super) fn remember(&mut self, bucket: u64, key: KeyHash, sequence: u64) {
        if self.keys_max == 0 {
            return;
        }
        self.sequences.insert(key, sequence);
        match self.buckets.back_mut().filter(|newest| newest.number >= bucket) {
            Some(newest) => newest.keys.push_back(key),
            None => self.buckets.push_back(Bucket { number: bucket, keys: VecDeque::from([key]) }),
        }
        while self.sequences.len() > self.keys_max {
            self.drop_oldest();
        }
    }

    /// Forgets a key whose event was not stored after all.
    pub(super) fn forget(&mut self, key: KeyHash) {
        self.sequences.remove(&key);
    }

    /// Forgets what is older than the window.
    pub(super) fn expire(&mut self, wall_ms: u64) {
        let oldest_kept = self.bucket_at(wall_ms).saturating_sub(BUCKETS_PER_WINDOW);
        while self.buckets.front().is_some_and(|bucket| bucket.number < oldest_kept) {
            if let Some(bucket) = self.buckets.pop_front() {
                bucket.keys.iter().for_each(|key| {
                    self.sequences.remove(key);
                });
                self.expired.push(bucket.number);
            }
        }
    }

    /// A bucket whose pages may be removed, until [`Dedup::removed`] says that they are.
    pub(super) fn expired_bucket(&self) -> Option<u64> {
        self.expired.last().copied()
    }

    pub(super) fn removed(&mut self, bucket: u64) {
        self.expired.retain(|expired| *expired != bucket);
    }

    /// Marks a bucket found on the device that is older than the window.
    pub(super) fn found_expired(&mut self, bucket: u64) {
        if !self.expired.contains(&bucket) {
            self.expired.push(bucket);
        }
    }

    /// Whether a bucket found on the device is within the window.
    pub(super) fn is_current(&self, bucket: u64, wall_ms: u64) -> bool {
        bucket >= (wall_ms / self.bucket_ms).saturating_sub(BUCKETS_PER_WINDOW)
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.buckets.front_mut() else { return };
        if let Some(key) = oldest.keys.pop_front()
            && self.sequences.remove(&key).is_some()
        {
            self.dropped += 1;
        }
        if oldest.keys.is_empty()
            && let Some(bucket) = self.buckets.pop_front()
        {
            self.expired.push(bucket.number);
        }
    }
}

/// The pages of a group's new keys, with their keys in the store.
pub(super) fn pages(bucket: u64, first_number: u64, entries: &[(KeyHash, u64)]) -> Vec<Pair> {
    (first_number..)
        .zip(entries.chunks(ENTRIES_PER_PAGE))
        .map(|(number, entries)| {
            let mut body = Vec::with_capacity(entries.len() * ENTRY_BYTES);
            for (key, sequence) in entries {
                body.extend_from_slice(&key.to_le_bytes());
                body.extend_from_slice(&sequence.to_le_bytes());
            }
            (keys::in_bucket(bucket, number), seal(VERSION, &body))
        })
        .collect()
}

/// The entries of a page.
pub(super) fn read_page(sealed: &[u8]) -> Result<Vec<(KeyHash, u64)>, String> {
    let (version, body) = unseal(sealed)?;
    if version != VERSION {
        return Err(format!("it has version {version}, this build reads {VERSION}"));
    }
    let (entries, rest) = body.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err("it ends within an entry".to_owned());
    }
    Ok(entries.iter().filter_map(entry).collect())
}

fn entry(bytes: &[u8; ENTRY_BYTES]) -> Option<(KeyHash, u64)> {
    let (key, sequence) = bytes.split_first_chunk::<16>()?;
    Some((u128::from_le_bytes(*key), u64::from_le_bytes(*sequence.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn dedup(keys_max: usize) -> Dedup {
        Dedup::new(24 * HOUR_MS, keys_max)
    }

    fn remember_at(dedup: &mut Dedup, wall_ms: u64, key: KeyHash, sequence: u64) {
        let bucket = dedup.bucket_at(wall_ms);
        dedup.remember(bucket, key, sequence);
    }

    #[test]
    fn a_key_is_known_for_the_window_and_no_longer() {
        let mut dedup = dedup(100);
        remember_at(&mut dedup, HOUR_MS, 1, 10);
        remember_at(&mut dedup, 20 * HOUR_MS, 2, 20);
        dedup.expire(25 * HOUR_MS);
        assert_eq!((dedup.sequence_of(1), dedup.sequence_of(2)), (Some(10), Some(20)));
        dedup.expire(27 * HOUR_MS);
        assert_eq!((dedup.sequence_of(1), dedup.sequence_of(2)), (None, Some(20)));
        assert_eq!(dedup.expired_bucket(), Some(1));
        dedup.removed(1);
        assert_eq!(dedup.expired_bucket(), None);
    }

    #[test]
    fn at_the_bound_the_oldest_key_goes_first() {
        let mut dedup = dedup(2);
        (1..=3).for_each(|n| remember_at(&mut dedup, n * HOUR_MS, n.into(), n));
        assert_eq!(dedup.sequence_of(1), None);
        assert_eq!((dedup.sequence_of(2), dedup.sequence_of(3)), (Some(2), Some(3)));
    }

    #[test]
    fn what_leaves_at_the_bound_is_counted_and_a_burst_begins_once() {
        let mut dedup = dedup(2);
        let mut take = |at_ms, key: u64| {
            remember_at(&mut dedup, at_ms, key.into(), key);
            dedup.take_dropped(at_ms).map(|dropped| (dropped.keys, dropped.begins))
        };
        assert_eq!([take(1, 1), take(2, 2), take(3, 3)], [None, None, Some((1, true))]);
        assert_eq!([take(4, 4), take(5, 5)], [Some((1, false)), Some((1, false))]);
        assert_eq!(take(HOUR_MS + 1, 6), Some((1, true)));
        dedup.expire(100 * HOUR_MS);
        assert_eq!(dedup.take_dropped(100 * HOUR_MS), None, "their window had ended");
    }

    #[test]
    fn a_clock_set_back_forgets_nothing_early() {
        let mut dedup = dedup(100);
        remember_at(&mut dedup, 100 * HOUR_MS, 1, 10);
        remember_at(&mut dedup, HOUR_MS, 2, 20);
        dedup.expire(101 * HOUR_MS);
        assert_eq!((dedup.sequence_of(1), dedup.sequence_of(2)), (Some(10), Some(20)));
    }

    #[test]
    fn pages_read_back_and_damage_is_seen() {
        let entries: Vec<_> = (0..700_u64).map(|n| (u128::from(n) << 77, n)).collect();
        let pages = pages(9, 4, &entries);
        assert_eq!(pages.len(), 3);
        assert_eq!(pages[2].0, keys::in_bucket(9, 6));
        let read_back: Vec<_> =
            pages.iter().flat_map(|(_, sealed)| read_page(sealed).unwrap()).collect();
        assert_eq!(read_back, entries);
        let mut damaged = pages[0].1.clone();
        damaged[9] ^= 4;
        assert!(read_page(&damaged).is_err());
    }

    #[test]
    fn scopes_do_not_run_into_each_other() {
        let one = key_hash("acme", "A", "key");
        assert_eq!(one, key_hash("acme", "A", "key"));
        for other in
            [key_hash("acm", "eA", "key"), key_hash("acme", "B", "key"), key_hash("acme", "A", "k")]
        {
            assert_ne!(one, other);
        }
    }
}

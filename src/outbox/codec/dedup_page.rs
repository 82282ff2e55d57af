//! Dedup pages: the hashes of dedup keys with the events that brought them.
//!
//! Layout: the envelope of `store::record`, version 1, then 24 bytes per key: the hash (16, little-endian)
//! and the event's sequence (8, little-endian). A page's key in the store names the bucket by the time
//! at which it ends, in milliseconds since the Unix epoch.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::store::record::{ENVELOPE_BYTES, seal, unseal};
use crate::store::{Database, KeyValue, VALUE_BYTES_MAX};

use super::keys;

const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 24;
const ENTRIES_PER_PAGE: usize = (VALUE_BYTES_MAX - ENVELOPE_BYTES) / ENTRY_BYTES;

/// A hash of a dedup key: the upper 24 bits are of its account, and 104 bits of SHA-256 over the account, the event
/// type and the key, so that nobody can make two keys collide.
pub(crate) type DedupKey = u128;

/// Distinguishes accounts for their bound on keys. Accounts with the same tag share one bound.
pub(crate) type AccountTag = u32;

const ACCOUNT_BITS: u32 = 24;

/// The keys of each time bucket, each with the sequence of its event.
pub(crate) type BucketEntries = BTreeMap<u64, Vec<(DedupKey, u64)>>;

pub(crate) fn dedup_key_of(account: &str, event_type: &str, dedup_key: &str) -> DedupKey {
    let tag = u128::from(account_tag(account));
    (tag << (128 - ACCOUNT_BITS)) | (sha256_of(&[account, event_type, dedup_key]) >> ACCOUNT_BITS)
}

pub(crate) fn account_tag(account: &str) -> AccountTag {
    u32::try_from(sha256_of(&[account]) >> (128 - ACCOUNT_BITS)).unwrap_or(0)
}

pub(crate) fn account_of(key: DedupKey) -> AccountTag {
    u32::try_from(key >> (128 - ACCOUNT_BITS)).unwrap_or(0)
}

/// The first 128 bits of SHA-256 over some texts.
fn sha256_of(texts: &[&str]) -> u128 {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    let digest = hasher.finalize();
    digest.first_chunk::<16>().map_or(0, |bytes| u128::from_le_bytes(*bytes))
}

/// The pages of some keys of one bucket, with their keys in the store.
pub(crate) fn pages(bucket: u64, first_number: u64, entries: &[(DedupKey, u64)]) -> Vec<KeyValue> {
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

pub(crate) fn read(sealed: &[u8]) -> Result<Vec<(DedupKey, u64)>, String> {
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

/// How many entries a page has, by its length.
pub(crate) fn count(sealed: &[u8]) -> usize {
    sealed.len().saturating_sub(ENVELOPE_BYTES) / ENTRY_BYTES
}

/// Adds the entries of every dedup page of a database to `entries`, if `counts` says so for the page's key in the
/// store and its entries. Returns the greatest page number.
pub(crate) fn read_all(
    database: &dyn Database,
    entries: &mut BucketEntries,
    mut counts: impl FnMut(&[u8], &[(DedupKey, u64)]) -> bool,
) -> Result<u64> {
    let mut last_number = 0;
    super::scan(database, keys::DEDUP, |key, sealed| {
        let Some((bucket, number)) = keys::bucket_of(key) else { return Ok(()) };
        last_number = last_number.max(number);
        let what = || format!("dedup page of bucket {bucket}");
        let page = read(sealed).map_err(|why| super::damaged(what(), why))?;
        if counts(key, &page) {
            entries.entry(bucket).or_default().extend(page);
        }
        Ok(())
    })?;
    Ok(last_number)
}

fn entry(bytes: &[u8; ENTRY_BYTES]) -> Option<(DedupKey, u64)> {
    let (key, sequence) = bytes.split_first_chunk::<16>()?;
    Some((u128::from_le_bytes(*key), u64::from_le_bytes(*sequence.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_read_back_and_damage_is_found() {
        let entries: Vec<_> = (0..700_u64).map(|n| (u128::from(n) << 77, n)).collect();
        let pages = pages(9, 4, &entries);
        assert_eq!(pages.len(), 3);
        assert_eq!(pages[2].0, keys::in_bucket(9, 6));
        assert_eq!(keys::bucket_of(&pages[2].0), Some((9, 6)));
        assert_eq!(pages.iter().map(|(_, sealed)| count(sealed)).sum::<usize>(), 700);
        let read_back: Vec<_> =
            pages.iter().flat_map(|(_, sealed)| read(sealed).unwrap()).collect();
        assert_eq!(read_back, entries);
        let mut damaged = pages[0].1.clone();
        damaged[9] ^= 4;
        assert!(read(&damaged).is_err());
    }

    #[test]
    fn account_type_and_key_do_not_run_into_each_other() {
        let one = dedup_key_of("acme", "A", "key");
        assert_eq!(account_of(one), account_of(dedup_key_of("acme", "B", "other")));
        assert_ne!(account_of(one), account_of(dedup_key_of("acm", "eA", "key")));
        assert_eq!(one, dedup_key_of("acme", "A", "key"));
        for (account, event_type, key) in
            [("acm", "eA", "key"), ("acme", "B", "key"), ("acme", "A", "k")]
        {
            assert_ne!(one, dedup_key_of(account, event_type, key));
        }
    }
}

//! Tombstone pages: lists of subscriptions that were removed.
//!
//! Layout: the envelope of `store::record`, version 1, then the time of the removal in milliseconds since the Unix
//! epoch (8, little-endian), then the ids (4 each, little-endian). A page's key holds its first id.

use crate::store::record::{ENVELOPE_BYTES, seal, unseal};
use crate::store::{KeyValue, VALUE_BYTES_MAX};
use crate::subscription::SubscriptionId;

use super::{VERSION, keys};

const TIME_BYTES: usize = 8;
const ID_BYTES: usize = 4;
const IDS_PER_PAGE: usize = (VALUE_BYTES_MAX - ENVELOPE_BYTES - TIME_BYTES) / ID_BYTES;

/// The pages of some removals, with their keys in the store.
pub(crate) fn pages(removed: &[SubscriptionId], wall_ms: u64) -> impl Iterator<Item = KeyValue> {
    removed.chunks(IDS_PER_PAGE).filter_map(move |page| {
        let mut body = wall_ms.to_le_bytes().to_vec();
        body.extend(page.iter().flat_map(|id| id.0.to_le_bytes()));
        let key = keys::of_subscription(keys::TOMBSTONE, *page.first()?);
        Some((key, seal(VERSION, &body)))
    })
}

pub(crate) fn read(key: &[u8], sealed: &[u8]) -> Result<Vec<SubscriptionId>, String> {
    let (_, body) = unseal(sealed)?;
    let (ids, rest) = body.get(TIME_BYTES..).unwrap_or_default().as_chunks::<ID_BYTES>();
    let ids: Vec<_> = ids.iter().map(|id| SubscriptionId(u32::from_le_bytes(*id))).collect();
    match rest.is_empty() && ids.first().copied() == keys::subscription_of(key) {
        true => Ok(ids),
        false => Err("its ids do not match its key".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded_read_back_and_their_bytes_are_pinned() {
        let all: Vec<_> = (0..5_000).map(|n| SubscriptionId(n * 7)).collect();
        let pages: Vec<_> = pages(&all, 9).collect();
        assert!(pages.len() > 1 && pages.iter().all(|(_, page)| page.len() <= VALUE_BYTES_MAX));
        let read_back = pages.iter().flat_map(|(key, page)| read(key, page).unwrap());
        assert_eq!(read_back.collect::<Vec<_>>(), all);
        let (key, page) = super::pages(&[SubscriptionId(258)], 7).next().unwrap();
        assert_eq!(key, b"t\0\0\x01\x02");
        assert_eq!(page[5..], [7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0]);
        assert!(read(&pages[1].0, &page).is_err());
    }
}

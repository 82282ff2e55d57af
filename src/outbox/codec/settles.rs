//! Settle pages: lists of deliveries that need no more attempts.
//!
//! Layout: the envelope of `store::record`, version 1, then 12 bytes per delivery: the sequence (8,
//! little-endian) and the subscription id (4, little-endian).

use crate::attempt::DeliveryId;
use crate::store::VALUE_BYTES_MAX;
use crate::store::record::{ENVELOPE_BYTES, seal, unseal};
use crate::subscription::SubscriptionId;

use super::VERSION;

const PAIR_BYTES: usize = 12;
const PAIRS_PER_PAGE: usize = (VALUE_BYTES_MAX - ENVELOPE_BYTES) / PAIR_BYTES;

pub(crate) fn pages(settled: &[DeliveryId]) -> impl Iterator<Item = Vec<u8>> {
    settled.chunks(PAIRS_PER_PAGE).map(|page| {
        let mut body = Vec::with_capacity(page.len() * PAIR_BYTES);
        for delivery in page {
            body.extend_from_slice(&delivery.sequence.to_le_bytes());
            body.extend_from_slice(&delivery.subscription.0.to_le_bytes());
        }
        seal(VERSION, &body)
    })
}

pub(crate) fn read(sealed: &[u8]) -> Result<Vec<DeliveryId>, String> {
    let (_, body) = unseal(sealed)?;
    let pairs = body.as_chunks::<PAIR_BYTES>().0.iter().map(|pair| {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *pair;
        let sequence = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let subscription = SubscriptionId(u32::from_le_bytes([i, j, k, l]));
        DeliveryId { sequence, subscription }
    });
    Ok(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded_read_back_and_their_bytes_are_pinned() {
        let all: Vec<_> = (0..2_000)
            .map(|n| DeliveryId { sequence: n << 33, subscription: SubscriptionId(7) })
            .collect();
        let pages: Vec<_> = pages(&all).collect();
        assert!(pages.len() > 1 && pages.iter().all(|page| page.len() <= VALUE_BYTES_MAX));
        let read_back: Vec<_> = pages.iter().flat_map(|page| read(page).unwrap()).collect();
        assert_eq!(read_back, all);
        let one = super::pages(&[DeliveryId { sequence: 258, subscription: SubscriptionId(3) }]);
        assert_eq!(one.collect::<Vec<_>>()[0][5..], [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
        assert!(read(&pages[0][..20]).is_err());
    }
}

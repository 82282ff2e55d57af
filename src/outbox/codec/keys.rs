//! The key of every record of a generation. Keys of one kind share their first byte and sort by the number
//! in them, because integers are big-endian.

use crate::attempt::DeliveryId;
use crate::subscription::SubscriptionId;

/// Payload pages, by page number.
pub(crate) const PAYLOAD: &[u8] = b"p";
/// Head pages, by the first sequence in them.
pub(crate) const HEADS: &[u8] = b"h";
/// Settle pages, by record number.
pub(crate) const SETTLED: &[u8] = b"s";
/// Retry states, by delivery.
pub(crate) const RETRY: &[u8] = b"r";
/// Dead letters, by delivery.
pub(crate) const DEAD: &[u8] = b"d";
/// Dead letters that were replayed, by delivery.
pub(crate) const REVIVED: &[u8] = b"a";
/// Removed subscriptions, by id.
pub(crate) const TOMBSTONE: &[u8] = b"t";
/// Dedup pages, by time bucket and record number.
pub(crate) const DEDUP: &[u8] = b"k";
/// Failed attempts, by delivery and slot.
pub(crate) const TRIED: &[u8] = b"f";
/// The health of lanes, by subscription.
pub(crate) const HEALTH: &[u8] = b"l";
pub(crate) const META: &[u8] = b"m";

/// Whether a key belongs to a head page or a settle page. These pages are counted, so that missing ones are
/// noticed.
pub(crate) fn is_page(key: &[u8]) -> bool {
    key.starts_with(HEADS) || key.starts_with(SETTLED)
}

pub(crate) fn numbered(kind: &[u8], number: u64) -> Vec<u8> {
    [kind, &number.to_be_bytes()].concat()
}

pub(crate) fn of_delivery(kind: &[u8], delivery: DeliveryId) -> Vec<u8> {
    [kind, &delivery.sequence.to_be_bytes(), &delivery.subscription.0.to_be_bytes()].concat()
}

pub(crate) fn of_subscription(kind: &[u8], id: SubscriptionId) -> Vec<u8> {
    [kind, &id.0.to_be_bytes()].concat()
}

pub(crate) fn of_attempt(delivery: DeliveryId, slot: u8) -> Vec<u8> {
    let mut key = of_delivery(TRIED, delivery);
    key.push(slot);
    key
}

pub(crate) fn in_bucket(bucket: u64, number: u64) -> Vec<u8> {
    [DEDUP, &bucket.to_be_bytes(), &number.to_be_bytes()].concat()
}

/// The number after the first byte of a key.
pub(crate) fn number_of(key: &[u8]) -> Option<u64> {
    let bytes = key.get(1..)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*bytes))
}

/// The bucket and the record number in the key of a dedup page.
pub(crate) fn bucket_of(key: &[u8]) -> Option<(u64, u64)> {
    Some((number_of(key)?, number_of(key.get(8..)?)?))
}

pub(crate) fn delivery_of(key: &[u8]) -> Option<DeliveryId> {
    let id: [u8; 4] = key.get(9..)?.try_into().ok()?;
    let subscription = SubscriptionId(u32::from_be_bytes(id));
    Some(DeliveryId { sequence: number_of(key)?, subscription })
}

pub(crate) fn attempt_of(key: &[u8]) -> Option<(DeliveryId, u8)> {
    let (slot, key) = key.split_last()?;
    Some((delivery_of(key)?, *slot))
}

pub(crate) fn subscription_of(key: &[u8]) -> Option<SubscriptionId> {
    let id: [u8; 4] = key.get(1..)?.try_into().ok()?;
    Some(SubscriptionId(u32::from_be_bytes(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_and_are_read_back() {
        let delivery = |sequence, id| DeliveryId { sequence, subscription: SubscriptionId(id) };
        assert!(numbered(HEADS, 255) < numbered(HEADS, 256));
        assert!(of_delivery(DEAD, delivery(1, 256)) < of_delivery(DEAD, delivery(2, 1)));
        assert_eq!(number_of(&numbered(HEADS, 77)), Some(77));
        assert_eq!(delivery_of(&of_delivery(RETRY, delivery(9, 8))), Some(delivery(9, 8)));
        assert_eq!(
            subscription_of(&of_subscription(TOMBSTONE, SubscriptionId(5))),
            Some(SubscriptionId(5))
        );
        assert_eq!(attempt_of(&of_attempt(delivery(9, 8), 7)), Some((delivery(9, 8), 7)));
        assert_eq!(attempt_of(&of_delivery(TRIED, delivery(9, 8))), None);
        assert_eq!(number_of(b"h"), None);
        assert_eq!(delivery_of(b"r12345678"), None);
    }
}

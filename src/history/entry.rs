//! What the history keeps, as it is stored, and the keys by which it is found. A key is a hash: a query that finds an
//! entry by it compares the entry itself.
//!
//! Layout of an entry: the envelope of `store::record`, version 2, then [`HistoryEntry`] in bincode 1.3.3 with
//! variable-length integers. Version 0 is an entry that was erased.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attempt::Reason;
use crate::event::{EventId, StoredEvent, WabaNumber};
use crate::store::record;
use crate::subscription::SubscriptionId;

use super::message_ids::message_ids;

/// The version of an entry, and of one that was erased.
const VERSION: u8 = 2;
const ERASED: u8 = 0;

/// How much of a payload is kept.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// An event as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AcceptedEntry {
    incarnation: u64,
    sequence: u64,
    pub(crate) account: String,
    pub(crate) event_type: String,
    /// 0 for none.
    number: u64,
    pub(crate) waba: Option<String>,
    /// The hash of its key; 0 for none.
    pub(crate) key_hash: u64,
    /// The hash of the number of its contact, where its key is the contact's user id; 0 for none.
    pub(crate) contact_number_hash: u64,
    /// The hash of its dedup key; 0 for none.
    pub(crate) dedup_hash: u64,
    pub(crate) accepted_at_ms: u64,
    pub(crate) targets: Vec<SubscriptionId>,
    /// Its first bytes.
    pub(crate) payload: Vec<u8>,
    /// The length of the whole payload.
    pub(crate) payload_length: u64,
}

/// An attempt that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttemptEntry {
    pub(crate) number: u32,
    pub(crate) at_ms: u64,
    pub(crate) took_ms: u64,
    pub(crate) status: Option<u16>,
    /// `None` for a success.
    pub(crate) reason: Option<Reason>,
    /// Whether another attempt follows.
    pub(crate) will_retry: bool,
    pub(crate) excerpt: Vec<u8>,
}

/// What happened to a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DeliveryStep {
    Attempt(AttemptEntry),
    /// It was given up without an attempt.
    GivenUp {
        at_ms: u64,
        reason: Reason,
    },
    /// The host no longer wants it.
    Cancelled {
        at_ms: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HistoryEntry {
    Accepted(AcceptedEntry),
    /// An event with the dedup key of this one was published.
    Duplicate {
        incarnation: u64,
        sequence: u64,
        at_ms: u64,
    },
    Delivery {
        incarnation: u64,
        sequence: u64,
        subscription: SubscriptionId,
        step: DeliveryStep,
    },
}

/// Hashes by which an event is found that the outbox does not store; 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HistoryHashes {
    /// Of its dedup key.
    pub(crate) dedup: u64,
    /// Of the number of its contact, where its key is the contact's user id.
    pub(crate) contact_number: u64,
}

/// An accepted event on its way to the history.
#[derive(Debug, Clone)]
pub(crate) struct HistoryEvent {
    pub(crate) event: Arc<StoredEvent>,
    pub(crate) targets: Arc<[SubscriptionId]>,
    pub(crate) hashes: HistoryHashes,
}

impl From<&HistoryEvent> for AcceptedEntry {
    fn from(accepted: &HistoryEvent) -> AcceptedEntry {
        let HistoryEvent { event, targets, hashes } = accepted;
        let kept = event.payload.len().min(PAYLOAD_BYTES_MAX);
        AcceptedEntry {
            incarnation: event.id.incarnation(),
            sequence: event.id.sequence(),
            account: event.account.to_string(),
            event_type: event.event_type.to_string(),
            number: event.number.map_or(0, WabaNumber::digits),
            waba: event.waba.clone(),
            key_hash: event.key_hash,
            contact_number_hash: hashes.contact_number,
            dedup_hash: hashes.dedup,
            accepted_at_ms: event.accepted_at_ms,
            targets: targets.to_vec(),
            payload: event.payload.get(..kept).unwrap_or_default().to_vec(),
            payload_length: event.payload.len() as u64,
        }
    }
}

impl AcceptedEntry {
    pub(crate) fn id(&self) -> EventId {
        EventId::new(self.incarnation, self.sequence)
    }

    pub(crate) fn number(&self) -> Option<WabaNumber> {
        WabaNumber::from_digits(self.number)
    }

    /// The hashes of its key, which is the contact for events of callbacks, and of the contact's number.
    pub(crate) fn contact_hashes(&self) -> impl Iterator<Item = u64> {
        [self.key_hash, self.contact_number_hash].into_iter().filter(|hash| *hash != 0)
    }
}

impl HistoryEntry {
    pub(crate) fn duplicate(original: EventId, at_ms: u64) -> HistoryEntry {
        let (incarnation, sequence) = (original.incarnation(), original.sequence());
        HistoryEntry::Duplicate { incarnation, sequence, at_ms }
    }

    pub(crate) fn delivery(
        event: EventId,
        subscription: SubscriptionId,
        step: DeliveryStep,
    ) -> HistoryEntry {
        let (incarnation, sequence) = (event.incarnation(), event.sequence());
        HistoryEntry::Delivery { incarnation, sequence, subscription, step }
    }

    /// The event that it belongs to.
    pub(super) fn event(&self) -> EventId {
        match self {
            HistoryEntry::Accepted(accepted) => accepted.id(),
            HistoryEntry::Duplicate { incarnation, sequence, .. }
            | HistoryEntry::Delivery { incarnation, sequence, .. } => {
                EventId::new(*incarnation, *sequence)
            }
        }
    }

    /// When it happened, in milliseconds since the Unix epoch.
    pub(super) fn at_ms(&self) -> u64 {
        match self {
            HistoryEntry::Accepted(accepted) => accepted.accepted_at_ms,
            HistoryEntry::Duplicate { at_ms, .. } => *at_ms,
            HistoryEntry::Delivery { step, .. } => match step {
                DeliveryStep::Attempt(attempt) => attempt.at_ms,
                DeliveryStep::GivenUp { at_ms, .. } | DeliveryStep::Cancelled { at_ms } => *at_ms,
            },
        }
    }

    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        record::encode(VERSION, self).ok()
    }

    /// `None` for an entry that was erased or cannot be read.
    pub(super) fn decode(sealed: &[u8]) -> Option<HistoryEntry> {
        record::decode(VERSION, sealed).ok()
    }

    /// The keys by which it is found.
    pub(super) fn keys(&self) -> Vec<u64> {
        let mut keys = vec![event_key(self.event())];
        if let HistoryEntry::Accepted(accepted) = self {
            keys.push(accepted_key(accepted.id()));
            let dedup = Some(accepted.dedup_hash).filter(|hash| *hash != 0).map(dedup_key);
            let searched = [every_key()].into_iter().chain(accepted.number().map(number_key));
            let searched = searched.chain(accepted.contact_hashes().map(contact_key)).chain(dedup);
            let searched =
                searched.chain(message_ids(&accepted.payload).into_iter().map(message_key));
            let account = Some(accepted.account.as_str());
            keys.extend(searched.map(|key| *keys_of(key, account).start()));
        }
        keys
    }
}

/// An erased entry in the place of one of this length.
pub(super) fn erased(length: usize) -> Vec<u8> {
    record::seal(ERASED, &vec![0; length.saturating_sub(record::ENVELOPE_BYTES)])
}

/// The bits of a key that say whose entry it is, so that a search of one account reads nothing of the others (I4, I9),
/// also if they publish what it searches for.
const ACCOUNT_BITS: u64 = (1 << 24) - 1;

pub(super) fn event_key(event: EventId) -> u64 {
    let (incarnation, sequence) =
        (event.incarnation().to_be_bytes(), event.sequence().to_be_bytes());
    key(b'e', &[incarnation, sequence].concat())
}

/// An event as it was accepted.
pub(super) fn accepted_key(event: EventId) -> u64 {
    !event_key(event)
}

/// All accepted events.
pub(super) fn every_key() -> u64 {
    key(b'*', &[])
}

/// The keys in the index of a key that is searched for: of one account, or of all.
pub(super) fn keys_of(key: u64, account: Option<&str>) -> RangeInclusive<u64> {
    match account {
        Some(account) => {
            let key = (key & !ACCOUNT_BITS) | account_tag(account);
            key..=key
        }
        None => (key & !ACCOUNT_BITS)..=(key | ACCOUNT_BITS),
    }
}

fn account_tag(account: &str) -> u64 {
    key(b'a', account.as_bytes()) & ACCOUNT_BITS
}

pub(super) fn number_key(number: WabaNumber) -> u64 {
    key(b'n', &number.digits().to_be_bytes())
}

pub(super) fn contact_key(key_hash: u64) -> u64 {
    key(b'c', &key_hash.to_be_bytes())
}

pub(super) fn dedup_key(dedup_hash: u64) -> u64 {
    key(b'd', &dedup_hash.to_be_bytes())
}

pub(super) fn message_key(id: &[u8]) -> u64 {
    key(b'm', id)
}

/// The hash of a dedup key, for [`HistoryEvent`].
pub(crate) fn dedup_hash(text: &str) -> u64 {
    key(b'D', text.as_bytes()).max(1)
}

/// FNV-1a with a final mix, so that the keys of an index are spread evenly. It is stored, so it must not change.
fn key(kind: u8, bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = std::iter::once(kind).chain(bytes.iter().copied()).fold(0xcbf2_9ce4_8422_2325, mix);
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

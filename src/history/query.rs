//! Which accepted events a search is for. The most selective part that is given decides which key of the index is
//! read; the others are compared with each entry.

use std::ops::RangeInclusive;

use super::entry::{self, AcceptedEntry};
use crate::event::WabaNumber;
use crate::text::contains;

/// Selects accepted events that match everything that is set.
#[derive(Debug, Clone, Default)]
pub(crate) struct HistoryQuery {
    /// The ids of an account, and of those that became it.
    pub(crate) accounts: Option<Vec<String>>,
    /// A part of the type, in any case.
    pub(crate) event_type: Option<String>,
    pub(crate) number: Option<WabaNumber>,
    /// The hash of the contact.
    pub(crate) key_hash: Option<u64>,
    /// Leaves out events that only their contact's number finds by `key_hash`, and events whose contact's number has
    /// this hash.
    pub(crate) without_contact: Option<u64>,
    pub(crate) dedup_hash: Option<u64>,
    pub(crate) message_id: Option<String>,
    pub(crate) since_ms: Option<u64>,
}

impl HistoryQuery {
    /// The keys of the index to read.
    pub(super) fn keys(&self) -> RangeInclusive<u64> {
        let by_message = || self.message_id.as_ref().map(|id| entry::message_key(id.as_bytes()));
        let key = self.dedup_hash.map(entry::dedup_key).or_else(by_message);
        let key = key.or_else(|| self.key_hash.map(entry::contact_key));
        let key = key.or_else(|| self.number.map(entry::number_key));
        let account = match self.accounts.as_deref() {
            Some([account]) => Some(account.as_str()),
            _ => None,
        };
        entry::keys_of(key.unwrap_or_else(entry::every_key), account)
    }

    pub(super) fn since_ms(&self) -> u64 {
        self.since_ms.unwrap_or(0)
    }

    /// Whether an event matches.
    pub(super) fn admits(&self, accepted: &AcceptedEntry) -> bool {
        let has_id = |id: &String| {
            let (id, payload) = (id.as_bytes(), &accepted.payload);
            payload.windows(id.len().max(1)).any(|part| part == id)
        };
        self.accounts.as_ref().is_none_or(|ids| ids.contains(&accepted.account))
            && self.event_type.as_ref().is_none_or(|part| contains(&accepted.event_type, part))
            && self.number.is_none_or(|number| accepted.number() == Some(number))
            && self.key_hash.is_none_or(|hash| accepted.contact_hashes().any(|one| one == hash))
            && self.without_contact.is_none_or(|other| {
                self.key_hash == Some(accepted.key_hash) && accepted.contact_number_hash != other
            })
            && self.dedup_hash.is_none_or(|hash| hash == accepted.dedup_hash)
            && self.since_ms.is_none_or(|since_ms| since_ms <= accepted.accepted_at_ms)
            && self.message_id.as_ref().is_none_or(has_id)
    }
}

//! Reports to the history what happens to deliveries, and erases from it what is purged. Only a purge waits for the
//! history.

use std::collections::BTreeSet;
use std::io;

use super::publish::order_hash;
use super::purge::PurgeFilter;
use super::recent_attempts::{RecentAttempt, RecentOutcome};
use super::shared::Shared;
use crate::dead_letter::StoredDeadLetter;
use crate::error::Result;
use crate::history::{AttemptEntry, DeliveryStep, HistoryEntry, HistoryQuery};
use crate::subscription::SubscriptionId;

/// How many events of a contact are read for the other texts that name it.
const CONTACT_EVENTS_MAX: usize = 1_000;

impl Shared {
    pub(super) fn note_attempts(&self, attempts: Vec<(SubscriptionId, RecentAttempt)>) {
        let Some(history) = &self.history else { return };
        let entry = |(subscription, attempt): (SubscriptionId, RecentAttempt)| {
            let step = DeliveryStep::Attempt(AttemptEntry {
                number: attempt.number,
                at_ms: attempt.at_ms,
                took_ms: u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
                status: attempt.status,
                reason: attempt.reason,
                will_retry: attempt.outcome == RecentOutcome::Retry,
                excerpt: attempt.excerpt,
            });
            HistoryEntry::delivery(attempt.event, subscription, step)
        };
        history.record(attempts.into_iter().map(entry).collect());
    }

    pub(super) fn note_cancelled(&self, subscription: SubscriptionId, sequences: &[u64]) {
        let Some(history) = &self.history else { return };
        let step = DeliveryStep::Cancelled { at_ms: self.clock.wall_ms() };
        let entry = |sequence: &u64| {
            HistoryEntry::delivery(self.outbox.id_of(*sequence), subscription, step.clone())
        };
        history.record(sequences.iter().map(entry).collect());
    }

    pub(super) fn note_given_up(&self, letters: &[StoredDeadLetter]) {
        let Some(history) = &self.history else { return };
        let entry = |letter: &StoredDeadLetter| {
            let step =
                DeliveryStep::GivenUp { at_ms: letter.at_wall_ms, reason: letter.reason.clone() };
            let event = self.outbox.id_of(letter.delivery.sequence);
            HistoryEntry::delivery(event, letter.delivery.subscription, step)
        };
        history.record(letters.iter().map(entry).collect());
    }

    /// The hashes of the keys under which the events of a contact are kept: of the text itself, and of the user id or
    /// the number that callbacks in the history show with it.
    pub(super) fn contact_hashes(
        &self,
        contact: &str,
        account: Option<&str>,
    ) -> Result<BTreeSet<u64>> {
        let hash = order_hash(contact);
        let mut hashes = BTreeSet::from([hash]);
        if let Some(history) = &self.history {
            let accounts = account.map(|account| self.accounts.ids_of(account));
            let query = HistoryQuery { accounts, key_hash: Some(hash), ..HistoryQuery::default() };
            let found = history.find(&query, None, CONTACT_EVENTS_MAX, CONTACT_EVENTS_MAX);
            let found = found.map_err(|error| self.unreadable_history(error))?;
            hashes.extend(found.entries.iter().flat_map(|(_, event)| event.contact_hashes()));
        }
        Ok(hashes)
    }

    /// Erases what the history keeps of purged events of a number, and of a contact if there are hashes of its keys.
    /// Returns how many events.
    pub(super) fn purge_history(
        &self,
        filter: &PurgeFilter,
        contact: Option<&BTreeSet<u64>>,
    ) -> Result<u64> {
        let Some(history) = &self.history else { return Ok(0) };
        let query = HistoryQuery {
            accounts: filter.account.as_deref().map(|account| self.accounts.ids_of(account)),
            number: filter.number,
            ..HistoryQuery::default()
        };
        let queries = match contact {
            None => vec![query],
            Some(hashes) => {
                let of = |hash: &u64| HistoryQuery { key_hash: Some(*hash), ..query.clone() };
                hashes.iter().map(of).collect()
            }
        };
        let purged = queries.into_iter().map(|query| history.purge(query));
        purged.sum::<io::Result<u64>>().map_err(|error| self.unreadable_history(error))
    }
}

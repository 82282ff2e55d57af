//! Reports to the history what happens to deliveries, and erases from it what is purged. Only a purge waits for the
//! history.

use std::collections::BTreeSet;
use std::io;

use super::recent_attempts::{RecentAttempt, RecentOutcome};
use crate::attempt::StoredDeadLetter;
use crate::engine::deliveries::purge::PurgeFilter;
use crate::engine::publish::order_hash;
use crate::engine::shared::Shared;
use crate::error::Result;
use crate::history::{AttemptEntry, DeliveryStep, HistoryEntry, HistoryQuery};
use crate::subscription::SubscriptionId;

/// How many events of a contact are read at once for the other texts that name it.
const CONTACT_PAGE_EVENTS: usize = 1_000;

impl Shared {
    pub(in crate::engine) fn note_attempts(&self, attempts: Vec<(SubscriptionId, RecentAttempt)>) {
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

    pub(in crate::engine) fn note_cancelled(
        &self,
        subscription: SubscriptionId,
        sequences: &[u64],
    ) {
        let Some(history) = &self.history else { return };
        let step = DeliveryStep::Cancelled { at_ms: self.clock.wall_ms() };
        let entry = |sequence: &u64| {
            HistoryEntry::delivery(self.outbox.id_of(*sequence), subscription, step.clone())
        };
        history.record(sequences.iter().map(entry).collect());
    }

    pub(in crate::engine) fn note_given_up(&self, letters: &[StoredDeadLetter]) {
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
    /// the number that callbacks in the history show with it. Reads at most `pages_max` pages of the history.
    pub(in crate::engine) fn contact_hashes(
        &self,
        contact: &str,
        account: Option<&str>,
        pages_max: usize,
    ) -> Result<BTreeSet<u64>> {
        let hash = order_hash(contact);
        let mut hashes = BTreeSet::from([hash]);
        if let Some(history) = &self.history {
            let accounts = account.map(|account| self.accounts.ids_of(account));
            let query = HistoryQuery { accounts, key_hash: Some(hash), ..HistoryQuery::default() };
            let mut before = None;
            for _ in 0..pages_max {
                let found = history.find(&query, before, CONTACT_PAGE_EVENTS, CONTACT_PAGE_EVENTS);
                let found = found.map_err(|error| self.unreadable_history(error))?;
                hashes.extend(found.entries.iter().flat_map(|(_, event)| event.contact_hashes()));
                before = found.next;
                if before.is_none() {
                    break;
                }
            }
        }
        Ok(hashes)
    }

    /// Erases what the history keeps of purged events of a number, and of a contact if there are hashes of its keys.
    /// Returns how many events.
    pub(in crate::engine) fn purge_history(
        &self,
        filter: &PurgeFilter,
        contact: Option<&BTreeSet<u64>>,
    ) -> Result<u64> {
        let Some(history) = &self.history else { return Ok(0) };
        let passes = self.history_passes(filter, contact);
        let purged = passes.into_iter().map(|query| history.purge(query));
        purged.sum::<io::Result<u64>>().map_err(|error| self.unreadable_history(error))
    }

    /// What to erase, in order. The events that show another text alone go first: if the purge is interrupted, those
    /// that link it with the contact's own text are left, and a repeated purge finds it again. An event that shows the
    /// number with another user id is of another contact.
    fn history_passes(
        &self,
        filter: &PurgeFilter,
        contact: Option<&BTreeSet<u64>>,
    ) -> Vec<HistoryQuery> {
        let query = HistoryQuery {
            accounts: filter.account.as_deref().map(|account| self.accounts.ids_of(account)),
            number: filter.number,
            ..HistoryQuery::default()
        };
        let own = filter.contact.as_deref().map(order_hash);
        let others = contact.into_iter().flatten().filter(|hash| Some(**hash) != own);
        let other = |hash: &u64| HistoryQuery {
            key_hash: Some(*hash),
            without_contact: own,
            ..query.clone()
        };
        let mut passes: Vec<_> = others.map(other).collect();
        passes.push(HistoryQuery { key_hash: own, ..query });
        passes
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Limits};
    use crate::engine::{Engine, EventQuery};
    use crate::event::Event;

    const NUMBER: &str = "919812300001";
    const BYSTANDER: &str = "919812300002";

    fn opened(directory: &Path) -> Engine {
        let limits = Limits::default().history_bytes_max(1 << 24);
        let engine = Engine::open(Config::new(directory).limits(limits)).unwrap();
        publish(&engine, &[(BYSTANDER, None)]);
        engine
    }

    /// Publishes events with these keys, and these numbers of their contact.
    fn publish(engine: &Engine, events: &[(&str, Option<&str>)]) {
        let event = |(key, number): &(&str, Option<&str>)| Event {
            contact_number: number.map(str::to_owned),
            ..Event::new("MESSAGE_RECEIVED", "{}").key(*key)
        };
        for receipt in events.iter().map(event).map(|event| engine.publish(event).unwrap()) {
            receipt.wait().unwrap();
        }
    }

    fn of(contact: &str) -> PurgeFilter {
        PurgeFilter::default().contact(contact)
    }

    fn found(engine: &Engine, query: &EventQuery) -> usize {
        engine.find_events(query, None, 10).unwrap().items.len()
    }

    #[test]
    fn a_link_between_texts_is_found_behind_many_events() {
        let directory = tempfile::tempdir().unwrap();
        let engine = opened(directory.path());
        publish(&engine, &[("IN.1", None), ("IN.1", Some(NUMBER))]);
        publish(&engine, &[(NUMBER, None); 1_000]);
        assert_eq!(engine.purge(&of(NUMBER)).unwrap().history_events, 1_002);
        assert_eq!(found(&engine, &EventQuery::default()), 1, "the bystander's");
    }

    #[test]
    fn an_interrupted_purge_can_be_repeated() {
        for (contact, passes) in [(NUMBER, 0), (NUMBER, 1), ("IN.1", 0), ("IN.1", 1)] {
            let directory = tempfile::tempdir().unwrap();
            let engine = opened(directory.path());
            publish(&engine, &[("IN.1", None), (NUMBER, None), ("IN.1", Some(NUMBER))]);
            let (shared, filter) = (&engine.shared, of(contact));
            let history = shared.history.as_ref().unwrap();
            history.flush();
            let hashes = shared.contact_hashes(contact, None, 1).unwrap();
            for pass in shared.history_passes(&filter, Some(&hashes)).into_iter().take(passes) {
                history.purge(pass).unwrap();
            }
            engine.purge(&filter).unwrap();
            let left = found(&engine, &EventQuery::default());
            assert_eq!(left, 1, "the bystander's, {contact} after {passes}");
        }
    }

    #[test]
    fn a_user_id_does_not_reach_others_with_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let engine = opened(directory.path());
        publish(&engine, &[("IN.1", Some(NUMBER)), (NUMBER, None), ("IN.2", Some(NUMBER))]);
        assert_eq!(engine.purge(&of("IN.1")).unwrap().history_events, 2);
        assert_eq!(found(&engine, &EventQuery::default().contact("IN.2")), 1);
        assert_eq!(engine.purge(&of(NUMBER)).unwrap().history_events, 1, "of all that had it");
    }
}

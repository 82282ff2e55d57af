//! Ends what the host no longer wants: discards dead letters, cancels owed deliveries, and purges everything that
//! is kept of a contact, a number or an account. Each end is durable when the call returns, counted and announced
//! (I8, I13). The payload of an event that is owed to nobody and has no dead letter is removed with its
//! generation.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::MutexGuard;
use roaring::RoaringTreemap;

use super::DeliveryFilter;
use super::dead_letter_filter::{DeadLetterFilter, DeadLetterId};
use crate::attempt::{DeadLetter, DeliveryId, Record};
use crate::engine::Engine;
use crate::engine::filter::filter;
use crate::engine::shared::{DispatchState, Shared};
use crate::error::{Error, Result};
use crate::event::WabaNumber;
use crate::history::History;
use crate::notice::Notice;
use crate::outbox::HeadOwner;
use crate::subscription::SubscriptionId;

/// How many deliveries are cancelled under one lock, or discarded in one group.
const ENDED_AT_ONCE: usize = 256;

filter! {
    /// Selects what is purged: the events that match everything that is set. At least one part must be set.
    ///
    /// ```
    /// use wabahook::PurgeFilter;
    /// let contact = PurgeFilter::default().account("acme").contact("919812345678");
    /// assert_eq!(contact.number, None);
    /// ```
    pub struct PurgeFilter {
        /// Only events of this account, by its id or its name.
        account: String, given impl Into<String>;
        /// Only events of this WABA number.
        number: WabaNumber, given WabaNumber;
        /// Only events with this ordering key, which is the contact for events of callbacks: its user id where they show
        /// one, else its number. With a [history](crate::Limits::history_bytes_max) either finds both, where a callback
        /// showed both. A user id also ends the events that show such a number without a user id, and a number ends
        /// those of every user id that a callback showed it with.
        contact: String, given impl Into<String>;
    }
}

/// What a purge ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// Owed deliveries and dead letters.
    pub deliveries: u64,
    /// Events that were erased from the [history](crate::Limits::history_bytes_max).
    pub history_events: u64,
}

impl PurgeFilter {
    fn is_empty(&self) -> bool {
        *self == PurgeFilter::default()
    }

    /// `account` is the one that now has what belonged to the owner's; `contact` has the hashes of the contact's keys.
    fn admits(&self, owner: &HeadOwner, account: &str, contact: Option<&BTreeSet<u64>>) -> bool {
        self.account.as_ref().is_none_or(|wanted| wanted == account)
            && self.number.is_none_or(|number| owner.number == Some(number))
            && contact.is_none_or(|hashes| hashes.contains(&owner.key_hash))
    }
}

impl Engine {
    /// Discards all dead letters that match a filter, and returns how many. They are no longer listed and cannot
    /// be replayed. Durable when it returns: blocks on one sync for every few hundred.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Damaged`] when a letter cannot be read; then none is discarded.
    /// [`Error::Refused`] or [`Error::Unknown`] while the device refuses; those begun are then discarded when the
    /// device takes writes.
    ///
    /// ```
    /// # use wabahook::{Config, Engine};
    /// use wabahook::DeadLetterFilter;
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// assert_eq!(engine.discard_matching(&DeadLetterFilter::default().reason("status:404"))?, 0);
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard_matching(&self, filter: &DeadLetterFilter) -> Result<u64> {
        self.shared.check_open()?;
        self.shared.settle_ends();
        let letters = self.shared.all_dead_letters(filter)?;
        self.shared.discard(letters.iter().map(DeadLetter::id))
    }

    /// Discards the given dead letters. Letters that do not match the filter, or were removed or replayed before,
    /// are ignored and not counted.
    ///
    /// # Errors
    /// As [`discard_matching`](Engine::discard_matching).
    pub fn discard(&self, ids: &[DeadLetterId], filter: &DeadLetterFilter) -> Result<u64> {
        let meant = self.shared.letters_among(ids, filter)?;
        self.shared.discard(meant.into_iter())
    }

    /// Cancels the owed deliveries that match a filter, and returns how many. An attempt in flight is not called
    /// back; its delivery counts as cancelled. Deliveries that depended on a cancelled one become dead letters
    /// (`gate`). Dead letters are left as they are. Durable when it returns: blocks on a sync.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unknown`] while the device refuses; they are then cancelled in this engine,
    /// and durably when the device takes writes.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Subscription};
    /// use wabahook::DeliveryFilter;
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?)?;
    /// assert_eq!(engine.cancel_matching(&DeliveryFilter::default().subscription(crm))?, 0);
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A delivery that fits when it is found is cancelled also if it changes its state in that moment.
    pub fn cancel_matching(&self, filter: &DeliveryFilter) -> Result<u64> {
        self.shared.check_open()?;
        let filter = &filter.resolved(self.accounts());
        let cancelled = self.shared.cancel_matching(filter)?;
        self.shared.outbox.flush()?;
        Ok(cancelled)
    }

    /// Counts the deliveries that [`cancel_matching`](Engine::cancel_matching) would cancel now.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Damaged`] when a delivery must be read for the filter and cannot be.
    pub fn count_cancellable(&self, filter: &DeliveryFilter) -> Result<u64> {
        self.shared.check_open()?;
        let filter = &filter.resolved(self.accounts());
        let mut count = 0;
        self.shared.each_slice(filter, |_, sequences| count += sequences.len() as u64)?;
        Ok(count)
    }

    /// Purges everything that is kept of a contact, a number or an account: cancels its owed deliveries, discards
    /// its dead letters, erases its history and forgets what receivers answered. Covers what was published before the
    /// call. Durable when it returns: blocks on a few syncs and reads the head of everything owed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty filter; otherwise as [`discard_matching`](Engine::discard_matching) and
    /// [`cancel_matching`](Engine::cancel_matching).
    ///
    /// ```
    /// # use wabahook::{Config, Engine};
    /// use wabahook::PurgeFilter;
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let purged = engine.purge(&PurgeFilter::default().contact("919812345678"))?;
    /// assert_eq!((purged.deliveries, purged.history_events), (0, 0));
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn purge(&self, filter: &PurgeFilter) -> Result<Purged> {
        self.shared.check_open()?;
        let filter = &filter.resolved(self.accounts());
        if filter.is_empty() {
            return Err(Error::invalid("filter", "nothing", "an account, a number or a contact"));
        }
        let shared = &self.shared;
        // After this, everything published so far is owed, and in the history.
        shared.outbox.flush()?;
        shared.history.iter().for_each(History::flush);
        let account = filter.account.as_deref();
        let contact = filter.contact.as_deref();
        let contact = contact.map(|contact| shared.contact_hashes(contact, account, usize::MAX));
        let contact = contact.transpose()?;
        let mut sequences = shared.dispatch_state.lock().dispatcher.owed_sequences();
        let letters = shared.outbox.letters_before(None, None, usize::MAX);
        sequences.extend(letters.iter().map(|(_, delivery)| delivery.sequence));
        let meant = shared.outbox.events_of(&sequences, |owner| {
            filter.admits(owner, &shared.accounts.successor(&owner.account), contact.as_ref())
        })?;
        let cancelled = shared.cancel_events(&meant);
        // So that the dead letters of deliveries that depended on a cancelled one are found.
        shared.outbox.flush()?;
        let letters = shared.outbox.letters_before(None, None, usize::MAX);
        let letters = letters.into_iter().map(|(_, delivery)| delivery);
        let letters: Vec<_> = letters.filter(|one| meant.contains(one.sequence)).collect();
        let deliveries = cancelled + shared.discard_deliveries(&letters)?;
        shared.recent_attempts.forget_excerpts(|event| meant.contains(event.sequence()));
        let history_events = shared.purge_history(filter, contact.as_ref())?;
        shared.counters.purged.add(deliveries);
        if deliveries > 0 {
            shared.notices.send(&Notice::Purged { events: meant.len(), deliveries });
        }
        Ok(Purged { deliveries, history_events })
    }
}

impl Shared {
    fn discard(&self, letters: impl Iterator<Item = DeadLetterId>) -> Result<u64> {
        // An event of another outbox has no dead letters here.
        let here = letters.filter_map(|id| self.delivery_of(id.event, id.subscription).ok());
        let discarded = self.discard_deliveries(&here.collect::<Vec<_>>())?;
        if discarded > 0 {
            self.notices.send(&Notice::DeadLettersDiscarded(discarded));
        }
        Ok(discarded)
    }

    fn discard_deliveries(&self, deliveries: &[DeliveryId]) -> Result<u64> {
        let mut discarded = 0;
        for some in deliveries.chunks(ENDED_AT_ONCE) {
            let ended = self.outbox.wait(self.outbox.discard(some.to_vec()))?;
            self.counters.letters_discarded.add(ended);
            discarded += ended;
        }
        Ok(discarded)
    }

    /// Deliveries are listed and read without holding the lock until they are cancelled, so one that fails meanwhile is
    /// cancelled with the others.
    fn cancel_matching(&self, filter: &DeliveryFilter) -> Result<u64> {
        let mut counts = BTreeMap::new();
        self.each_slice(filter, |id, sequences| {
            *counts.entry(id).or_default() +=
                self.cancel(self.dispatch_state.lock(), id, sequences);
        })?;
        counts.iter().for_each(|(id, count)| self.tell_cancelled(*id, *count));
        Ok(counts.values().sum())
    }

    /// Visits the owed deliveries that match a filter, some of a subscription at a time.
    fn each_slice(
        &self,
        filter: &DeliveryFilter,
        mut visit: impl FnMut(SubscriptionId, &[u64]),
    ) -> Result<()> {
        let all = self.subscriptions.read().all();
        for one in all.iter().filter(|one| filter.admits_subscription(one)) {
            let mut from = 0;
            loop {
                let stages = |stage| filter.wants_stage(stage);
                let slice = self.dispatch_state.lock().dispatcher.listed(
                    one.id,
                    from,
                    stages,
                    ENDED_AT_ONCE,
                );
                let Some(last) = slice.last() else { break };
                from = last.sequence.saturating_add(1);
                let sequences = match filter.needs_reading() {
                    true => self.admitted(filter, one.id, slice)?,
                    false => slice.iter().map(|listed| listed.sequence).collect(),
                };
                visit(one.id, &sequences);
            }
        }
        Ok(())
    }

    /// Cancels deliveries and queues their ends under one lock. Returns how many were owed.
    fn cancel(
        &self,
        mut state: MutexGuard<'_, DispatchState>,
        id: SubscriptionId,
        sequences: &[u64],
    ) -> u64 {
        let wall_ms = self.clock.wall_ms();
        let (mut cancelled, mut gated) = (Vec::new(), Vec::new());
        for sequence in sequences {
            let delivery = DeliveryId { sequence: *sequence, subscription: id };
            let Some(records) = state.dispatcher.cancel(delivery, wall_ms) else { continue };
            cancelled.push(*sequence);
            gated.extend(records.iter().filter_map(Record::letter).cloned());
            self.outbox.record_together(records);
        }
        self.counters.cancelled.add(cancelled.len() as u64);
        self.counters.dead.add(gated.len() as u64);
        self.wake_workers(&mut state);
        drop(state);
        self.outbox.release_cached(&cancelled);
        self.note_cancelled(id, &cancelled);
        self.tell_given_up(gated);
        cancelled.len() as u64
    }

    fn tell_cancelled(&self, subscription: SubscriptionId, deliveries: u64) {
        if deliveries > 0 {
            tracing::info!(%subscription, deliveries, "deliveries cancelled");
            self.notices.send(&Notice::Cancelled { subscription, deliveries });
        }
    }

    fn cancel_events(&self, events: &RoaringTreemap) -> u64 {
        let owed = self.dispatch_state.lock().dispatcher.owed_among(events);
        let mut owed: Vec<_> = owed.into_iter().collect();
        // Ordered, so that a simulation repeats exactly.
        owed.sort_unstable_by_key(|(id, _)| *id);
        let mut cancelled = 0;
        for (id, sequences) in owed {
            let sequences: Vec<u64> = sequences.into_iter().collect();
            let some = sequences.chunks(ENDED_AT_ONCE);
            cancelled +=
                some.map(|some| self.cancel(self.dispatch_state.lock(), id, some)).sum::<u64>();
        }
        cancelled
    }
}

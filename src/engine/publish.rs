//! Checks events, matches them to subscriptions and queues them for the outbox. Nothing here waits (I7): an
//! event that is refused or does not fit comes back whole, and was not stored.

use std::slice;
use std::sync::Arc;

use smallvec::SmallVec;

use super::shared::Shared;
use crate::account::{AccountInfo, AccountLimits};
use crate::error::{Error, Result};
use crate::event::{Accepted, Event, EventId, EventType, PublishError, StoredEvent, WabaNumber};
use crate::history::{HistoryHashes, dedup_hash};
use crate::outbox::{
    AccountShare, QueueClaim, RoutedEvent, Submission, SubmissionSender, dedup_key_of,
};
use crate::receipt::Receipt;
use crate::routing::{ConditionMatch, MatchQuery};

/// The parts of an event that checking resolved.
pub(super) struct CheckedEvent {
    account: Arc<AccountInfo>,
    kind: EventType,
    number: Option<WabaNumber>,
    share: Arc<AccountShare>,
}

impl CheckedEvent {
    pub(super) fn query<'q>(&'q self, event: &Event) -> MatchQuery<'q> {
        // The number decides; the WABA only if there is no number.
        let waba_numbers = match (self.number, &event.waba) {
            (None, Some(waba)) => self.account.numbers_of_waba(waba),
            _ => &[],
        };
        let (number, is_part) = (self.number, event.is_part);
        MatchQuery { account: self.account.id(), kind: &self.kind, number, waba_numbers, is_part }
    }
}

/// The part of a submission that belongs to one account.
struct SubmittedSize<'a> {
    account: &'a AccountInfo,
    share: &'a Arc<AccountShare>,
    /// The limits that were set for the account.
    limits: AccountLimits,
    events: usize,
    bytes: usize,
}

/// The longest key, dedup key or WABA id, in bytes. Message ids are shorter than 200.
const TEXT_BYTES_MAX: usize = 512;

impl Shared {
    pub(super) fn publish(&self, event: Event) -> Result<Receipt, PublishError> {
        let checked = self.check_open().and_then(|()| self.check(&event));
        let admitted = checked.and_then(|checked| {
            let claims = self.take_room(slice::from_ref(&checked), slice::from_ref(&event))?;
            Ok((checked, claims))
        });
        let (checked, claims) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return Err(PublishError::new(error, vec![event])),
        };
        let (promised, receipt) = self.outbox.promise();
        let events = [self.route(checked, event)].into();
        self.outbox.submit(Submission { events, claims, sender: SubmissionSender::One(promised) });
        Ok(receipt)
    }

    pub(super) fn publish_many(
        &self,
        events: Vec<Event>,
    ) -> Result<Receipt<Vec<Accepted>>, PublishError> {
        let admitted = self.check_many(&events).and_then(|checked| {
            let claims = self.take_room(&checked, &events)?;
            Ok((checked, claims))
        });
        let (checked, claims) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return Err(PublishError::new(error, events)),
        };
        let (promised, receipt) = self.outbox.promise();
        let checked = checked.into_iter().zip(events);
        let events = checked.map(|(checked, event)| self.route(checked, event)).collect();
        self.outbox.submit(Submission { events, claims, sender: SubmissionSender::Many(promised) });
        Ok(receipt)
    }

    /// Takes room for checked events, or refuses those that never fit.
    fn take_room(
        &self,
        checked: &[CheckedEvent],
        events: &[Event],
    ) -> Result<SmallVec<[QueueClaim; 1]>> {
        let sizes = self.sizes(checked, events);
        self.check_fits(&sizes)?;
        self.admit(&sizes).inspect_err(|_| self.counters.busy.add(events.len() as u64))
    }

    /// Takes room for a submission: in the limits of each of its accounts, and in the queue that all share. An account
    /// at its limit takes none of the queue, not even for a moment.
    fn admit(&self, sizes: &[SubmittedSize<'_>]) -> Result<SmallVec<[QueueClaim; 1]>> {
        let events = sizes.iter().map(|size| size.events).sum();
        let bytes = sizes.iter().map(|size| size.bytes).sum();
        let busy = |reason| Error::Busy { reason };
        self.outbox.check_room(events, bytes).map_err(busy)?;
        let (left, now_ms) = (self.outbox.shared_room(), self.clock.monotonic_ms());
        let claim = |size: &SubmittedSize<'_>| {
            let asked = (size.events, size.bytes);
            self.shares.admit(size.share, &size.limits, asked, left, now_ms)
        };
        let claims = sizes.iter().map(claim).collect::<Result<_>>()?;
        self.outbox.admit(events, bytes).map_err(busy)?;
        Ok(claims)
    }

    fn check_many(&self, events: &[Event]) -> Result<Vec<CheckedEvent>> {
        self.check_open()?;
        let checked = events.iter().enumerate().map(|(place, event)| {
            self.check(event).map_err(|error| error.within(&format!("events[{place}]")))
        });
        checked.collect()
    }

    /// The part of each account in a submission. Most submissions have one account.
    fn sizes<'a>(
        &self,
        checked: &'a [CheckedEvent],
        events: &[Event],
    ) -> SmallVec<[SubmittedSize<'a>; 1]> {
        let mut sizes = SmallVec::<[SubmittedSize<'a>; 1]>::new();
        for (checked, event) in checked.iter().zip(events) {
            let (account, share) = (&*checked.account, &checked.share);
            let bytes = event.payload.len();
            match sizes.iter_mut().find(|size| size.account.id == account.id) {
                Some(size) => {
                    size.events += 1;
                    size.bytes += bytes;
                }
                None => {
                    let limits = self.shares.set_limits(share);
                    sizes.push(SubmittedSize { account, share, limits, events: 1, bytes });
                }
            }
        }
        sizes
    }

    fn check_fits(&self, sizes: &[SubmittedSize<'_>]) -> Result<()> {
        let events = sizes.iter().map(|size| size.events).sum::<usize>();
        let bytes = sizes.iter().map(|size| size.bytes).sum::<usize>();
        let limits = &self.limits;
        let bounds = [
            ("events", events, limits.outbox_events_max.min(limits.queue_events_max as u64)),
            ("events.payload", bytes, limits.outbox_bytes_max.min(limits.queue_bytes_max as u64)),
        ];
        for (field, given, limit) in bounds {
            let given = given as u64;
            if given > limit {
                return Err(Error::TooLarge { field: field.to_owned(), given, limit });
            }
        }
        for size in sizes {
            self.shares.check_fits(&size.limits, size.events, size.bytes)?;
        }
        Ok(())
    }

    pub(super) fn check(&self, event: &Event) -> Result<CheckedEvent> {
        let account = self.accounts.resolve(event.account.as_deref())?;
        let kind = self.catalogue.canonical(&event.kind)?;
        let number = match &event.number {
            None => None,
            Some(Ok(number)) => Some(*number),
            Some(Err(given)) => return Err(Error::invalid("number", given, WabaNumber::EXPECTED)),
        };
        if let Some(number) = number
            && !self.accounts.may_publish_for(&account, number, event.waba.as_deref())
        {
            return Err(Error::forbidden("number", number));
        }
        if let Some(waba) = &event.waba
            && !self.accounts.may_use_waba(&account, waba)
        {
            return Err(Error::forbidden("waba", waba));
        }
        let texts = [("waba", &event.waba), ("key", &event.key), ("dedup_key", &event.dedup_key)];
        for (field, text) in texts {
            check_text(field, text.as_deref())?;
        }
        let (given, limit) = (event.payload.len(), self.limits.payload_bytes_max);
        if given > limit {
            let (given, limit) = (given as u64, limit as u64);
            return Err(Error::TooLarge { field: "payload".to_owned(), given, limit });
        }
        let share = self.shares.of(account.id());
        Ok(CheckedEvent { account, kind, number, share })
    }

    fn route(&self, checked: CheckedEvent, event: Event) -> RoutedEvent {
        // The payload is read after the lock is released.
        let matched = self.subscriptions.read().matches(&checked.query(&event));
        let ConditionMatch { targets, is_unparsable } = matched.evaluate(&event.payload);
        self.counters.condition_unparsable.add(u64::from(is_unparsable));
        let CheckedEvent { account, kind, number, share } = checked;
        share.note_accepted(targets.is_empty());
        let traced = self.history.as_ref().map(|_| HistoryHashes {
            dedup: event.dedup_key.as_deref().map_or(0, dedup_hash),
            contact_number: event.contact_number.as_deref().map_or(0, order_hash),
        });
        let dedup = event.dedup_key.map(|key| dedup_key_of(account.id(), kind.as_str(), &key));
        let event = StoredEvent {
            id: EventId::new(0, 0),
            account: account.id.shared(),
            event_type: kind,
            number,
            waba: event.waba,
            key_hash: event.key.as_deref().map_or(0, order_hash),
            accepted_at_ms: 0,
            payload: event.payload,
        };
        RoutedEvent { event, dedup, targets, traced }
    }
}

fn check_text(field: &str, text: Option<&str>) -> Result<()> {
    match text {
        Some(text) if text.is_empty() || text.len() > TEXT_BYTES_MAX => {
            let given = format!("{} bytes", text.len());
            Err(Error::invalid(field, given, format!("1 to {TEXT_BYTES_MAX} bytes, or none")))
        }
        _ => Ok(()),
    }
}

/// The FNV-1a hash of an ordering key. It is stored, so it must never change. Two keys that collide are
/// ordered as one. 0 means no key.
pub(super) fn order_hash(key: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    key.bytes().fold(0xcbf2_9ce4_8422_2325, mix).max(1)
}

//! Checks events, matches them to subscriptions and queues them for the outbox. Nothing here waits (I7): an
//! event that is refused or does not fit comes back whole, and was not stored.

use super::shared::Shared;
use crate::account::Account;
use crate::error::{Error, Result};
use crate::event::{Accepted, Event, EventType, PublishError, WabaNumber};
use crate::outbox::{RoutedEvent, Submission, SubmissionSender, dedup_key_of};
use crate::receipt::Receipt;
use crate::routing::MatchQuery;

/// The parts of an event that checking resolved.
struct CheckedEvent<'a> {
    account: &'a Account,
    kind: EventType,
    number: Option<WabaNumber>,
}

/// The longest key, dedup key or WABA id, in bytes. Message ids are shorter than 200.
const TEXT_BYTES_MAX: usize = 512;

impl Shared {
    pub(super) fn publish(&self, event: Event) -> Result<Receipt, PublishError> {
        let fits = |checked| self.check_fits(1, event.payload.len()).map(|()| checked);
        let checked = self.check_open().and_then(|()| self.check(&event)).and_then(fits);
        let checked = match checked {
            Ok(checked) => checked,
            Err(error) => return Err(PublishError::new(error, vec![event])),
        };
        if let Err(reason) = self.outbox.admit(1, event.payload.len()) {
            return Err(self.busy(vec![event], reason));
        }
        let (promised, receipt) = self.outbox.promise();
        let events = [self.route(checked, event)].into();
        self.outbox.submit(Submission { events, sender: SubmissionSender::One(promised) });
        Ok(receipt)
    }

    pub(super) fn publish_many(
        &self,
        events: Vec<Event>,
    ) -> Result<Receipt<Vec<Accepted>>, PublishError> {
        let bytes = events.iter().map(|event| event.payload.len()).sum();
        let checked = match self.check_many(&events, bytes) {
            Ok(checked) => checked,
            Err(error) => return Err(PublishError::new(error, events)),
        };
        if let Err(reason) = self.outbox.admit(events.len(), bytes) {
            return Err(self.busy(events, reason));
        }
        let (promised, receipt) = self.outbox.promise();
        let checked = checked.into_iter().zip(events);
        let events = checked.map(|(checked, event)| self.route(checked, event)).collect();
        self.outbox.submit(Submission { events, sender: SubmissionSender::Many(promised) });
        Ok(receipt)
    }

    fn busy(&self, events: Vec<Event>, reason: String) -> PublishError {
        self.counters.busy.add(events.len() as u64);
        PublishError::new(Error::Busy { reason }, events)
    }

    fn check_many(&self, events: &[Event], bytes: usize) -> Result<Vec<CheckedEvent<'_>>> {
        self.check_open()?;
        let checked = events.iter().enumerate().map(|(place, event)| {
            self.check(event).map_err(|error| error.within(&format!("events[{place}]")))
        });
        let checked = checked.collect::<Result<Vec<_>>>()?;
        self.check_fits(events.len(), bytes)?;
        Ok(checked)
    }

    /// Refuses events that no amount of waiting would make fit.
    /// Checks an event without publishing it.
    pub(super) fn check_only(&self, event: &Event) -> Result<()> {
        self.check_open()?;
        self.check(event).map(drop)
    }

    fn check_fits(&self, events: usize, bytes: usize) -> Result<()> {
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
        Ok(())
    }

    fn check(&self, event: &Event) -> Result<CheckedEvent<'_>> {
        let account = self.accounts.resolve(event.account.as_deref())?;
        let kind = self.catalogue.canonical(&event.kind)?;
        let number = match &event.number {
            None => None,
            Some(Ok(number)) => Some(*number),
            Some(Err(given)) => return Err(Error::invalid("number", given, WabaNumber::EXPECTED)),
        };
        if let Some(number) = number
            && !self.accounts.may_publish_for(account, number, event.waba.as_deref())
        {
            return Err(Error::forbidden("number", number));
        }
        if let Some(waba) = &event.waba
            && !self.accounts.may_use_waba(account, waba)
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
        Ok(CheckedEvent { account, kind, number })
    }

    fn route(&self, checked: CheckedEvent<'_>, event: Event) -> RoutedEvent {
        let CheckedEvent { account, kind, number } = checked;
        let waba = event.waba;
        // The number decides; the WABA only if there is no number.
        let waba_numbers = match (number, &waba) {
            (None, Some(waba)) => self.accounts.numbers_of_waba(waba),
            _ => &[],
        };
        let (account_name, is_part) = (account.name(), event.is_part);
        let query =
            MatchQuery { account: account_name, kind: &kind, number, waba_numbers, is_part };
        let targets = self.subscriptions.read().matches(&query);
        let dedup = event.dedup_key.map(|key| dedup_key_of(account.name(), kind.as_str(), &key));
        RoutedEvent {
            account: account.shared_name(),
            key_hash: event.key.as_deref().map_or(0, order_hash),
            event_type: kind,
            number,
            waba,
            dedup,
            targets,
            payload: event.payload,
        }
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

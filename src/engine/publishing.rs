//! Decides whether an event is acceptable, and who is owed it.
//!
//! Leaves to others: making it durable (`outbox`). Invariant (I7): nothing here waits; what cannot
//! be accepted comes back whole, and what is refused was not stored.

use super::core::Core;
use crate::account::Account;
use crate::error::{Error, Result};
use crate::event::{Accepted, Event, EventType, WabaNumber};
use crate::outbox::{Answer, Matched, Submission, key_hash};
use crate::receipt::Receipt;
use crate::routing::Sought;

/// What checking an event found out.
struct Checked<'a> {
    account: &'a Account,
    kind: EventType,
    number: Option<WabaNumber>,
}

/// The longest key, dedup key or WABA id, in bytes: ids of messages are below 200.
const TEXT_BYTES_MAX: usize = 512;

impl Core {
    pub(super) fn publish(&self, event: Event) -> Result<Receipt> {
        self.check_open()?;
        let checked = self.check(&event)?;
        if let Err(reason) = self.outbox.admit(1, event.payload.len()) {
            return Err(self.busy(vec![event], reason));
        }
        let (promised, receipt) = self.outbox.promise();
        let events = vec![self.matched(checked, event)];
        self.outbox.submit(Submission { events, promised: Answer::One(promised) });
        Ok(receipt)
    }

    pub(super) fn publish_many(&self, events: Vec<Event>) -> Result<Receipt<Vec<Accepted>>> {
        self.check_open()?;
        let checked = events.iter().enumerate().map(|(place, event)| {
            self.check(event).map_err(|error| error.within(&format!("events[{place}]")))
        });
        let checked = checked.collect::<Result<Vec<_>>>()?;
        let bytes = events.iter().map(|event| event.payload.len()).sum();
        self.check_fits(events.len(), bytes)?;
        if let Err(reason) = self.outbox.admit(events.len(), bytes) {
            return Err(self.busy(events, reason));
        }
        let (promised, receipt) = self.outbox.promise();
        let matched = checked.into_iter().zip(events);
        let events = matched.map(|(checked, event)| self.matched(checked, event)).collect();
        self.outbox.submit(Submission { events, promised: Answer::Many(promised) });
        Ok(receipt)
    }

    fn busy(&self, events: Vec<Event>, reason: String) -> Error {
        self.counters.busy.add(events.len() as u64);
        Error::Busy { events, reason }
    }

    fn check_fits(&self, events: usize, bytes: usize) -> Result<()> {
        let bounds = [
            ("events", events, self.limits.queue_events_max),
            ("events.payload", bytes, self.limits.queue_bytes_max),
        ];
        for (field, given, limit) in bounds {
            if given > limit {
                let (given, limit) = (given as u64, limit as u64);
                return Err(Error::TooLarge { field: field.to_owned(), given, limit });
            }
        }
        Ok(())
    }

    fn check(&self, event: &Event) -> Result<Checked<'_>> {
        let account = self.accounts.meant(event.account.as_deref())?;
        let kind = self.catalogue.canonical(&event.kind)?;
        let number = match &event.number {
            None => None,
            Some(Ok(number)) => Some(*number),
            Some(Err(given)) => {
                let expected = "7 to 15 digits with the country code, such as +919999999999";
                return Err(Error::invalid("number", given, expected));
            }
        };
        if let Some(number) = number
            && !self.accounts.may_use_number(account, number)
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
        Ok(Checked { account, kind, number })
    }

    fn matched(&self, checked: Checked<'_>, event: Event) -> Matched {
        let Checked { account, kind, number } = checked;
        let waba = event.waba;
        // The number decides; the WABA only where there is none.
        let waba_numbers = match (number, &waba) {
            (None, Some(waba)) => self.accounts.numbers_of_waba(waba),
            _ => &[],
        };
        let (account_name, is_part) = (account.name(), event.is_part);
        let sought = Sought { account: account_name, kind: &kind, number, waba_numbers, is_part };
        let targets = self.registry.read().matches(&sought);
        let dedup = event.dedup_key.map(|key| key_hash(account.name(), kind.as_str(), &key));
        Matched {
            account: account.shared_name(),
            key_hash: event.key.as_deref().map_or(0, order_hash),
            kind,
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

/// Hashes a key for order, by FNV-1a: it is stored, so it must stay the same for ever. Two keys that
/// collide only wait for each other. 0 stands for no key.
fn order_hash(key: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    key.bytes().fold(0xcbf2_9ce4_8422_2325, mix).max(1)
}

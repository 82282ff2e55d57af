//! What the engine remembers of callbacks that did not become events: refusals by reason, and the numbers
//! and WABAs that no account owns. Both are bounded, and time comes from the caller.

use std::collections::HashMap;

use super::MinuteCount;
use crate::macros::word_enum;

/// Why a callback, or a part of one, was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum CallbackRefusal {
    /// Its signature is missing or wrong.
    Signature,
    /// The request to verify the callback URL has no or another verify token.
    VerifyToken,
    /// Its body is not a callback.
    Malformed,
    /// A part of it is malformed; the other parts were accepted.
    MalformedPart,
}

word_enum!(pub CallbackRefusal:
    Signature = "signature", VerifyToken = "verify_token", Malformed = "malformed",
    MalformedPart = "malformed_part",
);

/// A number or WABA that callbacks named and no account owns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct UnownedSource {
    /// The number as the callbacks name it, or a `phone_number_id`; `None` where they name none.
    pub number: Option<String>,
    /// The id of the WABA; `None` where they name none.
    pub waba: Option<String>,
    /// The number of events that could not be published.
    pub events: u64,
    /// When the first came, in milliseconds since the Unix epoch.
    pub first_at_ms: u64,
    /// When the last came, in milliseconds since the Unix epoch.
    pub last_at_ms: u64,
}

/// The most unowned sources that are remembered; the one seen longest ago makes room.
pub(crate) const UNOWNED_SOURCES_MAX: usize = 1_000;

/// The memory of one engine.
#[derive(Debug, Default)]
pub(crate) struct CallbackLedger {
    unowned: HashMap<(Option<String>, Option<String>), UnownedSource>,
    refusals: HashMap<CallbackRefusal, MinuteCount>,
}

impl CallbackLedger {
    /// Counts events of a source and returns whether the source is new.
    pub(crate) fn note_unowned(
        &mut self,
        number: Option<String>,
        waba: Option<String>,
        events: u64,
        wall_ms: u64,
    ) -> bool {
        let key = (number.clone(), waba.clone());
        if let Some(known) = self.unowned.get_mut(&key) {
            known.events += events;
            known.last_at_ms = wall_ms;
            return false;
        }
        if self.unowned.len() >= UNOWNED_SOURCES_MAX {
            let oldest = self.unowned.iter().min_by_key(|(_, source)| source.last_at_ms);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.unowned.remove(&oldest));
        }
        let (first_at_ms, last_at_ms) = (wall_ms, wall_ms);
        let source = UnownedSource { number, waba, events, first_at_ms, last_at_ms };
        self.unowned.insert(key, source);
        true
    }

    /// Forgets the sources that an account owns by now.
    pub(crate) fn forget_owned(&mut self, is_owned: impl Fn(&UnownedSource) -> bool) {
        self.unowned.retain(|_, source| !is_owned(source));
    }

    /// The sources, the one seen last first.
    pub(crate) fn unowned(&self) -> Vec<UnownedSource> {
        let mut sources: Vec<_> = self.unowned.values().cloned().collect();
        let order = |source: &UnownedSource| {
            (std::cmp::Reverse(source.last_at_ms), source.number.clone(), source.waba.clone())
        };
        sources.sort_by_cached_key(order);
        sources
    }

    /// Counts refusals, and returns how many a notice has to report; `None` if a notice reported the same reason
    /// within the last minute.
    pub(crate) fn note_refused(
        &mut self,
        reason: CallbackRefusal,
        count: u64,
        now_ms: u64,
    ) -> Option<u64> {
        self.refusals.entry(reason).or_default().add(count, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: usize) -> Option<String> {
        Some(format!("number {last}"))
    }

    #[test]
    fn a_source_is_new_once_and_counts_its_events() {
        let mut ledger = CallbackLedger::default();
        assert!(ledger.note_unowned(source(1), None, 2, 10));
        assert!(ledger.note_unowned(source(1), Some("waba".into()), 1, 11));
        assert!(!ledger.note_unowned(source(1), None, 3, 12));
        let [last, bystander] = ledger.unowned().try_into().unwrap();
        assert_eq!((last.events, last.first_at_ms, last.last_at_ms), (5, 10, 12));
        assert_eq!((bystander.events, bystander.waba.as_deref()), (1, Some("waba")));
    }

    #[test]
    fn the_source_seen_longest_ago_makes_room() {
        let mut ledger = CallbackLedger::default();
        for last in 0..UNOWNED_SOURCES_MAX {
            ledger.note_unowned(source(last), None, 1, last as u64);
        }
        ledger.note_unowned(source(0), None, 1, 5_000);
        assert!(ledger.note_unowned(source(UNOWNED_SOURCES_MAX), None, 1, 6_000));
        assert_eq!(ledger.unowned().len(), UNOWNED_SOURCES_MAX);
        assert!(!ledger.note_unowned(source(0), None, 1, 7_000), "seen again, so kept");
        assert!(ledger.note_unowned(source(1), None, 1, 8_000), "made room");
    }

    #[test]
    fn refusals_are_told_once_a_minute_for_each_reason() {
        let mut ledger = CallbackLedger::default();
        assert_eq!(ledger.note_refused(CallbackRefusal::Signature, 1, 0), Some(1));
        assert_eq!(ledger.note_refused(CallbackRefusal::Signature, 1, 59_999), None);
        assert_eq!(ledger.note_refused(CallbackRefusal::Malformed, 3, 59_999), Some(3));
        assert_eq!(ledger.note_refused(CallbackRefusal::Signature, 2, 60_000), Some(3));
    }
}

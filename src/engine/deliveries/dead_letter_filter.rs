//! The id of a dead letter, and the filter that selects dead letters.

use std::fmt;
use std::str::FromStr;

use crate::attempt::DeadLetter;
use crate::engine::filter::filter;
use crate::error::{Error, Result};
use crate::event::{EventId, EventType, WabaNumber};
use crate::subscription::SubscriptionId;
use crate::text::{contains, contains_digits};

/// Identifies a dead letter by its event and its subscription. Its text is
/// `<event id>.<subscription id>`.
///
/// ```
/// use wabahook::DeadLetterId;
/// let text = "evt_00000000000000070000000000000009.3";
/// let id: DeadLetterId = text.parse()?;
/// assert_eq!(id.subscription.0, 3);
/// assert_eq!(id.to_string(), text);
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterId {
    /// The event.
    pub event: EventId,
    /// The subscription it was owed to.
    pub subscription: SubscriptionId,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.event, self.subscription)
    }
}

impl FromStr for DeadLetterId {
    type Err = Error;

    fn from_str(given: &str) -> Result<DeadLetterId> {
        let refused =
            || Error::invalid("id", given, "an event id, a dot and the id of a subscription");
        let (event, subscription) = given.split_once('.').ok_or_else(refused)?;
        let event = event.parse().map_err(|_| refused())?;
        let plain = subscription.bytes().all(|byte| byte.is_ascii_digit());
        let id = subscription.parse().ok().filter(|_| plain).ok_or_else(refused)?;
        Ok(DeadLetterId { event, subscription: SubscriptionId(id) })
    }
}

impl DeadLetter {
    /// The id of the dead letter.
    pub fn id(&self) -> DeadLetterId {
        DeadLetterId { event: self.event, subscription: self.subscription }
    }
}

filter! {
    /// Selects dead letters that match everything that is set. Defaults to all.
    ///
    /// ```
    /// use wabahook::{DeadLetterFilter, SubscriptionId};
    /// let recent = DeadLetterFilter::default().subscription(SubscriptionId(3)).since_ms(1_700_000_000_000);
    /// assert_eq!(recent.reason, None);
    /// ```
    pub struct DeadLetterFilter {
        /// Only those of the subscriptions of this account, by its id or its name.
        account: String, given impl Into<String>;
        /// Only those of this subscription.
        subscription: SubscriptionId, given SubscriptionId;
        /// Only those whose reason contains this text, in any case: `status:404`, or `status` for all statuses.
        reason: String, given impl Into<String>;
        /// Only those of events whose type contains this text, in any case.
        event_type: String, given impl Into<String>;
        /// Only those of events whose number contains these digits.
        number: String, given impl Into<String>;
        /// Only those given up at this time or later, in milliseconds since the Unix epoch.
        since_ms: u64, given u64;
        /// Only those given up before this time, in milliseconds since the Unix epoch.
        until_ms: u64, given u64;
    }
}

impl DeadLetterFilter {
    /// The part of the filter that does not need the letter itself.
    pub(in crate::engine) fn admits_moment(
        &self,
        at_ms: u64,
        subscription: SubscriptionId,
    ) -> bool {
        self.subscription.is_none_or(|id| id == subscription)
            && self.since_ms.is_none_or(|since_ms| since_ms <= at_ms)
            && self.until_ms.is_none_or(|until_ms| at_ms < until_ms)
    }

    /// Whether a dead letter matches.
    pub fn admits(&self, letter: &DeadLetter) -> bool {
        self.admits_moment(letter.at_ms, letter.subscription)
            && self.reason.as_ref().is_none_or(|part| contains(&letter.reason.to_string(), part))
            && self.account.as_ref().is_none_or(|name| *name == letter.account)
            && is_type_and_number(
                (self.event_type.as_deref(), self.number.as_deref()),
                (letter.event_type.as_ref(), letter.number),
            )
    }
}

/// Whether an event has a type and a number that contain the given parts.
pub(in crate::engine) fn is_type_and_number(
    (type_part, number_part): (Option<&str>, Option<&str>),
    (event_type, number): (Option<&EventType>, Option<WabaNumber>),
) -> bool {
    type_part.is_none_or(|part| event_type.is_some_and(|name| contains(name.as_str(), part)))
        && number_part.is_none_or(|part| {
            number.is_some_and(|number| contains_digits(&number.to_string(), part))
        })
}

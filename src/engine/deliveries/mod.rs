//! Lists what is owed and what was given up, page by page. The lock of the dispatcher is held for a bounded
//! slice at a time, however long a backlog is. A page never shows a delivery of another account than its
//! filter's (I9).
//!
//! Deliveries change while they are listed: one that ends or changes its state between two pages may be on
//! neither page or on both.

pub(super) mod dead_letter_filter;
pub(super) mod dead_letters;
pub(super) mod expiry;
pub(super) mod purge;

use std::fmt;
use std::str::FromStr;

use self::dead_letter_filter::{DeadLetterFilter, DeadLetterId, is_type_and_number};
use super::filter::filter;
use super::page::READ_FOR_PAGE_MAX;
use super::shared::Shared;
use super::{Engine, Page};
use crate::attempt::{DeliveryId, Reason};
use crate::dispatch::{DeliveryStage, ListedDelivery};
use crate::error::{Error, Result};
use crate::event::{EventId, EventType, WabaNumber};
use crate::macros::word_enum;
use crate::outbox::OwnerPages;
use crate::subscription::{SubscriptionId, SubscriptionInfo};
use crate::text::contains;

/// The state of a delivery. Every delivery that is owed or was given up has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeliveryState {
    /// Owed and never failed. It waits for its turn, its rate limit or its endpoint's breaker, or its
    /// first attempt is in flight.
    Owed,
    /// Failed. It waits for its next attempt or is in it, also if its subscription is not active.
    Retrying,
    /// Never failed, and held back by its ordering key, by another subscription's delivery (`after`), or
    /// because its subscription is paused or disabled.
    Blocked,
    /// Given up: a dead letter.
    Dead,
}

word_enum!(pub DeliveryState, "state":
    Owed = "owed", Retrying = "retrying", Blocked = "blocked", Dead = "dead",
);

impl From<DeliveryStage> for DeliveryState {
    fn from(stage: DeliveryStage) -> DeliveryState {
        match stage {
            DeliveryStage::Owed => DeliveryState::Owed,
            DeliveryStage::Blocked => DeliveryState::Blocked,
            DeliveryStage::Retrying { .. } => DeliveryState::Retrying,
        }
    }
}

impl DeliveryState {
    /// All of them.
    pub const ALL: [DeliveryState; 4] =
        [DeliveryState::Owed, DeliveryState::Retrying, DeliveryState::Blocked, DeliveryState::Dead];
}

filter! {
    /// Selects deliveries that match everything that is set. Defaults to all deliveries of registered
    /// subscriptions.
    pub struct DeliveryFilter {
        /// Only deliveries of the subscriptions of this account, by its id or its name.
        account: String, given impl Into<String>;
        /// Only deliveries of this subscription.
        subscription: SubscriptionId, given SubscriptionId;
        /// Only deliveries in one of these states; `None` means any.
        states: Vec<DeliveryState>, given impl Into<Vec<DeliveryState>>;
        /// Only deliveries of events whose type contains this text, in any case.
        event_type: String, given impl Into<String>;
        /// Only deliveries of events whose number contains these digits.
        number: String, given impl Into<String>;
        /// Only deliveries that failed and whose last reason contains this text, in any case.
        reason: String, given impl Into<String>;
    }
}

impl DeliveryFilter {
    /// Whether a delivery's event or failures must be read to know whether it matches.
    pub(super) fn needs_reading(&self) -> bool {
        self.event_type.is_some() || self.number.is_some() || self.reason.is_some()
    }

    /// Whether what was read of a delivery matches.
    fn admits(&self, delivery: &Delivery) -> bool {
        let wanted = (self.event_type.as_deref(), self.number.as_deref());
        let reason = delivery.reason.as_ref().map(ToString::to_string);
        is_type_and_number(wanted, (delivery.event_type.as_ref(), delivery.number))
            && self
                .reason
                .as_ref()
                .is_none_or(|part| reason.is_some_and(|reason| contains(&reason, part)))
    }

    fn wants(&self, state: DeliveryState) -> bool {
        self.states.as_ref().is_none_or(|states| states.contains(&state))
    }

    pub(super) fn wants_stage(&self, stage: DeliveryStage) -> bool {
        self.wants(stage.into())
    }

    pub(super) fn admits_subscription(&self, one: &SubscriptionInfo) -> bool {
        self.account.as_ref().is_none_or(|name| *name == one.account)
            && self.subscription.is_none_or(|id| id == one.id)
    }

    fn letters(&self) -> DeadLetterFilter {
        let mut letters = DeadLetterFilter::default();
        letters.account.clone_from(&self.account);
        letters.subscription = self.subscription;
        letters.event_type.clone_from(&self.event_type);
        letters.number.clone_from(&self.number);
        letters.reason.clone_from(&self.reason);
        letters
    }
}

/// A delivery in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// The event's id: the `webhook-id` of every attempt.
    pub event: EventId,
    /// The subscription it is owed to.
    pub subscription: SubscriptionId,
    /// Its state.
    pub state: DeliveryState,
    /// Failed attempts.
    pub attempts: u32,
    /// The type of the event; `None` if the event cannot be read.
    pub event_type: Option<EventType>,
    /// The number of the event.
    pub number: Option<WabaNumber>,
    /// When the event was accepted, in milliseconds since the Unix epoch.
    pub accepted_at_ms: Option<u64>,
    /// When its next attempt is due, in milliseconds since the Unix epoch: not before the circuit breaker lets it start.
    /// Only for retrying deliveries of active subscriptions.
    pub due_at_ms: Option<u64>,
    /// Why its last attempt failed, or why it was given up. Only for retrying and dead deliveries.
    pub reason: Option<Reason>,
    /// When it was given up, in milliseconds since the Unix epoch. Only for dead deliveries.
    pub died_at_ms: Option<u64>,
}

/// Where a page of deliveries begins. Its text is opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryCursor(ListPosition);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListPosition {
    /// From this sequence of this subscription on.
    Owed(SubscriptionId, u64),
    /// After this dead letter, or from the newest on.
    Dead(Option<DeadLetterId>),
}

impl fmt::Display for DeliveryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ListPosition::Owed(id, sequence) => write!(f, "owed.{id}.{sequence}"),
            ListPosition::Dead(Some(letter)) => write!(f, "dead.{letter}"),
            ListPosition::Dead(None) => f.write_str("dead."),
        }
    }
}

impl FromStr for DeliveryCursor {
    type Err = Error;

    fn from_str(given: &str) -> Result<DeliveryCursor> {
        let owed = || {
            let (id, sequence) = given.strip_prefix("owed.")?.split_once('.')?;
            Some(ListPosition::Owed(SubscriptionId(id.parse().ok()?), sequence.parse().ok()?))
        };
        let dead = || match given.strip_prefix("dead.")? {
            "" => Some(ListPosition::Dead(None)),
            letter => Some(ListPosition::Dead(Some(letter.parse().ok()?))),
        };
        let position = owed().or_else(dead).map(DeliveryCursor);
        position.ok_or_else(|| Error::invalid("cursor", given, "the cursor of a page, unchanged"))
    }
}

const SLICE: usize = 256;

impl Engine {
    /// Lists what is owed and what was given up, at most `count_max` deliveries. Pass the `next` of a page
    /// to get the following one. Owed deliveries come first, by subscription and in the order published,
    /// then dead letters, newest first. A page has fewer deliveries, or none, if few of those read for it match
    /// the filter; the listing ends where `next` is `None`.
    ///
    /// ```
    /// # use wabahook::{Config, Engine};
    /// use wabahook::{DeliveryFilter, DeliveryState};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let failing = DeliveryFilter::default().states([DeliveryState::Retrying]);
    /// let mut page = engine.deliveries(&failing, None, 100)?;
    /// while let Some(next) = page.next {
    ///     page = engine.deliveries(&failing, Some(next), 100)?;
    /// }
    /// # engine.close(std::time::Duration::from_secs(1))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`] when the page begins after a dead letter that was removed long ago;
    /// [`Error::Store`] or [`Error::Damaged`] when a dead letter, an event or an attempt cannot be read.
    pub fn deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<DeliveryCursor>,
        count_max: usize,
    ) -> Result<Page<Delivery, DeliveryCursor>> {
        self.shared.check_open()?;
        let filter = &filter.resolved(self.accounts());
        let (from, letter) = match after.map(|position| position.0) {
            None => (Some((SubscriptionId(0), 0)), None),
            Some(ListPosition::Owed(id, sequence)) => (Some((id, sequence)), None),
            Some(ListPosition::Dead(letter)) => (None, letter),
        };
        let (mut items, mut next) = (Vec::new(), None);
        if let Some(from) = from {
            next = self.shared.list_owed(filter, from, count_max, &mut items)?;
        }
        if next.is_none() && filter.wants(DeliveryState::Dead) {
            next = match count_max.saturating_sub(items.len()) {
                0 => Some(ListPosition::Dead(letter)),
                left => self.list_dead(filter, letter, left, &mut items)?,
            };
        }
        Ok(Page { items, next: next.map(DeliveryCursor) })
    }

    fn list_dead(
        &self,
        filter: &DeliveryFilter,
        after: Option<DeadLetterId>,
        count_max: usize,
        items: &mut Vec<Delivery>,
    ) -> Result<Option<ListPosition>> {
        let letters = self.dead_letters(&filter.letters(), after, count_max)?;
        items.extend(letters.items.into_iter().map(|letter| Delivery {
            event: letter.event,
            subscription: letter.subscription,
            state: DeliveryState::Dead,
            attempts: letter.attempts,
            event_type: letter.event_type,
            number: letter.number,
            accepted_at_ms: letter.accepted_at_ms,
            due_at_ms: None,
            reason: Some(letter.reason),
            died_at_ms: Some(letter.at_ms),
        }));
        Ok(letters.next.map(|last| ListPosition::Dead(Some(last))))
    }
}

impl Shared {
    /// Lists what is owed from a position on. Returns the next position once the page is full.
    fn list_owed(
        &self,
        filter: &DeliveryFilter,
        from: (SubscriptionId, u64),
        count_max: usize,
        items: &mut Vec<Delivery>,
    ) -> Result<Option<ListPosition>> {
        let (first, mut sequence) = from;
        let all = self.subscriptions.read().all();
        let selected = all.iter().filter(|one| one.id >= first && filter.admits_subscription(one));
        let (mut pages, mut read) = (OwnerPages::default(), 0);
        for id in selected.map(|one| one.id) {
            sequence = if id == first { sequence } else { 0 };
            loop {
                if items.len() >= count_max || read >= READ_FOR_PAGE_MAX.max(count_max) {
                    return Ok(Some(ListPosition::Owed(id, sequence)));
                }
                let wanted = match filter.needs_reading() {
                    true => SLICE,
                    false => SLICE.min(count_max - items.len()),
                };
                let stages = |stage| filter.wants_stage(stage);
                let slice =
                    self.dispatch_state.lock().dispatcher.listed(id, sequence, stages, wanted);
                let ends_here = slice.len() < wanted;
                for listed in slice {
                    if items.len() >= count_max {
                        return Ok(Some(ListPosition::Owed(id, sequence)));
                    }
                    sequence = listed.sequence.saturating_add(1);
                    let item = self.owed_item(id, listed, &mut pages)?;
                    items.extend(Some(item).filter(|item| filter.admits(item)));
                    read += 1;
                }
                if ends_here {
                    break;
                }
            }
        }
        Ok(None)
    }

    /// Of owed deliveries of a subscription, the sequences of those that match what must be read of them.
    pub(super) fn admitted(
        &self,
        filter: &DeliveryFilter,
        subscription: SubscriptionId,
        slice: Vec<ListedDelivery>,
    ) -> Result<Vec<u64>> {
        let (mut admitted, mut pages) = (Vec::new(), OwnerPages::default());
        for listed in slice {
            let item = self.owed_item(subscription, listed, &mut pages)?;
            admitted.extend(filter.admits(&item).then_some(listed.sequence));
        }
        Ok(admitted)
    }

    /// Why the last attempt of a delivery failed. The record of an attempt that just ended may not be durable yet.
    pub(super) fn last_reason(&self, delivery: DeliveryId) -> Result<Option<Reason>> {
        if let Some(failed) = self.outbox.history(delivery)?.pop() {
            return Ok(Some(failed.reason));
        }
        let event = self.outbox.id_of(delivery.sequence);
        let recent = self.recent_attempts.of(delivery.subscription, usize::MAX);
        Ok(recent.into_iter().find(|attempt| attempt.event == event).and_then(|one| one.reason))
    }

    fn owed_item(
        &self,
        subscription: SubscriptionId,
        listed: ListedDelivery,
        pages: &mut OwnerPages,
    ) -> Result<Delivery> {
        let sequence = listed.sequence;
        let (attempts, due_ms) = match listed.stage {
            DeliveryStage::Retrying { attempts, due_ms } => (attempts, due_ms),
            DeliveryStage::Owed | DeliveryStage::Blocked => (0, None),
        };
        let state = listed.stage.into();
        let reason = match state {
            DeliveryState::Retrying => self.last_reason(DeliveryId { sequence, subscription })?,
            _ => None,
        };
        let owner = pages.owner(&self.outbox, sequence)?;
        Ok(Delivery {
            event: self.outbox.id_of(sequence),
            subscription,
            state,
            attempts,
            event_type: owner.and_then(|owner| self.catalogue.canonical(&owner.event_type).ok()),
            number: owner.and_then(|owner| owner.number),
            accepted_at_ms: owner.map(|owner| owner.accepted_at_ms),
            due_at_ms: due_ms.map(|due_ms| self.wall_ms_at(due_ms)),
            reason,
            died_at_ms: None,
        })
    }

    /// A monotonic time as wall time; one that has passed counts as now.
    pub(super) fn wall_ms_at(&self, due_ms: u64) -> u64 {
        let wait_ms = due_ms.saturating_sub(self.clock.monotonic_ms());
        self.clock.wall_ms().saturating_add(wait_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_parses_its_own_text_and_nothing_else() {
        let letter = DeadLetterId { event: EventId::new(7, 9), subscription: SubscriptionId(3) };
        let owed = ListPosition::Owed(SubscriptionId(3), u64::MAX);
        for position in [owed, ListPosition::Dead(Some(letter)), ListPosition::Dead(None)] {
            let position = DeliveryCursor(position);
            assert_eq!(position.to_string().parse::<DeliveryCursor>().unwrap(), position);
        }
        for text in ["", "owed.3", "owed.a.1", "owed.3.1.1", "dead.3", "3.1"] {
            let error = text.parse::<DeliveryCursor>().unwrap_err();
            assert_eq!(error.field(), Some("cursor"), "{text}");
        }
    }

    #[test]
    fn states_parse_from_their_names() {
        for state in DeliveryState::ALL {
            assert_eq!(state.as_str().parse::<DeliveryState>().unwrap(), state);
        }
        assert_eq!("gone".parse::<DeliveryState>().unwrap_err().field(), Some("state"));
    }
}

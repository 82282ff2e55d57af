//! Decides how a host is shown what is owed and what was given up, page by page.
//!
//! Leaves to others: what becomes of a delivery (`dispatch`) and the dead letters (`letters`).
//! Invariant: the lock of the dispatcher is held for a bounded slice at a time, however long a backlog
//! is; a page never shows a delivery of another account than its filter's (I9).
//!
//! A listing is a reading of what moves: a delivery that ends or changes its state between two pages
//! may be on neither or on both.

use std::fmt;
use std::str::FromStr;

use super::Engine;
use super::core::Core;
use super::letters::{DeadLetterFilter, DeadLetterId};
use crate::attempt::Reason;
use crate::dispatch::{Listed, Stage};
use crate::error::{Error, Result};
use crate::event::EventId;
use crate::subscription::SubscriptionId;

/// Where a delivery is. Every delivery that is owed or was given up is in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeliveryState {
    /// Owed, never failed, and nothing but its turn, its rate or its endpoint's rest holds it back;
    /// or its first attempt is under way.
    Owed,
    /// Failed, and waits for its next attempt or is in it; also where its subscription is not served.
    Retrying,
    /// Never failed, and held back: by its order, by another subscription's delivery (`after`), or
    /// because its subscription is paused or disabled.
    Blocked,
    /// Given up: a dead letter.
    Dead,
}

impl DeliveryState {
    /// All of them.
    pub const ALL: [DeliveryState; 4] =
        [DeliveryState::Owed, DeliveryState::Retrying, DeliveryState::Blocked, DeliveryState::Dead];

    /// The state's name in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Owed => "owed",
            DeliveryState::Retrying => "retrying",
            DeliveryState::Blocked => "blocked",
            DeliveryState::Dead => "dead",
        }
    }
}

impl FromStr for DeliveryState {
    type Err = Error;

    fn from_str(given: &str) -> Result<DeliveryState> {
        let named = DeliveryState::ALL.into_iter().find(|state| state.as_str() == given);
        named.ok_or_else(|| {
            Error::invalid("state", given, "one of owed, retrying, blocked and dead")
        })
    }
}

/// Which deliveries are meant: those of which everything that is set holds. Defaults to all of the
/// subscriptions that are registered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryFilter {
    /// Of the subscriptions of this account.
    pub account: Option<String>,
    /// Of this subscription.
    pub subscription: Option<SubscriptionId>,
    /// In one of these states; `None` means any.
    pub states: Option<Vec<DeliveryState>>,
}

impl DeliveryFilter {
    /// Those of the subscriptions of an account.
    #[must_use]
    pub fn account(mut self, name: impl Into<String>) -> DeliveryFilter {
        self.account = Some(name.into());
        self
    }

    /// Those of a subscription.
    #[must_use]
    pub fn subscription(mut self, id: SubscriptionId) -> DeliveryFilter {
        self.subscription = Some(id);
        self
    }

    /// Those in one of these states.
    #[must_use]
    pub fn states(mut self, states: impl IntoIterator<Item = DeliveryState>) -> DeliveryFilter {
        self.states = Some(states.into_iter().collect());
        self
    }

    fn wants(&self, state: DeliveryState) -> bool {
        self.states.as_ref().is_none_or(|states| states.contains(&state))
    }

    fn wants_stage(&self, stage: Stage) -> bool {
        self.wants(match stage {
            Stage::Owed => DeliveryState::Owed,
            Stage::Blocked => DeliveryState::Blocked,
            Stage::Retrying { .. } => DeliveryState::Retrying,
        })
    }

    fn letters(&self) -> DeadLetterFilter {
        let mut letters = DeadLetterFilter::default();
        letters.account.clone_from(&self.account);
        letters.subscription = self.subscription;
        letters
    }
}

/// A delivery in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// Which event: the `webhook-id` of its attempts.
    pub event: EventId,
    /// Whom it is owed to.
    pub subscription: SubscriptionId,
    /// Where it is.
    pub state: DeliveryState,
    /// Attempts that failed.
    pub attempts: u32,
    /// When its next attempt is due, in milliseconds since the Unix epoch; retrying ones alone.
    pub due_at_ms: Option<u64>,
    /// Why it was given up; dead ones alone.
    pub reason: Option<Reason>,
    /// When it was given up, in milliseconds since the Unix epoch; dead ones alone.
    pub died_at_ms: Option<u64>,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryPage {
    /// What is owed by subscription and in the order published, then dead letters, those given up last
    /// first.
    pub items: Vec<Delivery>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<DeliveryPlace>,
}

/// Where a page of deliveries begins. Its text is for handing back, and says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryPlace(Place);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At this sequence of this subscription.
    Owed(SubscriptionId, u64),
    /// After this dead letter, or before the first.
    Dead(Option<DeadLetterId>),
}

impl fmt::Display for DeliveryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Owed(id, sequence) => write!(f, "owed.{id}.{sequence}"),
            Place::Dead(Some(letter)) => write!(f, "dead.{letter}"),
            Place::Dead(None) => f.write_str("dead."),
        }
    }
}

impl FromStr for DeliveryPlace {
    type Err = Error;

    fn from_str(given: &str) -> Result<DeliveryPlace> {
        let owed = || {
            let (id, sequence) = given.strip_prefix("owed.")?.split_once('.')?;
            Some(Place::Owed(SubscriptionId(id.parse().ok()?), sequence.parse().ok()?))
        };
        let dead = || match given.strip_prefix("dead.")? {
            "" => Some(Place::Dead(None)),
            letter => Some(Place::Dead(Some(letter.parse().ok()?))),
        };
        let place = owed().or_else(dead).map(DeliveryPlace);
        place.ok_or_else(|| Error::invalid("cursor", given, "the cursor of a page, as it came"))
    }
}

/// How many deliveries are read under one lock.
const SLICE: usize = 256;

impl Engine {
    /// What is owed and what was given up, at most `count_max` deliveries. The next page is asked for
    /// with the `next` of this one.
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
    /// [`Error::NotFound`] when the page would begin after a dead letter that is gone since long ago;
    /// [`Error::Store`] or [`Error::Damaged`] when a dead letter cannot be read.
    pub fn deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<DeliveryPlace>,
        count_max: usize,
    ) -> Result<DeliveryPage> {
        self.core.check_open()?;
        let (from, letter) = match after.map(|place| place.0) {
            None => (Some((SubscriptionId(0), 0)), None),
            Some(Place::Owed(id, sequence)) => (Some((id, sequence)), None),
            Some(Place::Dead(letter)) => (None, letter),
        };
        let (mut items, mut next) = (Vec::new(), None);
        if let Some(from) = from {
            next = self.core.list_owed(filter, from, count_max, &mut items);
        }
        if next.is_none() && filter.wants(DeliveryState::Dead) {
            next = match count_max.saturating_sub(items.len()) {
                0 => Some(Place::Dead(letter)),
                left => self.list_dead(filter, letter, left, &mut items)?,
            };
        }
        Ok(DeliveryPage { items, next: next.map(DeliveryPlace) })
    }

    fn list_dead(
        &self,
        filter: &DeliveryFilter,
        after: Option<DeadLetterId>,
        count_max: usize,
        items: &mut Vec<Delivery>,
    ) -> Result<Option<Place>> {
        let letters = self.dead_letters(&filter.letters(), after, count_max)?;
        let next = letters.last().filter(|_| letters.len() == count_max).map(|last| last.id());
        items.extend(letters.into_iter().map(|letter| Delivery {
            event: letter.event,
            subscription: letter.subscription,
            state: DeliveryState::Dead,
            attempts: letter.attempts,
            due_at_ms: None,
            reason: Some(letter.reason),
            died_at_ms: Some(letter.at_ms),
        }));
        Ok(next.map(|last| Place::Dead(Some(last))))
    }
}

impl Core {
    /// Lists what is owed from a place on. Returns where to go on once the page is full.
    fn list_owed(
        &self,
        filter: &DeliveryFilter,
        from: (SubscriptionId, u64),
        count_max: usize,
        items: &mut Vec<Delivery>,
    ) -> Option<Place> {
        let (first, mut sequence) = from;
        let all = self.registry.read().all();
        let meant = all.iter().filter(|one| {
            one.id >= first
                && filter.account.as_ref().is_none_or(|name| *name == one.account)
                && filter.subscription.is_none_or(|id| id == one.id)
        });
        for id in meant.map(|one| one.id) {
            sequence = if id == first { sequence } else { 0 };
            loop {
                if items.len() >= count_max {
                    return Some(Place::Owed(id, sequence));
                }
                let wanted = SLICE.min(count_max - items.len());
                let stages = |stage| filter.wants_stage(stage);
                let slice = self.drive.lock().dispatcher.listed(id, sequence, stages, wanted);
                sequence = slice.last().map_or(sequence, |last| last.sequence.saturating_add(1));
                items.extend(slice.iter().map(|listed| self.owed_item(id, *listed)));
                if slice.len() < wanted {
                    break;
                }
            }
        }
        None
    }

    fn owed_item(&self, subscription: SubscriptionId, listed: Listed) -> Delivery {
        let (state, attempts, due_ms) = match listed.stage {
            Stage::Owed => (DeliveryState::Owed, 0, None),
            Stage::Blocked => (DeliveryState::Blocked, 0, None),
            Stage::Retrying { attempts, due_ms } => {
                (DeliveryState::Retrying, attempts, Some(due_ms))
            }
        };
        let (now_ms, wall_ms) = (self.clock.monotonic_ms(), self.clock.wall_ms());
        Delivery {
            event: self.outbox.id_of(listed.sequence),
            subscription,
            state,
            attempts,
            due_at_ms: due_ms.map(|due_ms| wall_ms.saturating_add(due_ms.saturating_sub(now_ms))),
            reason: None,
            died_at_ms: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_and_what_is_none_is_refused() {
        let letter = DeadLetterId { event: EventId::new(7, 9), subscription: SubscriptionId(3) };
        let owed = Place::Owed(SubscriptionId(3), u64::MAX);
        for place in [owed, Place::Dead(Some(letter)), Place::Dead(None)] {
            let place = DeliveryPlace(place);
            assert_eq!(place.to_string().parse::<DeliveryPlace>().unwrap(), place);
        }
        for text in ["", "owed.3", "owed.a.1", "owed.3.1.1", "dead.3", "3.1"] {
            let error = text.parse::<DeliveryPlace>().unwrap_err();
            assert_eq!(error.field(), Some("cursor"), "{text}");
        }
    }

    #[test]
    fn states_are_read_by_the_name_that_is_shown() {
        for state in DeliveryState::ALL {
            assert_eq!(state.as_str().parse::<DeliveryState>().unwrap(), state);
        }
        assert_eq!("gone".parse::<DeliveryState>().unwrap_err().field(), Some("state"));
    }
}

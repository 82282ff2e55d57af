//! Explains whether a subscription would receive an event, without publishing it. The checks are those of
//! `publish`, and the same index decides.

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::Result;
use crate::event::{Event, WabaNumber};
use crate::routing::MatchQuery;
use crate::subscription::{
    Filter, ParsedPayload, Precedence, SubscriptionId, SubscriptionState, UnreadablePayload,
};

/// Whether a subscription would receive an event, and which check decides.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MatchReport {
    /// Whether the event would be owed to the subscription.
    pub matches: bool,
    /// Whether the subscription takes events: a disabled one does not.
    pub is_active: bool,
    /// Whether its filter has the event's type.
    pub type_matches: bool,
    /// Whether its filter has the event's number, or a number of its WABA.
    pub number_matches: bool,
    /// Whether no other subscription of its gateway takes [precedence](crate::Precedence).
    pub is_first: bool,
    /// Whether its condition holds.
    pub condition: ConditionReport,
}

/// Whether the condition of a subscription holds for a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConditionReport {
    /// The subscription has no condition.
    None,
    /// It holds.
    Holds,
    /// It does not hold.
    Fails {
        /// The first part of it that does not hold, such as `condition.and[1].prefix`.
        part: String,
    },
    /// The payload cannot be read, so the condition does not hold.
    Unparsable(UnreadablePayload),
}

impl ConditionReport {
    /// Whether the condition lets the event through.
    pub fn is_met(&self) -> bool {
        matches!(self, ConditionReport::None | ConditionReport::Holds)
    }

    fn of(filter: &Filter, payload: &[u8]) -> ConditionReport {
        let Some(condition) = &filter.condition else { return ConditionReport::None };
        let payload = match ParsedPayload::parse(payload) {
            Ok(payload) => payload,
            Err(why) => return ConditionReport::Unparsable(why),
        };
        match condition.failing_part(&payload) {
            None => ConditionReport::Holds,
            Some(part) => ConditionReport::Fails { part },
        }
    }
}

impl Engine {
    /// Whether any subscription has a condition. Then publishing takes longer than a look-up: it parses the payload and
    /// evaluates each condition of the event's number, which a server should not do on a thread that others wait for.
    pub fn has_conditions(&self) -> bool {
        self.shared.subscriptions.read().has_conditions()
    }

    /// Whether a subscription would receive an event of its account, and which check decides. Nothing is
    /// published, counted or stored.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) for an unknown subscription; whatever `publish` refuses about
    /// the event.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let texts = Subscription::to("https://crm.example/hook")?
    ///     .condition(r#"{"pointer": "/type", "eq": "text"}"#.parse()?);
    /// let id = engine.subscribe(texts)?;
    /// let event = Event::new("MESSAGE_RECEIVED", r#"{"type": "image"}"#).number("919999999999");
    /// let report = engine.match_report(id, event)?;
    /// assert!(report.type_matches && !report.condition.is_met() && !report.matches);
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn match_report(&self, id: SubscriptionId, event: Event) -> Result<MatchReport> {
        let shared = &self.shared;
        shared.check_open()?;
        let subscriptions = shared.subscriptions.read();
        let info = Arc::clone(&subscriptions.require(id)?.info);
        let event = event.account(&info.account);
        let checked = shared.check(&event)?;
        let query = checked.query(&event);
        let (found, filter) = (subscriptions.matches(&query), &info.filter);
        drop(subscriptions);
        let is_active = info.state != SubscriptionState::Disabled;
        let type_matches = filter.events.as_ref().is_none_or(|kinds| kinds.contains(query.kind));
        let number_matches = has_number(filter, &query);
        let condition = ConditionReport::of(filter, event.payload());
        let is_found = found.has_target(id);
        let is_first = is_found || !(is_active && type_matches && number_matches);
        let is_first = is_first && info.precedence != Precedence::Masked;
        let matches = is_found && condition.is_met();
        Ok(MatchReport { matches, is_active, type_matches, number_matches, is_first, condition })
    }
}

/// Whether a filter has the number of an event, or a number of its WABA.
fn has_number(filter: &Filter, query: &MatchQuery<'_>) -> bool {
    let Some(numbers) = &filter.numbers else { return true };
    let has = |number: &WabaNumber| numbers.contains(number);
    match &query.number {
        Some(number) => has(number),
        None => query.waba_numbers.iter().any(has),
    }
}

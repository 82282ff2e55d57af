//! Which events a subscription receives. A [`Filter`] is never empty on either side, so a subscription
//! that can never match cannot be registered.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::event::{Catalogue, EventType, NumberInput, WabaNumber};
use crate::setters::setters;

/// Which events a subscription receives: a set of types or all, for a set of numbers or all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Filter {
    /// The event types, canonical; `None` means all.
    pub events: Option<BTreeSet<EventType>>,
    /// The WABA numbers; `None` means every number of the account.
    pub numbers: Option<BTreeSet<WabaNumber>>,
}

setters!(Filter { events: Option<BTreeSet<EventType>>, numbers: Option<BTreeSet<WabaNumber>> });

impl Filter {
    /// Reads a filter in any vocabulary. An empty set on either side is refused, because it could
    /// never match, and "all" is written as `None`.
    pub(crate) fn parse(
        events: Option<&[String]>,
        numbers: Option<&[NumberInput]>,
        catalogue: &Catalogue,
    ) -> Result<Filter> {
        let events = events.map(|names| parse_events(names, catalogue)).transpose()?;
        let numbers = numbers.map(parse_numbers).transpose()?;
        Ok(Filter { events, numbers })
    }
}

fn parse_events(names: &[String], catalogue: &Catalogue) -> Result<BTreeSet<EventType>> {
    if names.is_empty() {
        let expected = "at least one event type, or all of them by leaving events out (\"*\")";
        return Err(Error::invalid("events", "an empty set", expected));
    }
    let each = names.iter().enumerate().map(|(index, name)| {
        let invalid = |_| Error::invalid(format!("events[{index}]"), name, EventType::EXPECTED);
        catalogue.canonical(name).map_err(invalid)
    });
    each.collect()
}

fn parse_numbers(given: &[NumberInput]) -> Result<BTreeSet<WabaNumber>> {
    if given.is_empty() {
        let expected = "at least one number, or all of the account by leaving numbers out (\"*\")";
        return Err(Error::invalid("numbers", "an empty set", expected));
    }
    let each = given.iter().enumerate().map(|(index, number)| {
        let invalid =
            |text| Error::invalid(format!("numbers[{index}]"), text, WabaNumber::EXPECTED);
        number.as_ref().copied().map_err(invalid)
    });
    each.collect()
}

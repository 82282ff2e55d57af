//! Which events a subscription receives. A [`Filter`] is never empty on either side, so a subscription
//! that can never match cannot be registered.

use std::collections::BTreeSet;

use super::Condition;
use crate::error::{Error, Result};
use crate::event::{Catalogue, EventType, NumberInput, WabaNumber};
use crate::macros::setters;

/// Which events a subscription receives: a set of types or all, for a set of numbers or all, and with a condition
/// only those whose payload meets it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Filter {
    /// The event types, canonical; `None` means all.
    pub events: Option<BTreeSet<EventType>>,
    /// The WABA numbers; `None` means every number of the account.
    pub numbers: Option<BTreeSet<WabaNumber>>,
    /// What the payload must be like; `None` means anything.
    pub condition: Option<Condition>,
}

setters!(Filter {
    events: Option<BTreeSet<EventType>>,
    numbers: Option<BTreeSet<WabaNumber>>,
    condition: Option<Condition>,
});

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
        Ok(Filter { events, numbers, condition: None })
    }
}

/// The most types, and the most numbers, of a filter: as many as DoubleTick allows pairs. Every
/// `publish` waits while a filter is put in force, which takes tens of milliseconds for so many.
const MEMBERS_MAX: usize = 50_000;

/// One side of a filter. A member that cannot be parsed is given back as it was.
fn members<G, T: Ord>(
    side: &str,
    given: &[G],
    [expected_of_side, expected]: [&str; 2],
    parse: impl Fn(&G) -> std::result::Result<T, String>,
) -> Result<BTreeSet<T>> {
    if given.is_empty() {
        return Err(Error::invalid(side, "[]", expected_of_side));
    }
    if given.len() > MEMBERS_MAX {
        let (given, limit) = (given.len() as u64, MEMBERS_MAX as u64);
        return Err(Error::TooLarge { field: side.to_owned(), given, limit });
    }
    let each = given.iter().enumerate().map(|(index, member)| {
        parse(member).map_err(|given| Error::invalid(format!("{side}[{index}]"), given, expected))
    });
    each.collect()
}

fn parse_events(names: &[String], catalogue: &Catalogue) -> Result<BTreeSet<EventType>> {
    let expected = "at least one event type; without events, it receives all of them";
    members("events", names, [expected, EventType::EXPECTED], |name| {
        catalogue.canonical(name).map_err(|_| name.clone())
    })
}

fn parse_numbers(given: &[NumberInput]) -> Result<BTreeSet<WabaNumber>> {
    let expected = "at least one number; without numbers, it receives all of the account";
    members("numbers", given, [expected, WabaNumber::EXPECTED], NumberInput::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_over_its_bound_is_refused_and_the_bound_named() {
        let names: Vec<_> = (0..=MEMBERS_MAX).map(|n| format!("TYPE_{n}")).collect();
        let numbers: Vec<NumberInput> = (919_000_000_000..)
            .map(|digits| Ok(WabaNumber::from_digits(digits).unwrap()))
            .take(MEMBERS_MAX + 1)
            .collect();
        let parse = |names: &[String], numbers: &[NumberInput]| {
            Filter::parse(Some(names), Some(numbers), &Catalogue::default())
        };
        for refused in [parse(&names, &numbers[1..]), parse(&names[1..], &numbers)] {
            let refused = refused.unwrap_err();
            let (field, text) = (refused.field().unwrap(), refused.to_string());
            assert!(["events", "numbers"].contains(&field), "{text}");
            assert!(text.contains("50001 is over the limit of 50000"), "{text}");
        }
        assert_eq!(parse(&names[1..], &numbers[1..]).unwrap().numbers.unwrap().len(), MEMBERS_MAX);
    }
}

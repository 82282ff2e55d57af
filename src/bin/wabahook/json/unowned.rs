//! A number or WABA that callbacks named and no account owns. To an account a
//! number shows only its last four digits (I9).

use serde::{Deserialize, Serialize};
use wabahook::UnownedSource;

use super::values::TimestampJson;

/// A source of callbacks that no account owns.
#[derive(Serialize, Deserialize)]
pub(crate) struct UnownedJson {
    /// For an account, all but the last four characters are `*`.
    pub(crate) number: Option<String>,
    pub(crate) waba: Option<String>,
    pub(crate) events: u64,
    pub(crate) first_at: TimestampJson,
    pub(crate) last_at: TimestampJson,
}

impl UnownedJson {
    /// For the operator.
    pub(crate) fn of(source: &UnownedSource) -> UnownedJson {
        UnownedJson {
            number: source.number.clone(),
            waba: source.waba.clone(),
            events: source.events,
            first_at: TimestampJson(source.first_at_ms),
            last_at: TimestampJson(source.last_at_ms),
        }
    }

    /// For an account.
    pub(crate) fn masked(source: &UnownedSource) -> UnownedJson {
        let number = source.number.as_deref().map(masked);
        UnownedJson { number, ..UnownedJson::of(source) }
    }
}

impl UnownedJson {
    /// Whether it contains the texts that a query has under its members' names.
    pub(crate) fn matches<'q>(&self, text: impl Fn(&str) -> Option<&'q str>) -> bool {
        [("number", &self.number), ("waba", &self.waba)].iter().all(|(name, member)| {
            text(name)
                .is_none_or(|part| member.as_ref().is_some_and(|member| member.contains(part)))
        })
    }

    /// The cursor of the page that begins after this source.
    pub(crate) fn cursor(&self) -> String {
        let (number, waba) = (self.number.as_deref(), self.waba.as_deref());
        format!("{}.{}.{}", waba.unwrap_or_default(), number.unwrap_or_default(), self.first_at)
    }
}

/// How much of a number is shown.
const SHOWN: usize = 4;

fn masked(number: &str) -> String {
    let hidden = number.chars().count().saturating_sub(SHOWN);
    let shown = |(at, c)| if at < hidden { '*' } else { c };
    number.chars().enumerate().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_shows_its_last_four_digits() {
        for (number, shown) in [("919999991234", "********1234"), ("1234", "1234"), ("", "")] {
            assert_eq!(masked(number), shown);
        }
    }
}

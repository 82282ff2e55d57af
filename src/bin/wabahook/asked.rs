//! Decides how the query of a listing is read: which names it has, the page's length and place.
//!
//! Leaves to others: what is listed. Invariant: a name that would not be honoured is refused, never
//! left unsaid, and no message repeats a value.

use std::str::FromStr;

use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use serde::Serialize;

use crate::refusal::Refusal;

/// What is expected where a subscription is named.
pub(crate) const SUBSCRIPTION: &str = "the id of a subscription, a whole number";

/// One page of a listing, and where the next one begins.
#[derive(Serialize)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) cursor: Option<String>,
}

/// What a query asks for.
pub(crate) struct Asked(Vec<(String, String)>);

/// How many items a page has unless the query says otherwise, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1_000;

impl Asked {
    /// Reads the query of a request that may have these names, each at most once.
    pub(crate) fn read(uri: &Uri, known: &[&str]) -> Result<Asked, Refusal> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| {
            let message = format!("the query is not a form of {}", known.join(", "));
            Refusal::new(StatusCode::BAD_REQUEST, "invalid", message)
        })?;
        for (place, (name, _)) in pairs.iter().enumerate() {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            if !known.contains(&name.as_str()) {
                let problem = format!("unknown parameter; expected one of {}", known.join(", "));
                return Err(Refusal::invalid(&shown, problem));
            }
            if pairs.iter().take(place).any(|(before, _)| before == name) {
                return Err(Refusal::invalid(&shown, "given twice; expected once"));
            }
        }
        Ok(Asked(pairs))
    }

    /// A text that may be left out; an empty one is as one that is left out.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(known, _)| known == name);
        pair.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// A value that may be left out.
    pub(crate) fn value<T: FromStr>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, Refusal> {
        let refused = |_| Refusal::invalid(name, format!("expected {expected}"));
        self.text(name).map(|text| text.parse().map_err(refused)).transpose()
    }

    /// Where the page begins.
    pub(crate) fn cursor<T: FromStr>(&self) -> Result<Option<T>, Refusal> {
        self.value("cursor", "the cursor of a page, as it came")
    }

    /// How many items the page may have.
    pub(crate) fn limit(&self) -> Result<usize, Refusal> {
        let expected = format!("a whole number from 1 to {LIMIT_MAX}");
        let limit = self.value("limit", &expected)?.unwrap_or(LIMIT);
        match (1..=LIMIT_MAX).contains(&limit) {
            true => Ok(limit),
            false => Err(Refusal::invalid("limit", format!("expected {expected}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Asked, Refusal> {
        let uri = format!("/dead-letters?{query}").parse().unwrap();
        Asked::read(&uri, &["limit", "cursor", "reason"])
    }

    #[test]
    fn what_is_asked_is_read_and_the_rest_is_as_usual() {
        let asked = read("limit=7&reason=status%3A404&cursor=").unwrap();
        assert_eq!((asked.limit().unwrap(), asked.text("reason")), (7, Some("status:404")));
        assert_eq!(asked.cursor::<u64>().unwrap(), None);
        assert_eq!(read("").unwrap().limit().unwrap(), LIMIT);
    }

    #[test]
    fn what_would_not_be_honoured_is_refused_by_name() {
        for (query, field) in [("colour=hidden", "colour"), ("limit=1&limit=2", "limit")] {
            let refusal = format!("{:?}", read(query).err().unwrap());
            assert!(refusal.contains(field) && !refusal.contains("hidden"), "{refusal}");
        }
        for query in ["limit=0", "limit=1001", "limit=x", "limit=-1"] {
            assert!(read(query).unwrap().limit().is_err(), "{query}");
        }
        assert!(read("cursor=x").unwrap().cursor::<u64>().is_err());
    }
}

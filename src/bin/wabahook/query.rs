//! The query of a listing: its parameters, the length of the page and where it begins. A parameter that
//! is not known is refused by name, and no message repeats a value.

use std::str::FromStr;

use axum::extract::Query;
use axum::http::{StatusCode, Uri};

use crate::caller::ACCOUNT;
use crate::http_error::HttpError;
use crate::timestamp::from_rfc3339;

/// The parameters of a query.
pub(crate) struct ListQuery(Vec<(String, String)>);

/// How many items a page has by default, and at most.
pub(crate) const LIMIT: usize = 100;
pub(crate) const LIMIT_MAX: usize = 1_000;

impl ListQuery {
    /// Reads a query that may have these parameters, and that of [`Caller`](crate::caller::Caller), each at most
    /// once.
    pub(crate) fn read(uri: &Uri, own: &[&str]) -> Result<ListQuery, HttpError> {
        let known = [own, &[ACCOUNT]].concat();
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| {
            let message = format!("the query is not a form of {}", known.join(", "));
            HttpError::new(StatusCode::BAD_REQUEST, "invalid", message)
        })?;
        for (index, (name, _)) in pairs.iter().enumerate() {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            if !known.contains(&name.as_str()) {
                let problem = format!("unknown parameter; expected one of {}", known.join(", "));
                return Err(HttpError::invalid(&shown, problem));
            }
            if pairs.iter().take(index).any(|(before, _)| before == name) {
                return Err(HttpError::invalid(&shown, "given twice; expected once"));
            }
        }
        Ok(ListQuery(pairs))
    }

    /// A text; an empty one counts as left out.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(known, _)| known == name);
        pair.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(crate) fn value<T: FromStr>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, HttpError> {
        let refused = |_| HttpError::invalid(name, format!("expected {expected}"));
        self.text(name).map(|text| text.parse().map_err(refused)).transpose()
    }

    /// A text of a member to match.
    pub(crate) fn part(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// A date and time, in milliseconds since the Unix epoch.
    pub(crate) fn time(&self, name: &str) -> Result<Option<u64>, HttpError> {
        let expected = "a date and time such as 2026-01-31T12:00:00Z";
        let refused = || HttpError::invalid(name, format!("expected {expected}"));
        self.text(name).map(|text| from_rfc3339(text).ok_or_else(refused)).transpose()
    }

    /// The page of a list that is in memory, and the cursor of the next one: the text of `id` of its last item.
    pub(crate) fn page<T>(
        &self,
        mut items: Vec<T>,
        id: impl Fn(&T) -> String,
    ) -> Result<(Vec<T>, Option<String>), HttpError> {
        let limit = self.limit()?;
        if let Some(cursor) = self.text("cursor") {
            let last = items.iter().position(|item| id(item) == cursor);
            let last = last.ok_or_else(HttpError::gone_cursor)?;
            items.drain(..=last);
        }
        let has_more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| has_more).map(id);
        Ok((items, next))
    }

    /// Where the page begins.
    pub(crate) fn cursor<T: FromStr>(&self) -> Result<Option<T>, HttpError> {
        self.value("cursor", "the cursor of a page, unchanged")
    }

    /// How many items the page may have.
    pub(crate) fn limit(&self) -> Result<usize, HttpError> {
        let expected = format!("a whole number from 1 to {LIMIT_MAX}");
        let limit = self.value("limit", &expected)?.unwrap_or(LIMIT);
        match (1..=LIMIT_MAX).contains(&limit) {
            true => Ok(limit),
            false => Err(HttpError::invalid("limit", format!("expected {expected}"))),
        }
    }
}

/// A text as a name or a value of a query.
pub(crate) fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<ListQuery, HttpError> {
        let uri = format!("/dead-letters?{query}").parse().unwrap();
        ListQuery::read(&uri, &["limit", "cursor", "reason"])
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let query = read("limit=7&reason=status%3A404&cursor=").unwrap();
        assert_eq!((query.limit().unwrap(), query.text("reason")), (7, Some("status:404")));
        assert_eq!(query.cursor::<u64>().unwrap(), None);
        assert_eq!(read("").unwrap().limit().unwrap(), LIMIT);
    }

    #[test]
    fn a_list_in_memory_has_pages() {
        let page = |query: &str| read(query).unwrap().page(vec![1, 2, 3], i32::to_string);
        assert_eq!(page("limit=2").unwrap(), (vec![1, 2], Some("2".to_owned())));
        assert_eq!(page("limit=2&cursor=2").unwrap(), (vec![3], None));
        assert_eq!(page("limit=3").unwrap(), (vec![1, 2, 3], None));
        assert!(page("cursor=4").is_err());
    }

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        for (query, field) in [("colour=hidden", "colour"), ("limit=1&limit=2", "limit")] {
            let error = format!("{:?}", read(query).err().unwrap());
            assert!(error.contains(field) && !error.contains("hidden"), "{error}");
        }
        for query in ["limit=0", "limit=1001", "limit=x", "limit=-1"] {
            assert!(read(query).unwrap().limit().is_err(), "{query}");
        }
        assert!(read("cursor=x").unwrap().cursor::<u64>().is_err());
    }
}

//! Where a page of a list over several engines begins and goes on: the pages of the first engine, then those of the next.
//! Pure.

use axum::extract::Query;
use axum::http::Uri;

use crate::http_error::HttpError;
use crate::query::{LIMIT, LIMIT_MAX, encoded};

/// A place in a list over several engines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListPlace {
    /// Which engine, counted from 0.
    pub(super) index: usize,
    /// The engine's own cursor; empty at its beginning.
    pub(super) cursor: String,
}

impl ListPlace {
    pub(super) fn text(&self) -> String {
        format!("{}.{}", self.index, self.cursor)
    }

    pub(super) fn first() -> ListPlace {
        ListPlace { index: 0, cursor: String::new() }
    }

    pub(super) fn read(text: &str) -> Option<ListPlace> {
        let (index, cursor) = text.split_once('.')?;
        Some(ListPlace { index: index.parse().ok()?, cursor: cursor.to_owned() })
    }
}

/// The query of a list.
#[derive(Debug)]
pub(super) struct PageQuery {
    pub(super) limit: usize,
    /// As it was given; empty at the beginning.
    pub(super) cursor: String,
    /// All other parameters.
    others: Vec<(String, String)>,
    path: String,
}

impl PageQuery {
    pub(super) fn read(uri: &Uri) -> Result<PageQuery, HttpError> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
        let Query(pairs) = pairs.map_err(|_| HttpError::invalid("query", "expected a form"))?;
        let (mut limit, mut cursor) = (LIMIT, String::new());
        let mut others = Vec::new();
        for (name, value) in pairs {
            match name.as_str() {
                "limit" => {
                    let given = value.parse().ok().filter(|given| (1..=LIMIT_MAX).contains(given));
                    let expected = format!("expected a whole number from 1 to {LIMIT_MAX}");
                    limit = given.ok_or_else(|| HttpError::invalid("limit", expected))?;
                }
                "cursor" => cursor = value,
                _ => others.push((name, value)),
            }
        }
        Ok(PageQuery { limit, cursor, others, path: uri.path().to_owned() })
    }

    /// What a function reads in the cursor; `first` where none is given.
    pub(super) fn place<T>(
        &self,
        first: impl FnOnce() -> T,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, HttpError> {
        let expected = || HttpError::invalid("cursor", "expected the cursor of a page");
        match self.cursor.as_str() {
            "" => Ok(first()),
            cursor => read(cursor).ok_or_else(expected),
        }
    }

    /// The value of another parameter.
    pub(super) fn other(&self, name: &str) -> Option<&str> {
        let found = self.others.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The address of a page of one engine.
    pub(super) fn uri(&self, limit: usize, cursor: &str) -> Uri {
        let mut query = format!("limit={limit}");
        let cursor = [("cursor".to_owned(), cursor.to_owned())];
        let cursor = cursor.iter().filter(|(_, cursor)| !cursor.is_empty());
        for (name, value) in self.others.iter().chain(cursor) {
            query.push_str(&format!("&{}={}", encoded(name), encoded(value)));
        }
        format!("{}?{query}", self.path).parse().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_names_the_engine_and_its_own_cursor() {
        let uri = "/dead-letters?limit=7&reason=a%20b%26c&cursor=3.x.y".parse().unwrap();
        let query = PageQuery::read(&uri).unwrap();
        let place = query.place(ListPlace::first, ListPlace::read).unwrap();
        assert_eq!((query.limit, place.index, place.cursor.as_str()), (7, 3, "x.y"));
        assert_eq!(place.text(), "3.x.y");
        let next = query.uri(5, "é+");
        assert_eq!(next, "/dead-letters?limit=5&reason=a%20b%26c&cursor=%C3%A9%2B");
        let first = PageQuery::read(&"/subscriptions".parse().unwrap()).unwrap();
        let place = first.place(ListPlace::first, ListPlace::read).unwrap();
        assert_eq!((first.limit, place.text().as_str()), (100, "0."));
        assert_eq!(first.uri(100, ""), "/subscriptions?limit=100");
    }

    #[test]
    fn a_wrong_limit_or_cursor_is_refused() {
        for query in ["limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=x.1"] {
            let uri = format!("/deliveries?{query}").parse().unwrap();
            let place = |query: PageQuery| query.place(ListPlace::first, ListPlace::read);
            let refused = format!("{:?}", PageQuery::read(&uri).and_then(place).unwrap_err());
            assert!(refused.contains(query.split('=').next().unwrap()), "{refused}");
        }
    }
}

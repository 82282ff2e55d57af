//! Makes one list of those that every host keeps for itself, such as the audit log: the newest items first, page by page.
//! The cursor of a page has the cursor of each host that has more. Pure.

use std::collections::{BTreeMap, VecDeque};

use axum::extract::Query;
use serde_json::Value;

use crate::query::encoded;

/// Where a list goes on: the cursor of each host that has more, by its name. It is empty where the host's list begins.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HostCursors(pub(super) BTreeMap<String, String>);

impl HostCursors {
    /// The cursor of the next page; `None` after the last.
    pub(super) fn text(&self) -> Option<String> {
        let hosts = self.0.iter().map(|(host, own)| format!("{}={}", encoded(host), encoded(own)));
        (!self.0.is_empty()).then(|| hosts.collect::<Vec<_>>().join("&"))
    }

    pub(super) fn read(text: &str) -> Option<HostCursors> {
        let pairs =
            Query::<Vec<(String, String)>>::try_from_uri(&format!("/?{text}").parse().ok()?);
        let Query(pairs) = pairs.ok()?;
        text.contains('=').then(|| HostCursors(pairs.into_iter().collect()))
    }
}

/// What a host answered.
pub(super) struct HostPage {
    pub(super) host: String,
    /// The cursor that was asked for, and then that of the last item taken.
    pub(super) from: String,
    /// The newest first. An item's own cursor is its `id`.
    pub(super) items: VecDeque<Value>,
    pub(super) cursor: Option<String>,
    /// The host did not answer.
    pub(super) is_missing: bool,
}

impl HostPage {
    /// When its next item was written, as sortable text.
    fn next_at(&self) -> Option<&str> {
        self.items.front()?.get("at")?.as_str()
    }

    /// Takes its next item, with the name of the host in it.
    fn take(&mut self) -> Option<Value> {
        let mut item = self.items.pop_front()?;
        self.from = item.get("id").map(Value::to_string).unwrap_or_default();
        if let Value::Object(members) = &mut item {
            members.insert("host".to_owned(), self.host.clone().into());
        }
        Some(item)
    }
}

/// The newest items of all pages, and where the list goes on: nowhere when only hosts that did not answer are left.
pub(super) fn merged(mut pages: Vec<HostPage>, limit: usize) -> (Vec<Value>, HostCursors) {
    let mut items = Vec::new();
    while items.len() < limit {
        // Of items of the same time, that of the first host comes first.
        let newest = pages.iter_mut().filter(|page| page.next_at().is_some());
        let newest = newest.min_by(|one, other| other.next_at().cmp(&one.next_at()));
        let Some(item) = newest.and_then(HostPage::take) else { break };
        items.push(item);
    }
    let has_more = |page: &HostPage| !page.items.is_empty() || page.cursor.is_some();
    if !pages.iter().any(has_more) {
        return (items, HostCursors::default());
    }
    let next = pages.into_iter().filter(|page| page.is_missing || has_more(page));
    (items, HostCursors(next.map(|page| (page.host, page.from)).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A host's log, as (id, minute), the newest first.
    type Log<'a> = (&'a str, &'a [(u64, u64)]);

    /// What a host answers: at most `limit` entries below a cursor.
    fn page((host, log): Log<'_>, from: &str, limit: usize) -> HostPage {
        let below: u64 = from.parse().unwrap_or(u64::MAX);
        let older: Vec<_> = log.iter().filter(|(id, _)| *id < below).collect();
        let items = older.iter().take(limit);
        let items: VecDeque<Value> =
            items.map(|(id, at)| json!({"id": id, "at": format!("{at:02}")})).collect();
        let cursor = (older.len() > limit).then(|| older[limit - 1].0.to_string());
        let (host, from) = (host.to_owned(), from.to_owned());
        HostPage { host, from, items, cursor, is_missing: false }
    }

    /// The page of a host that does not answer.
    fn no_page(host: &str, from: &str) -> HostPage {
        let (host, from) = (host.to_owned(), from.to_owned());
        HostPage { host, from, items: VecDeque::new(), cursor: None, is_missing: true }
    }

    fn all_pages(logs: &[Log<'_>], limit: usize) -> Vec<Vec<String>> {
        let first = logs.iter().map(|(host, _)| ((*host).to_owned(), String::new())).collect();
        let (mut cursors, mut pages) = (HostCursors(first), Vec::new());
        loop {
            let asked = logs.iter().filter_map(|log| Some((log, cursors.0.get(log.0)?)));
            let asked = asked.map(|(log, from)| page(*log, from, limit)).collect();
            let (items, next) = merged(asked, limit);
            let shown = |item: &Value| format!("{}{}", item["host"].as_str().unwrap(), item["id"]);
            pages.push(items.iter().map(shown).collect());
            match next.text() {
                Some(text) => cursors = HostCursors::read(&text).unwrap(),
                None => return pages,
            }
        }
    }

    #[test]
    fn pages_have_every_item_once_and_the_newest_first() {
        let logs: [Log<'_>; 3] = [
            ("a&b=", &[(9, 50), (8, 40), (7, 40), (2, 5)]),
            ("c", &[(4, 45), (3, 40)]),
            ("empty", &[]),
        ];
        let all = ["a&b=9", "c4", "a&b=8", "a&b=7", "c3", "a&b=2"];
        for limit in 1..=8 {
            let pages = all_pages(&logs, limit);
            assert_eq!(pages.concat(), all, "{limit} a page");
            assert!(pages.iter().rev().skip(1).all(|page| page.len() == limit), "{pages:?}");
        }
    }

    #[test]
    fn the_list_ends_while_a_host_is_missing() {
        let log: Log<'_> = ("a", &[(2, 20), (1, 10)]);
        let (items, next) = merged(vec![page(log, "", 1), no_page("b", "7")], 1);
        assert_eq!((items.len(), next.text().unwrap()), (1, "a=2&b=7".to_owned()));
        let (items, next) = merged(vec![page(log, "2", 1), no_page("b", "7")], 1);
        assert_eq!((items.len(), next.text()), (1, None));
        let (items, next) = merged(vec![no_page("b", "")], 1);
        assert_eq!((items.len(), next.text()), (0, None));
    }

    #[test]
    fn a_text_that_is_no_cursor_is_refused() {
        for text in ["17", "x", ""] {
            assert_eq!(HostCursors::read(text), None, "{text}");
        }
    }
}

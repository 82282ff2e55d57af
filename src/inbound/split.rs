//! Splits a callback among those who serve its accounts. Each part is a callback of the same shape that holds the changes
//! of some accounts, byte for byte, so that reading the parts gives the events of the whole.

use std::collections::BTreeMap;

use super::frame::{Frame, framed};
use super::malformed::{
    MalformedCallback, check_depth, check_json, entries_of, read_object, read_root,
};
use super::ownership::{ChangeNumber, EventOwner, ReadChange};
use crate::account::Accounts;
use crate::text::json::elements;

/// Splits the body of a callback: `place` says where an account is served, and where the changes that no account owns
/// are counted (`None`), as are malformed parts. A body of which all is in one place is returned unchanged.
///
/// # Errors
/// As [`events`](super::cloud_api::events).
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let engine = wabahook::Engine::open(wabahook::Config::new(directory.path()))?;
/// use wabahook::inbound::cloud_api;
/// let body = br#"{"entry":[{"id":"1","changes":[{"field":"flows","value":{}}]}]}"#;
/// let parts = cloud_api::split(body, engine.accounts(), |_account| 7)?;
/// assert_eq!(parts[&7], body);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn split<P: Ord + Copy>(
    body: &[u8],
    accounts: &Accounts,
    place: impl Fn(Option<&str>) -> P,
) -> Result<BTreeMap<P, Vec<u8>>, MalformedCallback> {
    let text = check_json(body)?;
    let object = read_root(text)?;
    let entries = entries_of(&object)?;
    let mut parts = BTreeMap::<P, Vec<String>>::new();
    for entry in entries {
        for (place, entry) in entry_parts(entry, accounts, &place) {
            parts.entry(place).or_default().push(entry);
        }
    }
    let frame = Frame::around_element(&object, "entry");
    if parts.len() < 2 {
        let only = parts.keys().next().copied();
        return Ok(BTreeMap::from([(only.unwrap_or_else(|| place(None)), body.to_vec())]));
    }
    let joined = |(place, entries): (P, Vec<String>)| {
        (place, framed(&[&frame], &entries.join(",")).into_bytes())
    };
    Ok(parts.into_iter().map(joined).collect())
}

/// An entry for each place that has changes of it. One that cannot be read stays whole.
fn entry_parts<P: Ord + Copy>(
    entry: &str,
    accounts: &Accounts,
    place: impl Fn(Option<&str>) -> P,
) -> BTreeMap<P, String> {
    let whole = |at: P| BTreeMap::from([(at, entry.to_owned())]);
    let path = || "entry".to_owned();
    let object = check_depth(path, entry).and_then(|()| read_object(path, entry));
    let Ok(object) = object else { return whole(place(None)) };
    let waba = object.as_ref().and_then(|entry| entry.id("id"));
    let changes = object.as_ref().and_then(|entry| entry.value("changes")).and_then(elements);
    let (Some(object), Some(changes)) = (&object, changes) else {
        let owner = EventOwner::find(accounts, &ChangeNumber::Absent, waba.as_deref());
        return whole(place(owner.as_ref().map(EventOwner::account)));
    };
    let mut parts = BTreeMap::<P, Vec<&str>>::new();
    for change in changes {
        let read = ReadChange::new(change, accounts, waba.as_deref(), |_| String::new());
        let owner = read.ok().and_then(|change| change.owner);
        parts.entry(place(owner.as_ref().map(EventOwner::account))).or_default().push(change);
    }
    if let (1 | 0, only) = (parts.len(), parts.keys().next()) {
        return whole(only.copied().unwrap_or_else(|| place(None)));
    }
    let frame = Frame::around_element(object, "changes");
    parts.into_iter().map(|(at, changes)| (at, framed(&[&frame], &changes.join(",")))).collect()
}

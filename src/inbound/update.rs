//! Decides what one update of a change is: its key, its dedup key, and the value that holds it alone.
//!
//! Leaves to others: whose it is and the callback around it (`cloud_api`). Invariant: a value made
//! here holds one update, and of several contacts only those of that update.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::malformed::{Malformed, read};
use super::raw::{Kept, Members, elements};

/// The two lists of updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Messages,
    Statuses,
}

impl List {
    fn name(self) -> &'static str {
        match self {
            List::Messages => "messages",
            List::Statuses => "statuses",
        }
    }

    pub(super) fn event_type(self) -> &'static str {
        match self {
            List::Messages => "MESSAGE_RECEIVED",
            List::Statuses => "MESSAGE_STATUS_UPDATE",
        }
    }
}

/// The updates that a change holds.
#[derive(Default)]
pub(super) struct Updates<'a> {
    pub(super) all: Vec<Update<'a>>,
    /// How many elements the lists have, those that are no objects too.
    pub(super) elements: usize,
}

/// One element of a list, with its members at hand.
pub(super) struct Update<'a> {
    pub(super) list: List,
    text: &'a str,
    members: Members<'a>,
}

impl<'a> Updates<'a> {
    /// Reads both lists of a change's value; `path` names a place inside the change.
    pub(super) fn read(
        value: &Members<'a>,
        path: impl Fn(&str) -> String,
    ) -> Result<Updates<'a>, Malformed> {
        let mut updates = Updates::default();
        for list in [List::Messages, List::Statuses] {
            let elements = value.value(list.name()).and_then(elements).unwrap_or_default();
            updates.elements += elements.len();
            for (index, text) in elements.into_iter().enumerate() {
                let place = || path(&format!(".value.{}[{index}]", list.name()));
                if let Some(members) = read(place, text)? {
                    updates.all.push(Update { list, text, members });
                }
            }
        }
        Ok(updates)
    }
}

impl<'a> Update<'a> {
    /// The contact, or the group, that the update is about. A user may hide the number and then has
    /// an id in its place.
    pub(super) fn key(&self) -> Option<Cow<'a, str>> {
        self.contact_ids().next()
    }

    fn contact_ids(&self) -> impl Iterator<Item = Cow<'a, str>> {
        self.texts(match self.list {
            List::Messages => ["from", "from_user_id"],
            List::Statuses => ["recipient_id", "recipient_user_id"],
        })
    }

    /// Who of a group the status is about.
    fn participants(&self) -> impl Iterator<Item = Cow<'a, str>> {
        let names = ["recipient_participant_id", "recipient_participant_user_id"];
        self.texts(names).filter(|_| self.list == List::Statuses)
    }

    fn texts(&self, names: [&'static str; 2]) -> impl Iterator<Item = Cow<'a, str>> {
        let text = |name| self.members.text(name).filter(|text| !text.is_empty());
        names.into_iter().filter_map(text)
    }

    /// What the update is known by when Meta sends it again.
    pub(super) fn dedup_key(&self) -> String {
        let [id, status] = ["id", "status"].map(|name| self.texts([name, name]).next());
        match (self.list, id, status) {
            (List::Messages, Some(id), _) => id.into_owned(),
            // Each participant of a group receives and reads the same message.
            (List::Statuses, Some(id), Some(status)) => match self.participants().next() {
                Some(participant) => format!("{id}:{status}:{participant}"),
                None => format!("{id}:{status}"),
            },
            _ => sha256_hex([self.text]),
        }
    }

    /// The change's value with this update alone.
    pub(super) fn alone(&self, value: &Members<'_>, contacts: &Contacts<'_>) -> String {
        let own = self.list.name();
        value.written(|name| match name {
            _ if name == own => Kept::With(format!("[{}]", self.text).into()),
            "messages" | "statuses" => Kept::Dropped,
            "contacts" => contacts.kept(self),
            _ => Kept::AsItIs,
        })
    }
}

/// The contacts of a change.
pub(super) enum Contacts<'a> {
    /// The only one stays with every update: some countries' numbers differ from their `wa_id`.
    One,
    ById(HashMap<Cow<'a, str>, Vec<&'a str>>),
}

impl<'a> Contacts<'a> {
    pub(super) fn read(value: &Members<'a>) -> Contacts<'a> {
        let all = value.value("contacts").and_then(elements).unwrap_or_default();
        if all.len() == 1 {
            return Contacts::One;
        }
        let mut by_id: HashMap<_, Vec<_>> = HashMap::new();
        for text in all {
            let Ok(contact) = Members::read(text) else { continue };
            for id in ["wa_id", "user_id"].iter().filter_map(|name| contact.text(name)) {
                by_id.entry(id).or_default().push(text);
            }
        }
        Contacts::ById(by_id)
    }

    fn kept<'t>(&self, update: &Update<'_>) -> Kept<'t> {
        let Contacts::ById(by_id) = self else { return Kept::AsItIs };
        // The other id may be the one that the contact shows.
        let ids = update.participants().chain(update.contact_ids());
        match ids.filter_map(|id| by_id.get(&id)).next() {
            Some(own) => Kept::With(format!("[{}]", own.join(",")).into()),
            None => Kept::Dropped,
        }
    }
}

/// The SHA-256 of the parts, one after the other, in hexadecimal digits.
pub(super) fn sha256_hex<'t>(parts: impl IntoIterator<Item = &'t str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
        hex
    })
}

//! The contacts of a change, and which of them belong to one of its updates.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use super::frame::MemberEdit;
use crate::text::json::{JsonObject, elements, repeated_name};

pub(super) struct Contacts<'a> {
    /// The texts of the contacts, in their order.
    all: Vec<&'a str>,
    /// The positions of the contacts with this `wa_id` or `user_id`.
    by_id: HashMap<Cow<'a, str>, Vec<usize>>,
    /// The user ids by `wa_id`.
    user_ids: HashMap<Cow<'a, str>, Cow<'a, str>>,
    /// The user id of the only contact of an only update, whose `wa_id` may differ from its number.
    only_user_id: Option<Cow<'a, str>>,
}

impl<'a> Contacts<'a> {
    /// Reads the contacts of a change's value with so many updates.
    pub(super) fn read(value: &JsonObject<'a>, updates: usize) -> Contacts<'a> {
        let all = value.value("contacts").and_then(elements).unwrap_or_default();
        let mut contacts =
            Contacts { by_id: HashMap::new(), user_ids: HashMap::new(), only_user_id: None, all };
        for index in 0..contacts.all.len() {
            contacts.index(index);
        }
        if contacts.all.len() != 1 || updates != 1 {
            contacts.only_user_id = None;
        }
        contacts
    }

    fn index(&mut self, index: usize) {
        let Some(text) = self.all.get(index) else { return };
        let Ok(contact) = JsonObject::parse(text) else { return };
        if repeated_name(&contact.0).is_some() {
            return;
        }
        let [wa_id, user_id] =
            ["wa_id", "user_id"].map(|name| contact.id(name).filter(|id| !id.is_empty()));
        for id in [&wa_id, &user_id].into_iter().flatten() {
            self.by_id.entry(id.clone()).or_default().push(index);
        }
        self.only_user_id.clone_from(&user_id);
        if let (Some(wa_id), Some(user_id)) = (wa_id, user_id) {
            self.user_ids.insert(wa_id, user_id);
        }
    }

    /// The user id of the contact with this number.
    pub(super) fn user_id_of(&self, number: Option<&str>) -> Option<Cow<'_, str>> {
        let user_id = number.and_then(|number| self.user_ids.get(number));
        user_id.or(self.only_user_id.as_ref()).map(|id| Cow::Borrowed(id.as_ref()))
    }

    /// The numbers of the contacts with their user ids.
    pub(super) fn user_ids(&self) -> impl Iterator<Item = (&str, &str)> {
        self.user_ids.iter().map(|(number, user)| (number.as_ref(), user.as_ref()))
    }

    /// The bytes of contacts that a payload may leave out.
    pub(super) fn droppable_bytes(&self) -> usize {
        if self.all.len() == 1 { 0 } else { self.all.iter().map(|text| text.len()).sum() }
    }

    /// How `contacts` changes in the payload of one update, which names these ids: it keeps every contact
    /// with one of them. An only contact stays with every update, because in some countries a number
    /// differs from its `wa_id`.
    pub(super) fn edit_for<'t>(&self, named_ids: &[Cow<'_, str>]) -> MemberEdit<'t> {
        if self.all.len() == 1 {
            return MemberEdit::Keep;
        }
        let named = named_ids.iter().filter_map(|id| self.by_id.get(id)).flatten();
        let named: BTreeSet<usize> = named.copied().collect();
        if named.is_empty() {
            return MemberEdit::Drop;
        }
        let texts: Vec<&str> =
            named.iter().filter_map(|index| self.all.get(*index).copied()).collect();
        MemberEdit::Replace(format!("[{}]", texts.join(",")).into())
    }
}

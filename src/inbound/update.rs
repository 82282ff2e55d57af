//! One update of a change: its ordering key, and the change's value with this update alone.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::contacts::Contacts;
use super::frame::{MemberEdit, rewritten};
use super::malformed::{MalformedCallback, read_object};
use crate::text::json::{JsonObject, elements, id};

/// A list of updates in the value of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpdateList {
    Messages,
    Statuses,
    /// Messages of a conversation that another application controls.
    Standby,
    /// Messages that the business sent from its own application.
    Echoes,
    Calls,
    CallStatuses,
    Preferences,
    /// A list without rules of its own, whose elements all have one type.
    Plain {
        name: &'static str,
        event_type: &'static str,
    },
}

impl UpdateList {
    pub(super) fn name(self) -> &'static str {
        match self {
            UpdateList::Messages | UpdateList::Standby => "messages",
            UpdateList::Statuses | UpdateList::CallStatuses => "statuses",
            UpdateList::Echoes => "message_echoes",
            UpdateList::Calls => "calls",
            UpdateList::Preferences => "user_preferences",
            UpdateList::Plain { name, .. } => name,
        }
    }
}

/// What a field of Meta's callbacks holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct FieldUpdates {
    /// The lists whose elements are updates.
    pub(super) lists: &'static [UpdateList],
    /// The list that counts where the others are empty.
    pub(super) otherwise: Option<UpdateList>,
    /// The type of a change without lists, which is one update as a whole.
    pub(super) whole: Option<&'static str>,
}

/// The updates that a change holds.
#[derive(Default)]
pub(super) struct Updates<'a> {
    pub(super) all: Vec<Update<'a>>,
    /// The number of elements in all lists, including those that are not objects.
    pub(super) elements: usize,
    /// The names of the lists.
    names: SmallVec<[&'static str; 2]>,
}

/// One element of a list.
pub(super) struct Update<'a> {
    pub(super) list: UpdateList,
    pub(super) text: &'a str,
    pub(super) object: JsonObject<'a>,
}

/// The group or contact in whose order an update is delivered.
pub(super) enum OrderingKey<'a> {
    /// A group or a user id.
    Final(Cow<'a, str>),
    /// A phone number, whose user id another update of the callback may show.
    Number(Cow<'a, str>),
}

impl<'a> Updates<'a> {
    /// Reads the lists of a change's value; `path` names a place inside the change.
    pub(super) fn read(
        field: &FieldUpdates,
        value: &JsonObject<'a>,
        path: impl Fn(&str) -> String,
    ) -> Result<Updates<'a>, MalformedCallback> {
        let mut updates = Updates::default();
        for list in field.lists {
            updates.read_list(*list, value, &path)?;
        }
        if let (0, Some(list)) = (updates.elements, field.otherwise) {
            updates.read_list(list, value, &path)?;
        }
        Ok(updates)
    }

    fn read_list(
        &mut self,
        list: UpdateList,
        value: &JsonObject<'a>,
        path: impl Fn(&str) -> String,
    ) -> Result<(), MalformedCallback> {
        let elements = value.value(list.name()).and_then(elements).unwrap_or_default();
        self.names.push(list.name());
        self.elements += elements.len();
        for (index, text) in elements.into_iter().enumerate() {
            let place = || path(&format!(".value.{}[{index}]", list.name()));
            if let Some(object) = read_object(place, text)? {
                self.all.push(Update { list, text, object });
            }
        }
        Ok(())
    }

    /// The value of their change with one of them alone.
    pub(super) fn value_alone(
        &self,
        update: &Update<'a>,
        value: &JsonObject<'_>,
        contacts: &Contacts<'_>,
    ) -> String {
        let own = update.list.name();
        rewritten(value, |name| match name {
            _ if name == own => MemberEdit::Replace(format!("[{}]", update.text).into()),
            _ if self.names.contains(&name) => MemberEdit::Drop,
            "contacts" => contacts.edit_for(&update.named_ids()),
            _ => MemberEdit::Keep,
        })
    }
}

impl<'a> Update<'a> {
    /// The group or the contact of the update, in whose order it is delivered.
    ///
    /// A contact is keyed by its user id where the change shows one, in the update or in `contacts`: later
    /// updates may hide the phone number, but not the user id.
    pub(super) fn ordering_key(&self, contacts: &'a Contacts<'a>) -> Option<OrderingKey<'a>> {
        if let Some(group) = self.group() {
            return Some(OrderingKey::Final(group));
        }
        let [number, user] = self.contact_ids();
        let user = user.or_else(|| contacts.user_id_of(number.as_deref()));
        user.map(OrderingKey::Final).or(number.map(OrderingKey::Number))
    }

    /// The number and the user id of the contact.
    pub(super) fn contact_ids(&self) -> [Option<Cow<'a, str>>; 2] {
        self.contact_members().map(|name| self.id(name))
    }

    /// The group that the update belongs to.
    fn group(&self) -> Option<Cow<'a, str>> {
        match self.list {
            UpdateList::Statuses => self.id("recipient_id").filter(|_| self.is_group_status()),
            _ => self.id("group_id"),
        }
    }

    /// Meta writes the member of a group that a status is about as `recipient_participant_id`, and in
    /// other places as `participant_recipient_id`.
    fn is_group_status(&self) -> bool {
        let is_group = self.id("recipient_type").is_some_and(|kind| kind == "group");
        let mut names = self.object.0.iter().filter_map(|member| member.name.as_deref());
        is_group || names.any(|name| name.contains("participant"))
    }

    /// Whether it is a call that the business started.
    pub(super) fn is_outgoing_call(&self) -> bool {
        self.id("direction").is_some_and(|direction| direction == "BUSINESS_INITIATED")
    }

    /// The members with the contact's number and user id. A payment status has no recipient but a sender.
    fn contact_members(&self) -> [&'static str; 2] {
        let recipient = ["recipient_id", "recipient_user_id"];
        let has_recipient = recipient.iter().any(|name| self.id(name).is_some());
        match self.list {
            UpdateList::Statuses | UpdateList::CallStatuses if has_recipient => recipient,
            UpdateList::Echoes => ["to", "to_user_id"],
            UpdateList::Calls if self.is_outgoing_call() => ["to", "to_user_id"],
            UpdateList::Preferences => ["wa_id", "user_id"],
            _ => ["from", "from_user_id"],
        }
    }

    /// A member that is a non-empty id.
    pub(super) fn id(&self, name: &str) -> Option<Cow<'a, str>> {
        self.object.id(name).filter(|id| !id.is_empty())
    }

    /// Every id in the members that name a contact, also in nested lists.
    fn named_ids(&self) -> Vec<Cow<'a, str>> {
        let mut ids = Vec::new();
        for member in &self.object.0 {
            let Some(name) = member.name.as_deref() else { continue };
            let is_contact = ["to", "wa_id", "user_id"].contains(&name)
                || ["from", "to_", "recipient", "participant"]
                    .iter()
                    .any(|part| name.contains(part));
            if is_contact {
                collect_ids(member.value.get(), &mut ids);
            }
        }
        ids
    }
}

/// The ids in a value and in everything nested in it. The depth is bounded with that of the body.
fn collect_ids<'a>(value: &'a str, ids: &mut Vec<Cow<'a, str>>) {
    if let Some(id) = id(value) {
        ids.push(id);
    } else if let Some(elements) = elements(value) {
        elements.into_iter().for_each(|element| collect_ids(element, ids));
    } else if let Ok(object) = JsonObject::parse(value) {
        object.0.iter().for_each(|member| collect_ids(member.value.get(), ids));
    }
}

//! Reads a callback of Meta's Cloud API into events. A payload holds one change or one update and no byte of
//! another's, and what it holds is unchanged to the byte. The work is linear in the size of the body and of
//! the payloads.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::contacts::Contacts;
use super::frame::{Frame, framed};
use super::identity::{ChangeMoment, bounded, hash, update_identity};
use super::malformed::{
    MalformedCallback, check_depth, check_json, entries_of, read_object, read_root,
};
use super::ownership::{ChangeNumber, EventOwner, ReadChange};
use super::update::{OrderingKey, Updates};
use super::update_type::{types_of, updates_of};
use crate::account::Accounts;
use crate::event::{Event, RAW_CLOUD_API_WEBHOOK};
use crate::text::json::{JsonObject, elements};

/// What a callback became.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Callback {
    /// The events to publish, in the callback's order: of each change its updates, then the change
    /// as RAW_CLOUD_API_WEBHOOK.
    pub events: Vec<Event>,
    /// The numbers and WABAs that no account owns, with the number of events each would have become.
    pub unowned: Vec<UnownedUpdates>,
    /// Why parts of the callback became no event, the first 100. The other parts are unaffected.
    pub malformed: Vec<MalformedCallback>,
    /// How many parts of the callback are malformed.
    pub malformed_parts: u64,
}

/// Updates of a callback whose number and WABA no account owns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnownedUpdates {
    /// The number as the callback names it; `None` where it names none.
    pub number: Option<String>,
    /// The id of the WABA; `None` where the callback names none.
    pub waba: Option<String>,
    /// The number of events that the updates would have become.
    pub events: u64,
}

/// The most events and bytes that a callback may become.
pub(super) struct CallbackBounds {
    pub(super) events_max: usize,
    pub(super) payload_bytes_max: usize,
    pub(super) bytes_max: usize,
}

/// The most malformed parts that a [`Callback`] describes.
const MALFORMED_MAX: usize = 100;

/// Bytes that all payloads may take, in addition to four times the body. An ordinary callback becomes
/// about twice its size; many updates that share one large field could become any multiple of it.
const SPLIT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The most events of one callback. Meta puts at most 1,000 updates into one.
const EVENTS_MAX: usize = 65_536;

/// Turns the body of one callback into events. [`publish`](super::cloud_api::publish) does this and
/// publishes them.
///
/// - Each element of `messages` in a change of the field `messages` becomes a MESSAGE_RECEIVED, each
///   element of `statuses` there a MESSAGE_STATUS_UPDATE.
/// - A `message_template_status_update` becomes a TEMPLATE_UPDATE. Its ordering key is the template's id.
/// - Every change becomes one RAW_CLOUD_API_WEBHOOK, whatever its field and shape. It has the ordering key of its
///   updates if they are all of one contact, and none otherwise. An entry without a list of changes becomes one as a whole.
///
/// The ordering key of a message or status is its group, else the user id of its contact where the entry
/// shows it (in an update or in `contacts`), else the contact's number.
///
/// The dedup key of a plain message is the number and its id; that of a `sent`, `delivered`, `read` or
/// `played` status is the number, the message's id, the status and the recipient. Every other update is
/// identified by the SHA-256 of its own bytes and the number, because Meta repeats ids: for each
/// participant of a group, in each attempt of a payment, in refunds and in failures. A change is identified
/// by the SHA-256 of its bytes, and by its WABA and the entry's `time` where it holds no updates: a
/// template that is approved, rejected and approved again makes the same bytes twice.
///
/// A payload is a callback of the same shape with one entry, one change and one update. `contacts`
/// keeps those that the update names, or the only one; everything else around the updates stays, byte for
/// byte. A body that holds a single update or a single change is passed on unchanged.
///
/// The number decides the account: that of a configured `phone_number_id`, else the display number, in
/// `metadata` or where changes about a number itself name it. A number that no account owns, and a change
/// without a number, belong to the owner of the WABA (`entry.id`, or `waba_info.waba_id`). The account that
/// a library host has by default owns everything.
///
/// A part that is malformed does not affect the others: an entry or change that names a member twice
/// where it decides something, that is nested more than 127 deep, or whose payloads exceed the bounds,
/// becomes no event and is listed in [`malformed`](Callback::malformed).
///
/// # Errors
/// [`MalformedCallback`] when the body is not JSON, is not an object, or has no single list `entry`. The caller
/// bounds the body; Meta sends at most 3 MB.
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let engine = wabahook::Engine::open(wabahook::Config::new(directory.path()))?;
/// use wabahook::inbound::cloud_api;
/// let body = br#"{"entry":[{"id":"1","changes":[{"field":"flows","value":{}}]}]}"#;
/// let callback = cloud_api::events(body, engine.accounts())?;
/// assert_eq!(callback.events[0].event_type(), "FLOW_UPDATE");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn events(body: &[u8], accounts: &Accounts) -> Result<Callback, MalformedCallback> {
    let bounds = CallbackBounds {
        events_max: EVENTS_MAX,
        payload_bytes_max: usize::MAX,
        bytes_max: usize::MAX,
    };
    events_within(body, accounts, &bounds)
}

/// As [`events`], within these bounds.
pub(super) fn events_within(
    body: &[u8],
    accounts: &Accounts,
    bounds: &CallbackBounds,
) -> Result<Callback, MalformedCallback> {
    let body = check_json(body)?;
    let object = read_root(body)?;
    let entries = entries_of(&object)?;
    let split_max = body.len().saturating_mul(4).saturating_add(SPLIT_BYTES_MAX);
    let mut reader = CallbackReader {
        accounts,
        bounds,
        callback: Callback::default(),
        unowned: BTreeMap::new(),
        bytes_left: split_max.min(bounds.bytes_max),
        keys: EntryKeys::default(),
    };
    let frame = Frame::around_element(&object, "entry");
    let whole = (entries.len() == 1).then_some(body);
    for (index, entry) in entries.iter().enumerate() {
        let events_before = reader.callback.events.len();
        reader.entry(index, entry, &frame, whole);
        reader.replace_numbers(events_before);
    }
    Ok(reader.into_callback())
}

/// Collects the events of one callback.
struct CallbackReader<'a> {
    accounts: &'a Accounts,
    bounds: &'a CallbackBounds,
    callback: Callback,
    /// The events without an owner by number and WABA.
    unowned: BTreeMap<(Option<String>, Option<String>), u64>,
    bytes_left: usize,
    keys: EntryKeys,
}

/// The ordering keys of the events of one entry. Its updates show the user ids of contacts of one business.
#[derive(Default)]
struct EntryKeys {
    user_ids: HashMap<String, String>,
    /// The positions of the events that are keyed by a number until the whole entry is read.
    by_number: Vec<(usize, String)>,
    /// Of each change, the positions of the events of its parts. The event of the whole change follows them.
    changes: Vec<Range<usize>>,
}

/// The position of a change in its callback.
struct ChangeContext<'p> {
    entry: usize,
    change: usize,
    waba: Option<&'p str>,
    time: Option<&'p str>,
    frames: [&'p Frame; 2],
    /// The callback, if it holds this change alone.
    whole: Option<&'p str>,
}

impl CallbackReader<'_> {
    fn into_callback(self) -> Callback {
        let unowned = self.unowned.into_iter();
        let unowned =
            unowned.map(|((number, waba), events)| UnownedUpdates { number, waba, events });
        Callback { unowned: unowned.collect(), ..self.callback }
    }

    /// Adds the events of an entry, or describes why it has none.
    fn entry(&mut self, index: usize, text: &str, outer: &Frame, whole: Option<&str>) {
        let place = || format!("entry[{index}]");
        let checked = check_depth(place, text).and_then(|()| read_object(place, text));
        let object = match checked {
            Ok(object) => object,
            Err(malformed) => return self.reject(malformed),
        };
        let waba = object.as_ref().and_then(|entry| entry.id("id"));
        let changes = object.as_ref().and_then(|entry| entry.value("changes")).and_then(elements);
        let (Some(object), Some(changes)) = (&object, changes) else {
            let payload = whole.map_or_else(|| framed(&[outer], text), str::to_owned);
            let added = self.opaque_entry(text, waba.as_deref(), payload);
            return self.settle(added, self.callback.events.len());
        };
        let time = object.id("time");
        let frame = Frame::around_element(object, "changes");
        for (change, text) in changes.iter().enumerate() {
            let context = ChangeContext {
                entry: index,
                change,
                waba: waba.as_deref(),
                time: time.as_deref(),
                frames: [outer, &frame],
                whole: whole.filter(|_| changes.len() == 1),
            };
            let events_before = self.callback.events.len();
            let added = self.change(text, &context);
            self.settle(added, events_before);
        }
    }

    /// Keys the events of contacts whose user id another update of the entry shows by that id, so that a
    /// contact has one key, and each change by the key that all its parts have, so that a purge of its only contact
    /// reaches it. Also notes the contact's number in its events. `first` is the position of the entry's first event.
    fn replace_numbers(&mut self, first: usize) {
        let EntryKeys { user_ids, by_number, changes } = std::mem::take(&mut self.keys);
        for (index, number) in by_number {
            let event = self.callback.events.get_mut(index);
            if let (Some(event), Some(user_id)) = (event, user_ids.get(&number)) {
                event.key = Some(bounded(Cow::Borrowed(user_id)));
            }
        }
        for parts in changes {
            let whole = parts.end;
            let parts = self.callback.events.get(parts).unwrap_or_default();
            let key = parts.first().and_then(|part| part.key.clone());
            let is_of_one = parts.iter().all(|part| part.key == key);
            if let Some(event) = self.callback.events.get_mut(whole).filter(|_| is_of_one) {
                event.key = key;
            }
        }
        let numbers = user_ids.into_iter();
        let numbers = numbers.map(|(number, user_id)| (bounded(Cow::Owned(user_id)), number));
        let numbers: HashMap<String, String> = numbers.collect();
        for event in self.callback.events.iter_mut().skip(first) {
            event.contact_number = event.key.as_ref().and_then(|key| numbers.get(key)).cloned();
        }
    }

    /// Drops the events of a part that turned out to be malformed.
    fn settle(&mut self, added: Result<(), MalformedCallback>, events_before: usize) {
        if let Err(malformed) = added {
            let by_number = &mut self.keys.by_number;
            by_number.truncate(by_number.partition_point(|(index, _)| *index < events_before));
            let dropped = self.callback.events.drain(events_before..);
            self.bytes_left += dropped.map(|event| event.payload.len()).sum::<usize>();
            self.reject(malformed);
        }
    }

    fn reject(&mut self, malformed: MalformedCallback) {
        self.callback.malformed_parts += 1;
        if self.callback.malformed.len() < MALFORMED_MAX {
            self.callback.malformed.push(malformed);
        }
    }

    /// An entry of a shape that Meta does not document: one event, routed by its WABA.
    fn opaque_entry(
        &mut self,
        text: &str,
        waba: Option<&str>,
        payload: String,
    ) -> Result<(), MalformedCallback> {
        match EventOwner::find(self.accounts, &ChangeNumber::Absent, waba) {
            Some(owner) => {
                self.add(owner.event(RAW_CLOUD_API_WEBHOOK, payload).dedup_key(hash([text])))
            }
            None => {
                self.add_unowned(&ChangeNumber::Absent, waba, 1);
                Ok(())
            }
        }
    }

    fn change(&mut self, text: &str, context: &ChangeContext<'_>) -> Result<(), MalformedCallback> {
        let path = |inner: &str| context.path(inner);
        let ReadChange { object, value, field, number, waba, owner } =
            ReadChange::new(text, self.accounts, context.waba, path)?;
        let of_field = updates_of(field.as_deref().unwrap_or_default());
        let updates = match &value {
            Some(value) => Updates::read(&of_field, value, path)?,
            None => Updates::default(),
        };
        let whole_type = of_field.whole.filter(|_| updates.elements == 0);
        let Some(owner) = owner else {
            let of_updates: usize = updates.all.iter().map(|one| types_of(one).len()).sum();
            let events = of_updates + usize::from(whole_type.is_some()) + 1;
            self.add_unowned(&number, waba.as_deref(), events as u64);
            return Ok(());
        };
        let number = number.text();
        let events_before = self.callback.events.len();
        if let (Some(object), Some(value)) = (&object, &value) {
            self.updates(&updates, object, value, context, (&owner, &number))?;
        }
        let payload = context.whole.map_or_else(|| framed(&context.frames, text), str::to_owned);
        let dedup_key = context.moment(&updates).hash(&[&number, text]);
        if let Some(event_type) = whole_type {
            let key = value.as_ref().and_then(whole_key);
            let event = owner.part(event_type, payload.clone());
            self.add(keyed(event, key).dedup_key(dedup_key.clone()))?;
        }
        let whole = self.callback.events.len();
        self.add(owner.event(RAW_CLOUD_API_WEBHOOK, payload).dedup_key(dedup_key))?;
        self.keys.changes.push(events_before..whole);
        Ok(())
    }

    fn updates(
        &mut self,
        updates: &Updates<'_>,
        change: &JsonObject<'_>,
        value: &JsonObject<'_>,
        context: &ChangeContext<'_>,
        (owner, number): (&EventOwner, &str),
    ) -> Result<(), MalformedCallback> {
        if updates.all.is_empty() {
            return Ok(());
        }
        let frame = Frame::around_value(change, "value");
        let [body, entry] = context.frames;
        let moment = context.moment(updates);
        let contacts = Contacts::read(value, updates.elements);
        self.check_shared(updates, value, &contacts)?;
        self.keys.learn(updates, &contacts);
        for update in &updates.all {
            let payload = match context.whole {
                Some(whole) if updates.elements == 1 => whole.to_owned(),
                _ => framed(&[body, entry, &frame], &updates.value_alone(update, value, &contacts)),
            };
            let identity = update_identity(update, number, &moment);
            for event_type in types_of(update) {
                let event = owner.part(event_type, payload.clone());
                let event = self.keyed_by_contact(event, update.ordering_key(&contacts));
                self.add(event.dedup_key(identity.clone()))?;
            }
        }
        Ok(())
    }

    /// Gives the next event its ordering key. A number is replaced by the user id that the entry shows for it.
    fn keyed_by_contact(&mut self, event: Event, key: Option<OrderingKey<'_>>) -> Event {
        match key {
            Some(OrderingKey::Number(number)) => {
                let index = self.callback.events.len();
                self.keys.by_number.push((index, number.clone().into_owned()));
                keyed(event, Some(number))
            }
            Some(OrderingKey::Final(key)) => keyed(event, Some(key)),
            None => event,
        }
    }

    /// Refuses updates that share more than there is room for, before the first copy of it is made.
    fn check_shared(
        &self,
        updates: &Updates<'_>,
        value: &JsonObject<'_>,
        contacts: &Contacts<'_>,
    ) -> Result<(), MalformedCallback> {
        let own: usize = updates.all.iter().map(|update| update.text.len()).sum();
        let all: usize = value.0.iter().map(|member| member.value.get().len()).sum();
        let shared = all.saturating_sub(own).saturating_sub(contacts.droppable_bytes());
        match shared.saturating_mul(updates.all.len()) > self.bytes_left {
            true => Err(shares_too_much()),
            false => Ok(()),
        }
    }

    fn add(&mut self, event: Event) -> Result<(), MalformedCallback> {
        let bytes = event.payload.len();
        let refused = |found: &str, expected| Err(MalformedCallback::new("body", found, expected));
        if bytes > self.bounds.payload_bytes_max {
            return refused(
                "an update that is too large",
                "an update of at most payload_bytes_max",
            );
        }
        if self.callback.events.len() >= self.bounds.events_max {
            return refused(
                "too many updates",
                "updates that become at most queue_events_max events",
            );
        }
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(shares_too_much)?;
        self.callback.events.push(event);
        Ok(())
    }

    fn add_unowned(&mut self, number: &ChangeNumber, waba: Option<&str>, events: u64) {
        let number = number.text();
        let number = (!number.is_empty()).then(|| excerpt(&number));
        *self.unowned.entry((number, waba.map(excerpt))).or_default() += events;
    }
}

impl EntryKeys {
    /// Remembers the user ids that a change shows.
    fn learn(&mut self, updates: &Updates<'_>, contacts: &Contacts<'_>) {
        for (number, user_id) in contacts.user_ids() {
            self.user_ids.insert(number.to_owned(), user_id.to_owned());
        }
        for update in &updates.all {
            if let [Some(number), Some(user_id)] = update.contact_ids() {
                self.user_ids.insert(number.into_owned(), user_id.into_owned());
            }
        }
    }
}

impl<'p> ChangeContext<'p> {
    fn path(&self, inner: &str) -> String {
        format!("entry[{}].changes[{}]{inner}", self.entry, self.change)
    }

    fn moment(&self, updates: &Updates<'_>) -> ChangeMoment<'p> {
        // An error of the platform holds neither an id nor a time.
        let have_own_time = updates.all.iter().any(|update| update.list.name() != "errors");
        match have_own_time {
            true => ChangeMoment::Updates,
            false => {
                let (waba, time) = (self.waba.unwrap_or_default(), self.time.unwrap_or_default());
                ChangeMoment::Entry { waba, time }
            }
        }
    }
}

/// The ordering key of a change that is one update: its template, or its only contact.
fn whole_key<'a>(value: &JsonObject<'a>) -> Option<Cow<'a, str>> {
    value.id("message_template_id").or_else(|| {
        let contacts = value.value("contacts").and_then(elements)?;
        let [contact] = contacts.as_slice() else { return None };
        let contact = JsonObject::parse(contact).ok()?;
        contact.id("user_id").or_else(|| contact.id("wa_id"))
    })
}

fn shares_too_much() -> MalformedCallback {
    let expected = "updates that, split, take at most queue_bytes_max, and at most 64 MiB and four times \
                    the body";
    MalformedCallback::new("body", "updates that share too much with each other", expected)
}

fn keyed(event: Event, key: Option<Cow<'_, str>>) -> Event {
    match key {
        Some(key) if !key.is_empty() => event.key(bounded(key)),
        _ => event,
    }
}

/// The beginning of a text of a callback, fit to be shown.
fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

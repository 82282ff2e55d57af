//! Decides which events a callback of Meta's Cloud API becomes, whose they are and what each holds.
//!
//! Leaves to others: who asked for them (`routing`), and the check of the sender
//! ([`verify`], before anything here). Invariants: a payload holds one change or one update and no
//! byte of another's; what it holds of the callback is unchanged to the byte; the work is linear in
//! the size of the body and of what comes out.

use std::borrow::Cow;

use super::malformed::{json, kind_of, malformed, read};
use super::raw::{Around, Members, elements, text};
use super::update::{Contacts, Updates, sha256_hex};
use crate::account::{Account, Accounts};
use crate::event::{Event, RAW_CLOUD_API_WEBHOOK, WabaNumber};

pub use super::malformed::Malformed;
pub use super::verification::{Refused, challenge, verify};

/// What a callback became.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Callback {
    /// The events to publish, in the callback's order: of each change its updates, then the change
    /// as RAW_CLOUD_API_WEBHOOK.
    pub events: Vec<Event>,
    /// How many more there would be if somebody owned their number or WABA. Hand it to
    /// [`Engine::count_unrouted`](crate::Engine::count_unrouted), so that it stays visible.
    pub unowned: u64,
}

/// Bytes that all payloads may take, beyond four times the body. An ordinary callback makes about
/// twice its size; many updates that share one large field could make any multiple of it.
const SPLIT_BYTES_MAX: usize = 64 * 1024 * 1024;

const TEMPLATE_FIELD: &str = "message_template_status_update";

/// Turns the body of one callback into events.
///
/// - Each element of `messages` in a change of the field `messages` becomes a MESSAGE_RECEIVED. Its
///   key is the contact (`from`, or `from_user_id` where a user hides the number), its dedup key the
///   message's id.
/// - Each element of `statuses` there becomes a MESSAGE_STATUS_UPDATE. Its key is `recipient_id` (or
///   `recipient_user_id`), its dedup key is `<message id>:<status>`, and for a group
///   `<message id>:<status>:<participant>`, because each participant reads for itself.
/// - A `message_template_status_update` becomes a TEMPLATE_UPDATE. Its key is the template's id.
/// - Every change becomes one RAW_CLOUD_API_WEBHOOK, whatever its field and shape. It has no key,
///   since it may hold several contacts. An entry without a list of changes becomes one as a whole.
///
/// The dedup key of a change is the SHA-256 of its bytes, in hexadecimal digits. A change that has no
/// number carries nothing of its own moment (a template approved, rejected and approved again makes
/// the same bytes twice), so its WABA and the entry's `time` go into that hash too; they are the same
/// when Meta delivers the callback again. An update without an id has the SHA-256 of its own bytes;
/// one that is no object is in RAW_CLOUD_API_WEBHOOK alone.
///
/// A payload is a callback of the same shape with one entry, one change and one update. `contacts`
/// keeps those of the update's contact (or the only one there is); everything else beside the updates
/// stays, byte for byte. A body that holds a single update or a single change is passed on untouched.
///
/// The number (`metadata.phone_number_id` where it is configured, else
/// `metadata.display_phone_number`) decides the account; the WABA (`entry.id`) decides only where
/// there is no number. A number that cannot be read has no owner. The account that a library host
/// has by default owns everything.
///
/// # Errors
/// [`Malformed`] when the body is not JSON, not an object, nested more than 127 deep, has no list
/// `entry`, names a member twice where that decides something, or would take more than four times its
/// size and 64 MiB when split. The caller bounds the body; Meta's end at 3 MB.
///
/// ```
/// use wabahook::inbound::cloud_api;
/// use wabahook::{Accounts, Engine, Secret};
///
/// fn received(
///     engine: &Engine, accounts: &Accounts, app_secret: &Secret, header: Option<&str>, body: &[u8],
/// ) -> Result<(), Box<dyn std::error::Error>> {
///     cloud_api::verify(app_secret, header, body)?;          // else 401, and nothing is stored
///     let callback = cloud_api::events(body, accounts)?;     // else 400
///     engine.count_unrouted(callback.unowned);
///     engine.publish_many(callback.events)?.wait()?;         // durable: now answer 200
///     Ok(())
/// }
/// ```
pub fn events(body: &[u8], accounts: &Accounts) -> Result<Callback, Malformed> {
    let body = json(body)?;
    let expected = "an object with a list named entry";
    let members =
        read(|| "body".into(), body)?.ok_or_else(|| malformed("body", kind_of(body), expected))?;
    let entries = members.value("entry").and_then(elements).ok_or_else(|| {
        let found = members.value("entry").map_or("nothing", kind_of);
        malformed("entry", found, "a list of entries")
    })?;

    let bytes_left = body.len().saturating_mul(4).saturating_add(SPLIT_BYTES_MAX);
    let mut reading = Reading { accounts, callback: Callback::default(), bytes_left };
    let around = members.around_list("entry");
    let whole = (entries.len() == 1).then_some(body);
    for (place, entry) in entries.iter().enumerate() {
        reading.entry(place, entry, &around, whole)?;
    }
    Ok(reading.callback)
}

/// One callback on its way to events.
struct Reading<'a> {
    accounts: &'a Accounts,
    callback: Callback,
    bytes_left: usize,
}

/// Where a change stands in its callback.
struct Place<'p> {
    entry: usize,
    change: usize,
    waba: Option<&'p str>,
    time: Option<&'p str>,
    around: [&'p Around; 2],
    /// The callback, if it holds this change alone.
    whole: Option<&'p str>,
}

/// Whose an event is.
struct Route<'r> {
    account: &'r Account,
    number: Option<WabaNumber>,
    waba: Option<&'r str>,
}

/// What a change says of its number.
enum Number {
    Is(WabaNumber),
    Absent,
    /// There is one, and it cannot be told which.
    Unreadable,
}

impl Reading<'_> {
    fn entry(
        &mut self,
        place: usize,
        text: &str,
        outer: &Around,
        whole: Option<&str>,
    ) -> Result<(), Malformed> {
        let members = read(|| format!("entry[{place}]"), text)?;
        let waba = members.as_ref().and_then(|entry| entry.text("id"));
        let changes = members.as_ref().and_then(|entry| entry.value("changes")).and_then(elements);
        let (Some(members), Some(changes)) = (&members, changes) else {
            return self.opaque_entry(text, waba.as_deref(), outer, whole);
        };
        let time = members.text("time");
        let around = members.around_list("changes");
        for (change, text) in changes.iter().enumerate() {
            let place = Place {
                entry: place,
                change,
                waba: waba.as_deref(),
                time: time.as_deref(),
                around: [outer, &around],
                whole: whole.filter(|_| changes.len() == 1),
            };
            self.change(text, &place)?;
        }
        Ok(())
    }

    /// An entry of a shape that Meta's documents do not know: one event, by its WABA.
    fn opaque_entry(
        &mut self,
        text: &str,
        waba: Option<&str>,
        outer: &Around,
        whole: Option<&str>,
    ) -> Result<(), Malformed> {
        let Some(route) = route(self.accounts, &Number::Absent, waba) else {
            self.callback.unowned += 1;
            return Ok(());
        };
        let payload = whole.map_or_else(|| wrapped(&[outer], text), str::to_owned);
        self.add(route.event(RAW_CLOUD_API_WEBHOOK, payload).dedup_key(sha256_hex([text])))
    }

    fn change(&mut self, text: &str, place: &Place<'_>) -> Result<(), Malformed> {
        let members = read(|| place.path(""), text)?;
        let value = match members.as_ref().and_then(|change| change.value("value")) {
            Some(value) => read(|| place.path(".value"), value)?,
            None => None,
        };
        let field = members.as_ref().and_then(|change| change.text("field"));
        let number = number(self.accounts, value.as_ref(), place)?;
        let updates = match (&value, field.as_deref()) {
            (Some(value), Some("messages")) => Updates::read(value, |inner| place.path(inner))?,
            _ => Updates::default(),
        };
        let template = field.as_deref() == Some(TEMPLATE_FIELD);
        let Some(route) = route(self.accounts, &number, place.waba) else {
            let made = updates.all.len() + usize::from(template) + 1;
            self.callback.unowned += u64::try_from(made).unwrap_or(u64::MAX);
            return Ok(());
        };
        if let (Some(members), Some(value)) = (&members, &value) {
            self.updates(&updates, members, value, place, &route)?;
        }
        let payload = place.whole.map_or_else(|| wrapped(&place.around, text), str::to_owned);
        let dedup_key = change_key(text, place, &route);
        if template {
            let id = value.as_ref().and_then(|value| value.text("message_template_id"));
            let event = route.part("TEMPLATE_UPDATE", payload.clone());
            self.add(keyed(event, id).dedup_key(dedup_key.clone()))?;
        }
        self.add(route.event(RAW_CLOUD_API_WEBHOOK, payload).dedup_key(dedup_key))
    }

    fn updates(
        &mut self,
        updates: &Updates<'_>,
        change: &Members<'_>,
        value: &Members<'_>,
        place: &Place<'_>,
        route: &Route<'_>,
    ) -> Result<(), Malformed> {
        if updates.all.is_empty() {
            return Ok(());
        }
        let around = change.around("value");
        let [body, entry] = place.around;
        let contacts = Contacts::read(value);
        for update in &updates.all {
            let payload = match place.whole {
                Some(whole) if updates.elements == 1 => whole.to_owned(),
                _ => wrapped(&[body, entry, &around], &update.alone(value, &contacts)),
            };
            let event = route.part(update.list.event_type(), payload);
            self.add(keyed(event, update.key()).dedup_key(update.dedup_key()))?;
        }
        Ok(())
    }

    fn add(&mut self, event: Event) -> Result<(), Malformed> {
        let left = self.bytes_left.checked_sub(event.payload.len()).ok_or_else(|| {
            let expected = "updates that, split, take at most 64 MiB and four times the body";
            malformed("body", "updates that share too much with each other", expected)
        })?;
        self.bytes_left = left;
        self.callback.events.push(event);
        Ok(())
    }
}

impl Place<'_> {
    fn path(&self, inner: &str) -> String {
        format!("entry[{}].changes[{}]{inner}", self.entry, self.change)
    }
}

impl Route<'_> {
    fn event(&self, kind: &str, payload: String) -> Event {
        let mut event = Event::new(kind, payload).account(self.account.name());
        event.number = self.number.map(Ok);
        event.waba = self.waba.map(str::to_owned);
        event
    }

    /// An event beside the one that holds its whole change: gateways that know callbacks only whole
    /// do not get it.
    fn part(&self, kind: &str, payload: String) -> Event {
        Event { is_part: true, ..self.event(kind, payload) }
    }
}

fn keyed(event: Event, key: Option<Cow<'_, str>>) -> Event {
    match key {
        Some(key) => event.key(key),
        None => event,
    }
}

fn route<'r>(accounts: &'r Accounts, number: &Number, waba: Option<&'r str>) -> Option<Route<'r>> {
    let owner = match number {
        Number::Is(number) => accounts.owner_of_number(*number),
        Number::Absent => waba.and_then(|waba| accounts.owner_of_waba(waba)),
        Number::Unreadable => None,
    };
    let open = || accounts.iter().next().filter(|account| accounts.is_open(account));
    let account = owner.or_else(open)?;
    let number = if let Number::Is(number) = number { Some(*number) } else { None };
    // A number may come under a WABA that was not configured for its account. The number decided;
    // naming the other WABA would have the event refused or sent to another's subscribers.
    let waba = waba.filter(|waba| accounts.may_use_waba(account, waba));
    Some(Route { account, number, waba })
}

fn number(
    accounts: &Accounts,
    value: Option<&Members<'_>>,
    place: &Place<'_>,
) -> Result<Number, Malformed> {
    let metadata = match value.and_then(|value| value.value("metadata")) {
        Some(metadata) => read(|| place.path(".value.metadata"), metadata)?,
        None => None,
    };
    let Some(metadata) = metadata else { return Ok(Number::Absent) };
    let given = |name| metadata.value(name).filter(|value| *value != "null");
    let by_id = metadata.text("phone_number_id").and_then(|id| accounts.number_of(&id));
    Ok(match (by_id, given("display_phone_number")) {
        (Some(number), _) => Number::Is(number),
        (None, Some(shown)) => {
            text(shown).and_then(|shown| shown.parse().ok()).map_or(Number::Unreadable, Number::Is)
        }
        (None, None) if given("phone_number_id").is_some() => Number::Unreadable,
        (None, None) => Number::Absent,
    })
}

/// Names a change for dedup: by its bytes, and by WABA and time where it has no number.
fn change_key(text: &str, place: &Place<'_>, route: &Route<'_>) -> String {
    if route.number.is_some() {
        return sha256_hex([text]);
    }
    sha256_hex([text, "\n", place.waba.unwrap_or(""), "\n", place.time.unwrap_or("")])
}

/// A callback with `inner` at the place that all the parts around leave open.
fn wrapped(around: &[&Around], inner: &str) -> String {
    let frame: usize = around.iter().map(|part| part.before.len() + part.after.len()).sum();
    let mut out = String::with_capacity(frame + inner.len());
    around.iter().for_each(|part| out.push_str(&part.before));
    out.push_str(inner);
    around.iter().rev().for_each(|part| out.push_str(&part.after));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const BATCH: &str = include_str!("../../docs/samples/cloud_batch_two_wabas_three_numbers.json");

    /// The two accounts of the batch: one WABA each; the third number is the second account's.
    fn two() -> Accounts {
        accounts(vec![
            Account::new("acme")
                .waba("100000000000001", ["919000000001", "919000000002"])
                .phone_number_id("200000000000002", "919000000002"),
            Account::new("beta").waba("100000000000002", ["919000000003"]),
        ])
    }

    fn accounts(all: Vec<Account>) -> Accounts {
        Accounts::new(all).unwrap()
    }

    fn open() -> Accounts {
        accounts(Vec::new())
    }

    fn read_events(body: &str, accounts: &Accounts) -> Callback {
        events(body.as_bytes(), accounts).unwrap()
    }

    /// Type, account, number, WABA, key and dedup key, as one line.
    fn line(event: &Event) -> String {
        let number = event.number.as_ref().map(|number| number.as_ref().unwrap().to_string());
        let or = |text: Option<&str>| text.unwrap_or("-").to_owned();
        [
            event.kind.clone(),
            or(event.account.as_deref()),
            or(number.as_deref()),
            or(event.waba.as_deref()),
            or(event.key.as_deref()),
            or(event.dedup_key.as_deref()),
        ]
        .join(" ")
    }

    fn lines(callback: &Callback) -> Vec<String> {
        callback.events.iter().map(line).collect()
    }

    fn payload(event: &Event) -> &str {
        std::str::from_utf8(&event.payload).unwrap()
    }

    fn value_of(event: &Event) -> Value {
        serde_json::from_slice(&event.payload).unwrap()
    }

    /// The text of one change, as it stands in its callback.
    fn change_text(body: &str, entry: usize, change: usize) -> &str {
        let entries = elements(Members::read(body).unwrap().value("entry").unwrap()).unwrap();
        let entry = Members::read(entries[entry]).unwrap();
        elements(entry.value("changes").unwrap()).unwrap()[change]
    }

    fn check_single(body: &str, expected: [&str; 2]) {
        let callback = read_events(body, &open());
        let seen: Vec<String> = lines(&callback);
        assert_eq!(callback.unowned, 0);
        assert_eq!(seen.len(), 2, "{seen:?}");
        for (event, (seen, expected)) in callback.events.iter().zip(seen.iter().zip(expected)) {
            assert!(seen.starts_with(expected), "{seen} is not {expected}");
            assert_eq!(payload(event), body, "untouched");
        }
    }

    #[test]
    fn each_sample_with_one_update_is_passed_on_untouched_as_typed_and_as_raw() {
        for (body, key, expected) in [
            (
                include_str!("../../docs/samples/cloud_message_text.json"),
                "972123456789 1234567890987654321",
                "MESSAGE_RECEIVED default 972123456789 1234567890987654321 972987654321 wamid.xyzxyz",
            ),
            (
                include_str!("../../docs/samples/cloud_status_sent.json"),
                "972123456789 5467539754836534",
                "MESSAGE_STATUS_UPDATE default 972123456789 5467539754836534 972987654321 \
                 wamid.xyzxyz:sent",
            ),
            (
                include_str!("../../docs/samples/cloud_status_read.json"),
                "972123456789 5467539754836534",
                "MESSAGE_STATUS_UPDATE default 972123456789 5467539754836534 972987654321 \
                 wamid.xyzxyz:read",
            ),
            (
                include_str!("../../docs/samples/cloud_escaped_raw_bytes.json"),
                "919000000001 100000000000001",
                "MESSAGE_RECEIVED default 919000000001 100000000000001 919812300001 wamid.ESC0001",
            ),
        ] {
            let sha = sha256_hex([change_text(body, 0, 0)]);
            let raw = format!("RAW_CLOUD_API_WEBHOOK default {key} - {sha}");
            check_single(body, [expected, &raw]);
        }
        check_single(
            include_str!("../../docs/samples/cloud_template_status_rejected.json"),
            [
                "TEMPLATE_UPDATE default - 102290129340398 1689556908129835 ",
                "RAW_CLOUD_API_WEBHOOK default - 102290129340398 - ",
            ],
        );
    }

    #[test]
    fn a_batch_of_two_accounts_becomes_each_ones_own_events_in_order() {
        let callback = read_events(BATCH, &two());
        let sha = |entry, change| sha256_hex([change_text(BATCH, entry, change)]);
        let template =
            sha256_hex([change_text(BATCH, 1, 0), "\n", "100000000000002", "\n", "1700000020"]);
        let first = "acme 919000000001 100000000000001";
        let second = "acme 919000000002 100000000000001";
        let third = "beta 919000000003 100000000000002";
        assert_eq!(
            lines(&callback),
            [
                format!("MESSAGE_RECEIVED {first} 919812300001 wamid.TEST0001"),
                format!("MESSAGE_RECEIVED {first} 919812300001 wamid.TEST0002"),
                format!("RAW_CLOUD_API_WEBHOOK {first} - {}", sha(0, 0)),
                format!("MESSAGE_STATUS_UPDATE {second} 919812300002 wamid.OUT0001:read"),
                format!("MESSAGE_STATUS_UPDATE {second} 919812300002 wamid.OUT0001:delivered"),
                format!("RAW_CLOUD_API_WEBHOOK {second} - {}", sha(0, 1)),
                format!("TEMPLATE_UPDATE beta - 100000000000002 1 {template}"),
                format!("RAW_CLOUD_API_WEBHOOK beta - 100000000000002 - {template}"),
                format!("MESSAGE_RECEIVED {third} 919812300001 wamid.TEST0003"),
                format!("RAW_CLOUD_API_WEBHOOK {third} - {}", sha(1, 1)),
            ]
        );
        assert_eq!(callback.unowned, 0);
    }

    #[test]
    fn no_payload_of_a_batch_holds_a_byte_of_anothers() {
        // What tells each event of the batch, in its order, from all the others.
        let own: [&[&str]; 10] = [
            &["TEST0001", "919000000001", "200000000000001", "Asha"],
            &["TEST0002", "919000000001", "200000000000001", "Asha"],
            &["TEST0001", "TEST0002", "919000000001", "200000000000001", "Asha"],
            &["OUT0001", "\"read\"", "919812300002", "919000000002", "200000000000002"],
            &["OUT0001", "\"delivered\"", "919812300002", "919000000002", "200000000000002"],
            &[
                "OUT0001",
                "\"read\"",
                "\"delivered\"",
                "919812300002",
                "919000000002",
                "200000000000002",
            ],
            &["promo"],
            &["promo"],
            &["TEST0003", "919000000003", "200000000000003"],
            &["TEST0003", "919000000003", "200000000000003"],
        ];
        let all: Vec<&str> = own.concat();
        let callback = read_events(BATCH, &two());
        assert_eq!(callback.events.len(), own.len());
        for (event, own) in callback.events.iter().zip(own) {
            for mark in &all {
                let holds = payload(event).contains(mark);
                assert_eq!(holds, own.contains(mark), "{mark} in {}", line(event));
            }
            let waba = event.waba.as_deref().unwrap();
            for other in ["100000000000001", "100000000000002"] {
                assert_eq!(payload(event).contains(other), other == waba, "{}", line(event));
            }
        }
    }

    #[test]
    fn a_payload_of_a_batch_is_a_callback_with_all_that_stood_around_its_update() {
        let callback = read_events(BATCH, &two());
        let batch: Value = serde_json::from_str(BATCH).unwrap();
        let mut expected = batch.clone();
        expected["entry"] = json!([batch["entry"][0]]);
        expected["entry"][0]["changes"] = json!([batch["entry"][0]["changes"][0]]);
        assert_eq!(value_of(&callback.events[2]), expected);
        let messages = &batch["entry"][0]["changes"][0]["value"]["messages"];
        expected["entry"][0]["changes"][0]["value"]["messages"] = json!([messages[1]]);
        assert_eq!(value_of(&callback.events[1]), expected);
        let template = value_of(&callback.events[6]);
        assert_eq!(template["entry"][0]["time"], json!(1700000020), "the entry keeps its time");
        assert_eq!(template, value_of(&callback.events[7]));
        assert!(payload(&callback.events[2]).contains(change_text(BATCH, 0, 0)), "byte for byte");
    }

    #[test]
    fn what_stays_in_a_split_event_keeps_every_byte() {
        let first =
            r#"{ "from":"911111111111","id" : "a\/\u0062","n":1.50e+2, "t":"\ud83d\ude00"}"#;
        let second = r#"{"from":"912222222222","id":"second"}"#;
        let body = format!(
            r#"{{"object":"\u0077","x":[1,  2],"entry":[{{"z":-0.0,"id":"1","changes":[{{"field":"m\u0065ssages","k":{{ }},"value":{{"m\u0065tadata":{{"display_phone_number":"+91 90000 00001" }},"messages":[{first},{second}],"later":"\/"}}}}]}}]}} "#
        );
        let callback = read_events(&body, &open());
        // Spaces between the members that were opened are not kept; all within a value are.
        let split = body.trim_end().replace(&format!(",{second}"), "");
        assert_eq!(payload(&callback.events[0]), split);
        assert_eq!(callback.events[0].dedup_key.as_deref(), Some("a/b"));
        assert!(payload(&callback.events[1]).contains(second));
        assert!(!payload(&callback.events[1]).contains(first));
        assert_eq!(payload(&callback.events[2]), body, "the only change: untouched");
    }

    /// A callback of one entry with these changes.
    fn callback_of(waba: &str, changes: &[Value]) -> String {
        json!({"object": "whatsapp_business_account", "entry": [{"id": waba, "changes": changes}]})
            .to_string()
    }

    fn messages(number: &str, contacts: Value, messages: Value) -> Value {
        json!({"field": "messages", "value": {
            "metadata": {"display_phone_number": number, "phone_number_id": "7"},
            "contacts": contacts, "messages": messages,
        }})
    }

    fn check_contacts(contacts: Value, expected: &[Option<Value>]) {
        let sent = json!([
            {"from": "911111111111", "from_user_id": "IN.1", "id": "m1"},
            {"from_user_id": "IN.2", "id": "m2"},
        ]);
        let callback =
            read_events(&callback_of("1", &[messages("919000000001", contacts, sent)]), &open());
        for (event, expected) in callback.events.iter().zip(expected) {
            let value = &value_of(event)["entry"][0]["changes"][0]["value"];
            assert_eq!(value.get("contacts"), expected.as_ref(), "{}", line(event));
        }
    }

    #[test]
    fn a_split_event_keeps_the_contacts_of_its_own_update() {
        let one = json!({"wa_id": "911111111111", "profile": {"name": "one"}});
        let two = json!({"user_id": "IN.2", "profile": {"name": "two"}});
        let other = json!({"wa_id": "913333333333"});
        check_contacts(json!([one, two]), &[Some(json!([one])), Some(json!([two]))]);
        check_contacts(json!([other, two]), &[None, Some(json!([two]))]);
        check_contacts(json!([other]), &[Some(json!([other])), Some(json!([other]))]);
        check_contacts(json!({"wa_id": "911111111111"}), &[None, None]);
        let by_user = json!({"user_id": "IN.1"});
        check_contacts(json!([by_user, two]), &[Some(json!([by_user])), Some(json!([two]))]);
    }

    #[test]
    fn updates_without_the_usual_names_are_keyed_and_deduplicated_by_what_they_have() {
        let value = json!({
            "metadata": {"display_phone_number": "919000000001"},
            "messages": [{"from_user_id": "IN.2", "id": "m1"}, {"from": "91"}, "no object", 5],
            "statuses": [
                {"id": "g", "status": "read", "recipient_id": "group",
                 "recipient_participant_id": "911111111111"},
                {"id": "g", "status": "read", "recipient_id": "group",
                 "recipient_participant_user_id": "IN.2"},
                {"id": "g", "recipient_id": "911111111111"},
                {"id": 12, "status": "sent"},
            ],
        });
        let body = callback_of("1", &[json!({"field": "messages", "value": value})]);
        let seen = lines(&read_events(&body, &open()));
        let sha = |update: &Value| sha256_hex([update.to_string().as_str()]);
        let message = "MESSAGE_RECEIVED default 919000000001 1";
        let status = "MESSAGE_STATUS_UPDATE default 919000000001 1";
        assert_eq!(
            seen[..6],
            [
                format!("{message} IN.2 m1"),
                format!("{message} 91 {}", sha(&value["messages"][1])),
                format!("{status} group g:read:911111111111"),
                format!("{status} group g:read:IN.2"),
                format!("{status} 911111111111 {}", sha(&value["statuses"][2])),
                format!("{status} - 12:sent"),
            ]
        );
        assert_eq!(seen.len(), 7, "what is no object is in RAW alone: {seen:?}");
    }

    fn check_route(accounts: &Accounts, waba: Value, metadata: Value, expected: Option<&str>) {
        let value = json!({"metadata": metadata, "messages": [{"from": "91", "id": "m"}]});
        let change = json!({"field": "messages", "value": value});
        let given = json!({"entry": [{"id": waba, "changes": [change]}]}).to_string();
        let callback = read_events(&given, accounts);
        let routes: Vec<String> = lines(&callback)
            .iter()
            .map(|line| line.split(' ').skip(1).take(3).collect::<Vec<_>>().join(" "))
            .collect();
        let expected: Vec<&str> = expected.into_iter().cycle().take(2).collect();
        assert_eq!(routes, expected, "{given}");
        assert_eq!(callback.unowned, 2 - u64::try_from(routes.len()).unwrap(), "{given}");
    }

    #[test]
    fn the_number_decides_and_the_waba_only_where_there_is_no_number() {
        let two = two();
        let (first, second) = (json!("100000000000001"), json!("100000000000002"));
        let shown = |number: &str| json!({"display_phone_number": number});
        for (waba, metadata, expected) in [
            (&first, shown("+91 90000-00001"), Some("acme 919000000001 100000000000001")),
            (
                &first,
                json!({"display_phone_number": 919000000001_u64}),
                Some("acme 919000000001 100000000000001"),
            ),
            // The configured id wins over the display number.
            (
                &first,
                json!({"display_phone_number": "919000000003", "phone_number_id": "200000000000002"}),
                Some("acme 919000000002 100000000000001"),
            ),
            (
                &first,
                json!({"phone_number_id": "200000000000002"}),
                Some("acme 919000000002 100000000000001"),
            ),
            // Another account's WABA is not named beside the number that decided.
            (&second, shown("919000000001"), Some("acme 919000000001 -")),
            (&json!(100000000000001_u64), json!({}), Some("acme - 100000000000001")),
            (&first, json!(null), Some("acme - 100000000000001")),
            (&first, json!({"display_phone_number": null}), Some("acme - 100000000000001")),
            (&second, json!("shapeless"), Some("beta - 100000000000002")),
            // A number that is not owned, or cannot be read, is not replaced by the WABA.
            (&first, shown("919000000009"), None),
            (&first, shown("unknown"), None),
            (&first, json!({"display_phone_number": {}}), None),
            (&first, json!({"phone_number_id": "9"}), None),
            (&json!("9"), json!({}), None),
            (&json!(null), json!({}), None),
        ] {
            check_route(&two, waba.clone(), metadata, expected);
        }
    }

    #[test]
    fn the_account_of_a_library_host_owns_what_comes() {
        let open = open();
        check_route(
            &open,
            json!("9"),
            json!({"display_phone_number": "919000000009"}),
            Some("default 919000000009 9"),
        );
        check_route(&open, json!("9"), json!({"display_phone_number": "x"}), Some("default - 9"));
        check_route(&open, json!(null), json!({}), Some("default - -"));
    }

    #[test]
    fn what_nobody_owns_is_counted_and_leaves_the_others_as_they_are() {
        let beta = accounts(vec![Account::new("beta").waba("100000000000002", ["919000000003"])]);
        let callback = read_events(BATCH, &beta);
        let all = read_events(BATCH, &two());
        assert_eq!(callback.unowned, 6);
        assert_eq!(lines(&callback), lines(&all)[6..]);
        let payloads = |callback: &Callback| -> Vec<Vec<u8>> {
            callback.events.iter().map(|event| event.payload.clone()).collect()
        };
        assert_eq!(payloads(&callback), payloads(&all)[6..]);
    }

    fn check_raw(entry: Value, routed_by: &str) {
        let bystander = json!({"id": "100000000000002", "changes": [{"field": "x"}]});
        let body = json!({"entry": [entry, bystander]}).to_string();
        let callback = read_events(&body, &two());
        let seen = lines(&callback);
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen[0].starts_with(&format!("RAW_CLOUD_API_WEBHOOK {routed_by} - ")), "{seen:?}");
        assert_eq!(value_of(&callback.events[0]), json!({"entry": [entry]}));
        assert_eq!(value_of(&callback.events[1]), json!({"entry": [bystander]}));
    }

    #[test]
    fn unknown_fields_and_shapes_still_route_as_raw() {
        let waba = "100000000000001";
        let by_waba = "acme - 100000000000001";
        let by_number = "acme 919000000001 100000000000001";
        let value = json!({"metadata": {"display_phone_number": "919000000001"},
            "messages": [{"id": "m"}]});
        for (change, routed_by) in [
            (json!({"field": "account_update", "value": {"event": "X"}}), by_waba),
            (json!({"field": "messages", "value": [1]}), by_waba),
            (json!({"field": "messages"}), by_waba),
            (json!({"field": 5, "value": value}), by_number),
            (json!({"value": value}), by_number),
            (json!({"field": "message_echoes", "value": value}), by_number),
            (json!("no object"), by_waba),
            (json!(null), by_waba),
        ] {
            check_raw(json!({"id": waba, "changes": [change]}), routed_by);
        }
        check_raw(json!({"id": waba, "messaging": [{"sender": 1}]}), by_waba);
        check_raw(json!({"id": waba, "changes": {"field": "messages"}}), by_waba);
    }

    #[test]
    fn a_change_without_a_number_is_known_by_its_moment_too() {
        let body = |event: &str, waba: &str, time: u64| {
            let change = json!({"field": TEMPLATE_FIELD, "value": {"event": event}});
            json!({"entry": [{"id": waba, "time": time, "changes": [change]}]}).to_string()
        };
        let keys = |body: &str| -> Vec<String> {
            let callback = read_events(body, &open());
            callback.events.into_iter().filter_map(|event| event.dedup_key).collect()
        };
        let approved = keys(&body("APPROVED", "1", 10));
        assert_eq!(approved, keys(&body("APPROVED", "1", 10)), "the same callback again");
        assert_eq!(approved[0], approved[1], "typed and raw");
        for other in
            [body("REJECTED", "1", 10), body("APPROVED", "1", 12), body("APPROVED", "2", 10)]
        {
            assert_ne!(approved, keys(&other), "{other}");
        }
    }

    fn check_malformed(body: &str, place: &str, found: &str) {
        let error = events(body.as_bytes(), &open()).unwrap_err();
        assert_eq!((error.place.as_str(), error.found.as_str()), (place, found), "{error}");
        assert!(!error.expected.is_empty());
        assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
    }

    #[test]
    fn a_malformed_body_is_refused_by_the_place_and_without_showing_it() {
        for (body, place, found) in [
            ("", "body", "something that is not JSON at line 1, column 0"),
            ("hidden", "body", "something that is not JSON at line 1, column 1"),
            ("{\"hidden\":}", "body", "something that is not JSON at line 1, column 11"),
            ("{} {}", "body", "something that is not JSON at line 1, column 4"),
            ("[\"hidden\"]", "body", "a list"),
            ("\"hidden\"", "body", "a string"),
            (" null", "body", "null"),
            ("{}", "entry", "nothing"),
            (include_str!("../../docs/samples/onprem_message_text.json"), "entry", "nothing"),
            (r#"{"entry":"hidden"}"#, "entry", "a string"),
            (r#"{"entry":{"hidden":1}}"#, "entry", "an object"),
            (r#"{"entry":7}"#, "entry", "a number"),
            (r#"{"entry":true}"#, "entry", "a boolean"),
            (r#"{"entry":[],"entry":["hidden"]}"#, "body", "a member named twice"),
            (r#"{"entry":[0,{"id":1,"i\u0064":2}]}"#, "entry[1]", "a member named twice"),
            (
                r#"{"entry":[{"changes":[{"value":{},"value":"hidden"}]}]}"#,
                "entry[0].changes[0]",
                "a member named twice",
            ),
            (
                r#"{"entry":[{"changes":[{"value":{"metadata":{"a":1,"a":2}}}]}]}"#,
                "entry[0].changes[0].value.metadata",
                "a member named twice",
            ),
            (
                r#"{"entry":[{"changes":[{"field":"messages","value":{"messages":[{},{"id":1,"id":2}]}}]}]}"#,
                "entry[0].changes[0].value.messages[1]",
                "a member named twice",
            ),
        ] {
            check_malformed(body, place, found);
        }
        let error = events(b"{\"hidden\":\"\xff\"}", &open()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "body: found bytes that are not UTF-8 after byte 11; expected JSON in UTF-8"
        );
    }

    #[test]
    fn nesting_is_bounded_at_what_a_reader_of_the_payload_can_read() {
        let nested = |levels: usize| {
            format!(r#"{{"entry":[],"x":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1))
        };
        assert!(events(nested(127).as_bytes(), &open()).is_ok());
        assert!(serde_json::from_str::<Value>(&nested(127)).is_ok());
        check_malformed(&nested(128), "body", "arrays and objects nested 128 deep");
        check_malformed(&nested(500_000), "body", "arrays and objects nested 500000 deep");
    }

    #[test]
    fn many_updates_that_share_a_large_field_are_refused_before_they_fill_the_memory() {
        let updates = |count: usize, shared: usize| {
            let ids: Vec<Value> = (0..count).map(|id| json!({"id": id})).collect();
            let mut change = messages("919000000001", json!([]), json!(ids));
            change["value"]["shared"] = json!("x".repeat(shared));
            callback_of("1", &[change])
        };
        assert_eq!(read_events(&updates(1000, 10_000), &open()).events.len(), 1001);
        let found = "updates that share too much with each other";
        check_malformed(&updates(1000, 100_000), "body", found);
    }

    #[test]
    fn a_full_batch_is_split_with_each_contact_found_once() {
        let sent: Vec<Value> =
            (0..1000).map(|n| json!({"from": n.to_string(), "id": format!("m{n}")})).collect();
        let contacts: Vec<Value> = (0..1000).map(|n| json!({"wa_id": n.to_string()})).collect();
        let body = callback_of("1", &[messages("919000000001", json!(contacts), json!(sent))]);
        let callback = read_events(&body, &open());
        assert_eq!(callback.events.len(), 1001);
        for (n, event) in callback.events.iter().take(1000).enumerate() {
            let value = &value_of(event)["entry"][0]["changes"][0]["value"];
            assert_eq!(value["contacts"], json!([{"wa_id": n.to_string()}]));
            assert_eq!(value["messages"], json!([sent[n]]));
        }
    }

    /// Any JSON, rich in the names that decide something.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            Just(json!("messages")),
            Just(json!("919000000001")),
            Just(json!("100000000000001")),
        ];
        let name = prop_oneof![
            Just("entry"),
            Just("changes"),
            Just("id"),
            Just("time"),
            Just("field"),
            Just("value"),
            Just("metadata"),
            Just("messages"),
            Just("statuses"),
            Just("contacts"),
            Just("display_phone_number"),
            Just("from"),
            Just("x\"\\"),
        ];
        leaf.prop_recursive(10, 200, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map(name.clone().prop_map(String::from), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn any_change() -> impl Strategy<Value = Value> {
        let number = prop_oneof![
            Just("919000000001"),
            Just("919000000002"),
            Just("919000000003"),
            Just("919000000009"),
            Just("none"),
        ];
        let contact = || "9[0-9]{1}".prop_map(Value::from);
        let update = (contact(), "[a-z\"\\\\]{0,6}", any_json()).prop_map(|(who, id, any)| {
            json!({"id": id, "status": "read", "from": who, "recipient_id": who, "any": any})
        }).boxed();
        let updates = || prop::collection::vec(update.clone(), 0..4);
        let contacts = prop::collection::vec(contact(), 0..4);
        (number, updates(), updates(), contacts, any_json()).prop_map(
            |(number, messages, statuses, contacts, any)| {
                let contacts: Vec<Value> =
                    contacts.into_iter().map(|who| json!({"wa_id": who})).collect();
                json!({"field": "messages", "any": any, "value": {
                    "metadata": {"display_phone_number": number}, "any": any,
                    "contacts": contacts, "messages": messages, "statuses": statuses,
                }})
            },
        )
    }

    proptest! {
        #[test]
        fn no_json_makes_it_panic(body in any_json(), entry in any_json(), change in any_json()) {
            for body in [
                body.clone(),
                json!({"entry": [body, entry]}),
                json!({"entry": [{"id": "100000000000001", "changes": [entry, change]}]}),
                json!({"entry": [{"changes": [{"field": "messages", "value": change}]}]}),
            ] {
                let text = body.to_string();
                for accounts in [open(), two()] {
                    if let Ok(callback) = events(text.as_bytes(), &accounts) {
                        for event in callback.events {
                            prop_assert!(serde_json::from_slice::<Value>(&event.payload).is_ok());
                        }
                    }
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = events(&body, &open());
        }

        #[test]
        fn each_owned_change_is_raw_once_and_each_owned_update_typed_once(
            entries in prop::collection::vec(prop::collection::vec(any_change(), 0..4), 0..4),
        ) {
            let accounts = two();
            let body = json!({"object": "o", "entry": entries.iter().map(|changes| {
                json!({"id": "100000000000001", "changes": changes})
            }).collect::<Vec<_>>()});
            let callback = events(body.to_string().as_bytes(), &accounts).unwrap();
            let (mut raw, mut typed, mut unowned) = (Vec::new(), Vec::new(), 0);
            for change in entries.iter().flatten() {
                let value = &change["value"];
                let lists = [&value["messages"], &value["statuses"]];
                let updates = lists.iter().flat_map(|list| list.as_array().unwrap());
                let number = value["metadata"]["display_phone_number"].as_str().unwrap();
                if ["919000000009", "none"].contains(&number) {
                    unowned += 1 + updates.count();
                } else {
                    raw.push(change.to_string());
                    typed.extend(updates.map(Value::to_string));
                }
            }
            prop_assert_eq!(callback.unowned, u64::try_from(unowned).unwrap());
            let (mut raw_seen, mut typed_seen) = (Vec::new(), Vec::new());
            for event in &callback.events {
                let written = value_of(event);
                prop_assert_eq!(written["entry"].as_array().unwrap().len(), 1);
                prop_assert_eq!(written["entry"][0]["changes"].as_array().unwrap().len(), 1);
                let change = change_text(payload(event), 0, 0);
                if event.kind == RAW_CLOUD_API_WEBHOOK {
                    raw_seen.push(change.to_owned());
                    continue;
                }
                let value = Members::read(Members::read(change).unwrap().value("value").unwrap());
                let updates: Vec<String> = ["messages", "statuses"]
                    .iter()
                    .filter_map(|list| value.as_ref().unwrap().value(list))
                    .flat_map(|list| elements(list).unwrap())
                    .map(str::to_owned)
                    .collect();
                prop_assert_eq!(updates.len(), 1);
                typed_seen.extend(updates);
            }
            prop_assert_eq!(raw_seen, raw);
            prop_assert_eq!(typed_seen, typed);
        }
    }
}

//! Finds the account that an event of a callback belongs to: by its number, else by its WABA.

use std::borrow::Cow;
use std::sync::Arc;

use super::identity::bounded;
use super::malformed::{MalformedCallback, read_object};
use crate::account::{AccountInfo, Accounts};
use crate::event::{Event, WabaNumber};
use crate::text::json::{JsonObject, id};

/// The number that a change names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChangeNumber {
    Is(WabaNumber),
    /// A `phone_number_id` that is not configured, or a text that is not a number.
    Unknown(String),
    Absent,
}

impl ChangeNumber {
    /// The number as text, which also distinguishes two unknown numbers.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            ChangeNumber::Is(number) => Cow::Owned(number.to_string()),
            ChangeNumber::Unknown(text) => Cow::Borrowed(text),
            ChangeNumber::Absent => Cow::Borrowed(""),
        }
    }
}

/// The owner of an event, with what the event says of its origin.
pub(super) struct EventOwner {
    account: Arc<AccountInfo>,
    number: Option<WabaNumber>,
    waba: Option<String>,
}

impl EventOwner {
    /// The number decides. A number that no account owns belongs to the owner of its WABA.
    pub(super) fn find(
        accounts: &Accounts,
        number: &ChangeNumber,
        waba: Option<&str>,
    ) -> Option<EventOwner> {
        let of_waba = waba.and_then(|waba| accounts.owner_of_waba(waba));
        let owner = match number {
            ChangeNumber::Is(given) => owner_of_number(accounts, *given, of_waba),
            ChangeNumber::Unknown(_) | ChangeNumber::Absent => {
                of_waba.map(|account| (account, None))
            }
        };
        let given = if let ChangeNumber::Is(given) = number { Some(*given) } else { None };
        let (account, own_number) = owner.or_else(|| Some((accounts.open_account()?, given)))?;
        // The number may come under the WABA of another account, which must not get the event. Without a
        // number the event would go to the webhooks of all numbers of the WABA: also a number that is
        // unknown is not one of theirs.
        let may_name = !matches!(number, ChangeNumber::Unknown(_)) || account.is_open();
        let waba = waba
            .filter(|waba| may_name && !waba.is_empty() && accounts.may_use_waba(&account, waba));
        let waba = waba.map(|waba| bounded(Cow::Borrowed(waba)));
        Some(EventOwner { account, number: own_number, waba })
    }

    pub(super) fn account(&self) -> &str {
        self.account.id()
    }

    pub(super) fn event(&self, kind: &str, payload: String) -> Event {
        let mut event = Event::new(kind, payload).account(self.account.id());
        event.number = self.number.map(Ok);
        event.waba.clone_from(&self.waba);
        event
    }

    /// An event made from a part of a change, in addition to the event that holds the whole change. Gateways that
    /// know only whole callbacks do not receive it.
    pub(super) fn part(&self, kind: &str, payload: String) -> Event {
        Event { is_part: true, ..self.event(kind, payload) }
    }
}

/// The account of a number, with the number as it is configured there.
fn owner_of_number(
    accounts: &Accounts,
    given: WabaNumber,
    of_waba: Option<Arc<AccountInfo>>,
) -> Option<(Arc<AccountInfo>, Option<WabaNumber>)> {
    if let Some(account) = accounts.owner_of_number(given) {
        return Some((account, Some(given)));
    }
    let respelled = given
        .other_spelling()
        .and_then(|number| Some((accounts.owner_of_number(number)?, Some(number))));
    match (of_waba, respelled) {
        (Some(of_waba), Some((account, number))) if of_waba.id == account.id => {
            Some((account, number))
        }
        (Some(of_waba), _) => Some((of_waba, Some(given))),
        (None, respelled) => respelled,
    }
}

/// A change, with what decides whose it is.
pub(super) struct ReadChange<'c> {
    pub(super) object: Option<JsonObject<'c>>,
    pub(super) value: Option<JsonObject<'c>>,
    pub(super) field: Option<Cow<'c, str>>,
    pub(super) number: ChangeNumber,
    pub(super) waba: Option<Cow<'c, str>>,
    pub(super) owner: Option<EventOwner>,
}

impl<'c> ReadChange<'c> {
    /// `path` names a place inside the change.
    pub(super) fn new(
        text: &'c str,
        accounts: &Accounts,
        waba_of_entry: Option<&'c str>,
        path: impl Fn(&str) -> String,
    ) -> Result<ReadChange<'c>, MalformedCallback> {
        let object = read_object(|| path(""), text)?;
        let value = match object.as_ref().and_then(|change| change.value("value")) {
            Some(value) => read_object(|| path(".value"), value)?,
            None => None,
        };
        let field = object.as_ref().and_then(|change| change.id("field"));
        let number = change_number(accounts, field.as_deref(), value.as_ref(), &path)?;
        // Changes about a partner's customers name their WABA, in an entry with the id of the partner's business.
        let info = match value.as_ref().and_then(|value| value.value("waba_info")) {
            Some(info) => read_object(|| path(".value.waba_info"), info)?,
            None => None,
        };
        let named = info.and_then(|info| info.id("waba_id")).filter(|id| !id.is_empty());
        let waba = named.or(waba_of_entry.map(Cow::Borrowed));
        let owner = EventOwner::find(accounts, &number, waba.as_deref());
        Ok(ReadChange { object, value, field, number, waba, owner })
    }
}

/// The number that a change is about. Most changes name it in `metadata`, others at a place of their own.
fn change_number(
    accounts: &Accounts,
    field: Option<&str>,
    value: Option<&JsonObject<'_>>,
    path: impl Fn(&str) -> String,
) -> Result<ChangeNumber, MalformedCallback> {
    let Some(value) = value else { return Ok(ChangeNumber::Absent) };
    for inner in ["metadata", "recipient", "phone_number_settings"] {
        if inner == "recipient" && field != Some("messaging_handovers") {
            continue;
        }
        let Some(text) = value.value(inner) else { continue };
        let Some(object) = read_object(|| path(&format!(".value.{inner}")), text)? else {
            continue;
        };
        match named_number(accounts, &object, "phone_number_id", "display_phone_number") {
            ChangeNumber::Absent => {}
            number => return Ok(number),
        }
    }
    let is_alert = value.id("entity_type").is_some_and(|kind| kind == "PHONE_NUMBER");
    let of_id = if is_alert { "entity_id" } else { "phone_number_id" };
    Ok(match named_number(accounts, value, of_id, "display_phone_number") {
        ChangeNumber::Absent if field == Some("account_update") => {
            named_number(accounts, value, of_id, "phone_number")
        }
        number => number,
    })
}

/// The number in these members of an object: that of a configured id, else the display number.
fn named_number(
    accounts: &Accounts,
    object: &JsonObject<'_>,
    id_name: &str,
    display_name: &str,
) -> ChangeNumber {
    let given = |name| object.value(name).filter(|value| *value != "null");
    if let Some(number) = object.id(id_name).and_then(|id| accounts.number_of(&id)) {
        return ChangeNumber::Is(number);
    }
    let Some(shown) = given(display_name) else {
        return given(id_name).map_or(ChangeNumber::Absent, unknown);
    };
    match id(shown).and_then(|shown| shown.parse().ok()) {
        Some(number) => ChangeNumber::Is(number),
        None => unknown(given(id_name).unwrap_or(shown)),
    }
}

fn unknown(value: &str) -> ChangeNumber {
    ChangeNumber::Unknown(id(value).unwrap_or(Cow::Borrowed(value)).into_owned())
}

//! Accounts as the operator sees and changes them, what a reload of the configuration changed, and where a backup is
//! written. A key is in an answer once, when it is made.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wabahook::{
    Account, AccountChanges, AccountInfo, AccountLimits, AccountState, AccountUsage, ApiKey,
    WabaNumber,
};

use super::account_limits::{AccountLimitsJson, AccountUsageJson};
use super::problem::JsonProblem;
use super::values::{Patch, Text, TimestampJson, patches};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountWabaJson {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) numbers: Vec<Text<WabaNumber>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) phone_number_ids: BTreeMap<String, Text<WabaNumber>>,
}

patches! {
    /// An account to create, or members of it to change.
    pub(crate) struct AccountChangeJson {
        name: String,
        wabas: Vec<AccountWabaJson>,
        number: Text<WabaNumber>,
        state: Text<AccountState>,
        limits: AccountLimitsJson,
    }
}

/// An API key, without the key itself.
#[derive(Serialize, Deserialize)]
pub(crate) struct ApiKeyJson {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created_at: TimestampJson,
    pub(crate) last_used_at: Option<TimestampJson>,
    pub(crate) expires_at: Option<TimestampJson>,
    pub(crate) declared: bool,
}

/// An account as the operator sees it.
#[derive(Serialize, Deserialize)]
pub(crate) struct AccountListing {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: String,
    /// Whether the configuration declares it.
    pub(crate) declared: bool,
    pub(crate) created_at: TimestampJson,
    /// Since when it is in its state.
    pub(crate) state_since: TimestampJson,
    pub(crate) wabas: Vec<AccountWabaJson>,
    pub(crate) number: Option<String>,
    pub(crate) keys: Vec<ApiKeyJson>,
    /// The limits that the account sets itself.
    pub(crate) limits: AccountLimitsJson,
    pub(crate) usage: AccountUsageJson,
    /// The account that got its subscriptions and deliveries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved_to: Option<String>,
}

/// A key to make.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKeyJson {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<TimestampJson>,
}

/// An API key that was made, shown once: with its own id and name, or those of the account that was made with it.
#[derive(Serialize, Deserialize)]
pub(crate) struct MadeKeyJson {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) api_key: String,
}

/// Where the subscriptions and deliveries of an account go.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveJson {
    pub(crate) to: String,
}

/// The names of accounts that a declaration changes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct AccountChangesJson {
    pub(crate) created: Vec<String>,
    pub(crate) changed: Vec<String>,
    pub(crate) removed: Vec<String>,
    /// Removed accounts with a number or WABA of a new one, as where the name was changed: from id to name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) replaced: BTreeMap<String, String>,
}

/// What a reload of the configuration changed.
#[derive(Serialize, Deserialize)]
pub(crate) struct ReloadedJson {
    pub(crate) accounts: AccountChangesJson,
    /// Settings that differ from those in force and are read only at the start.
    pub(crate) needs_restart: Vec<String>,
}

impl AccountWabaJson {
    pub(crate) fn of<'n>(
        id: &str,
        numbers: impl IntoIterator<Item = &'n WabaNumber>,
    ) -> AccountWabaJson {
        let numbers = numbers.into_iter().copied().map(Text).collect();
        AccountWabaJson { id: id.to_owned(), numbers, phone_number_ids: BTreeMap::new() }
    }
}

impl AccountChangeJson {
    /// The account to create, without keys.
    pub(crate) fn created(mut self) -> Result<Account, JsonProblem> {
        let name = self.name.required("name", None)?;
        self.change(Account::new(name))
    }

    /// The account that `before` becomes.
    pub(crate) fn changed(mut self, before: &AccountInfo) -> Result<Account, JsonProblem> {
        let name = self.name.required("name", Some(before.name.clone()))?;
        self.change(Account::from(before).rename(name))
    }

    fn change(self, mut account: Account) -> Result<Account, JsonProblem> {
        match self.wabas {
            Patch::Absent => {}
            Patch::Null => account = account.without_wabas(),
            Patch::Value(wabas) => {
                account = account.without_wabas();
                for waba in wabas {
                    let numbers = waba.numbers.iter().map(|number| number.0.to_string());
                    account = account.waba(waba.id, numbers);
                    for (id, number) in waba.phone_number_ids {
                        account = account.phone_number_id(id, number.0.to_string());
                    }
                }
            }
        }
        match self.number {
            Patch::Absent => {}
            Patch::Null => account = account.unbound(),
            Patch::Value(number) => account = account.bound_to(number.0.to_string()),
        }
        match self.limits {
            Patch::Absent => {}
            Patch::Null => account = account.limits(AccountLimits::default()),
            Patch::Value(given) => {
                let mut limits = account.own_limits().clone();
                given.apply(&mut limits);
                account = account.limits(limits);
            }
        }
        match self.state {
            Patch::Absent => Ok(account),
            Patch::Value(Text(state)) if state != AccountState::Removed => Ok(account.state(state)),
            _ => Err(JsonProblem::at(
                "state",
                "expected active or suspended; DELETE removes an account",
            )),
        }
    }
}

impl AccountListing {
    pub(crate) fn of(info: &AccountInfo, usage: &AccountUsage) -> AccountListing {
        let wabas = info.wabas.iter().map(|waba| {
            let ids = waba.phone_number_ids.iter();
            let phone_number_ids = ids.map(|(id, number)| (id.clone(), Text(*number))).collect();
            AccountWabaJson { phone_number_ids, ..AccountWabaJson::of(&waba.id, &waba.numbers) }
        });
        AccountListing {
            id: info.id.to_string(),
            name: info.name.clone(),
            state: info.state.as_str().to_owned(),
            declared: info.is_declared,
            created_at: TimestampJson(info.created_at_ms),
            state_since: TimestampJson(info.state_since_ms),
            wabas: wabas.collect(),
            number: info.number.map(|number| number.to_string()),
            keys: info.keys.iter().map(ApiKeyJson::from).collect(),
            limits: AccountLimitsJson::of(&info.limits),
            usage: AccountUsageJson::of(usage),
            moved_to: info.moved_to.as_ref().map(ToString::to_string),
        }
    }

    /// An account as the audit log keeps it: without its usage, and with its keys and numbers as texts.
    pub(crate) fn audited(info: &AccountInfo, usage: &AccountUsage) -> Value {
        let listing = AccountListing::of(info, usage);
        let numbers = listing.numbers();
        let keys: Vec<_> = info.keys.iter().map(|key| format!("{} {}", key.id, key.name)).collect();
        let mut value = serde_json::to_value(listing).unwrap_or_default();
        if let Value::Object(members) = &mut value {
            for name in ["usage", "wabas", "state_since"] {
                members.remove(name);
            }
            members.insert("numbers".to_owned(), numbers.into());
            members.insert("keys".to_owned(), keys.into());
        }
        value
    }

    /// What it owns, one text each: `WABA`, `WABA/number` and `WABA/phone_number_id=number`.
    pub(crate) fn numbers(&self) -> Vec<String> {
        let of = |waba: &AccountWabaJson| {
            let id = &waba.id;
            let numbers = waba.numbers.iter().map(|number| format!("{id}/{}", number.0));
            let ids = waba.phone_number_ids.iter();
            let ids = ids.map(|(own, number)| format!("{id}/{own}={}", number.0));
            std::iter::once(id.clone()).chain(numbers).chain(ids).collect::<Vec<_>>()
        };
        self.wabas.iter().flat_map(of).collect()
    }
}

impl From<&ApiKey> for ApiKeyJson {
    fn from(key: &ApiKey) -> ApiKeyJson {
        ApiKeyJson {
            id: key.id.clone(),
            name: key.name.clone(),
            created_at: TimestampJson(key.created_at_ms),
            last_used_at: key.last_used_at_ms().map(TimestampJson),
            expires_at: key.expires_at_ms.map(TimestampJson),
            declared: key.is_declared,
        }
    }
}

impl From<AccountChanges> for AccountChangesJson {
    fn from(changes: AccountChanges) -> AccountChangesJson {
        let AccountChanges { created, changed, removed, replaced, .. } = changes;
        AccountChangesJson { created, changed, removed, replaced }
    }
}

impl AccountChangesJson {
    /// What an operator who changed the name of an account did not intend.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        self.replaced.iter().map(|(removed, created)| {
            format!(
                "the new account {created} has a number or WABA of {removed}, which is removed: the webhooks of \
                 {removed} do not go over to it; to move them, run: wabahook accounts move {removed} {created}"
            )
        })
    }
}

/// How many accounts change, in a sentence for a log.
impl fmt::Display for AccountChangesJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (created, changed) = (self.created.len(), self.changed.len());
        write!(f, "{created} accounts created, {changed} changed, {} removed", self.removed.len())
    }
}

/// A directory of the host's machine.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupJson {
    pub(crate) directory: String,
}

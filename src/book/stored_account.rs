//! The layout in which an account is stored: JSON, in the book's database and in its log, so that a member can be
//! added without another version. The keys that the host's configuration declares are not stored, because the
//! configuration has them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::account::{AccountId, AccountInfo, AccountLimits, AccountState, ApiKey, Waba};
use crate::clock::millis;
use crate::error::{Error, Result};
use crate::event::WabaNumber;
use crate::subscription::RateLimit;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredAccount {
    pub(super) id: String,
    name: String,
    state: StoredState,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_declared: bool,
    created_at_ms: u64,
    /// Left out if it was created in its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_since_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    wabas: Vec<StoredWaba>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    #[serde(default, skip_serializing_if = "StoredLimits::is_empty")]
    limits: StoredLimits,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<StoredKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved_to: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredState {
    Active,
    Suspended,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredWaba {
    id: String,
    numbers: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    phone_number_ids: Vec<(String, u64)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredKey {
    id: String,
    name: String,
    sha256: String,
    created_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used_at_ms: Option<u64>,
}

/// Declares the limits that are stored as they are.
macro_rules! stored_limits {
    ($($name:ident: $type:ty),+ $(,)?) => {
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        struct StoredLimits {
            $(#[serde(skip_serializing_if = "Option::is_none")] $name: Option<$type>,)+
            /// Events, and in how many milliseconds.
            #[serde(skip_serializing_if = "Option::is_none")]
            publish_rate: Option<(u32, u64)>,
        }

        impl StoredLimits {
            fn of(limits: &AccountLimits) -> StoredLimits {
                let rate = limits.publish_rate.map(|rate| (rate.events, millis(rate.per)));
                StoredLimits { $($name: limits.$name,)+ publish_rate: rate }
            }

            fn restore(&self) -> AccountLimits {
                let mut limits = AccountLimits::default();
                $(limits.$name = self.$name;)+
                limits.publish_rate = self.publish_rate.map(|(events, per_ms)| RateLimit {
                    events,
                    per: Duration::from_millis(per_ms),
                });
                limits
            }

            fn is_empty(&self) -> bool {
                *self == StoredLimits::default()
            }
        }
    };
}

stored_limits! {
    subscriptions_max: usize, owed_events_max: u64, owed_bytes_max: u64, dead_letters_max: usize,
    dedup_keys_max: usize, in_flight_max: usize, tests_per_minute: u32, notice_listeners_max: usize,
}

impl StoredAccount {
    pub(crate) fn of(info: &AccountInfo) -> StoredAccount {
        let wabas = info.wabas.iter().map(|waba| StoredWaba {
            id: waba.id.clone(),
            numbers: waba.numbers.iter().map(|number| number.digits()).collect(),
            phone_number_ids: {
                let ids = waba.phone_number_ids.iter();
                ids.map(|(id, number)| (id.clone(), number.digits())).collect()
            },
        });
        let keys = info.keys.iter().filter(|key| !key.is_declared).map(|key| StoredKey {
            id: key.id.clone(),
            name: key.name.clone(),
            sha256: key.digest.to_hex(),
            created_at_ms: key.created_at_ms,
            expires_at_ms: key.expires_at_ms,
            last_used_at_ms: key.last_used_at_ms(),
        });
        StoredAccount {
            id: info.id.as_str().to_owned(),
            name: info.name.clone(),
            state: match info.state {
                AccountState::Active => StoredState::Active,
                AccountState::Suspended => StoredState::Suspended,
                AccountState::Removed => StoredState::Removed,
            },
            is_declared: info.is_declared,
            created_at_ms: info.created_at_ms,
            state_since_ms: Some(info.state_since_ms).filter(|at| *at != info.created_at_ms),
            wabas: wabas.collect(),
            number: info.number.map(WabaNumber::digits),
            limits: StoredLimits::of(&info.limits),
            keys: keys.collect(),
            moved_to: info.moved_to.as_ref().map(|id| id.as_str().to_owned()),
        }
    }

    /// The account; fails for an invalid number or digest.
    pub(crate) fn restore(&self) -> Result<AccountInfo> {
        let damaged = |why: &str| Error::Damaged {
            record: format!("account {}", self.id),
            why: why.to_owned(),
        };
        let number = |digits: u64| {
            WabaNumber::from_digits(digits).ok_or_else(|| damaged("it has an invalid number"))
        };
        let wabas = self.wabas.iter().map(|waba| {
            let numbers = waba.numbers.iter().map(|digits| number(*digits));
            let ids = waba.phone_number_ids.iter();
            let ids = ids.map(|(id, digits)| Ok((id.clone(), number(*digits)?)));
            Ok(Waba {
                id: waba.id.clone(),
                numbers: numbers.collect::<Result<_>>()?,
                phone_number_ids: ids.collect::<Result<_>>()?,
            })
        });
        let keys = self.keys.iter().map(|key| {
            let digest = key.sha256.parse().map_err(|_| damaged("it has an invalid digest"))?;
            let mut restored =
                ApiKey::new(key.id.clone(), key.name.clone(), digest, key.created_at_ms);
            restored.expires_at_ms = key.expires_at_ms;
            restored.note_use(key.last_used_at_ms.unwrap_or(0));
            Ok(restored)
        });
        Ok(AccountInfo {
            id: AccountId::stored(&self.id),
            name: self.name.clone(),
            state: match self.state {
                StoredState::Active => AccountState::Active,
                StoredState::Suspended => AccountState::Suspended,
                StoredState::Removed => AccountState::Removed,
            },
            is_declared: self.is_declared,
            created_at_ms: self.created_at_ms,
            state_since_ms: self.state_since_ms.unwrap_or(self.created_at_ms),
            wabas: wabas.collect::<Result<_>>()?,
            number: self.number.map(number).transpose()?,
            limits: self.limits.restore(),
            keys: keys.collect::<Result<_>>()?,
            moved_to: self.moved_to.as_deref().map(AccountId::stored),
        })
    }

    /// The text that the database keeps.
    pub(super) fn text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| damaged(&error))
    }

    pub(super) fn read(text: &str) -> Result<StoredAccount> {
        serde_json::from_str(text).map_err(|error| damaged(&error))
    }
}

/// What is wrong with a record, without its text.
fn damaged(error: &serde_json::Error) -> Error {
    let why = format!("it is not readable from column {} on", error.column());
    Error::Damaged { record: "account".to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Account, KeyDigest};

    const GOLDEN: &str = r#"{"id":"acct_1","name":"acme","state":"suspended","is_declared":true,"created_at_ms":5,"wabas":[{"id":"1","numbers":[919999999999],"phone_number_ids":[["77",919999999999]]}],"number":919999999999,"limits":{"subscriptions_max":3,"publish_rate":[5,1000]},"keys":[{"id":"key_1","name":"ci","sha256":"2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683","created_at_ms":6,"expires_at_ms":7,"last_used_at_ms":8}],"moved_to":"acct_2"}"#;

    #[test]
    fn an_account_keeps_its_stored_text() {
        let limits = AccountLimits::default().subscriptions_max(Some(3));
        let account = Account::new("acme")
            .api_key("a declared key is not stored")
            .waba("1", ["919999999999"])
            .phone_number_id("77", "919999999999")
            .bound_to("919999999999")
            .limits(limits.publish_rate(5, Duration::from_secs(1)))
            .state(AccountState::Suspended);
        let mut info = account.checked(AccountId::stored("acct_1"), 5, &[]).unwrap();
        let digest = KeyDigest::of(b"key");
        let mut key = ApiKey::new("key_1".to_owned(), "ci".to_owned(), digest, 6);
        key.expires_at_ms = Some(7);
        key.note_use(8);
        info.keys.push(key);
        info.is_declared = true;
        info.moved_to = Some(AccountId::stored("acct_2"));
        let stored = StoredAccount::of(&info);
        assert_eq!(stored.text().unwrap(), GOLDEN);
        let restored = StoredAccount::read(GOLDEN).unwrap().restore().unwrap();
        assert_eq!(StoredAccount::of(&restored), stored);
    }
}

//! Accounts: the customers of a host. [`Account`] is what a host declares, [`AccountInfo`] what the engine holds,
//! [`AccountLimits`] what it may take, and [`Accounts`] finds an account by its id, its name, an API key, a number or a
//! WABA. A number and a WABA belong to at most one account (I9), and no key is ever printed.

mod api_key;
mod directory;
mod id;
mod info;
mod limits;

use std::collections::BTreeMap;

pub(crate) use self::api_key::fresh_key;
pub use self::api_key::{ApiKey, KeyDigest, key_in_header};
pub(crate) use self::directory::AccountIndex;
pub use self::directory::Accounts;
pub use self::id::AccountId;
pub use self::info::{AccountInfo, AccountState, Waba};
pub use self::limits::AccountLimits;
use crate::error::{Error, Result};
use crate::event::{NumberInput, WabaNumber, number_input};
use crate::secret::Secret;
use crate::text::{NAME_EXPECTED, is_name};

/// The name of the account of a host that has no others.
pub const DEFAULT_ACCOUNT: &str = "default";

const KEY_EXPECTED: &str =
    "a text without line ends or surrounding spaces, as a header can hold it";

/// A customer of the host as it is declared, with the WABAs and numbers it may register and publish for.
///
/// ```
/// use wabahook::{Account, Config};
/// let config = Config::new("outbox").account(
///     Account::new("acme").api_key("acme-key").waba("123065260884961", ["919999999999"]),
/// );
/// # let _ = config;
/// ```
#[derive(Debug, Clone)]
pub struct Account {
    name: String,
    keys: Vec<Result<KeyDigest>>,
    wabas: Vec<WabaInput>,
    bound: Option<NumberInput>,
    limits: AccountLimits,
    state: AccountState,
}

/// A WABA as it is declared.
#[derive(Debug, Clone)]
struct WabaInput {
    id: String,
    numbers: Vec<NumberInput>,
    phone_number_ids: Vec<(String, NumberInput)>,
}

impl Account {
    /// An account without WABAs and keys.
    pub fn new(name: impl Into<String>) -> Account {
        Account {
            name: name.into(),
            keys: Vec::new(),
            wabas: Vec::new(),
            bound: None,
            limits: AccountLimits::default(),
            state: AccountState::Active,
        }
    }

    /// Gives it another name.
    #[must_use]
    pub fn rename(mut self, name: impl Into<String>) -> Account {
        self.name = name.into();
        self
    }

    /// Adds a key that authenticates requests of the account. Without any, no request can act for it. Only its
    /// digest is kept.
    #[must_use]
    pub fn api_key(mut self, api_key: impl Into<String>) -> Account {
        let key = Secret::new(api_key);
        self.keys.push(match api_key::is_usable_key(&key) {
            true => Ok(KeyDigest::of(key.reveal())),
            false => Err(Error::invalid("account.api_key", "[redacted]", KEY_EXPECTED)),
        });
        self
    }

    /// Adds a key by its SHA-256 digest.
    #[must_use]
    pub fn api_key_digest(mut self, digest: KeyDigest) -> Account {
        self.keys.push(Ok(digest));
        self
    }

    /// Adds a WABA with its display numbers.
    #[must_use]
    pub fn waba<N: AsRef<str>>(
        mut self,
        id: impl Into<String>,
        numbers: impl IntoIterator<Item = N>,
    ) -> Account {
        let numbers = numbers.into_iter().map(|n| number_input(n.as_ref())).collect();
        self.wabas.push(WabaInput { id: id.into(), numbers, phone_number_ids: Vec::new() });
        self
    }

    /// Takes away all WABAs.
    #[must_use]
    pub fn without_wabas(mut self) -> Account {
        self.wabas.clear();
        self
    }

    /// Maps one of Meta's `phone_number_id`s to a number of the WABA added last. It wins over the display
    /// number of a callback.
    #[must_use]
    pub fn phone_number_id(mut self, id: impl Into<String>, number: impl AsRef<str>) -> Account {
        if let Some(waba) = self.wabas.last_mut() {
            waba.phone_number_ids.push((id.into(), number_input(number.as_ref())));
        }
        self
    }

    /// The number that its keys stand for where a gateway has one key per number.
    #[must_use]
    pub fn bound_to(mut self, number: impl AsRef<str>) -> Account {
        self.bound = Some(number_input(number.as_ref()));
        self
    }

    /// Lets its keys stand for all its numbers again.
    #[must_use]
    pub fn unbound(mut self) -> Account {
        self.bound = None;
        self
    }

    /// How much the account may take. What is not set here has the default of
    /// [`Config::account_limits`](crate::Config::account_limits).
    #[must_use]
    pub fn limits(mut self, limits: AccountLimits) -> Account {
        self.limits = limits;
        self
    }

    /// Whether it is served. A declaration of [`Config::account`](crate::Config::account) leaves the state of
    /// an account that exists as it is.
    #[must_use]
    pub fn state(mut self, state: AccountState) -> Account {
        self.state = state;
        self
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own limits, as declared.
    pub fn own_limits(&self) -> &AccountLimits {
        &self.limits
    }

    /// The account as declared, except for its id and creation time, which the engine sets. Keys that `before` has
    /// keep their creation time.
    pub(crate) fn checked(
        &self,
        id: AccountId,
        now_ms: u64,
        before: &[ApiKey],
    ) -> Result<AccountInfo> {
        if !is_name(&self.name) || self.name.starts_with(id::PREFIX) {
            let expected = format!("{NAME_EXPECTED}, not beginning with {}", id::PREFIX);
            return Err(Error::invalid("account.name", &self.name, expected));
        }
        self.limits.check("account.limits")?;
        let bound = self.bound.as_ref().map(|bound| check_number("account.number", bound));
        Ok(AccountInfo {
            id,
            name: self.name.clone(),
            state: self.state,
            is_declared: false,
            created_at_ms: now_ms,
            state_since_ms: now_ms,
            wabas: self.wabas.iter().map(WabaInput::checked).collect::<Result<_>>()?,
            number: bound.transpose()?,
            limits: self.limits.clone(),
            keys: self.declared_keys(now_ms, before)?,
            moved_to: None,
        })
    }

    fn declared_keys(&self, now_ms: u64, before: &[ApiKey]) -> Result<Vec<ApiKey>> {
        let keys = self.keys.iter().enumerate().map(|(place, digest)| {
            let (digest, id) = (digest.clone()?, format!("declared_{}", place + 1));
            let known = before.iter().find(|one| one.is_declared && one.digest == digest);
            let mut key = known
                .cloned()
                .unwrap_or_else(|| ApiKey::new(id.clone(), "declared".to_owned(), digest, now_ms));
            (key.id, key.is_declared) = (id, true);
            Ok(key)
        });
        keys.collect()
    }
}

/// An account as it is now, as the starting point of a change.
impl From<&AccountInfo> for Account {
    fn from(info: &AccountInfo) -> Account {
        let wabas = info.wabas.iter().map(|waba| WabaInput {
            id: waba.id.clone(),
            numbers: waba.numbers.iter().map(|number| Ok(*number)).collect(),
            phone_number_ids: {
                let ids = waba.phone_number_ids.iter();
                ids.map(|(id, number)| (id.clone(), Ok(*number))).collect()
            },
        });
        Account {
            name: info.name.clone(),
            keys: Vec::new(),
            wabas: wabas.collect(),
            bound: info.number.map(Ok),
            limits: info.limits.clone(),
            state: info.state,
        }
    }
}

impl WabaInput {
    fn checked(&self) -> Result<Waba> {
        if self.id.is_empty() {
            return Err(Error::invalid("account.waba.id", "", "the id of a WABA"));
        }
        let numbers = self.numbers.iter().map(|given| check_number("account.waba.numbers", given));
        let mut phone_number_ids = BTreeMap::new();
        for (id, given) in &self.phone_number_ids {
            let number = check_number("account.waba.phone_number_ids", given)?;
            if phone_number_ids.insert(id.clone(), number).is_some() {
                return Err(directory::phone_number_id_refused(id));
            }
        }
        Ok(Waba { id: self.id.clone(), numbers: numbers.collect::<Result<_>>()?, phone_number_ids })
    }
}

fn check_number(field: &str, given: &NumberInput) -> Result<WabaNumber> {
    given.as_ref().copied().map_err(|text| Error::invalid(field, text, WabaNumber::EXPECTED))
}

#[cfg(test)]
mod tests;

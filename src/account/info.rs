//! An account as the engine holds and lists it: checked, with its id, state and keys.

use std::collections::BTreeMap;

use super::AccountLimits;
use super::api_key::ApiKey;
use super::id::AccountId;
use crate::event::WabaNumber;
use crate::macros::word_enum;

/// Whether an account is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AccountState {
    /// It is served.
    #[default]
    Active,
    /// Its keys are refused and its deliveries are held: none is attempted and none is lost. Events of its
    /// numbers are still accepted for it.
    Suspended,
    /// It has no keys, numbers or WABAs any more, and its name is free. Its deliveries are held until it is
    /// resumed, until they are moved to another account, or until they are purged.
    Removed,
}

word_enum!(pub AccountState, "state":
    Active = "active", Suspended = "suspended", Removed = "removed",
);

/// One WhatsApp Business Account (WABA) with its numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waba {
    /// Meta's id of it.
    pub id: String,
    /// Its display numbers.
    pub numbers: Vec<WabaNumber>,
    /// Meta's ids of some of the numbers.
    pub phone_number_ids: BTreeMap<String, WabaNumber>,
}

/// An account: checked, with its id, state and keys.
///
/// ```
/// # use wabahook::{Account, Config, Engine};
/// # let directory = tempfile::tempdir()?;
/// let engine = Engine::open(Config::new(directory.path()).account(Account::new("acme")))?;
/// for account in engine.accounts().list() {
///     println!("{} {} {}", account.id, account.name, account.state);
/// }
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AccountInfo {
    /// Its id, given once and never again.
    pub id: AccountId,
    /// Its name. A removed account may share it with a later one.
    pub name: String,
    /// Whether it is served.
    pub state: AccountState,
    /// Whether the host's configuration declares it. Then its name, numbers and limits are changed there.
    pub is_declared: bool,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Since when it is in its state, in milliseconds since the Unix epoch.
    pub state_since_ms: u64,
    /// Its WABAs, in the order given. Those of a removed account are what it gets back when it is resumed.
    pub wabas: Vec<Waba>,
    /// The number that its keys stand for where a gateway has one key per number.
    pub number: Option<WabaNumber>,
    /// Its own limits.
    pub limits: AccountLimits,
    /// Its API keys.
    pub keys: Vec<ApiKey>,
    /// The account that got its subscriptions and deliveries. An account that was moved is not resumed.
    pub moved_to: Option<AccountId>,
}

impl AccountInfo {
    /// Its id as text.
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own limits.
    pub fn own_limits(&self) -> &AccountLimits {
        &self.limits
    }

    /// The number that the API key stands for, if it is bound to one.
    pub fn bound_number(&self) -> Option<WabaNumber> {
        self.number
    }

    /// The ids of its WABAs, in the order given.
    pub fn waba_ids(&self) -> impl Iterator<Item = &str> {
        self.wabas.iter().map(|waba| waba.id.as_str())
    }

    /// The numbers of one of its WABAs. Empty for another WABA.
    pub fn numbers_of_waba(&self, waba_id: &str) -> &[WabaNumber] {
        let waba = self.wabas.iter().find(|waba| waba.id == waba_id);
        waba.map_or(&[], |waba| &waba.numbers)
    }

    /// Whether it may use every number that no other account owns, as the default account may.
    pub fn is_open(&self) -> bool {
        self.id.is_default()
    }

    /// The entry of an account of which only subscriptions are left.
    pub(crate) fn unknown(id: AccountId, now_ms: u64) -> AccountInfo {
        AccountInfo {
            name: id.as_str().to_owned(),
            id,
            state: AccountState::Removed,
            is_declared: false,
            created_at_ms: now_ms,
            state_since_ms: now_ms,
            wabas: Vec::new(),
            number: None,
            limits: AccountLimits::default(),
            keys: Vec::new(),
            moved_to: None,
        }
    }

    /// The account without its keys, numbers and name, which others may have then.
    pub(crate) fn removed(&self, now_ms: u64) -> AccountInfo {
        let state_since_ms = if self.is_removed() { self.state_since_ms } else { now_ms };
        let (state, keys) = (AccountState::Removed, Vec::new());
        AccountInfo { state, state_since_ms, is_declared: false, keys, ..self.clone() }
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.state == AccountState::Removed
    }
}

//! The id of an account. It is given once and never again, and it is what is stored with subscriptions, events,
//! dead letters and dedup keys. So a new account never gets what belonged to an earlier one of its name.

use std::fmt;
use std::sync::Arc;

use crate::clock::fill_random;
use crate::error::{Error, Result};
use crate::text::hex;

/// What every id begins with, and no name may.
pub(super) const PREFIX: &str = "acct_";

/// The id of the account of a host that has no accounts.
const DEFAULT: &str = "acct_default";

/// The id of an account: a short text that no other account ever has.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// An id that no account ever had.
    pub(crate) fn fresh() -> Result<AccountId> {
        let mut bytes = [0_u8; 8];
        fill_random(&mut bytes).map_err(|error| Error::Poisoned { why: error.to_string() })?;
        Ok(AccountId(format!("{PREFIX}{}", hex(&bytes)).into()))
    }

    pub(super) fn of_default_account() -> AccountId {
        AccountId(DEFAULT.into())
    }

    pub(crate) fn stored(text: &str) -> AccountId {
        AccountId(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared rather than copied into each event: thousands of small blocks that other threads
    /// free make an allocator pause in the middle of `publish`.
    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    pub(super) fn is_default(&self) -> bool {
        &*self.0 == DEFAULT
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for AccountId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

//! One change of the book, as callers ask for it and as the log records it.

use base64::DecodeError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::stored::{StoredRecord, StoredSubscription};
use super::stored_account::StoredAccount;
use crate::account::{AccountId, AccountInfo};
use crate::error::{Error, Result};
use crate::subscription::{SubscriptionId, SubscriptionInfo};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BookChange {
    /// Creates the subscription or replaces it.
    Put {
        id: SubscriptionId,
        subscription: Box<StoredSubscription>,
    },
    /// Keeps the sealed record of a subscription that this build cannot read, in base64.
    Keep {
        id: SubscriptionId,
        record: String,
    },
    Remove(SubscriptionId),
    /// Sets what a gateway keeps for an account under a key; an empty text removes it.
    Note {
        account: String,
        key: String,
        text: String,
    },
    /// Creates the account or replaces it.
    Account(Box<StoredAccount>),
    /// Removes the record of an account.
    ForgetAccount(String),
}

impl BookChange {
    pub(crate) fn put(info: &SubscriptionInfo) -> BookChange {
        let subscription = Box::new(StoredSubscription::of(info));
        BookChange::Put { id: info.id, subscription }
    }

    pub(super) fn of_record(id: SubscriptionId, record: StoredRecord) -> BookChange {
        match record {
            StoredRecord::Readable(subscription) => BookChange::Put { id, subscription },
            StoredRecord::Unknown(sealed) => {
                BookChange::Keep { id, record: STANDARD.encode(sealed) }
            }
        }
    }

    /// The id and the record that it puts, if it puts one.
    pub(super) fn record(&self) -> Result<Option<(SubscriptionId, StoredRecord)>> {
        match self {
            BookChange::Put { id, subscription } => {
                Ok(Some((*id, StoredRecord::Readable(subscription.clone()))))
            }
            BookChange::Keep { id, record } => {
                let damaged = |error: DecodeError| Error::Damaged {
                    record: format!("subscription {id}"),
                    why: format!("its record in the log is not base64: {error}"),
                };
                let sealed = STANDARD.decode(record).map_err(damaged)?;
                Ok(Some((*id, StoredRecord::unseal(*id, &sealed)?)))
            }
            BookChange::Remove(_)
            | BookChange::Note { .. }
            | BookChange::Account(_)
            | BookChange::ForgetAccount(_) => Ok(None),
        }
    }

    pub(crate) fn note(account: &str, key: &str, text: &str) -> BookChange {
        let (account, key, text) = (account.to_owned(), key.to_owned(), text.to_owned());
        BookChange::Note { account, key, text }
    }

    pub(crate) fn account(info: &AccountInfo) -> BookChange {
        BookChange::Account(Box::new(StoredAccount::of(info)))
    }

    pub(crate) fn forget_account(id: &AccountId) -> BookChange {
        BookChange::ForgetAccount(id.as_str().to_owned())
    }

    /// The subscription that it puts or removes.
    pub(super) fn id(&self) -> Option<SubscriptionId> {
        match self {
            BookChange::Put { id, .. } | BookChange::Keep { id, .. } | BookChange::Remove(id) => {
                Some(*id)
            }
            BookChange::Note { .. } | BookChange::Account(_) | BookChange::ForgetAccount(_) => None,
        }
    }
}

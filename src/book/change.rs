//! One change of the book, as callers ask for it and as the log records it.

use serde::{Deserialize, Serialize};

use super::stored::StoredSubscription;
use crate::subscription::{SubscriptionId, SubscriptionInfo};

/// One change of the book.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BookChange {
    /// Creates the subscription or replaces it.
    Put { id: SubscriptionId, subscription: Box<StoredSubscription> },
    /// Removes the subscription.
    Remove(SubscriptionId),
    /// Sets what a gateway keeps for an account under a key; an empty text removes it.
    Note { account: String, key: String, text: String },
}

impl BookChange {
    pub(crate) fn put(info: &SubscriptionInfo) -> BookChange {
        let subscription = Box::new(StoredSubscription::of(info));
        BookChange::Put { id: info.id, subscription }
    }

    pub(crate) fn note(account: &str, key: &str, text: &str) -> BookChange {
        let (account, key, text) = (account.to_owned(), key.to_owned(), text.to_owned());
        BookChange::Note { account, key, text }
    }

    /// The subscription that it puts or removes.
    pub(super) fn id(&self) -> Option<SubscriptionId> {
        match self {
            BookChange::Put { id, .. } | BookChange::Remove(id) => Some(*id),
            BookChange::Note { .. } => None,
        }
    }
}

//! The number and the WABA of an API key: 360dialog gives a key to each number, which belongs to a WABA. A
//! key never stands for a number or a WABA of another account.

use std::sync::Arc;

use serde_json::Value;

use crate::account::{AccountInfo, Accounts};
use crate::event::WabaNumber;
use crate::subscription::SubscriptionInfo;

/// An API key.
pub(super) struct Dialog360Key<'a> {
    pub(super) account: &'a AccountInfo,
    accounts: &'a Accounts,
    /// Its number; `None` means all numbers of the account.
    number: Option<WabaNumber>,
    /// The WABA of its number, or the only WABA of the account; `None` means all.
    waba_id: Option<Arc<str>>,
}

impl<'a> Dialog360Key<'a> {
    pub(super) fn new(accounts: &'a Accounts, account: &'a AccountInfo) -> Dialog360Key<'a> {
        let number = account.bound_number();
        let mut all = account.waba_ids();
        let only = all.next().filter(|_| all.next().is_none());
        let waba_id =
            number.and_then(|number| accounts.waba_of_number(number)).or(only.map(Arc::from));
        Dialog360Key { account, accounts, number, waba_id }
    }

    /// The number filter of its number webhook and of its further destinations.
    pub(super) fn numbers(&self) -> Option<[WabaNumber; 1]> {
        self.number.map(|number| [number])
    }

    /// The number filter of its WABA webhook. Where the account has one WABA, `None` means all numbers,
    /// including those added later.
    pub(super) fn waba_filter(&self) -> Option<Vec<WabaNumber>> {
        let has_others = self.account.waba_ids().nth(1).is_some();
        let waba_id = self.waba_id.as_ref().filter(|_| has_others)?;
        Some(self.accounts.numbers_of_waba(waba_id))
    }

    /// Whether this is its WABA.
    pub(super) fn is_waba(&self, waba_id: &str) -> bool {
        self.waba_id.as_deref() == Some(waba_id)
    }

    /// Its WABA's id as shown: a number, as 360dialog does.
    pub(super) fn waba_id(&self) -> Option<Value> {
        let id = self.waba_id.as_deref()?;
        Some(id.parse::<u64>().map_or_else(|_| id.into(), Value::from))
    }

    /// The numbers of a WABA webhook as shown.
    pub(super) fn numbers_of(&self, webhook: &SubscriptionInfo) -> Vec<String> {
        let shown = |numbers: &mut dyn Iterator<Item = &WabaNumber>| {
            numbers.map(ToString::to_string).collect()
        };
        if let Some(named) = &webhook.filter.numbers {
            return shown(&mut named.iter());
        }
        let of_waba = |id: &'a str| self.account.numbers_of_waba(id);
        shown(&mut self.account.waba_ids().flat_map(of_waba))
    }
}

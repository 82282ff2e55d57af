//! Decides what a key stands for: 360dialog gives one to each number, which belongs to a WABA.
//!
//! Leaves to others: who may use a number (`account`). Invariant: a key never stands for a number or a
//! WABA of another account.

use serde_json::Value;

use crate::account::{Account, Accounts};
use crate::event::WabaNumber;
use crate::subscription::Registered;

/// What a key stands for.
pub(super) struct Key<'a> {
    pub(super) account: &'a Account,
    accounts: &'a Accounts,
    /// Its number; none where the account is bound to none, and then all of the account's are meant.
    number: Option<WabaNumber>,
    /// Its WABA: that of its number, or the only one of the account; none where all are meant.
    waba_id: Option<&'a str>,
}

impl<'a> Key<'a> {
    pub(super) fn new(accounts: &'a Accounts, account: &'a Account) -> Key<'a> {
        let number = account.bound_number();
        let mut all = account.waba_ids();
        let only = all.next().filter(|_| all.next().is_none());
        let waba_id = number.and_then(|number| accounts.waba_of_number(number)).or(only);
        Key { account, accounts, number, waba_id }
    }

    /// The number that a webhook of its number names, and its further destinations with it.
    pub(super) fn numbers(&self) -> Option<[WabaNumber; 1]> {
        self.number.map(|number| [number])
    }

    /// The numbers that a webhook of its WABA names. Where the account has no other WABA it names
    /// none and so stands for all, also those that are added later.
    pub(super) fn waba_filter(&self) -> Option<Vec<WabaNumber>> {
        let has_others = self.account.waba_ids().nth(1).is_some();
        let waba_id = self.waba_id.filter(|_| has_others)?;
        Some(self.accounts.numbers_of_waba(waba_id).to_vec())
    }

    /// Whether this is the WABA it stands for.
    pub(super) fn is_waba(&self, waba_id: &str) -> bool {
        self.waba_id == Some(waba_id)
    }

    /// Its WABA's id as it is shown: a number, as 360dialog's are.
    pub(super) fn waba_id(&self) -> Option<Value> {
        let id = self.waba_id?;
        Some(id.parse::<u64>().map_or_else(|_| id.into(), Value::from))
    }

    /// The numbers that a WABA's webhook is for, as they are shown.
    pub(super) fn numbers_of(&self, webhook: &Registered) -> Vec<String> {
        let shown = |numbers: &mut dyn Iterator<Item = &WabaNumber>| {
            numbers.map(ToString::to_string).collect()
        };
        if let Some(named) = &webhook.filter.numbers {
            return shown(&mut named.iter());
        }
        let of_waba = |id: &'a str| self.accounts.numbers_of_waba(id);
        shown(&mut self.account.waba_ids().flat_map(of_waba))
    }
}

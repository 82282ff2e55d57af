//! Bounds long requests, such as those that listen to notices, for all callers together and for each account, so that
//! one account leaves room for the others (I4).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::caller::Caller;
use crate::http_error::HttpError;

/// One in this many places is kept for the operator.
const KEPT_DIVISOR: usize = 8;

/// The requests of one kind that are going on.
#[derive(Clone)]
pub(crate) struct AccountPermits {
    most: usize,
    counts: Arc<Mutex<HashMap<Option<String>, usize>>>,
}

/// The place of one request, until it is dropped.
pub(crate) struct AccountPermit {
    permits: AccountPermits,
    account: Option<String>,
}

impl AccountPermits {
    /// At most `most` at the same time.
    pub(crate) fn new(most: usize) -> AccountPermits {
        AccountPermits { most, counts: Arc::default() }
    }

    /// Takes a place for a request of an account, which may have as many as its limit `limit` says, or of the
    /// operator, who takes none of the places of the account that it names.
    pub(crate) fn admit(
        &self,
        caller: &Caller,
        (limit, allowed): (&str, usize),
    ) -> Result<AccountPermit, HttpError> {
        let account = caller.scope().filter(|_| !caller.is_operator()).map(str::to_owned);
        let mut counts = self.counts.lock();
        let of_operator = counts.get(&None).copied().unwrap_or(0);
        let of_accounts = counts.values().sum::<usize>() - of_operator;
        let kept = match account {
            Some(_) => (self.most / KEPT_DIVISOR).saturating_sub(of_operator),
            None => 0,
        };
        let free = self.most.saturating_sub(of_accounts + of_operator + kept);
        if free == 0 {
            let message = "too many such requests at once; try again when one has ended";
            return Err(HttpError::busy(message));
        }
        let own = counts.get(&account).copied().unwrap_or(0);
        // The fewer are left, the fewer one account may have, so that there is one for the next account.
        let is_fair = own <= free / 2;
        if account.is_some() && (own >= allowed || !is_fair) {
            let why = if own < allowed { ", and the other places are kept for others" } else { "" };
            let message =
                format!("{limit}: the account uses {own} of {allowed}{why}; try again later");
            return Err(HttpError::limit_reached(limit, message, Some(Duration::from_secs(1))));
        }
        counts.insert(account.clone(), own + 1);
        drop(counts);
        Ok(AccountPermit { permits: self.clone(), account })
    }
}

impl Drop for AccountPermit {
    fn drop(&mut self) {
        let mut counts = self.permits.counts.lock();
        if let Some(own) = counts.get_mut(&self.account) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Caller {
        Caller::of_account(name, "test")
    }

    fn operator(named: Option<&str>) -> Caller {
        Caller::operator(named.map(str::to_owned), "test")
    }

    #[test]
    fn accounts_leave_places_to_others_and_the_operator() {
        let permits = AccountPermits::new(64);
        let limit = ("notice_listeners_max", 16);
        let names = ["noisy 1", "noisy 2", "noisy 3", "noisy 4", "noisy 5"];
        let mut held = Vec::new();
        for name in names {
            let refused = loop {
                match permits.admit(&account(name), limit) {
                    Ok(permit) => held.push(permit),
                    Err(error) => break format!("{error:?}"),
                }
            };
            assert!(refused.contains("of 16"), "{refused}");
        }
        held.push(permits.admit(&account("quiet"), limit).unwrap());
        (0..200).for_each(|n| held.extend(permits.admit(&account(&n.to_string()), limit)));
        let kept: Vec<_> =
            (0..8).map(|_| permits.admit(&operator(Some("noisy 1")), limit).unwrap()).collect();
        assert_eq!(held.len() + kept.len(), 64);
        assert!(permits.admit(&operator(None), limit).is_err());
        assert!(permits.admit(&account("late"), limit).is_err());
    }

    #[test]
    fn an_account_at_its_limit_leaves_the_others_room() {
        let permits = AccountPermits::new(8);
        let noisy = || permits.admit(&account("noisy"), ("notice_listeners_max", 2));
        let mut held: Vec<_> = (0..2).map(|_| noisy().unwrap()).collect();
        let refused = format!("{:?}", noisy().err());
        assert!(
            refused.contains("notice_listeners_max") && refused.contains("2 of 2"),
            "{refused}"
        );
        held.push(permits.admit(&account("quiet"), ("notice_listeners_max", 2)).unwrap());
        held.remove(0);
        held.push(noisy().unwrap());
        while let Ok(permit) = permits.admit(&operator(None), ("notice_listeners_max", 0)) {
            held.push(permit);
        }
        assert_eq!(held.len(), 8);
        held.clear();
        assert!(permits.counts.lock().is_empty(), "nothing is kept of accounts without requests");
    }
}

//! Bounds long requests, such as those that listen to notices, for all callers together and for each account, so that
//! one account leaves room for the others (I4).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::http_error::HttpError;

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
    /// operator.
    pub(crate) fn admit(
        &self,
        account: Option<&str>,
        (limit, allowed): (&str, usize),
    ) -> Result<AccountPermit, HttpError> {
        let account = account.map(str::to_owned);
        let mut counts = self.counts.lock();
        if counts.values().sum::<usize>() >= self.most {
            return Err(HttpError::busy(
                "too many such requests at once; try again when one has ended",
            ));
        }
        let own = counts.get(&account).copied().unwrap_or(0);
        if account.is_some() && own >= allowed {
            let message = format!("{limit}: the account uses {own} of {allowed}; try again later");
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

    #[test]
    fn an_account_at_its_limit_leaves_the_others_room() {
        let permits = AccountPermits::new(8);
        let noisy = || permits.admit(Some("noisy"), ("notice_listeners_max", 2));
        let mut held: Vec<_> = (0..2).map(|_| noisy().unwrap()).collect();
        let refused = format!("{:?}", noisy().err());
        assert!(
            refused.contains("notice_listeners_max") && refused.contains("2 of 2"),
            "{refused}"
        );
        held.push(permits.admit(Some("quiet"), ("notice_listeners_max", 2)).unwrap());
        held.remove(0);
        held.push(noisy().unwrap());
        while let Ok(permit) = permits.admit(None, ("notice_listeners_max", 0)) {
            held.push(permit);
        }
        assert_eq!(held.len(), 8);
        held.clear();
        assert!(permits.counts.lock().is_empty(), "nothing is kept of accounts without requests");
    }
}

//! What an account uses of its limits, and the limit on attempts in flight, which the dispatcher keeps.

use std::collections::HashMap;

use crate::account::AccountLimits;
use crate::dispatch::Dispatcher;
use crate::engine::Engine;
use crate::engine::shared::Shared;
use crate::error::Result;
use crate::outbox::{AccountShares, AccountUsage};
use crate::subscription::{SubscriptionId, SubscriptionInfo};

impl Engine {
    /// What an account uses, and the limits in force for it. For an unknown account, what is still stored of it.
    ///
    /// ```
    /// use wabahook::{Account, AccountLimits, Config, Engine};
    /// # let directory = tempfile::tempdir()?;
    /// let acme = Account::new("acme").limits(AccountLimits::default().owed_events_max(Some(1_000)));
    /// let engine = Engine::open(Config::new(directory.path()).account(acme))?;
    /// if let Some(acme) = engine.accounts().named("acme") {
    ///     let usage = engine.account_usage(acme.id());
    ///     assert_eq!((usage.owed_events, usage.bounds.owed_events_max), (0, 1_000));
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn account_usage(&self, account: &str) -> AccountUsage {
        let shared = &self.shared;
        let share = shared.shares.look_up(account);
        let (owed_events, owed_bytes) = share.owed();
        let in_flight = shared.dispatch_state.lock().dispatcher.in_flight_of(account) as u64;
        AccountUsage {
            subscriptions: shared.subscriptions.read().count_of(account) as u64,
            owed_events,
            owed_bytes,
            queued_events: share.queued_events(),
            dead_letters: shared.outbox.letters_of(account),
            in_flight,
            bounds: shared.shares.bounds(&share),
        }
    }

    /// Changes the limits of accounts that set none of their own, until the engine is closed:
    /// [`Config::account_limits`](crate::Config::account_limits) sets them at open. In force when it returns. What an
    /// account uses above a lower limit stays; of dead letters and dedup keys the oldest are dropped with the next one.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) names the limit at fault and changes nothing.
    pub fn set_account_limits(&self, limits: AccountLimits) -> Result<()> {
        limits.check("account_limits")?;
        self.shared.shares.set_defaults(limits);
        self.shared.apply_in_flight_limits();
        Ok(())
    }
}

impl Shared {
    /// Refuses new subscriptions, each given by its account, over the limits of their accounts. `removed` go in the
    /// same change.
    pub(in crate::engine) fn check_account_room<'a>(
        &self,
        new: impl Iterator<Item = &'a str>,
        removed: &[SubscriptionId],
    ) -> Result<()> {
        let mut created = HashMap::<&str, usize>::new();
        new.for_each(|account| *created.entry(account).or_default() += 1);
        let table = self.subscriptions.read();
        for (account, new) in created {
            let is_theirs = |id: &&SubscriptionId| {
                table.get(**id).is_some_and(|removed| removed.info.account == account)
            };
            let removed = removed.iter().filter(is_theirs).count();
            let left = table.count_of(account).saturating_sub(removed);
            self.shares.check_subscriptions(account, left, new)?;
        }
        Ok(())
    }

    /// Refuses subscriptions whose texts would take more memory than those of their account may. They may always
    /// shrink. `removed` go in the same change.
    pub(in crate::engine) fn check_text_room<'a>(
        &self,
        changed: impl Iterator<Item = (Option<&'a SubscriptionInfo>, &'a SubscriptionInfo)>,
        removed: &[SubscriptionId],
    ) -> Result<()> {
        // What goes and what comes, by account.
        let mut changes = HashMap::<&str, (u64, u64)>::new();
        for (before, after) in changed {
            let (less, more) = changes.entry(after.account.as_str()).or_default();
            *less += before.map_or(0, SubscriptionInfo::text_bytes);
            *more += after.text_bytes();
        }
        let table = self.subscriptions.read();
        for removed in removed.iter().filter_map(|id| table.get(*id)) {
            if let Some((less, _)) = changes.get_mut(removed.info.account.as_str()) {
                *less += removed.info.text_bytes();
            }
        }
        for (account, (less, more)) in changes {
            let used = table.text_bytes_of(account);
            self.shares.check_text_bytes(account, used, used.saturating_sub(less) + more)?;
        }
        Ok(())
    }

    /// Puts the limits on attempts in flight in force, after an account was added, changed or removed: the default
    /// depends on whether there are several.
    pub(in crate::engine) fn apply_in_flight_limits(&self) {
        let mut state = self.dispatch_state.lock();
        set_in_flight_limits(&mut state.dispatcher, &self.shares);
        self.wake_workers(&mut state);
    }
}

/// Tells the dispatcher how many attempts each account may have in flight.
pub(in crate::engine) fn set_in_flight_limits(dispatcher: &mut Dispatcher, shares: &AccountShares) {
    let mut accounts = shares.accounts();
    // Ordered, so that a simulation repeats exactly.
    accounts.sort_unstable();
    for account in accounts {
        dispatcher.set_account_limit(&account, shares.bounds_of(&account).in_flight_max);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::account::Account;
    use crate::config::Config;
    use crate::error::Error;
    use crate::store::Memory;
    use crate::subscription::Subscription;

    /// A webhook with so many bytes of text in its body.
    fn large(account: &str, name: &str, bytes: usize) -> Subscription {
        let target = Subscription::to("https://crm.example/hook").unwrap();
        let text = format!("\"{}\"", "x".repeat(bytes));
        target.account(account).name(name).body("tenant", text)
    }

    #[test]
    fn the_texts_of_an_accounts_webhooks_are_bounded() {
        let limits = AccountLimits::default().subscriptions_max(Some(10));
        let config = Config::new("memory").store(Arc::new(Memory::default()));
        let config = config.account(Account::new("acme").limits(limits.clone()));
        let engine = Engine::open(config.account(Account::new("beta").limits(limits))).unwrap();
        let ids: Vec<_> = (0..4)
            .map(|n| engine.subscribe(large("acme", &n.to_string(), 64_000)).unwrap())
            .collect();
        let is_refused = |result: Result<SubscriptionId>| {
            let limit = "subscription_bytes";
            matches!(result, Err(Error::LimitReached { limit: named, .. }) if named == limit)
        };
        assert!(is_refused(engine.subscribe(large("acme", "one more", 64_000))));
        engine.subscribe(large("beta", "bystander", 64_000)).unwrap();
        engine.subscribe(large("acme", "small", 10)).unwrap();
        assert!(is_refused(engine.subscribe(large("acme", "small", 64_000))), "it would grow");
        engine.subscribe(large("acme", "0", 63_000)).unwrap();
        engine.unsubscribe(ids[1]).unwrap();
        engine.subscribe(large("acme", "small", 64_000)).unwrap();
        assert!(is_refused(engine.subscribe(large("acme", "one more", 64_000))));
    }
}

//! What the engine counts and lists of callbacks that did not become events (I8).

use super::Engine;
use crate::error::Result;
use crate::event::{Event, WabaNumber};
use crate::notice::Notice;
use crate::stats::{CallbackRefusal, UnownedSource};

impl Engine {
    /// Counts events that could not be published because no account owns their number or WABA.
    ///
    /// [`stats`](Engine::stats) counts them, [`unowned`](Engine::unowned) lists their source, and a new source is
    /// reported with [`Notice::Unowned`]. [`cloud_api::publish`](crate::inbound::cloud_api::publish) does this for
    /// callbacks.
    pub fn count_unowned(&self, number: Option<String>, waba: Option<String>, events: u64) {
        self.shared.counters.unowned.add(events);
        let wall_ms = self.shared.clock.wall_ms();
        let (shown_number, shown_waba) = (number.clone(), waba.clone());
        if self.shared.callbacks.lock().note_unowned(number, waba, events, wall_ms) {
            let (number, waba) = (shown_number, shown_waba);
            self.shared.notices.send(&Notice::Unowned { number, waba });
        }
    }

    /// The numbers and WABAs that callbacks named and no account owns, the one seen last first.
    ///
    /// At most 1,000 are remembered, in memory only, so a restart forgets them. One that an account owns by now is
    /// forgotten too.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// use wabahook::{Account, Config, Engine};
    /// use wabahook::inbound::cloud_api;
    /// let acme = Account::new("acme").waba("123065260884961", ["919999999999"]);
    /// let engine = Engine::open(Config::new(directory.path()).account(acme))?;
    /// let body = br#"{"entry":[{"id":"7","changes":[{"field":"flows","value":{}}]}]}"#;
    /// assert!(cloud_api::publish(&engine, body)?.is_none());
    /// assert_eq!(engine.unowned()[0].waba.as_deref(), Some("7"));
    /// assert_eq!(engine.stats().unowned, 2); // FLOW_UPDATE, and the change as a whole
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unowned(&self) -> Vec<UnownedSource> {
        let accounts = self.accounts();
        let is_owned = |source: &UnownedSource| {
            let number = source.number.as_deref();
            // A `phone_number_id` may have as many digits as a number.
            let of_id = number.and_then(|id| accounts.number_of(id));
            let shown = number.and_then(|number| number.parse::<WabaNumber>().ok());
            let respelled = shown.and_then(WabaNumber::other_spelling);
            let mut numbers = [of_id, shown, respelled].into_iter().flatten();
            numbers.any(|number| accounts.owner_of_number(number).is_some())
                || source.waba.as_deref().is_some_and(|waba| accounts.owner_of_waba(waba).is_some())
        };
        let mut ledger = self.shared.callbacks.lock();
        ledger.forget_owned(is_owned);
        ledger.unowned()
    }

    /// Checks an event as `publish` does, without publishing it.
    pub(crate) fn check_event(&self, event: &Event) -> Result<()> {
        let shared = &self.shared;
        shared.check_open()?;
        shared.check(event).map(drop)
    }

    /// Counts callbacks, or parts of one, that were refused for a reason, so that they are visible in
    /// [`stats`](Engine::stats) and, at most once a minute for each reason, as
    /// [`Notice::CallbackRefused`]. `detail` is the text of the error.
    pub fn count_refused_callbacks(&self, reason: CallbackRefusal, count: u64, detail: &str) {
        let counters = &self.shared.counters;
        let counter = match reason {
            CallbackRefusal::Signature => &counters.callbacks_refused_signature,
            CallbackRefusal::VerifyToken => &counters.callbacks_refused_verify_token,
            CallbackRefusal::Malformed => &counters.callbacks_refused_malformed,
            CallbackRefusal::MalformedPart => &counters.callback_parts_malformed,
        };
        counter.add(count);
        let now_ms = self.shared.clock.monotonic_ms();
        let told = self.shared.callbacks.lock().note_refused(reason, count, now_ms);
        if let Some(count) = told {
            let detail = detail.to_owned();
            self.shared.notices.send(&Notice::CallbackRefused { reason, count, detail });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::account::Account;
    use crate::config::Config;
    use crate::store::Memory;

    #[test]
    fn a_number_is_owned_by_its_id_and_either_spelling() {
        let config = Config::new("unused").store(Arc::new(Memory::default()));
        let engine = Engine::open(config.account(Account::new("first"))).unwrap();
        for source in ["106540352242922", "5511912345678", "919000000002"] {
            engine.count_unowned(Some(source.to_owned()), None, 1);
        }
        let account = Account::new("acme").waba("1", ["919000000001", "551112345678"]);
        let account = account.phone_number_id("106540352242922", "919000000001");
        engine.create_account(account).unwrap();
        let left: Vec<_> = engine.unowned().into_iter().filter_map(|one| one.number).collect();
        assert_eq!(left, ["919000000002"]);
    }
}

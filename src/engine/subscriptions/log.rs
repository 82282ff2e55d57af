//! What the engine logs about subscriptions. A line has the account, the name and the host of the URL, because
//! operators know names and not ids.

use std::sync::Arc;

use crate::attempt::{Attempt, DeliveryId};
use crate::dispatch::Completed;
use crate::engine::shared::Shared;
use crate::subscription::{SubscriptionId, SubscriptionInfo};

/// Logs at a level, with what is known of the subscription.
macro_rules! log_subscription {
    ($level:ident, $id:expr, $info:expr, $($text:tt)+) => {{
        let info: Option<&SubscriptionInfo> = $info;
        let account = info.map(|info| info.account.as_str());
        let name = info.map(|info| info.name.as_str());
        let host = info.and_then(|info| info.target.url().host());
        tracing::$level!(subscription = $id.0, account, name, host, $($text)+)
    }};
}

impl Shared {
    /// The subscription that a line of the log is about. `None` while the table is being changed: the caller may
    /// be changing it.
    pub(in crate::engine) fn find_for_log(
        &self,
        id: SubscriptionId,
    ) -> Option<Arc<SubscriptionInfo>> {
        Some(Arc::clone(&self.subscriptions.try_read()?.get(id)?.info))
    }

    /// Logs the end of an attempt, and the breaker where it opened or closed. A successful attempt is
    /// logged at debug level only.
    pub(in crate::engine) fn log_end(&self, attempt: Attempt, completed: &Completed) {
        let DeliveryId { sequence, subscription: id } = attempt.delivery;
        let (number, took_ms, outcome) = (attempt.number, completed.took_ms, completed.kind());
        tracing::debug!(subscription = id.0, sequence, number, took_ms, outcome, "attempt ended");
        let Some(trips) = completed.trips else { return };
        let found = self.find_for_log(id);
        let found = found.as_deref();
        match trips {
            0 => log_subscription!(info, id, found, "breaker closed: the endpoint answers again"),
            1 => log_subscription!(warn, id, found, "breaker opened: the endpoint keeps failing"),
            _ => tracing::debug!(subscription = id.0, trips, "breaker's probe failed"),
        }
    }
}

pub(in crate::engine) fn log_in_force(info: &SubscriptionInfo) {
    let state = info.state.as_str();
    log_subscription!(info, info.id, Some(info), "subscription in force ({state})");
}

pub(in crate::engine) fn log_removed(
    id: SubscriptionId,
    removed: Option<&SubscriptionInfo>,
    deliveries: u64,
) {
    log_subscription!(
        info,
        id,
        removed,
        "subscription removed; deliveries cancelled: {deliveries}"
    );
}

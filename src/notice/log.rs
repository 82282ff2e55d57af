//! Notices as events of `tracing`. A line about a subscription has its account, its name and the host of its URL,
//! because operators know names and not ids.

use std::sync::{Arc, OnceLock};

use super::Notice;
use crate::subscription::{SubscriptionId, SubscriptionInfo};

/// Looks up a subscription; `None` where it is unknown, or its table is being changed.
pub(crate) type FindSubscription =
    Box<dyn Fn(SubscriptionId) -> Option<Arc<SubscriptionInfo>> + Send + Sync>;

#[derive(Default)]
pub(super) struct NoticeLog {
    pub(super) find: OnceLock<FindSubscription>,
}

/// Logs at a level with what is known of the notice and its subscription.
macro_rules! log_at {
    ($level:ident, $notice:ident, $info:ident) => {{
        let (kind, reason) = ($notice.kind(), $notice.refusal());
        let subscription = $notice.subscription().map(|id| id.0);
        let account = $info.map(|info| info.account.as_str());
        let name = $info.map(|info| info.name.as_str());
        let host = $info.and_then(|info| info.target.url().host());
        tracing::$level!(kind, reason, subscription, account, name, host, "{}", $notice)
    }};
}

impl NoticeLog {
    /// Emits a notice: as an error if the engine or its directory is at fault, as a warning if an operator should
    /// look, and as information otherwise, because there may be thousands a second. `Resumed` is a warning so that
    /// it appears wherever `Stalled` does.
    pub(super) fn log(&self, notice: &Notice) {
        let find = |id| self.find.get().and_then(|find| find(id));
        let info = notice.subscription().and_then(find);
        let info = info.as_deref();
        match notice {
            Notice::Stalled { .. }
            | Notice::SetAside { .. }
            | Notice::InternalError { .. }
            | Notice::Unreplicated { .. }
            | Notice::NotOwner
            | Notice::Poisoned { .. } => log_at!(error, notice, info),
            Notice::Disabled { .. }
            | Notice::Held { .. }
            | Notice::AccountHeld { .. }
            | Notice::NotServed { .. }
            | Notice::BoundReached { .. }
            | Notice::Resumed
            | Notice::DeadLettersDropped { .. }
            | Notice::DedupKeysDropped(_)
            | Notice::Unowned { .. }
            | Notice::CallbackRefused { .. } => log_at!(warn, notice, info),
            Notice::DeadLettered { .. }
            | Notice::Cancelled { .. }
            | Notice::DeadLettersDiscarded(_)
            | Notice::Purged { .. }
            | Notice::Lagged(_) => log_at!(info, notice, info),
        }
    }
}

impl Notice {
    /// The subscription it is about.
    fn subscription(&self) -> Option<SubscriptionId> {
        match self {
            Notice::DeadLettered { subscription, .. }
            | Notice::Disabled { subscription, .. }
            | Notice::Cancelled { subscription, .. }
            | Notice::Held { subscription, .. }
            | Notice::NotServed { subscription, .. } => Some(*subscription),
            _ => None,
        }
    }

    /// Why a callback was refused.
    fn refusal(&self) -> Option<&'static str> {
        match self {
            Notice::CallbackRefused { reason, .. } => Some(reason.as_str()),
            _ => None,
        }
    }
}

//! Decides which levels a gateway may register at.
//!
//! Leaves to others: which level wins (`routing::precedence`). Invariant: what does not come from such
//! a gateway is `Beside` all others and is never silenced by another subscription.

use serde::{Deserialize, Serialize};

/// How a subscription ranks beside others of its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Level {
    /// Beside all others: it gets what it asks for.
    #[default]
    Beside,
    /// The webhook of a number: gets an event of its number in place of the WABA's.
    Number,
    /// The webhook of a WABA: gets what no number of it has a webhook for, and what has no number.
    Waba,
    /// Silenced by another one, or switched off: kept, and owed nothing.
    Masked,
}

//! How a subscription ranks among others of its gateway. `routing` applies the ranks.

/// How a subscription ranks among the subscriptions of its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Precedence {
    /// Independent of all others: it receives every event that its filter matches.
    #[default]
    Independent,
    /// The webhook of a number: it receives the events of its number instead of the WABA's webhook.
    Number,
    /// The webhook of a WABA: it receives events of numbers without a webhook, and events without a
    /// number.
    Waba,
    /// Masked by another subscription, or switched off: it is kept and receives nothing.
    Masked,
}

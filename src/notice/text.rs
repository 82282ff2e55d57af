//! Each notice as a sentence for an operator.

use std::fmt;

use super::Notice;
use crate::subscription::SubscriptionId;

/// One sentence for an operator.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Lagged(lost) => write!(f, "{lost} notices were lost: this reader is too slow"),
            Notice::DeadLettered { event, subscription, reason } => {
                write!(f, "{event} for subscription {subscription} became a dead letter ({reason})")
            }
            Notice::Disabled { subscription, reason } => {
                write!(f, "subscription {subscription} was disabled ({reason})")
            }
            Notice::Cancelled { subscription, deliveries } => {
                write!(f, "{deliveries} deliveries of subscription {subscription} were cancelled")
            }
            Notice::Held { subscription, deliveries } => {
                write!(
                    f,
                    "{deliveries} deliveries are held: subscription {subscription} is unknown"
                )
            }
            Notice::AccountHeld { account, name, state, deliveries } => write!(
                f,
                "{deliveries} deliveries of account {name:?} ({account}) are held: it is {state}"
            ),
            Notice::NotServed { subscription, name, why } => {
                write_not_served(f, *subscription, name.as_ref(), why)
            }
            Notice::BoundReached { bound } => {
                write!(f, "ready deliveries wait, because a bound is reached: {bound}")
            }
            Notice::Stalled { why } => {
                write!(
                    f,
                    "the device refuses writes ({why}): nothing is accepted until it recovers"
                )
            }
            Notice::Resumed => f.write_str("the device accepts writes again"),
            Notice::DeadLettersDropped { account, letters } => {
                write!(
                    f,
                    "{letters} dead letters of account {account:?}, its oldest, were dropped over \
                     their limits"
                )
            }
            Notice::DeadLettersDiscarded(letters) => {
                write!(f, "{letters} dead letters were discarded")
            }
            Notice::Purged { events, deliveries } => {
                write!(f, "{deliveries} deliveries and dead letters of {events} events were purged")
            }
            Notice::DedupKeysDropped(keys) => write!(
                f,
                "dedup keys are dropped before the end of their window, the oldest first, because there \
                 are too many ({keys} just now; the stats count all)"
            ),
            of_host => of_host.write_of_host(f),
        }
    }
}

impl Notice {
    /// Notices about the host and its callbacks, not about deliveries.
    fn write_of_host(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::SetAside { name, why } => {
                write!(f, "a part of the data directory was set aside as {name}: {why}")
            }
            Notice::Unowned { number, waba } => {
                let number = number.as_deref().unwrap_or("none");
                let waba = waba.as_deref().unwrap_or("none");
                write!(f, "a callback for number {number} of WABA {waba}, which no account owns")
            }
            Notice::CallbackRefused { reason, count, detail } => {
                write!(f, "{count} callbacks were refused ({reason}): {detail}")
            }
            Notice::InternalError { why } => write!(f, "an operation failed: {why}"),
            Notice::Unreplicated { why } => {
                write!(f, "the server would confirm a write without a replica: {why}")
            }
            Notice::NotOwner => f.write_str(
                "another host has taken over the store; this engine stopped, and what it accepted is \
                 delivered there",
            ),
            Notice::Poisoned { why } => {
                write!(
                    f,
                    "the engine stopped ({why}); what it accepted is safe: restart this process"
                )
            }
            _ => f.write_str(self.kind()),
        }
    }
}

fn write_not_served(
    f: &mut fmt::Formatter<'_>,
    subscription: SubscriptionId,
    name: Option<&(String, String)>,
    why: &str,
) -> fmt::Result {
    write!(f, "subscription {subscription}")?;
    if let Some((account, name)) = name {
        write!(f, " ({name:?} of account {account:?})")?;
    }
    write!(
        f,
        " cannot be served by this build and is held: {why}; subscribe it again under its name, or \
         remove it"
    )
}

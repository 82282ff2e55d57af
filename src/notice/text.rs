//! Each notice as a sentence for an operator.

use std::fmt;

use super::Notice;
use crate::subscription::SubscriptionId;
use crate::text::counted;

/// One sentence for an operator.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Lagged(lost) => {
                let lost = counted(*lost, "notice was", "notices were");
                write!(f, "{lost} lost: this reader is too slow")
            }
            Notice::DeadLettered { event, subscription, reason } => {
                write!(f, "{event} for subscription {subscription} became a dead letter ({reason})")
            }
            Notice::Disabled { subscription, reason } => {
                write!(f, "subscription {subscription} was disabled ({reason})")
            }
            Notice::Cancelled { subscription, deliveries } => {
                let was = if *deliveries == 1 { "was" } else { "were" };
                let deliveries = counted(*deliveries, "delivery", "deliveries");
                write!(f, "{deliveries} of subscription {subscription} {was} cancelled")
            }
            Notice::Held { subscription, deliveries } => {
                let deliveries = counted(*deliveries, "delivery is", "deliveries are");
                write!(f, "{deliveries} held: subscription {subscription} is unknown")
            }
            Notice::AccountHeld { account, name, state, deliveries } => {
                let deliveries = counted(*deliveries, "delivery is", "deliveries are");
                write!(f, "account {name:?} ({account}) is {state}: {deliveries} held")
            }
            Notice::NotServed { subscription, name, why } => {
                write_not_served(f, *subscription, name.as_ref(), why)
            }
            Notice::BoundReached { bound } => {
                write!(f, "ready deliveries wait, because a bound is reached: {bound}")
            }
            Notice::Stalled { why } => {
                write!(f, "the store refuses writes ({why}): nothing is accepted until it recovers")
            }
            Notice::Resumed => f.write_str("the store accepts writes again"),
            Notice::DeadLettersDropped { account, letters } => {
                let letters = counted(*letters, "dead letter", "dead letters");
                write!(f, "dropped {letters} of account {account:?} over its limits, oldest first")
            }
            Notice::DeadLettersDiscarded(letters) => {
                let letters = counted(*letters, "dead letter was", "dead letters were");
                write!(f, "{letters} discarded")
            }
            Notice::Purged { events, deliveries } => {
                let deliveries =
                    counted(*deliveries, "delivery or dead letter", "deliveries and dead letters");
                let events = counted(*events, "event", "events");
                write!(f, "purged {deliveries} of {events}")
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
                let number = number.iter().map(|number| format!("number {number}"));
                let waba = waba.iter().map(|waba| format!("WABA {waba}"));
                let named: Vec<_> = number.chain(waba).collect();
                write!(f, "a callback for {}, which no account owns", named.join(" of "))
            }
            Notice::CallbackRefused { reason, count, detail } => {
                let callbacks = counted(*count, "callback was", "callbacks were");
                write!(f, "{callbacks} refused ({reason}): {detail}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_singular() {
        let cancelled =
            |deliveries| Notice::Cancelled { subscription: SubscriptionId(3), deliveries };
        let unowned = |number: Option<&str>, waba: Option<&str>| Notice::Unowned {
            number: number.map(str::to_owned),
            waba: waba.map(str::to_owned),
        };
        for (notice, says) in [
            (Notice::Lagged(1), "1 notice was lost: this reader is too slow"),
            (Notice::Lagged(2), "2 notices were lost: this reader is too slow"),
            (cancelled(1), "1 delivery of subscription 3 was cancelled"),
            (cancelled(0), "0 deliveries of subscription 3 were cancelled"),
            (Notice::DeadLettersDiscarded(1), "1 dead letter was discarded"),
            (
                Notice::Purged { events: 1, deliveries: 2 },
                "purged 2 deliveries and dead letters of 1 event",
            ),
            (unowned(None, Some("7000")), "a callback for WABA 7000, which no account owns"),
            (
                unowned(Some("91"), Some("7000")),
                "a callback for number 91 of WABA 7000, which no account owns",
            ),
        ] {
            assert_eq!(notice.to_string(), says);
        }
    }
}

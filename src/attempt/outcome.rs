//! What an attempt means for its delivery, and why a delivery failed.
//!
//! `dispatch::outcome` decides which outcome a reply has; these are the values it returns.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::transport::Failure;

/// What an attempt means for its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The receiver acknowledged the event.
    Delivered,
    /// Try again, not before the receiver's `Retry-After`.
    Retry {
        /// What happened.
        reason: Reason,
        /// The wait that the receiver asked for.
        retry_after: Option<Duration>,
    },
    /// No further attempt can help: the delivery becomes a dead letter.
    Dead(Reason),
    /// As `Dead`, and the subscription is disabled.
    Gone(Reason),
    /// We cut the attempt short. It does not count.
    Interrupted,
}

impl Outcome {
    /// Why the attempt failed; `None` if it was delivered or does not count.
    pub(crate) fn into_reason(self) -> Option<Reason> {
        match self {
            Outcome::Retry { reason, .. } | Outcome::Dead(reason) | Outcome::Gone(reason) => {
                Some(reason)
            }
            Outcome::Delivered | Outcome::Interrupted => None,
        }
    }
}

/// Why a delivery was retried or given up. Its text (`status:404`, `timeout`) is the same in every version.
///
/// ```
/// use wabahook::{Failure, Reason};
/// assert_eq!(Reason::Status(404).to_string(), "status:404");
/// assert_eq!(Reason::Failed(Failure::Tls("expired".into())).to_string(), "tls:expired");
/// assert_eq!("status:404".parse::<Reason>()?, Reason::Status(404));
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// The receiver responded with this status.
    Status(u16),
    /// There was no usable response.
    Failed(Failure),
    /// The delivery grew older than its policy allows. If its attempts were used up instead, the reason is
    /// that of the last one.
    Expired,
    /// The delivery that this one depends on (`after`) was given up.
    Gate,
    /// The receiver asked for no more attempts of this delivery, in the header `webhook-delivery`.
    Aborted,
    /// The receiver asked for no more deliveries, in the header `webhook-delivery`.
    ReceiverDisabled,
    /// Every attempt failed for as long as the policy allows.
    Failing,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Status(status) => write!(f, "status:{status}"),
            Reason::Failed(failure) => failure.fmt(f),
            Reason::Expired => f.write_str("expired"),
            Reason::Gate => f.write_str("gate"),
            Reason::Aborted => f.write_str("aborted"),
            Reason::ReceiverDisabled => f.write_str("receiver_disabled"),
            Reason::Failing => f.write_str("failing"),
        }
    }
}

impl FromStr for Reason {
    type Err = Error;

    /// Reads the text that `Display` writes.
    fn from_str(text: &str) -> Result<Reason> {
        Ok(match text {
            "expired" => Reason::Expired,
            "gate" => Reason::Gate,
            "aborted" => Reason::Aborted,
            "receiver_disabled" => Reason::ReceiverDisabled,
            "failing" => Reason::Failing,
            _ => match text.strip_prefix("status:") {
                Some(status) => Reason::Status(status.parse().map_err(|_| {
                    Error::invalid("reason", text, "status: and an HTTP status, such as status:404")
                })?),
                None => Reason::Failed(text.parse()?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_read_back_from_its_text() {
        let failures = [
            Failure::Timeout,
            Failure::Connect,
            Failure::Dns,
            Failure::Tls("expired".to_owned()),
            Failure::Guard("loopback".to_owned()),
            Failure::Protocol,
            Failure::Interrupted,
            Failure::Internal,
            Failure::TooLarge,
            Failure::Shortage(crate::transport::Shortage::HostConnections),
        ];
        let others = [
            Reason::Status(404),
            Reason::Expired,
            Reason::Gate,
            Reason::Aborted,
            Reason::ReceiverDisabled,
            Reason::Failing,
        ];
        for reason in failures.map(Reason::Failed).into_iter().chain(others) {
            assert_eq!(reason.to_string().parse::<Reason>().unwrap(), reason);
        }
        for text in ["", "status:", "status:x", "tls:", "unheard"] {
            assert_eq!(text.parse::<Reason>().unwrap_err().field(), Some("reason"), "{text}");
        }
    }
}

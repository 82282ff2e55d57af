//! What a reply means for its delivery and for its subscription. Every reply has exactly one outcome: that of the first
//! line of this table that fits.
//!
//! | reply | outcome | because |
//! |---|---|---|
//! | 200 to 299, or only 200 under [`Accept::Only200`] | Delivered | the receiver acknowledged it |
//! | `webhook-delivery: abort-message`, if honored | Dead, `aborted` | the receiver wants no more attempts of it |
//! | any other status under [`RetryOn::All`] | Retry | the policy retries everything |
//! | another 2xx under [`Accept::Only200`] | Retry | not acknowledged, and not refused for good |
//! | 408, 425, 429 | Retry | the receiver asks for another time |
//! | 410 | Gone | the receiver wants no more: the subscription is disabled |
//! | 500 to 599 | Retry | the receiver failed |
//! | below 100, 600 and above | Retry | RFC 9110 15 treats an unknown class like 5xx |
//! | 1xx, 3xx, another 4xx | Dead | the same request would get the same response |
//! | timeout | Retry; Dead if `retry_on_timeout` is off | what the receiver did is unknown |
//! | connect, dns, tls, protocol | Retry | outages and certificates get repaired |
//! | guard | Dead | the address stays refused |
//! | too large | Dead | the event does not shrink |
//! | interrupted | Interrupted | we ended it, so it does not count |
//! | internal | Retry | our fault is not the receiver's |
//!
//! Whatever the outcome, `webhook-delivery: disable` in a response disables the subscription, if the policy honors that
//! header.

use crate::attempt::{Outcome, Reason};
use crate::subscription::{Accept, Policy, RetryOn};
use crate::transport::{DeliveryControl, Failure, Reply, Response};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) outcome: Outcome,
    pub(crate) disable: Option<Reason>,
}

pub(crate) fn judge(reply: &Reply, policy: &Policy) -> Judgement {
    let outcome = match reply {
        Reply::Response(answer) => answered(answer, policy),
        Reply::Failed(failure) => failed(failure, policy),
    };
    let disable = match (&outcome, control(reply, policy)) {
        (Outcome::Gone(reason), _) => Some(reason.clone()),
        (_, Some(DeliveryControl::Disable)) => Some(Reason::ReceiverDisabled),
        _ => None,
    };
    Judgement { outcome, disable }
}

fn control(reply: &Reply, policy: &Policy) -> Option<DeliveryControl> {
    match reply {
        Reply::Response(answer) if policy.honor_delivery_control => answer.control,
        _ => None,
    }
}

fn answered(answer: &Response, policy: &Policy) -> Outcome {
    let Response { status, retry_after, .. } = *answer;
    let reason = Reason::Status(status);
    let retry = |reason| Outcome::Retry { reason, retry_after };
    let aborted =
        policy.honor_delivery_control && answer.control == Some(DeliveryControl::AbortMessage);
    match status {
        200 => Outcome::Delivered,
        201..=299 if policy.accept == Accept::Any2xx => Outcome::Delivered,
        _ if aborted => Outcome::Dead(Reason::Aborted),
        _ if policy.retry_on == RetryOn::All => retry(reason),
        410 => Outcome::Gone(reason),
        408 | 425 | 429 => retry(reason),
        100..=199 | 300..=499 => Outcome::Dead(reason),
        _ => retry(reason),
    }
}

fn failed(failure: &Failure, policy: &Policy) -> Outcome {
    let reason = Reason::Failed(failure.clone());
    match failure {
        Failure::Interrupted => Outcome::Interrupted,
        Failure::Guard(_) | Failure::TooLarge => Outcome::Dead(reason),
        Failure::Timeout if !policy.retry_on_timeout => Outcome::Dead(reason),
        Failure::Timeout
        | Failure::Connect
        | Failure::Dns
        | Failure::Tls(_)
        | Failure::Protocol
        | Failure::Internal
        | Failure::Shortage(_) => Outcome::Retry { reason, retry_after: None },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn only_200() -> Policy {
        Policy { accept: Accept::Only200, ..Policy::default() }
    }

    fn reply(status: u16) -> Reply {
        Reply::Response(Response::new(status).retry_after(Duration::from_secs(7)))
    }

    /// One letter for each outcome, after checking that it carries the status and `Retry-After`.
    fn letter(status: u16, policy: &Policy) -> char {
        let reason = Reason::Status(status);
        match judge(&reply(status), policy).outcome {
            Outcome::Delivered => 'd',
            Outcome::Retry { reason: r, retry_after: Some(wait) }
                if r == reason && wait == Duration::from_secs(7) =>
            {
                'r'
            }
            Outcome::Dead(r) if r == reason => 'x',
            Outcome::Gone(r) if r == reason => 'g',
            other => panic!("{status}: {other:?}"),
        }
    }

    fn check_statuses(policy: &Policy, expected: impl Fn(u16) -> char) {
        for status in (0..=700).chain([u16::MAX]) {
            assert_eq!(letter(status, policy), expected(status), "status {status}");
        }
    }

    #[test]
    fn every_status_has_its_outcome() {
        let common = |status: u16| match status {
            410 => 'g',
            408 | 425 | 429 => 'r',
            _ => match status / 100 {
                1 | 3 | 4 => 'x',
                _ => 'r',
            },
        };
        check_statuses(&Policy::default(), |s| if s / 100 == 2 { 'd' } else { common(s) });
        check_statuses(&only_200(), |s| if s == 200 { 'd' } else { common(s) });
    }

    #[test]
    fn every_failure_has_its_outcome() {
        let impatient = Policy { retry_on_timeout: false, ..Policy::default() };
        for (failure, retried, retried_without_timeouts) in [
            (Failure::Timeout, true, false),
            (Failure::Connect, true, true),
            (Failure::Dns, true, true),
            (Failure::Tls("expired".to_owned()), true, true),
            (Failure::Protocol, true, true),
            (Failure::Internal, true, true),
            (Failure::Guard("loopback".to_owned()), false, false),
            (Failure::TooLarge, false, false),
        ] {
            for (policy, retried) in
                [(Policy::default(), retried), (impatient.clone(), retried_without_timeouts)]
            {
                let reason = Reason::Failed(failure.clone());
                let expected = match retried {
                    true => Outcome::Retry { reason, retry_after: None },
                    false => Outcome::Dead(reason),
                };
                assert_eq!(judge(&Reply::Failed(failure.clone()), &policy).outcome, expected);
            }
        }
        let interrupted = Reply::Failed(Failure::Interrupted);
        assert_eq!(judge(&interrupted, &impatient).outcome, Outcome::Interrupted);
    }

    #[test]
    fn retry_on_all_gives_up_only_what_cannot_be_sent() {
        let policy = Policy { retry_on: RetryOn::All, ..only_200() };
        check_statuses(&policy, |status| if status == 200 { 'd' } else { 'r' });
        for failure in [Failure::Guard("loopback".to_owned()), Failure::TooLarge] {
            let judged = judge(&Reply::Failed(failure.clone()), &policy);
            assert_eq!(judged, dead(Reason::Failed(failure)));
        }
    }

    #[test]
    fn the_delivery_control_header_is_honored_by_policy() {
        let deaf = Policy { honor_delivery_control: false, ..Policy::default() };
        for status in [200, 204, 400, 410, 429, 503] {
            let plain = judge(&Reply::status(status), &deaf);
            let answer = |control| Reply::Response(Response::new(status).control(control));
            let disabling = judge(&answer(DeliveryControl::Disable), &Policy::default());
            assert_eq!(disabling.outcome, plain.outcome, "{status}");
            let asked = if status == 410 { Reason::Status(410) } else { Reason::ReceiverDisabled };
            assert_eq!(disabling.disable, Some(asked), "{status}");
            let aborting = judge(&answer(DeliveryControl::AbortMessage), &Policy::default());
            let aborted = if status < 300 { plain.clone() } else { dead(Reason::Aborted) };
            assert_eq!(aborting, aborted, "{status}");
            for control in [DeliveryControl::Disable, DeliveryControl::AbortMessage] {
                assert_eq!(judge(&answer(control), &deaf), plain, "{status}");
            }
        }
    }

    fn dead(reason: Reason) -> Judgement {
        Judgement { outcome: Outcome::Dead(reason), disable: None }
    }
}

//! Decides what a reply means for its delivery, and for its subscription.
//!
//! Leaves to others: what came back (`delivery`), how long to wait and whether attempts are left
//! (`backoff`, `lane`). Invariant: every reply has exactly one outcome; the first line of this table
//! that fits gives it.
//!
//! | reply | outcome | because |
//! |---|---|---|
//! | 200 to 299, or 200 alone under [`Accept::Only200`] | Delivered | the receiver acknowledged it |
//! | `webhook-delivery: abort-message`, where obeyed | Dead, `aborted` | the receiver wants no more attempts of it |
//! | any other status under [`Retried::All`] | Retry | the gateway's manners are to try on |
//! | another 2xx under [`Accept::Only200`] | Retry | not acknowledged, and nothing says it never will be |
//! | 408, 425, 429 | Retry | the receiver asks for another time |
//! | 410 | Gone | the receiver wants no more: the subscription is disabled |
//! | 500 to 599 | Retry | the receiver failed |
//! | below 100, 600 and above | Retry | RFC 9110 15 has an unknown class treated as 5xx |
//! | 1xx, 3xx, another 4xx | Dead | the same request would be answered the same |
//! | timeout | Retry; Dead where `retry_on_timeout` is off | nobody knows what the receiver did |
//! | connect, dns, tls, protocol | Retry | outages, and certificates, get repaired |
//! | guard | Dead | the address is refused, however often it is tried |
//! | too large | Dead | the event does not shrink |
//! | interrupted | Interrupted | our doing: it does not count |
//! | internal | Retry | our fault is not the receiver's |
//!
//! Whatever the outcome, an answer with `webhook-delivery: disable` disables the subscription, where
//! that header is obeyed.

use crate::attempt::{Answered, Control, Failure, Outcome, Reason, Reply};
use crate::subscription::{Accept, Policy, Retried};

/// What a reply means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    /// For its delivery.
    pub(crate) outcome: Outcome,
    /// Why its subscription is disabled, where it is.
    pub(crate) disable: Option<Reason>,
}

/// What a reply means under a policy.
pub(crate) fn judge(reply: &Reply, policy: &Policy) -> Judged {
    let outcome = match reply {
        Reply::Answered(answer) => answered(answer, policy),
        Reply::Failed(failure) => failed(failure, policy),
    };
    let disable = match (&outcome, control(reply, policy)) {
        (Outcome::Gone(reason), _) => Some(reason.clone()),
        (_, Some(Control::Disable)) => Some(Reason::Asked),
        _ => None,
    };
    Judged { outcome, disable }
}

fn control(reply: &Reply, policy: &Policy) -> Option<Control> {
    match reply {
        Reply::Answered(answer) if policy.obeys_receiver => answer.control,
        _ => None,
    }
}

fn answered(answer: &Answered, policy: &Policy) -> Outcome {
    let Answered { status, retry_after_ms, .. } = *answer;
    let reason = Reason::Status(status);
    let retry = |reason| Outcome::Retry { reason, retry_after_ms };
    let aborted = policy.obeys_receiver && answer.control == Some(Control::AbortMessage);
    match status {
        200 => Outcome::Delivered,
        201..=299 if policy.accept == Accept::Any2xx => Outcome::Delivered,
        _ if aborted => Outcome::Dead(Reason::Aborted),
        _ if policy.retried == Retried::All => retry(reason),
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
        | Failure::Internal => Outcome::Retry { reason, retry_after_ms: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_200() -> Policy {
        Policy { accept: Accept::Only200, ..Policy::default() }
    }

    fn reply(status: u16) -> Reply {
        Reply::Answered(Answered::new(status).retry_after_ms(7_000))
    }

    /// One letter for each outcome, after checking that it carries the status and `Retry-After`.
    fn letter(status: u16, policy: &Policy) -> char {
        let reason = Reason::Status(status);
        match judge(&reply(status), policy).outcome {
            Outcome::Delivered => 'd',
            Outcome::Retry { reason: r, retry_after_ms: Some(7_000) } if r == reason => 'r',
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
    fn every_status_has_the_outcome_of_its_line() {
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
    fn every_failure_has_the_outcome_of_its_line() {
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
                    true => Outcome::Retry { reason, retry_after_ms: None },
                    false => Outcome::Dead(reason),
                };
                assert_eq!(judge(&Reply::Failed(failure.clone()), &policy).outcome, expected);
            }
        }
        let interrupted = Reply::Failed(Failure::Interrupted);
        assert_eq!(judge(&interrupted, &impatient).outcome, Outcome::Interrupted);
    }

    #[test]
    fn a_policy_that_retries_all_gives_up_only_what_the_guard_refuses_or_no_request_holds() {
        let policy = Policy { retried: Retried::All, ..only_200() };
        check_statuses(&policy, |status| if status == 200 { 'd' } else { 'r' });
        for failure in [Failure::Guard("loopback".to_owned()), Failure::TooLarge] {
            let judged = judge(&Reply::Failed(failure.clone()), &policy);
            assert_eq!(judged, dead(Reason::Failed(failure)));
        }
    }

    #[test]
    fn a_receiver_ends_a_delivery_or_all_of_them_where_it_is_obeyed() {
        let deaf = Policy { obeys_receiver: false, ..Policy::default() };
        for status in [200, 204, 400, 410, 429, 503] {
            let plain = judge(&Reply::status(status), &deaf);
            let answer = |control| Reply::Answered(Answered::new(status).control(control));
            let disabling = judge(&answer(Control::Disable), &Policy::default());
            assert_eq!(disabling.outcome, plain.outcome, "{status}");
            let asked = if status == 410 { Reason::Status(410) } else { Reason::Asked };
            assert_eq!(disabling.disable, Some(asked), "{status}");
            let aborting = judge(&answer(Control::AbortMessage), &Policy::default());
            let aborted = if status < 300 { plain.clone() } else { dead(Reason::Aborted) };
            assert_eq!(aborting, aborted, "{status}");
            for control in [Control::Disable, Control::AbortMessage] {
                assert_eq!(judge(&answer(control), &deaf), plain, "{status}");
            }
        }
    }

    fn dead(reason: Reason) -> Judged {
        Judged { outcome: Outcome::Dead(reason), disable: None }
    }
}

//! How receivers behave: what each answers to an attempt, and after how long. An attempt without an
//! answer ends as a timeout at its deadline.

use std::time::Duration;

use wabahook::{DeliveryControl, Failure, Reply, Response};

use super::random::Random;

/// How a receiver behaves for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    Fast,
    Slow,
    /// Never answers, so each attempt lasts until its deadline.
    Hanging,
    /// Changes at random with every attempt.
    Flapping,
    /// Refuses connections, or fails before it reads.
    Down,
    Gone,
    Refusing,
    /// 429 with `Retry-After`.
    Throttling,
    /// 502 and 504 of a proxy in front of it.
    BadGateway,
    /// Uses the header `webhook-delivery`.
    Commanding,
}

pub const BEHAVIORS: [(u64, Behavior); 10] = [
    (12, Behavior::Fast),
    (4, Behavior::Slow),
    (5, Behavior::Hanging),
    (8, Behavior::Flapping),
    (6, Behavior::Down),
    (1, Behavior::Gone),
    (2, Behavior::Refusing),
    (3, Behavior::Throttling),
    (3, Behavior::BadGateway),
    (1, Behavior::Commanding),
];

/// What a receiver will answer, and how long it takes.
pub struct Answer {
    pub after_ms: u64,
    pub reply: Reply,
}

impl Behavior {
    pub fn answer(self, random: &mut Random, timeout_ms: u64) -> Answer {
        let quick_ms = random.below(6);
        let (after_ms, reply) = match self {
            Behavior::Fast => (quick_ms, Reply::status(random.pick(&[200, 200, 200, 204, 202]))),
            Behavior::Slow => (random.within(50, 2_000), Reply::status(200)),
            Behavior::Hanging => (timeout_ms, Reply::Failed(Failure::Timeout)),
            Behavior::Flapping => {
                let behavior = random.pick(&[
                    Behavior::Fast,
                    Behavior::Down,
                    Behavior::BadGateway,
                    Behavior::Slow,
                ]);
                return behavior.answer(random, timeout_ms);
            }
            Behavior::Down => (quick_ms, down(random)),
            Behavior::Gone => (quick_ms, Reply::status(410)),
            Behavior::Refusing => (quick_ms, Reply::status(random.pick(&[400, 404, 301, 422]))),
            Behavior::Throttling => {
                let asked_ms = random.within(1, 20) * 1_000;
                let answered = Response::new(random.pick(&[429, 503]))
                    .retry_after(Duration::from_millis(asked_ms));
                (quick_ms, Reply::Response(answered))
            }
            Behavior::BadGateway => (quick_ms, Reply::status(random.pick(&[502, 504]))),
            Behavior::Commanding => {
                let control =
                    random.pick(&[DeliveryControl::AbortMessage, DeliveryControl::Disable]);
                let status = random.pick(&[500, 503, 400]);
                (quick_ms, Reply::Response(Response::new(status).control(control)))
            }
        };
        if after_ms >= timeout_ms {
            return Answer { after_ms: timeout_ms, reply: Reply::Failed(Failure::Timeout) };
        }
        Answer { after_ms, reply }
    }
}

fn down(random: &mut Random) -> Reply {
    match random.below(6) {
        0 => Reply::status(500),
        1 => Reply::Failed(Failure::Dns),
        2 => Reply::Failed(Failure::Tls("expired".to_owned())),
        3 => Reply::status(408),
        _ => Reply::Failed(Failure::Connect),
    }
}

/// Receipts are never waited for.
pub const AT_ONCE: Duration = Duration::ZERO;

//! Decides how receivers behave: what each answers to an attempt, and after how long.
//!
//! Leaves to others: what an answer means (`life`), and when the engine hears of it (`world`).
//! Invariant: an attempt that is not answered in its time ends as a timeout at its deadline.

use std::time::Duration;

use parking_lot::Mutex;
use wabahook::{Answered, Control, Failure, Reply, Request, Transport};

use super::chance::Chance;

/// How a receiver behaves for the time being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Fast,
    Slow,
    /// Never answers: each attempt lasts until its deadline.
    Hanging,
    /// Every attempt is thrown for anew.
    Flapping,
    /// Refuses connections, or fails before it reads.
    Down,
    Gone,
    Refusing,
    /// 429 with `Retry-After`.
    Throttling,
    /// 502 and 504 of a proxy in front of it.
    BadGateway,
    /// Speaks in the header `webhook-delivery`.
    Commanding,
}

pub const MOODS: [(u64, Mood); 10] = [
    (12, Mood::Fast),
    (4, Mood::Slow),
    (5, Mood::Hanging),
    (8, Mood::Flapping),
    (6, Mood::Down),
    (1, Mood::Gone),
    (2, Mood::Refusing),
    (3, Mood::Throttling),
    (3, Mood::BadGateway),
    (1, Mood::Commanding),
];

/// What a receiver will answer, and how long it takes.
pub struct Answer {
    pub after_ms: u64,
    pub reply: Reply,
}

impl Mood {
    pub fn answer(self, chance: &mut Chance, timeout_ms: u64) -> Answer {
        let quick_ms = chance.below(6);
        let (after_ms, reply) = match self {
            Mood::Fast => (quick_ms, Reply::status(chance.pick(&[200, 200, 200, 204, 202]))),
            Mood::Slow => (chance.within(50, 2_000), Reply::status(200)),
            Mood::Hanging => (timeout_ms, Reply::Failed(Failure::Timeout)),
            Mood::Flapping => {
                let mood = chance.pick(&[Mood::Fast, Mood::Down, Mood::BadGateway, Mood::Slow]);
                return mood.answer(chance, timeout_ms);
            }
            Mood::Down => (quick_ms, down(chance)),
            Mood::Gone => (quick_ms, Reply::status(410)),
            Mood::Refusing => (quick_ms, Reply::status(chance.pick(&[400, 404, 301, 422]))),
            Mood::Throttling => {
                let asked_ms = chance.within(1, 20) * 1_000;
                let answered = Answered::new(chance.pick(&[429, 503])).retry_after_ms(asked_ms);
                (quick_ms, Reply::Answered(answered))
            }
            Mood::BadGateway => (quick_ms, Reply::status(chance.pick(&[502, 504]))),
            Mood::Commanding => {
                let control = chance.pick(&[Control::AbortMessage, Control::Disable]);
                let status = chance.pick(&[500, 503, 400]);
                (quick_ms, Reply::Answered(Answered::new(status).control(control)))
            }
        };
        if after_ms >= timeout_ms {
            return Answer { after_ms: timeout_ms, reply: Reply::Failed(Failure::Timeout) };
        }
        Answer { after_ms, reply }
    }
}

fn down(chance: &mut Chance) -> Reply {
    match chance.below(6) {
        0 => Reply::status(500),
        1 => Reply::Failed(Failure::Dns),
        2 => Reply::Failed(Failure::Tls("expired".to_owned())),
        3 => Reply::status(408),
        _ => Reply::Failed(Failure::Connect),
    }
}

/// What one attempt looked like when it arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub url: String,
    pub id: String,
    pub number: u32,
    pub kind: String,
    pub body: String,
    pub timeout_ms: u64,
}

/// Takes every request down. What it answers is of no account: the world gives the replies.
#[derive(Default)]
pub struct Line {
    arrivals: Mutex<Vec<Arrival>>,
}

impl Line {
    pub fn take(&self) -> Option<Arrival> {
        self.arrivals.lock().pop()
    }
}

impl Transport for Line {
    fn send(&self, request: &Request<'_>) -> Reply {
        let header = |name: &str| {
            let found = request.headers.iter().find(|(known, _)| known.as_str() == name);
            found.map(|(_, value)| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        self.arrivals.lock().push(Arrival {
            url: request.url.to_string(),
            id: header("webhook-id"),
            number: header("x-webhook-attempt").parse().unwrap(),
            kind: header("x-webhook-event"),
            body: String::from_utf8(request.body.to_vec()).unwrap(),
            timeout_ms: request.timeout_ms,
        });
        Reply::status(200)
    }

    fn interrupt(&self) {}
}

/// No receipt is waited for: it is there or it is not.
pub const AT_ONCE: Duration = Duration::ZERO;

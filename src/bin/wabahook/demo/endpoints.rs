//! Decides the cast of the demo: the account's numbers, the ten endpoints, what each asks for, how
//! each behaves as the show goes on, and on which terms it is delivered to.
//!
//! Leaves to others: answering requests (`receivers`) and registering (`engine`). Invariant: an
//! answer is a function of the behaviour and of how far the show is; whether an endpoint wants an
//! event is computed here without the engine's routing, so that the two can be held against each
//! other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use wabahook::{Policy, Retry};

/// Where an event belongs: its number, or its WABA where a callback names no number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// The digits of a number.
    Number(String),
    /// The id of a WABA.
    Waba(String),
}

/// One receiver of the demo.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Its name, which is also its subscription's.
    pub(super) name: &'static str,
    /// What it does, for people.
    pub(super) story: &'static str,
    /// Canonical event types; none means all.
    pub(super) types: &'static [&'static str],
    /// Numbers; none means all.
    pub(super) numbers: &'static [&'static str],
    /// How it answers.
    pub(super) behaviour: Behaviour,
}

/// How an endpoint answers. Moments and spans are in thousandths of the show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// 200 at once.
    Healthy,
    /// 200 after this many milliseconds.
    Slow(u64),
    /// 503 until this moment, then 200.
    FailingUntil(u64),
    /// 500 and 200 by turns, each for this long.
    Flapping(u64),
    /// Refuses connections.
    Dead,
    /// Accepts and says nothing until this moment, then 200.
    HangingUntil(u64),
    /// 200 until this moment, then 410.
    GoneFrom(u64),
    /// 404 always.
    NotFound,
    /// 429 with `Retry-After: 1` in each fourth span of this length, else 200.
    Throttling(u64),
}

/// What a receiver says, and after how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) after_ms: u64,
    pub(super) retry_after_s: Option<u64>,
}

impl Behaviour {
    /// The answer to a request that arrives `elapsed_ms` into a show of `show_ms`.
    pub(super) fn answer(self, elapsed_ms: u64, show_ms: u64) -> Answer {
        let moment = elapsed_ms.saturating_mul(1_000) / show_ms.max(1);
        let turn = |span: u64| moment / span.max(1);
        let status = match self {
            Behaviour::FailingUntil(end) if moment < end => 503,
            Behaviour::Flapping(span) if turn(span).is_multiple_of(2) => 500,
            Behaviour::GoneFrom(start) if moment >= start => 410,
            Behaviour::NotFound => 404,
            Behaviour::Throttling(span) if turn(span) % 4 == 3 => 429,
            _ => 200,
        };
        let after_ms = match self {
            Behaviour::Slow(wait_ms) => wait_ms,
            Behaviour::HangingUntil(end) => (end * show_ms / 1_000).saturating_sub(elapsed_ms),
            _ => 0,
        };
        Answer { status, after_ms, retry_after_s: (status == 429).then_some(1) }
    }

    /// Why what this endpoint is owed may still wait when the show ends; `None` where all of it
    /// should be settled by then.
    pub(super) fn why_it_waits(self) -> Option<&'static str> {
        match self {
            Behaviour::Dead => Some("connection refused, still being tried"),
            Behaviour::GoneFrom(_) => Some("held: disabled"),
            _ => None,
        }
    }
}

impl Endpoint {
    /// Whether its filter matches an event.
    pub(super) fn wants(&self, event_type: &str, place: &Place) -> bool {
        let type_fits = self.types.is_empty() || self.types.contains(&event_type);
        let place_fits = self.numbers.is_empty()
            || match place {
                Place::Number(number) => self.numbers.contains(&number.as_str()),
                Place::Waba(waba) => WABAS
                    .iter()
                    .filter(|(id, _)| id == waba)
                    .any(|(_, numbers)| numbers.iter().any(|n| self.numbers.contains(n))),
            };
        type_fits && place_fits
    }

    /// Its filter, for people.
    pub(super) fn filter(&self) -> String {
        let types = match self.types {
            [] => "every type".to_owned(),
            types => types.join(", "),
        };
        let numbers = match self.numbers {
            [] => "every number".to_owned(),
            numbers => numbers.join(", "),
        };
        format!("{types} of {numbers}")
    }

    /// What its deliveries are signed with.
    pub(super) fn secret(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.signing_key()))
    }

    /// The key inside of [`secret`](Endpoint::secret).
    pub(super) fn signing_key(&self) -> Vec<u8> {
        format!("demo key of {:>24}", self.name).into_bytes()
    }
}

/// The terms of every subscription: waits and the timeout are shares of the show, so that an outage
/// and its end both fit into it; the age is the default's day, so nothing is given up for its age.
pub(super) fn policy(show_ms: u64) -> Policy {
    Policy {
        retry: Retry::Exponential {
            initial_ms: (show_ms / 100).max(10),
            max_ms: (show_ms / 20).max(50),
            jitter_permille: 200,
        },
        timeout_ms: (show_ms / 10).max(200),
        ..Policy::default()
    }
}

/// The WABAs of the demo's account, with their numbers, as the samples name them.
pub(super) const WABAS: &[(&str, &[&str])] = &[
    ("5467539754836534", &["972123456789"]),
    ("1234567890987654321", &[]),
    ("100000000000001", &["919000000001", "919000000002"]),
    ("100000000000002", &["919000000003"]),
    ("102290129340398", &["919000000004"]),
];

/// The ten endpoints.
pub(super) static ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        name: "audit-log",
        story: "healthy",
        types: &[],
        numbers: &[],
        behaviour: Behaviour::Healthy,
    },
    Endpoint {
        name: "crm",
        story: "healthy",
        types: &["MESSAGE_RECEIVED"],
        numbers: &[],
        behaviour: Behaviour::Healthy,
    },
    Endpoint {
        name: "status-board",
        story: "slow: 80 ms",
        types: &["MESSAGE_STATUS_UPDATE"],
        numbers: &[],
        behaviour: Behaviour::Slow(80),
    },
    Endpoint {
        name: "orders",
        story: "503 for a third",
        types: &["MESSAGE_RECEIVED"],
        numbers: &["919000000001"],
        behaviour: Behaviour::FailingUntil(330),
    },
    Endpoint {
        name: "mirror",
        story: "flapping: 500",
        types: &["RAW_CLOUD_API_WEBHOOK"],
        numbers: &[],
        behaviour: Behaviour::Flapping(50),
    },
    Endpoint {
        name: "analytics",
        story: "hangs until late",
        types: &["MESSAGE_STATUS_UPDATE"],
        numbers: &["972123456789"],
        behaviour: Behaviour::HangingUntil(600),
    },
    Endpoint {
        name: "partner",
        story: "429, Retry-After",
        types: &["MESSAGE_RECEIVED"],
        numbers: &["972123456789", "919000000003"],
        behaviour: Behaviour::Throttling(50),
    },
    Endpoint {
        name: "old-typo",
        story: "404, a typo",
        types: &["TEMPLATE_UPDATE"],
        numbers: &["919000000001"],
        behaviour: Behaviour::NotFound,
    },
    Endpoint {
        name: "moved-shop",
        story: "410 from a quarter",
        types: &[],
        numbers: &["919000000003"],
        behaviour: Behaviour::GoneFrom(250),
    },
    Endpoint {
        name: "old-crm",
        story: "refuses to connect",
        types: &[],
        numbers: &["919000000002"],
        behaviour: Behaviour::Dead,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(behaviour: Behaviour, elapsed_ms: u64, status: u16, after_ms: u64) {
        let answer = behaviour.answer(elapsed_ms, 20_000);
        assert_eq!((answer.status, answer.after_ms), (status, after_ms), "{behaviour:?}");
        assert_eq!(answer.retry_after_s.is_some(), status == 429, "{behaviour:?}");
    }

    #[test]
    fn each_behaviour_follows_the_show() {
        check(Behaviour::Healthy, 0, 200, 0);
        check(Behaviour::Slow(80), 19_000, 200, 80);
        check(Behaviour::FailingUntil(330), 6_599, 503, 0);
        check(Behaviour::FailingUntil(330), 6_600, 200, 0);
        check(Behaviour::Flapping(50), 500, 500, 0);
        check(Behaviour::Flapping(50), 1_500, 200, 0);
        check(Behaviour::HangingUntil(600), 2_000, 200, 10_000);
        check(Behaviour::HangingUntil(600), 13_000, 200, 0);
        check(Behaviour::GoneFrom(250), 4_999, 200, 0);
        check(Behaviour::GoneFrom(250), 5_000, 410, 0);
        check(Behaviour::NotFound, 19_999, 404, 0);
        check(Behaviour::Throttling(50), 2_999, 200, 0);
        check(Behaviour::Throttling(50), 3_000, 429, 0);
    }

    #[test]
    fn an_event_without_a_number_reaches_the_numbers_of_its_waba_and_those_who_want_all() {
        let wanting = |event_type: &str, place: Place| {
            let all = ENDPOINTS.iter().filter(|e| e.wants(event_type, &place));
            all.map(|e| e.name).collect::<Vec<_>>()
        };
        let waba = |id: &str| Place::Waba(id.into());
        let number = |digits: &str| Place::Number(digits.into());
        assert_eq!(wanting("X", waba("100000000000002")), ["audit-log", "moved-shop"]);
        assert_eq!(wanting("X", waba("102290129340398")), ["audit-log"]);
        assert_eq!(wanting("X", number("919000000002")), ["audit-log", "old-crm"]);
        let received = wanting("MESSAGE_RECEIVED", number("919000000001"));
        assert_eq!(received, ["audit-log", "crm", "orders"]);
    }

    #[test]
    fn the_cast_is_ten_with_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = ENDPOINTS.iter().map(|e| e.name).collect();
        assert_eq!((ENDPOINTS.len(), names.len()), (10, 10));
    }
}

//! The endpoints of the demo: what each subscribes to and how it behaves over time. A response depends on
//! the behaviour and the time only. Whether an endpoint wants an event is computed here without the engine's
//! routing, so that the two can be compared.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use wabahook::policy::{Policy, Retry};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NumberOrWaba {
    /// The digits of a number.
    Number(String),
    /// The id of a WABA.
    Waba(String),
}

/// One receiver of the demo.
#[derive(Debug)]
pub(super) struct DemoEndpoint {
    /// Its name, and the name of its subscription.
    pub(super) name: &'static str,
    /// What it does, for the screen.
    pub(super) story: &'static str,
    /// Canonical event types; none means all.
    pub(super) types: &'static [&'static str],
    /// Numbers; none means all.
    pub(super) numbers: &'static [&'static str],
    /// How it answers.
    pub(super) behaviour: Behaviour,
}

/// How an endpoint responds. Times and spans are in thousandths of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// 200 at once.
    Healthy,
    /// 200 after this many milliseconds.
    Slow(u64),
    /// 503 until this time, then 200.
    FailingUntil(u64),
    /// 500 and 200 in turn, each for this long.
    Flapping(u64),
    /// Refuses connections.
    Dead,
    /// Accepts the connection and sends nothing until this time, then 200.
    HangingUntil(u64),
    /// 200 until this time, then 410.
    GoneFrom(u64),
    /// 404 always.
    NotFound,
    /// 429 with `Retry-After: 1` in each fourth span of this length, else 200.
    Throttling(u64),
}

/// A response and its delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScriptedResponse {
    pub(super) status: u16,
    pub(super) after_ms: u64,
    pub(super) retry_after_s: Option<u64>,
}

impl Behaviour {
    /// The response to a request that arrives `elapsed_ms` into a demo of `show_ms`.
    pub(super) fn response(self, elapsed_ms: u64, show_ms: u64) -> ScriptedResponse {
        let time = elapsed_ms.saturating_mul(1_000) / show_ms.max(1);
        let turn = |span: u64| time / span.max(1);
        let status = match self {
            Behaviour::FailingUntil(end) if time < end => 503,
            Behaviour::Flapping(span) if turn(span).is_multiple_of(2) => 500,
            Behaviour::GoneFrom(start) if time >= start => 410,
            Behaviour::NotFound => 404,
            Behaviour::Throttling(span) if turn(span) % 4 == 3 => 429,
            _ => 200,
        };
        let after_ms = match self {
            Behaviour::Slow(wait_ms) => wait_ms,
            Behaviour::HangingUntil(end) => (end * show_ms / 1_000).saturating_sub(elapsed_ms),
            _ => 0,
        };
        ScriptedResponse { status, after_ms, retry_after_s: (status == 429).then_some(1) }
    }

    /// Why deliveries to this endpoint may still wait when the demo ends; `None` where all of them should be
    /// settled by then.
    pub(super) fn why_it_waits(self) -> Option<&'static str> {
        match self {
            Behaviour::Dead => Some("connection refused, still in retry"),
            Behaviour::GoneFrom(_) => Some("held: disabled"),
            _ => None,
        }
    }
}

impl DemoEndpoint {
    /// Whether its filter matches an event.
    pub(super) fn wants(&self, event_type: &str, owner: &NumberOrWaba) -> bool {
        let type_fits = self.types.is_empty() || self.types.contains(&event_type);
        let owner_fits = self.numbers.is_empty()
            || match owner {
                NumberOrWaba::Number(number) => self.numbers.contains(&number.as_str()),
                NumberOrWaba::Waba(waba) => WABAS
                    .iter()
                    .filter(|(id, _)| id == waba)
                    .any(|(_, numbers)| numbers.iter().any(|n| self.numbers.contains(n))),
            };
        type_fits && owner_fits
    }

    /// Its filter, for the screen.
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

    /// The secret that signs its deliveries.
    pub(super) fn secret(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.signing_key()))
    }

    /// The key inside of [`secret`](Endpoint::secret).
    pub(super) fn signing_key(&self) -> Vec<u8> {
        format!("demo key of {:>24}", self.name).into_bytes()
    }
}

/// The policy of every subscription. Delays and the timeout are shares of the demo, so that an outage and its
/// end both fit into it; the age is the default of a day, so that no delivery expires.
pub(super) fn policy(show_ms: u64) -> Policy {
    Policy::default()
        .retry(Retry::Exponential {
            initial: Duration::from_millis((show_ms / 100).max(10)),
            max: Duration::from_millis((show_ms / 20).max(50)),
            jitter_permille: 200,
        })
        .timeout(Duration::from_millis((show_ms / 10).max(200)))
}

/// The WABAs of the demo's account and their numbers, as in the samples.
pub(super) const WABAS: &[(&str, &[&str])] = &[
    ("5467539754836534", &["972123456789"]),
    ("1234567890987654321", &[]),
    ("100000000000001", &["919000000001", "919000000002"]),
    ("100000000000002", &["919000000003"]),
    ("102290129340398", &["919000000004"]),
];

/// The ten endpoints.
pub(super) static ENDPOINTS: &[DemoEndpoint] = &[
    endpoint("audit-log", "healthy", &[], &[], Behaviour::Healthy),
    endpoint("crm", "healthy", &["MESSAGE_RECEIVED"], &[], Behaviour::Healthy),
    endpoint("status-board", "slow: 80 ms", &["MESSAGE_STATUS_UPDATE"], &[], Behaviour::Slow(80)),
    endpoint(
        "orders",
        "503 for a third",
        &["MESSAGE_RECEIVED"],
        &["919000000001"],
        Behaviour::FailingUntil(330),
    ),
    endpoint("mirror", "flapping: 500", &["RAW_CLOUD_API_WEBHOOK"], &[], Behaviour::Flapping(50)),
    endpoint(
        "analytics",
        "hangs until late",
        &["MESSAGE_STATUS_UPDATE"],
        &["972123456789"],
        Behaviour::HangingUntil(600),
    ),
    endpoint(
        "partner",
        "429, Retry-After",
        &["MESSAGE_RECEIVED"],
        &["972123456789", "919000000003"],
        Behaviour::Throttling(50),
    ),
    endpoint(
        "old-typo",
        "404, a typo",
        &["TEMPLATE_UPDATE"],
        &["919000000001"],
        Behaviour::NotFound,
    ),
    endpoint("moved-shop", "410 from a quarter", &[], &["919000000003"], Behaviour::GoneFrom(250)),
    endpoint("old-crm", "refuses to connect", &[], &["919000000002"], Behaviour::Dead),
];

const fn endpoint(
    name: &'static str,
    story: &'static str,
    types: &'static [&'static str],
    numbers: &'static [&'static str],
    behaviour: Behaviour,
) -> DemoEndpoint {
    DemoEndpoint { name, story, types, numbers, behaviour }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(behaviour: Behaviour, elapsed_ms: u64, status: u16, after_ms: u64) {
        let response = behaviour.response(elapsed_ms, 20_000);
        assert_eq!((response.status, response.after_ms), (status, after_ms), "{behaviour:?}");
        assert_eq!(response.retry_after_s.is_some(), status == 429, "{behaviour:?}");
    }

    #[test]
    fn each_behaviour_follows_the_time() {
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
    fn a_waba_event_reaches_its_numbers_and_all() {
        let wanting = |event_type: &str, owner: NumberOrWaba| {
            let all = ENDPOINTS.iter().filter(|e| e.wants(event_type, &owner));
            all.map(|e| e.name).collect::<Vec<_>>()
        };
        let waba = |id: &str| NumberOrWaba::Waba(id.into());
        let number = |digits: &str| NumberOrWaba::Number(digits.into());
        assert_eq!(wanting("X", waba("100000000000002")), ["audit-log", "moved-shop"]);
        assert_eq!(wanting("X", waba("102290129340398")), ["audit-log"]);
        assert_eq!(wanting("X", number("919000000002")), ["audit-log", "old-crm"]);
        let received = wanting("MESSAGE_RECEIVED", number("919000000001"));
        assert_eq!(received, ["audit-log", "crm", "orders"]);
    }

    #[test]
    fn there_are_ten_endpoints_with_unique_names() {
        let names: std::collections::BTreeSet<_> = ENDPOINTS.iter().map(|e| e.name).collect();
        assert_eq!((ENDPOINTS.len(), names.len()), (10, 10));
    }
}

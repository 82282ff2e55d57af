//! Decides how a subscription is shown.
//!
//! Leaves to others: which ones a caller sees (`subscriptions`). Invariant (I9): neither its secret,
//! its authorization nor its TLS key is shown, nor the value of anything that it adds to a request,
//! because any may be a credential.

use serde::{Serialize, Serializer};
use wabahook::{
    Accept, Authorization, BodyFormat, Breaker, LaneStats, Ordering, Policy, RateLimit, Registered,
    Retried, Retry, Target,
};

use crate::moment::rfc3339;

/// A subscription in lists and answers.
#[derive(Serialize)]
pub(crate) struct Item {
    id: u32,
    name: String,
    url: String,
    events: SetOrAll,
    numbers: SetOrAll,
    profile: &'static str,
    state: &'static str,
    created_at: String,
    signed: bool,
    #[serde(flatten)]
    sent: Sent,
    #[serde(flatten)]
    terms: Terms,
    health: Health,
}

/// How its requests go: names, and no values.
#[derive(Serialize)]
struct Sent {
    method: String,
    header_names: Vec<String>,
    query_names: Vec<String>,
    body_names: Vec<String>,
    authorization: Option<AuthorizationShape>,
    body_format: &'static str,
    tls: Option<TlsShape>,
}

#[derive(Serialize)]
struct AuthorizationShape {
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct TlsShape {
    roots: bool,
    client_certificate: bool,
}

/// The terms of a subscription, in the shapes in which they are given.
#[derive(Serialize)]
struct Terms {
    retry: RetryShape,
    retry_on_timeout: bool,
    timeout_ms: u64,
    accept: &'static str,
    retried: &'static str,
    obeys_receiver: bool,
    ordering: &'static str,
    rate_limit: Option<RateShape>,
    after: Option<u32>,
    breaker: OrNever<BreakerShape>,
    disable_after_ms: OrNever<u64>,
    retrying_max: u32,
}

#[derive(Serialize)]
struct RateShape {
    events: u32,
    per_ms: u64,
}

#[derive(Serialize)]
struct BreakerShape {
    failures: u32,
    initial_ms: u64,
    max_ms: u64,
}

struct OrNever<T>(Option<T>);

/// The live side of a subscription.
#[derive(Serialize, Default)]
pub(crate) struct Health {
    owed: u64,
    retrying: u64,
    blocked: u64,
    in_flight: u64,
    delivered: u64,
    retried: u64,
    dead: u64,
    failures_in_row: u64,
    failing_for_ms: u64,
    breaker_trips: u64,
    rests_for_ms: u64,
}

struct SetOrAll(Option<Vec<String>>);

#[derive(Serialize)]
struct RetryShape {
    #[serde(flatten)]
    waits: Waits,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    max_age_ms: u64,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Waits {
    Exponential { initial_ms: u64, max_ms: u64, jitter: f64 },
    Linear { step_ms: u64, max_ms: u64 },
    List { delays_ms: Vec<u64> },
    Other,
}

impl Item {
    pub(crate) fn of(registered: &Registered, lane: Option<&LaneStats>) -> Item {
        let Registered { filter, target, policy, .. } = registered;
        let events = filter.events.as_ref();
        let numbers = filter.numbers.as_ref();
        Item {
            id: registered.id.0,
            name: registered.name.clone(),
            url: target.url().to_string(),
            events: SetOrAll(events.map(|set| set.iter().map(ToString::to_string).collect())),
            numbers: SetOrAll(numbers.map(|set| set.iter().map(ToString::to_string).collect())),
            profile: registered.profile.as_str(),
            state: registered.state.as_str(),
            created_at: rfc3339(registered.created_at_ms),
            signed: registered.secret.is_some(),
            sent: Sent::of(target),
            terms: Terms::of(policy),
            health: Health::of(lane),
        }
    }
}

impl Sent {
    fn of(target: &Target) -> Sent {
        let names =
            |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect();
        let kind = |authorization: &Authorization| match authorization {
            Authorization::Basic(_) => "BASIC",
            _ => "BEARER",
        };
        Sent {
            method: target.method().to_string(),
            header_names: names(target.headers()),
            query_names: names(target.query()),
            body_names: names(target.body()),
            authorization: target.authorization().map(|one| AuthorizationShape { kind: kind(one) }),
            body_format: match target.body_format() {
                BodyFormat::FormData => "FORM_DATA",
                _ => "JSON",
            },
            tls: target.tls().map(|tls| TlsShape {
                roots: tls.roots_pem.is_some(),
                client_certificate: tls.client.is_some(),
            }),
        }
    }
}

impl Terms {
    fn of(policy: &Policy) -> Terms {
        let Breaker { failures, initial_ms, max_ms } = policy.breaker;
        let rate_limit = policy.rate_limit;
        Terms {
            retry: RetryShape::of(policy),
            retry_on_timeout: policy.retry_on_timeout,
            timeout_ms: policy.timeout_ms,
            accept: match policy.accept {
                Accept::Only200 => "200",
                _ => "2xx",
            },
            retried: match policy.retried {
                Retried::All => "all",
                _ => "passing",
            },
            obeys_receiver: policy.obeys_receiver,
            ordering: match policy.ordering {
                Ordering::PerKey => "per_key",
                Ordering::Strict => "strict",
                _ => "none",
            },
            rate_limit: rate_limit.map(|RateLimit { events, per_ms }| RateShape { events, per_ms }),
            after: policy.after.map(|main| main.0),
            breaker: OrNever(failures.map(|failures| BreakerShape {
                failures,
                initial_ms,
                max_ms,
            })),
            disable_after_ms: OrNever(policy.disable_after_ms),
            retrying_max: policy.retrying_max,
        }
    }
}

impl Health {
    /// A subscription that was never owed anything has no lane.
    pub(crate) fn of(lane: Option<&LaneStats>) -> Health {
        lane.map_or_else(Health::default, |lane| Health {
            owed: lane.owed,
            retrying: lane.retrying,
            blocked: lane.blocked,
            in_flight: lane.in_flight,
            delivered: lane.delivered,
            retried: lane.retried,
            dead: lane.dead,
            failures_in_row: lane.failures_in_row,
            failing_for_ms: lane.failing_for_ms,
            breaker_trips: lane.breaker_trips,
            rests_for_ms: lane.rests_for_ms,
        })
    }
}

impl Serialize for SetOrAll {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(set) => set.serialize(serializer),
            None => serializer.serialize_str("*"),
        }
    }
}

impl<T: Serialize> Serialize for OrNever<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str("never"),
        }
    }
}

impl RetryShape {
    fn of(policy: &Policy) -> RetryShape {
        let waits = match &policy.retry {
            Retry::Exponential { initial_ms, max_ms, jitter_permille } => Waits::Exponential {
                initial_ms: *initial_ms,
                max_ms: *max_ms,
                jitter: f64::from(*jitter_permille) / 1000.0,
            },
            Retry::Linear { step_ms, max_ms } => {
                Waits::Linear { step_ms: *step_ms, max_ms: *max_ms }
            }
            Retry::List { delays_ms } => Waits::List { delays_ms: delays_ms.clone() },
            _ => Waits::Other,
        };
        RetryShape { waits, attempts: policy.attempts_max, max_age_ms: policy.age_max_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wabahook::SubscriptionId;

    #[test]
    fn all_is_a_star_and_a_set_is_a_list() {
        assert_eq!(serde_json::to_string(&SetOrAll(None)).unwrap(), "\"*\"");
        let set = SetOrAll(Some(vec!["ADD_TAG".to_owned()]));
        assert_eq!(serde_json::to_string(&set).unwrap(), "[\"ADD_TAG\"]");
    }

    #[test]
    fn terms_are_shown_in_the_words_in_which_they_are_given() {
        let shown = serde_json::to_value(Terms::of(&Policy::default())).unwrap();
        let retry = serde_json::json!({
            "kind": "exponential", "initial_ms": 1_000, "max_ms": 3_600_000, "jitter": 0.2,
            "max_age_ms": 86_400_000,
        });
        assert_eq!(shown["retry"], retry);
        assert_eq!((&shown["ordering"], &shown["rate_limit"]), (&"none".into(), &().into()));
        assert_eq!(shown["breaker"]["failures"], 10);
        assert_eq!(
            (&shown["retried"], &shown["obeys_receiver"]),
            (&"passing".into(), &true.into())
        );
        let policy = Policy {
            retried: Retried::All,
            obeys_receiver: false,
            retry: Retry::List { delays_ms: vec![1, 2] },
            attempts_max: Some(3),
            ordering: Ordering::PerKey,
            rate_limit: Some(RateLimit { events: 5, per_ms: 1_000 }),
            after: Some(SubscriptionId(4)),
            breaker: Breaker { failures: None, ..Breaker::default() },
            disable_after_ms: None,
            ..Policy::default()
        };
        let given = serde_json::to_string(&Terms::of(&policy)).unwrap();
        let read = wabahook::registration::fields::Object::read(&given, crate::terms_body::FIELDS);
        let read = crate::terms_body::read(&read.unwrap(), Policy::default()).unwrap();
        assert_eq!(read, policy, "what is shown can be given back");
    }
}

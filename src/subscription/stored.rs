//! Decides the layout in which a subscription is stored, in the book and in its log.
//!
//! Leaves to others: where it is written (`book`, `journal`). Invariant: a layout is frozen; a
//! change is a new version beside it, and every version that was ever written is read. The enums in
//! a layout (retry, accept, retried, ordering, profile, state) may only grow at their end.

use serde::{Deserialize, Serialize};

use super::{
    Accept, Breaker, Filter, Ordering, Policy, Profile, RateLimit, Registered, Retried, Retry,
    Secret, State, SubscriptionId, Target,
};
use crate::error::{Error, Result};
use crate::event::{Catalogue, WabaNumber};
use crate::store::record::{decode, encode, unseal};

/// The version that is written.
const VERSION: u8 = 2;

/// A subscription as it is written.
pub(super) type Stored = StoredV2;
/// With the order, the rate, the gate, the breaker and what else dispatch decides.
pub(super) type StoredV2 = Layout<PolicyV2>;
/// Before dispatch decided more than retries.
pub(super) type StoredV1 = Layout<PolicyV1>;

/// What all versions so far have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Layout<P> {
    account: String,
    name: String,
    events: Option<Vec<String>>,
    numbers: Option<Vec<u64>>,
    url: String,
    headers: Vec<(String, String)>,
    policy: P,
    secret: Option<String>,
    profile: Profile,
    state: State,
    created_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PolicyV1 {
    retry: Retry,
    attempts_max: Option<u32>,
    age_max_ms: u64,
    timeout_ms: u64,
    retry_on_timeout: bool,
    accept: Accept,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PolicyV2 {
    retry: Retry,
    attempts_max: Option<u32>,
    age_max_ms: u64,
    timeout_ms: u64,
    retry_on_timeout: bool,
    accept: Accept,
    retried: Retried,
    ordering: Ordering,
    rate_limit: Option<RateLimitV2>,
    after: Option<SubscriptionId>,
    breaker: BreakerV2,
    disable_after_ms: Option<u64>,
    retrying_max: u32,
    obeys_receiver: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RateLimitV2 {
    events: u32,
    per_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct BreakerV2 {
    failures: Option<u32>,
    initial_ms: u64,
    max_ms: u64,
}

/// A subscription sealed in the version that is written.
pub(super) fn sealed(stored: &Stored) -> std::result::Result<Vec<u8>, String> {
    encode(VERSION, stored)
}

/// A subscription out of a record of any version, or what is wrong with it.
pub(super) fn unsealed(sealed: &[u8]) -> std::result::Result<Stored, String> {
    match unseal(sealed)? {
        (1, _) => decode::<StoredV1>(1, sealed).map(Stored::from),
        _ => decode(VERSION, sealed),
    }
}

impl From<StoredV1> for StoredV2 {
    /// What the older version does not say is as it is by default.
    fn from(stored: StoredV1) -> StoredV2 {
        let PolicyV1 { retry, attempts_max, age_max_ms, timeout_ms, retry_on_timeout, accept } =
            stored.policy;
        let policy = Policy {
            retry,
            attempts_max,
            age_max_ms,
            timeout_ms,
            retry_on_timeout,
            accept,
            ..Policy::default()
        };
        StoredV2 {
            account: stored.account,
            name: stored.name,
            events: stored.events,
            numbers: stored.numbers,
            url: stored.url,
            headers: stored.headers,
            policy: policy.into(),
            secret: stored.secret,
            profile: stored.profile,
            state: stored.state,
            created_at_ms: stored.created_at_ms,
        }
    }
}

impl From<Policy> for PolicyV2 {
    fn from(policy: Policy) -> PolicyV2 {
        let Breaker { failures, initial_ms, max_ms } = policy.breaker;
        let rate_limit = policy.rate_limit;
        PolicyV2 {
            retry: policy.retry,
            attempts_max: policy.attempts_max,
            age_max_ms: policy.age_max_ms,
            timeout_ms: policy.timeout_ms,
            retry_on_timeout: policy.retry_on_timeout,
            accept: policy.accept,
            retried: policy.retried,
            ordering: policy.ordering,
            rate_limit: rate_limit
                .map(|RateLimit { events, per_ms }| RateLimitV2 { events, per_ms }),
            after: policy.after,
            breaker: BreakerV2 { failures, initial_ms, max_ms },
            disable_after_ms: policy.disable_after_ms,
            retrying_max: policy.retrying_max,
            obeys_receiver: policy.obeys_receiver,
        }
    }
}

impl From<PolicyV2> for Policy {
    fn from(stored: PolicyV2) -> Policy {
        let BreakerV2 { failures, initial_ms, max_ms } = stored.breaker;
        let rate_limit = stored.rate_limit;
        Policy {
            retry: stored.retry,
            attempts_max: stored.attempts_max,
            age_max_ms: stored.age_max_ms,
            timeout_ms: stored.timeout_ms,
            retry_on_timeout: stored.retry_on_timeout,
            accept: stored.accept,
            retried: stored.retried,
            ordering: stored.ordering,
            rate_limit: rate_limit
                .map(|RateLimitV2 { events, per_ms }| RateLimit { events, per_ms }),
            after: stored.after,
            breaker: Breaker { failures, initial_ms, max_ms },
            disable_after_ms: stored.disable_after_ms,
            retrying_max: stored.retrying_max,
            obeys_receiver: stored.obeys_receiver,
        }
    }
}

/// The stored form of a subscription.
pub(super) fn stored(registered: &Registered) -> Stored {
    let Filter { events, numbers } = &registered.filter;
    let secret = registered.secret.as_ref();
    Stored {
        account: registered.account.clone(),
        name: registered.name.clone(),
        events: events.as_ref().map(|set| set.iter().map(ToString::to_string).collect()),
        numbers: numbers.as_ref().map(|set| set.iter().map(|number| number.digits()).collect()),
        url: registered.target.url().to_string(),
        headers: registered.target.headers().to_vec(),
        policy: registered.policy.clone().into(),
        secret: secret.map(|secret| String::from_utf8_lossy(secret.reveal()).into_owned()),
        profile: registered.profile,
        state: registered.state,
        created_at_ms: registered.created_at_ms,
    }
}

/// A subscription out of its stored form.
pub(super) fn restore(
    id: SubscriptionId,
    stored: Stored,
    catalogue: &Catalogue,
) -> Result<Registered> {
    let invalid = |error: Error| damaged(id, error.to_string());
    let events = stored.events.map(|names| {
        names.iter().map(|name| catalogue.canonical(name)).collect::<Result<_>>().map_err(invalid)
    });
    let numbers = stored.numbers.map(|digits| {
        let number = |digits| WabaNumber::from_digits(digits);
        let all = digits.into_iter().map(number).collect::<Option<_>>();
        all.ok_or_else(|| damaged(id, "it names no number".to_owned()))
    });
    let mut target = Target::new(&stored.url).map_err(invalid)?;
    stored.headers.into_iter().for_each(|(name, value)| target.add_header(name, value));
    Ok(Registered {
        id,
        account: stored.account,
        name: stored.name,
        filter: Filter { events: events.transpose()?, numbers: numbers.transpose()? },
        target,
        policy: stored.policy.into(),
        secret: stored.secret.map(Secret::new),
        profile: stored.profile,
        state: stored.state,
        created_at_ms: stored.created_at_ms,
    })
}

fn damaged(id: SubscriptionId, why: String) -> Error {
    Error::Damaged { record: format!("subscription {id}"), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the last build that wrote version 1.
    const V1: [&str; 3] = [
        "01915fd72c0461636d650363726d0101104d4553534147455f52454345495645440101fd0126abf8d50000001b\
         687474703a2f2f3132372e302e302e313a392f686f6f6b3f613d620108782d74656e616e740461636d65020200\
         fb88130107fb60eafbd00700010104687573680000fdfec9a4fea1010000",
        "01f3e7ff810461636d6503616c6c000013687474703a2f2f3132372e302e302e313a392f0000fbe803fc80ee36\
         00c800fc005c2605fb983a0100000000fd09caa4fea1010000",
        "01e662824d0461636d65066c696e656172000013687474703a2f2f3132372e302e302e313a392f000132c800fc\
         005c2605fb983a0100000000fd14caa4fea1010000",
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).unwrap());
        digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect()
    }

    fn restored(hex: &str) -> Registered {
        let stored = unsealed(&bytes(hex)).unwrap();
        restore(SubscriptionId(7), stored, &Catalogue::default()).unwrap()
    }

    #[test]
    fn what_version_1_wrote_is_read_with_the_defaults_for_what_it_does_not_say() {
        let [crm, all, linear] = V1.map(restored);
        assert_eq!((crm.account.as_str(), crm.name.as_str()), ("acme", "crm"));
        let numbers: Vec<_> = crm.filter.numbers.iter().flatten().map(|n| n.digits()).collect();
        assert_eq!((numbers, crm.state), (vec![919_000_000_001], State::Active));
        assert_eq!(crm.secret, Some(Secret::new("hush")));
        assert_eq!(crm.target.headers(), [("x-tenant".to_owned(), "acme".to_owned())]);
        let retry = Retry::List { delays_ms: vec![0, 5_000] };
        let expected = Policy {
            retry,
            attempts_max: Some(7),
            age_max_ms: 60_000,
            timeout_ms: 2_000,
            retry_on_timeout: false,
            accept: Accept::Only200,
            ..Policy::default()
        };
        assert_eq!(crm.policy, expected);
        assert_eq!((all.filter, all.policy), (Filter::default(), Policy::default()));
        assert_eq!(linear.policy.retry, Retry::Linear { step_ms: 50, max_ms: 200 });
    }

    fn with_everything() -> Registered {
        let policy = Policy {
            retry: Retry::Exponential { initial_ms: 1, max_ms: 2, jitter_permille: 3 },
            retried: Retried::All,
            ordering: Ordering::Strict,
            rate_limit: Some(RateLimit { events: 10, per_ms: 1_000 }),
            after: Some(SubscriptionId(3)),
            breaker: Breaker { failures: None, initial_ms: 5, max_ms: 6 },
            disable_after_ms: None,
            retrying_max: 77,
            obeys_receiver: false,
            ..Policy::default()
        };
        Registered { policy, state: State::Disabled, ..restored(V1[0]) }
    }

    #[test]
    fn the_bytes_of_version_2_are_frozen_and_hold_every_term() {
        let golden = "02536594360461636d650363726d0101104d4553534147455f52454345495645440101fd0126\
             abf8d50000001b687474703a2f2f3132372e302e302e313a392f686f6f6b3f613d620108782d\
             74656e616e740461636d650001020300fc005c2605fb983a01000102010afbe8030103000506\
             004d000104687573680002fdfec9a4fea1010000";
        let sealed = sealed(&stored(&with_everything())).unwrap();
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
        let back = restored(golden);
        assert_eq!((back.policy, back.state), (with_everything().policy, State::Disabled));
    }

    #[test]
    fn the_places_of_the_enums_in_a_layout_are_frozen() {
        fn check(value: impl Serialize, place: u8) {
            let sealed = encode(VERSION, &value).unwrap();
            assert_eq!(sealed.last(), Some(&place));
        }
        for (place, ordering) in
            [Ordering::None, Ordering::PerKey, Ordering::Strict].iter().enumerate()
        {
            check(ordering, u8::try_from(place).unwrap());
        }
        for (place, state) in [State::Active, State::Paused, State::Disabled].iter().enumerate() {
            check(state, u8::try_from(place).unwrap());
        }
        check(Retried::Passing, 0);
        check(Retried::All, 1);
        check(Accept::Any2xx, 0);
        check(Accept::Only200, 1);
        check(Profile::Wabahook, 0);
    }

    #[test]
    fn a_version_that_is_not_known_is_named() {
        let newer = crate::store::record::seal(9, b"");
        assert!(unsealed(&newer).unwrap_err().contains("version 9"));
        let mut damaged = bytes(V1[1]);
        damaged[20] ^= 1;
        assert!(unsealed(&damaged).is_err());
    }
}

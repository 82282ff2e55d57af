//! Decides the layout in which a subscription is stored, in the book and in its log.
//!
//! Leaves to others: where it is written (`book`, `journal`). Invariant: a layout is frozen; a
//! change is a new version beside it, and every version that was ever written is read. The enums in
//! a layout (retry, accept, retried, ordering, profile, state, level, body format) may only grow at
//! their end.

mod before;

use serde::{Deserialize, Serialize};

pub(super) use before::{StoredV1, StoredV2};

use super::{
    Accept, Authorization, BodyFormat, Breaker, ClientPair, Filter, Level, Ordering, Policy,
    Profile, RateLimit, Registered, Retiring, Retried, Retry, Secret, State, SubscriptionId,
    Target, Tls,
};
use crate::error::{Error, Result};
use crate::event::{Catalogue, WabaNumber};
use crate::store::record::{decode, encode, unseal};

/// The version that is written.
const VERSION: u8 = 3;

/// A subscription as it is written.
pub(super) type Stored = StoredV3;

/// With all that a gateway's registration says of a request, the secrets that retire, and the level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredV3 {
    account: String,
    name: String,
    events: Option<Vec<String>>,
    numbers: Option<Vec<u64>>,
    target: TargetV3,
    policy: PolicyV2,
    secret: Option<String>,
    retiring: Vec<(String, u64)>,
    profile: Profile,
    level: Level,
    state: State,
    created_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TargetV3 {
    url: String,
    method: String,
    headers: Vec<(String, String)>,
    query: Vec<(String, String)>,
    body: Vec<(String, String)>,
    authorization: Option<AuthorizationV3>,
    body_format: BodyFormat,
    tls: Option<TlsV3>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum AuthorizationV3 {
    Basic(String),
    Bearer(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TlsV3 {
    roots_pem: Option<String>,
    client: Option<(String, String)>,
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
        (1, _) => decode::<StoredV1>(1, sealed).map(|stored| StoredV2::from(stored).into()),
        (2, _) => decode::<StoredV2>(2, sealed).map(Stored::from),
        _ => decode(VERSION, sealed),
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

impl From<&Target> for TargetV3 {
    fn from(target: &Target) -> TargetV3 {
        TargetV3 {
            url: target.url().to_string(),
            method: target.method.to_string(),
            headers: target.headers().to_vec(),
            query: target.query.clone(),
            body: target.body.clone(),
            authorization: target.authorization.as_ref().map(|authorization| match authorization {
                Authorization::Basic(payload) => AuthorizationV3::Basic(text(payload)),
                Authorization::Bearer(payload) => AuthorizationV3::Bearer(text(payload)),
            }),
            body_format: target.body_format,
            tls: target.tls.as_ref().map(|tls| TlsV3 {
                roots_pem: tls.roots_pem.clone(),
                client: tls
                    .client
                    .as_ref()
                    .map(|pair| (pair.certificate_pem.clone(), text(&pair.key_pem))),
            }),
        }
    }
}

impl TargetV3 {
    fn restore(self) -> Result<Target> {
        let mut target = Target::new(&self.url)?;
        let method = self.method.parse();
        target.method = method.map_err(|_| Error::invalid("method", &self.method, "a method"))?;
        self.headers.into_iter().for_each(|(name, value)| target.add_header(name, value));
        target.query = self.query;
        target.body = self.body;
        target.authorization = self.authorization.map(|authorization| match authorization {
            AuthorizationV3::Basic(payload) => Authorization::basic(payload),
            AuthorizationV3::Bearer(payload) => Authorization::bearer(payload),
        });
        target.body_format = self.body_format;
        target.tls = self.tls.map(|TlsV3 { roots_pem, client }| {
            let client = client.map(|(certificate_pem, key_pem)| ClientPair {
                certificate_pem,
                key_pem: Secret::new(key_pem),
            });
            Tls { roots_pem, client }
        });
        Ok(target)
    }
}

fn text(secret: &Secret) -> String {
    String::from_utf8_lossy(secret.reveal()).into_owned()
}

/// The stored form of a subscription.
pub(super) fn stored(registered: &Registered) -> Stored {
    let Filter { events, numbers } = &registered.filter;
    let retiring = registered.retiring.iter();
    Stored {
        account: registered.account.clone(),
        name: registered.name.clone(),
        events: events.as_ref().map(|set| set.iter().map(ToString::to_string).collect()),
        numbers: numbers.as_ref().map(|set| set.iter().map(|number| number.digits()).collect()),
        target: TargetV3::from(&registered.target),
        policy: registered.policy.clone().into(),
        secret: registered.secret.as_ref().map(text),
        retiring: retiring.map(|one| (text(&one.secret), one.until_ms)).collect(),
        profile: registered.profile,
        level: registered.level,
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
    let retiring = stored.retiring.into_iter();
    let retiring =
        retiring.map(|(text, until_ms)| Retiring { secret: Secret::new(text), until_ms });
    Ok(Registered {
        id,
        account: stored.account,
        name: stored.name,
        filter: Filter { events: events.transpose()?, numbers: numbers.transpose()? },
        target: stored.target.restore().map_err(invalid)?,
        policy: stored.policy.into(),
        secret: stored.secret.map(Secret::new),
        retiring: retiring.collect(),
        profile: stored.profile,
        level: stored.level,
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
        let mut all = Registered { policy, state: State::Disabled, ..restored(V1[0]) };
        all.target.method = http::Method::PATCH;
        all.target.query.push(("a".to_owned(), "b c".to_owned()));
        all.target.body.push(("tenant".to_owned(), "{\"a\":1}".to_owned()));
        all.target.authorization = Some(Authorization::basic("user:word"));
        all.target.body_format = BodyFormat::FormData;
        all.target.tls = Some(Tls::default().roots("roots").client("chain", "key"));
        all.retiring.push(Retiring { secret: Secret::new("old"), until_ms: 99 });
        (all.profile, all.level) = (Profile::Session, Level::Masked);
        all
    }

    /// Written by the last build that wrote version 2.
    const V2: &str = "02536594360461636d650363726d0101104d4553534147455f52454345495645440101fd0126\
                      abf8d50000001b687474703a2f2f3132372e302e302e313a392f686f6f6b3f613d620108782d\
                      74656e616e740461636d650001020300fc005c2605fb983a01000102010afbe8030103000506\
                      004d000104687573680002fdfec9a4fea1010000";

    #[test]
    fn what_version_2_wrote_is_read_with_the_defaults_for_what_it_does_not_say() {
        let (back, newest) = (restored(V2), with_everything());
        assert_eq!((back.policy, back.state), (newest.policy, State::Disabled));
        let plain = restored(V1[0]);
        assert_eq!((back.target, back.secret), (plain.target, plain.secret));
        assert_eq!(
            (back.retiring, back.profile, back.level),
            (vec![], Profile::Wabahook, Level::Beside)
        );
    }

    #[test]
    fn the_bytes_of_version_3_are_frozen_and_hold_every_term() {
        let golden = "03bd2bd77c0461636d650363726d0101104d4553534147455f52454345495645440101fd0126\
             abf8d50000001b687474703a2f2f3132372e302e302e313a392f686f6f6b3f613d620550415443480108782d\
             74656e616e740461636d6501016103622063010674656e616e74077b2261223a317d010009757365723a776f\
             726401010105726f6f74730105636861696e036b65790001020300fc005c2605fb983a01000102010afbe803\
             0103000506004d0001046875736801036f6c6463040302fdfec9a4fea1010000";
        let sealed = sealed(&stored(&with_everything())).unwrap();
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(stored(&restored(golden)), stored(&with_everything()));
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
        let profiles = [
            Profile::Wabahook,
            Profile::DoubleTick,
            Profile::BusinessApi,
            Profile::Dialog360,
            Profile::Session,
        ];
        for (place, profile) in profiles.iter().enumerate() {
            check(profile, u8::try_from(place).unwrap());
        }
        let levels = [Level::Beside, Level::Number, Level::Waba, Level::Masked];
        for (place, level) in levels.iter().enumerate() {
            check(level, u8::try_from(place).unwrap());
        }
        check(BodyFormat::Json, 0);
        check(BodyFormat::FormData, 1);
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

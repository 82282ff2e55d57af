//! The layout in which a subscription is stored: in bincode in the book's database, as JSON in its log. The types
//! here are the only second spelling of a subscription; the log is derived from them. A record's layout is frozen: a
//! change is a new version, and the golden bytes below stay. Variants are stored by the numbers given here, which are
//! never reused.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::millis;
use crate::error::{Error, Result};
use crate::event::{Catalogue, WabaNumber};
use crate::profile::Profile;
use crate::secret::Secret;
use crate::store::record::{decode, encode, unseal};
use crate::subscription::{
    Accept, Authorization, BodyFormat, Breaker, ClientCertificate, Condition, Filter, Ordering,
    PayloadFormat, Policy, Precedence, RateLimit, RetiringSecret, Retry, RetryOn, SubscriptionId,
    SubscriptionInfo, SubscriptionState, Target, Tls,
};

/// The version of a record.
const VERSION: u8 = 5;

/// How a value of the API is stored.
trait Stored<P>: Sized {
    fn from_public(public: P) -> Self;
    fn into_public(self) -> P;
}

/// Declares an enum of the API as it is stored, each variant with its number.
macro_rules! stored_enum {
    ($stored:ident for $public:ident { $($variant:ident = $number:literal),+ $(,)? }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        enum $stored { $($variant = $number),+ }

        impl Stored<$public> for $stored {
            fn from_public(public: $public) -> $stored {
                match public { $($public::$variant => $stored::$variant),+ }
            }

            fn into_public(self) -> $public {
                match self { $($stored::$variant => $public::$variant),+ }
            }
        }

        #[cfg(test)]
        impl $stored {
            const ALL: &[($stored, u8)] = &[$(($stored::$variant, $number)),+];
        }
    };
}

/// Declares a struct of the API as it is stored, field by field; `as` gives a field another name in the
/// log. Durations are stored as whole milliseconds.
macro_rules! stored_struct {
    ($stored:ident for $public:ident {
        $($field:ident $(as $name:literal)?: $type:ty),+ $(,)?
    }) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        struct $stored { $($(#[serde(rename = $name)])? $field: $type),+ }

        impl Stored<$public> for $stored {
            fn from_public(public: $public) -> $stored {
                $stored { $($field: Stored::from_public(public.$field)),+ }
            }

            fn into_public(self) -> $public {
                $public { $($field: self.$field.into_public()),+ }
            }
        }
    };
}

/// Declares types that are stored as they are.
macro_rules! stored_as_is {
    ($($type:ty),+) => { $(
        impl Stored<$type> for $type {
            fn from_public(public: $type) -> $type { public }
            fn into_public(self) -> $type { self }
        }
    )+ };
}

impl Stored<Duration> for u64 {
    fn from_public(span: Duration) -> u64 {
        millis(span)
    }

    fn into_public(self) -> Duration {
        Duration::from_millis(self)
    }
}

stored_as_is!(bool, u32, u64, String, SubscriptionId);

impl<P, S: Stored<P>> Stored<Option<P>> for Option<S> {
    fn from_public(public: Option<P>) -> Option<S> {
        public.map(S::from_public)
    }

    fn into_public(self) -> Option<P> {
        self.map(S::into_public)
    }
}

impl<P, S: Stored<P>> Stored<Vec<P>> for Vec<S> {
    fn from_public(public: Vec<P>) -> Vec<S> {
        public.into_iter().map(S::from_public).collect()
    }

    fn into_public(self) -> Vec<P> {
        self.into_iter().map(S::into_public).collect()
    }
}

impl Stored<Secret> for String {
    fn from_public(secret: Secret) -> String {
        secret.reveal_text().to_owned()
    }

    fn into_public(self) -> Secret {
        Secret::new(self)
    }
}

impl Stored<RetiringSecret> for (String, u64) {
    fn from_public(retiring: RetiringSecret) -> (String, u64) {
        (Stored::from_public(retiring.secret), retiring.until_ms)
    }

    fn into_public(self) -> RetiringSecret {
        RetiringSecret { secret: self.0.into_public(), until_ms: self.1 }
    }
}

impl Stored<ClientCertificate> for (String, String) {
    fn from_public(client: ClientCertificate) -> (String, String) {
        (client.certificate_pem, Stored::from_public(client.key_pem))
    }

    fn into_public(self) -> ClientCertificate {
        ClientCertificate { certificate_pem: self.0, key_pem: self.1.into_public() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredSubscription {
    account: String,
    name: String,
    events: Option<Vec<String>>,
    numbers: Option<Vec<u64>>,
    target: StoredTarget,
    policy: StoredPolicy,
    secret: Option<String>,
    retiring: Vec<(String, u64)>,
    profile: StoredProfile,
    precedence: StoredPrecedence,
    state: StoredState,
    created_at_ms: u64,
    description: Option<String>,
    condition: Option<String>,
    disabled_reason: Option<String>,
}

stored_enum!(StoredProfile for Profile {
    Wabahook = 0,
    DoubleTick = 1,
    BusinessApi = 2,
    Dialog360 = 3,
    Session = 4,
});

stored_enum!(StoredPrecedence for Precedence { Independent = 0, Number = 1, Waba = 2, Masked = 3 });

stored_enum!(StoredState for SubscriptionState { Active = 0, Paused = 1, Disabled = 2 });

stored_struct!(StoredPolicy for Policy {
    retry: StoredRetry,
    attempts_max: Option<u32>,
    age_max as "age_max_ms": u64,
    timeout as "timeout_ms": u64,
    retry_on_timeout: bool,
    accept: StoredAccept,
    retry_on: StoredRetryOn,
    ordering: StoredOrdering,
    rate_limit: Option<StoredRateLimit>,
    after: Option<SubscriptionId>,
    breaker: StoredBreaker,
    disable_after as "disable_after_ms": Option<u64>,
    retrying_max: u32,
    honor_delivery_control: bool,
});

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
enum StoredRetry {
    Exponential { initial_ms: u64, max_ms: u64, jitter_permille: u16 } = 0,
    Linear { step_ms: u64, max_ms: u64 } = 1,
    List { delays_ms: Vec<u64> } = 2,
}

impl Stored<Retry> for StoredRetry {
    fn from_public(retry: Retry) -> StoredRetry {
        match retry {
            Retry::Exponential { initial, max, jitter_permille } => {
                let (initial_ms, max_ms) = (millis(initial), millis(max));
                StoredRetry::Exponential { initial_ms, max_ms, jitter_permille }
            }
            Retry::Linear { step, max } => {
                StoredRetry::Linear { step_ms: millis(step), max_ms: millis(max) }
            }
            Retry::List { delays } => StoredRetry::List { delays_ms: Stored::from_public(delays) },
        }
    }

    fn into_public(self) -> Retry {
        match self {
            StoredRetry::Exponential { initial_ms, max_ms, jitter_permille } => {
                let (initial, max) = (initial_ms.into_public(), max_ms.into_public());
                Retry::Exponential { initial, max, jitter_permille }
            }
            StoredRetry::Linear { step_ms, max_ms } => {
                Retry::Linear { step: step_ms.into_public(), max: max_ms.into_public() }
            }
            StoredRetry::List { delays_ms } => Retry::List { delays: delays_ms.into_public() },
        }
    }
}

stored_enum!(StoredAccept for Accept { Any2xx = 0, Only200 = 1 });

stored_enum!(StoredRetryOn for RetryOn { Transient = 0, All = 1 });

stored_enum!(StoredOrdering for Ordering { None = 0, PerKey = 1, Strict = 2 });

stored_struct!(StoredRateLimit for RateLimit { events: u32, per as "per_ms": u64 });

stored_struct!(StoredBreaker for Breaker {
    failures: Option<u32>,
    initial as "initial_ms": u64,
    max as "max_ms": u64,
});

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredTarget {
    url: String,
    method: String,
    headers: Vec<(String, String)>,
    query: Vec<(String, String)>,
    body: Vec<(String, String)>,
    authorization: Option<StoredAuthorization>,
    body_format: StoredBodyFormat,
    tls: Option<StoredTls>,
    payload: StoredPayloadFormat,
}

stored_enum!(StoredBodyFormat for BodyFormat { Json = 0, FormData = 1 });

stored_enum!(StoredPayloadFormat for PayloadFormat { Gateway = 0, Meta = 1 });

stored_struct!(StoredTls for Tls { roots_pem: Option<String>, client: Option<(String, String)> });

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
enum StoredAuthorization {
    Basic(String) = 0,
    Bearer(String) = 1,
}

impl Stored<Authorization> for StoredAuthorization {
    fn from_public(authorization: Authorization) -> StoredAuthorization {
        match authorization {
            Authorization::Basic(payload) => {
                StoredAuthorization::Basic(Stored::from_public(payload))
            }
            Authorization::Bearer(payload) => {
                StoredAuthorization::Bearer(Stored::from_public(payload))
            }
        }
    }

    fn into_public(self) -> Authorization {
        match self {
            StoredAuthorization::Basic(payload) => Authorization::basic(payload),
            StoredAuthorization::Bearer(payload) => Authorization::bearer(payload),
        }
    }
}

impl StoredTarget {
    fn of(target: Target) -> StoredTarget {
        StoredTarget {
            url: target.url().to_string(),
            method: target.method.to_string(),
            headers: target.headers().to_vec(),
            query: target.query,
            body: target.body,
            authorization: Stored::from_public(target.authorization),
            body_format: Stored::from_public(target.body_format),
            tls: Stored::from_public(target.tls),
            payload: Stored::from_public(target.payload),
        }
    }

    fn restore(self) -> Result<Target> {
        let mut target = Target::new(&self.url)?;
        let method = self.method.parse();
        target.method = method.map_err(|_| Error::invalid("method", &self.method, "a method"))?;
        target.set_headers(self.headers);
        target.query = self.query;
        target.body = self.body;
        target.authorization = self.authorization.into_public();
        target.body_format = self.body_format.into_public();
        target.tls = self.tls.into_public();
        target.payload = self.payload.into_public();
        Ok(target)
    }
}

impl StoredSubscription {
    pub(super) fn of(info: &SubscriptionInfo) -> StoredSubscription {
        let SubscriptionInfo { account, name, filter, target, policy, .. } = info.clone();
        let Filter { events, numbers, condition } = filter;
        StoredSubscription {
            account,
            name,
            events: events.map(|set| set.iter().map(ToString::to_string).collect()),
            numbers: numbers.map(|set| set.iter().map(|number| number.digits()).collect()),
            target: StoredTarget::of(target),
            policy: Stored::from_public(policy),
            secret: Stored::from_public(info.secret.clone()),
            retiring: Stored::from_public(info.retiring.clone()),
            profile: Stored::from_public(info.profile),
            precedence: Stored::from_public(info.precedence),
            state: Stored::from_public(info.state),
            created_at_ms: info.created_at_ms,
            description: info.description.clone(),
            condition: condition.map(|condition| condition.to_string()),
            disabled_reason: info.disabled_reason.clone(),
        }
    }

    pub(super) fn restore(
        self,
        id: SubscriptionId,
        catalogue: &Catalogue,
    ) -> Result<SubscriptionInfo> {
        let invalid = |error: Error| damaged(id, error.to_string());
        let events = self.events.map(|names| {
            let types = names.iter().map(|name| catalogue.canonical(name));
            types.collect::<Result<_>>().map_err(invalid)
        });
        let numbers = self.numbers.map(|digits| {
            let numbers = digits.into_iter().map(WabaNumber::from_digits).collect::<Option<_>>();
            numbers.ok_or_else(|| damaged(id, "it has an invalid WABA number".to_owned()))
        });
        let condition = self.condition.as_deref().map(Condition::parse);
        let filter = Filter {
            events: events.transpose()?,
            numbers: numbers.transpose()?,
            condition: condition.transpose().map_err(invalid)?,
        };
        Ok(SubscriptionInfo {
            id,
            account: self.account,
            name: self.name,
            filter,
            target: self.target.restore().map_err(invalid)?,
            policy: self.policy.into_public(),
            secret: self.secret.into_public(),
            retiring: self.retiring.into_public(),
            profile: self.profile.into_public(),
            precedence: self.precedence.into_public(),
            state: self.state.into_public(),
            disabled_reason: self.disabled_reason,
            created_at_ms: self.created_at_ms,
            description: self.description,
        })
    }

    /// Whether it has all secrets of another form, so that nothing of that form has to leave the disk.
    pub(super) fn keeps_secrets_of(&self, other: &StoredSubscription) -> bool {
        self.secret == other.secret
            && self.retiring == other.retiring
            && self.target == other.target
    }
}

/// The record of a subscription. One that another build wrote and this one cannot read is kept as it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StoredRecord {
    Readable(Box<StoredSubscription>),
    Unknown(Vec<u8>),
}

impl StoredRecord {
    /// Fails if the record is damaged.
    pub(super) fn unseal(id: SubscriptionId, sealed: &[u8]) -> Result<StoredRecord> {
        unseal(sealed).map_err(|why| damaged(id, why))?;
        Ok(match decode(VERSION, sealed) {
            Ok(subscription) => StoredRecord::Readable(Box::new(subscription)),
            Err(_) => StoredRecord::Unknown(sealed.to_vec()),
        })
    }

    pub(super) fn seal(&self, id: SubscriptionId) -> Result<Vec<u8>> {
        match self {
            StoredRecord::Readable(one) => encode(VERSION, one).map_err(|why| damaged(id, why)),
            StoredRecord::Unknown(sealed) => Ok(sealed.clone()),
        }
    }

    /// The account and the name of the subscription, where they can be read.
    pub(super) fn name(&self) -> Option<(String, String)> {
        match self {
            StoredRecord::Readable(one) => Some((one.account.clone(), one.name.clone())),
            StoredRecord::Unknown(_) => None,
        }
    }

    /// The subscription. Fails if this build cannot serve it.
    pub(super) fn restore(
        self,
        id: SubscriptionId,
        catalogue: &Catalogue,
    ) -> Result<SubscriptionInfo> {
        match self {
            StoredRecord::Readable(subscription) => subscription.restore(id, catalogue),
            StoredRecord::Unknown(sealed) => {
                let read = decode::<StoredSubscription>(VERSION, &sealed);
                read.map_err(|why| damaged(id, why))?.restore(id, catalogue)
            }
        }
    }
}

fn damaged(id: SubscriptionId, why: String) -> Error {
    Error::Damaged { record: format!("subscription {id}"), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field differs from its default.
    fn with_everything() -> SubscriptionInfo {
        let policy = Policy {
            retry: Retry::Exponential {
                initial: Duration::from_millis(1),
                max: Duration::from_millis(2),
                jitter_permille: 3,
            },
            retry_on: RetryOn::All,
            ordering: Ordering::Strict,
            rate_limit: Some(RateLimit { events: 10, per: Duration::from_secs(1) }),
            after: Some(SubscriptionId(3)),
            breaker: Breaker {
                failures: None,
                initial: Duration::from_millis(5),
                max: Duration::from_millis(6),
            },
            disable_after: None,
            retrying_max: 77,
            honor_delivery_control: false,
            ..Policy::default()
        };
        let mut target = Target::new("http://127.0.0.1:9/hook?a=b").unwrap();
        target.add_header("x-tenant".to_owned(), "acme".to_owned());
        target.method = http::Method::PATCH;
        target.query.push(("a".to_owned(), "b c".to_owned()));
        target.body.push(("tenant".to_owned(), "{\"a\":1}".to_owned()));
        target.authorization = Some(Authorization::basic("user:word"));
        target.body_format = BodyFormat::FormData;
        target.tls = Some(Tls::default().roots("roots").client("chain", "key"));
        target.payload = PayloadFormat::Meta;
        let event = Catalogue::default().canonical("MESSAGE_RECEIVED").unwrap();
        let number = WabaNumber::from_digits(919_000_000_001).unwrap();
        SubscriptionInfo {
            id: SubscriptionId(7),
            account: "acme".to_owned(),
            name: "crm".to_owned(),
            filter: Filter {
                events: Some([event].into()),
                numbers: Some([number].into()),
                condition: Some(r#"{"pointer":"/a","eq":1}"#.parse().unwrap()),
            },
            target,
            policy,
            secret: Some(Secret::new("hush")),
            retiring: vec![RetiringSecret { secret: Secret::new("old"), until_ms: 99 }],
            profile: Profile::Session,
            precedence: Precedence::Masked,
            state: SubscriptionState::Disabled,
            disabled_reason: Some("status:410".to_owned()),
            created_at_ms: 1_795_273_574_910,
            description: Some("takes orders".to_owned()),
        }
    }

    #[test]
    fn the_golden_record_is_frozen_and_restores_every_field() {
        let golden = "059dbd8f660461636d650363726d0101104d4553534147455f52454345495645440101fd0126abf8d500000\
             01b687474703a2f2f3132372e302e302e313a392f686f6f6b3f613d620550415443480108782d74656e616e\
             740461636d6501016103622063010674656e616e74077b2261223a317d010009757365723a776f726401010\
             105726f6f74730105636861696e036b6579010001020300fc005c2605fb983a01000102010afbe80301030005\
             06004d0001046875736801036f6c6463040302fdfec9a4fea1010000010c74616b6573206f7264657273011\
             77b22706f696e746572223a222f61222c226571223a317d010a7374617475733a343130";
        let info = with_everything();
        let stored = StoredRecord::Readable(Box::new(StoredSubscription::of(&info)));
        let record = stored.seal(info.id).unwrap();
        assert_eq!(crate::text::hex(&record), golden);
        let restored = StoredRecord::unseal(info.id, &record).unwrap();
        assert_eq!(restored, stored);
        let restored = restored.restore(info.id, &Catalogue::default()).unwrap();
        assert_eq!(restored, info);
    }

    /// Bincode numbers variants by their order; the layout promises the written numbers.
    #[test]
    fn variants_are_stored_by_their_written_numbers() {
        fn check<S: Serialize + std::fmt::Debug>(all: &[(S, u8)]) {
            for (variant, number) in all {
                let record = encode(VERSION, variant).unwrap();
                assert_eq!(record.last(), Some(number), "{variant:?}");
            }
        }
        check(StoredAccept::ALL);
        check(StoredBodyFormat::ALL);
        check(StoredOrdering::ALL);
        check(StoredPayloadFormat::ALL);
        check(StoredPrecedence::ALL);
        check(StoredProfile::ALL);
        check(StoredRetryOn::ALL);
        check(StoredState::ALL);
        let number = |retry| encode(VERSION, &retry).unwrap().get(5).copied();
        let exponential = StoredRetry::Exponential { initial_ms: 1, max_ms: 1, jitter_permille: 1 };
        assert_eq!(number(exponential), Some(0));
        assert_eq!(number(StoredRetry::Linear { step_ms: 1, max_ms: 1 }), Some(1));
        assert_eq!(number(StoredRetry::List { delays_ms: vec![1] }), Some(2));
    }

    #[test]
    fn an_unknown_record_is_kept_and_a_damaged_one_refused() {
        let id = SubscriptionId(7);
        let unknown = crate::store::record::seal(9, b"of a later build");
        let kept = StoredRecord::unseal(id, &unknown).unwrap();
        assert_eq!(kept.seal(id).unwrap(), unknown);
        let error = kept.restore(id, &Catalogue::default()).unwrap_err().to_string();
        assert!(error.contains("subscription 7") && error.contains("version 9"), "{error}");
        let stored = StoredRecord::Readable(Box::new(StoredSubscription::of(&with_everything())));
        let mut damaged = stored.seal(id).unwrap();
        damaged[20] ^= 1;
        let error = StoredRecord::unseal(id, &damaged).unwrap_err().to_string();
        assert!(error.contains("subscription 7"), "{error}");
    }
}

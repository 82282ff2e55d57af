//! What requests are accepted, how others are refused, and that `docs/openapi.json` has the members of
//! these types.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserializer;
use serde::de::Visitor;
use serde_json::{Value, json};
use wabahook::policy::{Accept, Breaker, Ordering, Policy, RateLimit, Retry, RetryOn};
use wabahook::store::Memory;
use wabahook::{DeadLetterFilter, SubscriptionId};

use super::account_limits::{AccountLimitsJson, AccountUsageJson};
use super::admin::{AccountWabaJson, ApiKeyJson};
use super::stats::HealthJson;
use super::subscription::policy::RateLimitJson;
use super::subscription::target::{AuthorizationJson, TlsJson};
use super::*;

const REST: &str = r#""name":"crm","url":"https://crm.example/","events":"*","numbers":"*""#;

fn read(text: &str) -> Result<wabahook::Subscription, JsonProblem> {
    parse::<SubscriptionJson>(text)?.registered("acme")
}

fn check_refused(text: &str, says: &[&str]) {
    check_says(&read(text).err().unwrap(), says);
}

fn check_says(problem: &JsonProblem, says: &[&str]) {
    let message = format!("{problem:?}");
    for part in says {
        assert!(message.contains(part), "{message} does not say {part:?}");
    }
    assert!(!message.contains("hidden"), "{message}");
}

fn check_member_refused(member: &str, says: &[&str]) {
    check_refused(&format!("{{{REST},{member}}}"), says);
}

#[test]
fn every_documented_member_is_accepted() {
    for members in [
        "",
        r#","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw","headers":{"x-a":"1"},"timeout_ms":500,"accept":"200""#,
        r#","accept":"2xx","ordering":"none","method":"POST","tls":null,"secret":null"#,
        r#","method":"HEAD","query":{"a":"b","n":-1.50,"t":true},"body":{"x":{"y":[1, 2]},"z":null}"#,
        r#","authorization":{"type":"BASIC","payload":"u:p"},"body_format":"FORM_DATA","tls":{}"#,
        r#","authorization":{"payload":"t","type":"BEARER"},"body_format":"JSON","query":null"#,
    ] {
        let read = read(&format!("{{{REST}{members}}}"));
        assert!(read.is_ok(), "{members}: {:?}", read.err());
    }
}

#[test]
fn a_missing_member_is_named() {
    check_refused("{}", &["name", "missing"]);
    check_refused(r#"{"name":"a"}"#, &["url", "missing"]);
    check_refused(r#"{"name":"a","url":"https://a.example/"}"#, &["events", "missing"]);
    let events = r#"{"name":"a","url":"https://a.example/","events":"*"}"#;
    check_refused(events, &["numbers", "missing", "of the account"]);
    check_refused(r#"{"name":"","url":"https://a.example/"}"#, &["name", "empty"]);
    check_refused(
        r#"{"name":"a","url":"crm.example","events":"*","numbers":"*"}"#,
        &["url", "absolute"],
    );
}

#[test]
fn a_set_is_a_list_or_a_star_alone() {
    let with = |set: &str| {
        format!(r#"{{"name":"a","url":"https://a.example/","numbers":"*","events":{set}}}"#)
    };
    check_refused(&with("7"), &["events", "found a number", "or \\\"*\\\""]);
    check_refused(&with(r#""hidden""#), &["events", "another string"]);
    check_refused(&with(r#"["A",1]"#), &["events[1]", "found a number"]);
    check_refused(&with(r#"["A","*"]"#), &["events[1]", "inside a list"]);
    check_refused(&with("[]"), &["events: found an empty list", "or \\\"*\\\" for all"]);
    assert_eq!(serde_json::to_string(&SetOrAll::All).unwrap(), "\"*\"");
    let set = SetOrAll::Set(vec!["ADD_TAG".to_owned()]);
    assert_eq!(serde_json::to_string(&set).unwrap(), "[\"ADD_TAG\"]");
}

#[test]
fn an_unknown_or_repeated_member_is_refused_by_name() {
    check_member_refused(r#""colour":"hidden""#, &["colour", "unknown field", "retrying_max"]);
    check_member_refused(r#""name":"hidden""#, &["name", "twice"]);
    let long = format!(r#""{}":1"#, "x".repeat(1_000));
    assert!(read(&format!("{{{REST},{long}}}")).err().unwrap().field.unwrap().len() <= 128);
}

#[test]
fn a_wrong_target_names_the_member_and_what_is_expected() {
    check_member_refused(r#""secret":7"#, &["secret", "found a number"]);
    check_member_refused(r#""headers":["hidden"]"#, &["headers", "found an array"]);
    check_member_refused(r#""headers":{"x-a":1}"#, &["headers.x-a", "found a number"]);
    check_member_refused(r#""method":"TRACE""#, &["method", "found \\\"TRACE\\\"", "HEAD"]);
    check_member_refused(r#""method":"post""#, &["method", "found \\\"post\\\""]);
    check_member_refused(r#""method":1"#, &["method", "found a number"]);
    check_member_refused(r#""query":"a=hidden""#, &["query", "found a string", "an object"]);
    check_member_refused(r#""query":{"a":["hidden"]}"#, &["query.a", "found an array"]);
    check_member_refused(r#""query":{"a":null}"#, &["query.a", "found null"]);
    check_member_refused(r#""query":{"a":"1","a":"hidden"}"#, &["query.a", "twice"]);
    check_member_refused(r#""body":["hidden"]"#, &["body", "found an array"]);
    check_member_refused(r#""body_format":"json""#, &["body_format", "FORM_DATA"]);
    check_member_refused(r#""authorization":"hidden""#, &["authorization", "found a string"]);
    let digest = r#""authorization":{"type":"DIGEST","payload":"hidden"}"#;
    check_member_refused(digest, &["authorization.type", "BEARER"]);
    let bare = r#""authorization":{"type":"BASIC"}"#;
    check_member_refused(bare, &["authorization.payload: missing; expected a string"]);
    let number = r#""authorization":{"type":"BASIC","payload":7}"#;
    check_member_refused(number, &["authorization.payload", "found a number"]);
    let more = r#""authorization":{"type":"BASIC","payload":"hidden","user":"a"}"#;
    check_member_refused(more, &["authorization.user", "unknown field"]);
    check_member_refused(r#""authorization":["BASIC","hidden"]"#, &["authorization", "an array"]);
    check_member_refused(r#""tls":true"#, &["tls", "found a boolean"]);
    check_member_refused(r#""tls":{"ca":"hidden"}"#, &["tls.ca", "unknown field"]);
    check_member_refused(r#""tls":{"roots_pem":1}"#, &["tls.roots_pem", "found a number"]);
    let alone = r#""tls":{"client_certificate_pem":"hidden"}"#;
    check_member_refused(alone, &["tls.client_key_pem", "missing"]);
    let alone = r#""tls":{"client_key_pem":"hidden"}"#;
    check_member_refused(alone, &["tls.client_certificate_pem", "missing"]);
}

fn policy(text: &str) -> Result<Policy, JsonProblem> {
    parse::<SubscriptionJson>(text)?.policy(Policy::default())
}

fn check_policy(text: &str, change: impl Fn(&mut Policy)) {
    let mut expected = Policy::default();
    change(&mut expected);
    assert_eq!(policy(text).unwrap(), expected, "{text}");
}

#[test]
fn every_member_of_the_policy_is_read() {
    check_policy("{}", |_| {});
    check_policy(r#"{"retry":null,"ordering":null,"rate_limit":null,"after":null}"#, |_| {});
    check_policy(
        r#"{"retry":{"kind":"exponential","initial_ms":1,"max_ms":2,"jitter":0.5}}"#,
        |p| {
            p.retry = Retry::Exponential {
                initial: Duration::from_millis(1),
                max: Duration::from_millis(2),
                jitter_permille: 500,
            };
        },
    );
    check_policy(r#"{"retry":{"kind":"linear","step_ms":50,"max_ms":200,"attempts":3}}"#, |p| {
        p.retry =
            Retry::Linear { step: Duration::from_millis(50), max: Duration::from_millis(200) };
        p.attempts_max = Some(3);
    });
    check_policy(r#"{"retry":{"kind":"list","delays_ms":[1,2],"max_age_ms":60000}}"#, |p| {
        p.retry = Retry::List { delays: [1, 2].map(Duration::from_millis).to_vec() };
        p.age_max = Duration::from_secs(60);
    });
    check_policy(r#"{"retry_on_timeout":false,"timeout_ms":500,"accept":"200"}"#, |p| {
        (p.retry_on_timeout, p.timeout, p.accept) =
            (false, Duration::from_millis(500), Accept::Only200);
    });
    check_policy(r#"{"retry_on":"all","honor_delivery_control":false}"#, |p| {
        (p.retry_on, p.honor_delivery_control) = (RetryOn::All, false);
    });
    check_policy(r#"{"retry_on":"transient","honor_delivery_control":true}"#, |_| {});
    check_policy(r#"{"ordering":"per_key","after":7}"#, |p| {
        (p.ordering, p.after) = (Ordering::PerKey, Some(SubscriptionId(7)));
    });
    check_policy(r#"{"ordering":"strict","rate_limit":{"events":5,"per_ms":1000}}"#, |p| {
        p.ordering = Ordering::Strict;
        p.rate_limit = Some(RateLimit::new(5, Duration::from_secs(1)));
    });
    check_policy(r#"{"breaker":{"failures":3,"max_ms":9000},"retrying_max":8}"#, |p| {
        (p.breaker.failures, p.breaker.max, p.retrying_max) = (Some(3), Duration::from_secs(9), 8);
    });
    check_policy(r#"{"breaker":"never","disable_after_ms":"never"}"#, |p| {
        (p.breaker.failures, p.disable_after) = (None, None);
    });
    check_policy(r#"{"disable_after_ms":60000}"#, |p| {
        p.disable_after = Some(Duration::from_secs(60))
    });
    check_policy(r#"{"timeout_ms":500.0,"retry":{"kind":"list","delays_ms":[1.0,2]}}"#, |p| {
        (p.timeout, p.retry) = (
            Duration::from_millis(500),
            Retry::List { delays: [1, 2].map(Duration::from_millis).to_vec() },
        );
    });
}

#[test]
fn a_listed_policy_can_be_given_back() {
    let listed = |policy: &Policy| {
        serde_json::to_value(SubscriptionJson::default().with_policy(policy)).unwrap()
    };
    let shown = listed(&Policy::default());
    let retry = json!({
        "kind": "exponential", "initial_ms": 1_000, "max_ms": 3_600_000, "jitter": 0.2,
        "max_age_ms": 86_400_000,
    });
    assert_eq!(shown["retry"], retry);
    assert_eq!((&shown["ordering"], &shown["rate_limit"]), (&json!("none"), &Value::Null));
    assert_eq!(shown["breaker"]["failures"], 10);
    assert_eq!(shown["retry_on"], "transient");
    assert_eq!(shown["honor_delivery_control"], true);
    let given = Policy::default()
        .retry_on(RetryOn::All)
        .honor_delivery_control(false)
        .retry(Retry::List { delays: [1, 2].map(Duration::from_millis).to_vec() })
        .attempts_max(Some(3))
        .ordering(Ordering::PerKey)
        .rate_limit(Some(RateLimit::new(5, Duration::from_secs(1))))
        .after(Some(SubscriptionId(4)))
        .breaker(Breaker::default().failures(None))
        .disable_after(None);
    assert_eq!(policy(&listed(&given).to_string()).unwrap(), given);
}

fn check_policy_refused(member: &str, says: &[&str]) {
    check_says(&policy(&format!("{{{member}}}")).unwrap_err(), says);
}

#[test]
fn a_wrong_policy_names_the_member_and_what_is_expected() {
    check_policy_refused(r#""timeout_ms":"hidden""#, &["timeout_ms", "a whole number"]);
    check_policy_refused(
        r#""timeout_ms":-1"#,
        &["timeout_ms: found -1", "a whole number from 0 to"],
    );
    check_policy_refused(r#""timeout_ms":1.5"#, &["timeout_ms", "a whole number"]);
    check_policy_refused(r#""timeout_ms":1e300"#, &["timeout_ms", "a whole number"]);
    check_policy_refused(r#""timeout_ms":"1.0""#, &["timeout_ms", "found a string"]);
    check_policy_refused(r#""retry_on_timeout":"yes""#, &["retry_on_timeout", "true or false"]);
    check_policy_refused(r#""accept":"201""#, &["accept", "2xx"]);
    check_policy_refused(r#""retry_on":"some""#, &["retry_on", "some", "transient", "all"]);
    check_policy_refused(r#""retry_on":true"#, &["retry_on", "found a boolean", "a string"]);
    check_policy_refused(
        r#""honor_delivery_control":"hidden""#,
        &["honor_delivery_control", "true or false"],
    );
    check_policy_refused(r#""retry":3"#, &["retry", "an object"]);
    check_policy_refused(r#""retry":{"attempts":3}"#, &["retry.kind", "missing"]);
    check_policy_refused(r#""retry":{"kind":"fifo"}"#, &["retry.kind", "fifo", "linear"]);
    check_policy_refused(r#""retry":{"kind":"list"}"#, &["retry.delays_ms: missing; expected"]);
    let list = r#""retry":{"kind":"list","delays_ms":["hidden"]}"#;
    check_policy_refused(list, &["retry.delays_ms[0]", "a whole number"]);
    let jitter = r#""retry":{"kind":"exponential","initial_ms":1,"max_ms":2,"jitter":20}"#;
    check_policy_refused(jitter, &["retry.jitter", "20", "from 0 to 1"]);
    let linear = r#""retry":{"kind":"linear","step_ms":1,"max_ms":2,"jitter":0.5}"#;
    check_policy_refused(linear, &["retry.jitter", "unknown field"]);
    check_policy_refused(r#""ordering":"fifo""#, &["ordering", "fifo", "per_key"]);
    check_policy_refused(r#""ordering":true"#, &["ordering", "found a boolean", "a string"]);
    check_policy_refused(r#""rate_limit":{"events":5}"#, &["rate_limit.per_ms: missing; expected"]);
    let fraction = r#""rate_limit":{"events":1.5,"per_ms":1}"#;
    check_policy_refused(fraction, &["rate_limit.events", "whole"]);
    let attempts = &["rate_limit.events: missing; expected how many attempts"];
    check_policy_refused(r#""rate_limit":{"per_ms":5}"#, attempts);
    let linear = r#""retry":{"kind":"linear","max_ms":5}"#;
    check_policy_refused(linear, &["retry.step_ms: missing; expected"]);
    check_policy_refused(r#""rate_limit":{"rate":5}"#, &["rate_limit.rate", "unknown field"]);
    check_policy_refused(r#""after":"hidden""#, &["after", "found a string", "a whole number"]);
    check_policy_refused(r#""breaker":"hidden""#, &["breaker", "found a string", "never"]);
    check_policy_refused(r#""breaker":{"after":1}"#, &["breaker.after", "unknown field"]);
    check_policy_refused(r#""breaker":{"failures":"a"}"#, &["breaker.failures", "a whole number"]);
    check_policy_refused(r#""disable_after_ms":"hidden""#, &["disable_after_ms", "never"]);
    check_policy_refused(r#""retrying_max":99999999999"#, &["99999999999", "from 0 to 4294967295"]);
}

#[test]
fn a_rotation_needs_an_overlap_and_has_no_unknown_member() {
    let RotationJson { secret, overlap_ms } = parse(r#"{"overlap_ms":60000}"#).unwrap();
    assert_eq!((secret, overlap_ms.0), (None, 60_000));
    let RotationJson { secret, overlap_ms } = parse(r#"{"secret":"s","overlap_ms":0}"#).unwrap();
    assert_eq!((secret.as_deref(), overlap_ms.0), (Some("s"), 0));
    for (text, says) in [
        ("{}", "overlap_ms: missing"),
        (r#"{"overlap_ms":-1}"#, "overlap_ms: found -1; expected"),
        (r#"{"overlap_ms":"hidden"}"#, "overlap_ms: found a string"),
        (r#"{"overlap_ms":0,"secret":7}"#, "secret: found a number"),
        (r#"{"overlap_ms":0,"key":"hidden"}"#, "key: unknown field"),
    ] {
        let problem = format!("{:?}", parse::<RotationJson>(text).err().unwrap());
        assert!(problem.contains(says) && !problem.contains("hidden"), "{problem}");
    }
}

const ID: &str = "evt_00000000000000070000000000000009.3";

#[test]
fn a_replay_names_dead_letters_by_any_of_its_members() {
    let filter = |text: &str| parse::<ReplayJson>(text).unwrap().filter(Some("acme")).unwrap();
    let (ids, by_id) = filter(&format!("{{\"ids\":[\"{ID}\"]}}"));
    assert_eq!(ids.unwrap(), [ID.parse().unwrap()]);
    assert_eq!(by_id, DeadLetterFilter::default().account("acme"));
    let text = r#"{"subscription":3,"reason":"timeout","since":"2023-11-14T22:13:20Z"}"#;
    let expected = DeadLetterFilter::default()
        .account("acme")
        .subscription(SubscriptionId(3))
        .reason("timeout")
        .since_ms(1_700_000_000_000);
    assert_eq!(filter(text), (None, expected));
}

#[test]
fn a_replay_of_nothing_or_of_too_much_is_refused() {
    let many = format!("{{\"ids\":[{}\"{ID}\"]}}", format!("\"{ID}\",").repeat(1_000));
    for (text, says) in [
        ("{}", "at least one of ids"),
        (r#"{"ids":null}"#, "at least one of ids"),
        (r#"{"ids":"hidden"}"#, "ids: found a string"),
        (r#"{"ids":["hidden"]}"#, "ids[0]"),
        (r#"{"since":"hidden"}"#, "since"),
        (r#"{"since":5}"#, "since: found a number"),
        (r#"{"subscription":"hidden"}"#, "subscription"),
        (r#"{"before":"hidden"}"#, "before: unknown field"),
        (r#"{"dry_run":true}"#, "at least one of ids"),
        (many.as_str(), "at most 1000"),
    ] {
        let filter = parse::<ReplayJson>(text).and_then(|replay| replay.filter(Some("acme")));
        let problem = format!("{:?}", filter.unwrap_err());
        assert!(problem.contains(says) && !problem.contains("hidden"), "{problem}");
    }
}

/// Reads no value, and keeps the names of the members that a struct asks for.
struct MemberNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for MemberNames<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        members: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = members;
        Err(serde::de::Error::custom("only the names"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn members<'de, T: Deserialize<'de>>() -> BTreeSet<String> {
    let mut names: &[&str] = &[];
    let _ = T::deserialize(MemberNames(&mut names));
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn members_of(value: &impl Serialize) -> BTreeSet<String> {
    serde_json::to_value(value).unwrap().as_object().unwrap().keys().cloned().collect()
}

/// The members of a listing of a subscription.
fn listed_members() -> BTreeSet<String> {
    let config = wabahook::Config::new("memory").store(Arc::new(Memory::default()));
    let engine = wabahook::Engine::open(config).unwrap();
    let condition = r#"{"pointer":"/a","eq":1}"#.parse().unwrap();
    let crm = wabahook::Subscription::to("https://crm.example/hook").unwrap();
    let id = engine.register(crm.condition(condition).events(["MESSAGE_RECIEVED"])).unwrap();
    let crm = engine.subscription(id).unwrap();
    let listing = SubscriptionListing::of(&crm, None).with_hints(&crm, engine.catalogue());
    // While it is active, without attempts and for an account these are left out.
    let for_some = ["attempts", "account_name", "account_state", "account_state_since", "reason"];
    let for_some = for_some.map(str::to_owned);
    members_of(&listing).into_iter().chain(for_some).collect()
}

#[test]
fn the_openapi_document_has_the_members_of_these_types() {
    let document: Value =
        serde_json::from_str(include_str!("../../../../docs/openapi.json")).unwrap();
    let letter_members = members::<DeadLetterJson>();
    let detail = ["payload", "history"].map(str::to_owned);
    for (schema, members) in [
        ("NewSubscription", members::<SubscriptionJson>()),
        ("SubscriptionChange", members::<SubscriptionJson>()),
        ("Subscription", listed_members()),
        ("Authorization", members::<AuthorizationJson>()),
        ("Tls", members::<TlsJson>()),
        ("RateLimit", members::<RateLimitJson>()),
        ("AccountLimits", members::<AccountLimitsJson>()),
        ("AccountUsage", members::<AccountUsageJson>()),
        ("Health", members::<HealthJson>()),
        ("Test", members::<TestDeliveryJson>()),
        ("Rotation", members::<RotationJson>()),
        ("Rotated", members::<NewSecretJson>()),
        ("Event", members::<EventJson<'_>>()),
        ("Accepted", members::<AcceptedJson>()),
        ("MatchReport", members::<MatchReportJson>()),
        ("Delivery", members::<DeliveryJson>()),
        ("Attempt", members::<RecentAttemptJson>()),
        ("DeadLetter", letter_members.clone()),
        ("WholeDeadLetter", letter_members.into_iter().chain(detail).collect()),
        ("FailedAttempt", members::<FailedAttemptJson>()),
        ("Replay", members::<ReplayJson>()),
        ("Cancel", members::<CancelJson>()),
        ("Purge", members::<PurgeJson>()),
        ("AccountChange", members::<AccountChangeJson>()),
        ("ManagedAccount", members::<AccountListing>()),
        ("AccountWaba", members::<AccountWabaJson>()),
        ("ApiKey", members::<ApiKeyJson>()),
        ("NewAccount", members::<MadeKeyJson>()),
        ("NewKey", members::<NewKeyJson>()),
        ("MadeKey", members::<MadeKeyJson>()),
        ("AccountMove", members::<MoveJson>()),
        ("Reloaded", members::<ReloadedJson>()),
        ("AuditEntry", members::<AuditEntryJson>()),
        ("AuditChange", members::<AuditChangeJson>()),
        ("Backup", members::<BackupJson>()),
        ("EventTrace", members::<EventTraceJson>()),
        ("DeliveryTrace", members::<DeliveryTraceJson>()),
        ("TracedAttempt", members::<TracedAttemptJson>()),
        ("SubscriptionFilter", members::<SubscriptionFilterJson>()),
        ("Stats", members::<StatsJson>()),
        ("Readiness", members::<ReadinessJson>()),
        ("Cluster", members::<ClusterJson>()),
        ("IncludedShards", members::<IncludedShardsJson>()),
        ("ClusterHost", members::<ClusterHostJson>()),
        ("Unowned", members::<UnownedJson>()),
        ("Error", members::<ErrorJson>()),
    ] {
        let described = &document["components"]["schemas"][schema]["properties"];
        assert_eq!(members_of(described), members, "{schema}");
    }
}

#[test]
fn the_form_of_the_console_has_members_of_a_subscription() {
    let form = include_str!("../console/form.js");
    let (_, rest) = form.split_once("const { ").unwrap();
    let (inputs, _) = rest.split_once(" } = form.elements").unwrap();
    let inputs: BTreeSet<String> = inputs.split(", ").map(str::to_owned).collect();
    let members = members::<SubscriptionJson>();
    assert!(inputs.contains("url") && inputs.is_subset(&members), "{inputs:?}");
}

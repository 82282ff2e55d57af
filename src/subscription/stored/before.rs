//! Decides how subscriptions that older builds stored are read.
//!
//! Leaves to others: the layout that is written (`stored`). Invariant: nothing here changes any more;
//! what an older version does not say is as it is by default.

use serde::{Deserialize, Serialize};

use super::{PolicyV2, StoredV3, TargetV3};
use crate::subscription::{Accept, BodyFormat, Level, Policy, Profile, Retry, State};

/// With the order, the rate, the gate, the breaker and what else dispatch decides.
pub(in crate::subscription) type StoredV2 = Layout<PolicyV2>;
/// Before dispatch decided more than retries.
pub(in crate::subscription) type StoredV1 = Layout<PolicyV1>;

/// What all versions so far have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::subscription) struct Layout<P> {
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
pub(in crate::subscription) struct PolicyV1 {
    retry: Retry,
    attempts_max: Option<u32>,
    age_max_ms: u64,
    timeout_ms: u64,
    retry_on_timeout: bool,
    accept: Accept,
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

impl From<StoredV2> for StoredV3 {
    fn from(stored: StoredV2) -> StoredV3 {
        let target = TargetV3 {
            url: stored.url,
            method: "POST".to_owned(),
            headers: stored.headers,
            query: Vec::new(),
            body: Vec::new(),
            authorization: None,
            body_format: BodyFormat::default(),
            tls: None,
        };
        StoredV3 {
            account: stored.account,
            name: stored.name,
            events: stored.events,
            numbers: stored.numbers,
            target,
            policy: stored.policy,
            secret: stored.secret,
            retiring: Vec::new(),
            profile: stored.profile,
            level: Level::default(),
            state: stored.state,
            created_at_ms: stored.created_at_ms,
        }
    }
}

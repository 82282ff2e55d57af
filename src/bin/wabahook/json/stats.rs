//! The counters of the host, and the live figures of a subscription.

use serde::{Deserialize, Serialize};
use wabahook::{AccountInfo, AccountState, Bound, LaneStats, Stats, SubscriptionInfo};

use super::cluster::{ClusterJson, IncludedShardsJson};
use super::values::Millis;

/// The live figures of a subscription.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct HealthJson {
    /// `healthy`, `retrying`, `failing` or `breaker_open`.
    #[serde(default)]
    pub(crate) status: String,
    pub(crate) owed: u64,
    retrying: u64,
    blocked: u64,
    in_flight: u64,
    pub(crate) delivered: u64,
    retried: u64,
    pub(crate) dead: u64,
    pub(crate) failures_in_row: u64,
    pub(crate) failing_for_ms: Millis,
    breaker_trips: u64,
    pub(crate) rests_for_ms: Millis,
}

/// A subscription among the counters.
#[derive(Serialize, Deserialize)]
pub(crate) struct SubscriptionStatsJson {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// The id of its account, and for the operator the name.
    #[serde(default)]
    account: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_name: Option<String>,
    /// The state of the account where it is not active, for the operator. Then nothing is delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_state: Option<String>,
    pub(crate) state: String,
    #[serde(flatten)]
    pub(crate) health: HealthJson,
}

/// Whether the host works without limits.
#[derive(Serialize, Deserialize)]
pub(crate) struct ReadinessJson {
    status: String,
    reasons: Vec<String>,
    /// The other hosts, where several serve the store together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterJson>,
}

impl ReadinessJson {
    pub(crate) fn of(
        bound: Option<Bound>,
        host: impl IntoIterator<Item = impl Into<String>>,
    ) -> ReadinessJson {
        let mut reasons = reasons(bound);
        for reason in host.into_iter().map(Into::into) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        let status = if reasons.is_empty() { "ok" } else { "degraded" };
        ReadinessJson { status: status.to_owned(), reasons, cluster: None }
    }

    /// The answer of a host that waits for the ownership of its store.
    pub(crate) fn standby(reason: &str) -> ReadinessJson {
        ReadinessJson { status: "standby".to_owned(), ..ReadinessJson::unable(reason) }
    }

    /// The answer of a host that cannot accept events.
    pub(crate) fn unable(reason: &str) -> ReadinessJson {
        let (status, reasons) = ("degraded".to_owned(), vec![reason.to_owned()]);
        ReadinessJson { status, reasons, cluster: None }
    }

    pub(crate) fn with_cluster(self, cluster: ClusterJson) -> ReadinessJson {
        ReadinessJson { cluster: Some(cluster), ..self }
    }
}

/// Why ready deliveries wait; empty while none does.
fn reasons(bound: Option<Bound>) -> Vec<String> {
    bound.iter().map(ToString::to_string).collect()
}

/// Declares the counters, each of which has the name of the engine's own.
macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The engine's counters, and the account's own subscriptions.
        #[derive(Default, Serialize, Deserialize)]
        pub(crate) struct StatsJson {
            $(#[serde(default, skip_serializing_if = "Option::is_none")] pub(crate) $name: Option<u64>,)*
            #[serde(default)]
            reasons: Vec<String>,
            /// How many subscriptions the caller has, and how many of them fail or are disabled.
            #[serde(default)]
            subscription_count: u64,
            #[serde(default)]
            failing_subscriptions: u64,
            subscriptions: Vec<SubscriptionStatsJson>,
            /// Where several hosts serve the store together.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            shards: Option<IncludedShardsJson>,
        }

        impl StatsJson {
            pub(crate) fn of(
                stats: &Stats,
                subscriptions: Vec<SubscriptionStatsJson>,
                subscription_count: u64,
                failing_subscriptions: u64,
            ) -> StatsJson {
                StatsJson {
                    $($name: Some(stats.$name),)*
                    reasons: reasons(stats.bound),
                    subscription_count,
                    failing_subscriptions,
                    subscriptions,
                    shards: None,
                }
            }
        }
    };
}

counters! {
    accepted, duplicates, unrouted, condition_unparsable, unowned, callbacks_refused_signature,
    callbacks_refused_verify_token, callbacks_refused_malformed, callback_parts_malformed, busy,
    owed, recovered, delivered, attempts, retried, dead,
    cancelled, held, in_flight, in_flight_max, uncounted, stalled, transport_threads, groups, queued_events, queued_bytes,
    owed_events, owed_bytes, outbox_events, outbox_bytes, generations, dead_letters, replayed, letters_dropped, letters_discarded,
    purged, keys_dropped, history_bytes, history_dropped,
}

impl StatsJson {
    /// Without the counters that are of the whole engine.
    pub(crate) fn of_account(self) -> StatsJson {
        let StatsJson { accepted, unrouted, owed, delivered, retried, dead, dead_letters, .. } =
            self;
        let StatsJson { in_flight, queued_events, owed_events, owed_bytes, .. } = self;
        let StatsJson { subscription_count, failing_subscriptions, subscriptions, .. } = self;
        StatsJson {
            accepted,
            unrouted,
            owed,
            delivered,
            retried,
            dead,
            dead_letters,
            in_flight,
            queued_events,
            owed_events,
            owed_bytes,
            subscription_count,
            failing_subscriptions,
            subscriptions,
            ..StatsJson::default()
        }
    }
}

impl HealthJson {
    /// A subscription that was never owed a delivery has no lane.
    pub(crate) fn of(lane: Option<&LaneStats>) -> HealthJson {
        let status = health_word(lane).to_owned();
        let Some(lane) = lane else { return HealthJson { status, ..HealthJson::default() } };
        HealthJson {
            status,
            owed: lane.owed,
            retrying: lane.retrying,
            blocked: lane.blocked,
            in_flight: lane.in_flight,
            delivered: lane.delivered,
            retried: lane.retried,
            dead: lane.dead,
            failures_in_row: lane.failures_in_row,
            failing_for_ms: Millis(lane.failing_for),
            breaker_trips: lane.breaker_trips,
            rests_for_ms: Millis(lane.rests_for),
        }
    }
}

/// The health of a subscription in a word.
pub(crate) fn health_word(lane: Option<&LaneStats>) -> &'static str {
    match lane {
        Some(lane) if !lane.rests_for.is_zero() => "breaker_open",
        Some(lane) if !lane.failing_for.is_zero() => "failing",
        Some(lane) if lane.retrying > 0 => "retrying",
        _ => "healthy",
    }
}

/// The state of an account whose deliveries are held.
pub(super) fn held_state(account: &AccountInfo) -> Option<String> {
    (account.state != AccountState::Active).then(|| account.state.as_str().to_owned())
}

impl SubscriptionStatsJson {
    pub(crate) fn of(
        registered: &SubscriptionInfo,
        stats: &Stats,
        account: Option<&AccountInfo>,
    ) -> SubscriptionStatsJson {
        SubscriptionStatsJson {
            id: registered.id.0,
            name: registered.name.clone(),
            account: registered.account.clone(),
            account_name: account.map(|account| account.name.clone()),
            account_state: account.and_then(held_state),
            state: registered.state.as_str().to_owned(),
            health: HealthJson::of(stats.lane(registered.id)),
        }
    }
}

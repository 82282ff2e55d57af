//! The JSON of the host: one type for each shape, which the routes answer with, the commands read, and
//! `docs/openapi.json` describes (a test here compares them). Requests are strict: a member that is not
//! known, or occurs twice, is refused by its path. Responses are read leniently, so that a command works
//! with a newer host. What is wrong with a value never repeats the value (I9).

mod account;
mod account_limits;
mod admin;
mod audit;
mod cluster;
mod dead_letter;
mod delivery;
mod ending;
mod error;
mod event;
mod event_trace;
mod match_report;
mod notice;
mod parse;
mod problem;
mod stats;
mod subscription;
#[cfg(test)]
mod tests;
mod unowned;
mod values;

use serde::{Deserialize, Serialize};

pub(crate) use account::{AccountJson, EventTypeJson};
pub(crate) use account_limits::AccountLimitsJson;
pub(crate) use admin::{
    AccountChangeJson, AccountChangesJson, AccountListing, AccountWabaJson, BackupJson,
    MadeKeyJson, MoveJson, NewKeyJson, ReloadedJson,
};
pub(crate) use audit::{AuditChangeJson, AuditEntryJson};
pub(crate) use cluster::{ClusterHostJson, ClusterJson, IncludedShardsJson};
pub(crate) use dead_letter::{DeadLetterDetailJson, DeadLetterJson, FailedAttemptJson, ReplayJson};
pub(crate) use delivery::{DeliveryJson, RecentAttemptJson, TestDeliveryJson};
pub(crate) use ending::{CancelJson, CountJson, PurgeJson, PurgedJson};
pub(crate) use error::{ErrorDetailJson, ErrorJson};
pub(crate) use event::{AcceptedJson, EventJson};
pub(crate) use event_trace::{DeliveryTraceJson, EventTraceJson, TracedAttemptJson};
pub(crate) use match_report::MatchReportJson;
pub(crate) use notice::NoticeJson;
pub(crate) use parse::{parse, utf8};
pub(crate) use problem::JsonProblem;
pub(crate) use stats::{ReadinessJson, StatsJson, SubscriptionStatsJson};
pub(crate) use subscription::filter::SubscriptionFilterJson;
pub(crate) use subscription::{
    NewSecretJson, RotationJson, SubscriptionJson, SubscriptionListing, SubscriptionsJson,
};
pub(crate) use unowned::UnownedJson;
pub(crate) use values::{Millis, Patch, SetOrAll, Text, TimestampJson, Whole, Word};

/// One page of a listing. `cursor` names the next page where there is one.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct JsonPage<T> {
    pub(crate) items: Vec<T>,
    #[serde(default)]
    pub(crate) cursor: Option<String>,
}

//! The section `[limits]` of the configuration file: the engine's limits under their own names, and the host's own.

use std::time::Duration;

use serde::Deserialize;
use wabahook::Limits;

use crate::json::AccountLimitsJson;
use crate::port::bodies::BodyLimits;
use crate::port::connections::ConnectionLimits;
use crate::port::files::FileShares;

/// The history of events; the library keeps none by default.
const HISTORY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// How long the head of a request may take from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsTable {
    /// The limits of accounts that set none of their own.
    pub(super) per_account: AccountLimitsJson,
    body_bytes_max: Option<usize>,
    body_timeout_ms: Option<u64>,
    body_bytes_per_s_min: Option<usize>,
    head_timeout_ms: Option<u64>,
    connections_max: Option<usize>,
    connections_per_address_max: Option<usize>,
    payload_bytes_max: Option<usize>,
    queue_events_max: Option<usize>,
    queue_bytes_max: Option<usize>,
    cache_bytes_max: Option<usize>,
    group_events_max: Option<usize>,
    subscriptions_max: Option<usize>,
    dedup_window_ms: Option<u64>,
    dedup_keys_max: Option<usize>,
    in_flight_max: Option<usize>,
    io_threads: Option<usize>,
    host_in_flight_max: Option<usize>,
    transport_threads: Option<usize>,
    generation_bytes: Option<u64>,
    outbox_events_max: Option<u64>,
    outbox_bytes_max: Option<u64>,
    dead_letters_max: Option<usize>,
    dead_letter_age_max_ms: Option<u64>,
    lane_in_flight_max: Option<usize>,
    notices_max: Option<usize>,
    recent_attempts_max: Option<usize>,
    recent_attempts_each_max: Option<usize>,
    history_bytes_max: Option<u64>,
    history_age_max_ms: Option<u64>,
    session_webhooks_max: Option<usize>,
}

impl LimitsTable {
    pub(super) fn head_timeout(&self) -> Duration {
        self.head_timeout_ms.map_or(HEAD_TIMEOUT, Duration::from_millis)
    }

    pub(super) fn connections(&self) -> Result<ConnectionLimits, String> {
        let total = self.connections_max.unwrap_or_else(|| FileShares::now().inbound);
        let per_address = self.connections_per_address_max.unwrap_or(total.div_ceil(2));
        match (total, per_address) {
            (0, _) => Err("limits.connections_max: 0 given, expected at least 1".to_owned()),
            (_, 0) => {
                Err("limits.connections_per_address_max: 0 given, expected at least 1".to_owned())
            }
            _ => Ok(ConnectionLimits { total, per_address }),
        }
    }

    pub(super) fn bodies(&self) -> Result<BodyLimits, String> {
        let default = BodyLimits::default();
        let bytes_max = self.body_bytes_max.unwrap_or(default.bytes_max);
        if bytes_max == 0 || u32::try_from(bytes_max).is_err() {
            return Err(format!(
                "limits.body_bytes_max: {bytes_max} given, expected 1 to 4294967295"
            ));
        }
        let timeout = self.body_timeout_ms.map_or(default.timeout, Duration::from_millis);
        let rate_min = self.body_bytes_per_s_min.unwrap_or(default.rate_min);
        Ok(BodyLimits { bytes_max, timeout, rate_min })
    }

    pub(super) fn engine(&self) -> Limits {
        let mut limits = Limits::default().history_bytes_max(HISTORY_BYTES_MAX);
        let counts = [
            (self.payload_bytes_max, &mut limits.payload_bytes_max),
            (self.queue_events_max, &mut limits.queue_events_max),
            (self.queue_bytes_max, &mut limits.queue_bytes_max),
            (self.cache_bytes_max, &mut limits.cache_bytes_max),
            (self.group_events_max, &mut limits.group_events_max),
            (self.subscriptions_max, &mut limits.subscriptions_max),
            (self.dedup_keys_max, &mut limits.dedup_keys_max),
            (self.dead_letters_max, &mut limits.dead_letters_max),
            (self.io_threads, &mut limits.io_threads),
            (self.host_in_flight_max, &mut limits.host_in_flight_max),
            (self.transport_threads, &mut limits.transport_threads),
            (self.lane_in_flight_max, &mut limits.lane_in_flight_max),
            (self.notices_max, &mut limits.notices_max),
            (self.recent_attempts_max, &mut limits.recent_attempts_max),
            (self.recent_attempts_each_max, &mut limits.recent_attempts_each_max),
            (self.session_webhooks_max, &mut limits.session_webhooks_max),
        ];
        for (given, limit) in counts {
            *limit = given.unwrap_or(*limit);
        }
        limits.in_flight_max = self.in_flight_max.or_else(|| Some(FileShares::now().outbound));
        let numbers = [
            (self.generation_bytes, &mut limits.generation_bytes),
            (self.outbox_events_max, &mut limits.outbox_events_max),
            (self.outbox_bytes_max, &mut limits.outbox_bytes_max),
            (self.history_bytes_max, &mut limits.history_bytes_max),
        ];
        for (given, limit) in numbers {
            *limit = given.unwrap_or(*limit);
        }
        let spans = [
            (self.dedup_window_ms, &mut limits.dedup_window),
            (self.dead_letter_age_max_ms, &mut limits.dead_letter_age_max),
            (self.history_age_max_ms, &mut limits.history_age_max),
        ];
        for (given_ms, limit) in spans {
            *limit = given_ms.map_or(*limit, Duration::from_millis);
        }
        limits
    }
}

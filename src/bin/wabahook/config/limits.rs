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

/// Declares the section: the limits of the host, and those of the engine by type, each of which has the engine's name.
macro_rules! limits {
    (
        host { $($host:ident: $of_host:ty,)* }
        counts { $($count:ident,)* }
        numbers { $($number:ident,)* }
        spans { $($span_ms:ident: $span:ident,)* }
    ) => {
        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct LimitsTable {
            /// The limits of accounts that set none of their own.
            pub(super) per_account: AccountLimitsJson,
            $($host: Option<$of_host>,)*
            $($count: Option<usize>,)*
            $($number: Option<u64>,)*
            $($span_ms: Option<u64>,)*
        }

        impl LimitsTable {
            pub(super) fn engine(&self) -> Limits {
                let mut limits = Limits::default().history_bytes_max(HISTORY_BYTES_MAX);
                $(limits.$count = self.$count.unwrap_or(limits.$count);)*
                $(limits.$number = self.$number.unwrap_or(limits.$number);)*
                $(limits.$span = self.$span_ms.map_or(limits.$span, Duration::from_millis);)*
                limits.in_flight_max = self.in_flight_max.or_else(|| Some(FileShares::now().outbound));
                limits
            }
        }
    };
}

limits! {
    host {
        body_bytes_max: usize,
        body_timeout_ms: u64,
        body_bytes_per_s_min: usize,
        head_timeout_ms: u64,
        connections_max: usize,
        connections_per_address_max: usize,
        in_flight_max: usize,
    }
    counts {
        payload_bytes_max, queue_events_max, queue_bytes_max, cache_bytes_max, group_events_max, subscriptions_max,
        dedup_keys_max, dead_letters_max, io_threads, host_in_flight_max, transport_threads, lane_in_flight_max,
        notices_max, recent_attempts_max, recent_attempts_each_max, session_webhooks_max,
    }
    numbers { generation_bytes, outbox_events_max, outbox_bytes_max, history_bytes_max, }
    spans {
        dedup_window_ms: dedup_window,
        dead_letter_age_max_ms: dead_letter_age_max,
        history_age_max_ms: history_age_max,
    }
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
}

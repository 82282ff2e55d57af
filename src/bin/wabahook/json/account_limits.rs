//! How much an account may take, and how much it uses. The configuration file and the routes share the members of
//! [`AccountLimitsJson`].

use serde::{Deserialize, Serialize};
use wabahook::{AccountBounds, AccountLimits, AccountUsage};

use super::policy::RateLimitJson;
use super::values::{Patch, Whole};

/// The limits of an account. A member that is left out stays unchanged, and null sets the default.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AccountLimitsJson {
    #[serde(skip_serializing_if = "Patch::is_absent")]
    subscriptions_max: Patch<Whole<usize>>,
    #[serde(skip_serializing_if = "Patch::is_absent")]
    owed_events_max: Patch<Whole<u64>>,
    #[serde(skip_serializing_if = "Patch::is_absent")]
    owed_bytes_max: Patch<Whole<u64>>,
    #[serde(skip_serializing_if = "Patch::is_absent")]
    dead_letters_max: Patch<Whole<usize>>,
    #[serde(skip_serializing_if = "Patch::is_absent")]
    dedup_keys_max: Patch<Whole<usize>>,
    #[serde(skip_serializing_if = "Patch::is_absent")]
    publish_rate: Patch<RateLimitJson>,
    #[serde(skip_serializing_if = "Patch::is_absent")]
    in_flight_max: Patch<Whole<usize>>,
    #[serde(skip_serializing_if = "Patch::is_absent")]
    tests_per_minute: Patch<Whole<u32>>,
    #[serde(skip_serializing_if = "Patch::is_absent")]
    notice_listeners_max: Patch<Whole<usize>>,
}

impl AccountLimitsJson {
    /// The limits that an account sets itself; the others are null.
    pub(crate) fn of(limits: &AccountLimits) -> AccountLimitsJson {
        AccountLimitsJson {
            subscriptions_max: limits.subscriptions_max.map(Whole).into(),
            owed_events_max: limits.owed_events_max.map(Whole).into(),
            owed_bytes_max: limits.owed_bytes_max.map(Whole).into(),
            dead_letters_max: limits.dead_letters_max.map(Whole).into(),
            dedup_keys_max: limits.dedup_keys_max.map(Whole).into(),
            publish_rate: limits.publish_rate.map(RateLimitJson::of).into(),
            in_flight_max: limits.in_flight_max.map(Whole).into(),
            tests_per_minute: limits.tests_per_minute.map(Whole).into(),
            notice_listeners_max: limits.notice_listeners_max.map(Whole).into(),
        }
    }

    /// Changes the limits that are given.
    pub(crate) fn apply(mut self, to: &mut AccountLimits) {
        fn some<T>(given: Whole<T>) -> Option<T> {
            Some(given.0)
        }
        self.subscriptions_max.change(&mut to.subscriptions_max, None, some);
        self.owed_events_max.change(&mut to.owed_events_max, None, some);
        self.owed_bytes_max.change(&mut to.owed_bytes_max, None, some);
        self.dead_letters_max.change(&mut to.dead_letters_max, None, some);
        self.dedup_keys_max.change(&mut to.dedup_keys_max, None, some);
        self.publish_rate.change(&mut to.publish_rate, None, |rate| Some(rate.limit()));
        self.in_flight_max.change(&mut to.in_flight_max, None, some);
        self.tests_per_minute.change(&mut to.tests_per_minute, None, some);
        self.notice_listeners_max.change(&mut to.notice_listeners_max, None, some);
    }

    /// The limits that are given, and the defaults of the others.
    pub(crate) fn limits(self) -> AccountLimits {
        let mut limits = AccountLimits::default();
        self.apply(&mut limits);
        limits
    }
}

/// What an account uses, and the limits in force for it.
#[derive(Serialize, Deserialize)]
pub(crate) struct AccountUsageJson {
    pub(crate) subscriptions: u64,
    pub(crate) owed_events: u64,
    pub(crate) owed_bytes: u64,
    pub(crate) queued_events: u64,
    pub(crate) dead_letters: u64,
    pub(crate) in_flight: u64,
    pub(crate) limits: AccountBoundsJson,
}

/// The limits in force for an account.
#[derive(Serialize, Deserialize)]
pub(crate) struct AccountBoundsJson {
    subscriptions_max: usize,
    owed_events_max: u64,
    owed_bytes_max: u64,
    queued_events_max: u64,
    queued_bytes_max: u64,
    dead_letters_max: usize,
    dedup_keys_max: usize,
    publish_rate: Option<RateLimitJson>,
    in_flight_max: usize,
    tests_per_minute: u32,
    notice_listeners_max: usize,
}

impl AccountUsageJson {
    pub(crate) fn of(usage: &AccountUsage) -> AccountUsageJson {
        AccountUsageJson {
            subscriptions: usage.subscriptions,
            owed_events: usage.owed_events,
            owed_bytes: usage.owed_bytes,
            queued_events: usage.queued_events,
            dead_letters: usage.dead_letters,
            in_flight: usage.in_flight,
            limits: AccountBoundsJson::of(&usage.bounds),
        }
    }
}

impl AccountBoundsJson {
    fn of(bounds: &AccountBounds) -> AccountBoundsJson {
        AccountBoundsJson {
            subscriptions_max: bounds.subscriptions_max,
            owed_events_max: bounds.owed_events_max,
            owed_bytes_max: bounds.owed_bytes_max,
            queued_events_max: bounds.queued_events_max,
            queued_bytes_max: bounds.queued_bytes_max,
            dead_letters_max: bounds.dead_letters_max,
            dedup_keys_max: bounds.dedup_keys_max,
            publish_rate: bounds.publish_rate.map(RateLimitJson::of),
            in_flight_max: bounds.in_flight_max,
            tests_per_minute: bounds.tests_per_minute,
            notice_listeners_max: bounds.notice_listeners_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::json::parse;

    #[test]
    fn limits_change_as_given_in_json_and_in_toml() {
        let text = r#"{"owed_events_max":7,"publish_rate":{"events":5,"per_ms":1000},"in_flight_max":null}"#;
        let before = AccountLimits::default().in_flight_max(Some(3)).tests_per_minute(Some(9));
        let mut changed = before;
        parse::<AccountLimitsJson>(text).unwrap().apply(&mut changed);
        let rate = Duration::from_secs(1);
        let given = AccountLimits::default().owed_events_max(Some(7)).publish_rate(5, rate);
        assert_eq!(changed, given.clone().tests_per_minute(Some(9)));
        let text = "owed_events_max = 7\npublish_rate = { events = 5, per_ms = 1000 }";
        assert_eq!(toml::from_str::<AccountLimitsJson>(text).unwrap().limits(), given);
        assert!(parse::<AccountLimitsJson>(r#"{"owed_events":7}"#).is_err(), "unknown members");
        let shown = serde_json::to_value(AccountLimitsJson::of(&given)).unwrap();
        assert_eq!(shown["owed_events_max"], 7);
        assert!(shown["subscriptions_max"].is_null() && shown.as_object().unwrap().len() == 9);
    }
}

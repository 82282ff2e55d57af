//! How much an account may take, and how much it uses. The configuration file and the routes share the members of
//! [`AccountLimitsJson`].

use serde::{Deserialize, Serialize};
use wabahook::{AccountBounds, AccountLimits, AccountUsage};

use super::subscription::policy::RateLimitJson;
use super::values::{Patch, Whole, patches};

macro_rules! limits {
    ($($limit:ident: $type:ty,)*) => {
        patches! {
            /// The limits of an account. A member that is left out stays unchanged, and null sets the default.
            pub(crate) struct AccountLimitsJson {
                $($limit: Whole<$type>,)*
                publish_rate: RateLimitJson,
            }
        }

        impl AccountLimitsJson {
            /// The limits that an account sets itself; the others are null.
            pub(crate) fn of(limits: &AccountLimits) -> AccountLimitsJson {
                AccountLimitsJson {
                    $($limit: limits.$limit.map(Whole).into(),)*
                    publish_rate: limits.publish_rate.map(RateLimitJson::of).into(),
                }
            }

            /// Changes the limits that are given.
            pub(crate) fn apply(mut self, to: &mut AccountLimits) {
                $(self.$limit.change(&mut to.$limit, None, |given| Some(given.0));)*
                self.publish_rate.change(&mut to.publish_rate, None, |rate| Some(rate.limit()));
            }
        }

        /// The limits in force for an account.
        #[derive(Serialize, Deserialize)]
        pub(crate) struct AccountBoundsJson {
            $($limit: $type,)*
            queued_events_max: u64,
            queued_bytes_max: u64,
            publish_rate: Option<RateLimitJson>,
        }

        impl AccountBoundsJson {
            fn of(bounds: &AccountBounds) -> AccountBoundsJson {
                AccountBoundsJson {
                    $($limit: bounds.$limit,)*
                    queued_events_max: bounds.queued_events_max,
                    queued_bytes_max: bounds.queued_bytes_max,
                    publish_rate: bounds.publish_rate.map(RateLimitJson::of),
                }
            }
        }
    };
}

limits! {
    subscriptions_max: usize,
    owed_events_max: u64,
    owed_bytes_max: u64,
    dead_letters_max: usize,
    dedup_keys_max: usize,
    in_flight_max: usize,
    tests_per_minute: u32,
    notice_listeners_max: usize,
}

impl AccountLimitsJson {
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

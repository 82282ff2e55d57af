//! The filter that selects subscriptions by the texts of their members: the query of a list, and the body of a change
//! of many. A text matches a part, in any case.

use serde::{Deserialize, Serialize};
use wabahook::{LaneStats, SubscriptionInfo};

use crate::json::problem::JsonProblem;
use crate::json::stats::health_word;
use crate::json::values::Whole;

/// Declares the texts to match.
macro_rules! texts {
    ($($name:ident),* $(,)?) => {
        /// Selects the subscriptions that match everything that is given.
        #[derive(Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct SubscriptionFilterJson {
            pub(crate) ids: Option<Vec<Whole<u32>>>,
            $(pub(crate) $name: Option<String>,)*
            /// Count only.
            pub(crate) dry_run: bool,
        }

        impl SubscriptionFilterJson {
            /// The names of the texts.
            pub(crate) const TEXTS: &[&str] = &[$(stringify!($name)),*];

            /// Reads the texts from a query.
            pub(crate) fn of_query(text: impl Fn(&str) -> Option<String>) -> SubscriptionFilterJson {
                SubscriptionFilterJson {
                    $($name: text(stringify!($name)),)*
                    ..SubscriptionFilterJson::default()
                }
            }

            fn is_empty(&self) -> bool {
                self.ids.is_none() $(&& self.$name.is_none())*
            }
        }
    };
}

// `search` matches the name, the description or the URL; `health` is the word of
// `health.status`, and `failing` matches `breaker_open`, too.
texts! { search, name, description, url, events, numbers, profile, state, health }

impl SubscriptionFilterJson {
    /// Refuses a change that names no subscription.
    pub(crate) fn checked(self) -> Result<SubscriptionFilterJson, JsonProblem> {
        match self.is_empty() {
            true => {
                let texts = SubscriptionFilterJson::TEXTS.join(", ");
                Err(JsonProblem::whole(format!("expected at least one of ids, {texts}")))
            }
            false => Ok(self),
        }
    }

    /// Whether a subscription matches.
    pub(crate) fn admits(&self, one: &SubscriptionInfo, lane: Option<&LaneStats>) -> bool {
        let fits = |part: &Option<String>, text: &str| {
            part.as_deref().is_none_or(|part| contains(text, part))
        };
        let description = one.description.as_deref().unwrap_or_default();
        let (url, filter) = (one.target.url().to_string(), &one.filter);
        self.ids.as_ref().is_none_or(|ids| ids.contains(&Whole(one.id.0)))
            && self.search.as_deref().is_none_or(|part| {
                [&one.name, description, &url].iter().any(|text| contains(text, part))
                    || one.id.to_string() == part
            })
            && fits(&self.name, &one.name)
            && fits(&self.description, description)
            && fits(&self.url, &url)
            && wants(&self.events, filter.events.as_ref(), contains)
            && wants(&self.numbers, filter.numbers.as_ref(), contains)
            && fits(&self.profile, one.profile.as_str())
            && fits(&self.state, one.state.as_str())
            && self.health.as_deref().is_none_or(|part| has_health(health_word(lane), part))
    }
}

/// Whether a health matches; an endpoint whose circuit breaker is open is failing, too.
fn has_health(word: &str, part: &str) -> bool {
    contains(word, part) || (word == "breaker_open" && contains("failing", part))
}

/// Whether a filter wants a name that contains the part; one that is left open wants all.
fn wants<T: ToString>(
    part: &Option<String>,
    set: Option<impl IntoIterator<Item = T>>,
    contains: impl Fn(&str, &str) -> bool,
) -> bool {
    let (Some(part), Some(set)) = (part, set) else { return true };
    set.into_iter().any(|name| contains(&name.to_string(), part))
}

/// Whether a text contains another one, in any case.
fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

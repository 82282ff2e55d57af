//! Dead letters: in a list, one with its event and attempts, and which of them to replay.

use serde::{Deserialize, Serialize};
use wabahook::{DeadLetter, DeadLetterFilter, DeadLetterId, FailedAttempt, Reason, SubscriptionId};

use super::ending::check_parts;
use super::problem::JsonProblem;
use super::values::{Millis, Text, TimestampJson, Whole};

/// A dead letter in lists.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeadLetterJson {
    pub(crate) id: String,
    pub(crate) event_id: String,
    pub(crate) subscription: u32,
    /// The name of the subscription, while it is registered.
    #[serde(default)]
    pub(crate) subscription_name: Option<String>,
    #[serde(default)]
    pub(crate) event_type: Option<String>,
    #[serde(default)]
    pub(crate) number: Option<String>,
    #[serde(default)]
    pub(crate) accepted_at: Option<TimestampJson>,
    pub(crate) reason: String,
    pub(crate) status: Option<u16>,
    pub(crate) attempts: u32,
    pub(crate) at: TimestampJson,
}

/// A dead letter with its event and its attempts.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeadLetterDetailJson {
    #[serde(flatten)]
    pub(crate) letter: DeadLetterJson,
    /// As published; null where it is not UTF-8.
    pub(crate) payload: Option<String>,
    pub(crate) history: Vec<FailedAttemptJson>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct FailedAttemptJson {
    pub(crate) number: u32,
    pub(crate) at: TimestampJson,
    pub(crate) took_ms: Millis,
    pub(crate) reason: String,
    pub(crate) status: Option<u16>,
    /// The first bytes of the response.
    pub(crate) excerpt: String,
}

/// Which dead letters to replay: those that fit all members given.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ReplayJson {
    pub(crate) ids: Option<Vec<Text<DeadLetterId>>>,
    pub(crate) subscription: Option<Whole<u32>>,
    pub(crate) reason: Option<String>,
    pub(crate) event_type: Option<String>,
    pub(crate) number: Option<String>,
    pub(crate) since: Option<TimestampJson>,
    pub(crate) until: Option<TimestampJson>,
    /// Count only.
    pub(crate) dry_run: bool,
}

const IDS_MAX: usize = 1_000;

impl ReplayJson {
    /// The ids, if any are named, and the filter that the dead letters must fit.
    pub(crate) fn filter(
        self,
        account: Option<&str>,
    ) -> Result<(Option<Vec<DeadLetterId>>, DeadLetterFilter), JsonProblem> {
        let ReplayJson { ids, subscription, reason, event_type, number, since, until, .. } = self;
        let texts = [&reason, &event_type, &number];
        let has_filter = subscription.is_some() || since.is_some() || until.is_some();
        if ids.is_none() && !has_filter && texts.iter().all(|text| text.is_none()) {
            let message = "expected at least one of ids, subscription, reason, event_type, number, \
                           since, until";
            return Err(JsonProblem::whole(message));
        }
        let found = ids.as_ref().map_or(0, Vec::len);
        if found > IDS_MAX {
            let problem = format!("found {found} ids; expected at most {IDS_MAX}");
            return Err(JsonProblem::at("ids", problem));
        }
        check_parts(reason.as_ref(), event_type.as_ref(), number.as_ref())?;
        let mut filter = DeadLetterFilter::default();
        filter.account = account.map(str::to_owned);
        filter.subscription = subscription.map(|id| SubscriptionId(id.0));
        filter.reason = reason;
        filter.event_type = event_type;
        filter.number = number;
        filter.since_ms = since.map(|since| since.0);
        filter.until_ms = until.map(|until| until.0);
        Ok((ids.map(|ids| ids.into_iter().map(|id| id.0).collect()), filter))
    }
}

impl DeadLetterJson {
    pub(crate) fn of(letter: &DeadLetter, subscription_name: Option<String>) -> DeadLetterJson {
        DeadLetterJson {
            id: letter.id().to_string(),
            event_id: letter.event.to_string(),
            subscription: letter.subscription.0,
            subscription_name,
            event_type: letter.event_type.as_ref().map(ToString::to_string),
            number: letter.number.map(|number| number.to_string()),
            accepted_at: letter.accepted_at_ms.map(TimestampJson),
            reason: letter.reason.to_string(),
            status: status_of(&letter.reason),
            attempts: letter.attempts,
            at: TimestampJson(letter.at_ms),
        }
    }
}

impl From<&FailedAttempt> for FailedAttemptJson {
    fn from(tried: &FailedAttempt) -> FailedAttemptJson {
        FailedAttemptJson {
            number: tried.number,
            at: TimestampJson(tried.at_ms),
            took_ms: Millis(tried.took),
            reason: tried.reason.to_string(),
            status: status_of(&tried.reason),
            excerpt: String::from_utf8_lossy(&tried.excerpt).into_owned(),
        }
    }
}

fn status_of(reason: &Reason) -> Option<u16> {
    match reason {
        Reason::Status(status) => Some(*status),
        _ => None,
    }
}

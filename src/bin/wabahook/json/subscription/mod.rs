//! A subscription: as it is given to register or change one, and as it is listed. The members that both
//! have are written once, in [`SubscriptionJson`]; a listing adds the state and the health and leaves
//! out what may be a credential (I9): the secret, and every value that is added to a request.

pub(super) mod filter;
pub(super) mod policy;
pub(super) mod target;

use axum::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use wabahook::policy::{Accept, Ordering, Policy, RetryOn};
use wabahook::{
    AccountInfo, BodyFormat, Catalogue, Condition, LaneStats, PayloadFormat, Secret, Subscription,
    SubscriptionId, SubscriptionInfo, Target, Tls,
};

use self::policy::{BreakerJson, RateLimitJson, RetryJson};
use self::target::{AuthorizationJson, TlsJson, TlsListing};
use super::delivery::RecentAttemptJson;
use super::problem::JsonProblem;
use super::stats::{HealthJson, held_state};
use super::values::{
    Millis, Object, OrNever, Pairs, Patch, Scalar, SetOrAll, TimestampJson, Whole, Word, patches,
};

patches! {
    /// The settings of a subscription, as a request gives them. To register one, a member that is left
    /// out is at its default; to change one, it stays as it is. `null` is the default in both.
    pub(crate) struct SubscriptionJson {
        name: String,
        description: String,
        url: String,
        events: SetOrAll,
        numbers: SetOrAll,
        condition: Box<RawValue>,
        secret: String,
        method: Word<Method>,
        headers: Pairs<String>,
        query: Pairs<Scalar>,
        body: Pairs<Box<RawValue>>,
        authorization: Object<AuthorizationJson>,
        body_format: Word<BodyFormat>,
        payload: Word<PayloadFormat>,
        tls: Object<TlsJson>,
        retry: Object<RetryJson>,
        retry_on_timeout: bool,
        timeout_ms: Millis,
        accept: Word<Accept>,
        retry_on: Word<RetryOn>,
        honor_delivery_control: bool,
        ordering: Word<Ordering>,
        rate_limit: Object<RateLimitJson>,
        after: Whole<u32>,
        breaker: OrNever<BreakerJson>,
        disable_after_ms: OrNever<Millis>,
        retrying_max: Whole<u32>,
    }
}

/// A subscription in responses.
#[derive(Serialize, Deserialize)]
pub(crate) struct SubscriptionListing {
    pub(crate) id: u32,
    #[serde(default)]
    pub(crate) account: String,
    /// The name of the account, for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_name: Option<String>,
    /// The state of the account where it is not active, for the operator. Then nothing is delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_state: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_state_since: Option<TimestampJson>,
    pub(crate) profile: String,
    pub(crate) state: String,
    /// Why it is disabled, as the notice of it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) created_at: TimestampJson,
    /// Whether it has a secret.
    pub(crate) signed: bool,
    pub(crate) header_names: Vec<String>,
    pub(crate) query_names: Vec<String>,
    pub(crate) body_names: Vec<String>,
    pub(crate) tls: Option<TlsListing>,
    pub(crate) health: HealthJson,
    /// The condition on the payload, as it was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) condition: Option<Box<RawValue>>,
    /// Hints about its event types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<String>,
    /// Its newest attempts, where they are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) attempts: Vec<RecentAttemptJson>,
    #[serde(flatten)]
    pub(crate) settings: SubscriptionJson,
}

/// A page of the subscriptions that match, and how many match on all pages.
#[derive(Serialize, Deserialize)]
pub(crate) struct SubscriptionsJson {
    pub(crate) items: Vec<SubscriptionListing>,
    #[serde(default)]
    pub(crate) cursor: Option<String>,
    #[serde(default)]
    pub(crate) total: u64,
}

impl SubscriptionJson {
    /// The subscription that a request registers.
    pub(crate) fn registered(self, account: &str) -> Result<Subscription, JsonProblem> {
        Ok(self.read(None)?.account(account))
    }

    /// The subscription that a request changes `before` into.
    pub(crate) fn changed(self, before: &SubscriptionInfo) -> Result<Subscription, JsonProblem> {
        let subscription = self.read(Some(before))?.account(&before.account);
        Ok(subscription.profile(before.profile).precedence(before.precedence))
    }

    fn read(mut self, before: Option<&SubscriptionInfo>) -> Result<Subscription, JsonProblem> {
        let policy = self.policy(before.map(|before| before.policy.clone()).unwrap_or_default())?;
        let name = self.name.required("name", before.map(|before| before.name.clone()))?;
        if name.is_empty() {
            return Err(JsonProblem::at("name", "found an empty string; expected a name"));
        }
        let description = before.map(|before| before.description.clone());
        let description = self.description.or_kept(description, Some);
        let url = before.map(|before| before.target.url().to_string());
        let url = self.url.required("url", url)?;
        let filter = before.map(|before| &before.filter);
        let events = filter.map(|filter| SetOrAll::of(filter.events.as_ref()));
        let events = self.events.required("events", events)?;
        let numbers = filter.map(|filter| SetOrAll::of(filter.numbers.as_ref()));
        let numbers = self.numbers.required("numbers", numbers)?;
        let condition = match std::mem::take(&mut self.condition) {
            Patch::Absent => before.and_then(|before| before.filter.condition.clone()),
            Patch::Null => None,
            Patch::Value(text) => Some(Condition::parse(text.get())?),
        };
        let secret = before.map(|before| before.secret.clone());
        let secret = self.secret.or_kept(secret, |text| Some(Secret::new(text)));
        let mut subscription = Subscription::to(url)?.name(name).policy(policy);
        subscription = events.into_set().into_iter().fold(subscription, Subscription::events);
        subscription = numbers.into_set().into_iter().fold(subscription, Subscription::numbers);
        subscription = condition.into_iter().fold(subscription, Subscription::condition);
        subscription = description.into_iter().fold(subscription, Subscription::description);
        subscription = secret.into_iter().fold(subscription, Subscription::secret);
        self.target(before.map(|before| &before.target), subscription)
    }

    /// The settings as a listing shows them.
    fn of(registered: &SubscriptionInfo) -> SubscriptionJson {
        SubscriptionJson {
            name: Patch::Value(registered.name.clone()),
            description: Patch::from(registered.description.clone()),
            url: Patch::Value(registered.target.url().to_string()),
            events: Patch::Value(SetOrAll::of(registered.filter.events.as_ref())),
            numbers: Patch::Value(SetOrAll::of(registered.filter.numbers.as_ref())),
            ..SubscriptionJson::default()
        }
        .with_policy(&registered.policy)
        .with_target(&registered.target)
    }
}

/// The members of the policy.
impl SubscriptionJson {
    /// Takes the members of the policy out and changes `policy` by them.
    pub(super) fn policy(&mut self, mut policy: Policy) -> Result<Policy, JsonProblem> {
        let (to, default) = (&mut policy, Policy::default());
        match std::mem::take(&mut self.retry) {
            Patch::Absent => {}
            Patch::Null => RetryJson::reset(to),
            Patch::Value(Object(retry)) => retry.apply(to)?,
        }
        self.retry_on_timeout.change(&mut to.retry_on_timeout, default.retry_on_timeout, |on| on);
        self.timeout_ms.change(&mut to.timeout, default.timeout, |ms| ms.0);
        self.accept.change(&mut to.accept, default.accept, |word| word.0);
        self.retry_on.change(&mut to.retry_on, default.retry_on, |word| word.0);
        let honored = &mut to.honor_delivery_control;
        self.honor_delivery_control.change(honored, default.honor_delivery_control, |on| on);
        self.ordering.change(&mut to.ordering, default.ordering, |word| word.0);
        let rate_limit = &mut to.rate_limit;
        self.rate_limit.change(rate_limit, default.rate_limit, |limit| Some(limit.0.limit()));
        self.after.change(&mut to.after, default.after, |id| Some(SubscriptionId(id.0)));
        self.breaker.change(&mut to.breaker, default.breaker, BreakerJson::breaker);
        let disable_after = &mut to.disable_after;
        self.disable_after_ms
            .change(disable_after, default.disable_after, |span| span.0.map(|ms| ms.0));
        self.retrying_max.change(&mut to.retrying_max, default.retrying_max, |count| count.0);
        Ok(policy)
    }

    /// With the members that show a policy.
    pub(super) fn with_policy(self, policy: &Policy) -> SubscriptionJson {
        let rate_limit = policy.rate_limit.map(|limit| Object(RateLimitJson::of(limit)));
        SubscriptionJson {
            retry: Patch::Value(Object(RetryJson::of(policy))),
            retry_on_timeout: Patch::Value(policy.retry_on_timeout),
            timeout_ms: Patch::Value(Millis(policy.timeout)),
            accept: Patch::Value(Word(policy.accept)),
            retry_on: Patch::Value(Word(policy.retry_on)),
            honor_delivery_control: Patch::Value(policy.honor_delivery_control),
            ordering: Patch::Value(Word(policy.ordering)),
            rate_limit: Patch::from(rate_limit),
            after: Patch::from(policy.after.map(|main| Whole(main.0))),
            breaker: Patch::Value(BreakerJson::of(policy.breaker)),
            disable_after_ms: Patch::Value(OrNever(policy.disable_after.map(Millis))),
            retrying_max: Patch::Value(Whole(policy.retrying_max)),
            ..self
        }
    }
}

/// The members of the target.
impl SubscriptionJson {
    /// Adds the members of the target to a subscription, or those of `kept` that are left out.
    fn target(
        mut self,
        kept: Option<&Target>,
        mut subscription: Subscription,
    ) -> Result<Subscription, JsonProblem> {
        let method = kept.map(|kept| Some(kept.method().clone()));
        let method = self.method.or_kept(method, |word| Some(word.0));
        let headers =
            self.headers.or_kept(kept.map(|kept| kept.headers().to_vec()), |pairs| pairs.0);
        let query = self.query.or_kept(kept.map(|kept| kept.query().to_vec()), |pairs| {
            pairs.0.into_iter().map(|(name, value)| (name, value.0)).collect()
        });
        let body = self.body.or_kept(kept.map(|kept| kept.body().to_vec()), |pairs| {
            pairs.0.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect()
        });
        let authorization = kept.map(|kept| Ok(kept.authorization().cloned()));
        let authorization = match self.authorization {
            Patch::Absent => authorization.unwrap_or(Ok(None)),
            Patch::Null => Ok(None),
            Patch::Value(given) => given.0.authorization().map(Some),
        };
        let body_format = kept.map(|kept| Some(kept.body_format()));
        let body_format = self.body_format.or_kept(body_format, |word| Some(word.0));
        let payload = kept.map(|kept| Some(kept.payload()));
        let payload = self.payload.or_kept(payload, |word| Some(word.0));
        let tls = match self.tls {
            Patch::Absent => kept.and_then(|kept| kept.tls().cloned()),
            Patch::Null => None,
            Patch::Value(given) => Some(given.0.tls()?).filter(|tls| *tls != Tls::default()),
        };
        for (name, value) in headers {
            subscription = subscription.header(name, value);
        }
        for (name, value) in query {
            subscription = subscription.query(name, value);
        }
        for (name, value) in body {
            subscription = subscription.body(name, value);
        }
        subscription = method.into_iter().fold(subscription, Subscription::method);
        subscription = authorization?.into_iter().fold(subscription, Subscription::authorization);
        subscription = body_format.into_iter().fold(subscription, Subscription::body_format);
        subscription = payload.into_iter().fold(subscription, Subscription::payload);
        Ok(tls.into_iter().fold(subscription, Subscription::tls))
    }

    /// With the members of a target that hold no value.
    pub(super) fn with_target(self, target: &Target) -> SubscriptionJson {
        let authorization = target.authorization().map(|one| Object(AuthorizationJson::of(one)));
        SubscriptionJson {
            method: Patch::Value(Word(target.method().clone())),
            authorization: Patch::from(authorization),
            body_format: Patch::Value(Word(target.body_format())),
            payload: Patch::Value(Word(target.payload())),
            ..self
        }
    }
}

/// The most remarks in one answer.
const HINTS_MAX: usize = 100;

/// A shorter secret is remarked on.
const SHORT_SECRET_BYTES: usize = 16;
const SHORT_SECRET: &str = "secret: so short a text can be guessed; 24 bytes or more are advised";

fn condition_text(registered: &SubscriptionInfo) -> Option<Box<RawValue>> {
    let condition = registered.filter.condition.as_ref()?;
    RawValue::from_string(condition.to_string()).ok()
}

impl SubscriptionListing {
    pub(crate) fn of(
        registered: &SubscriptionInfo,
        lane: Option<&LaneStats>,
    ) -> SubscriptionListing {
        let names =
            |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect();
        let target = &registered.target;
        SubscriptionListing {
            id: registered.id.0,
            account: registered.account.clone(),
            account_name: None,
            account_state: None,
            account_state_since: None,
            profile: registered.profile.as_str().to_owned(),
            state: registered.state.as_str().to_owned(),
            reason: registered.disabled_reason.clone(),
            created_at: TimestampJson(registered.created_at_ms),
            signed: registered.secret.is_some(),
            header_names: names(target.headers()),
            query_names: names(target.query()),
            body_names: names(target.body()),
            tls: target.tls().map(TlsListing::of),
            health: HealthJson::of(lane),
            condition: condition_text(registered),
            hints: Vec::new(),
            attempts: Vec::new(),
            settings: SubscriptionJson::of(registered),
        }
    }

    /// With remarks on its secret and the event types of its filter.
    pub(crate) fn with_hints(
        mut self,
        registered: &SubscriptionInfo,
        catalogue: &Catalogue,
    ) -> SubscriptionListing {
        let kinds = registered.filter.events.iter().flatten();
        let hints = kinds.filter_map(|kind| catalogue.subscribe_hint(kind.as_str()));
        let is_short = |secret: &&Secret| secret.reveal_text().len() < SHORT_SECRET_BYTES;
        let short = registered.secret.as_ref().filter(is_short).map(|_| SHORT_SECRET.to_owned());
        let hints = short.into_iter().chain(hints.map(|hint| hint.to_string()));
        self.hints = hints.take(HINTS_MAX).collect();
        self
    }

    /// With the name and the state of its account, for the operator.
    pub(crate) fn of_account(self, account: Option<&AccountInfo>) -> SubscriptionListing {
        let account_state = account.and_then(held_state);
        let since = account.filter(|_| account_state.is_some());
        SubscriptionListing {
            account_name: account.map(|account| account.name.clone()),
            account_state,
            account_state_since: since.map(|account| TimestampJson(account.state_since_ms)),
            ..self
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.settings.name.as_ref().map_or("", String::as_str)
    }
}

/// The new secret, where one is given, and for how long the old one stays valid.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotationJson {
    pub(crate) secret: Option<String>,
    pub(crate) overlap_ms: Whole<u64>,
}

/// The only answer that holds a secret.
#[derive(Serialize, Deserialize)]
pub(crate) struct NewSecretJson {
    pub(crate) id: u32,
    pub(crate) secret: String,
}

//! One request to 360dialog's API, the rules for its URLs, and the policy of its webhooks.

use std::time::Duration;

use http::Uri;

use super::key::Dialog360Key;
use super::key_webhooks::KeyWebhooks;
use super::options::Dialog360;
use crate::engine::SubscriptionChange;
use crate::profile::Profile;
use crate::registration::gateway_http::GatewayRequest;
use crate::registration::webhook_config::{ConfigError, WebhookConfigReader};
use crate::subscription::{Accept, Policy, RetryOn, Subscription, Target};

/// One request with the key that it shows.
pub(super) struct Dialog360Request<'a> {
    pub(super) http: &'a GatewayRequest<'a>,
    pub(super) key: Dialog360Key<'a>,
    pub(super) options: &'a Dialog360,
}

impl Dialog360Request<'_> {
    pub(super) fn reader(&self) -> WebhookConfigReader<'_> {
        WebhookConfigReader { engine: self.http.engine, account: self.key.account, check_url }
    }

    /// Applies the changes that are decided from the present webhooks.
    pub(super) fn change(
        &self,
        decide: impl FnOnce(&KeyWebhooks<'_>) -> Result<Vec<SubscriptionChange>, ConfigError>,
    ) -> Result<(), ConfigError> {
        let decided = self.http.engine.change(self.key.account.id(), |account_snapshot| {
            Ok::<_, ConfigError>((decide(&KeyWebhooks::of(account_snapshot))?, ()))
        });
        decided.map(drop)
    }
}

/// Where the host's configuration allows `http://`, it does so on any port.
fn check_url(url: &Uri) -> Result<(), &'static str> {
    if url.host().is_some_and(|host| host.contains('_')) {
        return Err("a host name without an underscore");
    }
    if url.port().is_some() && url.scheme_str() == Some("https") {
        return Err("an https:// URL without a port");
    }
    Ok(())
}

/// A new webhook of this name.
pub(super) fn fresh(name: String) -> impl FnOnce(Target) -> Subscription {
    |target| {
        let fresh = Subscription::to_target(target).name(name);
        fresh.profile(Profile::Dialog360).policy(policy())
    }
}

/// Only 200 within 5 s is success; anything else is retried for 7 days. The schedule is documented only as
/// `exponential`, so the default one applies. A subscription is never disabled for failing, because the
/// events of its number would then silently go to the WABA's webhook.
fn policy() -> Policy {
    Policy {
        age_max: Duration::from_millis(7 * 24 * 3_600_000),
        timeout: Duration::from_millis(5_000),
        accept: Accept::Only200,
        retry_on: RetryOn::All,
        disable_after: None,
        honor_delivery_control: false,
        ..Policy::default()
    }
}

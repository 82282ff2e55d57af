//! Decides what 360dialog answers, on which terms its webhooks are served, and what of it a host can
//! configure.
//!
//! Leaves to others: what a key stands for (`key`), how its webhooks stand to each other (`hooks`),
//! each route (`levels`, `destinations`), keeping the webhooks (`engine`) and what their requests look
//! like (`delivery::request`). Invariant (I9): an account sees and changes its own webhooks of this
//! gateway alone.

mod destinations;
mod hooks;
mod key;
mod levels;
#[cfg(test)]
mod tests;

use http::{Response, StatusCode, Uri};

use self::key::Key;
use super::call::Call;
use super::hook::{self, Answer, Reader, Refusal};
use crate::error::{Error, Result};
use crate::subscription::{Accept, Policy, Profile, Retried, Subscription, Target};

/// The header that shows the key.
pub(super) const KEY: &str = "d360-api-key";

/// What is configurable of 360dialog's API.
///
/// ```
/// use wabahook::registration::{Dialog360, Registration};
/// use wabahook::{Config, Engine};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// let options = Dialog360 { destinations_max: 5, ..Dialog360::default() };
/// let registration = Registration::new(engine.clone()).dialog360(options)?;
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog360 {
    /// How many further destinations a key may have beside its main webhook, 0 to 16. Defaults to 3,
    /// as 360dialog documents it. Those that are there already stay when it is lowered.
    pub destinations_max: usize,
    /// Whether a further destination gets an event only when the main webhook has answered it with
    /// 200. Defaults to true, as 360dialog does it; with false one failing main webhook holds up no
    /// other. Holds for what is set from then on.
    pub destinations_wait: bool,
}

impl Default for Dialog360 {
    fn default() -> Dialog360 {
        Dialog360 { destinations_max: 3, destinations_wait: true }
    }
}

/// So many subscriptions may wait for one.
const DESTINATIONS_MAX: usize = 16;

impl Dialog360 {
    /// Refuses a bound that the engine could not keep.
    ///
    /// # Errors
    /// [`Error::Invalid`] names it.
    pub fn check(&self) -> Result<()> {
        let given = self.destinations_max;
        if given > DESTINATIONS_MAX {
            let expected = format!("0 to {DESTINATIONS_MAX} destinations");
            return Err(Error::invalid("dialog360.destinations_max", given, expected));
        }
        Ok(())
    }
}

/// Whether a path belongs to this gateway, beside the one it shares with another.
pub(super) fn serves(path: &str) -> bool {
    path == "/waba_webhook" || path == "/multi_webhook" || path.starts_with("/multi_webhook/")
}

/// The answer to a call of this gateway.
pub(super) fn answer(call: &Call<'_>, options: &Dialog360) -> Response<Vec<u8>> {
    hook::response(answered(call, options))
}

fn answered(call: &Call<'_>, options: &Dialog360) -> Answer {
    let account = call.account(KEY).ok_or_else(|| Refusal::unknown_key(KEY))?;
    let key = Key::new(call.engine.accounts(), account);
    let asked = Asked { call, key, options };
    match call.path {
        "/v1/configs/webhook" => levels::number(&asked),
        "/waba_webhook" => levels::waba(&asked),
        "/multi_webhook" => destinations::all(&asked),
        path => match path.strip_prefix("/multi_webhook/") {
            Some(name) if !name.is_empty() && !name.contains('/') => {
                destinations::one(&asked, name)
            }
            _ => Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no route {path}"))),
        },
    }
}

/// One call, with the key that it shows.
struct Asked<'a> {
    call: &'a Call<'a>,
    key: Key<'a>,
    options: &'a Dialog360,
}

impl Asked<'_> {
    fn reader(&self) -> Reader<'_> {
        Reader { engine: self.call.engine, account: self.key.account, check_url }
    }
}

/// `http://` is another matter: where the host's configuration admits it, it does so on any port.
fn check_url(url: &Uri) -> std::result::Result<(), &'static str> {
    if url.host().is_some_and(|host| host.contains('_')) {
        return Err("a host name without an underscore");
    }
    if url.port().is_some() && url.scheme_str() == Some("https") {
        return Err("an https:// URL without a port");
    }
    Ok(())
}

/// A webhook that was not there before.
fn fresh(name: String) -> impl FnOnce(Target) -> Subscription {
    |target| {
        let fresh = Subscription::to_target(target).name(name);
        fresh.profile(Profile::Dialog360).policy(policy())
    }
}

/// Success is 200 within 5 s and nothing else; whatever is no success is tried again for 7 days. How
/// far apart is not documented beyond `exponential`: as elsewhere. A subscription is never disabled
/// for failing: its number would go to the WABA's webhook without a word.
fn policy() -> Policy {
    Policy {
        age_max_ms: 7 * 24 * 3_600_000,
        timeout_ms: 5_000,
        accept: Accept::Only200,
        retried: Retried::All,
        disable_after_ms: None,
        obeys_receiver: false,
        ..Policy::default()
    }
}

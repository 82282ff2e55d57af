//! Reads the configuration again while the host serves: accounts, their limits, keys, Meta's secrets and the TLS
//! certificate. All of it is checked before anything changes, so a bad file changes nothing. The answer names what
//! only a restart can change.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use wabahook::KeyDigest;

use crate::config::{self, HostSettings, ServeArgs};
use crate::host::HostState;
use crate::json::{AccountChangesJson, ReloadedJson};
use crate::port::tls::ServerTls;

/// Where the settings come from, and which of them are in force.
pub(crate) struct Reloader {
    args: ServeArgs,
    tls: Option<Arc<ServerTls>>,
    /// The settings that need a restart, as they were at the start.
    fixed: BTreeMap<String, KeyDigest>,
    /// One reload at a time.
    running: Mutex<()>,
}

impl Reloader {
    pub(crate) fn new(
        args: ServeArgs,
        settings: &HostSettings,
        tls: Option<Arc<ServerTls>>,
    ) -> Reloader {
        Reloader { args, tls, fixed: settings.fixed.clone(), running: Mutex::new(()) }
    }

    /// Reads the file and puts it in force. Blocks on a few syncs.
    ///
    /// # Errors
    /// What is wrong with the file; nothing has changed then.
    pub(crate) fn reload(&self, host: &HostState) -> Result<ReloadedJson, String> {
        let _running = self.running.lock();
        let settings = config::load(&self.args, &config::process_environment);
        let settings = settings.map_err(|error| error.message().to_owned())?;
        let named = |problem: &dyn std::fmt::Display| {
            format!("{}: {problem}", config::shown(&self.args.config))
        };
        let accounts = settings.accounts.clone();
        host.engine.check_accounts(accounts).map_err(|error| named(&error))?;
        settings.account_limits.check("limits.per_account").map_err(|error| named(&error))?;
        if let Some(tls) = &self.tls {
            tls.reload().map_err(|error| named(&error))?;
        }
        let needs_restart = changed(&self.fixed, &settings.fixed);
        let limits = host.engine.set_account_limits(settings.account_limits);
        limits.map_err(|error| named(&error))?;
        let accounts = host.engine.declare_accounts(settings.accounts);
        let accounts = accounts.map_err(|error| named(&error))?;
        host.set_secrets(settings.operators, settings.meta);
        let accounts = AccountChangesJson::from(accounts);
        tracing::warn!(?needs_restart, "the configuration was read again: {accounts}");
        Ok(ReloadedJson { accounts, needs_restart })
    }
}

/// The settings that differ.
pub(crate) fn changed(
    before: &BTreeMap<String, KeyDigest>,
    after: &BTreeMap<String, KeyDigest>,
) -> Vec<String> {
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let differs = |(name, value): &(&String, &KeyDigest)| before.get(*name) != Some(*value);
    let mut all: Vec<_> = after.iter().filter(differs).map(|(name, _)| name).chain(gone).collect();
    all.sort_unstable();
    all.into_iter().cloned().collect()
}

//! Reads the configuration again while the host serves: accounts, their limits, keys, Meta's secrets and the TLS
//! certificate. All of it is checked before anything changes, so a bad file changes nothing. The answer names what
//! only a restart can change.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use wabahook::{
    Account, AccountChanges, AccountInfo, AccountLimits, Engine, Error, Fleet, KeyDigest,
    ShardPlace,
};

use crate::audit::changes_between;
use crate::config::{self, HostSettings, ServeArgs};
use crate::host::shared::{HostShared, Reloaded};
use crate::json::{AccountChangesJson, AccountListing, AuditChangeJson, ReloadedJson};
use crate::port::tls::ServerTls;

/// The engines whose accounts a reload changes.
pub(crate) enum ReloadedEngines {
    One(Engine),
    /// Those of all shards of this host. The accounts are declared where the first shard is.
    Fleet(Arc<OnceLock<Fleet>>),
}

impl ReloadedEngines {
    /// The engine that declares the accounts, where this host has it.
    fn directory(&self) -> Option<Engine> {
        match self {
            ReloadedEngines::One(engine) => Some(engine.clone()),
            ReloadedEngines::Fleet(fleet) => {
                fleet.get().and_then(|fleet| match fleet.place_of(fleet.directory_shard()) {
                    ShardPlace::Here(engine) => Some(engine),
                    _ => None,
                })
            }
        }
    }

    fn check(&self, accounts: Vec<Account>) -> Result<(), Error> {
        self.directory().map_or(Ok(()), |engine| engine.check_accounts(accounts).map(drop))
    }

    /// All accounts, by id.
    fn accounts(&self) -> BTreeMap<String, Arc<AccountInfo>> {
        let all = self.directory().map(|engine| engine.accounts().list()).unwrap_or_default();
        all.into_iter().map(|one| (one.id().to_owned(), one)).collect()
    }

    /// What differs among the accounts now, for the audit log.
    fn changes_since(&self, before: &BTreeMap<String, Arc<AccountInfo>>) -> Vec<AuditChangeJson> {
        let directory = self.directory();
        let shown = |one: Option<&Arc<AccountInfo>>| {
            let shown = one
                .zip(directory.as_ref())
                .map(|(one, engine)| AccountListing::audited(one, &engine.account_usage(one.id())));
            shown.unwrap_or_default()
        };
        changes_between(before, &self.accounts(), |id, before, after| {
            Some(AuditChangeJson::of_account(id, shown(before), shown(after)))
        })
    }

    fn declare(
        &self,
        accounts: Vec<Account>,
        limits: AccountLimits,
    ) -> Result<AccountChanges, Error> {
        match self {
            ReloadedEngines::One(engine) => {
                engine.set_account_limits(limits)?;
                engine.declare_accounts(accounts)
            }
            ReloadedEngines::Fleet(fleet) => {
                let declared = fleet.get().map(|fleet| fleet.declare_accounts(accounts, limits));
                Ok(declared.transpose()?.flatten().unwrap_or_default())
            }
        }
    }
}

/// Where the settings come from, and which of them are in force.
pub(crate) struct Reloader {
    args: ServeArgs,
    engines: ReloadedEngines,
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
        engines: ReloadedEngines,
    ) -> Reloader {
        Reloader { args, engines, tls, fixed: settings.fixed.clone(), running: Mutex::new(()) }
    }

    /// Reads the file and puts it in force. Blocks on a few syncs.
    ///
    /// # Errors
    /// What is wrong with the file; nothing has changed then.
    pub(crate) fn reload(&self, host: &HostShared) -> Reloaded {
        let _running = self.running.lock();
        let settings =
            config::load(&self.args.files, self.args.listen.as_ref(), &config::process_environment);
        let settings = settings.map_err(|error| error.message().to_owned())?;
        let named = |problem: &dyn std::fmt::Display| {
            format!("{}: {problem}", config::shown(&self.args.files.config))
        };
        let accounts = settings.accounts.clone();
        self.engines.check(accounts).map_err(|error| named(&error))?;
        settings.account_limits.check("limits.per_account").map_err(|error| named(&error))?;
        if let Some(tls) = &self.tls {
            tls.reload().map_err(|error| named(&error))?;
        }
        let needs_restart = changed(&self.fixed, &settings.fixed);
        let before = self.engines.accounts();
        let accounts = self.engines.declare(settings.accounts, settings.account_limits);
        let accounts = accounts.map_err(|error| named(&error))?;
        host.set_secrets(settings.operators, settings.meta);
        let accounts = AccountChangesJson::from(accounts);
        tracing::warn!(?needs_restart, "the configuration was read again: {accounts}");
        accounts.warnings().for_each(|warning| tracing::warn!("{warning}"));
        Ok((ReloadedJson { accounts, needs_restart }, self.engines.changes_since(&before)))
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

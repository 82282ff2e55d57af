//! The section `[store]` of the configuration file.

use std::time::Duration;

use serde::Deserialize;
use wabahook::Roots;
use wabahook::store::PostgresOptions;

use super::{Environment, SecretText, secret};

/// How many shards a store gets when it is made for a cluster.
const SHARDS: u16 = 16;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StoreTable {
    kind: Option<StoreKindWord>,
    url: Option<SecretText>,
    url_env: Option<String>,
    replicas: Option<u32>,
    shards: Option<u16>,
    lease_ttl_ms: Option<u64>,
    /// The name by which other hosts know this one.
    host_name: Option<String>,
}

/// Where events and subscriptions are stored.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum StoreKindWord {
    Sled,
    Postgres,
}

impl StoreTable {
    /// Whether the configuration file itself has the server's password.
    pub(super) fn has_plain_secret(&self) -> bool {
        self.url
            .as_ref()
            .is_some_and(|SecretText(url)| url.contains("password") || url.contains('@'))
    }

    /// How many shards the store has. Several need a cluster, which knows where each of them is.
    pub(super) fn shards(&self, has_cluster: bool) -> Result<u16, String> {
        match (self.shards, has_cluster) {
            (Some(given @ (0 | 257..)), _) => {
                Err(format!("store.shards: {given} given, expected 1 to 256"))
            }
            (Some(given @ 2..), false) => {
                Err(format!("store.shards: {given} given; several need [cluster]"))
            }
            (given, true) => Ok(given.unwrap_or(SHARDS)),
            (_, false) => Ok(1),
        }
    }

    /// How to reach the server; `None` for the data directory.
    pub(super) fn read(
        &self,
        roots: &Roots,
        has_cluster: bool,
        environment: Environment<'_>,
    ) -> Result<Option<PostgresOptions>, String> {
        if self.kind != Some(StoreKindWord::Postgres) {
            return self.check_unused().map(|()| None);
        }
        self.check_values(has_cluster)?;
        let url = secret("store.url", self.url.as_ref(), self.url_env.as_ref(), environment)?;
        let options = PostgresOptions::new(&url).map_err(|error| format!("store.url: {error}"))?;
        let name = self.host_name.clone().unwrap_or_else(machine_name);
        let options = options.name(name).replicas(self.replicas.unwrap_or(1));
        options.check().map_err(|error| format!("store.{error}"))?;
        let options = match self.lease_ttl_ms {
            Some(ms) => options.lease_ttl(Duration::from_millis(ms)),
            None => options,
        };
        Ok(Some(match roots {
            Roots::Given(pem) => options.roots_pem(pem.as_bytes()),
            _ => options,
        }))
    }
}

impl StoreTable {
    /// Refuses settings of a server where no server is used.
    fn check_unused(&self) -> Result<(), String> {
        let given = [
            ("url", self.url.is_some()),
            ("url_env", self.url_env.is_some()),
            ("replicas", self.replicas.is_some()),
            ("shards", self.shards.is_some()),
            ("lease_ttl_ms", self.lease_ttl_ms.is_some()),
            ("host_name", self.host_name.is_some()),
        ];
        let Some((name, _)) = given.into_iter().find(|(_, is_given)| *is_given) else {
            return Ok(());
        };
        let kind = if self.kind.is_none() { "missing" } else { "\"sled\" given" };
        Err(format!("store.kind: {kind}, expected \"postgres\" because store.{name} is given"))
    }

    fn check_values(&self, has_cluster: bool) -> Result<(), String> {
        match (self.lease_ttl_ms, self.host_name.as_deref()) {
            (Some(ms), _) if !(1_000..=600_000).contains(&ms) => {
                Err(format!("store.lease_ttl_ms: {ms} given, expected 1000 to 600000"))
            }
            (_, Some(name)) if has_cluster => Err(format!(
                "store.host_name: {name:?} given, but with [cluster] the name of a host is cluster.name"
            )),
            (_, Some(name)) => check_name("store.host_name", name),
            _ => Ok(()),
        }
    }
}

/// Refuses a name that could not be told from another one in a log.
pub(super) fn check_name(field: &str, name: &str) -> Result<(), String> {
    match name.trim().is_empty() || name.chars().any(char::is_control) {
        true => Err(format!("{field}: {name:?} given, expected a text without line ends")),
        false => Ok(()),
    }
}

pub(super) fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "host".to_owned(),
        name => name.to_owned(),
    }
}

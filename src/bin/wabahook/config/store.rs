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
    kind: StoreKindWord,
    url: Option<SecretText>,
    url_env: Option<String>,
    replicas: Option<u32>,
    shards: Option<u16>,
    lease_ttl_ms: Option<u64>,
    /// The name by which other hosts know this one.
    host_name: Option<String>,
}

/// Where events and subscriptions are stored.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum StoreKindWord {
    #[default]
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
            (Some(0 | 257..), _) => Err("store.shards: expected 1 to 256".to_owned()),
            (Some(2..), false) => {
                Err("store.shards: several are given; they need [cluster]".to_owned())
            }
            (given, true) => Ok(given.unwrap_or(SHARDS)),
            (_, false) => Ok(1),
        }
    }

    /// How to reach the server; `None` for the data directory.
    pub(super) fn read(
        &self,
        roots: &Roots,
        environment: Environment<'_>,
    ) -> Result<Option<PostgresOptions>, String> {
        if self.kind == StoreKindWord::Sled {
            let is_plain = self.url.is_none() && self.url_env.is_none() && self.replicas.is_none();
            return match is_plain {
                true => Ok(None),
                false => Err("store: a url or replicas without kind = \"postgres\"".to_owned()),
            };
        }
        let url = secret("store.url", self.url.as_ref(), self.url_env.as_ref(), environment)?;
        let options = PostgresOptions::new(&url).map_err(|error| format!("store.url: {error}"))?;
        let name = self.host_name.clone().unwrap_or_else(machine_name);
        let options = options.name(name).replicas(self.replicas.unwrap_or(1));
        let options = match self.lease_ttl_ms {
            Some(ms) if !(1_000..=600_000).contains(&ms) => {
                return Err(format!("store.lease_ttl_ms: {ms} given, expected 1000 to 600000"));
            }
            Some(ms) => options.lease_ttl(Duration::from_millis(ms)),
            None => options,
        };
        Ok(Some(match roots {
            Roots::Given(pem) => options.roots_pem(pem.as_bytes()),
            _ => options,
        }))
    }
}

pub(super) fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "host".to_owned(),
        name => name.to_owned(),
    }
}

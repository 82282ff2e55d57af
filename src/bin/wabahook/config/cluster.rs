//! The section `[cluster]` of the configuration file: what this host is called among those that serve the store together,
//! and where they reach it.

use axum::http::Uri;
use serde::Deserialize;
use wabahook::store::PostgresOptions;
use wabahook::{FleetOptions, Secret};

use super::store::machine_name;
use super::{Environment, SecretText, secret};

/// The fewest characters of the key, which protects what hosts tell each other.
const KEY_LENGTH_MIN: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterTable {
    name: Option<String>,
    address: String,
    key: Option<SecretText>,
    key_env: Option<String>,
}

/// How this host takes part in a cluster.
#[derive(Clone)]
pub(crate) struct ClusterSettings {
    pub(crate) fleet: FleetOptions,
    /// Authenticates what hosts send each other.
    pub(crate) key: Secret,
}

impl ClusterTable {
    pub(super) fn has_plain_secret(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn read(
        &self,
        store: Option<&PostgresOptions>,
        (shards, has_tls): (u16, bool),
        environment: Environment<'_>,
    ) -> Result<ClusterSettings, String> {
        let store = store.ok_or("cluster: it needs [store] with kind = \"postgres\"")?;
        if has_tls {
            return Err(
                "cluster: hosts reach each other over plain HTTP; leave tls out, and put it \
                        in front of the hosts"
                    .to_owned(),
            );
        }
        let name = self.name.clone().unwrap_or_else(machine_name);
        if name.trim().is_empty() || name.chars().any(char::is_control) {
            return Err("cluster.name: expected a text without line ends".to_owned());
        }
        let key = secret("cluster.key", self.key.as_ref(), self.key_env.as_ref(), environment)?;
        if key.len() < KEY_LENGTH_MIN {
            return Err(format!("cluster.key: expected at least {KEY_LENGTH_MIN} characters"));
        }
        let fleet = FleetOptions::new(store.clone(), name, address(&self.address)?).shards(shards);
        Ok(ClusterSettings { fleet, key: Secret::new(key) })
    }
}

/// The address without a slash at its end.
fn address(given: &str) -> Result<String, String> {
    let expected = || {
        format!(
            "cluster.address: {given:?} given, expected where other hosts reach this one, such as http://10.0.0.7:7001"
        )
    };
    let uri: Uri = given.parse().map_err(|_| expected())?;
    let is_plain = uri.path() == "/" && uri.query().is_none();
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) if is_plain => Ok(format!("http://{authority}")),
        _ => Err(expected()),
    }
}

//! The section `[network]` of the configuration file.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use serde::Deserialize;
use wabahook::{Config, Roots};

use super::{Environment, SecretText, secret};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NetworkTable {
    allow: Vec<String>,
    allow_http: bool,
    /// `"system"`, `"bundled"`, or the path of a file.
    roots: Option<String>,
    nat64: Vec<String>,
    proxy: Option<SecretText>,
    proxy_env: Option<String>,
}

impl NetworkTable {
    /// Whether the configuration file itself has the proxy's password.
    pub(super) fn has_plain_secret(&self) -> bool {
        self.proxy.as_ref().is_some_and(|SecretText(url)| url.contains('@'))
    }

    /// The certificates that are trusted.
    pub(super) fn trusted_roots(&self) -> Result<Roots, String> {
        roots(self.roots.as_deref())
    }

    pub(super) fn apply(
        &self,
        config: Config,
        environment: Environment<'_>,
    ) -> Result<Config, String> {
        let config = config
            .allow_http(self.allow_http)
            .allow_addresses(ranges(&self.allow)?)
            .roots(self.trusted_roots()?)
            .nat64(nat64(&self.nat64)?);
        let (plain, variable) = (self.proxy.as_ref(), self.proxy_env.as_ref());
        if plain.is_none() && variable.is_none() {
            return Ok(config);
        }
        Ok(config.proxy(secret("network.proxy", plain, variable, environment)?))
    }
}

fn ranges(given: &[String]) -> Result<Vec<IpNet>, String> {
    let range = |(place, text): (usize, &String)| {
        let single = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or_else(|_| single()).map_err(|_| {
            format!(
                "network.allow[{place}]: {text:?} given, expected an address range such as \
                 127.0.0.0/8"
            )
        })
    };
    given.iter().enumerate().map(range).collect()
}

fn nat64(given: &[String]) -> Result<Vec<Ipv6Net>, String> {
    let prefix = |(place, text): (usize, &String)| {
        text.parse().map_err(|_| {
            format!(
                "network.nat64[{place}]: {text:?} given, expected a prefix such as 64:ff9b::/96"
            )
        })
    };
    given.iter().enumerate().map(prefix).collect()
}

/// The file is read here, so that a missing one is an error at start and not of an attempt.
fn roots(given: Option<&str>) -> Result<Roots, String> {
    match given {
        None | Some("system") => Ok(Roots::System),
        Some("bundled") => Ok(Roots::Bundled),
        Some(path) => std::fs::read_to_string(path).map(Roots::Given).map_err(|error| {
            format!(
                "network.roots: {path:?} given, expected \"system\", \"bundled\" or the path of a \
                 file of certificates in PEM; it cannot be read: {error}"
            )
        }),
    }
}

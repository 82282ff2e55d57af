//! The section `[cluster]` of the configuration file: what this host is called among those that serve the store together,
//! and where they reach it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::Uri;
use axum::http::uri::Authority;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use wabahook::store::PostgresOptions;
use wabahook::{FleetOptions, Secret};

use super::store::{check_name, machine_name};
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
    ca: Option<PathBuf>,
    #[serde(default)]
    allow_http: bool,
}

/// How this host takes part in a cluster.
#[derive(Clone)]
pub(crate) struct ClusterSettings {
    pub(crate) fleet: FleetOptions,
    /// Authenticates what hosts send each other.
    pub(crate) key: Secret,
    /// How other hosts are reached at an `https://` address.
    pub(crate) tls: Option<Arc<ClientConfig>>,
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
        let name = self.name.clone().unwrap_or_else(machine_name);
        check_name("cluster.name", &name)?;
        let key = secret("cluster.key", self.key.as_ref(), self.key_env.as_ref(), environment)?;
        if key.len() < KEY_LENGTH_MIN {
            let length = key.chars().count();
            return Err(format!(
                "cluster.key: {length} characters given, expected at least {KEY_LENGTH_MIN}"
            ));
        }
        let address = self.address(has_tls)?;
        let fleet = FleetOptions::new(store.clone(), name, address).shards(shards);
        let tls = self.ca.as_deref().map(trusting).transpose()?;
        Ok(ClusterSettings { fleet, key: Secret::new(key), tls: tls.map(Arc::new) })
    }

    /// The address without a slash at its end. Over `http://`, keys and events can be read on the way.
    fn address(&self, has_tls: bool) -> Result<String, String> {
        let given = &self.address;
        let wrong = |why: &str| Err(format!("cluster.address: {given:?} given, {why}"));
        let expected =
            "expected where other hosts reach this one, such as https://host-a.internal:7001";
        let Ok(uri) = given.parse::<Uri>() else { return wrong(expected) };
        let parts = uri.scheme_str().zip(uri.authority());
        let parts = parts.filter(|(_, authority)| {
            uri.path() == "/" && uri.query().is_none() && is_reachable(authority)
        });
        let Some((scheme, authority)) = parts else { return wrong(expected) };
        match scheme {
            "https" if self.ca.is_none() => {
                return Err("cluster.ca: missing; https:// needs the file of the authority that signed the \
                            certificates of all hosts"
                    .to_owned());
            }
            "https" => {}
            "http" if has_tls => return wrong("but tls is set: expected https://"),
            "http" if self.allow_http || is_private(authority.host()) => {}
            "http" => {
                return wrong(
                    "which is not the IP address of a private network: keys and events could be read on the way; use \
                     https://, or set cluster.allow_http where the network is private",
                );
            }
            _ => return wrong(expected),
        }
        Ok(format!("{scheme}://{authority}"))
    }
}

/// TLS that trusts the certificates of one authority.
fn trusting(ca: &Path) -> Result<ClientConfig, String> {
    let unusable = |error: &dyn std::fmt::Display| {
        format!("cluster.ca: {}: expected certificates in PEM: {error}", ca.display())
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| unusable(&error))? {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"it has none"));
    }
    let building = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    Ok(building.with_root_certificates(roots).with_no_client_auth())
}

/// Whether other hosts could reach this host and port.
fn is_reachable(authority: &Authority) -> bool {
    let address = authority.host().trim_matches(['[', ']']).parse::<IpAddr>();
    let has_port =
        authority.as_str().rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let has_right_port = authority.port_u16().is_some_and(|port| port > 0) || !has_port;
    has_right_port && !address.is_ok_and(|address| address.is_unspecified())
}

/// Whether a host is named by an address that is not reached over the internet.
fn is_private(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        Ok(IpAddr::V6(v6)) => {
            v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()
        }
        Err(_) => host == "localhost",
    }
}

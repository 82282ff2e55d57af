//! Decides which addresses an attempt connects to: what the name stands for, if the guard admits
//! all of it.
//!
//! Leaves to others: the connection itself, which goes to exactly the addresses returned here, so
//! that no second lookup can answer differently. A lookup runs in the thread of the attempt and
//! ends when the operating system gives up; the attempt's own timeout is checked after it.
//! Invariant: no thread is spawned, and no address is returned that the guard did not see.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use http::Uri;
use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::guard::{Guard, Host, Rule, host_of};

/// Looks up names and asks the guard.
#[derive(Debug)]
pub(crate) struct Lookup {
    guard: Arc<Guard>,
}

impl Lookup {
    pub(crate) fn new(guard: Arc<Guard>) -> Lookup {
        Lookup { guard }
    }

    /// One refused address refuses them all: a name that mixes public and internal addresses is an
    /// attack, or a mistake that would leak into the internal network sooner or later.
    fn admitted(&self, found: &[SocketAddr]) -> Result<(), LookupError> {
        for address in found {
            self.guard.admit(address.ip()).map_err(LookupError::Refused)?;
        }
        if found.is_empty() { Err(LookupError::NotFound) } else { Ok(()) }
    }
}

impl Resolver for Lookup {
    fn resolve(
        &self,
        url: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = addresses_of(url)?;
        self.admitted(&found)?;
        let mut addresses = self.empty();
        for address in found.into_iter().take(ADDRESSES_MAX) {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

fn addresses_of(url: &Uri) -> Result<Vec<SocketAddr>, LookupError> {
    let by_scheme = if url.scheme_str() == Some("https") { 443 } else { 80 };
    let port = url.port_u16().unwrap_or(by_scheme);
    if let Host::Address(address) = host_of(url) {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let host = url.host().unwrap_or_default();
    let found = (host, port).to_socket_addrs().map_err(|_| LookupError::NotFound)?;
    Ok(found.collect())
}

/// Why a name led nowhere. The transport reads it back out of ureq's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupError {
    NotFound,
    Refused(Rule),
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookupError::NotFound => f.write_str("the name could not be looked up"),
            LookupError::Refused(rule) => write!(f, "refused by the guard: {rule}"),
        }
    }
}

impl std::error::Error for LookupError {}

impl From<LookupError> for ureq::Error {
    fn from(error: LookupError) -> ureq::Error {
        ureq::Error::Other(Box::new(error))
    }
}

/// How many addresses of a name are tried; ureq keeps no more.
const ADDRESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Network;

    fn lookup(allow: &[&str]) -> Lookup {
        let allow = allow.iter().map(|range| range.parse().unwrap()).collect();
        Lookup::new(Arc::new(Guard::new(Network { allow, allow_http: true })))
    }

    fn check(url: &str, expected: &[&str]) {
        let url: Uri = url.parse().unwrap();
        let found = addresses_of(&url).unwrap();
        let expected: Vec<SocketAddr> = expected.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(found, expected, "{url}");
    }

    #[test]
    fn literals_are_taken_as_they_stand_with_the_port_of_the_url_or_the_scheme() {
        check("http://192.0.2.1/", &["192.0.2.1:80"]);
        check("https://192.0.2.1/", &["192.0.2.1:443"]);
        check("https://192.0.2.1:8443/", &["192.0.2.1:8443"]);
        check("http://[2001:db8::1]:9000/a", &["[2001:db8::1]:9000"]);
    }

    #[test]
    fn one_refused_address_among_admitted_ones_refuses_them_all() {
        let lookup = lookup(&["127.0.0.1/32"]);
        let public: SocketAddr = "8.8.8.8:443".parse().unwrap();
        let allowed: SocketAddr = "127.0.0.1:443".parse().unwrap();
        let internal: SocketAddr = "10.0.0.1:443".parse().unwrap();
        assert_eq!(lookup.admitted(&[public, allowed]), Ok(()));
        for mixed in [[public, internal], [internal, public], [allowed, internal]] {
            assert_eq!(lookup.admitted(&mixed), Err(LookupError::Refused(Rule::Private)));
        }
        assert_eq!(lookup.admitted(&[]), Err(LookupError::NotFound));
    }

    #[test]
    fn an_error_names_the_rule_and_no_address() {
        let text = LookupError::Refused(Rule::LinkLocal).to_string();
        assert!(text.contains("link_local"));
        assert!(!text.contains("169"));
    }
}

//! Which addresses the engine may connect to, and which certificate authorities it trusts.

use std::fmt;

use http::Uri;
use ipnet::{IpNet, Ipv6Net};

use crate::error::{Error, Result};
use crate::text::debug_fields;

/// Which targets are allowed beyond the safe default, HTTPS to public addresses.
///
/// ```
/// use wabahook::Network;
/// let network = Network::default().allow(["10.20.0.0/16".parse()?]).allow_http(true);
/// # let _ = network;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Network {
    /// Address ranges that the guard lets through. Empty by default.
    pub allow: Vec<IpNet>,
    /// Whether `http://` targets are allowed. Defaults to false.
    pub allow_http: bool,
    /// Which certificate authorities receivers are checked against, unless a subscription names its own.
    pub roots: Roots,
    /// The NAT64 prefixes (RFC 6052) of a network whose resolver makes IPv6 addresses of IPv4 ones (DNS64). An
    /// address below such a prefix is checked as the IPv4 address in it. Empty by default; every NAT64 address is
    /// then refused.
    pub nat64: Vec<Ipv6Net>,
    /// The proxy that every attempt goes through. `None` by default: connections are made directly.
    pub proxy: Option<String>,
}

impl Network {
    /// Adds address ranges that the guard lets through.
    #[must_use]
    pub fn allow(mut self, ranges: impl IntoIterator<Item = IpNet>) -> Network {
        self.allow.extend(ranges);
        self
    }

    /// Allows `http://` targets. Payloads and signatures are then sent unencrypted.
    #[must_use]
    pub fn allow_http(mut self, allowed: bool) -> Network {
        self.allow_http = allowed;
        self
    }

    /// Sets which certificate authorities are trusted. Defaults to [`Roots::System`].
    #[must_use]
    pub fn roots(mut self, roots: Roots) -> Network {
        self.roots = roots;
        self
    }

    /// Adds NAT64 prefixes of /32, /40, /48, /56, /64 or /96, such as `64:ff9b::/96`.
    #[must_use]
    pub fn nat64(mut self, prefixes: impl IntoIterator<Item = Ipv6Net>) -> Network {
        self.nat64.extend(prefixes);
        self
    }

    /// Sends every attempt through a proxy: `http://[user:password@]host[:port]`, which must allow `CONNECT` to
    /// every target, or `socks5h://[user:password@]host[:port]`. The proxy resolves the names of targets.
    ///
    /// The engine then makes attempts on threads (`transport_threads`), and can check only addresses that a
    /// target's URL contains: the proxy itself must refuse names that lead to internal addresses.
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>) -> Network {
        self.proxy = Some(url.into());
        self
    }

    /// Refuses settings that no attempt could use.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(prefix) = self.nat64.iter().find(|p| !NAT64_BITS.contains(&p.prefix_len())) {
            let expected = "a prefix of 32, 40, 48, 56, 64 or 96 bits";
            return Err(Error::invalid("network.nat64", prefix, expected));
        }
        let Some(proxy) = &self.proxy else { return Ok(()) };
        let uri: Option<Uri> = proxy.parse().ok();
        let is_usable = uri.is_some_and(|uri| {
            let scheme = uri.scheme_str().unwrap_or_default();
            let is_plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
            PROXY_SCHEMES.contains(&scheme)
                && uri.host().is_some_and(|host| !host.is_empty())
                && is_plain
        });
        if is_usable {
            return Ok(());
        }
        let expected =
            "http://[user:password@]host[:port] or socks5h://[user:password@]host[:port]";
        Err(Error::invalid("network.proxy", "[not shown]", expected))
    }
}

/// The lengths of NAT64 prefixes (RFC 6052, 2.2).
const NAT64_BITS: [u8; 6] = [32, 40, 48, 56, 64, 96];

const PROXY_SCHEMES: [&str; 2] = ["http", "socks5h"];

// Without the proxy's URL, which may contain a password (I9).
debug_fields!(Network: allow, allow_http, roots, nat64, proxy.is_some());

/// Which certificate authorities are trusted.
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Roots {
    /// Those that the machine trusts, which include a company's own. A machine that trusts none, such as a
    /// container built from scratch, gets those of Mozilla's list. Read at the first attempt over TLS.
    #[default]
    System,
    /// Those of Mozilla's list as of this build, whatever the machine trusts.
    Bundled,
    /// Only these certificates, in PEM. `Engine::open` refuses what it cannot read.
    Given(String),
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Roots::System => f.write_str("System"),
            Roots::Bundled => f.write_str("Bundled"),
            Roots::Given(pem) => write!(f, "Given({} bytes)", pem.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_a_known_scheme_and_its_password_is_never_shown() {
        for (url, is_usable) in [
            ("http://proxy.example:3128", true),
            ("http://user:hidden@proxy.example/", true),
            ("socks5h://10.0.0.1:1080", true),
            ("socks5h://[::1]", true),
            ("socks5://user:hidden@10.0.0.1", false),
            ("https://user:hidden@proxy.example", false),
            ("proxy.example:3128", false),
            ("http://user:hidden@proxy.example/path", false),
            ("http://", false),
        ] {
            let network = Network::default().proxy(url);
            assert!(!format!("{network:?}").contains("hidden"));
            match network.check() {
                Ok(()) => assert!(is_usable, "{url}"),
                Err(error) => {
                    assert!(!is_usable && error.field() == Some("network.proxy"), "{url}: {error}");
                    assert!(!error.to_string().contains("hidden"), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_nat64_prefix_has_a_length_of_rfc_6052() {
        for (prefix, is_usable) in
            [("64:ff9b::/96", true), ("2001:db8::/32", true), ("::/0", false)]
        {
            let network = Network::default().nat64([prefix.parse().unwrap()]);
            assert_eq!(network.check().is_ok(), is_usable, "{prefix}");
        }
    }
}

//! Which addresses the engine may connect to, and which certificate authorities it trusts.

use std::fmt;

use ipnet::IpNet;

/// Which targets are allowed beyond the safe default, HTTPS to public addresses.
///
/// ```
/// use wabahook::Network;
/// let network = Network::default().allow(["10.20.0.0/16".parse()?]).allow_http(true);
/// # let _ = network;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Network {
    /// Address ranges that the guard lets through. Empty by default.
    pub allow: Vec<IpNet>,
    /// Whether `http://` targets are allowed. Defaults to false.
    pub allow_http: bool,
    /// Which certificate authorities receivers are checked against, unless a subscription names its own.
    pub roots: Roots,
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
}

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

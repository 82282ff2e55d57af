//! Decides what a subscription may say about its TLS connections.
//!
//! Leaves to others: whether certificate and key fit together, and the connection (`delivery`).
//! Invariant (I9): a key is never shown.

use super::Secret;

/// What the TLS connections of one subscription do otherwise than all others.
///
/// ```
/// use wabahook::{Subscription, Tls};
/// # let (authority, chain, key) = ("", "", "");
/// let tls = Tls::default().roots(authority).client(chain, key);
/// let bank = Subscription::to("https://bank.example/hook")?.tls(tls);
/// # let _ = bank;
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Tls {
    /// The certificate authorities that are trusted in place of the engine's, in PEM.
    pub roots_pem: Option<String>,
    /// What the engine shows a receiver that asks for a client certificate.
    pub client: Option<ClientPair>,
}

/// A client certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientPair {
    /// The certificate chain, in PEM, the client's own first.
    pub certificate_pem: String,
    /// Its private key, in PEM (PKCS#8, PKCS#1 or SEC1).
    pub key_pem: Secret,
}

impl Tls {
    /// Trusts these certificate authorities alone, in PEM.
    #[must_use]
    pub fn roots(mut self, pem: impl Into<String>) -> Tls {
        self.roots_pem = Some(pem.into());
        self
    }

    /// Shows this certificate chain, with this key, to a receiver that asks for one.
    #[must_use]
    pub fn client(mut self, certificate_pem: impl Into<String>, key_pem: impl Into<String>) -> Tls {
        let (certificate_pem, key_pem) = (certificate_pem.into(), Secret::new(key_pem));
        self.client = Some(ClientPair { certificate_pem, key_pem });
        self
    }
}

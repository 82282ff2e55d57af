//! TLS settings of a subscription. `delivery` checks that certificate and key fit together. A key is
//! never shown (I9).

use crate::secret::Secret;

/// TLS settings of one subscription that differ from the engine's.
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
    /// The certificate authorities to trust instead of the engine's, in PEM.
    pub roots_pem: Option<String>,
    /// The client certificate for receivers that ask for one.
    pub client: Option<ClientCertificate>,
}

/// A client certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientCertificate {
    /// The certificate chain, in PEM, the client's own certificate first.
    pub certificate_pem: String,
    /// Its private key, in PEM (PKCS#8, PKCS#1 or SEC1).
    pub key_pem: Secret,
}

impl Tls {
    /// Trusts only these certificate authorities, in PEM.
    #[must_use]
    pub fn roots(mut self, pem: impl Into<String>) -> Tls {
        self.roots_pem = Some(pem.into());
        self
    }

    /// Presents this certificate chain, with this key, to receivers that ask for one.
    #[must_use]
    pub fn client(mut self, certificate_pem: impl Into<String>, key_pem: impl Into<String>) -> Tls {
        let (certificate_pem, key_pem) = (certificate_pem.into(), Secret::new(key_pem));
        self.client = Some(ClientCertificate { certificate_pem, key_pem });
        self
    }
}

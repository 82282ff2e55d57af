//! Which certificate authorities an attempt trusts, which client certificate it presents, and the name of each
//! failure of TLS. Each setting has an identity of its own, so a connection made with one is never used with
//! another. A client certificate that does not match its key is refused when it is registered.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, OtherError,
    RootCertStore, SignatureScheme,
};
use rustls_native_certs::{CertificateResult, ErrorKind, load_native_certs};
use sha2::{Digest, Sha256};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

pub(super) use super::tls_session::TlsSession;
use crate::error::{Error, Result};
use crate::network::Roots;
use crate::process::file_limit::is_out_of_files;
use crate::subscription::{ClientCertificate, Tls};
use crate::text::debug_fields;

/// Trusted authorities and a client certificate, as rustls needs them.
pub(super) struct Identity {
    number: u64,
    config: Arc<ClientConfig>,
}

impl Identity {
    /// A number that is unique in this process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// A session with this host, as it is written in the URL.
    pub(super) fn session(&self, host: &str) -> io::Result<TlsSession> {
        let failed = |reason: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, reason);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| failed(CertificateError::NotValidForName.into()))?;
        let rustls = ClientConnection::new(Arc::clone(&self.config), name).map_err(failed)?;
        Ok(TlsSession::new(rustls))
    }
}

pub(super) struct Identities {
    roots: Roots,
    /// The host's roots, read when they are first needed.
    read: OnceLock<Arc<RootCertStore>>,
    /// The identity of requests without TLS settings.
    usual: OnceLock<Arc<Identity>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_setting: HashMap<[u8; 32], Arc<Identity>>,
    made: u64,
}

impl Identities {
    pub(super) fn new(roots: Roots) -> Identities {
        Identities { roots, read: OnceLock::new(), usual: OnceLock::new(), known: Mutex::default() }
    }

    /// The identity of a setting. An error where it cannot be read, although it was when it was
    /// registered.
    pub(super) fn identity(&self, tls: Option<&Tls>) -> Result<Arc<Identity>> {
        let Some(tls) = tls else { return self.usual() };
        let setting = digest(tls);
        if let Some(known) = self.known.lock().by_setting.get(&setting) {
            return Ok(Arc::clone(known));
        }
        // Reading certificates takes milliseconds, which should not happen under the lock.
        let config = client_config(Some(tls), || self.roots())?;
        let mut known = self.known.lock();
        if known.by_setting.len() >= IDENTITIES_MAX {
            known.by_setting.clear();
        }
        known.made += 1;
        let identity = Arc::new(Identity { number: USUAL + known.made, config });
        Ok(Arc::clone(known.by_setting.entry(setting).or_insert(identity)))
    }

    fn usual(&self) -> Result<Arc<Identity>> {
        if let Some(usual) = self.usual.get() {
            return Ok(Arc::clone(usual));
        }
        let config = client_config(None, || self.roots())?;
        let usual = self.usual.get_or_init(|| Arc::new(Identity { number: USUAL, config }));
        Ok(Arc::clone(usual))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>> {
        if let Some(read) = self.read.get() {
            return Ok(Arc::clone(read));
        }
        let read = Arc::new(read_roots(&self.roots)?);
        Ok(Arc::clone(self.read.get_or_init(|| read)))
    }
}

debug_fields!(Identities: roots);

/// Refuses a setting that no connection could be made with.
///
/// # Errors
/// [`Error::Invalid`] that names `tls.roots_pem`, `tls.client_certificate_pem` or `tls.client_key_pem`.
pub(super) fn check(tls: &Tls) -> Result<()> {
    // Whose roots the host trusts has no say in whether the subscription's own part is sound.
    client_config(Some(tls), || Ok(Arc::new(bundled_roots()))).map(drop)
}

/// Refuses roots of the host that cannot be read.
///
/// # Errors
/// [`Error::Invalid`] that names `network.roots`.
pub(super) fn check_roots(roots: &Roots) -> Result<()> {
    match roots {
        Roots::Given(_) => read_roots(roots).map(drop),
        Roots::System | Roots::Bundled => Ok(()),
    }
}

/// What rustls needs for a setting. Roots of the subscription replace the host's: a private authority is
/// meant to be the only one.
fn client_config(
    tls: Option<&Tls>,
    host_roots: impl FnOnce() -> Result<Arc<RootCertStore>>,
) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let roots = match tls.and_then(|tls| tls.roots_pem.as_deref()) {
        Some(pem) => Arc::new(given_roots(pem, "tls.roots_pem")?),
        None => host_roots()?,
    };
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
    let inner = verifier.map_err(|error| {
        Error::invalid("tls.roots_pem", error, "at least one certificate to trust")
    })?;
    let building = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid("tls", error, "a provider that speaks TLS 1.2 and 1.3"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Naming { inner }));
    let config = match tls.and_then(|tls| tls.client.as_ref()) {
        None => building.with_no_client_auth(),
        Some(pair) => {
            let (chain, key) = client_pair(pair)?;
            building.with_client_auth_cert(chain, key).map_err(|_| {
                let expected = "the private key that belongs to tls.client_certificate_pem";
                Error::invalid("tls.client_key_pem", "[redacted]", expected)
            })?
        }
    };
    Ok(Arc::new(config))
}

fn client_pair(
    pair: &ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(&pair.certificate_pem, "tls.client_certificate_pem")?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.reveal()).map_err(|_| not_a_key())?;
    Ok((chain, key))
}

fn not_a_key() -> Error {
    let expected = "one private key in PEM (PKCS #8, PKCS #1 or SEC 1), not encrypted";
    Error::invalid("tls.client_key_pem", "[redacted]", expected)
}

/// The settings of connections that ureq makes through a proxy.
pub(super) fn proxied(tls: Option<&Tls>, roots: &Roots) -> Result<TlsConfig> {
    let own_roots = tls.and_then(|tls| tls.roots_pem.as_deref());
    let trusted = match (own_roots, roots) {
        (Some(pem), _) => certificates(pem, "tls.roots_pem")?,
        (None, Roots::Given(pem)) => certificates(pem, "network.roots")?,
        (None, Roots::System) => system_certificates()?,
        (None, Roots::Bundled) => Vec::new(),
    };
    let owned = |read: Vec<CertificateDer<'_>>| -> Vec<Certificate<'static>> {
        read.iter().map(|one| Certificate::from_der(one).to_owned()).collect()
    };
    let roots = if trusted.is_empty() { RootCerts::WebPki } else { owned(trusted).into() };
    let building = TlsConfig::builder().root_certs(roots);
    let Some(pair) = tls.and_then(|tls| tls.client.as_ref()) else { return Ok(building.build()) };
    let chain = owned(certificates(&pair.certificate_pem, "tls.client_certificate_pem")?);
    let key = PrivateKey::from_pem(pair.key_pem.reveal()).map_err(|_| not_a_key())?;
    Ok(building.client_cert(Some(ClientCert::new_with_certs(&chain, key))).build())
}

fn read_roots(roots: &Roots) -> Result<RootCertStore> {
    let read = match roots {
        Roots::System => system_roots()?,
        Roots::Bundled => bundled_roots(),
        Roots::Given(pem) => given_roots(pem, "network.roots")?,
    };
    Ok(read)
}

/// What the machine trusts, or Mozilla's list if that is nothing, as in a container built from scratch. A
/// certificate that rustls cannot read is left out, as other programs do.
fn system_roots() -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(system_certificates()?);
    Ok(if store.is_empty() { bundled_roots() } else { store })
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>> {
    let CertificateResult { certs, errors, .. } = load_native_certs();
    let is_short = |kind: &ErrorKind| match kind {
        ErrorKind::Io { inner, .. } => is_out_of_files(inner),
        _ => false,
    };
    match errors.iter().any(|error| is_short(&error.kind)) {
        true => Err(Error::invalid("network.roots", "system", "files left to read them from")),
        false => Ok(certs),
    }
}

fn bundled_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

fn given_roots(pem: &str, field: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem, field)? {
        store.add(certificate).map_err(|_| not_certificates(field))?;
    }
    Ok(store)
}

fn certificates(pem: &str, field: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read: Option<Vec<_>> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::ok).collect();
    read.filter(|read| !read.is_empty()).ok_or_else(|| not_certificates(field))
}

fn not_certificates(field: &str) -> Error {
    Error::invalid(
        field,
        "[not shown]",
        "one or more certificates in PEM (-----BEGIN CERTIFICATE-----)",
    )
}

/// A digest that distinguishes two settings, so that no private key is kept to compare them.
pub(super) fn digest(tls: &Tls) -> [u8; 32] {
    let mut hash = Sha256::new();
    let pair = tls.client.as_ref();
    let parts = [
        tls.roots_pem.as_deref().map(str::as_bytes),
        pair.map(|pair| pair.certificate_pem.as_bytes()),
        pair.map(|pair| pair.key_pem.reveal()),
    ];
    for part in parts {
        // Lengths first, so that no two settings run into the same bytes.
        hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
        hash.update(part.unwrap_or_default());
    }
    hash.finalize().into()
}

/// Checks certificates as rustls does, and tells a self-signed one from one whose issuer is unknown: the first
/// is a receiver's mistake, the second mostly a missing intermediate.
#[derive(Debug)]
struct Naming {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Naming {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        verified.map_err(|error| match error {
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            ) if is_self_signed(end_entity) => {
                CertificateError::Other(OtherError(Arc::new(SelfSigned))).into()
            }
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    parsed.is_ok_and(|certificate| certificate.issuer() == certificate.subject())
}

#[derive(Debug)]
struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate is signed by itself")
    }
}

impl std::error::Error for SelfSigned {}

/// Why TLS failed, if it was TLS: a handshake that fails is an I/O error around the reason.
pub(super) fn word_of(error: &io::Error) -> Option<&'static str> {
    error.get_ref()?.downcast_ref().map(word)
}

/// The word of `tls:<why>`. Words are stable: hosts filter by them.
pub(super) fn word(error: &rustls::Error) -> &'static str {
    use rustls::Error;
    match error {
        Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "not_yet_valid"
            }
            CertificateError::UnknownIssuer => "unknown_issuer",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "name"
            }
            CertificateError::Revoked => "revoked",
            CertificateError::Other(OtherError(why)) if why.is::<SelfSigned>() => "self_signed",
            _ => "certificate",
        },
        Error::NoCertificatesPresented => "certificate",
        Error::AlertReceived(_) => "alert",
        Error::PeerIncompatible(_) => "incompatible",
        Error::InvalidMessage(_) => "no_tls",
        _ => "handshake",
    }
}

/// The number of the usual identity. Other numbers follow it.
const USUAL: u64 = 0;

/// How many identities are cached. Beyond, all are made again when they are needed.
const IDENTITIES_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_why_in_one_word() {
        use rustls::Error;
        let self_signed = CertificateError::Other(OtherError(Arc::new(SelfSigned)));
        for (error, expected) in [
            (Error::InvalidCertificate(CertificateError::Expired), "expired"),
            (Error::InvalidCertificate(CertificateError::NotValidYet), "not_yet_valid"),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "unknown_issuer"),
            (Error::InvalidCertificate(CertificateError::NotValidForName), "name"),
            (Error::InvalidCertificate(CertificateError::BadSignature), "certificate"),
            (Error::InvalidCertificate(self_signed), "self_signed"),
            (Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "no_tls"),
            (Error::HandshakeNotComplete, "handshake"),
        ] {
            assert_eq!(word(&error), expected, "{error:?}");
        }
    }
}

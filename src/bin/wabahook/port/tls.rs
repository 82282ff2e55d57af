//! TLS of the host itself. The certificate and its key are read again when their files change, and on SIGHUP;
//! connections that are open keep the old one. Files that do not fit change nothing, and the log says why.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio_rustls::TlsAcceptor;

/// How often to look whether the files changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The files of a certificate chain and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// The certificate in use.
pub(crate) struct ServerTls {
    files: TlsFiles,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    changed: [Option<SystemTime>; 2],
}

impl TlsFiles {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    /// Names the file at fault, and shows nothing of the key.
    pub(crate) fn read(&self) -> Result<ServerConfig, String> {
        let certificate = &self.certificate.display();
        let cannot = |error: &dyn std::fmt::Display| {
            format!("tls.certificate: {certificate}: expected certificates in PEM: {error}")
        };
        let chain = CertificateDer::pem_file_iter(&self.certificate).map_err(|e| cannot(&e))?;
        let chain: Result<Vec<_>, _> = chain.collect();
        let chain = chain.map_err(|error| cannot(&error))?;
        if chain.is_empty() {
            return Err(cannot(&"it has none"));
        }
        let shown = self.key.display();
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| format!("tls.key: {shown}: expected a private key in PEM: {error}"))?;
        let building = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("tls: {error}"))?;
        let config = building.with_no_client_auth().with_single_cert(chain, key);
        let mut config =
            config.map_err(|error| format!("tls: {certificate} and {shown}: {error}"))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// When each file was changed last.
    fn changed(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate, &self.key].map(|path| std::fs::metadata(path).ok()?.modified().ok())
    }
}

impl ServerTls {
    pub(crate) fn new(files: TlsFiles) -> Result<ServerTls, String> {
        let changed = files.changed();
        let acceptor = TlsAcceptor::from(Arc::new(files.read()?));
        Ok(ServerTls { files, current: Mutex::new(Current { acceptor, changed }) })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.current.lock().acceptor.clone()
    }

    /// Reads the files again. The old certificate stays where they do not fit.
    pub(crate) fn reload(&self) -> io::Result<()> {
        let changed = self.files.changed();
        let read = self.files.read();
        let mut current = self.current.lock();
        current.changed = changed;
        let config = read.map_err(io::Error::other)?;
        current.acceptor = TlsAcceptor::from(Arc::new(config));
        drop(current);
        tracing::info!("the certificate was read again");
        Ok(())
    }

    /// Reads the files again whenever they change.
    pub(crate) async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let tls = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                let has_changed = tls.files.changed() != tls.current.lock().changed;
                if has_changed { tls.reload() } else { Ok(()) }
            });
            if let Ok(Err(error)) = looked.await {
                tracing::warn!(%error, "the certificate stays as it is");
            }
        }
    }
}

//! Connections to other hosts: plain TCP, or TLS where the address begins with `https://`. The certificate of the other
//! host must be of the cluster's authority and name the host in the address.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Uri;
use axum::http::uri::Scheme;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// Connects to other hosts.
#[derive(Clone)]
pub(super) struct PeerConnector {
    tcp: HttpConnector,
    tls: Option<TlsConnector>,
}

impl PeerConnector {
    pub(super) fn new(tls: Option<Arc<ClientConfig>>) -> PeerConnector {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        PeerConnector { tcp, tls: tls.map(TlsConnector::from) }
    }

    async fn connect(mut self, uri: Uri) -> Result<PeerStream, ConnectError> {
        let tcp = self.tcp.call(uri.clone()).await?.into_inner();
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Ok(boxed(tcp));
        }
        let tls = self.tls.ok_or("its address begins with https:// and cluster.ca is not set")?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())?;
        Ok(boxed(timeout(HANDSHAKE_TIMEOUT, tls.connect(name, tcp)).await??))
    }
}

impl Service<Uri> for PeerConnector {
    type Response = PeerStream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<PeerStream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

pub(super) trait AsyncStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> AsyncStream for S {}

/// A connection to another host.
pub(super) type PeerStream = TokioIo<Box<dyn AsyncStream>>;

fn boxed(stream: impl AsyncStream + 'static) -> PeerStream {
    TokioIo::new(Box::new(stream))
}

impl Connection for Box<dyn AsyncStream> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::authority::{Authority, server_config};
    use super::*;

    fn trusting(authority: &Authority) -> PeerConnector {
        PeerConnector::new(Some(Arc::new(authority.client_config())))
    }

    /// Accepts connections with a certificate of a name.
    async fn serve(authority: &Authority, name: &str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = server_config(&authority.sign(name, |_| {}), None);
        let tls = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut session) = tls.accept(stream).await {
                    let _ = session.write_all(b"served").await;
                    let _ = session.shutdown().await;
                }
            }
        });
        port
    }

    async fn refusal(connector: &PeerConnector, address: &str) -> String {
        let connected = connector.clone().connect(address.parse().unwrap()).await;
        connected.map(|_| "connected").unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_host_must_show_a_certificate_of_the_cluster() {
        let (own, other) = (Authority::new("of the cluster"), Authority::new("of nobody"));
        let port = serve(&own, "127.0.0.1").await;
        let (address, connector) = (format!("https://127.0.0.1:{port}"), trusting(&own));
        let connected = connector.clone().connect(address.parse().unwrap()).await.unwrap();
        let mut answer = String::new();
        let mut stream = connected.into_inner();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
        assert_eq!(answer, "served");
        let why = refusal(&trusting(&other), &address).await;
        assert!(why.contains("UnknownIssuer"), "{why}");
        let why = refusal(&PeerConnector::new(None), &address).await;
        assert!(why.contains("cluster.ca"), "{why}");
        let elsewhere = serve(&own, "elsewhere.example").await;
        let why = refusal(&connector, &format!("https://127.0.0.1:{elsewhere}")).await;
        assert!(why.contains("not valid for name"), "{why}");
    }
}

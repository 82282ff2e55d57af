//! Accepts connections and serves their requests, each connection on a task of its own.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::connections::{ClientConnection, ClientConnections, ConnectionAdmission};
use super::listener;
use super::shortages::Shortages;
use super::stream::{HEAD_BYTES_MAX, TimedStream};
use super::tls::ServerTls;

/// How long a connection may stay without a request.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a connection that sent nothing yet stays open once the host stops: its request may be on its way.
const FIRST_REQUEST_MAX: Duration = Duration::from_millis(500);

/// What every connection is served with.
#[derive(Clone)]
pub(crate) struct Server {
    http: http1::Builder,
    routes: Router,
    tls: Option<Arc<ServerTls>>,
    head_timeout: Duration,
    /// Where a shortage of files is noted.
    shortages: Arc<Shortages>,
}

impl Server {
    pub(crate) fn new(
        routes: Router,
        tls: Option<Arc<ServerTls>>,
        head_timeout: Duration,
    ) -> Server {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE_MAX).max_buf_size(HEAD_BYTES_MAX);
        Server { http, routes, tls, head_timeout, shortages: Arc::new(Shortages::new()) }
    }

    /// Sets where shortages are recorded.
    pub(crate) fn shortages(mut self, shortages: Arc<Shortages>) -> Server {
        self.shortages = shortages;
        self
    }

    /// Accepts connections until `stop`. What it returns waits for the open requests.
    pub(crate) async fn accept(
        self,
        socket: TcpListener,
        connections: Arc<ClientConnections>,
        stop: impl Future<Output = ()>,
    ) -> OpenConnections {
        let open = OpenConnections(watch::Sender::new(()));
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // The peer went away, or the process has no file left; waiting helps with the latter.
                    if listener::is_out_of_files(&error) {
                        self.shortages.note_files();
                    }
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            if let Some(connection) = admit(&connections, peer) {
                tokio::spawn(self.clone().serve(stream, connection, open.0.subscribe()));
            }
        }
        open
    }

    async fn serve(
        self,
        stream: TcpStream,
        connection: Arc<ClientConnection>,
        stop: watch::Receiver<()>,
    ) {
        // Without it the connection is only slower.
        let _ = stream.set_nodelay(true);
        let ended = Arc::clone(&connection);
        let served = async {
            match self.tls.as_ref().map(|tls| tls.acceptor()) {
                None => self.serve_stream(stream, connection, stop).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => self.serve_stream(stream, connection, stop).await,
                    Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
                },
            }
        };
        tokio::select! {
            () = served => {}
            () = ended.closed_by_host() => {}
        }
    }

    /// Serves the requests that come on a stream.
    async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        connection: Arc<ClientConnection>,
        mut stop: watch::Receiver<()>,
    ) {
        let routes = TowerToHyperService::new(self.routes.clone());
        let of_requests = Arc::clone(&connection);
        let service = service_fn(move |mut request: Request<Incoming>| {
            of_requests.request_began();
            request.extensions_mut().insert(Arc::clone(&of_requests));
            let (responding, of_request) = (routes.call(request), Arc::clone(&of_requests));
            async move {
                let response = responding.await;
                of_request.request_ended();
                response
            }
        });
        let stream = TimedStream::new(stream, Arc::clone(&connection), self.head_timeout);
        let mut served = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        // An error ends this connection only.
        tokio::select! {
            _ = &mut served => return,
            _ = stop.changed() => {}
        }
        // hyper would close a connection without a request at once.
        if connection.requests() == 0 {
            let _ = tokio::time::timeout(FIRST_REQUEST_MAX, &mut served).await;
        }
        served.as_mut().graceful_shutdown();
        let _ = served.await;
    }
}

/// The connections that are open when no more are accepted.
pub(crate) struct OpenConnections(watch::Sender<()>);

impl OpenConnections {
    /// Ends each connection after its request, and returns when the last has ended.
    pub(crate) async fn shutdown(self) {
        let _ = self.0.send(());
        self.0.closed().await;
    }
}

/// The place of a new connection, unless all places are taken.
fn admit(connections: &Arc<ClientConnections>, peer: SocketAddr) -> Option<Arc<ClientConnection>> {
    let admission = connections.open(peer.ip());
    if !matches!(admission, ConnectionAdmission::Admitted(_)) {
        tracing::warn!(
            "too many connections: the oldest without a valid API key are closed; see \
             limits.connections_max and limits.connections_per_address_max"
        );
    }
    match admission {
        ConnectionAdmission::Admitted(connection) | ConnectionAdmission::Replaced(connection) => {
            Some(Arc::new(connection))
        }
        ConnectionAdmission::Refused => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::super::connections::ConnectionLimits;
    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: host.test\r\n\r\n";

    async fn response(stream: &mut TcpStream) -> String {
        let mut bytes = vec![0; 1_024];
        let count = stream.read(&mut bytes).await.unwrap();
        bytes.truncate(count);
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_comes_while_the_host_stops_is_answered() {
        let routes = Router::new().route("/", get(|| async { "served" }));
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let connections = ClientConnections::new(ConnectionLimits { total: 8, per_address: 8 });
        let server = Server::new(routes, None, Duration::from_secs(10));
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let accepting = tokio::spawn(server.accept(socket, connections, stopped));
        let mut late = TcpStream::connect(address).await.unwrap();
        let mut bystander = TcpStream::connect(address).await.unwrap();
        bystander.write_all(REQUEST).await.unwrap();
        // Connections are accepted in their order.
        assert!(response(&mut bystander).await.ends_with("served"));
        drop(stop);
        let open = accepting.await.unwrap();
        let ending = tokio::spawn(open.shutdown());
        assert_eq!(response(&mut bystander).await, "", "it had its request");
        late.write_all(REQUEST).await.unwrap();
        assert!(response(&mut late).await.ends_with("served"));
        assert_eq!(response(&mut late).await, "");
        ending.await.unwrap();
    }
}

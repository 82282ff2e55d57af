//! An HTTP receiver under TLS.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::{ServerConnection, StreamOwned};

use crate::authority::{Authority, Pair, server_config};
use crate::support::http_receiver::{Duplex, OK, Receiver, say};

/// How many client certificates each connection sent.
pub(crate) type Shown = Arc<Mutex<Vec<usize>>>;

impl Duplex for StreamOwned<ServerConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

/// A receiver with this certificate that acknowledges everything. If `clients` is given, it requests a client
/// certificate of that authority, required or optional.
pub(crate) fn tls_receiver(pair: &Pair, clients: Option<(&Authority, bool)>) -> (Receiver, Shown) {
    let config = Arc::new(server_config(pair, clients));
    let shown = Shown::default();
    let seen = Arc::clone(&shown);
    let accepted = move |stream: TcpStream| {
        let session = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).ok()?;
        }
        seen.lock().unwrap().push(stream.conn.peer_certificates().map_or(0, <[_]>::len));
        Some(Box::new(stream) as Box<dyn Duplex>)
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (Receiver::over(listener, accepted, |_| say(OK)), shown)
}

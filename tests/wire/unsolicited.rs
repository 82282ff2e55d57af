//! Promises that unsolicited bytes of a receiver are never taken for the response to a later request.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver as Inbox, Sender, channel};
use std::thread::{self, JoinHandle};

use wabahook::{Reply, Response};

use super::client::*;

const SORRY: &str = "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n";

/// Has each of its connections served by `serve`, one after the other, which gets the connection's number. All stay
/// open, so that a request over a wrong one is not repeated.
fn serving<S: Send + 'static>(
    mut accepted: impl FnMut(TcpStream) -> S + Send + 'static,
    mut serve: impl FnMut(usize, &mut S) + Send + 'static,
) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || {
        let mut open = Vec::new();
        for connection in 0..2 {
            let socket = listener.accept().unwrap().0;
            // What it writes leaves at once, also while an earlier write is not acknowledged.
            socket.set_nodelay(true).unwrap();
            let mut stream = accepted(socket);
            serve(connection, &mut stream);
            open.push(stream);
        }
    });
    (port, thread)
}

/// Reads the head and the two bytes of body of a request.
fn read_request(stream: &mut impl Read) {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n{}") {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
}

/// Tells the receiver to go on, and waits until it did.
struct Steps {
    go: Sender<()>,
    done: Inbox<()>,
}

impl Steps {
    fn next(&self) {
        self.go.send(()).unwrap();
        self.done.recv_timeout(DEADLINE).unwrap();
    }
}

fn steps() -> (Steps, impl Fn(&mut dyn FnMut()) + Send) {
    let ((go, going), (finished, done)) = (channel(), channel());
    let step = move |work: &mut dyn FnMut()| {
        going.recv_timeout(DEADLINE).unwrap();
        work();
        finished.send(()).unwrap();
    };
    (Steps { go, done }, step)
}

fn check_second_response(first: String, unsolicited: &'static str, expected: &Reply) {
    let (steps, step) = steps();
    let (port, thread) = serving(
        |stream| stream,
        move |connection, stream| {
            read_request(stream);
            if connection == 0 {
                stream.write_all(first.as_bytes()).unwrap();
                step(&mut || stream.write_all(unsolicited.as_bytes()).unwrap());
            } else {
                stream.write_all(SORRY.as_bytes()).unwrap();
            }
        },
    );
    let (client, url) = (client(), format!("http://127.0.0.1:{port}/hook"));
    assert_eq!(send(&client, &url), *expected);
    steps.next();
    assert_eq!(send(&client, &url), status(500), "{unsolicited:?}");
    thread.join().unwrap();
}

#[test]
fn a_second_response_that_comes_later_is_not_the_next_ones() {
    for unsolicited in [OK, "H", "\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        check_second_response(OK.to_owned(), unsolicited, &status(200));
    }
}

#[test]
fn a_second_response_with_the_first_is_not_the_next_ones() {
    check_second_response(format!("{OK}{OK}"), "", &status(200));
    // Behind a body that takes several reads.
    let body = "x".repeat(40_000);
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 40000\r\n\r\n{body}");
    check_second_response(format!("{long}{OK}"), "", &status(200));
    let failed = long.replace("200 OK", "503 Busy");
    let excerpt = Response::new(503).excerpt(body.as_bytes());
    check_second_response(format!("{failed}{OK}"), "", &Reply::Response(excerpt));
}

/// A receiver that answers as soon as it is called, before it has read anything, has answered: nothing on the
/// wire tells it from one that is quick.
#[test]
fn a_response_before_the_request_counts_over_a_new_connection() {
    let (port, thread) = serving(
        |stream| stream,
        |_, stream| {
            let close = OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
            stream.write_all(close.as_bytes()).unwrap();
            read_request(stream);
        },
    );
    let (client, url) = (client(), format!("http://127.0.0.1:{port}/hook"));
    for _ in 0..2 {
        assert_eq!(send(&client, &url), status(200));
    }
    thread.join().unwrap();
}

#[cfg(feature = "tls")]
mod tls {
    use std::sync::Arc;

    use rustls::ServerConnection;
    use wabahook::Roots;

    use super::super::authority::{Authority, server_config};
    use super::*;

    /// The server's end of TLS, whose records are written by hand.
    struct Server {
        socket: TcpStream,
        session: ServerConnection,
    }

    impl Server {
        fn new(mut socket: TcpStream, mut session: ServerConnection) -> Server {
            while session.is_handshaking() {
                session.complete_io(&mut socket).unwrap();
            }
            Server { socket, session }
        }

        fn read_request(&mut self) {
            let mut stream = rustls::Stream::new(&mut self.session, &mut self.socket);
            read_request(&mut stream);
        }

        /// What this text is as records.
        fn records(&mut self, text: &str) -> Vec<u8> {
            let mut records = Vec::new();
            self.session.writer().write_all(text.as_bytes()).unwrap();
            while self.session.wants_write() {
                self.session.write_tls(&mut records).unwrap();
            }
            records
        }
    }

    /// Answers the first request with 200 and what `unsolicited` makes, at once or later; the second with 500.
    fn check(unsolicited: fn(&mut Server) -> Vec<u8>, is_at_once: bool) {
        let authority = Authority::new("ours");
        let config = Arc::new(server_config(&authority.sign("localhost", |_| ()), None));
        let (steps, step) = steps();
        let (port, thread) = serving(
            move |stream| Server::new(stream, ServerConnection::new(Arc::clone(&config)).unwrap()),
            move |connection, server| {
                server.read_request();
                if connection == 0 {
                    let mut first = server.records(OK);
                    let mut unsolicited = unsolicited(server);
                    if is_at_once {
                        first.append(&mut unsolicited);
                    }
                    server.socket.write_all(&first).unwrap();
                    step(&mut || server.socket.write_all(&unsolicited).unwrap());
                } else {
                    let sorry = server.records(SORRY);
                    server.socket.write_all(&sorry).unwrap();
                }
            },
        );
        let roots = Roots::Given(authority.pem.clone());
        let client = http(network(&["127.0.0.0/8", "::1/128"]).roots(roots));
        let url = format!("https://localhost:{port}/hook");
        assert_eq!(send(&client, &url), status(200));
        steps.next();
        assert_eq!(send(&client, &url), status(500), "at once: {is_at_once}");
        thread.join().unwrap();
    }

    fn check_both(unsolicited: fn(&mut Server) -> Vec<u8>) {
        check(unsolicited, true);
        check(unsolicited, false);
    }

    #[test]
    fn a_second_response_under_tls_is_not_the_next_ones() {
        check_both(|server| server.records(OK));
    }

    #[test]
    fn half_a_record_is_not_the_start_of_the_next_response() {
        check_both(|server| {
            let mut records = server.records(OK);
            records.truncate(records.len() / 2);
            records
        });
        check_both(|server| server.records(OK)[..1].to_vec());
    }

    #[test]
    fn a_second_response_behind_16_kib_is_not_the_next_ones() {
        check_both(|server| {
            let body = "x".repeat(20_000);
            server.records(&format!("{body}{OK}"))
        });
    }

    /// A receiver that sends without end over a kept connection would take the thread from all others.
    #[test]
    fn an_unsolicited_stream_is_not_read_to_its_end() {
        const RECORDS: usize = 4_000;
        let authority = Authority::new("ours");
        let config = Arc::new(server_config(&authority.sign("localhost", |_| ()), None));
        let (steps, step) = steps();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            let socket = listener.accept().unwrap().0;
            let mut server = Server::new(socket, ServerConnection::new(config).unwrap());
            server.read_request();
            let first = server.records(OK);
            let piece = "x".repeat(16_000);
            let stream: Vec<_> = (0..RECORDS).map(|_| server.records(&piece)).collect();
            server.socket.write_all(&first).unwrap();
            let mut taken = 0;
            step(&mut || {
                taken =
                    stream.iter().take_while(|one| server.socket.write_all(one).is_ok()).count();
            });
            taken
        });
        let roots = Roots::Given(authority.pem.clone());
        let client = http(network(&["127.0.0.0/8", "::1/128"]).roots(roots));
        assert_eq!(send(&client, &format!("https://localhost:{port}/hook")), status(200));
        steps.next();
        let taken = thread.join().unwrap();
        assert!(taken < RECORDS / 2, "{taken}: more than the system's buffers hold");
    }

    #[test]
    fn a_connection_that_tls_says_is_closed_is_not_used_again() {
        check_both(|server| {
            server.session.send_close_notify();
            server.records("")
        });
    }
}

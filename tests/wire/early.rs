//! A response that arrives before the whole request was sent is read.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use wabahook::{Reply, Transport};

use super::client::*;

const CLOSING: &str = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const NOT_CLOSING: &str = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";

/// Answers the first connection as soon as the head arrived, without reading the body, and then does
/// what `then` says. Reads and answers every later request completely.
fn receiver(
    answer: &'static str,
    then: impl FnOnce(TcpStream) + Send + 'static,
) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        stream.write_all(answer.as_bytes()).unwrap();
        then(stream);
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        stream.read_exact(&mut [0; 2]).unwrap();
        stream.write_all(OK.as_bytes()).unwrap();
    });
    (url, serving)
}

fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
}

fn check(answer: &'static str, then: impl FnOnce(TcpStream) + Send + 'static) {
    let (url, serving) = receiver(answer, then);
    let client = client();
    let body = vec![b'x'; 16 << 20];
    assert_eq!(client.send(&request(&url, &body, 15_000)), Reply::status(413));
    // The connection is in the middle of a request and must not be reused.
    assert_eq!(send(&client, &url), status(200));
    serving.join().unwrap();
}

#[test]
fn a_413_followed_by_a_close_is_the_response() {
    check(CLOSING, drop);
    check(NOT_CLOSING, drop);
}

#[test]
fn a_413_without_reading_the_body_is_the_response() {
    let (keep, kept): (Sender<TcpStream>, _) = channel();
    check(NOT_CLOSING, move |stream| keep.send(stream).unwrap());
    drop(kept);
}

#[test]
fn a_413_while_reading_the_body_is_the_response() {
    check(CLOSING, |mut stream| {
        thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    });
}

#[test]
fn an_interim_response_before_a_pause_is_not_the_response() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // A small buffer, so that the client soon cannot write any more.
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let body = vec![b'x'; 24 << 20];
    let length = body.len();
    let (running, pause) = channel::<()>();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        // Longer than the client waits before it looks for a response.
        let _ = pause.recv_timeout(Duration::from_millis(1_000));
        stream.read_exact(&mut vec![0; length]).unwrap();
        stream.write_all(OK.as_bytes()).unwrap();
    });
    assert_eq!(client().send(&request(&url, &body, 15_000)), Reply::status(200));
    serving.join().unwrap();
    drop(running);
}

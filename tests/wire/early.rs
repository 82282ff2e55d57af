//! Promises that an answer that comes before the whole request was sent is heard.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use wabahook::{Reply, Transport};

use super::receiver::*;

const CLOSING: &str = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const NOT_CLOSING: &str = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";

/// Answers the first connection as soon as the head is there, without reading the body, and does with
/// the connection what `then` says; answers every later request in full.
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
    // The connection is in the middle of a request: it carries no other.
    assert_eq!(send(&client, &url), status(200));
    serving.join().unwrap();
}

#[test]
fn a_413_that_is_followed_by_a_close_is_the_answer() {
    check(CLOSING, drop);
    check(NOT_CLOSING, drop);
}

#[test]
fn a_413_of_a_receiver_that_reads_no_further_is_the_answer() {
    let (keep, kept): (Sender<TcpStream>, _) = channel();
    check(NOT_CLOSING, move |stream| keep.send(stream).unwrap());
    drop(kept);
}

#[test]
fn a_413_of_a_receiver_that_reads_all_the_same_is_the_answer() {
    check(CLOSING, |mut stream| {
        thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    });
}

#[test]
fn a_word_in_advance_of_a_receiver_that_pauses_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // So that the client soon can write nothing more, however slowly it writes.
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let body = vec![b'x'; 24 << 20];
    let length = body.len();
    let (running, pause) = channel::<()>();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        // Longer than it takes the client to look for an answer.
        let _ = pause.recv_timeout(Duration::from_millis(1_000));
        stream.read_exact(&mut vec![0; length]).unwrap();
        stream.write_all(OK.as_bytes()).unwrap();
    });
    assert_eq!(client().send(&request(&url, &body, 15_000)), Reply::status(200));
    serving.join().unwrap();
    drop(running);
}

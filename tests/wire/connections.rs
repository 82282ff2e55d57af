//! Connections are reused as long as they are good. A stale one is replaced once, and a broken one is a
//! failed attempt.

use std::net::TcpListener;
use std::sync::{Arc, Barrier};

use wabahook::{Failure, Reply, Response};

use super::client::*;

#[test]
fn ten_thousand_attempts_go_over_one_connection() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n{}", "x".repeat(60_000));
    let receiver = Receiver::start(move |n| match n % 100 {
        1 => say("HTTP/1.1 204 No Content\r\n\r\n"),
        2 => say(chunked),
        3 => say(&long),
        4 => say("HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno"),
        _ => say(OK),
    });
    let client = client();
    for n in 0..10_000 {
        let expected = match n % 100 {
            1 => status(204),
            4 => Reply::Response(Response::new(500).excerpt(b"no")),
            _ => status(200),
        };
        assert_eq!(send(&client, &receiver.url()), expected, "attempt {n}");
        assert_eq!(receiver.next().connection, 0, "attempt {n}");
    }
}

#[test]
fn every_authority_has_its_own_connections() {
    let (receiver, bystander) = (Receiver::start(|_| say(OK)), Receiver::start(|_| say(OK)));
    let by_name = format!("http://localhost:{}/hook", receiver.address.port());
    let client = client();
    for (url, connection) in
        [(&receiver.url(), 0), (&by_name, 1), (&receiver.url(), 0), (&by_name, 1)]
    {
        assert_eq!(send(&client, url), status(200));
        assert_eq!(receiver.next().connection, connection, "{url}");
        assert_eq!(send(&client, &bystander.url()), status(200));
        assert_eq!(bystander.next().connection, 0);
    }
}

#[test]
fn a_broken_connection_is_a_failed_attempt() {
    for answer in [
        close(),
        Act::SayAndReset(Vec::new()),
        Act::SayAndClose(b"HTTP/1.1 200 O".to_vec()),
        Act::SayAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n".to_vec()),
        Act::SayAndReset(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Act::SayAndClose(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
    ] {
        let receiver = Receiver::start(move |n| if n == 0 { answer.clone() } else { say(OK) });
        let client = client();
        assert_eq!(send(&client, &receiver.url()), failed(Failure::Connect));
        assert_eq!(receiver.next().connection, 0);
        assert!(receiver.saw_nothing());
        assert_eq!(send(&client, &receiver.url()), status(200));
        assert_eq!(receiver.next().connection, 1);
    }
}

#[test]
fn a_connection_closed_at_reuse_costs_nothing() {
    // The receiver closes right after its response, when the next request may already be on its way.
    let receiver = Receiver::start(|_| Act::SayAndClose(OK.as_bytes().to_vec()));
    let client = client();
    for connection in 0..200 {
        assert_eq!(send(&client, &receiver.url()), status(200), "attempt {connection}");
        assert_eq!(receiver.next().connection, connection);
    }
    assert!(receiver.saw_nothing());
}

#[test]
fn a_connection_reset_at_reuse_is_replaced() {
    let receiver = Receiver::start(|n| match n {
        1 => Act::SayAndReset(Vec::new()),
        _ => say(OK),
    });
    let client = client();
    for connections in [&[0][..], &[0, 1], &[1]] {
        assert_eq!(send(&client, &receiver.url()), status(200));
        for connection in connections {
            assert_eq!(receiver.next().connection, *connection);
        }
    }
    assert!(receiver.saw_nothing());
}

#[test]
fn a_closed_port_is_a_failed_connection() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(send(&client(), &format!("http://{free}/")), failed(Failure::Connect));
}

#[test]
fn a_stale_connection_is_replaced_by_a_new_one() {
    let receiver = Receiver::start(|n| if n == 1 { close() } else { say(OK) });
    let client = client();
    assert_eq!(send(&client, &receiver.url()), status(200));
    assert_eq!(receiver.next().connection, 0);
    // The second attempt finds the connection open, and the receiver closes it without a response.
    assert_eq!(send(&client, &receiver.url()), status(200));
    let (stale, fresh) = (receiver.next(), receiver.next());
    assert_eq!((stale.connection, fresh.connection), (0, 1));
    assert_eq!((stale.head, stale.body), (fresh.head, fresh.body));
    assert_eq!(send(&client, &receiver.url()), status(200));
    assert_eq!(receiver.next().connection, 1);
}

#[test]
fn a_stale_connection_is_replaced_once_and_not_again() {
    let receiver = Receiver::start(|n| if n == 0 { say(OK) } else { close() });
    let client = client();
    assert_eq!(send(&client, &receiver.url()), status(200));
    assert_eq!(send(&client, &receiver.url()), failed(Failure::Connect));
    let connections: Vec<_> = (0..3).map(|_| receiver.next().connection).collect();
    assert_eq!(connections, [0, 0, 1]);
    assert!(receiver.saw_nothing());
}

#[test]
fn a_stale_connection_is_not_replaced_by_another_kept_one() {
    let both_came = Barrier::new(2);
    let receiver = Receiver::start(move |n| {
        // The first two attempts are in flight together, so that two connections are kept.
        if n < 2 {
            both_came.wait();
        }
        if n == 2 { close() } else { say(OK) }
    });
    let client = Arc::new(client());
    let replies = [0, 1].map(|_| send_aside(&client, receiver.url(), 5_000));
    for reply in replies {
        assert_eq!(reply.recv_timeout(DEADLINE).unwrap(), status(200));
    }
    assert_eq!(receiver.next().connection + receiver.next().connection, 1);
    assert_eq!(send(&client, &receiver.url()), status(200));
    assert!(receiver.next().connection < 2);
    assert_eq!(receiver.next().connection, 2);
}

#[test]
fn a_connection_that_breaks_within_the_head_was_not_stale() {
    for cut in ["HTTP/1.1 200 O", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let answer = Act::SayAndClose(cut.as_bytes().to_vec());
        let receiver = Receiver::start(move |n| if n == 0 { say(OK) } else { answer.clone() });
        let client = client();
        assert_eq!(send(&client, &receiver.url()), status(200));
        assert_eq!(send(&client, &receiver.url()), failed(Failure::Connect));
        assert_eq!([receiver.next().connection, receiver.next().connection], [0, 0]);
        assert!(receiver.saw_nothing());
    }
}

#[test]
fn an_address_that_refuses_does_not_hide_the_others() {
    // `localhost` is v6 first on most machines, and the receiver only listens on v4.
    let receiver = Receiver::start(|_| say(OK));
    let url = format!("http://localhost:{}/", receiver.address.port());
    assert_eq!(send(&client(), &url), status(200));
    assert_eq!(receiver.next().connection, 0);
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        println!("skipped: no IPv6 on this machine");
        return;
    };
    let over_v6 = Receiver::over(listener, |stream| Some(Box::new(stream)), |_| say(OK));
    assert_eq!(send(&client(), &over_v6.url()), status(200));
    assert_eq!(over_v6.next().connection, 0);
}

//! With a proxy, every attempt goes through it and nowhere else. The receivers have names that only the proxy
//! can resolve.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver as Inbox, channel};
use std::sync::{Arc, Mutex};

use http::Method;
use wabahook::store::Memory;
use wabahook::{Config, Engine, Failure, Reason, Subscription, TestDelivery};

use super::client::*;

/// Reads up to the end of a head.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn accept_connect(stream: &mut TcpStream) -> Option<String> {
    let head = read_head(stream)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    Some(head)
}

fn accept_socks(stream: &mut TcpStream) -> Option<String> {
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting).ok()?;
    let mut methods = vec![0; usize::from(greeting[1])];
    stream.read_exact(&mut methods).ok()?;
    stream.write_all(&[5, 0]).ok()?;
    let mut asked = [0; 5];
    stream.read_exact(&mut asked).ok()?;
    assert_eq!(asked[..4], [5, 1, 0, 3], "a name for the proxy to resolve");
    let mut name = vec![0; usize::from(asked[4]) + 2];
    stream.read_exact(&mut name).ok()?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    name.truncate(name.len() - 2);
    String::from_utf8(name).ok()
}

type Prepare = dyn Fn(TcpStream) -> Option<Box<dyn Duplex>> + Send + Sync;

/// A proxy that is every receiver itself, and what each connection asked it for.
fn proxy(
    accept: fn(&mut TcpStream) -> Option<String>,
    prepare: Box<Prepare>,
    answer: impl Fn(usize) -> Act + Send + Sync + 'static,
) -> (Receiver, Inbox<String>) {
    let (tell, asked) = channel();
    let tell = Mutex::new(tell);
    let accepted = move |mut stream: TcpStream| {
        tell.lock().unwrap().send(accept(&mut stream)?).ok()?;
        prepare(stream)
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (Receiver::over(listener, accepted, answer), asked)
}

fn plain() -> Box<Prepare> {
    Box::new(|stream| Some(Box::new(stream)))
}

fn engine(change: impl FnOnce(Config) -> Config) -> Engine {
    let config = Config::new("unused").store(Arc::new(Memory::default())).allow_http(true);
    Engine::open(change(config)).unwrap()
}

fn test(engine: &Engine, subscription: Subscription) -> TestDelivery {
    let id = engine.subscribe(subscription).unwrap();
    engine.test(id).unwrap()
}

fn to(url: &str) -> Subscription {
    Subscription::to(url).unwrap().name(url.chars().take(60).collect::<String>())
}

#[test]
fn an_http_proxy_is_asked_for_every_target() {
    let (proxy, asked) = proxy(accept_connect, plain(), |n| match n {
        0 => say(OK),
        _ => say("HTTP/1.1 503 No\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nbusy"),
    });
    let engine = engine(|config| config.proxy(format!("http://user:hidden@{}", proxy.address)));
    let tested = test(&engine, to("http://crm.example/hook?a=b").method(Method::PUT));
    assert!(tested.is_delivered(), "{tested:?}");
    let head = asked.recv_timeout(DEADLINE).unwrap();
    assert!(head.starts_with("CONNECT crm.example:80 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic "), "{head}");
    let seen = proxy.next();
    assert!(seen.head.starts_with("PUT /hook?a=b HTTP/1.1\r\n"), "{}", seen.head);
    let lower = seen.head.to_ascii_lowercase();
    assert!(lower.contains("user-agent: wabahook/") && !lower.contains("accept"), "{lower}");
    assert!(!lower.contains("proxy-authorization"), "{lower}");
    let refused = test(&engine, to("http://erp.example/hook").method(Method::DELETE));
    assert_eq!((refused.status, &*refused.excerpt), (Some(503), &b"busy"[..]));
    assert!(proxy.next().body.starts_with(b"{"));
    engine.close(DEADLINE).unwrap();
}

#[test]
fn a_socks_proxy_resolves_the_names() {
    let (proxy, asked) = proxy(accept_socks, plain(), |_| say(OK));
    let engine = engine(|config| config.proxy(format!("socks5h://{}", proxy.address)));
    assert!(test(&engine, to("http://crm.example/hook")).is_delivered());
    assert_eq!(asked.recv_timeout(DEADLINE).unwrap(), "crm.example");
    engine.close(DEADLINE).unwrap();
}

#[test]
fn a_proxy_that_refuses_is_a_connection_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let refuse = |mut stream: TcpStream| {
        read_head(&mut stream)?;
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").ok()?;
        None
    };
    let proxy = Receiver::over(listener, refuse, |_| say(OK));
    let engine = engine(|config| config.proxy(format!("http://{}", proxy.address)));
    let tested = test(&engine, to("http://crm.example/hook"));
    assert_eq!(tested.reason, Some(Reason::Failed(Failure::Connect)));
    engine.close(DEADLINE).unwrap();
}

#[test]
fn the_longest_url_query_and_headers_go_out() {
    let url = format!("http://crm.example/{}", "p".repeat(2_048 - "http://crm.example/".len()));
    let largest =
        |url: &str| to(url).query("q", "\u{e4}".repeat(2_000)).header("x-large", "v".repeat(4_096));
    let (proxy, _asked) = proxy(accept_connect, plain(), |_| say(OK));
    let through = engine(|config| config.proxy(format!("http://{}", proxy.address)));
    assert!(test(&through, largest(&url)).is_delivered());
    assert!(proxy.next().head.len() > 2_048 + 12_000 + 4_096);
    let receiver = Receiver::start(|_| say(OK));
    let direct = engine(|config| config.allow_addresses(["127.0.0.0/8".parse().unwrap()]));
    let begin = format!("http://{}/", receiver.address);
    let url = format!("{begin}{}", "p".repeat(2_048 - begin.len()));
    assert!(test(&direct, largest(&url)).is_delivered());
    assert!(receiver.next().head.len() > 2_048 + 12_000 + 4_096);
    for engine in [through, direct] {
        engine.close(DEADLINE).unwrap();
    }
}

#[cfg(feature = "tls")]
#[test]
fn tls_goes_through_the_proxy_and_checks_the_receiver() {
    use rustls::{ServerConnection, StreamOwned};
    use wabahook::{Roots, Tls};

    use super::authority::{Authority, server_config};

    let authority = Authority::new("ours");
    let pair = authority.sign("crm.example", |_| {});
    let config = Arc::new(server_config(&pair, None));
    let secure = move |mut stream: TcpStream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut stream).ok()?;
        }
        Some(Box::new(StreamOwned::new(session, stream)) as Box<dyn Duplex>)
    };
    let (proxy, _asked) = proxy(accept_connect, Box::new(secure), |_| say(OK));
    let engine =
        engine(|config| config.proxy(format!("http://{}", proxy.address)).roots(Roots::Bundled));
    let trusting = || Tls::default().roots(authority.pem.clone());
    let tested = test(&engine, to("https://crm.example/hook").tls(trusting()));
    assert!(tested.is_delivered(), "{tested:?}");
    for (url, tls, word) in [
        ("https://crm.example/other", None, "unknown_issuer"),
        ("https://erp.example/hook", Some(trusting()), "name"),
    ] {
        let subscription = tls.into_iter().fold(to(url), Subscription::tls);
        let tested = test(&engine, subscription);
        assert_eq!(tested.reason, Some(Reason::Failed(Failure::Tls(word.to_owned()))), "{url}");
    }
    engine.close(DEADLINE).unwrap();
}

//! No spelling of a non-public address is reached or registered, and an allowed range is. The exact
//! bounds of the ranges, and names with several or changing addresses, are tested in the guard and the
//! resolver.

use std::net::TcpListener;
use std::sync::Arc;

use wabahook::clock::ManualClock;
use wabahook::store::Memory;
use wabahook::{Config, Engine, Failure, Subscription};

use super::client::*;

/// Spellings of hosts, and the rule that refuses each when a connection is made; `?` where the system
/// does not read it as an address and would ask the network.
const SPELLINGS: &[(&str, &str)] = &[
    // Loopback.
    ("127.0.0.1", "loopback"),
    ("127.0.0.2", "loopback"),
    ("127.255.255.254", "loopback"),
    ("2130706433", "loopback"),
    ("017700000001", "loopback"),
    ("0x7f000001", "loopback"),
    ("0X7F000001", "loopback"),
    ("0x7F000001", "loopback"),
    ("127.1", "loopback"),
    ("127.0.1", "loopback"),
    ("127.0x1", "loopback"),
    ("0177.0.0.1", "loopback"),
    ("0x7f.1", "loopback"),
    ("0x7f.0x0.0x0.0x1", "loopback"),
    ("0177.0.0.01", "loopback"),
    ("127.0.0.01", "loopback"),
    ("127.000.000.001", "loopback"),
    ("127.0.0.1.", "?"),
    ("127.1.", "?"),
    ("[::1]", "loopback"),
    ("[0:0:0:0:0:0:0:1]", "loopback"),
    ("[0000:0000:0000:0000:0000:0000:0000:0001]", "loopback"),
    ("[::0001]", "loopback"),
    ("[::ffff:127.0.0.1]", "loopback"),
    ("[::FFFF:127.0.0.1]", "loopback"),
    ("[::ffff:7f00:1]", "loopback"),
    ("[0:0:0:0:0:ffff:7f00:0001]", "loopback"),
    ("[::ffff:0:127.0.0.1]", "loopback"),
    ("[::127.0.0.1]", "loopback"),
    ("[::1%25lo]", "?"),
    // The machine itself, in another spelling.
    ("0.0.0.0", "unspecified"),
    ("0", "unspecified"),
    ("0x0", "unspecified"),
    ("[::]", "unspecified"),
    ("[0::0]", "unspecified"),
    ("[::ffff:0.0.0.0]", "unspecified"),
    ("0.0.0.1", "this_network"),
    // Private networks.
    ("10.0.0.1", "private"),
    ("10.1", "private"),
    ("167772161", "private"),
    ("0xa000001", "private"),
    ("012.0.0.1", "private"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("0xac.0x10.0.1", "private"),
    ("192.168.1.1", "private"),
    ("192.168.257", "private"),
    ("3232235777", "private"),
    ("0xc0a80101", "private"),
    ("0300.0250.1.1", "private"),
    ("[::ffff:192.168.1.1]", "private"),
    ("[::ffff:c0a8:101]", "private"),
    ("[fd00::1]", "unique_local"),
    ("[FC00::1]", "unique_local"),
    ("[fec0::1]", "site_local"),
    // Metadata services and the link.
    ("169.254.169.254", "link_local"),
    ("2852039166", "link_local"),
    ("0xa9fea9fe", "link_local"),
    ("0251.0376.0251.0376", "link_local"),
    ("169.254.43518", "link_local"),
    ("[::ffff:169.254.169.254]", "link_local"),
    ("[::ffff:a9fe:a9fe]", "link_local"),
    ("[fe80::1]", "link_local"),
    ("[fe80::1%25eth0]", "?"),
    ("[fe80::1%eth0]", "?"),
    ("[fd00:ec2::254]", "unique_local"),
    ("168.63.129.16", "metadata"),
    ("100.100.100.200", "cgnat"),
    ("100.64.0.1", "cgnat"),
    // Other forms that contain an address.
    ("[64:ff9b::7f00:1]", "nat64"),
    ("[64:ff9b::127.0.0.1]", "nat64"),
    ("[64:ff9b::10.0.0.1]", "nat64"),
    ("[64:ff9b:1::a00:1]", "nat64"),
    ("[2002:7f00:1::]", "6to4"),
    ("[2002:a00:1::1]", "6to4"),
    ("192.88.99.1", "6to4"),
    ("[2001:0:7f00:1::]", "teredo"),
    ("[::ffff:8.8.8.8]", "v4_mapped"),
    ("[::8.8.8.8]", "v4_mapped"),
    // Addresses that no host has.
    ("192.0.0.8", "protocol_assignments"),
    ("192.0.2.1", "documentation"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("[2001:db8::1]", "documentation"),
    ("[3fff::1]", "documentation"),
    ("198.18.0.1", "benchmarking"),
    ("224.0.0.1", "multicast"),
    ("[ff02::1]", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("4294967295", "broadcast"),
    ("[100::1]", "discard"),
    ("[5f00::1]", "reserved"),
];

fn engine(allow: &[&str]) -> Engine {
    let config = Config::new("unused")
        .store(Arc::new(Memory::default()))
        .clock(Arc::new(ManualClock::new(WALL_MS, 1)))
        .allow_http(true)
        .allow_addresses(allow.iter().map(|range| range.parse().unwrap()));
    Engine::open(config).unwrap()
}

#[test]
fn no_spelling_of_an_address_that_is_not_public_is_reached() {
    let receiver = Receiver::start(|_| say(OK));
    let port = receiver.address.port();
    let client = http(network(&[]));
    for (host, rule) in SPELLINGS.iter().filter(|(_, rule)| *rule != "?") {
        let reply = send(&client, &format!("http://{host}:{port}/"));
        assert_eq!(reply, failed(Failure::Guard((*rule).to_owned())), "{host}");
    }
    assert!(receiver.saw_nothing());
}

#[test]
fn no_spelling_of_an_address_that_is_not_public_is_registered() {
    let engine = engine(&[]);
    let mut refused = 0;
    for (host, _) in SPELLINGS {
        // What is not a URL is refused before the guard.
        let given = Subscription::to(format!("http://{host}/hook"));
        let error = given.and_then(|given| engine.subscribe(given)).unwrap_err();
        assert_eq!(error.field(), Some("url"), "{host}");
        refused += 1;
    }
    assert!(refused >= 60, "{refused}");
    assert!(engine.subscribe(Subscription::to("http://crm.example/hook").unwrap()).is_ok());
}

#[test]
fn only_an_allowed_range_is_reached_and_registered() {
    let receiver = Receiver::start(|_| say(OK));
    let port = receiver.address.port();
    let refused = |rule: &str| failed(Failure::Guard(rule.to_owned()));
    let admitted = http(network(&["127.0.0.0/8"]));
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"] {
        assert_eq!(send(&admitted, &format!("http://{host}:{port}/")), status(200), "{host}");
        assert_eq!(receiver.next().body, b"{}", "{host}");
    }
    assert_eq!(send(&admitted, &format!("http://[::1]:{port}/")), refused("loopback"));
    let elsewhere = http(network(&["10.0.0.0/8", "::/0"]));
    assert_eq!(send(&elsewhere, &receiver.url()), refused("loopback"));
    assert!(receiver.saw_nothing());

    let engine = engine(&["127.0.0.0/8"]);
    for (url, admitted) in
        [("http://127.0.0.1:9/", true), ("http://10.0.0.1/", false), ("http://127.1/", false)]
    {
        let given = Subscription::to(url).unwrap();
        assert_eq!(engine.subscribe(given).is_ok(), admitted, "{url}");
    }
}

#[test]
fn a_name_is_judged_by_its_addresses() {
    let receiver = Receiver::start(|_| say(OK));
    let url = format!("http://localhost:{}/", receiver.address.port());
    let loopback = failed(Failure::Guard("loopback".to_owned()));
    assert_eq!(send(&http(network(&["10.0.0.0/8"])), &url), loopback);
    assert!(receiver.saw_nothing());
    assert_eq!(send(&client(), &url), status(200));
    assert_eq!(receiver.next().connection, 0);
}

#[test]
fn a_name_that_does_not_resolve_is_a_dns_failure() {
    // Too long for a label, so that the answer needs no network.
    let url = format!("http://{}.example/", "a".repeat(64));
    assert_eq!(send(&client(), &url), failed(Failure::Dns));
    // A refusal has no effect on later requests.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(send(&client(), &format!("http://{free}/")), failed(Failure::Connect));
}

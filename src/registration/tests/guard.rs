//! The address guard applies to test events as to deliveries, also when a name changes to an internal
//! address after the registration.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use http::Request;
use serde_json::{Value, json};

use crate::clock::ManualClock;
use crate::delivery::Http;
use crate::engine::{DeadLetterFilter, TestDelivery};
use crate::event::Event;
use crate::network::Network;
use crate::registration::test_support::TestGateway;
use crate::subscription::{Subscription, SubscriptionId};
use crate::testing::{DEADLINE, is_within};

/// Longer than a DNS result is cached and an idle connection is kept.
const LATER_MS: u64 = 600_000;

/// A receiver on loopback that acknowledges everything and reports the host of each request.
fn receiver() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = unbounded();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let tell = tell.clone();
            thread::spawn(move || converse(stream, &tell));
        }
    });
    (port, told)
}

fn converse(stream: TcpStream, tell: &Sender<String>) -> Option<()> {
    let mut answers = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut host, mut body_bytes) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            match line.trim_end().split_once(": ") {
                Some(("host", value)) => value.split(':').next()?.clone_into(&mut host),
                Some(("content-length", value)) => body_bytes = value.parse().ok()?,
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        reader.read_exact(&mut vec![0; body_bytes]).ok()?;
        answers.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
        tell.send(host).ok()?;
    }
}

/// A gateway on the real transport, with a resolver under the test's control.
struct GuardedGateway {
    gateway: TestGateway,
    clock: Arc<ManualClock>,
    turned: Arc<AtomicBool>,
    port: u16,
    told: Receiver<String>,
}

impl GuardedGateway {
    fn new() -> GuardedGateway {
        let clock = Arc::new(ManualClock::new(1_700_000_000_000, 3));
        let turned = Arc::new(AtomicBool::new(false));
        let has_turned = Arc::clone(&turned);
        let ask = move |host: &str| {
            let internal = host == "turns.example" && has_turned.load(Ordering::SeqCst);
            Ok(vec![IpAddr::from(if internal { [10, 0, 0, 1] } else { [127, 0, 0, 1] })])
        };
        let allow = vec!["127.0.0.0/8".parse().unwrap()];
        let network = Network { allow, allow_http: true, ..Network::default() };
        let http = Http::looking_up(network.clone(), clock.clone(), ask);
        let gateway = TestGateway::with(|config| {
            let config = config.clock(clock.clone()).transport(Arc::new(http)).allow_http(true);
            config.allow_addresses(network.allow)
        });
        let (port, told) = receiver();
        GuardedGateway { gateway, clock, turned, port, told }
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/hook", self.port)
    }

    fn call(&self, path: &str, body: &Value) -> Value {
        let request = Request::post(path).header("authorization", "acme-key");
        let answered = self.gateway.respond(&request.body(body.to_string().into_bytes()).unwrap());
        assert!((200..300).contains(&answered.status), "{answered:?}");
        answered.body
    }

    /// A webhook of the session gateway, by its id.
    fn registered(&self, host: &str) -> SubscriptionId {
        let body = self.call("/webhooks", &json!({"url": self.url(host)}));
        SubscriptionId(u32::try_from(body["data"]["id"].as_u64().unwrap()).unwrap())
    }

    /// The error of the gateway's test event, if it failed.
    fn tested(&self, id: SubscriptionId) -> Value {
        self.call(&format!("/webhooks/{id}/test"), &json!({}))["data"]["last_error"].clone()
    }

    fn publish(&self) {
        let event = Event::new("MESSAGE_RECEIVED", "{}").account("acme").number("919999999999");
        let receipt = self.gateway.engine.publish(event).unwrap();
        receipt.wait_timeout(DEADLINE).unwrap().unwrap();
    }

    fn host_told(&self) -> String {
        self.told.recv_timeout(DEADLINE).unwrap()
    }
}

fn reason(tested: &TestDelivery) -> Option<String> {
    tested.reason.as_ref().map(ToString::to_string)
}

#[test]
fn a_name_that_changes_to_an_internal_address_is_refused() {
    let bed = GuardedGateway::new();
    let engine = &bed.gateway.engine;
    let session = bed.registered("turns.example");
    let own = Subscription::to(bed.url("turns.example")).unwrap().name("own").account("acme");
    let own = engine.subscribe(own).unwrap();
    let bystander = bed.registered("stays.example");
    for (id, host) in [(session, "turns.example"), (bystander, "stays.example")] {
        assert_eq!(bed.tested(id), Value::Null);
        assert_eq!(bed.host_told(), host);
    }
    assert_eq!(reason(&engine.test(own).unwrap()), None);
    assert_eq!(bed.host_told(), "turns.example");

    bed.turned.store(true, Ordering::SeqCst);
    bed.clock.advance(Duration::from_millis(LATER_MS));
    assert_eq!(bed.tested(session), "guard:private");
    assert_eq!(reason(&engine.test(own).unwrap()).as_deref(), Some("guard:private"));
    bed.publish();
    let letters = || engine.dead_letters(&DeadLetterFilter::default(), None, 10).unwrap().items;
    assert!(is_within(DEADLINE, || letters().len() == 2), "too late");
    for letter in letters() {
        assert_eq!(letter.reason.to_string(), "guard:private");
        assert!([session, own].contains(&letter.subscription), "{letter:?}");
    }
    assert_eq!(bed.host_told(), "stays.example");
    assert_eq!(bed.tested(bystander), Value::Null);
    assert_eq!(bed.host_told(), "stays.example");
    assert!(bed.told.is_empty(), "nothing else arrived anywhere");
}

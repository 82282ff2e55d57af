//! Every kind of target is sent the request that `docs/requests.md` or `request_bytes.md` shows, byte for byte, over a
//! real socket, and the receivers' own libraries accept the signatures.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use standardwebhooks::Webhook;
use wabahook::clock::ManualClock;
use wabahook::store::Memory;
use wabahook::{
    Authorization, BodyFormat, Config, DeadLetterFilter, Engine, Event, Profile, Subscription,
};

use crate::support::http_receiver::{Attempt, Receiver, say};
use crate::support::{DEADLINE, wait_until};

const PAGE: &str =
    concat!(include_str!("../../docs/requests.md"), include_str!("request_bytes.md"));
const PAYLOAD: &str = r#"{"text": "caf\u00e9", "n": 1.0}"#;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BEGIN_WALL_MS: u64 = 1_700_000_000_123;

/// One request as it arrived.
struct Arrival {
    /// The last part of the path, which names the shape.
    shape: String,
    /// The request line without that part. The sorted header lines follow.
    line: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Arrival {
    fn value(&self, name: &str) -> Option<&str> {
        let values = self.headers.iter().filter_map(|line| line.split_once(": "));
        let found: Vec<_> = values.filter(|(known, _)| *known == name).collect();
        assert!(found.len() < 2, "{name} twice");
        found.first().map(|(_, value)| *value)
    }
}

/// A receiver that answers 200.
fn receiver() -> Receiver {
    Receiver::start(|_| say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))
}

impl From<Attempt> for Arrival {
    fn from(Attempt { head, body, .. }: Attempt) -> Arrival {
        let (line, lines) = head.trim_end().split_once("\r\n").unwrap();
        let (before, rest) = line.split_once("/hook/").unwrap();
        let (shape, after) = rest.split_once('?').unwrap();
        let mut headers: Vec<_> = lines.split("\r\n").map(str::to_owned).collect();
        headers.sort_unstable();
        Arrival { shape: shape.to_owned(), line: format!("{before}/hook?{after}"), headers, body }
    }
}

fn on_loopback(config: Config) -> Engine {
    let config = config.store(Arc::new(Memory::default())).allow_http(true);
    Engine::open(config.allow_addresses(["127.0.0.0/8".parse().unwrap()])).unwrap()
}

/// A target of the page's examples.
struct Shape {
    method: Method,
    format: BodyFormat,
    authorization: Option<(Authorization, &'static str)>,
    extras: bool,
    profile: Profile,
}

impl Shape {
    /// The heading of the block that shows its request.
    fn heading(&self) -> String {
        let carrier = match (&self.method, self.format) {
            _ if self.profile == Profile::Session => {
                return "The session gateway's profile:".into();
            }
            (&Method::GET | &Method::HEAD, _) => "GET and HEAD",
            (_, BodyFormat::FormData) => "A form",
            _ => "JSON",
        };
        format!("{carrier}, {}:", if self.extras { "with extras" } else { "nothing added" })
    }

    fn subscription(&self, address: SocketAddr, name: &str) -> Subscription {
        let url = format!("http://{address}/hook/{name}?own=1");
        let mut subscription = Subscription::to(url)
            .unwrap()
            .name(name)
            .secret(SECRET)
            .method(self.method.clone())
            .body_format(self.format)
            .profile(self.profile);
        if let Some((authorization, _)) = &self.authorization {
            subscription = subscription.authorization(authorization.clone());
        }
        if self.extras {
            subscription = subscription
                .header("x-tenant", "acme")
                .query("campaign", "spring sale")
                .body("n", "2")
                .body("source", r#""wabahook""#);
        }
        subscription
    }
}

fn shapes() -> Vec<Shape> {
    let methods =
        [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD];
    let authorizations = [
        None,
        Some((Authorization::basic("user:password"), "Basic dXNlcjpwYXNzd29yZA==")),
        Some((Authorization::bearer("token"), "Bearer token")),
    ];
    let mut shapes = Vec::new();
    for method in methods {
        for format in [BodyFormat::Json, BodyFormat::FormData] {
            for authorization in &authorizations {
                for extras in [false, true] {
                    shapes.push(Shape {
                        method: method.clone(),
                        format,
                        authorization: authorization.clone(),
                        extras,
                        profile: Profile::Wabahook,
                    });
                }
            }
        }
    }
    assert_eq!(shapes.len(), 72);
    let profiles =
        [Profile::DoubleTick, Profile::BusinessApi, Profile::Dialog360, Profile::Session];
    shapes.extend(profiles.map(|profile| Shape {
        method: Method::POST,
        format: BodyFormat::Json,
        authorization: None,
        extras: false,
        profile,
    }));
    shapes
}

/// The block of the page under a heading, as head and body.
fn block(heading: &str) -> (&'static str, &'static str) {
    let marked = format!("\n{heading}\n\n```http\n");
    let (_, after) = PAGE.split_once(marked.as_str()).unwrap_or_else(|| panic!("no {heading}"));
    let (block, _) = after.split_once("\n```").unwrap();
    block.split_once("\n\n").unwrap_or((block.trim_end(), ""))
}

fn hub(body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body);
    let hex =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("sha256={hex}")
}

/// What the page says of a shape, filled in: the request line, the other lines, the body.
fn documented(shape: &Shape, host: &str, id: &str) -> (String, Vec<String>, Vec<u8>) {
    let (head, body) = block(&shape.heading());
    let head = head.replace("{headers}", block("In every request, as `{headers}`:").0);
    let mut body = body.replace("{id}", id);
    if body.starts_with("--") {
        body = body.replace('\n', "\r\n") + "\r\n";
    }
    let signed = match shape.extras {
        _ if !body.is_empty() => body.as_str(),
        true => r#"{"text":"caf\u00e9","n":1.0,"source":"wabahook"}"#,
        false => r#"{"text":"caf\u00e9","n":1.0}"#,
    };
    let timestamp_s = i64::try_from(BEGIN_WALL_MS / 1_000).unwrap();
    let v1 = Webhook::new(SECRET).unwrap().sign(id, timestamp_s, signed.as_bytes()).unwrap();
    let authorization = shape.authorization.as_ref().map(|(_, value)| *value);
    let head = head
        .replace("{method}", shape.method.as_str())
        .replace("{host}", host)
        .replace("{version}", env!("CARGO_PKG_VERSION"))
        .replace("{id}", id)
        .replace("{timestamp}", &timestamp_s.to_string())
        .replace("{v1}", &v1)
        .replace("{hub}", &hub(signed.as_bytes()))
        .replace("{authorization}", authorization.unwrap_or("none"));
    let mut lines: Vec<_> = head.lines().map(str::to_owned).collect();
    lines.retain(|line| line != "authorization: none");
    let line = lines.remove(0);
    lines.sort_unstable();
    (line, lines, body.into_bytes())
}

#[test]
fn every_target_is_sent_the_documented_request() {
    let receiver = receiver();
    let address = receiver.address;
    let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 5));
    let engine = on_loopback(Config::new("unused").clock(clock));
    let shapes: HashMap<_, _> =
        shapes().into_iter().enumerate().map(|(n, shape)| (n.to_string(), shape)).collect();
    for (name, shape) in &shapes {
        engine.subscribe(shape.subscription(address, name)).unwrap();
    }
    let event = Event::new("MESSAGE_RECEIVED", PAYLOAD).number("919999999999");
    let accepted = engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    let mut seen = Vec::new();
    for _ in 0..shapes.len() {
        let arrival = Arrival::from(receiver.next());
        let shape = &shapes[&arrival.shape];
        let what = format!("{:?} {}", shape.profile, arrival.line);
        let (line, headers, body) =
            documented(shape, &address.to_string(), &accepted.id.to_string());
        assert_eq!(arrival.line, line, "{what}");
        assert_eq!(arrival.headers, headers, "{what}");
        let [sent, shown] = [&arrival.body, &body].map(|body| String::from_utf8_lossy(body));
        assert_eq!(sent, shown, "{what}");
        seen.push(arrival.shape);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), shapes.len(), "each once");
    engine.close(DEADLINE).unwrap();
    assert!(receiver.saw_nothing());
}

fn headers_of(arrival: &Arrival) -> HeaderMap {
    let pairs = arrival.headers.iter().map(|line| line.split_once(": ").unwrap());
    let parsed = |(name, value): (&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
    };
    pairs.map(parsed).collect()
}

/// Publishes once and returns what the one receiver got.
fn delivered(engine: &Engine, receiver: &Receiver) -> Arrival {
    let event = Event::new("MESSAGE_RECEIVED", PAYLOAD).number("919999999999");
    engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    receiver.next().into()
}

/// Whether a receiver with this secret accepts a delivery, by the official library of Standard Webhooks
/// and by Svix's, which must agree.
fn is_accepted_with(secret: &str, arrival: &Arrival) -> bool {
    let headers = headers_of(arrival);
    let official = Webhook::new(secret).unwrap().verify(&arrival.body, &headers);
    let svix = svix::webhooks::Webhook::new(secret).unwrap().verify(&arrival.body, &headers);
    assert_eq!(official.is_ok(), svix.is_ok(), "{official:?} and {svix:?}: {headers:?}");
    svix.is_ok()
}

const NEWER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

#[test]
fn receiver_libraries_accept_rotated_secrets() {
    let receiver = receiver();
    let address = receiver.address;
    let engine = on_loopback(Config::new("unused"));
    let url = format!("http://{address}/hook/rotated?own=1");
    let id = engine.subscribe(Subscription::to(url).unwrap().secret(SECRET)).unwrap();
    let check = |accepted_by: &[&str], refused_by: &[&str], latest: &str| {
        let arrival = delivered(&engine, &receiver);
        let accepts = |secret: &&str| is_accepted_with(secret, &arrival);
        assert!(accepted_by.iter().all(accepts), "{:?}", arrival.headers);
        assert!(!refused_by.iter().any(accepts), "{:?}", arrival.headers);
        let signer = wabahook::signature::Signer::new(&wabahook::Secret::new(latest)).unwrap();
        let hub = signer.hub(&arrival.body);
        assert_eq!(arrival.value("x-hub-signature-256"), Some(hub.as_str()), "the newest alone");
    };
    check(&[SECRET], &[NEWER], SECRET);
    let newer = Some(wabahook::Secret::new(NEWER));
    engine.rotate_secret(id, newer.clone(), Duration::from_secs(3_600)).unwrap();
    check(&[SECRET, NEWER], &[], NEWER);
    engine.rotate_secret(id, newer, Duration::ZERO).unwrap();
    check(&[NEWER], &[SECRET], NEWER);
    engine.close(DEADLINE).unwrap();
}

#[cfg(feature = "v1a")]
#[test]
fn a_secret_and_a_key_pair_sign_in_one_header() {
    use wabahook::Secret;
    use wabahook::signature::{SignatureHeaders, TOLERANCE, verify};
    const PRIVATE: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    let receiver = receiver();
    let address = receiver.address;
    let engine = on_loopback(Config::new("unused"));
    let url = format!("http://{address}/hook/pair?own=1");
    let id = engine.subscribe(Subscription::to(url).unwrap().secret(SECRET)).unwrap();
    engine.rotate_secret(id, Some(Secret::new(PRIVATE)), Duration::from_secs(3_600)).unwrap();
    let arrival = delivered(&engine, &receiver);
    let signature = arrival.value("webhook-signature").unwrap();
    let versions: Vec<_> = signature.split(' ').map(|one| one.split_once(',').unwrap().0).collect();
    assert_eq!(versions, ["v1a", "v1"]);
    assert!(is_accepted_with(SECRET, &arrival) && !is_accepted_with(NEWER, &arrival));
    let timestamp = arrival.value("webhook-timestamp").unwrap();
    let received =
        SignatureHeaders { id: arrival.value("webhook-id").unwrap(), timestamp, signature };
    let now_s = timestamp.parse::<u64>().unwrap() + 1;
    for secret in [PUBLIC, SECRET] {
        let verdict = verify(&Secret::new(secret), &received, &arrival.body, now_s, TOLERANCE);
        assert_eq!(verdict, Ok(()), "{secret}");
    }
    let other = verify(&Secret::new(NEWER), &received, &arrival.body, now_s, TOLERANCE);
    assert!(other.is_err());
    engine.close(DEADLINE).unwrap();
}

#[test]
fn an_event_too_large_for_a_query_is_a_dead_letter() {
    let receiver = receiver();
    let address = receiver.address;
    let engine = on_loopback(Config::new("unused"));
    let to = |name: &str| Subscription::to(format!("http://{address}/hook/{name}?own=1")).unwrap();
    let get = engine.subscribe(to("get").name("get").method(Method::GET)).unwrap();
    engine.subscribe(to("bystander").name("bystander")).unwrap();
    let publish = |letters: usize| {
        let payload = format!("\"{}\"", "a".repeat(letters));
        let event = Event::new("MESSAGE_RECEIVED", payload.clone()).number("919999999999");
        engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
        payload
    };
    // Encoded, each quote takes three bytes.
    let fits = publish(8_192 - 6);
    for _ in 0..2 {
        let arrival = Arrival::from(receiver.next());
        match arrival.shape.as_str() {
            "get" => assert!(arrival.line.len() > 8_192, "{}", arrival.line.len()),
            _ => assert_eq!(arrival.body, fits.as_bytes()),
        }
    }
    let exceeds = publish(8_192 - 5);
    let arrival = Arrival::from(receiver.next());
    assert_eq!((arrival.shape.as_str(), arrival.body), ("bystander", exceeds.into_bytes()));
    let mut letters = Vec::new();
    assert!(wait_until(|| {
        letters = engine.dead_letters(&DeadLetterFilter::default(), None, 10).unwrap().items;
        !letters.is_empty()
    }));
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((letter.subscription, letter.attempts), (get, 1));
    assert_eq!(letter.reason.to_string(), "too_large");
    engine.close(Duration::from_secs(5)).unwrap();
    assert!(receiver.saw_nothing(), "and nothing was sent");
}

//! The ten receivers of the demo on loopback. Each checks the signature, responds as its behaviour says, and
//! writes its response into the ledger before it is sent, so that the ledger has every delivery that the
//! engine may count as delivered.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use sha2::Sha256;
use tokio::net::{TcpListener, TcpSocket};
use wabahook::clock::{Clock, SystemClock};

use super::endpoints::{Behaviour, DemoEndpoint, NumberOrWaba};
use super::ledger::{AnsweredRequest, DeliveryLedger};
use super::samples::owner_of;

/// State that all receivers share.
#[derive(Clone)]
pub(super) struct DemoStage {
    /// Started with the demo.
    pub(super) clock: Arc<SystemClock>,
    pub(super) show_ms: u64,
    pub(super) ledger: Arc<Mutex<DeliveryLedger>>,
}

/// The receivers; they run as long as this is kept.
pub(super) struct DemoReceivers {
    /// The URL of each endpoint, by its index.
    pub(super) urls: Vec<String>,
    /// Bound but not listening: the system refuses connections and gives the port to no other process.
    _refusing: Vec<TcpSocket>,
}

struct DemoReceiver {
    index: usize,
    behaviour: Behaviour,
    key: Vec<u8>,
    stage: DemoStage,
}

/// Starts each on its own port.
pub(super) async fn start(
    endpoints: &[DemoEndpoint],
    stage: &DemoStage,
) -> std::io::Result<DemoReceivers> {
    let mut receivers = DemoReceivers { urls: Vec::new(), _refusing: Vec::new() };
    for (index, endpoint) in endpoints.iter().enumerate() {
        let address = if endpoint.behaviour == Behaviour::Dead {
            let socket = TcpSocket::new_v4()?;
            socket.bind(([127, 0, 0, 1], 0).into())?;
            let address = socket.local_addr()?;
            receivers._refusing.push(socket);
            address
        } else {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            let address = listener.local_addr()?;
            let receiver = DemoReceiver {
                index,
                behaviour: endpoint.behaviour,
                key: endpoint.signing_key(),
                stage: stage.clone(),
            };
            let router = Router::new().route("/hook", post(receive)).with_state(Arc::new(receiver));
            tokio::spawn(async move { axum::serve(listener, router).await });
            address
        };
        receivers.urls.push(format!("http://{address}/hook"));
    }
    Ok(receivers)
}

async fn receive(
    State(receiver): State<Arc<DemoReceiver>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let stage = &receiver.stage;
    let Some(mut exchange) = read(receiver.index, &headers, &body) else {
        stage.ledger.lock().forged += 1;
        return StatusCode::BAD_REQUEST.into_response();
    };
    if !is_signed(&receiver.key, &headers, &body) {
        stage.ledger.lock().forged += 1;
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let answer = receiver.behaviour.response(stage.clock.monotonic_ms(), stage.show_ms);
    if answer.after_ms > 0 {
        // If the engine closes the connection meanwhile, the server drops this call here.
        tokio::time::sleep(Duration::from_millis(answer.after_ms)).await;
    }
    exchange.status = answer.status;
    exchange.at_ms = stage.clock.wall_ms();
    stage.ledger.lock().answered(exchange);
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = status.into_response();
    if let Some(seconds) = answer.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The request without its response; `None` where it lacks a header that every delivery has.
fn read(endpoint: usize, headers: &HeaderMap, body: &[u8]) -> Option<AnsweredRequest> {
    let number =
        text(headers, "x-webhook-number").map(|number| NumberOrWaba::Number(number.to_owned()));
    Some(AnsweredRequest {
        endpoint,
        event: text(headers, "webhook-id")?.parse().ok()?,
        event_type: text(headers, "x-webhook-event")?.to_owned(),
        owner: number.or_else(|| owner_of(body))?,
        attempt: text(headers, "x-webhook-attempt")?.parse().ok()?,
        status: 0,
        at_ms: 0,
        checksum: crc32fast::hash(body),
    })
}

/// Standard Webhooks `v1`, computed here and not by the library: otherwise the same mistake on both sides
/// would pass.
fn is_signed(key: &[u8], headers: &HeaderMap, body: &[u8]) -> bool {
    let parts = (
        text(headers, "webhook-id"),
        text(headers, "webhook-timestamp"),
        text(headers, "webhook-signature"),
    );
    let (Some(id), Some(timestamp), Some(signatures)) = parts else { return false };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return false };
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    let mut given = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
    given.any(|signature| {
        STANDARD.decode(signature).is_ok_and(|bytes| mac.clone().verify_slice(&bytes).is_ok())
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's own test suite.
    fn signed_headers() -> (Vec<u8>, HeaderMap, &'static [u8]) {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", "v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        (key, headers, br#"{"test": 2432232314}"#)
    }

    #[test]
    fn only_the_unchanged_example_verifies() {
        let (key, headers, body) = signed_headers();
        assert!(is_signed(&key, &headers, body));
        assert!(!is_signed(b"another key", &headers, body));
        assert!(!is_signed(&key, &headers, br#"{"test": 2432232315}"#));
        let mut later = headers.clone();
        later.insert("webhook-timestamp", HeaderValue::from_static("1614265331"));
        assert!(!is_signed(&key, &later, body));
        let mut unsigned = headers.clone();
        unsigned.remove("webhook-signature");
        assert!(!is_signed(&key, &unsigned, body));
        assert!(is_signed(&key, &headers, body));
    }
}

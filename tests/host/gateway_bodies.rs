//! One callback of Meta, as the receivers of all gateways get it; and what HTTP clients of the gateways send.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::host_process::{ACME, BETA, HostProcess};
use crate::meta_callbacks::post_signed;
use crate::receiver::{Attempt, Receiver};

const MESSAGE: &str = r#"{"object":"whatsapp_business_account","entry":[{"id":"100000000000001","changes":[{"value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"919000000001","phone_number_id":"7"},"contacts":[{"profile":{"name":"Asha"},"wa_id":"919812300001"}],"messages":[{"from":"919812300001","id":"wamid.1","timestamp":"1700000000","type":"text","text":{"body":"hi"}}]},"field":"messages"}]}]}"#;

/// Registers a webhook through a gateway's API.
fn register(served: &HostProcess, header: &str, path: &str, body: &Value) {
    let answer = served.request("POST", path, &[(header, ACME)], body.to_string().as_bytes());
    assert!(answer.status < 300, "{path}: {answer:?}");
}

fn body_of(attempt: &Attempt) -> Value {
    serde_json::from_slice(&attempt.body).unwrap()
}

#[test]
fn each_gateways_receiver_gets_its_own_body() {
    let (_place, served) = HostProcess::fresh();
    let [doubletick, meta, session, premises, dialog360, own, beta] =
        [(); 7].map(|()| Receiver::answering(200));
    served.subscribe(BETA, &beta.url("/beta"), json!({}));
    let events = json!({"events": ["MESSAGE_RECEIVED"]});
    served.subscribe(ACME, &own.url("/own"), events);
    let webhook = |name: &str, url: String| {
        json!({"method": "POST", "url": url, "name": name, "webhookEvents": ["MESSAGE_RECEIVED"],
            "wabaNumbers": ["919000000001"]})
    };
    let mut as_meta = webhook("meta", meta.url("/"));
    as_meta["payload"] = json!("meta");
    register(&served, "authorization", "/v2/webhook/register", &webhook("dt", doubletick.url("/")));
    register(&served, "authorization", "/v2/webhook/register", &as_meta);
    let webhook = json!({"url": session.url("/"), "events": ["message.received"]});
    register(&served, "authorization", "/webhooks", &webhook);
    register(&served, "whizard-key", "/v1/configs/webhook", &json!({"url": premises.url("/")}));
    register(&served, "d360-api-key", "/v1/configs/webhook", &json!({"url": dialog360.url("/")}));
    post_signed(&served, MESSAGE).with_status(200);

    let attempt = doubletick.next();
    let expected = json!({
        "to": "919000000001", "from": "919812300001", "messageId": "wamid.1",
        "receivedAt": "2023-11-14T22:13:20.000Z", "contact": {"name": "Asha"},
        "integrationType": "WHATSAPP", "message": {"type": "TEXT", "text": "hi", "context": {}},
    });
    assert_eq!(body_of(&attempt), expected);
    assert_eq!(attempt.header("x-webhook-event"), Some("MESSAGE_RECEIVED"));
    let attempt = session.next();
    assert_eq!(attempt.header("x-webhook-event"), Some("message.received"));
    let (jid, envelope) = ("919812300001@s.whatsapp.net", body_of(&attempt));
    assert_eq!(envelope["event_type"], "message.received");
    let data = json!({
        "message_id": "wamid.1", "from": jid, "chat": jid, "timestamp": 1_700_000_000,
        "is_from_me": false,
    });
    assert_eq!(envelope["data"], data);
    let value = &serde_json::from_str::<Value>(MESSAGE).unwrap()["entry"][0]["changes"][0]["value"];
    let flat = json!({"contacts": value["contacts"], "messages": value["messages"]});
    assert_eq!(body_of(&premises.next()), flat);
    for receiver in [&meta, &dialog360, &own] {
        assert_eq!(receiver.next().text(), MESSAGE);
    }
    served.until(|stats| stats["delivered"] == 6);
    assert!(beta.arrived().is_empty());

    // The host's own API shows and changes what a gateway's webhook receives.
    let items = served.items("/subscriptions", ACME);
    let of_name = |name: &str| items.iter().find(|one| one["name"] == name).unwrap().clone();
    assert_eq!(of_name("dt")["payload"], "gateway");
    assert_eq!(of_name("meta")["payload"], "meta");
    let path = format!("/subscriptions/{}", of_name("dt")["id"]);
    let key = [("authorization", ACME)];
    let patched = served.request("PATCH", &path, &key, br#"{"payload": "meta"}"#);
    assert_eq!(patched.json()["payload"], "meta", "{patched:?}");
    post_signed(&served, &MESSAGE.replace("wamid.1", "wamid.2")).with_status(200);
    assert_eq!(doubletick.next().text(), MESSAGE.replace("wamid.1", "wamid.2"));
}

#[test]
fn a_gateway_reads_what_clients_of_http_send() {
    let (_place, served) = HostProcess::fresh();
    let body = json!({"url": "https://crm.example/hook", "note": 1}).to_string();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(body.as_bytes()).unwrap();
    let headers = [("authorization", ACME), ("content-encoding", "gzip")];
    served
        .request("POST", "/WebHooks/?source=ui", &headers, &gzip.finish().unwrap())
        .with_status(201);
    let head = served.request("HEAD", "/webhooks", &headers[..1], b"");
    let get = served.get("/webhooks", ACME);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()));
    let asks = [("origin", "https://app.example"), ("access-control-request-method", "POST")];
    let preflight = served.request("OPTIONS", "/webhooks", &asks, b"");
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    assert_eq!(get.header("access-control-allow-origin"), Some("*"));
    for (method, path, key, status) in [
        ("GET", "/webhooks", "nobody's key", 401),
        ("GET", "/webhooks/99", ACME, 404),
        ("GET", "/webhooks/1/elsewhere", ACME, 404),
        ("TRACE", "/webhooks", ACME, 405),
        ("POST", "/webhooks", ACME, 400),
    ] {
        let refused = served.request(method, path, &[("authorization", key)], b"");
        let allowed = refused.header("access-control-allow-origin");
        assert_eq!((refused.status, allowed), (status, Some("*")), "{method} {path}");
    }
    // The host's own routes stay strict.
    served.get("/subscriptions/", ACME).assert_refused(404, "not_found", None);
    served.post("/subscriptions", ACME, body).with_status(400);
}

#[test]
fn bodies_that_a_host_publishes_stay_as_they_are() {
    let (_place, served) = HostProcess::fresh();
    let [doubletick, beta] = [(); 2].map(|()| Receiver::answering(200));
    served.subscribe(BETA, &beta.url("/beta"), json!({}));
    let types = ["ADD_TAG", "CHAT_ASSIGNED_TO_AGENT", "WIDGET_LEAD_RECEIVED", "MESSAGE_RECEIVED"];
    let webhook = json!({"method": "POST", "url": doubletick.url("/"), "name": "dt",
        "webhookEvents": types, "wabaNumbers": ["919000000001"]});
    register(&served, "authorization", "/v2/webhook/register", &webhook);
    // DoubleTick's own body of a message: the host publishes it, so no Meta update is in it.
    for (kind, body) in types.iter().zip([
        include_str!("../../docs/samples/doubletick_add_tag.json"),
        r#"{ "from": "+919812300001", "assignedTo": {"name": "Bela"}, "n": 1.0 }"#,
        include_str!("../../docs/samples/doubletick_widget_lead_received.json"),
        include_str!("../../docs/samples/doubletick_message_received.json"),
    ]) {
        let event = format!(r#"{{"type": "{kind}", "number": "919000000001", "payload": {body}}}"#);
        served.post("/events", ACME, event).with_status(202);
        let attempt = doubletick.next();
        assert_eq!(attempt.text(), body.trim_end());
        assert_eq!(attempt.header("x-webhook-event"), Some(*kind));
    }
    assert!(beta.arrived().is_empty());
}

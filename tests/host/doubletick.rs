//! DoubleTick's API: a client that only changed its base URL.

use serde_json::{Value, json};

use crate::host_process::{ACME, BETA, CONFIGURATION, HostDirectory, HostProcess, line};
use crate::receiver::Receiver;

const REGISTER: &str = "/v2/webhook/register";

fn webhook(url: &str) -> Value {
    json!({
        "method": "PUT", "headers": {"newKeyHeader": "New Value Header"}, "url": url,
        "authorization": {"type": "BASIC", "payload": "user:pass"}, "bodyFormat": "JSON",
        "webhookEvents": ["Message Received", "NO_EVENT"], "retryOnTimeout": true,
        "name": "Test Webhook", "wabaNumbers": ["+919000000001", "919000000003"],
    })
}

fn deregister(served: &HostProcess, key: &str, id: &Value) -> u16 {
    let headers = [("authorization", key), ("content-type", "application/json")];
    let body = json!({"webhookId": id}).to_string();
    served.request("DELETE", "/v2/webhook/deregister", &headers, body.as_bytes()).status
}

#[test]
fn a_doubletick_webhook_is_delivered_listed_and_removed() {
    let (place, served) = HostProcess::fresh();
    let (receiver, other) = (Receiver::answering(200), Receiver::answering(200));
    let bystander = served.subscribe(ACME, &other.url("/own"), json!({}));
    let answer =
        served.post(REGISTER, ACME, webhook(&receiver.url("/hook")).to_string()).with_status(201);
    let expected = json!({
        "validWebhooks":
            [{"wabaNumber": "+919000000001", "webhookEventType": "Message Received"}],
        "invalidWebhooks": [{"wabaNumber": "+919000000001", "webhookEventType": "NO_EVENT"}],
        "invalidWabaNumbers": ["919000000003"],
    });
    assert_eq!(answer.json(), expected);

    assert_eq!(served.post("/events", ACME, line(1)).json()["owed"], 2);
    let attempt = receiver.next();
    assert_eq!((attempt.method.as_str(), attempt.path.as_str()), ("PUT", "/hook"));
    assert_eq!(attempt.header("newkeyheader"), Some("New Value Header"));
    assert_eq!(attempt.header("authorization"), Some("Basic dXNlcjpwYXNz"));
    assert_eq!(attempt.header("x-webhook-event"), Some("MESSAGE_RECEIVED"));
    assert_eq!(attempt.header("x-webhook-number"), Some("919000000001"));
    assert_eq!(attempt.text(), r#"{"n":1}"#);

    let profiles = |served: &HostProcess| -> Vec<(Value, Value)> {
        let items = served.items("/subscriptions", ACME);
        items.iter().map(|item| (item["id"].clone(), item["profile"].clone())).collect()
    };
    let seen = profiles(&served);
    assert_eq!(seen[0], (json!(bystander), json!("wabahook")));
    assert_eq!((seen.len(), &seen[1].1), (2, &json!("doubletick")));
    let listed = served.get("/v2/webhooks", ACME).json();
    assert_eq!(listed[0]["webhookId"], seen[1].0.to_string());
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &json!("Test Webhook")));
    assert_eq!(served.get("/v2/webhooks", BETA).json(), json!([]));

    assert!(served.signal("TERM").success());
    let served = place.start();
    assert_eq!(served.get("/v2/webhooks", ACME).json(), listed);
    assert_eq!(profiles(&served), seen);
    assert_eq!(deregister(&served, BETA, &listed[0]["webhookId"]), 404);
    assert_eq!(deregister(&served, ACME, &json!(bystander.to_string())), 404);
    assert_eq!(deregister(&served, ACME, &listed[0]["webhookId"]), 201);
    assert_eq!(deregister(&served, ACME, &listed[0]["webhookId"]), 404);
    assert_eq!(served.post("/events", ACME, line(2)).json()["owed"], 1);
    assert_eq!(profiles(&served), seen[..1]);
    assert_eq!(served.all_arrived(&other).len(), 2);
    assert!(receiver.arrived().is_empty());
}

#[test]
fn refused_webhooks_have_doubletick_s_error_shape() {
    let place =
        HostDirectory::new(&CONFIGURATION.replace("allow_http = true", "allow_http = false"));
    let served = place.start();
    let refused = served.post(REGISTER, ACME, webhook("http://127.0.0.1:9/hook").to_string());
    assert_eq!((refused.status, &refused.json()["statusCode"]), (422, &json!(422)));
    assert_eq!(refused.json()["error"], "Unprocessable Entity");
    refused.assert_says(&["url: ", "https://"]);
    let wrong = served.post(REGISTER, "wrong-key", webhook("https://crm.example/").to_string());
    let expected = json!({
        "message": "Invalid public api key", "error": "Unauthorized", "statusCode": 401,
    });
    assert_eq!((wrong.status, wrong.json()), (401, expected));
    let missing = served.request("GET", "/v2/webhooks", &[], b"");
    assert_eq!((missing.status, &missing.json()["statusCode"]), (401, &json!(401)));
    let method = served.get(REGISTER, ACME);
    assert_eq!((method.status, method.header("allow")), (405, Some("POST")));
    assert_eq!(served.post(REGISTER, ACME, vec![b'['; 10 * 1024 * 1024]).status, 413);
    assert!(served.items("/subscriptions", ACME).is_empty());
    served.post(REGISTER, ACME, webhook("https://crm.example/").to_string()).with_status(201);
}

//! The APIs of 360dialog and of the on-premises WhatsApp Business API: webhooks are registered, listed by
//! the host, and delivered to.

use serde_json::json;

use crate::host_process::{ACME, BETA, HostDirectory};
use crate::receiver::Receiver;

const DIALOG360: [(&str, &str); 1] = [("d360-api-key", ACME)];

#[test]
fn webhooks_of_cloud_gateways_are_listed_and_delivered() {
    let (_place, served) = HostDirectory::with("[dialog360]\ndestinations_max = 1").serving();
    let [premises, number, extra] = [(); 3].map(|()| Receiver::answering(200));
    let bystander = served.subscribe(BETA, &extra.url("/beta"), json!({}));
    let set = |headers: &[(&str, &str)], method: &str, path: &str, body: serde_json::Value| {
        served.request(method, path, headers, body.to_string().as_bytes())
    };
    let path = "/v1/configs/webhook";
    let hook = json!({"url": premises.url("/hook"), "headers": {"X-Tenant": "acme"}});
    let answer = set(&[("WHIZARD-KEY", ACME)], "POST", path, hook.clone());
    assert_eq!((answer.status, answer.json()), (200, hook));
    set(&DIALOG360, "POST", path, json!({"url": number.url("/hook")})).with_status(200);
    let list = json!([{"name": "a b", "url": extra.url("/hook")}]);
    let enabled = json!({"enabled": true, "destinations": list});
    set(&DIALOG360, "POST", "/multi_webhook", enabled).with_status(200);
    let second = json!({"destinations": [{"name": "c", "url": extra.url("/")}]});
    let refused = set(&DIALOG360, "PUT", "/multi_webhook", second);
    assert_eq!((refused.status, &refused.json()["meta"]["http_code"]), (400, &json!(400)));

    let items = served.items("/subscriptions", ACME);
    let profiles: Vec<_> = items.iter().map(|one| &one["profile"]).collect();
    assert_eq!(profiles, ["business_api", "dialog360", "dialog360"]);
    let beta = served.items("/subscriptions", BETA);
    assert_eq!((beta.len(), &beta[0]["id"]), (1, &json!(bystander)));

    let event = r#"{"type":"MESSAGE_RECEIVED","number":"919000000001","payload":{"a": 1}}"#;
    served.post("/events", ACME, event).with_status(202);
    for receiver in [&premises, &number, &extra] {
        let request = receiver.next();
        assert_eq!(request.body, b"{\"a\": 1}");
        assert_eq!(request.header("x-webhook-event"), Some("MESSAGE_RECEIVED"));
    }
    set(&DIALOG360, "DELETE", "/multi_webhook/a%20b", json!(null)).with_status(200);
    assert_eq!(served.items("/subscriptions", ACME).len(), 2);
}

//! What is refused: malformed bodies, policies, keys, paths, and a store that takes nothing.

use super::*;

/// Registers and edits with each text; both are refused as malformed and store nothing.
fn check_malformed(texts: impl IntoIterator<Item = (Vec<u8>, &'static str)>) {
    let client = doubletick();
    client.registered(json!({"name": "taken"}));
    let edited = client.registered(json!({"name": "edited"}));
    let edit = format!("/v2/webhook/{}", edited.id);
    for (text, says) in texts {
        for path in [REGISTER, &edit] {
            let refused = client.call("POST", path, ACME, &text);
            assert_refused(&refused, 400, "Bad Request", &[says]);
        }
    }
    assert_eq!(client.webhooks().len(), 2);
    let mut others = client.bystanders.iter().chain([&edited]);
    let same = |one: &Arc<SubscriptionInfo>| {
        Arc::ptr_eq(one, &client.engine.subscription(one.id).unwrap())
    };
    assert!(others.all(same), "a refused edit changes nothing");
}

#[test]
fn a_malformed_field_is_400_by_name_and_stores_nothing() {
    let cases = [
        ("method", json!(null), "method: missing"),
        ("method", json!("get"), "method: "),
        ("method", json!("hidden"), "GET, POST, PUT, DELETE, PATCH, HEAD"),
        ("method", json!(["GET"]), "method: found an array"),
        ("headers", json!("hidden"), "headers: found a string"),
        ("headers", json!({"x-a": {"hidden": 1}}), "headers.x-a: found an object"),
        ("headers", json!({"x-a": "hidden\r\nx-b: 1"}), "headers.x-a: "),
        ("headers", json!({"x-a": "h\u{e4}"}), "headers.x-a: "),
        ("headers", json!({"x a": "1"}), "headers: "),
        ("headers", json!({"x-a\r\nx-b": "1"}), "headers: "),
        ("headers", json!({"": "1"}), "headers: "),
        ("headers", json!({"x-a": "1", "X-A": "2"}), "given twice"),
        ("body", json!(["hidden"]), "body: found an array"),
        ("query", json!(7), "query: found a number"),
        ("query", json!({"a": ["hidden"]}), "query.a: found an array"),
        ("authorization", json!("hidden"), "authorization: found a string"),
        ("authorization", json!({"type": "DIGEST", "payload": "hidden"}), "BASIC, BEARER"),
        ("authorization", json!({"type": "BEARER", "payload": 7}), "found a number"),
        ("authorization", json!({"type": "BEARER", "payload": "hidden\r\nx: y"}), "payload: "),
        ("authorization", json!({"type": "BASIC", "payload": "h\u{e4}"}), "payload: "),
        ("url", json!(null), "url: missing"),
        ("url", json!(7), "url: found a number"),
        ("url", json!("crm.example/hidden"), "url: "),
        ("url", json!("/hidden"), "url: "),
        ("url", json!("ftp://crm.example/hidden"), "https://"),
        ("url", json!("https://user:hidden@crm.example/"), "without user name and password"),
        ("url", json!("https://crm.example/#hidden"), "without a fragment"),
        ("url", json!("https://crm.example:0/"), "url: "),
        ("url", json!("https://crm.example:99999/"), "url: "),
        ("url", json!("https://crm.example/\r\nx: hidden"), "url: "),
        ("url", json!(format!("https://crm.example/{}", "a".repeat(3_000))), "2048"),
        ("bodyFormat", json!("XML"), "JSON, FORM_DATA"),
        ("bodyFormat", json!(1), "bodyFormat: found a number"),
        ("webhookEvents", json!(null), "webhookEvents: missing"),
        ("webhookEvents", json!([]), "webhookEvents: found an empty array"),
        ("webhookEvents", json!("ADD_TAG"), "webhookEvents: found a string"),
        ("webhookEvents", json!(["ADD_TAG", 7]), "webhookEvents[1]: found a number"),
        ("retryOnTimeout", json!("true"), "retryOnTimeout: found a string"),
        ("name", json!(null), "name: missing"),
        ("name", json!(""), "name: "),
        ("name", json!("n".repeat(129)), "1 to 128 bytes"),
        ("name", json!("a\u{0}b"), "name: "),
        ("name", json!("taken"), "name: taken"),
        ("wabaNumbers", json!(null), "wabaNumbers: missing"),
        ("wabaNumbers", json!([]), "wabaNumbers: found an empty array"),
    ];
    let written = |field: &str, value| body(json!({field: value})).to_string().into_bytes();
    check_malformed(cases.map(|(field, value, says)| (written(field, value), says)));
}

#[test]
fn a_body_that_is_not_a_json_object_is_400() {
    let deep = format!("{{\"body\":{}", "{\"a\":".repeat(100_000));
    check_malformed([
        (b"".to_vec(), "not JSON"),
        (b"hidden".to_vec(), "not JSON"),
        (b"[]".to_vec(), "found an array"),
        (b"{".to_vec(), "not JSON"),
        (b"{\"name\":\"a\",\"name\":\"b\"}".to_vec(), "name: given twice"),
        (b"{\"name\":\"\xff\"}".to_vec(), "UTF-8"),
        ("[".repeat(200_000).into_bytes(), "found text that is not JSON"),
        (deep.into_bytes(), "not JSON"),
    ]);
}

#[test]
fn a_policy_violation_is_422_whatever_its_numbers() {
    let client = doubletick();
    let many = |count: usize| -> Value {
        let pair = |place: usize| (format!("x-{place}"), json!("v"));
        Value::Object((0..count).map(pair).collect())
    };
    for (field, value, says) in [
        ("url", json!("http://crm.example/hook"), "https://"),
        ("url", json!("https://127.0.0.1/hook"), "loopback"),
        ("url", json!("https://10.0.0.7:8443/"), "private"),
        ("url", json!("https://169.254.169.254/latest"), "url: "),
        ("url", json!("https://[::1]/"), "loopback"),
        ("url", json!("https://0x7f.1/"), "url: "),
        ("headers", json!({"Host": "other.example"}), "headers: "),
        ("headers", json!({"webhook-signature": "v1,hidden"}), "webhook-signature"),
        ("headers", json!({"Content-Length": "3"}), "headers: "),
        ("headers", json!({"x-a": "v".repeat(9_000)}), "8 KiB"),
        ("headers", many(65), "at most 64"),
        ("query", many(65), "at most 64"),
        ("query", json!({"": "v"}), "query: "),
        ("body", many(65), "at most 64"),
        ("body", json!({"a": "v".repeat(70_000)}), "body: "),
        (
            "authorization",
            json!({"type": "BEARER", "payload": "p".repeat(9_000)}),
            "authorization.payload",
        ),
        ("webhookEvents", json!(["ADD_TAG", "E".repeat(129)]), "webhookEvents[1]"),
    ] {
        for numbers in [json!(["919999999999"]), json!(["917777777777"])] {
            let refused = client.register(&body(json!({field: value, "wabaNumbers": numbers})));
            assert_refused(&refused, 422, "Unprocessable Entity", &[says]);
        }
    }
    assert!(client.webhooks().is_empty());
    // This gateway allows ports and public addresses.
    for (name, url) in [("port", "https://crm.example:8443/"), ("address", "https://8.8.8.8/")] {
        client.registered(json!({"name": name, "url": url}));
    }
    let allowed = with_bystanders(TestGateway::with(|config: Config| config.allow_http(true)));
    allowed.registered(json!({"url": "http://crm.example:8080/hook"}));
}

#[test]
fn an_answer_has_a_bound() {
    let client = doubletick();
    let names = |count: usize| (0..count).map(|place| format!("E{place}")).collect::<Vec<_>>();
    let numbers = json!(["919999999999", "918888888888"]);
    let of = |count| body(json!({"wabaNumbers": numbers, "webhookEvents": names(count)}));
    assert_eq!(
        client.register(&of(25_000)).body["invalidWebhooks"].as_array().unwrap().len(),
        50_000
    );
    let refused = client.register(&of(25_001));
    assert_refused(&refused, 422, "Unprocessable Entity", &["50002 pairs", "at most 50000"]);
}

#[test]
fn a_missing_or_unknown_key_is_refused_as_documented() {
    let client = doubletick();
    let id = client.registered(json!({})).id;
    let expected = json!({
        "message": "Invalid public api key", "error": "Unauthorized", "statusCode": 401,
    });
    for key in [None, Some(""), Some("wrong"), Some("acme-ke"), Some("Bearer"), Some("acme-key ,")]
    {
        let key = key.map(|key| ("authorization", key));
        for (method, path, text) in [
            ("POST", REGISTER, body(json!({"name": "new"})).to_string()),
            ("POST", &format!("/v2/webhook/{id}"), body(json!({"name": "new"})).to_string()),
            ("GET", "/v2/webhooks", String::new()),
            ("DELETE", "/v2/webhook/deregister", json!({"webhookId": id.to_string()}).to_string()),
        ] {
            let answered = client.call(method, path, key.as_slice(), &text);
            assert_eq!((answered.status, &answered.body), (401, &expected), "{key:?} {path}");
        }
    }
    assert_eq!(client.webhooks().len(), 1);
    assert_eq!(client.webhooks()[0].name, "crm");
}

#[test]
fn unknown_paths_and_methods_use_the_same_shape() {
    let client = doubletick();
    for path in ["/v2/webhook/", "/v2/webhook/1/2", "/v2/templates", "/V2"] {
        let refused = client.acme("POST", path, &body(json!({})));
        assert_refused(&refused, 404, "Not Found", &[&format!("Cannot POST {path}")]);
    }
    let refused = client.acme("PUT", "/v2/webhook/1", &body(json!({})));
    assert_refused(&refused, 405, "Method Not Allowed", &["PUT", "/v2/webhook/1"]);
    assert!(client.webhooks().is_empty());
}

#[test]
fn a_full_store_and_a_closed_engine_use_the_same_shape() {
    let client = with_bystanders(TestGateway::with(|config| {
        let limits = crate::config::Limits { subscriptions_max: 3, ..Default::default() };
        config.limits(limits)
    }));
    let id = client.registered(json!({})).id;
    let full = client.register(&body(json!({"name": "one more"})));
    assert_refused(&full, 422, "Unprocessable Entity", &["subscriptions: over the limit of 3"]);
    client.engine.close(Duration::from_secs(10)).unwrap();
    for (method, path, given) in [
        ("POST", REGISTER, body(json!({"name": "late"}))),
        ("POST", &format!("/v2/webhook/{id}"), body(json!({}))),
        ("DELETE", "/v2/webhook/deregister", json!({"webhookId": id.to_string()})),
    ] {
        let refused = client.acme(method, path, &given);
        assert_refused(&refused, 503, "Service Unavailable", &["cannot be changed"]);
    }
}

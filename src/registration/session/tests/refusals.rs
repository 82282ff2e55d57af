//! What is refused, and whose webhooks are found.

use super::*;

#[test]
fn a_failing_store_is_500_and_a_closed_engine_503() {
    let failing = Error::Directory {
        path: "/private/path".into(),
        doing: "writing",
        source: Arc::new(std::io::Error::other("full")),
    };
    let response = SessionError::from(failing).response();
    let code = response.status().as_u16();
    let answer: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!((code, &answer["message"]), (500, &json!("Internal server error")));
    assert!(!answer.to_string().contains("private"), "{answer}");
    let gateway = fresh();
    gateway.created(to("crm"));
    gateway.engine.close(DEADLINE).unwrap();
    let (code, answer) = gateway.enveloped("POST", "/webhooks", to("other"));
    assert_eq!((code, &answer["message"]), (503, &json!("Service unavailable")));
}

#[test]
fn an_account_has_at_most_the_configured_webhooks() {
    let limits = Limits { session_webhooks_max: 2, ..Limits::default() };
    let gateway = session_gateway(|config| config.limits(limits)).0;
    // A subscription of the account outside this gateway, with the next free name.
    let other = Subscription::to("https://other/").unwrap().account("acme").name("webhook-1");
    gateway.engine.subscribe(other).unwrap();
    let (first, _) = (gateway.created(to("a")), gateway.created(to("a")));
    let (code, answer) = gateway.enveloped("POST", "/webhooks", to("c"));
    assert_eq!(code, 400);
    assert!(answer["error"].as_str().unwrap().contains("limit of 2"), "{answer}");
    let beta = gateway.call("POST", "/webhooks", BETA, to("b").to_string());
    assert_eq!(enveloped(&beta).0, 201);
    let (code, answer) = gateway.enveloped("DELETE", &format!("/webhooks/{first}"), Value::Null);
    assert_eq!((code, &answer["data"]), (200, &Value::Null));
    gateway.created(to("c"));
    assert_eq!(gateway.engine.subscriptions().len(), 4);
    assert_eq!(Limits::default().session_webhooks_max, 5);
}

#[test]
fn the_limit_error_hides_the_count_of_all_accounts() {
    let limits = Limits { subscriptions_max: 1, ..Limits::default() };
    let gateway = session_gateway(|config| config.limits(limits)).0;
    let beta = gateway.call("POST", "/webhooks", BETA, to("beta").to_string());
    assert_eq!(enveloped(&beta).0, 201);
    let (code, answer) = gateway.enveloped("POST", "/webhooks", to("crm"));
    assert_eq!((code, &answer["error"]), (400, &json!("subscriptions: over the limit of 1")));
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn malformed_requests_are_refused_by_field() {
    let gateway = fresh();
    let id = gateway.created(to("bystander"));
    let path = format!("/webhooks/{id}");
    let before = gateway.enveloped("GET", &path, Value::Null);
    let long = format!("https://crm.example/{}", "a".repeat(3_000));
    let url = |url: &str| json!({"url": url}).to_string();
    let with = |more: &str| format!("{{\"url\":\"https://crm.example/\",{more}}}");
    let both = [
        (String::new(), "JSON"),
        ("[]".to_owned(), "an array"),
        ("hidden".to_owned(), "JSON"),
        (url("http://crm.example/"), "URL must be HTTPS"),
        (url("crm.example/webhook"), "URL must be HTTPS"),
        (url("ftp://crm.example/"), "URL must be HTTPS"),
        (url(""), "URL must be HTTPS"),
        (url("https://u:hidden@crm.example/"), "without user name and password"),
        (url("https://crm.example/#x"), "without a fragment"),
        (url("https://crm.example:0/"), "absolute URL"),
        (url("https://crm.example/\r\nx: y"), "absolute URL"),
        (url(&long), "2048"),
        (url("https://127.0.0.1/"), "loopback"),
        (url("https://10.1.2.3/"), "private"),
        (url("https://[::ffff:10.0.0.1]/"), "private"),
        (json!({"url": 7}).to_string(), "url: found a number"),
        (with(r#""secret":7"#), "secret: found a number"),
        (with(r#""secret":"whsec_hidden!""#), "secret"),
        (with(r#""events":"hidden""#), "events: found a string"),
        (with(r#""events":["a",7]"#), "events[1]: found a number"),
        (with(r#""events":["*"]"#), "events[0]: found a pattern"),
        (with(r#""events":["message.*"]"#), "events[0]: found a pattern"),
        (with(r#""events":["a\nb"]"#), "events[0]"),
        (with(r#""events":[""]"#), "events[0]"),
        (with(r#""url":"https://hidden.example/""#), "url: given twice"),
    ];
    let at_post =
        [("{}".to_owned(), "url: missing"), (json!({"url": null}).to_string(), "url: missing")];
    let at_patch = [
        (r#"{"active":"hidden"}"#.to_owned(), "active: found a string"),
        (r#"{"active":1}"#.to_owned(), "active: found a number"),
        (r#"{"secret":""}"#.to_owned(), "secret"),
    ];
    let posts = both.iter().chain(&at_post).map(|case| ("POST", "/webhooks", case));
    let patches = both.iter().chain(&at_patch).map(|case| ("PATCH", path.as_str(), case));
    for (method, path, (body, says)) in posts.chain(patches) {
        let (code, answer) = enveloped(&gateway.call(method, path, ACME, body));
        assert_eq!((code, &answer["message"]), (400, &json!("Bad request")), "{body}: {answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(says), "{method} {body}: {error}");
        assert!(!error.contains("hidden"), "{error}");
    }
    let large = " ".repeat(BODY_BYTES_MAX + 1);
    assert_eq!(enveloped(&gateway.call("POST", "/webhooks", ACME, &large)).0, 413);
    let not_text = gateway.call("POST", "/webhooks", ACME, b"\xff{}");
    assert_eq!(enveloped(&not_text).0, 400);
    assert_eq!(gateway.enveloped("GET", &path, Value::Null), before);
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn http_needs_permission_and_internal_addresses_are_refused() {
    let gateway = session_gateway(|config| config.allow_http(true)).0;
    gateway.created(json!({"url": "http://crm.example/webhook"}));
    for (url, says) in [
        ("http://127.0.0.1/", "loopback"),
        ("http://u:hidden@crm.example/", "without user name"),
        ("ftp://crm.example/", "URL must be HTTPS"),
    ] {
        let (code, answer) = gateway.enveloped("POST", "/webhooks", json!({"url": url}));
        assert_eq!(code, 400);
        assert!(answer["error"].as_str().unwrap().contains(says), "{answer}");
    }
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn every_path_needs_the_key_of_an_account() {
    let gateway = fresh();
    let id = gateway.created(to("bystander"));
    for path in ["/webhooks", &format!("/webhooks/{id}"), "/webhooks/9/logs", "/webhooks/x/y/z"] {
        for key in [
            None,
            Some(("authorization", "")),
            Some(("authorization", "acme-ke")),
            Some(("authorization", "Bearer acme-key2")),
            Some(("authorization", "Basic acme-key")),
            Some(("x-api-key", "acme-key")),
        ] {
            for method in ["GET", "POST", "PATCH", "DELETE"] {
                let answer = gateway.call(method, path, key.as_slice(), "{}");
                let (code, answer) = enveloped(&answer);
                assert_eq!((code, &answer["message"]), (401, &json!("Unauthorized")));
            }
        }
    }
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn webhooks_of_other_accounts_and_gateways_are_not_found() {
    let gateway = fresh();
    let beta = enveloped(&gateway.call("POST", "/webhooks", BETA, to("beta").to_string())).1;
    let other = Subscription::to("https://other/").unwrap().account("acme").name("crm");
    let other = gateway.engine.subscribe(other).unwrap();
    let own = gateway.created(to("own"));
    let missing = gateway.enveloped("GET", "/webhooks/999", Value::Null);
    assert_eq!((missing.0, &missing.1["error"]), (404, &json!("Webhook not found")));
    let ids = [beta["data"]["id"].to_string(), other.to_string()];
    let none = ["0", "-1", "+1", "1.0", "x", "4294967296", "%31"].map(str::to_owned);
    for id in ids.iter().chain(&none) {
        for (method, of_it) in
            [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/logs"), ("POST", "/test")]
        {
            let answer = gateway.call(method, &format!("/webhooks/{id}{of_it}"), ACME, "{}");
            assert_eq!(enveloped(&answer), missing, "{method} {id}{of_it}");
        }
    }
    let (_, listed) = gateway.enveloped("GET", "/webhooks", Value::Null);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!(listed["data"][0]["id"], own);
    assert_eq!(gateway.engine.subscriptions().len(), 3);
    assert!(gateway.hosts().is_empty());
}

#[test]
fn unknown_methods_and_paths_use_the_envelope() {
    let gateway = fresh();
    let id = gateway.created(to("bystander"));
    assert_eq!(enveloped(&gateway.call("PUT", "/webhooks", ACME, "{}")).0, 405);
    for path in
        [format!("/webhooks/{id}/log"), format!("/webhooks/{id}/logs/1"), "/webhooks//".into()]
    {
        assert_eq!(gateway.enveloped("GET", &path, Value::Null).0, 404, "{path}");
    }
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

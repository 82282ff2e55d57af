//! What is refused, on every route.

use super::*;

/// With two destinations present, a request is refused and nothing of it is applied.
fn check_refused(method: &str, path: &str, body: impl ToString, status: u16, field: Option<&str>) {
    let gateway = TestGateway::new();
    enable(&gateway, &["one", "two"]);
    let (before, beta) = (gateway.listed("acme"), with_bystander(&gateway));
    let body = body.to_string();
    acme(&gateway, method, path, &body).assert_refused(status, field);
    assert_eq!((gateway.listed("acme"), gateway.listed("beta")), (before, beta), "{body}");
    assert_eq!(acme(&gateway, "GET", MULTI, "").body["enabled"], true);
}

#[test]
fn a_conflict_is_refused_as_a_whole() {
    let list = |names: &[&str]| {
        let list: Vec<_> = names.iter().map(|name| destination(name)).collect();
        json!({ "destinations": list })
    };
    check_refused("POST", MULTI, json!({"enabled": true}), 409, None);
    let again = json!({"enabled": true, "destinations": [destination("three")]});
    check_refused("POST", MULTI, again, 409, None);
    check_refused("PUT", MULTI, list(&["one"]), 409, None);
    check_refused("PUT", MULTI, list(&["three", "two"]), 409, None);
    check_refused("PUT", MULTI, list(&["three", "three"]), 409, None);
    check_refused("PUT", MULTI, list(&["three", "four"]), 400, Some("destinations"));
    check_refused("PUT", MULTI, list(&["a", "b", "c", "d"]), 400, Some("destinations"));
    check_refused("PATCH", MULTI, json!({"name": "One", "url": "https://a.example/"}), 404, None);
    check_refused("DELETE", "/multi_webhook/One", Value::Null, 404, None);
    check_refused("DELETE", "/multi_webhook/three", Value::Null, 404, None);
}

#[test]
fn disabled_multi_webhook_refuses_changes() {
    let gateway = TestGateway::new();
    let requests = [
        ("PUT", MULTI, json!({"destinations": [destination("one")]})),
        ("PATCH", MULTI, json!({"name": "one", "url": "https://a.example/"})),
        ("DELETE", "/multi_webhook/one", Value::Null),
    ];
    for (method, path, body) in &requests {
        acme(&gateway, method, path, body).assert_refused(400, None);
    }
    enable(&gateway, &["one"]);
    assert_done(&acme(&gateway, "POST", MULTI, json!({"enabled": false})), STARTED);
    let before = gateway.listed("acme");
    for (method, path, body) in &requests {
        acme(&gateway, method, path, body).assert_refused(400, None);
    }
    assert_eq!((gateway.listed("acme"), names(&gateway)), (before, vec!["one".to_owned()]));
}

fn check_malformed(method: &str, path: &str, body: impl ToString, field: Option<&str>) {
    check_refused(method, path, body, 400, field);
}

#[test]
fn invalid_urls_and_headers_are_refused_on_every_route() {
    let bad = [
        (json!({}), "url"),
        (json!({"url": 5}), "url"),
        (json!({"url": ["https://a.example/"]}), "url"),
        (json!({"url": "example.com/webhook"}), "url"),
        (json!({"url": "http://a.example/"}), "url"),
        (json!({"url": "https://a.example:8443/"}), "url"),
        (json!({"url": "https://a.example:443/"}), "url"),
        (json!({"url": "https://a_b.example/"}), "url"),
        (json!({"url": "https://sub.a_b.example/"}), "url"),
        (json!({"url": "https://user:hidden@a.example/"}), "url"),
        (json!({"url": "https://192.168.0.1/"}), "url"),
        (json!({"url": "https://a.example/#part"}), "url"),
        (json!({"url": "https://a.example/\r\nx: y"}), "url"),
        (json!({"url": "https://a.example/", "headers": [1]}), "headers"),
        (json!({"url": "https://a.example/", "headers": {"x": {}}}), "headers.x"),
        (json!({"url": "https://a.example/", "headers": {"x": "hidden\r\ny: z"}}), "headers.x"),
        (json!({"url": "https://a.example/", "headers": {"x:y": "z"}}), "headers"),
        (json!({"url": "https://a.example/", "headers": {"Content-Length": "1"}}), "headers"),
    ];
    for (mut hook, field) in bad {
        check_malformed("POST", NUMBER_PATH, &hook, Some(field));
        check_malformed("POST", WABA_PATH, &hook, Some(field));
        hook["name"] = json!("three");
        let within = format!("destinations[1].{field}");
        let list = json!({"destinations": [destination("four"), hook]});
        check_malformed("PUT", MULTI, list, Some(&within));
    }
    for (patch, field) in [
        (json!({"name": "one", "url": "https://a.example:80/"}), "url"),
        (json!({"name": "one", "url": "http://a.example/"}), "url"),
        (json!({"name": "one", "url": false}), "url"),
        (json!({"name": "one", "headers": {"Host": "b"}}), "headers"),
        (json!({"name": 1}), "name"),
        (json!({"url": "https://a.example/"}), "name"),
    ] {
        check_malformed("PATCH", MULTI, patch, Some(field));
    }
}

#[test]
fn malformed_bodies_are_refused_by_field() {
    for text in ["", "[]", "null", "{\"enabled\":", "{} {}", "\u{1}"] {
        for (method, path) in
            [("POST", MULTI), ("PUT", MULTI), ("PATCH", MULTI), ("POST", WABA_PATH)]
        {
            check_malformed(method, path, text, None);
        }
    }
    check_malformed("POST", MULTI, "{}", Some("enabled"));
    check_malformed("POST", MULTI, r#"{"enabled":"true"}"#, Some("enabled"));
    check_malformed("POST", MULTI, r#"{"enabled":1}"#, Some("enabled"));
    check_malformed("POST", MULTI, r#"{"enabled":true,"enabled":false}"#, Some("enabled"));
    let disabling = json!({"enabled": false, "destinations": [destination("three")]});
    check_malformed("POST", MULTI, disabling, Some("destinations[0]"));
    check_malformed("PUT", MULTI, "{}", Some("destinations"));
    check_malformed("PUT", MULTI, r#"{"destinations":[]}"#, Some("destinations"));
    check_malformed("PUT", MULTI, r#"{"destinations":{}}"#, Some("destinations"));
    check_malformed("PUT", MULTI, r#"{"destinations":["three"]}"#, Some("destinations[0]"));
    let unnamed = r#"{"destinations":[{"url":"https://a.example/"}]}"#;
    check_malformed("PUT", MULTI, unnamed, Some("destinations[0].name"));
    for name in ["", "a\nb", &"n".repeat(101)] {
        let list = json!({"destinations": [{"name": name, "url": "https://a.example/"}]});
        check_malformed("PUT", MULTI, list, Some("destinations[0].name"));
    }
    let overriding = |value: Value| json!({"url": "https://a.example/", "override_all": value});
    check_malformed("POST", WABA_PATH, overriding(json!("yes")), Some("override_all"));
    check_malformed("POST", WABA_PATH, overriding(json!(0)), Some("override_all"));
}

#[test]
fn a_missing_or_unknown_key_is_refused_on_every_route() {
    let gateway = TestGateway::new();
    let beta = with_bystander(&gateway);
    let routes = [MULTI, "/multi_webhook/crm", WABA_PATH];
    for headers in [&[][..], &[("d360-api-key", "beta-ke")], &[("whizard-key", "beta-key")]] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            for path in routes {
                gateway.call(method, path, headers, "{}").assert_refused(401, None);
            }
        }
    }
    gateway.call("GET", NUMBER_PATH, &[("d360-api-key", "x")], "").assert_refused(401, None);
    assert_eq!(gateway.listed("beta"), beta);
}

#[test]
fn a_used_name_is_a_conflict_and_nothing_is_applied() {
    let gateway = TestGateway::new();
    let taken = Subscription::to("https://crm.example/").unwrap().account("acme");
    gateway.engine.subscribe(taken.name(key_webhooks::name_of_destination("two"))).unwrap();
    enable(&gateway, &[]);
    let before = gateway.listed("acme");
    append(&gateway, &["one", "two"]).assert_refused(409, None);
    assert_eq!((gateway.listed("acme"), names(&gateway)), (before, Vec::<String>::new()));
}

//! Paths, methods, encodings, forms and headers of browsers.

use super::*;

#[test]
fn one_slash_at_the_end_and_any_case_of_fixed_words() {
    for (method, path, key, body) in registrations() {
        for path in [format!("{path}/"), path.to_ascii_uppercase(), format!("{path}/?a=b")] {
            let client = TestGateway::with_bystander();
            assert!(Registration::serves(path.split('?').next().unwrap()), "{path}");
            client.accepts(method, &path, key, &body);
            client.only();
        }
    }
    let client = TestGateway::with_bystander();
    let list = json!({"enabled": true, "destinations": [
        {"name": "crm", "url": "https://a.example/"}, {"name": "CRM", "url": "https://b.example/"},
    ]});
    client.accepts("POST", "/Multi_Webhook/", DIALOG360, list);
    client.accepts("DELETE", "/MULTI_WEBHOOK/CRM/", DIALOG360, "");
    assert!(client.only().name.ends_with("crm"), "names keep their case");
}

#[test]
fn errors_under_a_gateways_path_have_its_shape() {
    let client = TestGateway::with_bystander();
    for (path, key, pointer) in [
        ("/v2/templates", DOUBLETICK, "/statusCode"),
        ("/v1/configs/templates", DIALOG360, "/meta/http_code"),
        ("/v1/configs/templates", PREMISES, "/meta/http_code"),
        ("/waba_webhook/x", DIALOG360, "/meta/http_code"),
        ("/webhooks/1/2/3", SESSION, "/code"),
    ] {
        assert!(Registration::serves(path), "{path}");
        let refused = client.call("GET", path, &[key], "");
        assert_eq!(refused.status, 404, "{path}");
        assert_eq!(refused.body.pointer(pointer), Some(&json!(404)), "{path}");
    }
    for path in ["/", "/v3/webhooks", "/events", "/webhook"] {
        assert!(!Registration::serves(path), "{path}");
    }
}

#[test]
fn compressed_bodies_and_byte_order_marks_are_read() {
    for (method, path, key, body) in registrations() {
        let marked = [b"\xef\xbb\xbf", body.to_string().as_bytes()].concat();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&marked).unwrap();
        let gzip = gzip.finish().unwrap();
        for (sent, headers) in
            [(&marked, vec![key]), (&gzip, vec![key, ("content-encoding", "gzip")])]
        {
            let client = TestGateway::with_bystander();
            let answer = client.call(method, path, &headers, sent);
            assert!(answer.status < 300, "{path}: {answer:?}");
            client.only();
        }
        let refused = TestGateway::with_bystander().call(
            method,
            path,
            &[key, ("content-encoding", "br")],
            "",
        );
        assert_eq!(refused.status, 415, "{path}: {refused:?}");
    }
}

#[test]
fn the_session_gateway_takes_forms() {
    let urlencoded = "url=https%3A%2F%2Fcrm.example%2Fhook&secret=a+b&events=message.received&\
        events%5B%5D=call.offer";
    let multipart = "--b\r\nContent-Disposition: form-data; name=\"url\"\r\n\r\n\
        https://crm.example/hook\r\n--b\r\nContent-Disposition: form-data; name=\"secret\"\r\n\r\n\
        a b\r\n--b\r\nContent-Disposition: form-data; name=\"events[0]\"\r\n\r\nmessage.received\
        \r\n--b\r\nContent-Disposition: form-data; name=\"events[1]\"\r\n\r\ncall.offer\r\n--b--\r\n";
    for (content_type, body) in [
        ("application/x-www-form-urlencoded", urlencoded),
        ("multipart/form-data; boundary=b", multipart),
    ] {
        let client = TestGateway::with_bystander();
        let headers = [SESSION, ("content-type", content_type)];
        let answer = client.call("POST", "/webhooks", &headers, body);
        assert_eq!(answer.status, 201, "{answer:?}");
        let data = &answer.body["data"];
        assert_eq!(data["events"], json!(["message.received", "call.offer"]));
        let known = client.only();
        assert_eq!(known.target.url(), "https://crm.example/hook");
        assert_eq!(known.secret.as_ref().unwrap().reveal_text(), "a b");
        let path = format!("/webhooks/{}", data["id"]);
        let headers = [SESSION, ("content-type", "application/x-www-form-urlencoded")];
        let patched = client.call("PATCH", &path, &headers, "active=false");
        assert_eq!(patched.body["data"]["active"], false, "{patched:?}");
    }
}

#[test]
fn head_is_answered_where_get_is() {
    let client = TestGateway::with_bystander();
    for (method, path, key, body) in registrations() {
        client.accepts(method, path, key, body);
    }
    for (path, key) in [
        ("/v2/webhooks", DOUBLETICK),
        (NUMBER_PATH, PREMISES),
        (NUMBER_PATH, DIALOG360),
        ("/multi_webhook", DIALOG360),
        ("/webhooks", SESSION),
        ("/webhooks/99", SESSION),
    ] {
        let get = client.call("GET", path, &[key], "");
        let head = client.call("HEAD", path, &[key], "");
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
        assert_eq!(head.headers["content-length"], get.text.len().to_string(), "{path}");
        assert_eq!(head.headers["content-type"], get.headers["content-type"], "{path}");
    }
    assert_eq!(client.call("HEAD", REGISTER, &[DOUBLETICK], "").status, 405);
}

/// The CORS headers of a response to a page of an origin.
fn cors(registration: &Registration, method: &str, origin: &str) -> (u16, Vec<String>) {
    let request = Request::builder().method(method).uri("/webhooks").header("origin", origin);
    let response = registration.respond(&request.body(Vec::new()).unwrap());
    let name = |name: &str| {
        let values = response.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ["access-control-allow-origin", "access-control-allow-methods", "vary"];
    (response.status().as_u16(), all.map(name).concat())
}

#[test]
fn the_session_gateway_has_the_cors_headers_of_its_source() {
    let gateway = TestGateway::new();
    let methods = "GET,POST,PUT,PATCH,DELETE".to_owned();
    let asked = ["access-control-request-method", "access-control-request-headers"];
    let (status, headers) = cors(&gateway.registration, "OPTIONS", "https://app.example");
    let expected = [vec!["*".to_owned(), methods], asked.map(str::to_owned).to_vec()].concat();
    assert_eq!((status, headers), (204, expected));
    assert_eq!(cors(&gateway.registration, "GET", "https://a"), (401, vec!["*".to_owned()]));

    let listed = SessionGateway { cors_origins: vec!["https://app.example".to_owned()] };
    let listed = Registration::new(gateway.engine.clone()).session(listed).unwrap();
    let (_, headers) = cors(&listed, "GET", "https://App.example");
    assert_eq!(headers, ["https://App.example", "origin"]);
    assert_eq!(cors(&listed, "GET", "https://other.example").1, ["origin"]);

    let off = SessionGateway { cors_origins: Vec::new() };
    let off = Registration::new(gateway.engine.clone()).session(off).unwrap();
    let (status, headers) = cors(&off, "OPTIONS", "https://app.example");
    assert_eq!((status, headers), (401, Vec::new()));

    for origin in ["app.example", "https://app.example/", "https://a\r\nb", ""] {
        let options = SessionGateway { cors_origins: vec![origin.to_owned()] };
        let refused = Registration::new(gateway.engine.clone()).session(options);
        assert_eq!(refused.unwrap_err().field(), Some("session.cors_origins"), "{origin:?}");
    }
    let other = Request::builder().method("OPTIONS").uri(REGISTER).body(Vec::new()).unwrap();
    assert!(gateway.registration.respond(&other).headers().get("vary").is_none());
}

//! `GET /openapi.json` has exactly the mounted routes and only references that resolve; and what the host
//! itself refuses has the shape of the gateway, as the document says.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::{Value, json};
use wabahook::registration::Registration;

use crate::client::Answer;
use crate::host_process::{ACME, BETA, HostProcess};
use crate::receiver::{HOLD, Receiver};

/// Where the host's own routes are mounted.
const SERVE: &str = include_str!("../../src/bin/wabahook/routes/mod.rs");
const METHODS: [&str; 8] = ["get", "post", "put", "patch", "delete", "head", "options", "trace"];

type Routes = BTreeMap<String, BTreeSet<String>>;

fn described(served: &HostProcess) -> Value {
    let answer = served.request("GET", "/openapi.json", &[], b"");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    answer.json()
}

/// The routes of the document, with their methods.
fn routes_of(description: &Value) -> Routes {
    let paths = description["paths"].as_object().unwrap();
    let methods = |item: &Value| {
        let keys = item.as_object().unwrap().keys();
        keys.filter(|key| METHODS.contains(&key.as_str())).cloned().collect()
    };
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

/// The paths in the source of the router.
fn mounted() -> BTreeSet<String> {
    let routes = SERVE.split(".route(").skip(1);
    let path = |text: &str| text.split('"').nth(1).unwrap().to_owned();
    routes.map(path).collect()
}

/// The path with its parameters filled in.
fn concrete(path: &str) -> String {
    let segments = path.split('/').map(|one| if one.starts_with('{') { "7" } else { one });
    segments.collect::<Vec<_>>().join("/")
}

/// The methods in the header `allow` of a path, for a method that no route has.
fn allowed(served: &HostProcess, path: &str) -> BTreeSet<String> {
    let path = concrete(path);
    let keys = [("authorization", ACME), ("whizard-key", ACME), ("d360-api-key", ACME)];
    let answer = served.request("TRACE", &path, &keys, b"");
    assert_eq!(answer.status, 405, "{path}: {answer:?}");
    let methods = answer.header("allow").unwrap().split(',');
    let methods = methods.map(|method| method.trim().to_ascii_lowercase());
    // Every GET has a HEAD, and browsers ask with OPTIONS; the document lists neither.
    methods.filter(|method| !["head", "options"].contains(&method.as_str())).collect()
}

#[test]
fn the_document_has_exactly_the_mounted_routes() {
    let (_place, served) = HostProcess::fresh();
    let described = routes_of(&described(&served));
    let own = mounted();
    assert!(own.contains("/events") && own.contains("/subscriptions/{id}"), "{own:?}");
    let gateways = Registration::PATHS.iter().map(|path| (*path).to_owned());
    let all: BTreeSet<String> = own.into_iter().chain(gateways).collect();
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), all);
    for (path, methods) in described {
        assert_eq!(methods, allowed(&served, &path), "{path}");
    }
    let answer = served.get("/elsewhere", ACME);
    answer.assert_refused(404, "not_found", None);
}

/// What answers without an API key: probes, this document, and what Meta signs or a browser opens.
const OPEN: [&str; 5] =
    ["get /healthz", "get /livez", "get /meta/webhook", "get /openapi.json", "post /meta/webhook"];

/// What the document lets pass without a key is served so, and all else of the host's own needs one.
#[test]
fn every_route_with_a_key_refuses_others() {
    let (_place, served) = HostProcess::operated();
    let document = described(&served);
    let paths = document["paths"].as_object().unwrap().iter();
    let own = paths.filter(|(path, _)| !Registration::PATHS.contains(&path.as_str()));
    let wrong = [
        &[][..],
        &[("authorization", "acme-ke")],
        &[("authorization", "Bearer acme-key2")],
        &[("authorization", "Basic acme-key")],
        &[("x-api-key", "acme-key")],
    ];
    let (mut checked, mut open) = (0, Vec::new());
    for (path, item) in own {
        for (method, operation) in item.as_object().unwrap() {
            if operation["security"] != json!([{"ApiKey": []}]) {
                open.push(format!("{method} {path}"));
                continue;
            }
            let (method, path) = (method.to_uppercase(), concrete(path));
            // One of them at each: a host slows down who shows wrong keys.
            let headers = wrong[checked % wrong.len()];
            let answer = served.request(&method, &path, headers, b"{}");
            answer.assert_refused(401, "unauthorized", None);
            if path.starts_with("/admin/") {
                let answer = served.request(&method, &path, &[("authorization", ACME)], b"{}");
                answer.assert_refused(403, "forbidden", None);
            }
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked}");
    open.sort();
    assert_eq!(open, OPEN);
    for key in ["acme-key", "Bearer acme-key", "bearer beta-key"] {
        assert_eq!(served.get("/stats", key).status, 200, "{key}");
    }
    let answer = served.request("GET", "/healthz", &[], b"");
    assert_eq!((answer.status, answer.body.as_str()), (200, "{\"status\":\"ok\",\"reasons\":[]}"));
}

/// Resolves each reference in a part of the document.
fn resolve(part: &Value, whole: &Value, found: &mut usize) {
    match part {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(whole.pointer(pointer).is_some(), "{reference} names nothing");
                *found += 1;
            }
            members.values().for_each(|part| resolve(part, whole, found));
        }
        Value::Array(items) => items.iter().for_each(|part| resolve(part, whole, found)),
        _ => {}
    }
}

#[test]
fn the_document_is_public_and_its_references_resolve() {
    let (_place, served) = HostProcess::fresh();
    let description = described(&served);
    assert_eq!(description["openapi"], "3.1.0");
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut found = 0;
    resolve(&description, &description, &mut found);
    assert!(found > 100, "{found}");
    let mut ids = BTreeSet::new();
    let schemes = description["components"]["securitySchemes"].as_object().unwrap();
    let operations = description["paths"].as_object().unwrap().values();
    for operation in operations.flat_map(|item| item.as_object().unwrap().values()) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{operation}");
        let named = operation["security"].as_array().unwrap();
        for scheme in named.iter().flat_map(|one| one.as_object().unwrap().keys()) {
            assert!(schemes.contains_key(scheme), "{scheme}");
        }
    }
}

/// The code and the message of an error in the shape of the gateway of a path.
fn refused(path: &str, answer: &Answer) -> (u16, String) {
    let body = answer.json();
    let (code, message) = match path.split('/').nth(1).unwrap() {
        "v2" => (&body["statusCode"], &body["message"]),
        "webhooks" => (&body["code"], &body["error"]),
        _ => (&body["meta"]["http_code"], &body["meta"]["developer_message"]),
    };
    (u16::try_from(code.as_u64().unwrap()).unwrap(), message.as_str().unwrap().to_owned())
}

#[test]
fn refused_bodies_have_the_shape_of_the_gateway() {
    let (_place, served) = HostProcess::fresh();
    let keys = [
        ("origin", "https://app.example"),
        ("authorization", ACME),
        ("d360-api-key", ACME),
        ("content-encoding", "br"),
    ];
    for path in ["/v2/webhook/register", "/v1/configs/webhook", "/multi_webhook", "/webhooks"] {
        let is_readable = |answer: &Answer| {
            answer.header("access-control-allow-origin") == (path == "/webhooks").then_some("*")
        };
        let long = served.request("POST", path, &keys[..3], &vec![b' '; 2 * 1024 * 1024]);
        let (code, message) = refused(path, &long);
        assert_eq!((long.status, code), (413, 413), "{path}");
        assert!(is_readable(&long), "{path} {long:?}");
        assert!(message.contains("1048576 bytes"), "{message}");
        let packed = served.request("POST", path, &keys, b"{}");
        let (code, message) = refused(path, &packed);
        assert_eq!((packed.status, code), (415, 415), "{path}");
        assert!(is_readable(&packed), "{path} {packed:?}");
        assert!(message.contains("expected gzip"), "{message}");
    }
    served.get("/subscriptions", ACME).assert_says(&["\"items\":[]"]);
}

#[test]
fn only_too_many_tests_at_once_are_refused() {
    let (_place, served) = HostProcess::fresh();
    let held = Receiver::answering(HOLD);
    let body = json!({"url": held.url("/hook")});
    let created = served.post("/webhooks", ACME, body.to_string()).json();
    let path = format!("/webhooks/{}/test", created["data"]["id"]);
    std::thread::scope(|scope| {
        // An account may have half of the four that run at once.
        let tests: Vec<_> = (0..2).map(|_| scope.spawn(|| served.post(&path, ACME, ""))).collect();
        (0..2).for_each(|_| drop(held.next()));
        let busy = served.post(&path, ACME, "");
        let (code, message) = refused(&path, &busy);
        assert_eq!((busy.status, code, busy.header("retry-after")), (429, 429, Some("1")));
        assert_eq!(busy.header("access-control-allow-origin"), Some("*"));
        assert!(message.contains("tests_at_once: the account uses 2 of 2"), "{message}");
        let neighbour = Receiver::answering(200);
        let id = served.subscribe(BETA, &neighbour.url("/hook"), json!({}));
        served.post(&format!("/subscriptions/{id}/test"), BETA, "").with_status(200);
        // A destination named `test` is not a test.
        let keys = [("d360-api-key", ACME)];
        let other = served.request("DELETE", "/multi_webhook/test", &keys, b"");
        assert_eq!(refused("/multi_webhook", &other).0, 400, "{other:?}");
        held.answer(200);
        for test in tests {
            assert_eq!(test.join().unwrap().json()["data"]["status"], "success");
        }
    });
}

#[test]
fn webhooks_of_all_gateways_are_listed_with_their_profile() {
    let (_place, served) = HostProcess::fresh();
    let own = served.subscribe(ACME, "https://hooks.example/own", json!({}));
    let bystander = served.subscribe(BETA, "https://hooks.example/beta", json!({}));
    let keys = |key: &'static str| [(key, ACME)];
    let call = |key: &'static str, path: &str, body: Value| {
        served.request("POST", path, &keys(key), body.to_string().as_bytes())
    };
    let hook = json!({"url": "https://hooks.example/hook"});
    let webhook = json!({
        "method": "POST", "url": "https://hooks.example/doubletick", "name": "doubletick",
        "webhookEvents": ["ADD_TAG"], "wabaNumbers": ["919000000001"],
    });
    call("authorization", "/v2/webhook/register", webhook).with_status(201);
    call("whizard-key", "/v1/configs/webhook", hook.clone()).with_status(200);
    call("d360-api-key", "/v1/configs/webhook", hook.clone()).with_status(200);
    call("authorization", "/webhooks", hook).with_status(201);
    let profiles = |key: &str| -> Vec<(u64, String)> {
        let profile = |item: &Value| item["profile"].as_str().unwrap().to_owned();
        let items = served.items("/subscriptions", key);
        items.iter().map(|item| (item["id"].as_u64().unwrap(), profile(item))).collect()
    };
    let acme: Vec<_> = profiles(ACME).into_iter().map(|(_, profile)| profile).collect();
    assert_eq!(acme, ["wabahook", "doubletick", "business_api", "dialog360", "session"]);
    assert_eq!(profiles(ACME)[0].0, own);
    assert_eq!(profiles(BETA), [(bystander, "wabahook".to_owned())]);
}

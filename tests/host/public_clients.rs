//! The requests of public clients of the gateways, transcribed as data in `tests/host/clients`: each client's
//! calls are made in order at a fresh host, with the client's own headers, and get the answers that it needs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::host_process::{BETA, HostProcess};
use crate::receiver::Receiver;

fn clients() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/clients");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|one| one.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name}: {value}"))
}

#[test]
fn public_clients_are_served() {
    let clients = clients();
    let mut calls = 0;
    for client in &clients {
        let (_place, served) = HostProcess::fresh();
        let receiver = Receiver::answering(200);
        let bystander = served.subscribe(BETA, &receiver.url("/beta"), json!({}));
        let headers = client["headers"].as_object().unwrap();
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        for call in client["calls"].as_array().unwrap() {
            let body = call.get("body").map(Value::to_string).unwrap_or_default();
            let (method, path) = (text(call, "method"), text(call, "path"));
            let answer = served.request(method, path, &headers, body.as_bytes());
            let name = format!("{}: {}", text(client, "client"), text(call, "what"));
            assert_eq!(
                Some(u64::from(answer.status)),
                call["status"].as_u64(),
                "{name}: {answer:?}"
            );
            assert_eq!(answer.json(), call["answer"], "{name}");
            calls += 1;
        }
        let beta = served.items("/subscriptions", BETA);
        assert_eq!((beta.len(), &beta[0]["id"]), (1, &json!(bystander)));
    }
    assert_eq!((clients.len(), calls), (8, 16));
}

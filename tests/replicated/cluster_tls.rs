//! Two hosts of a cluster that reach each other over TLS: each forwards what the other serves. What a host does with a
//! certificate that it does not trust is a test of its connector.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::cluster::{ClusterHost, SHARDS, number, wait_for};
use crate::hosts::{ask_on, expect};
use crate::servers::Servers;
use crate::support::DEADLINE;

/// They are in nearly all shards.
const ACCOUNTS: usize = 48;

pub fn serve_together(program: &str, servers: &Servers) -> Result<String, String> {
    servers.query("CREATE DATABASE cluster_tls")?;
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("of the cluster");
    let new = |name: &str| {
        ClusterHost::new(program, name, servers, "cluster_tls", directory.path())
            .with_tls(&authority)
    };
    let (mut first, mut second) = (new("host-a"), new("host-b"));
    first.start();
    second.start();
    let told = run(&first, &second, &authority);
    told.map_err(|why| format!("{why}\n--a--\n{}\n--b--\n{}", first.told(), second.told()))
}

fn run(first: &ClusterHost, second: &ClusterHost, authority: &Authority) -> Result<String, String> {
    let has_half = |host: &ClusterHost| {
        let answer = ask(host, authority, "GET", "/healthz", ("", &[]), "");
        let health = answer.and_then(|(_, body)| {
            serde_json::from_str::<Value>(&body).map_err(|error| error.to_string())
        });
        health.is_ok_and(|health| {
            health["cluster"]["shards"].as_array().is_some_and(|all| all.len() == SHARDS / 2)
        })
    };
    wait_for("both hosts to serve half of the shards", || has_half(first) && has_half(second))?;
    for account in 0..ACCOUNTS {
        let (key, number) = (format!("key-{account}"), number(account));
        let event = json!({"type": "ADD_TAG", "number": number, "payload": 1}).to_string();
        for host in [first, second] {
            expect(ask(host, authority, "POST", "/events", (&key, &[]), &event)?, 202)?;
        }
    }
    Ok(format!("events of {ACCOUNTS} accounts accepted at both hosts, half of them forwarded"))
}

fn ask(
    host: &ClusterHost,
    trusted: &Authority,
    method: &str,
    path: &str,
    with: (&str, &[(&str, &str)]),
    body: &str,
) -> Result<(u16, String), String> {
    let connected = connect(&host.address, trusted).map_err(|error| error.to_string())?;
    ask_on(connected, method, path, with, body)
}

fn connect(address: &str, trusted: &Authority) -> std::io::Result<impl Read + Write> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(StreamOwned::new(session, stream))
}

//! Two hosts of a cluster that reach each other over TLS: each forwards what the other serves. What a host does with a
//! certificate that it does not trust is a test of its connector.

use serde_json::json;

use crate::authority::Authority;
use crate::cluster::{ClusterHost, has_half_each, number, wait_for, with_logs};
use crate::hosts::expect;
use crate::servers::Servers;

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
    with_logs(run(&first, &second), &first, &second)
}

fn run(first: &ClusterHost, second: &ClusterHost) -> Result<String, String> {
    wait_for("both hosts to serve half of the shards", || has_half_each(first, second))?;
    for account in 0..ACCOUNTS {
        let (key, number) = (format!("key-{account}"), number(account));
        let event = json!({"type": "ADD_TAG", "number": number, "payload": 1}).to_string();
        for host in [first, second] {
            expect(host.ask("POST", "/events", (&key, &[]), &event)?, 202)?;
        }
    }
    Ok(format!("events of {ACCOUNTS} accounts accepted at both hosts, half of them forwarded"))
}

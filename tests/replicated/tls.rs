//! TLS to a real server, with certificates that are made for the test.

use std::time::Duration;

use wabahook::store::{Batch, Postgres, PostgresOptions, Store, StoreFailure};

use crate::authority::Authority;
use crate::rounds::Verdict;
use crate::servers::Servers;

pub fn check(servers: &mut Servers) -> Verdict {
    let (trusted, other) = (Authority::new("of the server"), Authority::new("of nobody"));
    let url = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=verify-full",
        servers.primary_port()
    );
    let connect = |authority: &Authority| {
        let options = PostgresOptions::new(&url).unwrap().shard(7);
        Postgres::connect(options.roots_pem(authority.pem.clone()))
    };
    let plain = refused("a server without TLS", connect(&trusted))?;
    serve(servers, &trusted, "elsewhere.example")?;
    let other_name = refused("a certificate of another name", connect(&trusted))?;
    serve(servers, &trusted, "127.0.0.1")?;
    let other_root = refused("a certificate of another root", connect(&other))?;
    let store = connect(&trusted).map_err(|failure| failure.to_string())?;
    let version = use_it(&store, servers).map_err(|failure| failure.to_string())?;
    drop(store);
    servers.query("ALTER SYSTEM RESET ssl")?;
    servers.query("SELECT pg_reload_conf()")?;
    servers.wait_for("SHOW ssl", "off")?;
    match version.as_str() {
        "TLSv1.3" => Ok(format!("{version}; refused: {plain}; {other_name}; {other_root}")),
        _ => Err(format!("the connections are {version:?}")),
    }
}

/// Lets the primary answer TLS with a certificate of this name.
fn serve(servers: &Servers, authority: &Authority, name: &str) -> Result<(), String> {
    let pair = authority.sign(name, |_| {});
    servers.write_secret("server.crt", &pair.certificate)?;
    servers.write_secret("server.key", &pair.key)?;
    servers.query("ALTER SYSTEM SET ssl = on")?;
    let loaded = servers.query("SELECT pg_conf_load_time()")?;
    servers.query("SELECT pg_reload_conf()")?;
    let reloaded =
        format!("SELECT current_setting('ssl') || (pg_conf_load_time() > '{loaded}')::text");
    servers.wait_for(&reloaded, "ontrue")
}

/// Writes and reads over TLS. Returns its version.
fn use_it(store: &Postgres, servers: &Servers) -> Result<String, StoreFailure> {
    store.acquire(Duration::from_secs(10))?;
    let database = store.open("secret")?;
    let mut batch = Batch::default();
    batch.put("key", "value");
    database.commit(vec![batch])?;
    assert_eq!(database.get(b"key")?.as_deref(), Some(&b"value"[..]));
    let versions = "SELECT string_agg(DISTINCT coalesce(version, 'plain'), ' ') \
                    FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'wabahook'";
    servers.query(versions).map_err(StoreFailure::Unsafe)
}

fn refused(what: &str, connected: Result<Postgres, StoreFailure>) -> Verdict {
    match connected {
        Ok(_) => Err(format!("{what} was not refused")),
        Err(failure) => Ok(format!("{what} ({failure})")),
    }
}

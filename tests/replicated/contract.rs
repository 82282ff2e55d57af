//! The store contract, by the same checks as the other stores.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::servers::Servers;
use crate::support::wait_until;

#[path = "../../src/store/contract_checks.rs"]
mod checks;

pub use wabahook::store::{
    BATCH_OPERATIONS_MAX, Batch, Database, Postgres, PostgresOptions, Store, StoreFailure,
    VALUE_BYTES_MAX,
};

const SHARD: u16 = 9;

/// A store of its own, on another shard than the other rounds.
pub fn check(servers: &Servers) {
    let connection = &servers.connection();
    let options = || PostgresOptions::new(connection).unwrap().shard(SHARD);
    let store = Postgres::connect(options().name("first")).unwrap();
    assert!(matches!(store.open("early"), Err(StoreFailure::InUse)), "it is no owner yet");
    store.acquire(Duration::from_secs(10)).unwrap();
    assert_eq!(store.format(4).unwrap(), 4);
    assert_eq!(store.format(5).unwrap(), 4, "the recorded format stays");
    checks::check(&store);
    check_pages(&store);
    check_renaming(&store);
    check_spare_table(&store, servers);
    check_removal(&store, servers);
    check_closed_connections(&store, servers);
    check_takeover(store, options(), servers);
}

/// More rows than one read takes, read where they were found and not written.
fn check_pages(store: &Postgres) {
    let pages = store.open("pages").unwrap();
    let batches = (0..1_200_u32).map(|n| {
        let mut batch = Batch::default();
        batch.put(format!("p{n:05}"), vec![7; VALUE_BYTES_MAX]);
        batch
    });
    pages.commit(batches.collect()).unwrap();
    drop(pages);
    let pages = store.open("pages").unwrap();
    let mut seen = 0;
    let mut count = |_: &[u8], value: &[u8]| {
        assert_eq!(value.len(), VALUE_BYTES_MAX);
        seen += 1;
        ControlFlow::Continue(())
    };
    pages.scan(b"p", b"p00100", &mut count).unwrap();
    assert_eq!(seen, 1_100);
    for n in 0..8 {
        assert!(pages.get(format!("p{n:05}").as_bytes()).unwrap().is_some());
    }
    let mut batch = Batch::default();
    batch.remove("p00003");
    pages.commit(vec![batch]).unwrap();
    assert_eq!(pages.get(b"p00003").unwrap(), None, "also where it is in memory");
    assert_eq!(pages.last(b"p", b"p00003").unwrap().unwrap().0, b"p00002");
}

fn check_renaming(store: &Postgres) {
    let mut batch = Batch::default();
    batch.put("key", "value");
    store.open("broken").unwrap().commit(vec![batch]).unwrap();
    let name = store.set_aside("broken").unwrap();
    assert_eq!(name, "damaged-broken");
    assert_eq!(store.open(&name).unwrap().get(b"key").unwrap().unwrap(), b"value");
    assert!(!store.list().unwrap().contains(&"broken".to_owned()));
}

/// A table is made ahead and used. Where that fails, or the table has gone, databases are created all the same.
fn check_spare_table(store: &Postgres, servers: &Servers) {
    let query = |text: &str| servers.query(text).unwrap();
    let number = |name: &str| {
        let found = query(&format!("SELECT to_regclass('wabahook_{SHARD}.\"{name}\"')::oid"));
        (!found.is_empty()).then_some(found)
    };
    let write = |name: &str| {
        let mut batch = Batch::default();
        batch.put("key", name);
        let database = store.open(name).unwrap();
        database.commit(vec![batch]).unwrap();
        assert_eq!(database.get(b"key").unwrap().as_deref(), Some(name.as_bytes()));
    };
    let is_used = (0..20).any(|n| {
        let made = wait_until(|| number("spare").is_some()).then(|| number("spare")).unwrap();
        // The store may not know yet that the server has made it.
        write(&format!("user-{n}"));
        number(&format!("user-{n}")) == made
    });
    assert!(is_used, "no table that was made ahead was used");
    assert!(!store.list().unwrap().contains(&"spare".to_owned()));
    refuse(servers, "CREATE TABLE", "spare");
    ["refused-1", "refused-2", "refused-3"].into_iter().for_each(write);
    assert_eq!(number("spare"), None);
    allow_again(servers);
    write("again");
    assert!(wait_until(|| number("spare").is_some()));
    query(&format!("DROP TABLE wabahook_{SHARD}.spare"));
    ["gone-1", "gone-2"].into_iter().for_each(write);
}

/// A removed database is gone at once and its name is free. Its table is dropped later, also where that fails at first.
fn check_removal(store: &Postgres, servers: &Servers) {
    let write = || {
        let mut batch = Batch::default();
        batch.put("key", "value");
        store.open("dropped").unwrap().commit(vec![batch]).unwrap();
    };
    let has_value = || store.open("dropped").unwrap().get(b"key").unwrap().is_some();
    let is_left = format!(
        "SELECT count(*) > 0 FROM pg_tables WHERE schemaname = 'wabahook_{SHARD}' AND tablename LIKE 'removed-%'"
    );
    refuse(servers, "DROP TABLE", "removed-");
    for _ in 0..5 {
        write();
        store.remove("dropped").unwrap();
        assert!(
            !store.list().unwrap().iter().any(|name| name == "dropped" || name.contains("removed"))
        );
        assert!(!has_value());
    }
    assert_eq!(servers.query(&is_left).as_deref(), Ok("t"));
    allow_again(servers);
    write();
    store.remove("dropped").unwrap();
    write();
    assert!(wait_until(|| servers.query(&is_left).as_deref() == Ok("f")));
    assert!(has_value(), "no later table of the name is dropped");
    store.remove("dropped").unwrap();
}

/// Connections that the server closed while nothing was written are noticed before the next commit.
fn check_closed_connections(store: &Postgres, servers: &Servers) {
    let put = |value: &str| {
        let mut batch = Batch::default();
        batch.put("key", value);
        vec![batch]
    };
    let (idle, bystander) = (store.open("idle").unwrap(), store.open("bystander").unwrap());
    idle.commit(put("before")).unwrap();
    bystander.commit(put("untouched")).unwrap();
    let query = |text: &str| servers.query(text).unwrap();
    let clients = "backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let open =
        query(&format!("SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE {clients}"));
    let of_open = format!("FROM pg_stat_activity WHERE pid IN ({open})");
    query(&format!("SELECT count(pg_terminate_backend(pid)) {of_open}"));
    assert!(wait_until(|| query(&format!("SELECT count(*) {of_open}")) == "0"));
    idle.commit(put("after")).unwrap();
    assert_eq!(idle.get(b"key").unwrap().as_deref(), Some(&b"after"[..]));
    assert_eq!(bystander.get(b"key").unwrap().as_deref(), Some(&b"untouched"[..]));
}

/// Lets the server refuse such a command for tables whose name begins so.
fn refuse(servers: &Servers, command: &str, table: &str) {
    let refuse = format!(
        "CREATE FUNCTION refuse_command() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF current_query() LIKE '%\"{table}%' THEN RAISE EXCEPTION 'refused'; END IF; END $$; \
         CREATE EVENT TRIGGER refuse_command ON ddl_command_start WHEN TAG IN ('{command}') \
             EXECUTE FUNCTION refuse_command()"
    );
    servers.query(&refuse).unwrap();
}

fn allow_again(servers: &Servers) {
    servers.query("DROP EVENT TRIGGER refuse_command; DROP FUNCTION refuse_command").unwrap();
}

/// Another owner waits, takes over, and what the first one still holds writes nothing more.
fn check_takeover(first: Postgres, options: PostgresOptions, servers: &Servers) {
    let second = Postgres::connect(options.name("second")).unwrap();
    assert!(!second.try_acquire().unwrap());
    assert_eq!(second.owner().unwrap().as_deref(), Some("first"));
    assert!(matches!(second.acquire(Duration::ZERO), Err(StoreFailure::InUse)));
    let held = first.open("held").unwrap();
    first.release();
    assert!(!first.is_owner());
    second.acquire(Duration::from_secs(10)).unwrap();
    let mut batch = Batch::default();
    batch.put("late", "write");
    assert!(held.commit(vec![batch]).is_err());
    assert_eq!(second.open("held").unwrap().get(b"late").unwrap(), None);
    assert!(second.is_owner());
    // A call from a task of an async runtime must not panic.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let names = runtime.block_on(async { second.list() });
    assert!(names.unwrap().contains(&"held".to_owned()));
    check_lost_lease(&second, servers);
    // Nor may the end of a store there.
    runtime.block_on(async { drop(second) });
}

/// A store that lost its lease, and one that was released, keep no connection open while they are still there.
fn check_lost_lease(store: &Postgres, servers: &Servers) {
    let query = |text: &str| servers.query(text).unwrap();
    assert_ne!(query(CLIENTS), "0");
    query(&format!("UPDATE wabahook.lease SET owner = 'another' WHERE shard = {SHARD}"));
    assert!(wait_until(|| matches!(store.list(), Err(StoreFailure::Fenced))));
    store.release();
    assert!(wait_until(|| query(CLIENTS) == "0"), "{} connections are open", query(CLIENTS));
}

/// Counts the connections of clients, without the one that asks.
const CLIENTS: &str = "SELECT count(*) FROM pg_stat_activity \
     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

//! A hand-written outbox: two tables in SQLite, and threads that claim due deliveries. An event counts as
//! published when its transaction is durable (WAL, synchronous=FULL). A delivery is claimed before it is
//! sent, and deleted when it was acknowledged.
//!
//! It is as fast as we could make it within that design: prepared statements, 16 deliveries per claim,
//! settled in the transaction that claims the next, an HTTP agent for each endpoint, and idle threads
//! that look again after 50 ms. With a shorter pause they find one delivery at a time and sync for each.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use ureq::Agent;

use crate::receiver::{Receiver, now_ns};
use crate::{Outcome, Work, payload, signing};

const CALLERS: usize = 32;
const TOGETHER: usize = 64;
const WORKERS: usize = 32;
const CLAIMED: i64 = 16;
const IDLE: Duration = Duration::from_millis(50);
const LEASE_S: u64 = 60;
const TIMEOUT: Duration = Duration::from_secs(10);

/// How events come into the table.
#[derive(Clone, Copy)]
pub(crate) enum Publishing {
    /// Each with a transaction of its caller.
    EachAlone,
    /// Many callers in one transaction.
    Together,
}

const SCHEMA: &str = "
    CREATE TABLE events (id INTEGER PRIMARY KEY, payload BLOB NOT NULL);
    CREATE TABLE deliveries (
        id INTEGER PRIMARY KEY,
        event INTEGER NOT NULL,
        endpoint INTEGER NOT NULL,
        due_s INTEGER NOT NULL
    );
    CREATE INDEX due ON deliveries (due_s, id);
";
const ADD_EVENT: &str = "INSERT INTO events (payload) VALUES (?1)";
const ADD_DELIVERY: &str = "INSERT INTO deliveries (event, endpoint, due_s) VALUES (?1, ?2, 0)";
const SETTLE: &str = "DELETE FROM deliveries WHERE id = ?1";
/// A claimed delivery is due again after its lease, in case its thread died.
const CLAIM: &str = "
    UPDATE deliveries SET due_s = ?1
    WHERE id IN (SELECT id FROM deliveries WHERE due_s <= ?2 ORDER BY due_s, id LIMIT ?3)
    RETURNING id, event, endpoint
";
const PAYLOAD: &str = "SELECT payload FROM events WHERE id = ?1";

struct Shared {
    connection: Mutex<Connection>,
    agents: Vec<Agent>,
    urls: Vec<String>,
    stops: AtomicBool,
}

/// The threads that deliver. They end on drop.
pub(crate) struct Delivering {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Drop for Delivering {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// Publishes everything. Returns when it began.
pub(crate) fn run(
    work: &Work,
    publishing: Publishing,
    receiver: &mut Receiver,
) -> Outcome<(u64, Delivering)> {
    let connection = Connection::open(work.directory.join("outbox.db"))?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(format!("the journal is {mode}").into());
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(SCHEMA)?;
    let shared = Arc::new(Shared {
        connection: Mutex::new(connection),
        agents: work.urls.iter().map(|_| agent()).collect(),
        urls: work.urls.clone(),
        stops: AtomicBool::new(false),
    });
    let workers = (0..WORKERS).map(|_| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.deliver().unwrap_or_else(|error| eprintln!("outbox: {error}")))
    });
    let delivering = Delivering { workers: workers.collect(), shared: Arc::clone(&shared) };
    receiver.expect(work.events * work.urls.len())?;
    let payloads: Vec<Vec<u8>> = (0..work.events).map(payload).collect();
    let started_ns = now_ns();
    match publishing {
        Publishing::Together => {
            for together in payloads.chunks(TOGETHER) {
                shared.publish(together)?;
            }
        }
        Publishing::EachAlone => publish_each(&shared, &payloads)?,
    }
    Ok((started_ns, delivering))
}

fn publish_each(shared: &Shared, payloads: &[Vec<u8>]) -> Outcome {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let caller = || -> Outcome {
            while let Some(one) = payloads.get(next.fetch_add(1, Ordering::Relaxed)) {
                shared.publish(std::slice::from_ref(one))?;
            }
            Ok(())
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        for caller in callers {
            caller.join().map_err(|_| "a caller panicked")??;
        }
        Ok(())
    })
}

fn agent() -> Agent {
    // No timeout for name lookups: with one, ureq uses a thread for each.
    Agent::config_builder()
        .timeout_connect(Some(TIMEOUT))
        .timeout_recv_response(Some(TIMEOUT))
        .max_idle_connections(WORKERS)
        .max_idle_connections_per_host(WORKERS)
        .build()
        .into()
}

/// A delivery that this thread has claimed.
struct Claimed {
    id: i64,
    event: i64,
    endpoint: usize,
    payload: Arc<Vec<u8>>,
}

impl Shared {
    fn locked<T>(&self, act: impl FnOnce(&Transaction<'_>) -> Outcome<T>) -> Outcome<T> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = act(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    fn publish(&self, payloads: &[Vec<u8>]) -> Outcome {
        self.locked(|transaction| {
            let mut add_event = transaction.prepare_cached(ADD_EVENT)?;
            let mut add_delivery = transaction.prepare_cached(ADD_DELIVERY)?;
            for payload in payloads {
                let event = add_event.insert([payload])?;
                for endpoint in 0..self.urls.len() {
                    add_delivery.execute(params![event, endpoint])?;
                }
            }
            Ok(())
        })
    }

    fn deliver(&self) -> Outcome {
        let mut done: Vec<i64> = Vec::new();
        while !self.stops.load(Ordering::Relaxed) {
            let claimed = self.settle_and_claim(&mut done)?;
            if claimed.is_empty() {
                thread::sleep(IDLE);
            }
            for one in claimed {
                if self.send(&one) {
                    done.push(one.id);
                }
            }
        }
        Ok(())
    }

    fn settle_and_claim(&self, done: &mut Vec<i64>) -> Outcome<Vec<Claimed>> {
        self.locked(|transaction| {
            let mut settle = transaction.prepare_cached(SETTLE)?;
            for id in done.drain(..) {
                settle.execute([id])?;
            }
            let now_s = signing::now_s();
            let mut claim = transaction.prepare_cached(CLAIM)?;
            let rows = claim.query_map(params![now_s + LEASE_S, now_s, CLAIMED], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
            let mut claimed: Vec<Claimed> = Vec::new();
            let mut read = transaction.prepare_cached(PAYLOAD)?;
            for row in rows {
                let (id, event, endpoint) = row?;
                // The deliveries of one event are consecutive.
                let payload = match claimed.last().filter(|last| last.event == event) {
                    Some(last) => Arc::clone(&last.payload),
                    None => Arc::new(read.query_row([event], |row| row.get(0))?),
                };
                claimed.push(Claimed { id, event, endpoint, payload });
            }
            Ok(claimed)
        })
    }

    fn send(&self, one: &Claimed) -> bool {
        let (id, timestamp_s) = (format!("evt_{}", one.event), signing::now_s());
        let sent = self.agents[one.endpoint]
            .post(&self.urls[one.endpoint])
            .header("content-type", "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", signing::signature(&id, timestamp_s, &one.payload))
            .send(one.payload.as_slice());
        sent.is_ok_and(|mut answer| answer.body_mut().read_to_vec().is_ok())
    }
}

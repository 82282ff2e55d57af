//! The store on a PostgreSQL server, which a synchronous standby replicates. A database of the contract is a table, a
//! commit is one statement, and the ownership is a row that every commit checks in its own transaction: a process that
//! lost the ownership can write nothing more. Only the files of this directory name the client of PostgreSQL.
//!
//! Callers run the connections of the session themselves, with a deadline, and may be threads of an async runtime; one
//! thread runs the rest, such as the renewal of the lease. An answer that does not come in time is an unknown outcome:
//! the connection is dropped, and the next one first takes a new epoch, which ends or refuses whatever the old one left
//! under way.

mod cluster;
mod database;
mod lease;
mod mirror;
mod options;
mod ownership;
mod runtime;
mod session;
mod sql;
mod tables;
mod tls;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

pub(crate) use self::cluster::{ClusterHost, ClusterView, PostgresCluster, ShardLease};
use self::database::PostgresDatabase;
pub use self::options::PostgresOptions;
use self::ownership::Ownership;
use self::runtime::{ClientThread, SessionRuntime, failure_of, on_waiting_thread};
use self::session::{CONNECT_DEADLINE, Connector, Session};
use self::tables::BackgroundTables;
use super::{Database, Store, StoreFailure, StoreListener};
use crate::clock::fill_random;

/// How long a statement may take. Longer than a failover that PostgreSQL itself survives, such as a restart of the
/// standby.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);

/// How often a host that waits for the ownership looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a failed try to begin a session is not repeated. Calls that wait for each other would each wait for a server
/// that is silent.
const FAILURE_KEPT: Duration = Duration::from_millis(250);

/// A store on a PostgreSQL server. Only its owner can use it: call [`acquire`](Postgres::acquire) first.
///
/// ```no_run
/// use std::sync::Arc;
/// use std::time::Duration;
/// use wabahook::store::{Postgres, PostgresOptions};
/// use wabahook::{Config, Engine};
///
/// let options = PostgresOptions::new("host=10.0.0.5,10.0.0.6 user=wabahook dbname=wabahook")?;
/// let store = Postgres::connect(options.name("host-a"))?;
/// store.acquire(Duration::from_secs(60))?; // waits until no other host owns it
/// let engine = Engine::open(Config::new("unused").store(Arc::new(store)))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Postgres {
    shared: Arc<PostgresState>,
}

/// What the store and its open databases share.
struct PostgresState {
    connector: Connector,
    ownership: Arc<Ownership>,
    /// The session, or why the last try to begin one failed.
    session: Mutex<Option<Result<Arc<Session>, FailedTry>>>,
    /// The names of the open databases.
    open: Mutex<BTreeSet<String>>,
    tables: Arc<BackgroundTables>,
    /// Runs the connections of the session.
    sessions: SessionRuntime,
    /// Runs everything else.
    runtime: ClientThread,
}

/// A try to begin a session that failed.
struct FailedTry {
    ended: Instant,
    failure: StoreFailure,
}

/// Random text that tells one holder of a row on the server from every other.
fn random_token() -> Result<String, StoreFailure> {
    let mut token = [0; 16];
    fill_random(&mut token).map_err(|error| StoreFailure::io(std::io::Error::other(error)))?;
    Ok(crate::text::hex(&token))
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("options", &self.shared.connector.options).finish()
    }
}

impl Postgres {
    /// Connects, checks that the server keeps what it confirms, and creates the tables of the ownership where they are
    /// missing.
    ///
    /// # Errors
    /// [`StoreFailure::Unsafe`] where the server could lose what it confirms; another [`StoreFailure`] when it cannot
    /// be reached or refuses.
    pub fn connect(options: PostgresOptions) -> Result<Postgres, StoreFailure> {
        let store = Postgres::on_prepared_server(options)?;
        let preparing = store.shared.connector.clone();
        let prepare = async move { preparing.prepare_server().await };
        store.shared.runtime.run(CONNECT_DEADLINE, prepare)??;
        Ok(store)
    }

    /// A store on a server that is known to have what is shared by all shards. Connects to nothing yet.
    pub(crate) fn on_prepared_server(options: PostgresOptions) -> Result<Postgres, StoreFailure> {
        let connector = Connector::new(options)?;
        let runtime = ClientThread::start()?;
        let ownership = Arc::new(Ownership::new(random_token()?, connector.options.lease_ttl));
        let state = PostgresState {
            connector,
            ownership,
            session: Mutex::default(),
            open: Mutex::default(),
            tables: Arc::default(),
            sessions: SessionRuntime::new()?,
            runtime,
        };
        Ok(Postgres { shared: Arc::new(state) })
    }

    /// Takes the ownership if no other host has it. Returns whether this store is the owner.
    ///
    /// # Errors
    /// A [`StoreFailure`] when the server cannot be reached or refuses.
    pub fn try_acquire(&self) -> Result<bool, StoreFailure> {
        let PostgresState { connector, ownership, runtime, .. } = &*self.shared;
        if ownership.was_acquired() {
            return Ok(ownership.is_held());
        }
        let (connecting, taking) = (connector.clone(), Arc::clone(ownership));
        let acquire = async move { lease::acquire(&connecting, &taking).await };
        if !runtime.run(CONNECT_DEADLINE, acquire)?? {
            return Ok(false);
        }
        runtime.spawn(lease::keep(connector.clone(), Arc::clone(ownership)));
        Ok(true)
    }

    /// Takes the ownership, and waits for it up to `wait` while another host has it.
    ///
    /// # Errors
    /// [`StoreFailure::InUse`] when another host still has it; another [`StoreFailure`] when the server cannot be
    /// reached or refuses.
    pub fn acquire(&self, wait: Duration) -> Result<(), StoreFailure> {
        let mut waited = Duration::ZERO;
        while !self.try_acquire()? {
            if waited >= wait {
                return Err(StoreFailure::InUse);
            }
            std::thread::park_timeout(LOOK_EVERY);
            waited += LOOK_EVERY;
        }
        Ok(())
    }

    /// The host that has the ownership now.
    ///
    /// # Errors
    /// A [`StoreFailure`] when the server cannot be reached or refuses.
    pub fn owner(&self) -> Result<Option<String>, StoreFailure> {
        let connector = self.shared.connector.clone();
        let find = async move { lease::owner(&connector).await };
        self.shared.runtime.run(CONNECT_DEADLINE, find)?
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.release();
    }
}

impl Store for Postgres {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, StoreFailure> {
        if !self.shared.open.lock().insert(name.to_owned()) {
            return Err(StoreFailure::InUse);
        }
        match on_waiting_thread(|| PostgresDatabase::open(&self.shared, name)) {
            Ok(database) => Ok(Arc::new(database)),
            Err(failure) => {
                self.shared.open.lock().remove(name);
                Err(failure)
            }
        }
    }

    fn list(&self) -> Result<Vec<String>, StoreFailure> {
        on_waiting_thread(|| self.shared.names())
    }

    fn remove(&self, name: &str) -> Result<(), StoreFailure> {
        self.check_closed(name)?;
        on_waiting_thread(|| {
            let epoch = self.shared.session()?.epoch();
            self.shared.rename_table(name, &self.shared.tables.removed_name(epoch))?;
            self.shared.drop_removed(epoch);
            Ok(())
        })
    }

    fn set_aside(&self, name: &str) -> Result<String, StoreFailure> {
        self.check_closed(name)?;
        on_waiting_thread(|| {
            let names = self.shared.names()?;
            let new = super::damaged_name(name, |new| names.iter().any(|name| name == new));
            self.shared.rename_table(name, &new)?;
            Ok(new)
        })
    }

    fn format(&self, newest: u32) -> Result<u32, StoreFailure> {
        let found = on_waiting_thread(|| {
            let session = self.shared.session()?;
            let found = self.shared.sessions.run(STATEMENT_DEADLINE, session.format(newest))?;
            found.map_err(|error| failure_of(&error))
        })?;
        found.parse().map_err(|_| StoreFailure::Damaged(format!("the format is {found:?}")))
    }

    fn is_owner(&self) -> bool {
        self.shared.ownership.is_held()
    }

    fn on_event(&self, listener: StoreListener) {
        self.shared.ownership.listen(listener);
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn release(&self) {
        let was_held = self.shared.ownership.release();
        let session = self.shared.session.lock().take();
        self.shared.close(session);
        self.shared.runtime.spawn(Arc::clone(&self.shared.tables).close());
        if !was_held {
            return;
        }
        let (connector, ownership) =
            (self.shared.connector.clone(), Arc::clone(&self.shared.ownership));
        let give_up = async move { lease::give_up(&connector, &ownership).await };
        // Without it the lease ends by itself.
        let _ = self.shared.runtime.run(CONNECT_DEADLINE, give_up);
    }
}

impl Postgres {
    fn check_closed(&self, name: &str) -> Result<(), StoreFailure> {
        match self.shared.open.lock().contains(name) {
            true => Err(StoreFailure::InUse),
            false => Ok(()),
        }
    }
}

impl PostgresState {
    /// The session that writes. Where the last one failed, a new one takes a new epoch first.
    fn session(&self) -> Result<Arc<Session>, StoreFailure> {
        if let Err(failure) = self.ownership.check() {
            // A call that begins a session just now finds out itself.
            self.close(self.session.try_lock().and_then(|mut latest| latest.take()));
            return Err(failure);
        }
        let called = Instant::now();
        let mut latest = self.session.lock();
        match &*latest {
            Some(Ok(session)) => {
                self.sessions.catch_up()?;
                if !session.has_failed() {
                    return Ok(Arc::clone(session));
                }
            }
            // It was tried while this call waited, or just before.
            Some(Err(FailedTry { ended, failure })) if called < *ended + FAILURE_KEPT => {
                return Err(failure.clone());
            }
            _ => {}
        }
        *latest = None;
        let connect = Session::begin(&self.connector, &self.ownership);
        let session = match self.sessions.run(CONNECT_DEADLINE, connect).flatten() {
            Ok(session) => Arc::new(session),
            Err(failure) => {
                let ended = Instant::now();
                *latest = Some(Err(FailedTry { ended, failure: failure.clone() }));
                return Err(failure);
            }
        };
        *latest = Some(Ok(Arc::clone(&session)));
        // An earlier owner may have left some.
        self.drop_removed(session.epoch());
        Ok(session)
    }

    /// Closes the connections of a session. They are closed when they run next.
    fn close(&self, session: Option<Result<Arc<Session>, FailedTry>>) {
        if let Some(Ok(session)) = session {
            drop(session);
            let _ = on_waiting_thread(|| self.sessions.catch_up());
        }
    }

    fn rename_table(&self, name: &str, to: &str) -> Result<(), StoreFailure> {
        let (table, to) = (self.connector.table(name), sql::identifier(to));
        self.define(&format!("ALTER TABLE IF EXISTS {table} RENAME TO {to}"))
    }

    fn names(&self) -> Result<Vec<String>, StoreFailure> {
        let session = self.session()?;
        let schema = self.connector.schema();
        let names = self.sessions.run(STATEMENT_DEADLINE, session.names(&schema));
        let mut names = session.checked(names)?;
        names.retain(|name| tables::is_database(name));
        Ok(names)
    }

    /// Gives the table that was made ahead the name of a new database, or creates one. The next one is made meanwhile.
    fn create_table(&self, name: &str) -> Result<(), StoreFailure> {
        let table = self.connector.table(name);
        let rename = sql::rename_table(&self.connector.table(tables::SPARE), name);
        let is_renamed = self.tables.take_spare()
            && match self.define(&rename) {
                Ok(()) => true,
                Err(StoreFailure::Fenced) => return Err(StoreFailure::Fenced),
                Err(_) => false,
            };
        if !is_renamed {
            self.define(&sql::create_table(&table))?;
        }
        let epoch = self.session()?.epoch();
        self.runtime.spawn(Arc::clone(&self.tables).make_spare(self.connector.clone(), epoch));
        Ok(())
    }

    /// Drops the tables of removed databases in the background.
    fn drop_removed(&self, epoch: i64) {
        self.runtime.spawn(Arc::clone(&self.tables).drop_removed(self.connector.clone(), epoch));
    }

    /// Creates or renames a table, if this store is still the owner.
    fn define(&self, statement: &str) -> Result<(), StoreFailure> {
        let session = self.session()?;
        let text = sql::fenced(self.connector.options.shard, session.epoch(), statement);
        let defined = self.sessions.run(STATEMENT_DEADLINE, session.execute(&text));
        let defined = session.checked(defined);
        if let Err(StoreFailure::Fenced) = defined {
            self.ownership.lose();
        }
        defined
    }
}

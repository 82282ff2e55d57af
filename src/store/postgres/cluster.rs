//! What hosts know of each other by way of the server: which of them are live, at which address, and which leases they
//! hold. A host announces itself in a row that ends by itself, like a lease. Nothing here needs the ownership of a shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::database::{end_of, pair_in};
use super::options::PostgresOptions;
use super::runtime::{ClientThread, failure_of};
use super::session::{CONNECT_DEADLINE, Connection, Connector, Parameter};
use super::{random_token, sql};
use crate::store::{KeyValue, StoreFailure};

/// The live hosts and the leases of all shards, as the server has them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterView {
    /// Ordered by name.
    pub(crate) hosts: Vec<ClusterHost>,
    /// Ordered by shard, without gaps.
    pub(crate) leases: Vec<ShardLease>,
}

/// A live host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterHost {
    pub(crate) name: String,
    /// Where other hosts reach it.
    pub(crate) address: String,
    /// Whether it is this process, and not another one of the same name.
    pub(crate) is_own: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardLease {
    pub(crate) shard: u16,
    /// The host that has it, or had it last.
    pub(crate) host: String,
    /// For how long it has been free; `None` while it is held.
    pub(crate) free_for: Option<Duration>,
}

impl ShardLease {
    /// The host that has it now.
    pub(crate) fn owner(&self) -> Option<&str> {
        self.free_for.is_none().then_some(&self.host)
    }
}

/// The place of one host among the others.
pub(crate) struct PostgresCluster {
    connector: Connector,
    runtime: ClientThread,
    reader: KeptConnection,
    /// Apart from the reader, because an announcement waits for the standby.
    announcer: KeptConnection,
    is_announcing: Arc<AtomicBool>,
    own: ClusterHost,
    /// Tells this process from another one of the same name.
    token: String,
}

/// A parameter that is sent to the client's thread.
type OwnedParameter = (Box<dyn ToSql + Sync + Send>, Type);

impl PostgresCluster {
    /// Connects and creates what is missing on the server.
    ///
    /// # Errors
    /// [`StoreFailure::Unsafe`] where the store was made with another number of shards, or as
    /// [`Postgres::connect`](super::Postgres::connect).
    pub(crate) fn connect(
        options: PostgresOptions,
        own: ClusterHost,
    ) -> Result<PostgresCluster, StoreFailure> {
        let connector = Connector::new(options)?;
        let runtime = ClientThread::start()?;
        let preparing = connector.clone();
        runtime.run(CONNECT_DEADLINE, async move { preparing.prepare_server().await })??;
        let token = random_token()?;
        let (reader, announcer) =
            (KeptConnection::new(connector.clone()), KeptConnection::new(connector.clone()));
        let is_announcing = Arc::default();
        Ok(PostgresCluster { connector, runtime, reader, announcer, is_announcing, own, token })
    }

    /// Announces this host until the end of a lease, unless another live process has its name or address. Does not wait:
    /// the view shows this host once the server has confirmed it, as it confirms any write.
    pub(crate) fn announce(&self) {
        if self.is_announcing.swap(true, Ordering::AcqRel) {
            return;
        }
        let parameters: Vec<OwnedParameter> = vec![
            (Box::new(self.own.name.clone()), Type::TEXT),
            (Box::new(self.own.address.clone()), Type::TEXT),
            (Box::new(self.token.clone()), Type::TEXT),
            (Box::new(self.connector.options.ttl_ms()), Type::FLOAT8),
        ];
        let (connection, is_announcing) = (self.announcer.clone(), Arc::clone(&self.is_announcing));
        self.runtime.spawn(async move {
            let announcing = connection.query(sql::ANNOUNCE.to_owned(), parameters);
            match timeout(CONNECT_DEADLINE, announcing).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "this host could not be announced"),
                Err(_) => tracing::warn!("this host could not be announced in time"),
            }
            is_announcing.store(false, Ordering::Release);
        });
    }

    /// Withdraws the announcement, so that other hosts need not wait for its end.
    pub(crate) fn leave(&self) -> Result<(), StoreFailure> {
        let parameters: Vec<OwnedParameter> = vec![
            (Box::new(self.own.name.clone()), Type::TEXT),
            (Box::new(self.token.clone()), Type::TEXT),
        ];
        // On the connection of the announcements, so that none comes later.
        self.run(&self.announcer, sql::LEAVE.to_owned(), parameters).map(drop)
    }

    /// The live hosts and the leases.
    pub(crate) fn view(&self) -> Result<ClusterView, StoreFailure> {
        let token = (Box::new(self.token.clone()) as Box<dyn ToSql + Sync + Send>, Type::TEXT);
        let hosts = self.query(sql::HOSTS.to_owned(), vec![token])?;
        let shards = i32::from(self.connector.options.shards);
        let leases = self.query(sql::LEASES.to_owned(), vec![(Box::new(shards), Type::INT4)])?;
        let host = |row: &Row| {
            let (name, address) = (row.try_get(0)?, row.try_get(1)?);
            Ok(ClusterHost { name, address, is_own: row.try_get(2)? })
        };
        let lease = |row: &Row| {
            let (shard, free_ms): (i32, f64) = (row.try_get(0)?, row.try_get(2)?);
            let free_for = Duration::try_from_secs_f64(free_ms / 1e3).ok();
            let shard = u16::try_from(shard).unwrap_or_default();
            Ok(ShardLease { shard, host: row.try_get(1)?, free_for })
        };
        let read = || {
            let hosts = hosts.iter().map(host).collect::<Result<_, _>>()?;
            Ok(ClusterView { hosts, leases: leases.iter().map(lease).collect::<Result<_, _>>()? })
        };
        read().map_err(|error| failure_of(&error))
    }

    /// A digest of the records of a database of a shard whose key begins with a byte; `None` where there is no such
    /// database. It is read without the ownership, so it may be old by the time it is used.
    pub(crate) fn digest(
        &self,
        shard: u16,
        database: &str,
        prefix: u8,
    ) -> Result<Option<String>, StoreFailure> {
        let table = sql::table(shard, database);
        let exists = vec![(Box::new(table.clone()) as Box<dyn ToSql + Sync + Send>, Type::TEXT)];
        if self.query(sql::TABLE_EXISTS.to_owned(), exists)?.is_empty() {
            return Ok(None);
        }
        let rows = self.query(sql::digest(&table), range(prefix))?;
        let digest = rows.first().map(|row| row.try_get(0)).transpose();
        digest.map_err(|error| failure_of(&error))
    }

    /// Those records.
    pub(crate) fn records(
        &self,
        shard: u16,
        database: &str,
        prefix: u8,
    ) -> Result<Vec<KeyValue>, StoreFailure> {
        let rows = self.query(sql::records(&sql::table(shard, database)), range(prefix))?;
        rows.iter().map(pair_in).collect()
    }

    fn query(
        &self,
        text: String,
        parameters: Vec<OwnedParameter>,
    ) -> Result<Vec<Row>, StoreFailure> {
        self.run(&self.reader, text, parameters)
    }

    /// Runs a query and waits for it.
    fn run(
        &self,
        connection: &KeptConnection,
        text: String,
        parameters: Vec<OwnedParameter>,
    ) -> Result<Vec<Row>, StoreFailure> {
        let connection = connection.clone();
        let query = async move { connection.query(text, parameters).await };
        self.runtime.run(CONNECT_DEADLINE, query)?
    }
}

/// A connection for one query at a time, which is opened again after it failed.
#[derive(Clone)]
struct KeptConnection {
    connector: Connector,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl KeptConnection {
    fn new(connector: Connector) -> KeptConnection {
        KeptConnection { connector, connection: Arc::default() }
    }

    async fn query(
        &self,
        text: String,
        parameters: Vec<OwnedParameter>,
    ) -> Result<Vec<Row>, StoreFailure> {
        let mut current = self.connection.lock().await;
        // Taken out, so that it is dropped where this future is.
        let usable = match current.take().filter(|one| !one.client.is_closed()) {
            Some(usable) => usable,
            None => self.connector.connect().await?,
        };
        let parameters: Vec<Parameter<'_>> = parameters
            .iter()
            .map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone()))
            .collect();
        let rows = usable.client.query_typed(&text, &parameters).await;
        let rows = rows.map_err(|error| failure_of(&error))?;
        *current = Some(usable);
        Ok(rows)
    }
}

/// The range of the keys that begin with a byte.
fn range(prefix: u8) -> Vec<OwnedParameter> {
    vec![(Box::new(vec![prefix]), Type::BYTEA), (Box::new(end_of(&[prefix])), Type::BYTEA)]
}

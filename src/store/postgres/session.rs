//! Connections to the server, and the session of an owner: a connection that writes and one that reads, on the same
//! server and under one epoch. Nothing is read before the epoch is taken, so that what an earlier session left under
//! way has ended by then or is refused.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Error, Row, Socket, Statement};

use super::mirror::CommitEffect;
use super::options::PostgresOptions;
use super::ownership::Ownership;
use super::runtime::failure_of;
use super::sql;
use super::tls::TlsConnector;
use crate::store::StoreFailure;

/// How long a new session may take: two connections, and a commit under way that its epoch waits for.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(8);

/// A parameter of a statement, and its type.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Opens connections to the server.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) options: Arc<PostgresOptions>,
    tls: TlsConnector,
}

/// A connection. It is closed at once when this is dropped, without waiting for an answer.
pub(super) struct Connection {
    pub(super) client: Client,
    /// Whether the server sent a warning. A wait for the standby that was cancelled ends with one and looks like a
    /// success otherwise.
    warned: Arc<AtomicBool>,
    driver: AbortHandle,
}

impl Connection {
    /// The names of all tables in a schema.
    pub(super) async fn names(&self, schema: &str) -> Result<Vec<String>, Error> {
        let rows = self.client.query_typed(sql::NAMES, &[(&schema, Type::TEXT)]).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connector {
    pub(super) fn new(options: PostgresOptions) -> Result<Connector, StoreFailure> {
        options.check()?;
        let tls = TlsConnector::new(options.roots_pem.as_deref())?;
        Ok(Connector { options: Arc::new(options), tls })
    }

    pub(super) fn shard(&self) -> i32 {
        i32::from(self.options.shard)
    }

    pub(super) fn schema(&self) -> String {
        sql::schema(self.options.shard)
    }

    /// The table of a database, as it is written in a statement.
    pub(super) fn table(&self, name: &str) -> String {
        sql::table(self.options.shard, name)
    }

    /// Connects to the server that takes writes.
    pub(super) async fn connect(&self) -> Result<Connection, StoreFailure> {
        let connected = self.options.client.connect(self.tls.clone()).await;
        let (client, connection) = connected.map_err(|error| failure_of(&error))?;
        let warned = Arc::new(AtomicBool::new(false));
        let driver = tokio::spawn(drive(connection, Arc::clone(&warned))).abort_handle();
        let connection = Connection { client, warned, driver };
        let set = connection.client.batch_execute(sql::SESSION_SETTINGS).await;
        set.map_err(|error| failure_of(&error))?;
        Ok(connection)
    }

    /// Checks the server and creates what is missing on it.
    pub(super) async fn prepare_server(&self) -> Result<(), StoreFailure> {
        let connection = self.connect().await?;
        self.check_safety(&connection, self.options.replicas).await?;
        let (shard, shards) = (self.options.shard, self.options.shards);
        let created = connection.client.batch_execute(&sql::create(shard, shards)).await;
        created.map_err(|error| failure_of(&error))?;
        let made = text(&connection.client, sql::SHARDS).await?;
        match made == shards.to_string() {
            true => Ok(()),
            false => Err(StoreFailure::Unsafe(format!(
                "the store was made with {made} shards, and {shards} are configured"
            ))),
        }
    }

    /// Refuses a server that could lose what it confirms.
    pub(super) async fn check_safety(
        &self,
        connection: &Connection,
        replicas: u32,
    ) -> Result<(), StoreFailure> {
        let settings = connection.client.query_typed(sql::SAFETY, &[]).await;
        let settings = settings.map_err(|error| failure_of(&error))?;
        let row = settings.first().ok_or(StoreFailure::Closed)?;
        let word = |column: usize| -> String { row.try_get(column).unwrap_or_default() };
        let version: i32 = row.try_get(3).unwrap_or_default();
        let problem = match (word(0).as_str(), word(1).as_str(), word(2).as_str()) {
            ("off", ..) => "fsync is off: the server loses what it confirmed when it crashes",
            (_, "off", _) => "full_page_writes is off: a crash can damage the server's pages",
            (_, _, "") if replicas > 0 => {
                "synchronous_standby_names is empty: the server confirms without a standby; set replicas to 0 if \
                 that is meant"
            }
            _ if version < 150_000 => "PostgreSQL 15 or newer is needed",
            _ => return Ok(()),
        };
        Err(StoreFailure::Unsafe(problem.to_owned()))
    }
}

/// Carries the messages of a connection until it ends.
async fn drive<T>(mut connection: tokio_postgres::Connection<Socket, T>, warned: Arc<AtomicBool>)
where
    T: tokio_postgres::tls::TlsStream + Unpin,
{
    poll_fn(move |context| {
        loop {
            match connection.poll_message(context) {
                Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => {
                    if notice.parsed_severity() == Some(Severity::Warning) {
                        warned.store(true, Ordering::Release);
                    }
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

/// The statements of the commits of a table.
#[derive(Clone)]
pub(super) struct CommitStatements {
    append: Statement,
    replace: Statement,
}

/// The connections of an owner under one epoch.
pub(super) struct Session {
    writer: Connection,
    reader: Connection,
    epoch: i64,
    shard: i32,
    has_failed: AtomicBool,
}

impl Session {
    /// Connects and takes a new epoch of the ownership.
    pub(super) async fn begin(
        connector: &Connector,
        ownership: &Ownership,
    ) -> Result<Session, StoreFailure> {
        let writer = connector.connect().await?;
        // Whether it still has a standby is told by the renewals; here it may have failed over a moment ago.
        connector.check_safety(&writer, 0).await?;
        let (shard, ttl_ms) = (connector.shard(), connector.options.ttl_ms());
        let take = if connector.options.takes_epochs { sql::NEW_EPOCH } else { sql::SAME_EPOCH };
        let parameters: [Parameter<'_>; 3] =
            [(&shard, Type::INT4), (&ownership.token, Type::TEXT), (&ttl_ms, Type::FLOAT8)];
        let taken = writer.client.query_typed(take, &parameters).await;
        let taken = taken.map_err(|error| failure_of(&error))?;
        let Some(row) = taken.first() else {
            ownership.lose();
            return Err(StoreFailure::Fenced);
        };
        let epoch = row.try_get(0).map_err(|error| failure_of(&error))?;
        let reader = connector.connect().await?;
        let session = Session { writer, reader, epoch, shard, has_failed: AtomicBool::new(false) };
        session.check_connections().await?;
        Ok(session)
    }

    /// Both connections must be to the same server and keep their sessions. A pooler that shares them between
    /// transactions mixes them up.
    async fn check_connections(&self) -> Result<(), StoreFailure> {
        let mut servers = Vec::new();
        for (connection, mark) in [(&self.writer, "writer"), (&self.reader, "reader")] {
            let set = format!("SET wabahook.connection = '{mark}'");
            connection.client.batch_execute(&set).await.map_err(|error| failure_of(&error))?;
        }
        for (connection, mark) in [(&self.writer, "writer"), (&self.reader, "reader")] {
            let show = "SELECT current_setting('wabahook.connection', true)";
            if text(&connection.client, show).await? != mark {
                let why =
                    "the connection goes through a pooler in transaction mode: use session mode";
                return Err(StoreFailure::Unsafe(why.to_owned()));
            }
            servers.push(text(&connection.client, sql::SERVER).await?);
        }
        match servers.first() == servers.last() {
            true => Ok(()),
            false => Err(StoreFailure::io(std::io::Error::other("the primary has just changed"))),
        }
    }

    pub(super) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Whether a new session is needed.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
            || self.writer.client.is_closed()
            || self.reader.client.is_closed()
    }

    pub(super) fn fail(&self) {
        self.has_failed.store(true, Ordering::Release);
    }

    /// The outcome of work on this session, which fails with it, except where the server refused a statement.
    pub(super) fn checked<T>(
        &self,
        worked: Result<Result<T, Error>, StoreFailure>,
    ) -> Result<T, StoreFailure> {
        match worked {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                let is_refusal = error
                    .as_db_error()
                    .is_some_and(|refusal| refusal.parsed_severity() == Some(Severity::Error));
                if !is_refusal {
                    self.fail();
                }
                Err(failure_of(&error))
            }
            Err(failure) => {
                self.fail();
                Err(failure)
            }
        }
    }

    pub(super) async fn prepare_commit(&self, table: &str) -> Result<CommitStatements, Error> {
        let (client, keys) = (&self.writer.client, Type::BYTEA_ARRAY);
        let types = [Type::INT4, Type::INT8, keys.clone(), keys.clone(), keys];
        let (append, replace) = (sql::append(table), sql::replace(table));
        let [of_append @ .., _gone] = &types;
        let (append, replace) = tokio::join!(
            client.prepare_typed(&append, of_append),
            client.prepare_typed(&replace, &types)
        );
        Ok(CommitStatements { append: append?, replace: replace? })
    }

    /// Sends one commit. Returns whether the epoch was the present one.
    pub(super) async fn commit(
        &self,
        statements: &CommitStatements,
        CommitEffect { puts, gone, is_append }: &CommitEffect,
    ) -> Result<bool, Error> {
        let keys: Vec<&[u8]> = puts.iter().map(|(key, _)| key.as_slice()).collect();
        let values: Vec<&[u8]> = puts.iter().map(|(_, value)| value.as_slice()).collect();
        let all: [&(dyn ToSql + Sync); 5] = [&self.shard, &self.epoch, &keys, &values, gone];
        let [of_append @ .., _gone] = &all;
        let client = &self.writer.client;
        let row = match is_append {
            true => client.query_one(&statements.append, of_append).await?,
            false => client.query_one(&statements.replace, &all).await?,
        };
        Ok(row.try_get::<_, i64>(0)? > 0)
    }

    /// Whether the server warned since it was asked last. Then a commit may not be on the standby.
    pub(super) fn take_warning(&self) -> bool {
        self.writer.warned.swap(false, Ordering::AcqRel)
    }

    /// Runs statements without parameters on the writing connection.
    pub(super) async fn execute(&self, text: &str) -> Result<(), Error> {
        self.writer.client.batch_execute(text).await
    }

    pub(super) async fn read(
        &self,
        text: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        self.reader.client.query_typed(text, parameters).await
    }

    pub(super) async fn names(&self, schema: &str) -> Result<Vec<String>, Error> {
        self.reader.names(schema).await
    }

    /// The recorded format, which is `newest` where there was none.
    pub(super) async fn format(&self, newest: u32) -> Result<String, Error> {
        let newest = newest.to_string();
        self.writer.client.query_typed(sql::PUT_FORMAT, &[(&newest, Type::TEXT)]).await?;
        self.writer.client.query_one(sql::FORMAT, &[]).await?.try_get(0)
    }
}

async fn text(client: &Client, query: &str) -> Result<String, StoreFailure> {
    let row = client.query_one(query, &[]).await.map_err(|error| failure_of(&error))?;
    Ok(row.try_get::<_, Option<String>>(0).map_err(|error| failure_of(&error))?.unwrap_or_default())
}

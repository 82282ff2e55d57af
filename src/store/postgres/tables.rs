//! Tables that are made ahead and dropped later, on a connection of their own, because each takes the server several
//! milliseconds in which publishers would wait. To begin a database, an empty table is renamed, and to remove one, its
//! table gets a name that was never used before: each is one short commit. So a statement of this connection that reaches
//! the server late meets no table of a database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::timeout;

use super::STATEMENT_DEADLINE;
use super::runtime::failure_of;
use super::session::{Connection, Connector};
use super::sql;
use crate::store::StoreFailure;

/// The name of the table that is made ahead.
pub(super) const SPARE: &str = "spare";

/// The name of a table of a removed database begins with this.
const REMOVED: &str = "removed-";

/// What is made and dropped beside the commits.
#[derive(Default)]
pub(super) struct BackgroundTables {
    /// The kept connection and the epoch that it was opened under. One of an earlier epoch is not reused, because a
    /// statement may still run on it.
    connection: tokio::sync::Mutex<Option<(i64, Connection)>>,
    spare: Mutex<SpareState>,
    removals: AtomicU64,
}

#[derive(Default, PartialEq, Eq)]
enum SpareState {
    #[default]
    Absent,
    Making,
    Ready,
}

/// Whether a table belongs to a database.
pub(super) fn is_database(name: &str) -> bool {
    name != SPARE && !name.starts_with(REMOVED)
}

impl BackgroundTables {
    /// Hands out the table that was made ahead. Returns whether there is one.
    pub(super) fn take_spare(&self) -> bool {
        let mut spare = self.spare.lock();
        let is_ready = *spare == SpareState::Ready;
        if is_ready {
            *spare = SpareState::Absent;
        }
        is_ready
    }

    /// A name that no table had before.
    pub(super) fn removed_name(&self, epoch: i64) -> String {
        let number = self.removals.fetch_add(1, Ordering::Relaxed);
        format!("{REMOVED}{epoch}-{number}")
    }

    /// Makes a table ahead, unless that is under way. One that an earlier owner made is as empty.
    pub(super) async fn make_spare(self: Arc<BackgroundTables>, connector: Connector, epoch: i64) {
        if std::mem::replace(&mut *self.spare.lock(), SpareState::Making) == SpareState::Making {
            return;
        }
        let create = sql::create_table(&connector.table(SPARE));
        let made = self.on_connection(&connector, epoch, async |connection| {
            define(connection, &connector, epoch, &create).await
        });
        *self.spare.lock() = match made.await {
            Ok(()) => SpareState::Ready,
            Err(failure) => {
                tracing::debug!(%failure, "no table was made ahead");
                SpareState::Absent
            }
        };
    }

    /// Drops the tables of removed databases. What remains after a failure is dropped with the next one.
    pub(super) async fn drop_removed(
        self: Arc<BackgroundTables>,
        connector: Connector,
        epoch: i64,
    ) {
        let schema = connector.schema();
        let dropped = self.on_connection(&connector, epoch, async |connection| {
            let names = connection.names(&schema).await.map_err(|error| failure_of(&error))?;
            for name in names.iter().filter(|name| name.starts_with(REMOVED)) {
                let drop = format!("DROP TABLE IF EXISTS {}", connector.table(name));
                define(connection, &connector, epoch, &drop).await?;
            }
            Ok(())
        });
        if let Err(failure) = dropped.await {
            tracing::warn!(%failure, "a table could not be dropped; it is tried again later");
        }
    }

    /// Closes the connection.
    pub(super) async fn close(self: Arc<BackgroundTables>) {
        *self.connection.lock().await = None;
    }

    /// Works on the connection, which is kept where that succeeds.
    async fn on_connection(
        &self,
        connector: &Connector,
        epoch: i64,
        work: impl AsyncFnOnce(&Connection) -> Result<(), StoreFailure>,
    ) -> Result<(), StoreFailure> {
        let mut kept = self.connection.lock().await;
        let connection = match kept.take() {
            Some((of, connection)) if of == epoch && !connection.client.is_closed() => connection,
            _ => connector.connect().await?,
        };
        let late = || StoreFailure::io(std::io::ErrorKind::TimedOut.into());
        timeout(STATEMENT_DEADLINE, work(&connection)).await.map_err(|_| late())??;
        *kept = Some((epoch, connection));
        Ok(())
    }
}

async fn define(
    connection: &Connection,
    connector: &Connector,
    epoch: i64,
    statement: &str,
) -> Result<(), StoreFailure> {
    let text = sql::fenced(connector.options.shard, epoch, statement);
    connection.client.batch_execute(&text).await.map_err(|error| failure_of(&error))
}

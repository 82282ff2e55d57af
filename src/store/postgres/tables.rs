//! Tables that are made ahead and dropped later, on a connection of their own, because each takes the server several
//! milliseconds in which publishers would wait. To begin a database, an empty table is renamed, which is one short
//! commit. A database that was removed is gone for this owner at once. Its table is dropped a moment later, always after
//! those that were removed before it. So a crash brings back at most the databases that were removed last, which is the
//! same as if it had come before they were removed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::timeout;

use super::STATEMENT_DEADLINE;
use super::runtime::failure_of;
use super::session::{Connection, Connector};
use super::sql;
use crate::store::StoreFailure;

/// The name of the table that is made ahead, which no database has.
pub(super) const SPARE: &str = "spare";

/// What is made and dropped beside the commits.
#[derive(Default)]
pub(super) struct BackgroundTables {
    /// With the epoch of its session: what an earlier session left under way is not waited for.
    connection: tokio::sync::Mutex<Option<(i64, Connection)>>,
    spare: Mutex<SpareState>,
    /// Removed databases whose tables may still be there, in the order of their removal.
    removed: Mutex<VecDeque<String>>,
}

#[derive(Default, PartialEq, Eq)]
enum SpareState {
    #[default]
    Absent,
    Making,
    Ready,
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

    /// Makes a table ahead, unless that is under way. One that an earlier owner made is as empty.
    pub(super) async fn make_spare(self: Arc<BackgroundTables>, connector: Connector, epoch: i64) {
        if std::mem::replace(&mut *self.spare.lock(), SpareState::Making) == SpareState::Making {
            return;
        }
        let create = sql::create_table(&connector.table(SPARE));
        let made = self.define(&connector, epoch, &create).await;
        *self.spare.lock() = match made {
            Ok(()) => SpareState::Ready,
            Err(failure) => {
                tracing::debug!(%failure, "no table was made ahead");
                SpareState::Absent
            }
        };
    }

    pub(super) fn remove(&self, name: &str) {
        self.removed.lock().push_back(name.to_owned());
    }

    pub(super) fn is_removed(&self, name: &str) -> bool {
        self.removed.lock().iter().any(|removed| removed == name)
    }

    pub(super) fn has_removed(&self) -> bool {
        !self.removed.lock().is_empty()
    }

    /// Drops the tables of removed databases. After a failure they are dropped with the next one.
    pub(super) async fn drop_removed(
        self: Arc<BackgroundTables>,
        connector: Connector,
        epoch: i64,
    ) -> Result<(), StoreFailure> {
        loop {
            let Some(name) = self.removed.lock().front().cloned() else { return Ok(()) };
            let statement = format!("DROP TABLE IF EXISTS {}", connector.table(&name));
            self.define(&connector, epoch, &statement).await?;
            let mut removed = self.removed.lock();
            // Another call may have dropped it, too.
            if removed.front() == Some(&name) {
                removed.pop_front();
            }
        }
    }

    async fn define(
        &self,
        connector: &Connector,
        epoch: i64,
        statement: &str,
    ) -> Result<(), StoreFailure> {
        let text = sql::fenced(connector.options.shard, epoch, statement);
        let mut kept = self.connection.lock().await;
        let connection = match kept.take() {
            Some((of, connection)) if of == epoch && !connection.client.is_closed() => connection,
            _ => connector.connect().await?,
        };
        let defined = timeout(STATEMENT_DEADLINE, connection.client.batch_execute(&text)).await;
        match defined {
            Ok(Ok(())) => {
                *kept = Some((epoch, connection));
                Ok(())
            }
            Ok(Err(error)) => Err(failure_of(&error)),
            Err(_) => Err(StoreFailure::io(std::io::ErrorKind::TimedOut.into())),
        }
    }
}

//! An empty table that is made ahead. To create a table takes the server several milliseconds, and the outbox begins a
//! new one while publishers wait; to rename one takes a single short commit. Without a spare one a table is created as
//! it is needed.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::timeout;

use super::runtime::failure_of;
use super::session::{CONNECT_DEADLINE, Connector};
use super::sql;
use crate::store::StoreFailure;

/// The table's name, which no database has.
pub(super) const NAME: &str = "spare";

/// The table that is made ahead, or what becomes of it.
#[derive(Default)]
pub(super) struct SpareTable(Mutex<SpareState>);

#[derive(Default, PartialEq, Eq)]
enum SpareState {
    #[default]
    Absent,
    Making,
    Ready,
}

impl SpareTable {
    /// Hands out the table. Returns whether there is one.
    pub(super) fn take(&self) -> bool {
        let mut state = self.0.lock();
        let is_ready = *state == SpareState::Ready;
        if is_ready {
            *state = SpareState::Absent;
        }
        is_ready
    }

    /// Makes the table where it is missing, on a connection of its own, so that commits do not wait for it.
    pub(super) async fn make(self: Arc<SpareTable>, connector: Connector, epoch: i64) {
        if std::mem::replace(&mut *self.0.lock(), SpareState::Making) == SpareState::Making {
            return;
        }
        let made = match timeout(CONNECT_DEADLINE, create(&connector, epoch)).await {
            Ok(Ok(())) => SpareState::Ready,
            Ok(Err(failure)) => {
                tracing::debug!(%failure, "no table was made ahead");
                SpareState::Absent
            }
            Err(_) => SpareState::Absent,
        };
        *self.0.lock() = made;
    }
}

/// A table that an earlier owner made is as empty.
async fn create(connector: &Connector, epoch: i64) -> Result<(), StoreFailure> {
    let create = sql::create_table(&connector.table(NAME));
    let text = sql::fenced(connector.options.shard, epoch, &create);
    let connection = connector.connect().await?;
    connection.client.batch_execute(&text).await.map_err(|error| failure_of(&error))
}

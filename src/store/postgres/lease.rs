//! Takes the lease of a shard, renews it and gives it up. The lease is a row in the database that it guards. Times
//! are the server's, so that the clocks of hosts may differ.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::Type;

use super::ownership::Ownership;
use super::runtime::failure_of;
use super::session::{Connection, Connector, Parameter};
use super::sql;
use crate::store::{StoreEvent, StoreFailure};

/// How often a lease is renewed before it would end. Each renewal waits for the standby like a commit.
const RENEWALS: u32 = 4;

/// Takes the ownership if no other host has it.
pub(super) async fn acquire(
    connector: &Connector,
    ownership: &Ownership,
) -> Result<bool, StoreFailure> {
    let connection = connector.connect().await?;
    connector.check_safety(&connection, connector.options.replicas).await?;
    let (shard, ttl_ms) = (connector.shard(), connector.options.ttl_ms());
    let sent = Instant::now();
    let parameters: [Parameter<'_>; 4] = [
        (&shard, Type::INT4),
        (&ownership.token, Type::TEXT),
        (&connector.options.name, Type::TEXT),
        (&ttl_ms, Type::FLOAT8),
    ];
    let taken = connection.client.query_typed(sql::ACQUIRE, &parameters).await;
    let taken = !taken.map_err(|error| failure_of(&error))?.is_empty();
    if taken {
        ownership.extend(sent);
    }
    Ok(taken)
}

/// The host that has the ownership now.
pub(super) async fn owner(connector: &Connector) -> Result<Option<String>, StoreFailure> {
    let connection = connector.connect().await?;
    let shard = connector.shard();
    let rows = connection.client.query_typed(sql::OWNER, &[(&shard, Type::INT4)]).await;
    let rows = rows.map_err(|error| failure_of(&error))?;
    rows.first().map(|row| row.try_get(0)).transpose().map_err(|error| failure_of(&error))
}

/// Gives the ownership up, so that the next owner need not wait for the end of the lease.
pub(super) async fn give_up(
    connector: &Connector,
    ownership: &Ownership,
) -> Result<(), StoreFailure> {
    let connection = connector.connect().await?;
    let (shard, token) = (connector.shard(), &ownership.token);
    let given = connection
        .client
        .query_typed(sql::GIVE_UP, &[(&shard, Type::INT4), (token, Type::TEXT)])
        .await;
    given.map(drop).map_err(|error| failure_of(&error))
}

/// Renews the lease on a connection of its own, until it is lost or given up.
pub(super) async fn keep(connector: Connector, ownership: Arc<Ownership>) {
    let period = ownership.ttl / RENEWALS;
    let mut renewal = Renewal { connection: None, is_replicated: true };
    loop {
        sleep(period).await;
        if !ownership.is_current() {
            return;
        }
        ownership.note_lapse();
        let sent = Instant::now();
        match timeout(renewal_deadline(ownership.ttl), renewal.renew(&connector, &ownership)).await
        {
            Ok(Ok(true)) => ownership.extend(sent),
            Ok(Ok(false)) => {
                ownership.lose();
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease could not be renewed");
                renewal.connection = None;
            }
            Err(_) => {
                tracing::warn!("the lease could not be renewed in time");
                renewal.connection = None;
            }
        }
    }
}

/// How long a renewal is waited for. A failover may take longer than the lease.
fn renewal_deadline(ttl: Duration) -> Duration {
    ttl.max(Duration::from_secs(3))
}

struct Renewal {
    connection: Option<Connection>,
    is_replicated: bool,
}

impl Renewal {
    /// Renews once. Returns false if another owner has taken over.
    async fn renew(
        &mut self,
        connector: &Connector,
        ownership: &Ownership,
    ) -> Result<bool, StoreFailure> {
        let connection = match &self.connection {
            Some(connection) => connection,
            None => self.connection.insert(connector.connect().await?),
        };
        let (shard, ttl_ms) = (connector.shard(), connector.options.ttl_ms());
        let parameters: [Parameter<'_>; 3] =
            [(&shard, Type::INT4), (&ownership.token, Type::TEXT), (&ttl_ms, Type::FLOAT8)];
        let renewed = connection.client.query_typed(sql::RENEW, &parameters).await;
        let rows = renewed.map_err(|error| failure_of(&error))?;
        let Some(row) = rows.first() else { return Ok(false) };
        let standbys: String = row.try_get(0).map_err(|error| failure_of(&error))?;
        self.note_standbys(&standbys, connector, ownership);
        Ok(true)
    }

    /// Tells once when the server would confirm a commit without a replica.
    fn note_standbys(&mut self, standbys: &str, connector: &Connector, ownership: &Ownership) {
        let is_replicated = connector.options.replicas == 0 || !standbys.is_empty();
        if self.is_replicated && !is_replicated {
            let why = "synchronous_standby_names is empty".to_owned();
            ownership.tell(StoreEvent::Unreplicated(why));
        }
        self.is_replicated = is_replicated;
    }
}

//! The limit of an accept: a server that takes the same bytes as plainly as it can.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error, NoTls, Statement};

use crate::PAYLOAD_BYTES;
use crate::support::Outcome;

/// One INSERT for each group, over one connection.
pub(crate) struct RawInserts {
    runtime: tokio::runtime::Runtime,
    client: Client,
    statement: Statement,
}

impl RawInserts {
    pub(crate) fn connect(connection: &str) -> Outcome<RawInserts> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let connection = format!("{connection} target_session_attrs=read-write");
        let (client, driver) = runtime.block_on(tokio_postgres::connect(&connection, NoTls))?;
        runtime.spawn(driver);
        let prepare = async {
            let create = "CREATE TABLE IF NOT EXISTS raw_events (value bytea NOT NULL)";
            client.batch_execute(create).await?;
            let plain = "ALTER TABLE raw_events ALTER COLUMN value SET STORAGE PLAIN";
            client.batch_execute(plain).await?;
            client.prepare("INSERT INTO raw_events SELECT unnest($1::bytea[])").await
        };
        let statement = runtime.block_on(prepare)?;
        Ok(RawInserts { runtime, client, statement })
    }

    /// Inserts groups of so many events, one after the other. Returns how many events were inserted.
    pub(crate) fn insert(&mut self, group_events: f64, span: Duration) -> Outcome<f64> {
        let RawInserts { runtime, client, statement } = self;
        Ok(runtime.block_on(insert_until(
            client,
            statement,
            group_events,
            Instant::now() + span,
        ))?)
    }

    /// The same with two halves of a group under way at a time on the connection.
    pub(crate) fn insert_pipelined(&mut self, group_events: f64, span: Duration) -> Outcome<f64> {
        let RawInserts { runtime, client, statement } = self;
        let half = || insert_until(client, statement, group_events / 2.0, Instant::now() + span);
        let (one, other) = runtime.block_on(async { tokio::join!(half(), half()) });
        Ok(one? + other?)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a few thousand rows at most")]
async fn insert_until(
    client: &Client,
    statement: &Statement,
    group_events: f64,
    end: Instant,
) -> Result<f64, Error> {
    let events = group_events.max(1.0);
    // Rows of a page, as the engine writes them.
    let rows = (events * PAYLOAD_BYTES as f64 / 7_000.0).ceil().max(1.0);
    let bytes = (events * PAYLOAD_BYTES as f64 / rows) as usize;
    let values: Vec<Vec<u8>> = (0..rows as usize).map(|_| vec![b'7'; bytes]).collect();
    let mut done = 0.0;
    while Instant::now() < end {
        client.execute(statement, &[&values]).await?;
        done += events;
    }
    Ok(done)
}

//! The limit of an accept: a server that takes the same bytes as plainly as it can.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error, NoTls, Statement};

use crate::support::Outcome;

/// The log of an INSERT has so many bytes for each byte of its rows.
const LOG_BYTES_PER_BYTE: f64 = 1.013;

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

    /// How many bytes of log the server has written.
    pub(crate) fn log_bytes(&self) -> Outcome<f64> {
        let position = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
        Ok(self.runtime.block_on(self.client.query_one(position, &[]))?.get(0))
    }

    /// Inserts the rows of a group over and over. Returns how many groups were inserted.
    pub(crate) fn insert(&mut self, rows: GroupRows, span: Duration) -> Outcome<f64> {
        let RawInserts { runtime, client, statement } = self;
        Ok(runtime.block_on(insert_until(client, statement, rows, Instant::now() + span))?)
    }

    /// The same with two halves of a group under way at a time on the connection.
    pub(crate) fn insert_pipelined(&mut self, rows: GroupRows, span: Duration) -> Outcome<f64> {
        let RawInserts { runtime, client, statement } = self;
        let half = GroupRows { bytes: rows.bytes / 2.0 };
        let half = || insert_until(client, statement, half, Instant::now() + span);
        let (one, other) = runtime.block_on(async { tokio::join!(half(), half()) });
        Ok((one? + other?) / 2.0)
    }
}

/// The rows of one INSERT.
#[derive(Clone, Copy)]
pub(crate) struct GroupRows {
    bytes: f64,
}

impl GroupRows {
    /// Rows that take as many bytes of log as a group of the engine.
    pub(crate) fn of_log(bytes: f64) -> GroupRows {
        GroupRows { bytes: bytes / LOG_BYTES_PER_BYTE }
    }

    /// Rows of a page, as the engine writes them.
    #[allow(clippy::cast_possible_truncation, reason = "a few thousand rows at most")]
    fn values(self) -> Vec<Vec<u8>> {
        let rows = (self.bytes / 7_000.0).ceil().max(1.0);
        (0..rows as usize).map(|_| vec![b'7'; (self.bytes / rows) as usize]).collect()
    }
}

async fn insert_until(
    client: &Client,
    statement: &Statement,
    rows: GroupRows,
    end: Instant,
) -> Result<f64, Error> {
    let (values, mut done) = (rows.values(), 0.0);
    while Instant::now() < end {
        client.execute(statement, &[&values]).await?;
        done += 1.0;
    }
    Ok(done)
}

//! The texts of the statements. Names of databases become identifiers in quotes; everything else is a parameter.

/// The error code of a statement that finds another owner.
pub(super) const FENCED_CODE: &str = "WBH01";

/// Serializes the creation of the tables below among hosts that start at the same time.
const CREATION_LOCK: i64 = 0x7761_6261_686f_6f6b;

/// Creates what is shared by all shards, and the schema of each. A store that was made before the number of shards was
/// recorded has one.
pub(super) fn create(shard: u16, shards: u16) -> String {
    let schemas = (0..shards).chain((shard >= shards).then_some(shard)).map(|shard| {
        let schema = schema(shard);
        format!("CREATE SCHEMA IF NOT EXISTS {schema};")
    });
    let schemas: String = schemas.collect();
    format!(
        "BEGIN;
         SELECT pg_advisory_xact_lock({CREATION_LOCK});
         CREATE SCHEMA IF NOT EXISTS wabahook;
         CREATE TABLE IF NOT EXISTS wabahook.lease (
             shard int PRIMARY KEY, epoch bigint NOT NULL, owner text NOT NULL, host text NOT NULL,
             until timestamptz NOT NULL, UNIQUE (shard, epoch)) WITH (fillfactor = 10);
         CREATE TABLE IF NOT EXISTS wabahook.meta (key text PRIMARY KEY, value text NOT NULL);
         CREATE TABLE IF NOT EXISTS wabahook.host (
             name text PRIMARY KEY, address text NOT NULL, token text NOT NULL, until timestamptz NOT NULL);
         INSERT INTO wabahook.meta SELECT 'shards',
             CASE WHEN EXISTS (SELECT FROM wabahook.meta WHERE key = 'format') THEN '1' ELSE '{shards}' END
             ON CONFLICT DO NOTHING;
         {schemas}
         INSERT INTO wabahook.lease SELECT number, 0, '', '', '-infinity'
             FROM (SELECT generate_series(0, {shards} - 1) UNION SELECT {shard}) AS shards (number)
             ON CONFLICT DO NOTHING;
         COMMIT"
    )
}

/// What every connection sets. A lock that a dead connection still holds must not be waited for without end. Plans are
/// made while a table is empty and kept while it grows, so they must not read whole tables.
pub(super) const SESSION_SETTINGS: &str = "SET synchronous_commit = on; SET lock_timeout = '4s'; \
     SET statement_timeout = 0; SET client_min_messages = warning; SET enable_seqscan = off; SET jit = off";

pub(super) const SAFETY: &str = "SELECT current_setting('fsync'), current_setting('full_page_writes'), \
     current_setting('synchronous_standby_names'), current_setting('server_version_num')::int";

/// Takes the ownership where no other host has it.
pub(super) const ACQUIRE: &str = "UPDATE wabahook.lease SET epoch = epoch + 1, owner = $2, host = $3, \
     until = clock_timestamp() + $4 * interval '1 millisecond' \
     WHERE shard = $1 AND until < clock_timestamp() RETURNING epoch";

/// Extends the ownership, and reads what the server requires of a commit. The epoch stays, so that commits do not wait.
pub(super) const RENEW: &str = "UPDATE wabahook.lease SET until = clock_timestamp() + $3 * interval '1 millisecond' \
     WHERE shard = $1 AND owner = $2 RETURNING current_setting('synchronous_standby_names')";

/// Takes a new epoch of the same ownership. It waits for a commit under way, and later ones find no such epoch.
pub(super) const NEW_EPOCH: &str = "UPDATE wabahook.lease SET epoch = epoch + 1, \
     until = clock_timestamp() + $3 * interval '1 millisecond' \
     WHERE shard = $1 AND owner = $2 RETURNING epoch";

/// The present epoch, for a test that shows what happens without new ones.
pub(super) const SAME_EPOCH: &str = "UPDATE wabahook.lease SET until = clock_timestamp() + $3 * interval '1 millisecond' \
     WHERE shard = $1 AND owner = $2 RETURNING epoch";

/// Ends the ownership. The time tells other hosts for how long the shard has been free.
pub(super) const GIVE_UP: &str = "UPDATE wabahook.lease SET until = clock_timestamp(), owner = '', host = '' \
     WHERE shard = $1 AND owner = $2";

pub(super) const OWNER: &str =
    "SELECT host FROM wabahook.lease WHERE shard = $1 AND until > clock_timestamp()";

/// Which server a connection is connected to.
pub(super) const SERVER: &str = "SELECT pg_postmaster_start_time()::text || ' ' || \
     coalesce(inet_server_addr()::text, '') || ' ' || coalesce(inet_server_port()::text, '')";

pub(super) const NAMES: &str = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname = $1 AND c.relkind = 'r' ORDER BY c.relname COLLATE \"C\"";

pub(super) const PUT_FORMAT: &str =
    "INSERT INTO wabahook.meta VALUES ('format', $1) ON CONFLICT DO NOTHING";

pub(super) const FORMAT: &str = "SELECT value FROM wabahook.meta WHERE key = 'format'";

pub(super) const SHARDS: &str = "SELECT value FROM wabahook.meta WHERE key = 'shards'";

/// Announces a host, unless another live process has its name or another live host its address.
pub(super) const ANNOUNCE: &str = "INSERT INTO wabahook.host AS known \
     SELECT $1, $2, $3, clock_timestamp() + $4 * interval '1 millisecond' WHERE NOT EXISTS ( \
         SELECT FROM wabahook.host WHERE address = $2 AND name <> $1 AND until > clock_timestamp()) \
     ON CONFLICT (name) DO UPDATE SET address = excluded.address, token = excluded.token, until = excluded.until \
     WHERE known.token = excluded.token OR known.until < clock_timestamp()";

pub(super) const LEAVE: &str = "DELETE FROM wabahook.host WHERE name = $1 AND token = $2";

/// The live hosts, and which of them the process of this token is.
pub(super) const HOSTS: &str = "SELECT name, address, token = $1 FROM wabahook.host \
     WHERE until > clock_timestamp() ORDER BY name COLLATE \"C\"";

/// The leases, and for how many milliseconds each has been free: negative while it is held, 0 before it was ever held.
pub(super) const LEASES: &str = "SELECT shard, host, CASE WHEN until = '-infinity' THEN 0 \
     ELSE extract(epoch FROM clock_timestamp() - until) * 1000 END::float8 \
     FROM wabahook.lease WHERE shard < $1 ORDER BY shard";

pub(super) const TABLE_EXISTS: &str = "SELECT 1 WHERE to_regclass($1) IS NOT NULL";

/// A digest of the records in a range of keys.
pub(super) fn digest(table: &str) -> String {
    format!(
        "SELECT coalesce(md5(string_agg(key || value, ''::bytea ORDER BY key)), '') FROM {table} \
         WHERE key >= $1 AND key < $2"
    )
}

/// The records in a range of keys.
pub(super) fn records(table: &str) -> String {
    format!("SELECT key, value FROM {table} WHERE key >= $1 AND key < $2 ORDER BY key")
}

pub(super) fn schema(shard: u16) -> String {
    format!("wabahook_{shard}")
}

pub(super) fn table(shard: u16, database: &str) -> String {
    format!("{}.{}", schema(shard), identifier(database))
}

pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Creates a table of keys and values. Values stay in their row, uncompressed: they are small, and most are not read
/// again.
pub(super) fn create_table(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (key bytea PRIMARY KEY, value bytea NOT NULL) \
         WITH (autovacuum_vacuum_insert_threshold = -1); \
         ALTER TABLE {table} ALTER COLUMN value SET STORAGE PLAIN"
    )
}

/// Gives a table, which must exist, the name of another database.
pub(super) fn rename_table(table: &str, name: &str) -> String {
    format!("ALTER TABLE {table} RENAME TO {}", identifier(name))
}

/// A statement that takes effect only while the epoch is the present one.
pub(super) fn fenced(shard: u16, epoch: i64, statement: &str) -> String {
    format!(
        "DO $fence$ BEGIN \
         PERFORM 1 FROM wabahook.lease WHERE shard = {shard} AND epoch = {epoch} FOR KEY SHARE; \
         IF NOT FOUND THEN RAISE EXCEPTION 'another owner has taken over' USING ERRCODE = '{FENCED_CODE}'; \
         END IF; END $fence$; {statement}"
    )
}

/// A commit of new keys: nothing is written where the epoch is not the present one, and then it returns 0. It costs the
/// server less than one that may replace.
pub(super) fn append(table: &str) -> String {
    format!("WITH {}, {} SELECT count(*) FROM fence", FENCE, put(table, ""))
}

/// A commit that may replace and remove keys, and is otherwise the same.
pub(super) fn replace(table: &str) -> String {
    let put = put(table, "ON CONFLICT (key) DO UPDATE SET value = excluded.value");
    let gone = format!("DELETE FROM {table} WHERE key = ANY($5) AND EXISTS (SELECT 1 FROM fence)");
    format!("WITH {FENCE}, gone AS ({gone}), {put} SELECT count(*) FROM fence")
}

const FENCE: &str = "fence AS MATERIALIZED ( \
     SELECT 1 FROM wabahook.lease WHERE shard = $1 AND epoch = $2 FOR KEY SHARE)";

fn put(table: &str, conflict: &str) -> String {
    format!(
        "put AS (INSERT INTO {table} SELECT k, v FROM unnest($3::bytea[], $4::bytea[]) AS u(k, v) \
             WHERE EXISTS (SELECT 1 FROM fence) {conflict})"
    )
}

pub(super) fn get(table: &str) -> String {
    format!("SELECT value FROM {table} WHERE key = $1")
}

/// How many bytes a table takes on disk.
pub(super) const SIZE: &str = "SELECT pg_relation_size($1::text::regclass)";

/// All keys and values, in any order.
pub(super) fn whole(table: &str) -> String {
    format!("SELECT key, value FROM {table}")
}

/// A page of keys and values in order, from a key on and, where there is one, below an end.
pub(super) fn page(table: &str) -> String {
    format!(
        "SELECT key, value FROM {table} WHERE key >= $1 AND ($3::bytea IS NULL OR key < $3) \
         ORDER BY key LIMIT $2"
    )
}

pub(super) fn last(table: &str) -> String {
    format!(
        "SELECT key, value FROM {table} WHERE key >= $1 AND key <= $2 ORDER BY key DESC LIMIT 1"
    )
}

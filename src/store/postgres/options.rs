//! How the server is reached and what is required of it.

use std::time::Duration;

use tokio_postgres::config::TargetSessionAttrs;

use crate::store::StoreFailure;
use crate::text::debug_fields;

/// After so long without an answer a peer counts as gone.
const PEER_TIMEOUT: Duration = Duration::from_secs(4);

const KEEPALIVE: Duration = Duration::from_secs(1);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a [`Postgres`](super::Postgres) store reaches its server, and what it requires.
#[derive(Clone)]
pub struct PostgresOptions {
    pub(super) client: tokio_postgres::Config,
    pub(super) name: String,
    pub(super) replicas: u32,
    pub(super) lease_ttl: Duration,
    pub(super) shard: u16,
    pub(super) shards: u16,
    pub(super) roots_pem: Option<Vec<u8>>,
    pub(super) takes_epochs: bool,
}

impl PostgresOptions {
    /// The options of a connection string, as psql takes it: `host=a,b user=wabahook dbname=wabahook`, or a
    /// `postgres://` URL. Name all servers; the one that takes writes is used. TLS is used where the server offers it,
    /// its certificate is always verified, and `sslmode=require` refuses a server without TLS.
    ///
    /// # Errors
    /// [`StoreFailure::Unsafe`] where the string cannot be read. The message does not repeat it.
    pub fn new(connection: &str) -> Result<PostgresOptions, StoreFailure> {
        // Certificates are verified in any mode, so these two modes mean the same as `require`.
        let connection = connection
            .replace("sslmode=verify-full", "sslmode=require")
            .replace("sslmode=verify-ca", "sslmode=require");
        let parsed = connection.parse::<tokio_postgres::Config>();
        let mut client = parsed.map_err(|error| {
            let why =
                std::error::Error::source(&error).map_or_else(String::new, |e| format!(": {e}"));
            StoreFailure::Unsafe(format!("the connection string cannot be read{why}"))
        })?;
        client.target_session_attrs(TargetSessionAttrs::ReadWrite);
        client.tcp_user_timeout(PEER_TIMEOUT).keepalives_idle(KEEPALIVE);
        client.keepalives_interval(KEEPALIVE).keepalives_retries(4);
        if client.get_connect_timeout().is_none() {
            client.connect_timeout(CONNECT_TIMEOUT);
        }
        if client.get_application_name().is_none() {
            client.application_name("wabahook");
        }
        Ok(PostgresOptions {
            client,
            name: String::new(),
            replicas: 1,
            lease_ttl: Duration::from_secs(2),
            shard: 0,
            shards: 1,
            roots_pem: None,
            takes_epochs: true,
        })
    }

    /// The name by which other hosts know this one.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> PostgresOptions {
        self.name = name.into();
        self
    }

    /// With 1, the default, a server that names no synchronous standby is refused; how many confirm a commit is up to its
    /// `synchronous_standby_names`. 0 for a single server, or for a service that replicates below PostgreSQL.
    /// Other numbers are [refused](PostgresOptions::check).
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> PostgresOptions {
        self.replicas = replicas;
        self
    }

    /// After how long without a sign of the owner another host takes over. Defaults to 2 s.
    #[must_use]
    pub fn lease_ttl(mut self, ttl: Duration) -> PostgresOptions {
        self.lease_ttl = ttl.max(Duration::from_millis(300));
        self
    }

    /// Which of several stores on the same server this is. Defaults to 0.
    #[must_use]
    pub fn shard(mut self, shard: u16) -> PostgresOptions {
        self.shard = shard;
        self
    }

    /// How many shards the store has. Set when the store is made; another number is refused afterwards. Defaults to 1.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> PostgresOptions {
        self.shards = shards.max(1);
        self
    }

    /// Certificates in PEM that are trusted instead of the system's.
    #[must_use]
    pub fn roots_pem(mut self, pem: impl Into<Vec<u8>>) -> PostgresOptions {
        self.roots_pem = Some(pem.into());
        self
    }

    /// Refuses options that cannot be right, as [`Postgres::connect`](super::Postgres::connect) does, without a connection.
    ///
    /// # Errors
    /// [`StoreFailure::Unsafe`], which names the option, what was given and what is right.
    pub fn check(&self) -> Result<(), StoreFailure> {
        match self.replicas {
            0 | 1 => Ok(()),
            given => Err(StoreFailure::Unsafe(format!(
                "replicas: {given} given, expected 0 or 1; how many standbys confirm a commit is set by \
                 synchronous_standby_names on the server"
            ))),
        }
    }

    /// Lets a new connection keep the epoch of the one before, so that a test can show what is lost without new ones.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    #[must_use]
    pub fn without_session_epochs(mut self) -> PostgresOptions {
        self.takes_epochs = false;
        self
    }

    pub(super) fn ttl_ms(&self) -> f64 {
        self.lease_ttl.as_secs_f64() * 1_000.0
    }
}

// Without the connection string, which may hold a password.
debug_fields!(PostgresOptions: name, replicas, lease_ttl, shard);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_replicas_that_means_nothing_is_refused() {
        let options = PostgresOptions::new("host=127.0.0.1 port=1").unwrap().replicas(3);
        let refused = crate::store::Postgres::connect(options).unwrap_err().to_string();
        assert!(refused.starts_with("replicas: 3 given, expected 0 or 1"), "{refused}");
    }

    #[test]
    fn a_wrong_connection_string_is_refused_without_repeating_it() {
        let error = PostgresOptions::new("host=a password=s3cret port=x").unwrap_err().to_string();
        assert!(error.contains("port") && !error.contains("s3cret"), "{error}");
        let options = PostgresOptions::new("host=a,b password=s3cret sslmode=verify-full").unwrap();
        assert!(!format!("{options:?}").contains("s3cret"));
    }
}

//! Where the engine under test stores everything: a directory, or a PostgreSQL server.

use std::path::{Path, PathBuf};

use wabahook::Config;

/// Tells a child how to reach the server.
pub const CONNECTION: &str = "WABAHOOK_CRASH_CONNECTION";

pub struct Place {
    pub directory: PathBuf,
    pub connection: Option<String>,
}

impl Place {
    /// Of a child, by its environment.
    pub fn of_child(directory: &str) -> Place {
        Place { directory: directory.into(), connection: std::env::var(CONNECTION).ok() }
    }

    /// The configuration of an engine here. On a server it waits until the last owner's lease has ended.
    pub fn config(&self) -> Result<Config, String> {
        let config = Config::new(&self.directory);
        match &self.connection {
            None => Ok(config),
            Some(connection) => on_server(config, connection),
        }
    }

    /// The names of the databases.
    pub fn names(&self) -> Vec<String> {
        match &self.connection {
            None => names_in(&self.directory),
            Some(connection) => names_on_server(connection),
        }
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    entries.filter_map(|name| name.into_string().ok()).collect()
}

#[cfg(feature = "postgres")]
fn acquired(connection: &str) -> Result<wabahook::store::Postgres, String> {
    use std::time::Duration;
    use wabahook::store::{Postgres, PostgresOptions};

    let options = PostgresOptions::new(connection).map_err(|error| error.to_string())?;
    let options = options.lease_ttl(Duration::from_millis(500));
    let store = Postgres::connect(options).map_err(|error| error.to_string())?;
    store.acquire(Duration::from_secs(20)).map_err(|error| error.to_string())?;
    Ok(store)
}

#[cfg(feature = "postgres")]
fn on_server(config: Config, connection: &str) -> Result<Config, String> {
    Ok(config.store(std::sync::Arc::new(acquired(connection)?)))
}

#[cfg(feature = "postgres")]
fn names_on_server(connection: &str) -> Vec<String> {
    wabahook::store::Store::list(&acquired(connection).unwrap()).unwrap()
}

#[cfg(not(feature = "postgres"))]
fn on_server(_config: Config, _connection: &str) -> Result<Config, String> {
    Err("built without the feature postgres".to_owned())
}

#[cfg(not(feature = "postgres"))]
fn names_on_server(_connection: &str) -> Vec<String> {
    Vec::new()
}

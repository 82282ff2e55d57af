//! A host among others that serve one store together. It serves the shards that are its own with the routes of a host with
//! one engine, one set for each shard, and forwards all other requests to the hosts that have their shards.

mod account_refresh;
#[cfg(test)]
#[path = "../../../../tests/support/authority.rs"]
mod authority;
mod callback;
mod connector;
mod forwarded_body;
mod front;
mod health;
mod host_pages;
mod mark;
mod merge;
mod operator;
mod pages;
mod peers;
mod route_scope;
mod shard_routes;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use wabahook::store::StoreFailure;
use wabahook::{Config, Error, Fleet, FleetListener};

use self::front::Front;
use self::peers::Peers;
pub(crate) use self::shard_routes::{MakeRegistration, ShardRoutes};
use crate::command_error::{CommandError, CommandResult};
use crate::config::ClusterSettings;
use crate::host::shared::HostShared;

/// How long to wait before the server is tried again after it could not be reached.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Joins the cluster, once its server can be reached. Returns the fleet and the routes of this host; `None` when `stop`
/// comes first.
pub(crate) async fn join(
    settings: ClusterSettings,
    config: Config,
    shared: Arc<HostShared>,
    registration: MakeRegistration,
    joined: &OnceLock<Fleet>,
    stop: impl Future<Output = ()>,
) -> CommandResult<Option<(Fleet, Router)>> {
    let routes = Arc::new(ShardRoutes::new(shared, registration));
    let listener: Arc<dyn FleetListener> = Arc::clone(&routes) as _;
    let ClusterSettings { fleet: options, key, tls } = settings;
    let mut stop = std::pin::pin!(stop);
    let fleet = loop {
        let (options, config) = (options.clone(), config.clone());
        let listener = Arc::clone(&listener);
        let join = tokio::task::spawn_blocking(move || Fleet::join(options, config, listener));
        match join.await {
            Ok(Ok(fleet)) => break fleet,
            Ok(Err(Error::Store { source, .. })) if !matches!(source, StoreFailure::Unsafe(_)) => {
                tracing::warn!("the server of the store cannot be used: {source}");
            }
            Ok(Err(error @ Error::Invalid { .. })) => {
                return Err(CommandError::Usage(error.to_string()));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(CommandError::Run("joining: a thread failed".to_owned())),
        }
        tokio::select! {
            () = tokio::time::sleep(RECONNECT_AFTER) => {}
            () = &mut stop => return Ok(None),
        }
    };
    // Nothing else sets it, so this cannot fail.
    let _ = joined.set(fleet.clone());
    let front = Arc::new(Front::new(fleet.clone(), routes, Peers::new(key, tls)));
    Ok(Some((fleet, front.router())))
}

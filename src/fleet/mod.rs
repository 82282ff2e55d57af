//! Several hosts that serve one store together. The store has a fixed number of shards, each of whole accounts; each has
//! an engine and a lease of its own, and is served by one host at a time. [`Fleet`] announces this host, opens the
//! engines of the shards that it should own, and closes those that another host should have. It makes no request and
//! accepts none: a host asks it where an account is, and forwards what is elsewhere.

mod directory;
mod keeper;
mod membership;
mod ownership;
mod rendezvous;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex, RwLock};

pub(crate) use self::directory::DIRECTORY_SHARD;
use self::directory::Directory;
pub use self::membership::FleetMembership;
use self::ownership::HeldShards;
use self::rendezvous::shard_of;
use crate::account::{Account, AccountLimits, Accounts};
use crate::config::Config;
use crate::engine::{AccountChanges, Engine};
use crate::error::{Error, Result};
use crate::store::{ClusterHost, ClusterView, PostgresCluster, PostgresOptions, ShardLease};

/// How a fleet is reached and what this host is called in it.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    store: PostgresOptions,
    shards: u16,
    name: String,
    address: String,
}

impl FleetOptions {
    /// A host called `name` on this store, which other hosts reach at `address`. The store has 16 shards.
    pub fn new(
        store: PostgresOptions,
        name: impl Into<String>,
        address: impl Into<String>,
    ) -> FleetOptions {
        FleetOptions { store, shards: 16, name: name.into(), address: address.into() }
    }

    /// How many shards the store has. Set when the store is made; another number is refused afterwards.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> FleetOptions {
        self.shards = shards.max(1);
        self
    }
}

/// What a fleet tells its host, each call on a thread of the fleet.
pub trait FleetListener: Send + Sync + 'static {
    /// The engine of a shard is open, and requests of its accounts can be served here.
    fn opened(&self, shard: u16, engine: &Engine);

    /// The engine of a shard is about to be closed. It is closed when this returns, so wait here, for a few seconds at
    /// most, until requests that have begun are over.
    fn closing(&self, shard: u16);

    /// Hosts, the ownership of a shard or accounts may have changed.
    fn changed(&self);
}

/// Where a shard is served.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ShardPlace {
    /// Here, by this engine.
    Here(Engine),
    /// By another host.
    At(FleetHost),
    /// By nobody at the moment, as far as this host knows. That ends within seconds.
    Nowhere,
}

/// A live host of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetHost {
    /// Its name.
    pub name: String,
    /// Where other hosts reach it.
    pub address: String,
    /// The shards that it serves.
    pub shards: Vec<u16>,
}

impl FleetHost {
    /// A host with the shards whose leases it holds.
    fn of(host: &ClusterHost, view: &ClusterView) -> FleetHost {
        let own = view.leases.iter().filter(|lease| lease.owner() == Some(&host.name));
        FleetHost {
            name: host.name.clone(),
            address: host.address.clone(),
            shards: own.map(|lease| lease.shard).collect(),
        }
    }
}

/// This host's part of a fleet: a cheap handle, `Send` and `Sync`, whose clones share everything. Dropping the last one
/// closes nothing; call [`close`](Fleet::close).
#[derive(Clone)]
pub struct Fleet {
    shared: Arc<FleetShared>,
}

/// A shard that this host has.
enum HeldShard {
    Opening,
    Open(Engine),
    Closing,
}

type HeldByShard = BTreeMap<u16, HeldShard>;

struct FleetShared {
    options: FleetOptions,
    config: Mutex<Config>,
    cluster: PostgresCluster,
    directory: Directory,
    /// Held until the engines have what was read, so that nobody finds nothing new before that.
    refreshing: Mutex<()>,
    listener: Arc<dyn FleetListener>,
    held: Mutex<HeldByShard>,
    /// Notified when a shard is opened or closed.
    held_changed: Condvar,
    view: RwLock<ClusterView>,
    is_closing: AtomicBool,
    membership: Mutex<FleetMembership>,
    wake: Sender<()>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Fleet {
    /// Joins the fleet of a store. `config` is how each engine is set up; its accounts are declared in the engine of
    /// shard 0, and its directory is not used. Shards are opened from then on, when they are free.
    ///
    /// # Errors
    /// [`Error::Store`] when the server cannot be reached, is unsafe, or has another number of shards;
    /// [`Error::Invalid`] for a setting that cannot be right.
    pub fn join(
        options: FleetOptions,
        config: Config,
        listener: Arc<dyn FleetListener>,
    ) -> Result<Fleet> {
        Engine::check_config(&config)?;
        let (name, address) = (options.name.clone(), options.address.clone());
        let own = ClusterHost { name, address, is_own: true };
        let store = options.store.clone().name(&options.name).shards(options.shards);
        let options = FleetOptions { store: store.clone(), ..options };
        let failed = |failure| Error::store("joining the fleet", failure);
        let cluster = PostgresCluster::connect(store, own).map_err(failed)?;
        let directory = Directory::new(config.accounts.clone(), Arc::clone(&config.clock));
        let (wake, woken) = crossbeam_channel::bounded(1);
        let shared = Arc::new(FleetShared {
            options,
            config: Mutex::new(config),
            cluster,
            directory,
            refreshing: Mutex::default(),
            listener,
            held: Mutex::default(),
            held_changed: Condvar::new(),
            view: RwLock::default(),
            is_closing: AtomicBool::new(false),
            membership: Mutex::new(FleetMembership::Joining),
            wake,
        });
        keeper::start(Arc::clone(&shared), woken)?;
        Ok(Fleet { shared })
    }

    /// The name of this host.
    pub fn name(&self) -> &str {
        &self.shared.options.name
    }

    /// How many shards the store has.
    pub fn shards(&self) -> u16 {
        self.shared.options.shards
    }

    /// The shard of the account of this id.
    pub fn shard_of(&self, account: &str) -> u16 {
        shard_of(account, self.shards())
    }

    /// The shard whose engine owns the accounts: create and change them there.
    pub fn directory_shard(&self) -> u16 {
        DIRECTORY_SHARD
    }

    /// Where a shard is served.
    pub fn place_of(&self, shard: u16) -> ShardPlace {
        if let Some(HeldShard::Open(engine)) = self.shared.held.lock().get(&shard) {
            return ShardPlace::Here(engine.clone());
        }
        let view = self.shared.view.read();
        let lease = view.leases.iter().find(|lease| lease.shard == shard);
        let owner = lease.and_then(ShardLease::owner);
        let host = owner.and_then(|owner| view.hosts.iter().find(|host| host.name == owner));
        let host = host.filter(|host| !host.is_own);
        host.map_or(ShardPlace::Nowhere, |host| ShardPlace::At(FleetHost::of(host, &view)))
    }

    /// The shards that are open here, and their engines.
    pub fn engines(&self) -> Vec<(u16, Engine)> {
        self.shared.engines()
    }

    /// The live hosts, as the server had them a moment ago, ordered by name.
    pub fn hosts(&self) -> Vec<FleetHost> {
        let view = self.shared.view.read();
        view.hosts.iter().map(|host| FleetHost::of(host, &view)).collect()
    }

    /// Whether the other hosts count on this one, as the server had it a moment ago.
    pub fn membership(&self) -> FleetMembership {
        *self.shared.membership.lock()
    }

    /// The accounts of all shards, as the server had them at most a second ago.
    pub fn accounts(&self) -> &Accounts {
        &self.shared.directory.accounts
    }

    /// Whether the accounts were read from the server since this host joined.
    pub fn has_accounts(&self) -> bool {
        self.shared.directory.is_known()
    }

    /// Reads the accounts again, and puts them in force in the engines here. Blocks on the server.
    ///
    /// # Errors
    /// [`Error::Store`] when the server cannot be reached.
    pub fn refresh_accounts(&self) -> Result<()> {
        self.shared.refresh_accounts()
    }

    /// Brings what the configuration declares up to date, as [`Engine::declare_accounts`] does for one engine: the keys
    /// of this host, the limits of its engines, and the accounts themselves where shard 0 is here. `None` where it is
    /// elsewhere.
    ///
    /// # Errors
    /// As [`Engine::declare_accounts`].
    pub fn declare_accounts(
        &self,
        accounts: Vec<Account>,
        limits: AccountLimits,
    ) -> Result<Option<AccountChanges>> {
        let changes = match self.place_of(DIRECTORY_SHARD) {
            ShardPlace::Here(engine) => Some(engine.declare_accounts(accounts.clone())?),
            _ => None,
        };
        for (_, engine) in self.engines() {
            engine.set_account_limits(limits.clone())?;
        }
        let mut config = self.shared.config.lock();
        config.accounts.clone_from(&accounts);
        config.account_limits = limits;
        drop(config);
        self.shared.directory.declare(accounts);
        self.shared.refresh_accounts()?;
        Ok(changes)
    }

    /// Leaves the fleet: withdraws the announcement, lets attempts in flight finish until `timeout`, and gives up every
    /// shard, so that other hosts go on at once.
    ///
    /// # Errors
    /// The first error of an engine that could not be closed in time. Its shard is free when its lease ends.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        self.shared.close(timeout)
    }
}

impl FleetShared {
    fn refresh_accounts(&self) -> Result<()> {
        let _running = self.refreshing.lock();
        if self.directory.refresh(&self.cluster)? {
            self.adopt_everywhere();
            self.listener.changed();
        }
        Ok(())
    }

    /// Gives every open engine the accounts of its shard.
    fn adopt_everywhere(&self) {
        for (shard, engine) in self.engines() {
            if let Err(error) = self.adopt(shard, &engine) {
                tracing::warn!(shard, %error, "the accounts of a shard could not be brought up to date");
                self.directory.read_again();
            }
        }
    }

    fn adopt(&self, shard: u16, engine: &Engine) -> Result<()> {
        if shard == DIRECTORY_SHARD || !self.directory.is_known() {
            return Ok(());
        }
        engine.adopt_accounts(&self.directory.of_shard(shard, self.options.shards))
    }

    fn engines(&self) -> Vec<(u16, Engine)> {
        let held = self.held.lock();
        let open = held.iter().filter_map(|(shard, held)| match held {
            HeldShard::Open(engine) => Some((*shard, engine.clone())),
            HeldShard::Opening | HeldShard::Closing => None,
        });
        open.collect()
    }

    fn held_shards(&self) -> HeldShards {
        let mut shards = HeldShards::default();
        for (shard, held) in &*self.held.lock() {
            match held {
                HeldShard::Open(_) => shards.open.insert(*shard),
                HeldShard::Opening | HeldShard::Closing => shards.changing.insert(*shard),
            };
        }
        shards
    }

    fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }
}

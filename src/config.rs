//! How an engine is set up: its directory, accounts, network, clock, store, and every bound.
//!
//! Every queue, cache and pool of the engine has its bound in [`Limits`] (I10). Each default is documented
//! with its reason.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::account::{Account, AccountLimits};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::macros::{setters, word_enum};
use crate::network::{Network, Roots};
use crate::store::{Durability, Store};
use crate::text::debug_fields;
use crate::transport::Transport;

/// How an engine is set up. Checked once, by `Engine::open`.
///
/// ```
/// use wabahook::{Account, Config, OnDamage};
/// let config = Config::new("outbox")
///     .account(Account::new("acme").waba("123065260884961", ["919999999999"]))
///     .on_damage(OnDamage::SetAside);
/// # let _ = config;
/// ```
#[derive(Clone)]
pub struct Config {
    pub(crate) path: PathBuf,
    pub(crate) accounts: Vec<Account>,
    pub(crate) catalogue: Catalogue,
    pub(crate) limits: Limits,
    pub(crate) account_limits: AccountLimits,
    pub(crate) has_default_account: bool,
    /// Whether the accounts are those of a directory elsewhere, so that none is declared here.
    pub(crate) adopts_accounts: bool,
    pub(crate) network: Network,
    pub(crate) durability: Durability,
    pub(crate) on_damage: OnDamage,
    pub(crate) lock_wait: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Option<Arc<dyn Store>>,
    pub(crate) transport: Option<Arc<dyn Transport>>,
}

impl Config {
    /// Refuses settings that cannot be right.
    pub(crate) fn check(&self) -> Result<()> {
        self.limits.check()?;
        self.network.check()?;
        self.account_limits.check("account_limits")
    }

    /// An engine whose durable state is in the directory `path`, which is created if it is missing.
    pub fn new(path: impl Into<PathBuf>) -> Config {
        Config {
            path: path.into(),
            accounts: Vec::new(),
            catalogue: Catalogue::default(),
            limits: Limits::default(),
            account_limits: AccountLimits::default(),
            has_default_account: true,
            adopts_accounts: false,
            network: Network::default(),
            durability: Durability::default(),
            on_damage: OnDamage::default(),
            lock_wait: Duration::from_secs(1),
            clock: Arc::new(SystemClock::new()),
            store: None,
            transport: None,
        }
    }

    /// Adds an account. Without any there is one, named [`DEFAULT_ACCOUNT`](crate::DEFAULT_ACCOUNT), which
    /// may use every number.
    #[must_use]
    pub fn account(mut self, account: Account) -> Config {
        self.accounts.push(account);
        self
    }

    /// Sets the names of event types. Defaults to [`Catalogue::default`].
    #[must_use]
    pub fn catalogue(mut self, catalogue: Catalogue) -> Config {
        self.catalogue = catalogue;
        self
    }

    /// Sets the bounds. Defaults to [`Limits::default`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Config {
        self.limits = limits;
        self
    }

    /// Has no default account, also while no account is declared: for a host whose accounts are all created by
    /// [`Engine::create_account`](crate::Engine::create_account).
    #[must_use]
    pub fn without_default_account(mut self) -> Config {
        self.has_default_account = false;
        self
    }

    /// Declares no account, and lets a fleet say which accounts there are.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub(crate) fn adopted_accounts(mut self) -> Config {
        (self.adopts_accounts, self.has_default_account) = (true, false);
        self.accounts.clear();
        self
    }

    /// Sets the limits of accounts that set none of their own. Defaults to [`AccountLimits::default`].
    #[must_use]
    pub fn account_limits(mut self, limits: AccountLimits) -> Config {
        self.account_limits = limits;
        self
    }

    /// Allows targets in these address ranges, which the guard refuses otherwise.
    #[must_use]
    pub fn allow_addresses(mut self, ranges: impl IntoIterator<Item = IpNet>) -> Config {
        self.network.allow.extend(ranges);
        self
    }

    /// Allows `http://` targets. Payloads and signatures are then sent unencrypted.
    #[must_use]
    pub fn allow_http(mut self, allowed: bool) -> Config {
        self.network.allow_http = allowed;
        self
    }

    /// Sets which certificate authorities are trusted. Defaults to [`Roots::System`].
    #[must_use]
    pub fn roots(mut self, roots: Roots) -> Config {
        self.network.roots = roots;
        self
    }

    /// Sends every attempt through a proxy: see [`Network::proxy`].
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>) -> Config {
        self.network = self.network.proxy(url);
        self
    }

    /// Adds the NAT64 prefixes of this network: see [`Network::nat64`].
    #[must_use]
    pub fn nat64(mut self, prefixes: impl IntoIterator<Item = Ipv6Net>) -> Config {
        self.network = self.network.nat64(prefixes);
        self
    }

    /// Sets what an accepted event survives. Defaults to [`Durability::Power`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Config {
        self.durability = durability;
        self
    }

    /// Sets what `open` does when a part of the directory cannot be read. Defaults to
    /// [`OnDamage::Refuse`].
    #[must_use]
    pub fn on_damage(mut self, on_damage: OnDamage) -> Config {
        self.on_damage = on_damage;
        self
    }

    /// Sets how long `open` waits for another engine to release the directory before it fails with
    /// [`Error::InUse`]. Defaults to a second: the system releases the directory of a process that was killed a
    /// moment after its end.
    #[must_use]
    pub fn lock_wait(mut self, wait: Duration) -> Config {
        self.lock_wait = wait;
        self
    }

    /// Sets the source of time and jitter. Defaults to the machine's; a test gives a
    /// [`ManualClock`](crate::clock::ManualClock).
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Config {
        self.clock = clock;
        self
    }

    /// Sets where durable state is kept. Defaults to sled in the directory. With a store of its own, such as a
    /// memory store in a test, the engine does not touch the directory.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Config {
        self.store = Some(store);
        self
    }

    /// Sets what makes the attempts. Defaults to [`Http`](crate::Http).
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Config {
        self.transport = Some(transport);
        self
    }

    /// The data directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

debug_fields!(Config: path, accounts.len(), limits, network);

/// What `open` does when a part of the directory cannot be read.
///
/// ```
/// use wabahook::{Config, OnDamage};
/// let config = Config::new("outbox").on_damage(OnDamage::SetAside);
/// # let _ = config;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnDamage {
    /// Fail with [`Error::Damaged`](crate::Error::Damaged), which names the part, what is lost and what is
    /// not. The engine leaves the part as it is for inspection; sled may overwrite what it cannot read when
    /// it opens it.
    #[default]
    Refuse,
    /// Rename the part to `damaged-...`, report it in a [notice](crate::Notice::SetAside), and open the rest.
    /// A full disk, missing permissions or an I/O error is not damage and sets nothing aside.
    SetAside,
}

word_enum!(pub Durability, "durability": Power = "power", Process = "process");
word_enum!(pub OnDamage, "on_damage": Refuse = "refuse", SetAside = "set_aside");

/// The engine's bounds. Start from [`Limits::default`] and change fields.
///
/// ```
/// use std::time::Duration;
/// use wabahook::{Config, Limits};
/// let small = Limits::default()
///     .generation_bytes(8 << 20)
///     .in_flight_max(Some(512))
///     .dedup_window(Duration::from_secs(3_600));
/// let config = Config::new("outbox").limits(small);
/// # let _ = config;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest payload, in bytes. Defaults to 4 MiB: Meta's callbacks end at 3 MB.
    pub payload_bytes_max: usize,
    /// How many events may wait to be written to the device. While the device refuses writes, it also bounds
    /// how many results of attempts may wait; then no more attempts start. Defaults to 65,536: a second's
    /// burst and six requests of 10,000.
    pub queue_events_max: usize,
    /// How many payload bytes may wait to be written to the device. Defaults to 64 MiB.
    pub queue_bytes_max: usize,
    /// How many payload bytes are cached for deliveries in flight. Defaults to 32 MiB; evicted payloads are
    /// read back from the device.
    pub cache_bytes_max: usize,
    /// How many events one group may hold. Defaults to 1,024: in a larger group the first event waits longer
    /// than its share of the sync saves.
    pub group_events_max: usize,
    /// How many subscriptions there may be. Defaults to 1,000,000.
    pub subscriptions_max: usize,
    /// How long a dedup key is remembered. Defaults to 7 days, as long as Meta sends a callback again that was
    /// not answered with 200.
    pub dedup_window: Duration,
    /// The size at which a generation of the outbox is sealed and the next one begins, in bytes of keys and
    /// values. Defaults to 24 MiB, about 64 MB of files. A generation is the unit in which disk space is
    /// freed, and the most that one damaged file can cost.
    pub generation_bytes: u64,
    /// How many events the outbox may owe; settled ones do not count. Defaults to 10,000,000.
    pub outbox_events_max: u64,
    /// How many bytes of payload the outbox may owe. When keys and values on the device take as much, settled
    /// events are cleared before their generation is full. Defaults to 16 GiB.
    pub outbox_bytes_max: u64,
    /// How many dead letters of all accounts together are kept. At the limit the account with the most loses its
    /// oldest. Defaults to 10,000. [`AccountLimits::dead_letters_max`] bounds one account.
    pub dead_letters_max: usize,
    /// How long a dead letter is kept. Defaults to 30 days.
    pub dead_letter_age_max: Duration,
    /// How many dedup keys of all accounts together are remembered. At the limit the account with the most loses its
    /// oldest. Defaults to 4,000,000, about 200 MB. [`AccountLimits::dedup_keys_max`] bounds one account. Keys
    /// dropped over a limit are counted and told ([`Notice::DedupKeysDropped`](crate::Notice::DedupKeysDropped)).
    pub dedup_keys_max: usize,
    /// How many attempts may be in flight. A quarter of them is kept for endpoints that respond in time, so that
    /// hanging ones cannot use all. Each takes a socket and at most 24 KiB. Defaults to three quarters of the
    /// process's limit of open files, from 16 to 16,384.
    pub in_flight_max: Option<usize>,
    /// How many I/O threads carry the attempts. Defaults to 2, or 1 where there is one core: the second one brings a
    /// third more on two cores that the receivers share. From 1 to 8.
    pub io_threads: usize,
    /// How many attempts may be in flight to one host and port, at most seven eighths of them of one account; more
    /// wait for a turn. Defaults to 100: an ordinary server serves as many at a time, and often refuses more from
    /// one address.
    pub host_in_flight_max: usize,
    /// How many threads a proxy or a blocking [`Transport`](crate::Transport) of the host may use, which is then
    /// also the bound on attempts in flight. Defaults to 256, which take 20 to 35 MB when all are in use.
    pub transport_threads: usize,
    /// How many attempts one subscription may have in flight: its cap starts at 1, grows with each success and
    /// is halved by a failure. Defaults to 64, because a receiver that responds after 100 ms then still gets
    /// 640 deliveries/s.
    pub lane_in_flight_max: usize,
    /// How many notices a reader may leave unread before it loses the oldest
    /// ([`Notice::Lagged`](crate::Notice::Lagged)). Defaults to 1,024.
    pub notices_max: usize,
    /// How many recent attempts of all subscriptions are kept in memory, the newest; 0 for none. Defaults to
    /// 16,384: about 3 MB, and 4 MB more if all of them failed with long responses.
    pub recent_attempts_max: usize,
    /// How many recent attempts are kept per subscription, so that a busy one does not evict the others'; 0
    /// for none. Defaults to 100, as many as the session gateway's logs show.
    pub recent_attempts_each_max: usize,
    /// How many bytes the history of events may take on the device: what became of each event, for
    /// [`Engine::event`](crate::Engine::event) and [`Engine::find_events`](crate::Engine::find_events). Defaults to
    /// 0, which keeps none.
    pub history_bytes_max: u64,
    /// How long the history keeps what happened. Defaults to a day.
    pub history_age_max: Duration,
    /// How many webhooks an account may register through the session gateway. Defaults to 5, as that gateway
    /// documents; 0 for none.
    pub session_webhooks_max: usize,
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            payload_bytes_max: 4 * 1024 * 1024,
            queue_events_max: 65_536,
            queue_bytes_max: 64 * 1024 * 1024,
            cache_bytes_max: 32 * 1024 * 1024,
            group_events_max: 1_024,
            subscriptions_max: 1_000_000,
            dedup_window: 7 * DAY,
            generation_bytes: 24 * 1024 * 1024,
            outbox_events_max: 10_000_000,
            outbox_bytes_max: 16 * 1024 * 1024 * 1024,
            dead_letters_max: 10_000,
            dead_letter_age_max: 30 * DAY,
            dedup_keys_max: 4_000_000,
            in_flight_max: None,
            io_threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2)),
            host_in_flight_max: 100,
            transport_threads: 256,
            lane_in_flight_max: 64,
            notices_max: 1_024,
            recent_attempts_max: 16_384,
            recent_attempts_each_max: 100,
            history_bytes_max: 0,
            history_age_max: DAY,
            session_webhooks_max: 5,
        }
    }
}

setters!(Limits {
    payload_bytes_max: usize,
    queue_events_max: usize,
    queue_bytes_max: usize,
    cache_bytes_max: usize,
    group_events_max: usize,
    subscriptions_max: usize,
    dedup_window: Duration,
    generation_bytes: u64,
    outbox_events_max: u64,
    outbox_bytes_max: u64,
    dead_letters_max: usize,
    dead_letter_age_max: Duration,
    dedup_keys_max: usize,
    in_flight_max: Option<usize>,
    io_threads: usize,
    host_in_flight_max: usize,
    transport_threads: usize,
    lane_in_flight_max: usize,
    notices_max: usize,
    recent_attempts_max: usize,
    recent_attempts_each_max: usize,
    history_bytes_max: u64,
    history_age_max: Duration,
    session_webhooks_max: usize,
});

impl Limits {
    /// Refuses a bound that would make the engine useless.
    pub(crate) fn check(&self) -> Result<()> {
        let bounds = [
            ("limits.payload_bytes_max", self.payload_bytes_max),
            ("limits.queue_events_max", self.queue_events_max),
            ("limits.queue_bytes_max", self.queue_bytes_max),
            ("limits.group_events_max", self.group_events_max),
            ("limits.subscriptions_max", self.subscriptions_max),
            ("limits.in_flight_max", self.in_flight_max.unwrap_or(1)),
            ("limits.io_threads", self.io_threads),
            ("limits.host_in_flight_max", self.host_in_flight_max),
            ("limits.transport_threads", self.transport_threads),
            ("limits.lane_in_flight_max", self.lane_in_flight_max),
            ("limits.notices_max", self.notices_max),
        ];
        for (field, given) in bounds {
            if given == 0 {
                return Err(Error::invalid(field, given, "at least 1"));
            }
        }
        let large = [
            ("limits.generation_bytes", self.generation_bytes),
            ("limits.outbox_events_max", self.outbox_events_max),
            ("limits.outbox_bytes_max", self.outbox_bytes_max),
        ];
        for (field, given) in large {
            if given == 0 {
                return Err(Error::invalid(field, given, "at least 1"));
            }
        }
        if self.io_threads > 8 {
            return Err(Error::invalid("limits.io_threads", self.io_threads, "at most 8"));
        }
        if u32::try_from(self.payload_bytes_max).is_err() {
            let given = self.payload_bytes_max;
            return Err(Error::invalid("limits.payload_bytes_max", given, "at most 4 GiB"));
        }
        if self.queue_bytes_max < self.payload_bytes_max {
            let given = self.queue_bytes_max;
            let expected = "at least payload_bytes_max, so that the largest payload fits";
            return Err(Error::invalid("limits.queue_bytes_max", given, expected));
        }
        Ok(())
    }
}

//! Decides every limit of the engine: its default, and why that one.
//!
//! Leaves to others: keeping them. Invariant (I10): every queue, cache and pool of the engine has
//! its bound here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use crate::account::Account;
use crate::clock::{Clock, System};
use crate::delivery::Transport;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::store::{Durability, Store};

/// How an engine is set up. Checked once, by `Engine::open`.
///
/// ```
/// use wabahook::{Account, Config, Limits};
/// let config = Config::new("outbox")
///     .account(Account::new("acme").waba("123065260884961", ["919999999999"]))
///     .limits(Limits { payload_bytes_max: 256 * 1024, ..Limits::default() });
/// # let _ = config;
/// ```
#[derive(Clone)]
pub struct Config {
    pub(crate) path: PathBuf,
    pub(crate) accounts: Vec<Account>,
    pub(crate) catalogue: Catalogue,
    pub(crate) limits: Limits,
    pub(crate) network: Network,
    pub(crate) durability: Durability,
    pub(crate) on_damage: OnDamage,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Option<Arc<dyn Store>>,
    pub(crate) transport: Option<Arc<dyn Transport>>,
}

impl Config {
    /// An engine that keeps what it must not lose in the directory `path`, created where missing.
    pub fn new(path: impl Into<PathBuf>) -> Config {
        Config {
            path: path.into(),
            accounts: Vec::new(),
            catalogue: Catalogue::default(),
            limits: Limits::default(),
            network: Network::default(),
            durability: Durability::default(),
            on_damage: OnDamage::default(),
            clock: Arc::new(System::new()),
            store: None,
            transport: None,
        }
    }

    /// Adds an account. Without any there is one, which may use every number.
    #[must_use]
    pub fn account(mut self, account: Account) -> Config {
        self.accounts.push(account);
        self
    }

    /// The event types known by more than one name. Defaults to [`Catalogue::default`].
    #[must_use]
    pub fn catalogue(mut self, catalogue: Catalogue) -> Config {
        self.catalogue = catalogue;
        self
    }

    /// The bounds. Defaults to [`Limits::default`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Config {
        self.limits = limits;
        self
    }

    /// Admits targets in these address ranges, which the guard would refuse.
    #[must_use]
    pub fn allow_addresses(mut self, ranges: impl IntoIterator<Item = IpNet>) -> Config {
        self.network.allow.extend(ranges);
        self
    }

    /// Admits `http://` targets. Payloads and signatures then travel in the clear.
    #[must_use]
    pub fn allow_http(mut self, allowed: bool) -> Config {
        self.network.allow_http = allowed;
        self
    }

    /// Which certificate authorities are trusted. Defaults to [`Roots::System`].
    #[must_use]
    pub fn roots(mut self, roots: Roots) -> Config {
        self.network.roots = roots;
        self
    }

    /// What an accepted event survives. Defaults to [`Durability::Power`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Config {
        self.durability = durability;
        self
    }

    /// What to do at open when a part of the directory cannot be read. Defaults to
    /// [`OnDamage::Refuse`].
    #[must_use]
    pub fn on_damage(mut self, on_damage: OnDamage) -> Config {
        self.on_damage = on_damage;
        self
    }

    /// Time and chance. Defaults to the machine's; a test gives a [`Manual`](crate::clock::Manual).
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Config {
        self.clock = clock;
        self
    }

    /// Where durable state is kept. Defaults to sled in the directory; a simulation gives a
    /// [`Memory`](crate::store::Memory), and then the directory is not touched.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Config {
        self.store = Some(store);
        self
    }

    /// What makes an attempt. Defaults to HTTP over ureq.
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

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("accounts", &self.accounts.len())
            .field("limits", &self.limits)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// What to do at open when a part of the directory cannot be read.
///
/// ```
/// use wabahook::{Config, OnDamage};
/// let config = Config::new("outbox").on_damage(OnDamage::SetAside);
/// # let _ = config;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnDamage {
    /// Refuse with [`Error::Damaged`](crate::Error::Damaged), which names the part, what is lost and
    /// what is not. The engine leaves it as it is, so that somebody can look; sled may overwrite what
    /// it cannot read as it opens it.
    #[default]
    Refuse,
    /// Rename the part to `damaged-...`, tell of it in a notice, and go on with the rest. A full disk,
    /// missing rights or an I/O error is not damage and sets nothing aside.
    SetAside,
}

/// Which targets are admitted beyond the safe ones. Empty by default: HTTPS to public addresses.
///
/// ```
/// use wabahook::Config;
/// let config = Config::new("outbox").allow_addresses(["10.20.0.0/16".parse()?]).allow_http(true);
/// # let _ = config;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Address ranges for which the guard is lifted.
    pub allow: Vec<IpNet>,
    /// Whether `http://` targets are admitted.
    pub allow_http: bool,
    /// Which certificate authorities the receivers' certificates are checked against, where a
    /// subscription names none of its own.
    pub roots: Roots,
}

/// Which certificate authorities are trusted.
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Roots {
    /// Those that the machine trusts, so that an authority of the company is known without a word
    /// here. Where the machine trusts none, as in a container made from nothing, those of Mozilla's
    /// list. Read at the first attempt over TLS.
    #[default]
    System,
    /// Those of Mozilla's list as it was when wabahook was built, whatever the machine trusts.
    Bundled,
    /// These certificates alone, in PEM. `Engine::open` refuses what it cannot read.
    Given(String),
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Roots::System => f.write_str("System"),
            Roots::Bundled => f.write_str("Bundled"),
            Roots::Given(pem) => write!(f, "Given({} bytes)", pem.len()),
        }
    }
}

/// The engine's bounds.
///
/// ```
/// use wabahook::{Config, Limits};
/// let small = Limits { generation_bytes: 8 << 20, stuck_max: 128, ..Limits::default() };
/// let config = Config::new("outbox").limits(small);
/// # let _ = config;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest payload, in bytes. Defaults to 4 MiB: Meta's callbacks end at 3 MB.
    pub payload_bytes_max: usize,
    /// How many events may wait for the device, and while it refuses, how many ends of attempts: then
    /// no more are made. Defaults to 65,536: a second's burst and six requests of 10,000.
    pub queue_events_max: usize,
    /// How many bytes of payload may wait for the device. Defaults to 64 MiB.
    pub queue_bytes_max: usize,
    /// How many bytes of payload are kept at hand for deliveries under way. Defaults to 32 MiB;
    /// what falls out is read back from the device.
    pub cache_bytes_max: usize,
    /// How many events one group may hold. Defaults to 1,024: a larger group makes its first event
    /// wait longer than its share of the sync saves.
    pub group_events_max: usize,
    /// How many subscriptions there may be. Defaults to 1,000,000.
    pub subscriptions_max: usize,
    /// How long a dedup key is remembered, in milliseconds. Defaults to 24 hours.
    pub dedup_window_ms: u64,
    /// How many bytes a generation of the outbox takes before the next one begins. Defaults to
    /// 24 MiB of keys and values, about 64 MB of files: the unit in which disk is given back, and
    /// the most that one damaged file can cost.
    pub generation_bytes: u64,
    /// How many events may lie in the outbox, owed ones and those that went but whose generation is
    /// not given back yet. Defaults to 10,000,000.
    pub outbox_events_max: u64,
    /// How many bytes may lie in the outbox. Defaults to 16 GiB.
    pub outbox_bytes_max: u64,
    /// How many dead letters are kept, the newest. Defaults to 10,000.
    pub dead_letters_max: usize,
    /// How long a dead letter is kept, in milliseconds. Defaults to 30 days.
    pub dead_letter_age_max_ms: u64,
    /// How many dedup keys are remembered, the newest. Defaults to 1,000,000, about 50 MB; those over
    /// it are counted and told ([`Notice::KeysDropped`](crate::Notice::KeysDropped)).
    pub dedup_keys_max: usize,
    /// How many worker threads there may be beside the stuck ones. Defaults to 32: with 16 busy a
    /// machine's loopback is already full, and twice as many hide the wait of real networks.
    pub workers_max: usize,
    /// How many more threads may wait on attempts that do not answer. Defaults to 1,024, 75
    /// to 140 MB when all are used, by the allocator.
    pub stuck_max: usize,
    /// After how long an attempt without an answer stops counting as a worker, in milliseconds.
    /// Defaults to 20: a receiver behind a real network answers later than that, and would hold a worker.
    pub stuck_after_ms: u64,
    /// How many attempts one subscription may have under way. Defaults to 16.
    pub lane_in_flight_max: usize,
    /// How many notices a reader may leave unread before it is told that it lags. Defaults to
    /// 1,024.
    pub notices_max: usize,
    /// How many attempts are remembered in memory to be looked at, the newest of all subscriptions;
    /// 0 for none. Defaults to 16,384: about 3 MB, and 4 MB more where all of them failed with long
    /// answers.
    pub recent_attempts_max: usize,
    /// How many of these may be of one subscription, so that a busy one leaves the others theirs; 0
    /// for none. Defaults to 100, what the session gateway's logs show.
    pub recent_attempts_each_max: usize,
    /// How many webhooks an account may register through the session gateway. Defaults to 5, as that
    /// gateway documents; 0 for none.
    pub session_webhooks_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            payload_bytes_max: 4 * 1024 * 1024,
            queue_events_max: 65_536,
            queue_bytes_max: 64 * 1024 * 1024,
            cache_bytes_max: 32 * 1024 * 1024,
            group_events_max: 1_024,
            subscriptions_max: 1_000_000,
            dedup_window_ms: 24 * 3_600_000,
            generation_bytes: 24 * 1024 * 1024,
            outbox_events_max: 10_000_000,
            outbox_bytes_max: 16 * 1024 * 1024 * 1024,
            dead_letters_max: 10_000,
            dead_letter_age_max_ms: 30 * 24 * 3_600_000,
            dedup_keys_max: 1_000_000,
            workers_max: 32,
            stuck_max: 1_024,
            stuck_after_ms: 20,
            lane_in_flight_max: 16,
            notices_max: 1_024,
            recent_attempts_max: 16_384,
            recent_attempts_each_max: 100,
            session_webhooks_max: 5,
        }
    }
}

impl Limits {
    /// Refuses a bound with which nothing could work.
    pub(crate) fn check(&self) -> Result<()> {
        let bounds = [
            ("limits.payload_bytes_max", self.payload_bytes_max),
            ("limits.queue_events_max", self.queue_events_max),
            ("limits.queue_bytes_max", self.queue_bytes_max),
            ("limits.group_events_max", self.group_events_max),
            ("limits.subscriptions_max", self.subscriptions_max),
            ("limits.workers_max", self.workers_max),
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
        if u32::try_from(self.payload_bytes_max).is_err() {
            let given = self.payload_bytes_max;
            return Err(Error::invalid("limits.payload_bytes_max", given, "at most 4 GiB"));
        }
        if self.queue_bytes_max < self.payload_bytes_max {
            let given = self.queue_bytes_max;
            let expected = "at least payload_bytes_max, or the largest payload could never pass";
            return Err(Error::invalid("limits.queue_bytes_max", given, expected));
        }
        Ok(())
    }
}

//! What a host needs to test itself, with the feature `testing`: an engine without a disk, a network or waiting.
//!
//! - [`store::Memory`](crate::store::Memory) keeps the outbox in memory, and [`FaultInjectingStore`] makes a store
//!   fail when a test wants it.
//! - [`ManualClock`] moves time by hand: retries that are due in an hour are due at once.
//! - [`ScriptedTransport`] stands for all receivers and records what they get.
//! - [`wait_until_idle`] returns when nothing is left to do without more time passing.
//! - [`Stepped`] runs an engine without threads, step by step, so that a run repeats exactly.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use wabahook::testing::{ManualClock, ScriptedReply, ScriptedTransport, wait_until_idle};
//! use wabahook::{Config, Engine, Event, Subscription, store};
//!
//! let clock = Arc::new(ManualClock::new(1_700_000_000_000, 1));
//! let receivers = Arc::new(ScriptedTransport::default());
//! receivers.script("crm.example", &[ScriptedReply::Status(503), ScriptedReply::Status(200)]);
//! let config = Config::new("unused")
//!     .clock(clock.clone())
//!     .store(Arc::new(store::Memory::default()))
//!     .transport(receivers.clone());
//! let engine = Engine::open(config)?;
//! engine.subscribe(Subscription::to("https://crm.example/hook")?)?;
//! engine.publish(Event::new("ADD_TAG", "{}"))?.wait()?;
//!
//! assert!(wait_until_idle(&engine, Duration::from_secs(10)));
//! assert_eq!(engine.stats().retried, 1);
//! clock.advance(Duration::from_secs(2));
//! assert!(wait_until_idle(&engine, Duration::from_secs(10)));
//! assert_eq!(engine.stats().delivered, 1);
//! engine.close(Duration::from_secs(10))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![allow(clippy::disallowed_methods, reason = "a test waits in real time")]

mod scripted_transport;
mod store_layer;

use std::time::{Duration, Instant};

#[cfg(test)]
pub(crate) use scripted_transport::DEADLINE;
pub use scripted_transport::{Arrival, ScriptedReply, ScriptedTransport};
#[doc(hidden)]
pub use store_layer::{LayeredStore, StoreLayer};

pub use crate::clock::ManualClock;
#[doc(hidden)]
pub use crate::delivery::{check_exchange, check_response};
use crate::engine::Engine;
pub use crate::engine::stepping::{BegunAttempt, Stepped, retry_after_ms};
pub use crate::routing::Matching;
pub use crate::store::{FaultInjectingStore, FaultPlan};

/// Waits until the engine has nothing to do before more time passes on its clock: nothing waits to be written, no
/// attempt is in flight, and no delivery is due. Returns whether that was so within `timeout`.
#[must_use]
pub fn wait_until_idle(engine: &Engine, timeout: Duration) -> bool {
    is_within(timeout, || engine.is_idle())
}

/// Waits until something is so. Returns whether it was within `timeout`.
pub(crate) fn is_within(timeout: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > timeout {
            return false;
        }
        std::thread::park_timeout(Duration::from_micros(200));
    }
    true
}

//! What the examples run with: a load of events, an upstream that sends them over TCP, a receiver on
//! loopback, and printed figures. Everything that your own host would do is in the examples themselves.
//! An event counts as delivered when it arrived at the receiver, each `webhook-id` once.

#![allow(dead_code, unused_imports, reason = "every example uses its own part")]

mod figures;
mod receiver;
mod upstream;

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use wabahook::{Config, Engine, Event, Subscription};

pub(crate) use self::figures::{Figures, sleeps_of_this_thread};
pub(crate) use self::receiver::Receiver;
pub(crate) use self::upstream::Upstream;

/// What an example can fail with.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long everything may take after the last event was sent.
pub(crate) const END_MAX: Duration = Duration::from_secs(120);

/// How many events come, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) seconds: u64,
    pub(crate) rate: u64,
}

impl Load {
    /// `--seconds N` (2) and `--rate EVENTS_A_SECOND` (20,000).
    pub(crate) fn from_arguments() -> Outcome<Load> {
        Ok(Load { seconds: option("seconds", 2)?, rate: option("rate", 20_000)? })
    }

    pub(crate) fn events(&self) -> u64 {
        self.seconds * self.rate
    }

    /// Calls `send` every millisecond with the numbers of the events that are due.
    pub(crate) fn run(&self, mut send: impl FnMut(std::ops::Range<u64>) -> Outcome) -> Outcome {
        let started = Instant::now();
        let mut sent = 0;
        for _ in crossbeam_channel::tick(Duration::from_millis(1)) {
            let due = started.elapsed().as_micros().saturating_mul(self.rate.into()) / 1_000_000;
            let due = u64::try_from(due)?.min(self.events());
            send(sent..due)?;
            sent = due;
            if sent == self.events() {
                break;
            }
        }
        Ok(())
    }
}

fn option(name: &str, default: u64) -> Outcome<u64> {
    let mut after = std::env::args().skip_while(|given| *given != format!("--{name}")).skip(1);
    let Some(given) = after.next() else { return Ok(default) };
    let number: Option<u64> = given.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("--{name} {given}: expected a whole number from 1").into())
}

/// A new directory, below `--data` if given, which is removed on drop.
pub(crate) fn directory() -> Outcome<tempfile::TempDir> {
    let mut after = std::env::args().skip_while(|given| given != "--data").skip(1);
    let base = after.next().map_or_else(std::env::temp_dir, PathBuf::from);
    Ok(tempfile::tempdir_in(base)?)
}

/// An engine with the receiver as its only subscription. It blocks: opening reads what is owed, and
/// subscribing waits for the device.
pub(crate) fn open(directory: &tempfile::TempDir, receiver: &Receiver) -> Outcome<Engine> {
    let loopback = "127.0.0.0/8".parse()?;
    let config = Config::new(directory.path()).allow_addresses([loopback]).allow_http(true);
    let engine = Engine::open(config)?;
    engine.subscribe(Subscription::to(receiver.url())?.name("receiver"))?;
    Ok(engine)
}

/// The n-th line of the upstream: the message id, the contact, and the payload.
pub(crate) fn line(n: u64) -> String {
    let contact = 919_812_300_000 + n % 1_000;
    let text = "x".repeat(300);
    format!(
        "wamid.{n} {contact} {{\"id\":\"wamid.{n}\",\"from\":\"{contact}\",\"text\":\"{text}\"}}\n"
    )
}

/// The event of a line.
pub(crate) fn event(line: &str) -> Option<Event> {
    let (id, rest) = line.split_once(' ')?;
    let (contact, payload) = rest.split_once(' ')?;
    let event = Event::new("MESSAGE_RECEIVED", payload.trim_end()).number("919999999999");
    Some(event.key(contact).dedup_key(id))
}

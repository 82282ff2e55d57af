//! The process that is killed. It opens the directory, publishes and replays from several threads,
//! delivers, and reports each step on its standard output with one write, which survives a kill. It
//! reports a publish or a replay before it begins, an accepted event after its receipt, and an answer
//! of a receiver before the engine learns of it.

use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use parking_lot::Mutex;
use wabahook::{Accepted, DeadLetterFilter, Engine, Event, Failure, PublishError, Receipt, Result};

use crate::place::Place;
use crate::script;
use wabahook::testing::{Arrival, ScriptedReply, ScriptedTransport};

/// How many of the newest dead letters are considered for a replay.
const LETTERS: usize = 20;

/// Runs until it is killed. Tags on the standard input are published again first.
pub fn run(place: &Place, round: u32, seed: u64) {
    let again: Vec<String> = io::stdin().lock().lines().map_while(|line| line.ok()).collect();
    say("opening");
    let receivers = Arc::new(Receivers::default());
    let answering = Arc::clone(&receivers);
    let transport = ScriptedTransport::new(move |arrival| answering.answer(arrival)).unrecorded();
    let config = place.config().unwrap_or_else(|why| give_up("acquire", &why));
    let config = config.limits(script::limits()).transport(Arc::new(transport));
    let engine = Engine::open(config).unwrap_or_else(|error| give_up("open", &error));
    say("opened");
    for host in script::HOSTS {
        let subscribed = engine.subscribe(script::subscription(host));
        subscribed.unwrap_or_else(|error| give_up("subscribe", &error));
        say(&format!("subscribed {host}"));
    }
    again.iter().for_each(|tag| publish_again(&engine, tag));
    thread::scope(|scope| {
        for publisher in 0..script::PUBLISHERS {
            let salt = seed ^ (u64::from(round) << 32) ^ u64::from(publisher);
            let (engine, receivers) = (&engine, &receivers);
            scope.spawn(move || publish_for_ever(engine, receivers, round, publisher, salt));
        }
    });
}

fn publish_for_ever(engine: &Engine, receivers: &Receivers, round: u32, publisher: u32, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for number in 0_u32.. {
        let size = if rng.u8(..8) == 0 { script::MANY } else { 1 };
        let call = format!("{round}.{publisher}.{number}/{size}");
        let tags = script::tags(&call);
        say(&format!("begin {call}"));
        let accepted = match size {
            1 => publish(engine, &tags[0]).map(|accepted| vec![accepted]),
            _ => publish_many(engine, &tags),
        };
        let accepted = accepted.unwrap_or_else(|error| give_up("publish", &error));
        let shown: Vec<String> = accepted.iter().map(shown).collect();
        say(&format!("accepted {call} {}", shown.join(" ")));
        if script::has_key(&tags[0]) && rng.bool() {
            publish_again(engine, &tags[0]);
        }
        if rng.u8(..4) == 0 {
            replay_one(engine, receivers, publisher);
        }
    }
}

/// Replays the newest dead letter that no other thread replays.
fn replay_one(engine: &Engine, receivers: &Receivers, publisher: u32) {
    let letters = engine.dead_letters(&DeadLetterFilter::default(), None, LETTERS);
    let letters = letters.unwrap_or_else(|error| give_up("list dead letters", &error)).items;
    let is_ours = |id: &str| script::replayer(id) == u64::from(publisher);
    let Some(letter) = letters.into_iter().find(|one| is_ours(&one.event.to_string())) else {
        return;
    };
    let subscriptions = engine.subscriptions();
    let of = subscriptions.iter().find(|one| one.id == letter.subscription);
    let host = of.map(|one| one.name.clone()).unwrap_or_default();
    let id = letter.event.to_string();
    receivers.replayed.lock().insert((host.clone(), id.clone()));
    say(&format!("replaying {host} {id}"));
    engine.replay(&letter).unwrap_or_else(|error| give_up("replay", &error));
    say(&format!("replayed {host} {id}"));
}

fn publish(engine: &Engine, tag: &str) -> Result<Accepted> {
    submitted(|| engine.publish(script::event(tag)))?.wait()
}

fn publish_many(engine: &Engine, tags: &[String]) -> Result<Vec<Accepted>> {
    let events = || tags.iter().map(|tag| script::event(tag)).collect::<Vec<Event>>();
    submitted(|| engine.publish_many(events()))?.wait()
}

fn submitted<T>(publish: impl Fn() -> Result<Receipt<T>, PublishError>) -> Result<Receipt<T>> {
    loop {
        match publish() {
            Err(error) if error.is_busy() => thread::yield_now(),
            other => return Ok(other?),
        }
    }
}

fn publish_again(engine: &Engine, tag: &str) {
    match publish(engine, tag) {
        Ok(accepted) => say(&format!("again {tag} {}", shown(&accepted))),
        Err(error) => give_up("publish again", &error),
    }
}

fn shown(accepted: &Accepted) -> String {
    format!("{}:{}:{}", accepted.id, accepted.owed, u8::from(accepted.duplicate))
}

/// Answers by the script, after reporting the answer.
#[derive(Default)]
struct Receivers {
    /// Hosts and ids of the replayed deliveries.
    replayed: Mutex<HashSet<(String, String)>>,
}

thread_local! {
    static WORKER: u32 = {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

impl Receivers {
    fn answer(&self, arrival: &Arrival) -> ScriptedReply {
        let Arrival { host, id, attempt, body, .. } = arrival;
        let Some(tag) = script::tag_of(body) else {
            say(&format!("torn {host} {id} {} bytes", body.len()));
            return ScriptedReply::Fails(Failure::Internal);
        };
        let is_replayed = self.replayed.lock().contains(&(host.clone(), id.clone()));
        let status = script::status(host, &tag, *attempt, is_replayed);
        WORKER.with(|worker| say(&format!("answered {worker} {host} {id} {status} {tag}")));
        ScriptedReply::Status(status)
    }
}

/// One write for each line, so that a kill cannot tear it.
fn say(line: &str) {
    let mut output = io::stdout().lock();
    let written = output.write_all(format!("{line}\n").as_bytes());
    if written.and_then(|()| output.flush()).is_err() {
        // The parent is gone.
        exit(0);
    }
}

fn give_up(doing: &str, error: &dyn std::fmt::Display) -> ! {
    say(&format!("failed to {doing}: {error}"));
    exit(1);
}

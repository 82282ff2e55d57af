//! Decides what a test of one subscription sends, and what its answer says.
//!
//! Leaves to others: the request (`delivery::request`), the guard and the exchange (`delivery`), what
//! a reply means (`dispatch`). Invariant: a test changes nothing: nothing is owed, stored, counted or
//! held against the endpoint, and its event's id is no other event's.

use std::fmt;

use super::core::Core;
use super::drain;
use crate::attempt::{Failure, Made, Reason, Reply};
use crate::delivery;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::event::{EventId, StoredEvent, TEST};
use crate::subscription::{Registered, SubscriptionId};

/// What a receiver did with a test event.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tested {
    /// The event's id: the `webhook-id` that the receiver saw. No other event has it.
    pub event_id: EventId,
    /// Why it was not acknowledged; `None` where it was. Judged as a delivery would be.
    pub reason: Option<Reason>,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The first bytes of an answer that was no success, at most
    /// [`EXCERPT_BYTES_MAX`](crate::EXCERPT_BYTES_MAX).
    pub excerpt: Vec<u8>,
}

impl Tested {
    /// Whether the receiver acknowledged it.
    pub fn is_delivered(&self) -> bool {
        self.reason.is_none()
    }
}

impl fmt::Debug for Tested {
    /// Without the excerpt, as everywhere (I9).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tested")
            .field("event_id", &self.event_id)
            .field("reason", &self.reason)
            .field("status", &self.status)
            .field("took_ms", &self.took_ms)
            .field("excerpt_bytes", &self.excerpt.len())
            .finish()
    }
}

impl Core {
    pub(super) fn test(&self, id: SubscriptionId) -> Result<Tested> {
        self.check_open()?;
        let served = self.registry.read().known(id)?;
        let event = self.test_event(&served.registered)?;
        let started_ms = self.clock.monotonic_ms();
        let made = delivery::unwound(|| {
            let reply = self.send(&served.template, &event, 1, event.accepted_wall_ms);
            Made { reply, event_type: None }
        });
        let reply = made.reply;
        let took_ms = self.clock.monotonic_ms().saturating_sub(started_ms);
        let judged = dispatch::judge(&reply, &served.registered.policy);
        if reply == Reply::Failed(Failure::Interrupted) {
            return Err(Error::Closed);
        }
        let (status, excerpt) = reply.into_answer();
        let reason = drain::reason(&judged.outcome);
        Ok(Tested { event_id: event.id, reason, status, took_ms, excerpt })
    }

    /// Sequences begin at 1 and incarnations are random, so that neither half of the id is of any
    /// event that was or will be accepted.
    fn test_event(&self, registered: &Registered) -> Result<StoredEvent> {
        let Registered { id, name, account, filter, .. } = registered;
        let payload = serde_json::json!({ "test": true, "subscription": id, "name": name });
        Ok(StoredEvent {
            id: EventId::new(self.clock.chance(), 0),
            account: account.as_str().into(),
            kind: self.catalogue.canonical(TEST)?,
            number: filter.numbers.as_ref().and_then(|numbers| numbers.first().copied()),
            waba: None,
            key_hash: 0,
            accepted_wall_ms: self.clock.wall_ms(),
            payload: payload.to_string().into_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::attempt::Answered;
    use crate::clock::Manual;
    use crate::config::Config;
    use crate::delivery::{Request, Transport};
    use crate::engine::Engine;
    use crate::event::Event;
    use crate::store::Memory;
    use crate::subscription::{State, Subscription};

    const DEADLINE: Duration = Duration::from_secs(20);
    const BEGIN_WALL_MS: u64 = 1_700_000_000_000;

    /// Answers by host, after 30 ms, and keeps what arrived.
    struct Scripted {
        clock: Arc<Manual>,
        answers: Mutex<HashMap<&'static str, Reply>>,
        arrivals: Mutex<Vec<Arrival>>,
    }

    struct Arrival {
        host: String,
        headers: HashMap<String, String>,
        body: Vec<u8>,
    }

    impl Transport for Scripted {
        fn send(&self, request: &Request<'_>) -> Reply {
            self.clock.advance_ms(30);
            let host = request.url.host().unwrap().to_owned();
            let text = |(name, value): &(http::HeaderName, http::HeaderValue)| {
                (name.to_string(), value.to_str().unwrap().to_owned())
            };
            let headers = request.headers.iter().map(text).collect();
            let body = request.body.to_vec();
            self.arrivals.lock().push(Arrival { host: host.clone(), headers, body });
            assert_ne!(host, "panics", "a bug of the host's transport");
            self.answers.lock().get(&*host).cloned().unwrap_or(Reply::status(200))
        }

        fn interrupt(&self) {}
    }

    fn world() -> (Engine, Arc<Scripted>) {
        let clock = Arc::new(Manual::new(BEGIN_WALL_MS, 7));
        let scripted = Scripted {
            clock: Arc::clone(&clock),
            answers: Mutex::default(),
            arrivals: Mutex::default(),
        };
        let transport = Arc::new(scripted);
        let config = Config::new("unused").store(Arc::new(Memory::default())).clock(clock);
        (Engine::open(config.transport(transport.clone())).unwrap(), transport)
    }

    fn to(host: &str) -> Subscription {
        Subscription::to(format!("https://{host}/hook")).unwrap().name(host)
    }

    #[test]
    fn a_test_sends_one_request_like_a_delivery_to_this_subscription_alone_and_counts_nowhere() {
        let (engine, transport) = world();
        let crm = engine.subscribe(to("crm").numbers(["919999999999"]).secret("hush")).unwrap();
        engine.subscribe(to("bystander")).unwrap();
        let before = format!("{:?}", engine.stats());
        let tested = engine.test(crm).unwrap();
        assert!(tested.is_delivered(), "{tested:?}");
        assert_eq!((tested.status, tested.took_ms), (Some(200), 30));
        let arrivals = transport.arrivals.lock();
        let [Arrival { host, headers, body }] = &arrivals[..] else { panic!("not one") };
        assert_eq!(host, "crm");
        let value = |wanted: &str| headers[wanted].as_str();
        assert_eq!(value("webhook-id"), tested.event_id.to_string());
        assert_eq!(value("x-webhook-event"), "TEST");
        assert_eq!(value("x-webhook-number"), "919999999999");
        assert_eq!(value("x-webhook-attempt"), "1");
        assert!(value("webhook-signature").starts_with("v1,"));
        let payload = serde_json::json!({ "test": true, "subscription": crm, "name": "crm" });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(body).unwrap(), payload);
        assert_eq!(format!("{:?}", engine.stats()), before);
    }

    fn check(reply: Reply, reason: Option<&str>, status: Option<u16>, excerpt: &str) {
        let (engine, transport) = world();
        let crm = engine.subscribe(to("crm")).unwrap();
        let bystander = engine.subscribe(to("bystander")).unwrap();
        transport.answers.lock().insert("crm", reply);
        let tested = engine.test(crm).unwrap();
        assert_eq!(tested.reason.as_ref().map(ToString::to_string).as_deref(), reason);
        assert_eq!((tested.status, &*tested.excerpt), (status, excerpt.as_bytes()));
        assert!(!format!("{tested:?}").contains("hidden"));
        for id in [crm, bystander] {
            assert_eq!(engine.subscription(id).unwrap().state, State::Active);
        }
        assert_eq!((engine.stats().attempts, engine.stats().dead), (0, 0));
        assert!(engine.test(bystander).unwrap().is_delivered());
    }

    #[test]
    fn what_a_receiver_does_is_said_in_the_words_of_a_delivery_and_has_no_consequence() {
        let answer = |status| Reply::Answered(Answered::new(status).excerpt(b"hidden"));
        check(Reply::status(204), None, Some(204), "");
        check(answer(404), Some("status:404"), Some(404), "hidden");
        check(answer(503), Some("status:503"), Some(503), "hidden");
        check(answer(410), Some("status:410"), Some(410), "hidden");
        check(Reply::Failed(Failure::Timeout), Some("timeout"), None, "");
        let guarded = Reply::Failed(Failure::Guard("loopback".to_owned()));
        check(guarded, Some("guard:loopback"), None, "");
    }

    #[test]
    fn a_paused_and_a_disabled_subscription_are_tested_and_stay_as_they_are() {
        let (engine, transport) = world();
        let (paused, gone) = (to("paused").secret("hush"), to("gone"));
        let (paused, gone) = (engine.subscribe(paused).unwrap(), engine.subscribe(gone).unwrap());
        engine.pause(paused).unwrap();
        transport.answers.lock().insert("gone", Reply::status(410));
        let notices = engine.notices();
        engine.publish(Event::new("ADD_TAG", "1").number("919999999999")).unwrap().wait().unwrap();
        let disabled =
            crate::notice::Notice::Disabled { subscription: gone, reason: Reason::Status(410) };
        while notices.next_timeout(DEADLINE).unwrap() != disabled {}
        transport.answers.lock().clear();
        let owed = engine.stats().owed;
        for (id, state) in [(paused, State::Paused), (gone, State::Disabled)] {
            assert!(engine.test(id).unwrap().is_delivered());
            assert_eq!(engine.subscription(id).unwrap().state, state);
        }
        assert_eq!(engine.stats().owed, owed);
    }

    #[test]
    fn each_test_has_an_id_of_its_own_that_no_event_has() {
        let (engine, _transport) = world();
        let crm = engine.subscribe(to("crm")).unwrap();
        let event = Event::new("ADD_TAG", "1").number("919999999999");
        let accepted = engine.publish(event).unwrap().wait().unwrap();
        let tests = [engine.test(crm).unwrap().event_id, engine.test(crm).unwrap().event_id];
        assert_ne!(tests[0], tests[1]);
        assert!(accepted.id.sequence() > 0 && tests.iter().all(|id| id.sequence() == 0));
    }

    #[test]
    fn a_test_that_cannot_be_made_says_why_and_a_panic_stays_inside() {
        let (engine, _transport) = world();
        let panics = engine.subscribe(to("panics")).unwrap();
        let bystander = engine.subscribe(to("bystander")).unwrap();
        let tested = engine.test(panics).unwrap();
        assert_eq!(tested.reason, Some(Reason::Failed(Failure::Internal)));
        assert!(matches!(engine.test(SubscriptionId(77)), Err(Error::NotFound { .. })));
        assert!(engine.test(bystander).unwrap().is_delivered());
        engine.close(DEADLINE).unwrap();
        assert!(matches!(engine.test(bystander), Err(Error::Closed)));
    }
}

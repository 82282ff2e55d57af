//! Sends a test event to one subscription. The request, the guard and the transport are those of real
//! deliveries, but nothing is owed, counted or held against the endpoint, and the event's id is no other
//! event's. A test that succeeds clears the endpoint's health.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::attempt::Reason;
use crate::dispatch;
use crate::engine::Engine;
use crate::engine::shared::Shared;
use crate::error::{Error, Result};
use crate::event::{EventId, StoredEvent, TEST};
use crate::subscription::{SubscriptionId, SubscriptionInfo};
use crate::text::debug_fields;
use crate::transport::{Failure, Reply};

/// What the receiver of a test event answered.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TestDelivery {
    /// The event's id: the `webhook-id` that the receiver saw. No other event has it.
    pub event_id: EventId,
    /// Why it was not acknowledged; `None` where it was. Judged as for a delivery.
    pub reason: Option<Reason>,
    /// The HTTP status, if there was a response.
    pub status: Option<u16>,
    /// How long it took, in whole milliseconds.
    pub took: Duration,
    /// The first bytes of a response that was no success, at most
    /// [`EXCERPT_BYTES_MAX`](crate::EXCERPT_BYTES_MAX).
    pub excerpt: Vec<u8>,
}

impl TestDelivery {
    /// Whether the receiver acknowledged it.
    pub fn is_delivered(&self) -> bool {
        self.reason.is_none()
    }
}

// Omits the excerpt, which may repeat the payload (I9).
debug_fields!(TestDelivery: event_id, reason, status, took, excerpt.len());

impl Engine {
    /// Sends a test event to one subscription and returns what its receiver did: one attempt, with the
    /// request, the guard and the transport of real deliveries. The event has the type `TEST`
    /// (`test.ping` where the session gateway's names are used), an id that no other event has, the
    /// payload `{"name":"<its name>","subscription":<its id>,"test":true}` and, where the subscription
    /// asks for numbers, the smallest of them. A subscription that is paused or disabled is tested as
    /// well. Nothing is stored, retried, counted or held against the endpoint.
    ///
    /// Blocks until the receiver answered, at most the subscription's timeout and the look-up of its
    /// name: not a call for the thread of an event loop.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Closed`] also when the engine is closed meanwhile. What the
    /// receiver does is no error.
    ///
    /// ```no_run
    /// use wabahook::{Config, Engine, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
    /// let tested = engine.test(crm)?;
    /// if let Some(reason) = tested.reason {
    ///     println!("crm does not answer as it should: {reason}"); // such as status:404
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn test(&self, id: SubscriptionId) -> Result<TestDelivery> {
        let shared = &self.shared;
        shared.check_open()?;
        let active = shared.subscriptions.read().require(id)?;
        shared.shares.admit_test(&active.info.account, shared.clock.monotonic_ms())?;
        let event = shared.test_event(&active.info)?;
        let started_ms = shared.clock.monotonic_ms();
        let send = || shared.send(&active.template, &event, 1, event.accepted_at_ms);
        let reply = catch_unwind(AssertUnwindSafe(send));
        let reply = reply.unwrap_or(Reply::Failed(Failure::Internal));
        let took = Duration::from_millis(shared.clock.monotonic_ms().saturating_sub(started_ms));
        let judged = dispatch::judge(&reply, &active.info.policy);
        if reply == Reply::Failed(Failure::Interrupted) {
            return Err(Error::Closed);
        }
        let (status, excerpt) = reply.into_status_and_excerpt();
        let reason = judged.outcome.into_reason();
        if reason.is_none() {
            // The endpoint works again: the next delivery need not wait for its breaker.
            shared.clear_known_failures(id);
        }
        Ok(TestDelivery { event_id: event.id, reason, status, took, excerpt })
    }
}

impl Shared {
    /// The event's sequence is 0, which no accepted event has, and its incarnation is random.
    fn test_event(&self, info: &SubscriptionInfo) -> Result<StoredEvent> {
        let SubscriptionInfo { id, name, account, filter, .. } = info;
        let payload = serde_json::json!({ "test": true, "subscription": id, "name": name });
        Ok(StoredEvent {
            id: EventId::new(self.clock.random_u64(), 0),
            account: account.as_str().into(),
            event_type: self.catalogue.canonical(TEST)?,
            number: filter.numbers.as_ref().and_then(|numbers| numbers.first().copied()),
            waba: None,
            key_hash: 0,
            accepted_at_ms: self.clock.wall_ms(),
            payload: payload.to_string().into_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::Config;
    use crate::engine::Engine;
    use crate::event::Event;
    use crate::store::Memory;
    use crate::subscription::{Subscription, SubscriptionState};
    use crate::testing::{DEADLINE, ScriptedReply, ScriptedTransport};

    const BEGIN_WALL_MS: u64 = 1_700_000_000_000;

    /// An engine whose receivers answer after 30 ms.
    fn world_with(
        answer: impl Fn(&str) -> ScriptedReply + Send + Sync + 'static,
    ) -> (Engine, Arc<ScriptedTransport>) {
        let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 7));
        let config = Config::new("unused").store(Arc::new(Memory::default())).clock(clock.clone());
        let transport = Arc::new(ScriptedTransport::new(move |arrival| {
            clock.advance(Duration::from_millis(30));
            assert_ne!(arrival.host, "panics", "a bug of the host's transport");
            answer(&arrival.host)
        }));
        (Engine::open(config.transport(transport.clone())).unwrap(), transport)
    }

    fn world() -> (Engine, Arc<ScriptedTransport>) {
        world_with(|_| ScriptedReply::Status(200))
    }

    fn to(host: &str) -> Subscription {
        Subscription::to(format!("https://{host}/hook")).unwrap().name(host)
    }

    #[test]
    fn a_test_sends_one_request_and_counts_nowhere() {
        let (engine, transport) = world();
        let crm = engine.subscribe(to("crm").numbers(["919999999999"]).secret("hush")).unwrap();
        engine.subscribe(to("bystander")).unwrap();
        let before = format!("{:?}", engine.stats());
        let tested = engine.test(crm).unwrap();
        assert!(tested.is_delivered(), "{tested:?}");
        assert_eq!((tested.status, tested.took), (Some(200), Duration::from_millis(30)));
        let arrivals = transport.arrivals();
        let [arrival] = &arrivals[..] else { panic!("not one") };
        assert_eq!(arrival.host, "crm");
        let value = |wanted: &str| arrival.header(wanted).unwrap();
        assert_eq!(value("webhook-id"), tested.event_id.to_string());
        assert_eq!(value("x-webhook-event"), "TEST");
        assert_eq!(value("x-webhook-number"), "919999999999");
        assert_eq!(value("x-webhook-attempt"), "1");
        assert!(value("webhook-signature").starts_with("v1,"));
        let payload = serde_json::json!({ "test": true, "subscription": crm, "name": "crm" });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&arrival.body).unwrap(), payload);
        assert_eq!(format!("{:?}", engine.stats()), before);
    }

    fn check(reply: ScriptedReply, reason: Option<&str>, status: Option<u16>, excerpt: &str) {
        let (engine, _) = world_with(move |host| match host {
            "crm" => reply.clone(),
            _ => ScriptedReply::Status(200),
        });
        let crm = engine.subscribe(to("crm")).unwrap();
        let bystander = engine.subscribe(to("bystander")).unwrap();
        let tested = engine.test(crm).unwrap();
        assert_eq!(tested.reason.as_ref().map(ToString::to_string).as_deref(), reason);
        assert_eq!((tested.status, &*tested.excerpt), (status, excerpt.as_bytes()));
        assert!(!format!("{tested:?}").contains("hidden"));
        for id in [crm, bystander] {
            assert_eq!(engine.subscription(id).unwrap().state, SubscriptionState::Active);
        }
        assert_eq!((engine.stats().attempts, engine.stats().dead), (0, 0));
        assert!(engine.test(bystander).unwrap().is_delivered());
    }

    #[test]
    fn a_test_reports_the_reason_of_a_delivery() {
        let answer = |status| ScriptedReply::Says(status, "hidden");
        check(ScriptedReply::Status(204), None, Some(204), "");
        check(answer(404), Some("status:404"), Some(404), "hidden");
        check(answer(503), Some("status:503"), Some(503), "hidden");
        check(answer(410), Some("status:410"), Some(410), "hidden");
        check(ScriptedReply::Fails(Failure::Timeout), Some("timeout"), None, "");
        let guarded = ScriptedReply::Fails(Failure::Guard("loopback".to_owned()));
        check(guarded, Some("guard:loopback"), None, "");
    }

    #[test]
    fn an_inactive_subscription_is_tested_and_stays_inactive() {
        let (engine, transport) = world();
        let (paused, gone) = (to("paused").secret("hush"), to("gone"));
        let (paused, gone) = (engine.subscribe(paused).unwrap(), engine.subscribe(gone).unwrap());
        engine.pause(paused).unwrap();
        transport.script("gone", &[ScriptedReply::Status(410), ScriptedReply::Status(200)]);
        let notices = engine.notices();
        engine.publish(Event::new("ADD_TAG", "1").number("919999999999")).unwrap().wait().unwrap();
        let disabled =
            crate::notice::Notice::Disabled { subscription: gone, reason: Reason::Status(410) };
        while notices.next_timeout(DEADLINE).unwrap() != disabled {}
        let owed = engine.stats().owed;
        for (id, state) in
            [(paused, SubscriptionState::Paused), (gone, SubscriptionState::Disabled)]
        {
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
    fn a_panic_of_the_transport_stays_inside_the_test() {
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

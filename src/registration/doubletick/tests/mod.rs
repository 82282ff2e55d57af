//! Requests and responses of DoubleTick's clients: the documented examples, the rules, and bad input.

mod edits_and_lists;
mod refusals;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::attempt::Reason;
use crate::config::Config;
use crate::engine::{DeliveryFilter, DeliveryState};
use crate::error::Error;
use crate::event::{Catalogue, Event};
use crate::notice::Notice;
use crate::profile::Profile;
use crate::registration::test_support::{GatewayResponse, TestGateway};
use crate::secret::Secret;
use crate::subscription::{
    Authorization, BodyFormat, Policy, Subscription, SubscriptionId, SubscriptionInfo,
    SubscriptionState,
};
use crate::testing::{DEADLINE, is_within};
use crate::testing::{ScriptedReply, ScriptedTransport};
use crate::transport::Failure;

const ACME: &[(&str, &str)] = &[("authorization", "acme-key")];
const BETA: &[(&str, &str)] = &[("authorization", "beta-key")];
const REGISTER: &str = "/v2/webhook/register";

/// A gateway with two bystanders: a webhook of another account, and a subscription of acme's that the host
/// made.
fn doubletick() -> TestGateway {
    with_bystanders(TestGateway::new())
}

fn with_bystanders(mut gateway: TestGateway) -> TestGateway {
    let beta = body(json!({"name": "beta's", "wabaNumbers": ["917777777777"]}));
    assert_eq!(gateway.call("POST", REGISTER, BETA, beta.to_string()).status, 201);
    let own = Subscription::to("https://own.example/").unwrap().name("own").account("acme");
    gateway.engine.subscribe(own.events(["REMOVE_TAG"])).unwrap();
    gateway.bystanders = gateway.engine.subscriptions();
    gateway
}

impl TestGateway {
    fn acme(&self, method: &str, path: &str, body: &Value) -> GatewayResponse {
        self.call(method, path, ACME, body.to_string())
    }

    fn register(&self, body: &Value) -> GatewayResponse {
        self.acme("POST", REGISTER, body)
    }

    /// Acme's webhooks, without the bystander.
    fn webhooks(&self) -> Vec<Arc<SubscriptionInfo>> {
        let all = self.engine.subscriptions_of("acme");
        all.into_iter().filter(|one| one.name != "own").collect()
    }

    /// Registers a webhook and returns it.
    fn registered(&self, more: Value) -> Arc<SubscriptionInfo> {
        let body = body(more);
        let answered = self.register(&body);
        assert_eq!(answered.status, 201, "{answered:?}");
        self.webhooks().into_iter().find(|one| body["name"] == one.name).unwrap()
    }
}

/// The smallest body with these fields replaced or added; `null` removes a field.
fn body(more: Value) -> Value {
    let mut body = json!({
        "method": "POST", "url": "https://crm.example/hook", "name": "crm",
        "webhookEvents": ["ADD_TAG"], "wabaNumbers": ["+919999999999"],
    });
    for (name, value) in more.as_object().unwrap() {
        match value {
            Value::Null => drop(body.as_object_mut().unwrap().remove(name)),
            value => body[name] = value.clone(),
        }
    }
    body
}

/// The documented example, verbatim.
const EXAMPLE: &str = r#"{
  "method": "GET",
  "headers": { "newKeyHeader": "New Value Header" },
  "body": { "newKeyBody": "New Value Body" },
  "query": { "newKeyQuery": "New Value Query" },
  "authorization": {
      "type": "BASIC",
      "payload": "some-secure-token"
  },
  "url": "https://your-callback-url.com",
  "bodyFormat": "JSON",
  "webhookEvents": ["ADD_TAG"],
  "retryOnTimeout": true,
  "name": "Test Webhook",
  "wabaNumbers": ["waba_number1", "waba_number2", "waba_number3"]
}"#;

fn assert_refused(answered: &GatewayResponse, status: u16, error: &str, says: &[&str]) {
    assert_eq!(answered.status, status, "{answered:?}");
    let message = answered.body["message"].as_str().unwrap();
    let shape = json!({"message": message, "error": error, "statusCode": status});
    assert_eq!(answered.body, shape, "the documented shape and nothing else");
    for part in says {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    assert!(!message.contains("hidden"), "{message:?} repeats a value");
}

fn rows(numbers: &[&str], events: &[&str]) -> Value {
    let row = |number, event| json!({"wabaNumber": number, "webhookEventType": event});
    let of = |number| events.iter().map(move |event| row(number, event));
    numbers.iter().flat_map(of).collect()
}

#[test]
fn the_documented_example_is_registered_field_by_field() {
    let client = doubletick();
    let answered = client.register(&serde_json::from_str(EXAMPLE).unwrap());
    let none = json!({
        "validWebhooks": [], "invalidWebhooks": [],
        "invalidWabaNumbers": ["waba_number1", "waba_number2", "waba_number3"],
    });
    assert_eq!((answered.status, answered.body), (201, none), "placeholders are nobody's numbers");
    assert!(client.webhooks().is_empty(), "nothing valid stores nothing");

    let example = EXAMPLE.replace("waba_number1", "+919999999999");
    let answered = client.call("POST", REGISTER, ACME, &example);
    let expected = json!({
        "validWebhooks": [{"wabaNumber": "+919999999999", "webhookEventType": "ADD_TAG"}],
        "invalidWebhooks": [],
        "invalidWabaNumbers": ["waba_number2", "waba_number3"],
    });
    assert_eq!((answered.status, answered.body), (201, expected));
    let webhook = client.webhooks().pop().unwrap();
    let target = &webhook.target;
    let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_eq!(target.method(), &Method::GET);
    assert_eq!(target.url().host(), Some("your-callback-url.com"));
    assert_eq!(target.headers(), pair("newKeyHeader", "New Value Header"));
    assert_eq!(target.body(), pair("newKeyBody", "\"New Value Body\""));
    assert_eq!(target.query(), pair("newKeyQuery", "New Value Query"));
    assert_eq!(target.authorization(), Some(&Authorization::basic("some-secure-token")));
    assert_eq!(target.body_format(), BodyFormat::Json);
    assert_eq!(webhook.policy, Policy { retry_on_timeout: true, ..Policy::default() });
    assert_eq!((webhook.name.as_str(), webhook.profile), ("Test Webhook", Profile::DoubleTick));
    assert_eq!(webhook.secret, None);
    assert_eq!(shown(&webhook), (vec!["ADD_TAG".into()], vec!["919999999999".into()]));
    assert!(!format!("{webhook:?}").contains("some-secure-token"));
}

/// The filter of a webhook, as texts.
fn shown(webhook: &SubscriptionInfo) -> (Vec<String>, Vec<String>) {
    let (events, numbers) = (webhook.filter.events.iter(), webhook.filter.numbers.iter());
    let events = events.flatten().map(ToString::to_string).collect();
    (events, numbers.flatten().map(ToString::to_string).collect())
}

#[test]
fn optional_fields_have_documented_defaults() {
    let client = doubletick();
    let webhook = client.registered(json!({}));
    let target = &webhook.target;
    assert!(target.headers().is_empty() && target.query().is_empty() && target.body().is_empty());
    assert_eq!((target.authorization(), target.body_format()), (None, BodyFormat::Json));
    assert!(!webhook.policy.retry_on_timeout);
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"] {
        let webhook = client.registered(json!({"method": method, "name": method}));
        assert_eq!(webhook.target.method().as_str(), method);
    }
    let webhook = client.registered(json!({
        "name": "other choices", "bodyFormat": "FORM_DATA", "retryOnTimeout": false,
        "authorization": {"type": "BEARER", "payload": "hidden-token"},
        "headers": {"authorization": "Bearer lower", "x-n": 7, "x-yes": true, "x-none": null},
        "query": {"a": "b c", "n": 1.50, "no": false, "none": null},
        "body": {"text": "x", "deep": {"a": [1, null]}, "none": null},
    }));
    let target = &webhook.target;
    assert_eq!(target.body_format(), BodyFormat::FormData);
    assert_eq!(target.authorization(), Some(&Authorization::bearer("hidden-token")));
    fn check(given: &[(String, String)], expected: [(&str, &str); 3]) {
        let given: BTreeSet<_> = given.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(given, expected.into());
    }
    let headers = [("authorization", "Bearer lower"), ("x-n", "7"), ("x-yes", "true")];
    check(target.headers(), headers);
    check(target.query(), [("a", "b c"), ("n", "1.5"), ("no", "false")]);
    let body = [("text", "\"x\""), ("deep", "{\"a\":[1,null]}"), ("none", "null")];
    check(target.body(), body);
    let nothing = json!({"name": "no authorization", "authorization": {}, "headers": {}});
    assert_eq!(client.registered(nothing).target.authorization(), None);
}

#[test]
fn valid_pairs_are_registered_and_the_rest_reported() {
    let cases = [
        // Two numbers and two events are four rows and one webhook.
        (
            json!(["+919999999999", "918888888888"]),
            json!(["ADD_TAG", "MESSAGE_RECEIVED"]),
            rows(&["+919999999999", "918888888888"], &["ADD_TAG", "MESSAGE_RECEIVED"]),
            rows(&[], &[]),
            json!([]),
        ),
        // An unknown event is left out at each number.
        (
            json!(["+919999999999", "+918888888888"]),
            json!(["INVALID_EVENT", "ADD_TAG", "message_received"]),
            rows(&["+919999999999", "+918888888888"], &["ADD_TAG"]),
            rows(&["+919999999999", "+918888888888"], &["INVALID_EVENT", "message_received"]),
            json!([]),
        ),
        // Another account's number and a text that is not a number get the same response.
        (
            json!(["917777777777", "+91 99999-99999", "911111111111", "", "12"]),
            json!(["ADD_TAG"]),
            rows(&["+91 99999-99999"], &["ADD_TAG"]),
            rows(&[], &[]),
            json!(["917777777777", "911111111111", "", "12"]),
        ),
        // Different spellings are reported once, as first written, in numbers and in events.
        (
            json!(["919999999999", "+919999999999", "x", "x"]),
            json!(["COVERSATION_OPENED", "CONVERSATION_OPENED", "Tag added", "ADD_TAG", "?", "?"]),
            rows(&["919999999999"], &["COVERSATION_OPENED", "Tag added"]),
            rows(&["919999999999"], &["?"]),
            json!(["x"]),
        ),
        // A body without a valid pair succeeds and stores nothing.
        (
            json!(["919999999999"]),
            json!(["X"]),
            rows(&[], &[]),
            rows(&["919999999999"], &["X"]),
            json!([]),
        ),
        (
            json!(["917777777777"]),
            json!(["ADD_TAG"]),
            rows(&[], &[]),
            rows(&[], &[]),
            json!(["917777777777"]),
        ),
    ];
    for (numbers, events, valid, invalid, foreign) in cases {
        let client = doubletick();
        let given = json!({"wabaNumbers": numbers, "webhookEvents": events});
        let answered = client.register(&body(given));
        let expected = json!({
            "validWebhooks": valid, "invalidWebhooks": invalid, "invalidWabaNumbers": foreign,
        });
        assert_eq!((answered.status, answered.body), (201, expected));
        let webhooks = client.webhooks();
        let pairs = valid.as_array().unwrap().len();
        assert_eq!(webhooks.len(), usize::from(pairs > 0));
        let covered = webhooks.iter().map(|one| shown(one)).map(|(e, n)| e.len() * n.len());
        assert_eq!(covered.sum::<usize>(), pairs);
    }
}

#[test]
fn every_documented_event_and_trigger_is_accepted() {
    let events = [
        "ADD_TAG",
        "MESSAGE_RECEIVED",
        "MESSAGE_STATUS_UPDATE",
        "CHAT_ASSIGNED_TO_AGENT",
        "CHAT_UNASSIGNED",
        "UPDATE_CUSTOMER_CUSTOM_FIELD",
        "WIDGET_LEAD_RECEIVED",
        "VERIFIED_WIDGET_LEAD_RECEIVED",
        "NEW_LEAD",
        "RAW_CLOUD_API_WEBHOOK",
        "CLOSE_CONVERSATION",
        "TEMPLATE_UPDATE",
        "REMOVE_TAG",
        "CALL_TO_WHATSAPP_MESSAGE_RECEIVED",
        "CUSTOMER_BUSINESS_CHAT_OPEN",
    ];
    let triggers = [
        ("Message Status Update", "MESSAGE_STATUS_UPDATE"),
        ("Message Received", "MESSAGE_RECEIVED"),
        ("Chat Assigned to Agent", "CHAT_ASSIGNED_TO_AGENT"),
        ("Chat Unassigned", "CHAT_UNASSIGNED"),
        ("Lead Received from Widget", "WIDGET_LEAD_RECEIVED"),
        ("Verified Lead Received from Widget", "VERIFIED_WIDGET_LEAD_RECEIVED"),
        ("First Time Message Trigger from Customer", "NEW_LEAD"),
        ("Customer Custom Field Updated", "UPDATE_CUSTOMER_CUSTOM_FIELD"),
        ("Template Updated", "TEMPLATE_UPDATE"),
        ("Tag added", "ADD_TAG"),
        ("Tag removed", "REMOVE_TAG"),
        ("COVERSATION_OPENED", "CONVERSATION_OPENED"),
        ("CONVERSATION_OPENED", "CONVERSATION_OPENED"),
        ("message.received", "MESSAGE_RECEIVED"),
    ];
    let client = doubletick();
    for (given, named) in events.iter().map(|name| (*name, *name)).chain(triggers) {
        let more = json!({"name": format!("one of {given}"), "webhookEvents": [given]});
        assert_eq!(shown(&client.registered(more)).0, [named], "{given}");
    }
    let given: Vec<_> = triggers.iter().map(|(given, _)| *given).collect();
    let all = client.registered(json!({"name": "all triggers", "webhookEvents": given}));
    assert_eq!(shown(&all).0.len(), 12, "eleven triggers and one with two spellings");
    let id = all.id.to_string();
    let answered = client.acme("DELETE", "/v2/webhook/deregister", &json!({"webhookId": id}));
    assert_eq!((answered.status, answered.body), (201, json!({})));
    assert!(client.engine.subscription(all.id).is_none());
}

#[test]
fn the_catalogue_is_data() {
    let unknown = doubletick().register(&body(json!({"webhookEvents": ["order.placed"]})));
    assert_eq!(unknown.body["invalidWebhooks"], rows(&["+919999999999"], &["order.placed"]));
    let catalogue = Catalogue::default().with("ORDER_PLACED", ["order.placed"]);
    let client = with_bystanders(TestGateway::with(|config| config.catalogue(catalogue)));
    let known = client.register(&body(json!({"webhookEvents": ["order.placed"]})));
    assert_eq!(known.body["validWebhooks"], rows(&["+919999999999"], &["order.placed"]));
    assert_eq!(known.body["invalidWebhooks"], json!([]));
}

#[test]
fn a_timeout_is_retried_only_if_requested() {
    let receivers = ScriptedTransport::new(|arrival| match arrival.host.as_str() {
        "connect.example" => ScriptedReply::Fails(Failure::Connect),
        "busy.example" => ScriptedReply::Status(429),
        "timeout.example" => ScriptedReply::Fails(Failure::Timeout),
        _ => ScriptedReply::Status(200),
    });
    let gateway = TestGateway::with(|config| config.transport(Arc::new(receivers)));
    let client = with_bystanders(gateway);
    let notices = client.engine.notices();
    let made = ["timeout", "connect", "busy"].into_iter().flat_map(|host| {
        [true, false].map(|retry_on_timeout| {
            let webhook = client.registered(json!({
                "name": format!("{host} {retry_on_timeout}"), "retryOnTimeout": retry_on_timeout,
                "url": format!("https://{host}.example/"),
            }));
            (webhook.id, host == "timeout" && !retry_on_timeout)
        })
    });
    let made: Vec<(SubscriptionId, bool)> = made.collect();
    client.registered(json!({"name": "bystander", "url": "https://fine.example/"}));
    let event = Event::new("Tag added", "{}").account("acme").number("919999999999");
    assert_eq!(client.engine.publish(event).unwrap().wait().unwrap().owed, 7);
    for (id, is_dead) in made {
        let expected = if is_dead { DeliveryState::Dead } else { DeliveryState::Retrying };
        let of_it = DeliveryFilter::default().subscription(id);
        let state = || client.engine.deliveries(&of_it, None, 9).unwrap().items.pop();
        let is_it = || state().is_some_and(|delivery| delivery.state == expected);
        assert!(is_within(DEADLINE, is_it), "{id}: {:?}", state());
        if is_dead {
            let reason = Reason::Failed(Failure::Timeout);
            let died = std::iter::repeat_with(|| notices.next_timeout(DEADLINE).unwrap());
            let mut died = died.take(3);
            let is_it = |one: Notice| {
                matches!(one, Notice::DeadLettered { subscription, reason: of, .. }
                if subscription == id && of == reason)
            };
            assert!(died.any(is_it));
        }
    }
    client.wait_until(|stats| (stats.delivered, stats.dead) == (1, 1));
}

//! Items of a list, which clients send back as they are.

use super::*;

#[test]
fn a_doubletick_item_is_edited_whole_or_merged() {
    let client = TestGateway::with_bystander();
    let body = json!({
        "method": "PUT", "url": "https://crm.example/hook", "name": "crm", "headers": {"x-a": "1"},
        "webhookEvents": ["ADD_TAG", "NEW_LEAD"], "wabaNumbers": [NUMBER], "retryOnTimeout": true,
        "authorization": {"type": "BEARER", "payload": "token"},
    });
    client.accepts("POST", REGISTER, DOUBLETICK, &body);
    let before = client.only();
    let listed = client.accepts("GET", "/v2/webhooks", DOUBLETICK, "").body[0].clone();
    let path = format!("/v2/webhook/{}", listed["webhookId"].as_str().unwrap());
    let answer = client.accepts("POST", &path, DOUBLETICK, &listed);
    assert_eq!(answer.body["validWebhooks"].as_array().unwrap().len(), 2);
    assert_eq!(*client.only(), *before, "what the list does not show stays");

    let mut renamed = listed.clone();
    renamed["name"] = json!("renamed");
    renamed["eventTypes"] = json!(["REMOVE_TAG"]);
    client.accepts("PATCH", &path, DOUBLETICK, &renamed);
    let after = client.only();
    assert_eq!((after.name.as_str(), &after.target), ("renamed", &before.target));
    let events = after.filter.events.iter().flatten().map(ToString::to_string);
    assert_eq!(events.collect::<Vec<_>>(), ["REMOVE_TAG"]);

    // Merged into an edit, the documented fields count and the rest of the item is ignored.
    let mut merged = listed;
    merged.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    merged["headers"] = json!([]);
    client.accepts("POST", &path, DOUBLETICK, &merged);
    let after = client.only();
    assert!(after.target.headers().is_empty() && after.target.authorization().is_some());
    assert_eq!(after.filter, before.filter);
}

#[test]
fn a_star_that_the_list_shows_keeps_that_side() {
    let client = TestGateway::with_bystander();
    let [(method, path, key, body), ..] = registrations();
    client.accepts(method, path, key, body);
    let id = client.only().id;
    let widened = |one: &SubscriptionInfo| {
        let all = Subscription::to(one.target.url().to_string())?.account("acme").name("crm");
        Ok::<_, Error>(all.profile(one.profile))
    };
    client.engine.revise(id, widened).unwrap();
    let listed = client.accepts("GET", "/v2/webhooks", DOUBLETICK, "").body[0].clone();
    assert_eq!((&listed["eventTypes"], &listed["wabaNumbers"]), (&json!(["*"]), &json!(["*"])));
    client.accepts("POST", &format!("/v2/webhook/{id}"), DOUBLETICK, &listed);
    let filter = client.only().filter.clone();
    assert_eq!((filter.events, filter.numbers), (None, None));
    // At a registration a star is no event and no number.
    let star = json!({
        "method": "POST", "url": "https://a.example/", "name": "star", "webhookEvents": ["*"],
        "wabaNumbers": ["*"],
    });
    let answer = client.accepts("POST", REGISTER, DOUBLETICK, star);
    assert_eq!(answer.body["invalidWabaNumbers"], json!(["*"]));
    client.only();
}

#[test]
fn listed_items_of_the_other_gateways_are_accepted_back() {
    let client = TestGateway::with_bystander();
    for (method, path, key, body) in registrations() {
        client.accepts(method, path, key, body);
    }
    client.accepts("POST", "/waba_webhook", DIALOG360, json!({"url": "https://waba.example/"}));
    for (path, key) in
        [(NUMBER_PATH, PREMISES), (NUMBER_PATH, DIALOG360), ("/waba_webhook", DIALOG360)]
    {
        let shown = client.accepts("GET", path, key, "").body;
        client.accepts("POST", path, key, &shown);
        assert_eq!(client.accepts("GET", path, key, "").body, shown);
    }
    let shown = client.accepts("GET", "/multi_webhook", DIALOG360, "").body;
    client.accepts("PATCH", "/multi_webhook", DIALOG360, &shown["destinations"][0]);
    let mut disabled = shown.clone();
    disabled["enabled"] = json!(false);
    client.accepts("POST", "/multi_webhook", DIALOG360, &disabled);
    assert_eq!(client.accepts("GET", "/multi_webhook", DIALOG360, "").body, disabled);

    let shown = client.accepts("GET", "/webhooks", SESSION, "").body["data"][0].clone();
    let path = format!("/webhooks/{}", shown["id"]);
    assert_eq!(client.accepts("PATCH", &path, SESSION, &shown).body["data"], shown);
}

#[test]
fn answers_echo_names_and_numbers_as_they_were_sent() {
    let client = TestGateway::with_bystander();
    let [(method, path, key, mut body), ..] = registrations();
    body["webhookEvents"] = json!(["COVERSATION_OPENED", "message received", "NO_EVENT"]);
    body["wabaNumbers"] = json!(["+91 99999-99999", 918_888_888_888_u64, "917777777777"]);
    let answer = client.accepts(method, path, key, body).body;
    let named = |rows: &Value| -> Vec<(String, String)> {
        let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| (text(row, "wabaNumber"), text(row, "webhookEventType"))).collect()
    };
    let pair = |number: &str, event: &str| (number.to_owned(), event.to_owned());
    let valid = ["+91 99999-99999", "918888888888"].into_iter().flat_map(|number| {
        ["COVERSATION_OPENED", "message received"].map(|event| pair(number, event))
    });
    assert_eq!(named(&answer["validWebhooks"]), valid.collect::<Vec<_>>());
    assert_eq!(named(&answer["invalidWebhooks"])[0], pair("+91 99999-99999", "NO_EVENT"));
    assert_eq!(answer["invalidWabaNumbers"], json!(["917777777777"]));

    let client = TestGateway::with_bystander();
    let url = "https://crm.example/";
    let given = json!(["Message Received", "message.ack"]);
    let created =
        client.accepts("POST", "/webhooks", SESSION, json!({"url": url, "events": given}));
    assert_eq!(created.body["data"]["events"], given);
    let path = format!("/webhooks/{}", created.body["data"]["id"]);
    let patched = client.accepts("PATCH", &path, SESSION, json!({"events": given}));
    assert_eq!(patched.body["data"]["events"], given);
    let read = client.accepts("GET", &path, SESSION, "");
    assert_eq!(read.body["data"]["events"], json!(["message.received", "message.ack"]));
}

#[test]
fn a_receipt_of_the_session_gateway_is_one_status() {
    let client = TestGateway::with_bystander();
    let given = json!(["message.read", "call.accept"]);
    let body = json!({"url": "https://crm.example/", "events": given});
    let id = client.accepts("POST", "/webhooks", SESSION, body).body["data"]["id"].clone();
    let path = format!("/webhooks/{id}");
    let listed = |client: &TestGateway| {
        let mut names: Vec<String> =
            client.accepts("GET", &path, SESSION, "").body["data"]["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one.as_str().unwrap().into())
                .collect();
        names.sort();
        names
    };
    assert_eq!(listed(&client), ["call.accept", "message.read"]);
    let statuses = |field: &str, status: &str| {
        let value = json!({"statuses": [{"id": "wamid.1", "status": status}]});
        json!({"entry": [{"changes": [{"field": field, "value": value}]}]}).to_string()
    };
    let passes = |payload: String| {
        let condition = client.only().filter.condition.clone();
        condition.is_none_or(|condition| condition.is_met_by(payload.as_bytes()))
    };
    assert!(passes(statuses("messages", "read")) && !passes(statuses("messages", "sent")));
    assert!(passes(statuses("calls", "ACCEPTED")) && passes("{}".to_owned()));
    let types = |client: &TestGateway| -> Vec<String> {
        let events = client.only().filter.events.clone();
        events.into_iter().flatten().map(|kind| kind.to_string()).collect()
    };
    assert!(types(&client).contains(&"MESSAGE_STATUS_UPDATE".to_owned()));

    client.accepts("PATCH", &path, SESSION, json!({"events": ["message.received"]}));
    assert_eq!((client.only().filter.condition.clone(), listed(&client).len()), (None, 1));
    // The gateway's messages include those of groups.
    assert_eq!(types(&client), ["MESSAGE_RECEIVED", "WA_GROUP_MESSAGE_RECEIVED"]);
    let all = json!({"events": ["message.read", "MESSAGE_STATUS_UPDATE"]});
    client.accepts("PATCH", &path, SESSION, all);
    assert!(passes(statuses("messages", "sent")));
    assert_eq!(listed(&client), ["MESSAGE_STATUS_UPDATE", "message.read"]);

    // A condition of the host's stays, and counts alone.
    let id = client.only().id;
    let own = r#"{"pointer": "/a", "exists": true}"#;
    let with_own =
        |one: &SubscriptionInfo| Ok::<_, Error>(Subscription::from(one).condition(own.parse()?));
    client.engine.revise(id, with_own).unwrap();
    client.accepts("PATCH", &path, SESSION, json!({"events": ["message.played"]}));
    assert_eq!(client.only().filter.condition, Some(own.parse().unwrap()));
    assert_eq!(types(&client), ["message.played"]);
}

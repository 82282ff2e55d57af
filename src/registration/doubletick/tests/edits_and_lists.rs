//! Edits, foreign ids and the list.

use super::*;

#[test]
fn an_edit_keeps_what_a_body_cannot_express() {
    for method in ["POST", "PATCH"] {
        let client = doubletick();
        let first = client.registered(json!({
            "headers": {"x-a": "1"}, "query": {"a": "1"}, "body": {"a": 1}, "retryOnTimeout": true,
            "authorization": {"type": "BASIC", "payload": "u:p"}, "bodyFormat": "FORM_DATA",
        }));
        let second = client.registered(json!({"name": "second"}));
        client.engine.rotate_secret(first.id, Some(Secret::new("s3cret")), Duration::ZERO).unwrap();
        client.engine.pause(first.id).unwrap();
        let path = format!("/v2/webhook/{}", first.id);
        let edit = body(json!({
            "method": "PUT", "url": "https://new.example/", "name": "renamed",
            "webhookEvents": ["Message Received", "NEW_LEAD"], "wabaNumbers": ["918888888888", "x"],
        }));
        let answered = client.acme(method, &path, &edit);
        let valid = rows(&["918888888888"], &["Message Received", "NEW_LEAD"]);
        let expected =
            json!({"validWebhooks": valid, "invalidWebhooks": [], "invalidWabaNumbers": ["x"]});
        assert_eq!((answered.status, answered.body), (201, expected));
        let after = client.engine.subscription(first.id).unwrap();
        let target = &after.target;
        assert_eq!((after.name.as_str(), target.method()), ("renamed", &Method::PUT));
        assert_eq!(target.url().to_string(), "https://new.example/");
        assert!(
            target.headers().is_empty() && target.query().is_empty() && target.body().is_empty()
        );
        assert_eq!((target.authorization(), target.body_format()), (None, BodyFormat::Json));
        assert!(!after.policy.retry_on_timeout && after.secret.is_some());
        assert_eq!(after.state, SubscriptionState::Paused);
        assert_eq!(after.created_at_ms, first.created_at_ms);
        let events = vec!["MESSAGE_RECEIVED".to_owned(), "NEW_LEAD".to_owned()];
        assert_eq!(shown(&after), (events, vec!["918888888888".to_owned()]));

        // It may keep its own name but not use another's; a body without a valid pair changes nothing.
        assert_eq!(client.acme(method, &path, &edit).status, 201);
        let before = client.engine.subscription(first.id).unwrap();
        let taken = client.acme(method, &path, &body(json!({"name": "second"})));
        assert_refused(&taken, 400, "Bad Request", &["name: taken"]);
        let nothing = json!({"name": "nothing", "wabaNumbers": ["917777777777"]});
        assert_eq!(client.acme(method, &path, &body(nothing)).status, 201);
        let taken = json!({"name": "second", "wabaNumbers": ["917777777777"]});
        assert_eq!(client.acme(method, &path, &body(taken)).status, 400);
        for known in [&before, &second] {
            let after = client.engine.subscription(known.id).unwrap();
            assert!(Arc::ptr_eq(known, &after), "{after:?}");
        }
    }
}

#[test]
fn foreign_and_unknown_ids_get_the_same_response() {
    let client = doubletick();
    let own = client.registered(json!({}));
    let [beta, other_way] = [0, 1].map(|place| client.bystanders[place].id.to_string());
    let padded = format!("0{}", own.id);
    let signed = format!("+{}", own.id);
    let spellings = ["999", "4294967296", "-1", "crm", "", " 1", &padded, &signed];
    let ids = [&beta, &other_way].map(String::as_str).into_iter().chain(spellings);
    for id in ids {
        let refused = client.acme("DELETE", "/v2/webhook/deregister", &json!({"webhookId": id}));
        assert_refused(&refused, 404, "Not Found", &["webhookId: unknown webhook"]);
        if !id.is_empty() && !id.contains(' ') {
            let path = format!("/v2/webhook/{id}");
            let edited = client.acme("POST", &path, &body(json!({"name": "new"})));
            assert_eq!(edited.body, refused.body, "{id}");
        }
    }
    for (given, says) in [
        (json!({}), "webhookId: missing"),
        (json!({"webhookId": null}), "webhookId: missing"),
        (json!({"webhookId": [own.id.0]}), "webhookId: found an array"),
        (json!([]), "found an array"),
    ] {
        let refused = client.acme("DELETE", "/v2/webhook/deregister", &given);
        assert_refused(&refused, 400, "Bad Request", &[says]);
    }
    // A name of another gateway's webhook of the account is in use; another account's is free.
    let taken = client.register(&body(json!({"name": "own"})));
    assert_refused(&taken, 400, "Bad Request", &["name: taken"]);
    client.registered(json!({"name": "beta's"}));
    let after = client.engine.subscription(own.id).unwrap();
    assert!(Arc::ptr_eq(&own, &after));
}

#[test]
fn the_list_shows_the_accounts_webhooks_in_order() {
    let client = doubletick();
    assert_eq!(client.acme("GET", "/v2/webhooks", &json!(null)).body, json!([]));
    let numbers = json!(["+919999999999", "+918888888888"]);
    let b = client.registered(json!({
        "name": "b", "url": "https://a.example/hook", "wabaNumbers": numbers,
        "webhookEvents": ["Tag added", "NEW_LEAD"], "headers": {"x-key": "hidden"},
        "authorization": {"type": "BEARER", "payload": "hidden"},
    }));
    client.registered(json!({"name": "a", "url": "https://c.example/hook"}));
    client
        .registered(json!({"name": "C", "url": "https://b.example/hook", "wabaNumbers": numbers}));
    let listed = client.acme("GET", "/v2/webhooks", &json!(null));
    assert_eq!(listed.status, 201, "as documented");
    let item = json!({
        "webhookId": b.id.to_string(), "url": "https://a.example/hook",
        "eventTypes": ["ADD_TAG", "NEW_LEAD"], "wabaNumbers": ["918888888888", "919999999999"],
        "integrationCount": 4, "createdBy": "acme", "name": "b",
    });
    assert_eq!(listed.body[2], item);
    assert!(!listed.text.contains("hidden") && !listed.text.contains("own"), "{}", listed.text);
    let names = |query: &str| -> Vec<String> {
        let listed = client.acme("GET", &format!("/v2/webhooks{query}"), &json!(null));
        let items = listed.body.as_array().unwrap().iter();
        items.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    for (query, order) in [
        ("", ["C", "a", "b"]),
        ("?", ["C", "a", "b"]),
        ("?sortDirection=DESC", ["b", "a", "C"]),
        ("?sortBy=name&sortDirection=ASC", ["C", "a", "b"]),
        ("?sortBy=url", ["b", "C", "a"]),
        ("?sortBy=url&sortDirection=DESC", ["a", "C", "b"]),
        ("?sortBy=createdBy&sortDirection=DESC", ["b", "a", "C"]),
        ("?sortBy=integrationCount", ["a", "C", "b"]),
        ("?sortDirection=DESC&sortBy=integrationCount", ["b", "C", "a"]),
    ] {
        assert_eq!(names(query), order, "{query}");
    }
    for (query, says) in [
        ("?sortBy=hidden", "sortBy: expected one of name"),
        ("?sortBy=", "sortBy: "),
        ("?sortDirection=desc", "sortDirection: expected one of ASC, DESC"),
        ("?sortBy=name&sortBy=url", "sortBy: given twice"),
    ] {
        let refused = client.acme("GET", &format!("/v2/webhooks{query}"), &json!(null));
        assert_refused(&refused, 400, "Bad Request", &[says]);
    }
    let beta = client.call("GET", "/v2/webhooks", BETA, "");
    assert_eq!((beta.body[0]["name"].as_str(), beta.body[1].as_str()), (Some("beta's"), None));
    let everything = |b: &SubscriptionInfo| {
        let all = Subscription::to(b.target.url().to_string())?.account("acme").name("b");
        Ok::<_, Error>(all.profile(Profile::DoubleTick))
    };
    client.engine.revise(b.id, everything).unwrap();
    let widened = client.acme("GET", "/v2/webhooks?sortDirection=DESC", &json!(null)).body;
    assert_eq!(widened[0]["eventTypes"], json!(["*"]));
    assert_eq!(widened[0]["wabaNumbers"], json!(["*"]));
}

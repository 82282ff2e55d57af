//! The console in a real browser: every flow, with hostile names and payloads.

use serde_json::json;

use crate::browser::{Browser, ENTER};
use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostDirectory, HostProcess, OPERATOR};
use crate::receiver::Receiver;

/// A name that would run as markup, and as a script.
const HOSTILE: &str = "<img src=x onerror=window.owned=1>\"'</script><script>owned=1</script>";

struct ConsoleTest {
    browser: Browser,
    served: HostProcess,
    receiver: Receiver,
    _place: HostDirectory,
}

impl ConsoleTest {
    /// A host with a receiver that acknowledges, and a browser on the host's page.
    fn start(width: u32, height: u32) -> Option<ConsoleTest> {
        let browser = Browser::start(width, height)?;
        let (place, served) = HostProcess::fresh();
        browser.open(&format!("http://{}/", served.address));
        Some(ConsoleTest { browser, served, receiver: Receiver::answering(200), _place: place })
    }

    fn sign_in(&self, key: &str) {
        self.browser.until("!document.getElementById('signin-page').hidden");
        self.browser.fill("input[type=password]", &format!("{key}{ENTER}"));
        self.browser.until("!document.getElementById('console').hidden");
        self.browser.until_says("main h1", "Overview");
    }

    fn go(&self, view: &str, heading: &str) {
        self.browser.press("nav", view);
        self.browser.until_says("main h1", heading);
    }

    /// Nothing hostile ran, nothing was refused by the page's policy, and no script failed.
    fn check_clean(&self) {
        let owned = self.browser.until("'owned' in window ? 'owned' : 'clean'");
        assert_eq!(owned, "clean");
        assert_eq!(self.browser.complaints(), Vec::<String>::new());
    }

    fn publish(&self, payload: &str) {
        let event =
            json!({"type": "MESSAGE_RECEIVED", "number": "919000000001", "payload": payload});
        self.served.post("/events", ACME, event.to_string()).with_status(202);
    }
}

#[test]
fn signing_in_needs_the_right_key() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let browser = &stage.browser;
    browser.until("!document.getElementById('signin-page').hidden");
    browser.keys("input[type=password]", &format!("wrong{ENTER}"));
    browser.until_says("#signin-problem", "No account has this key.");
    browser.picture("console-sign-in");
    stage.sign_in(ACME);
    browser.until_says("#who", "acme");
    browser.press("header", "Sign out");
    browser.until("!document.getElementById('signin-page').hidden && !sessionStorage.length && !localStorage.length");
    assert_eq!(browser.text("#main"), "", "nothing of the account stays");
    stage.check_clean();
}

#[test]
fn the_key_is_forgotten_by_a_page_that_nobody_uses() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let browser = &stage.browser;
    stage.sign_in(ACME);
    browser.until("(import('/console/api.js').then((api) => api.key.idleAfter(1)), true)");
    browser.until("!document.getElementById('signin-page').hidden");
    browser.until_says("#signin-problem", "Signed out");
    assert_eq!(browser.text("#main"), "", "nothing of the account stays");
    // A reload has no key either.
    browser.until("(import('/console/api.js').then((api) => api.key.idleAfter(900_000)), true)");
    stage.sign_in(ACME);
    browser.until("(location.reload(), true)");
    browser.until("!document.getElementById('signin-page').hidden");
    stage.check_clean();
}

#[test]
fn a_webhook_needs_only_a_url_and_events() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let (browser, hook) = (&stage.browser, stage.receiver.url("/hook"));
    stage.sign_in(ACME);
    stage.go("Webhooks", "Webhooks");
    let made = |count: usize| {
        let all = stage.served.get("/subscriptions", ACME).json();
        let items = all["items"].as_array().unwrap().clone();
        assert_eq!(items.len(), count, "{items:?}");
        items
    };
    for count in 1..=2 {
        browser.press("main", "New webhook");
        browser.fill("dialog input[name=url]", &hook);
        browser.press("dialog", "Save");
        browser.until_says("dialog .problem", "Choose at least one event");
        browser.press("dialog", "Message Received (MESSAGE_RECEIVED)");
        browser.press("dialog", "Save");
        browser.until("!document.querySelector('dialog')");
        browser.until(&format!("document.querySelectorAll('main tbody tr').length === {count}"));
    }
    // The host of the URL is the name; the second one gets another.
    let host = hook.trim_start_matches("http://").trim_end_matches("/hook");
    let names: Vec<_> =
        made(2).iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, [host.to_owned(), format!("{host} 2")]);
    stage.check_clean();
}

#[test]
fn a_webhook_is_managed_from_creation_to_deletion() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let (browser, hook) = (&stage.browser, stage.receiver.url("/hook"));
    let bystander = stage.served.subscribe(BETA, &stage.receiver.url("/other"), json!({}));
    stage.sign_in(ACME);
    stage.go("Webhooks", "Webhooks");
    browser.press("main", "New webhook");
    browser.fill("dialog input[name=name]", HOSTILE);
    browser.fill("dialog input[name=url]", "ftp://nowhere");
    browser.press("dialog", "Message Received (MESSAGE_RECEIVED)");
    browser.press("dialog", "More");
    browser.fill("dialog textarea[name=headers]", "X-Tenant: acme");
    browser.press("dialog", "Save");
    browser.until_says("dialog .problem", "https");
    browser.picture("console-new-webhook");
    browser.fill("dialog input[name=url]", &hook);
    browser.press("dialog", "Save");
    browser.until_says("main tbody", HOSTILE);
    let answer = stage.served.get("/subscriptions", ACME).json();
    let made = &answer["items"][0];
    assert_members(
        made,
        json!({"name": HOSTILE, "events": ["MESSAGE_RECEIVED"], "numbers": "*", "signed": false}),
    );
    let state = |id: u64, key: &str| stage.served.get(&format!("/subscriptions/{id}"), key).json();
    let id = made["id"].as_u64().unwrap();

    browser.press("tbody", HOSTILE);
    browser.press("article", "Pause");
    browser.until_says("article", "paused");
    assert_eq!(state(id, ACME)["state"], "paused");
    browser.press("article", "Resume");
    browser.until_says("article", "healthy");

    browser.press("article", "Send a test");
    browser.until_says("#status", "delivered, status 200");
    assert_eq!(stage.receiver.next().header("x-webhook-event"), Some("TEST"));

    assert_eq!(state(id, ACME)["header_names"], json!(["X-Tenant"]));
    browser.press("article", "Edit");
    browser.fill("dialog input[name=name]", "crm");
    browser.press("dialog", "All events");
    browser.press("dialog", "More");
    browser.press("dialog select[name=headers-change]", "remove them");
    browser.press("dialog", "Save");
    browser.until_says("article h1", "crm");
    let changed = state(id, ACME);
    assert_members(&changed, json!({"name": "crm", "events": "*"}));
    assert_eq!(changed["header_names"], json!([]), "headers can be emptied");

    browser.press("main", "Sign with a secret");
    browser.press("dialog", "Create secret");
    let secret = browser.until("document.querySelector('dialog .secret')?.textContent");
    assert!(secret.as_str().unwrap().starts_with("whsec_"), "{secret}");
    browser.press("dialog", "Close");
    browser.until("!document.querySelector('dialog')");
    assert!(!browser.text("body").contains("whsec_"), "a secret is shown once");
    assert_eq!(state(id, ACME)["signed"], true);

    stage.publish("{}");
    assert!(stage.receiver.next().header("webhook-signature").is_some());
    browser.press("main", "Settings");
    browser.until_says("details", "retry on timeout");
    browser.press("article", "Delete");
    browser.press("dialog", "Cancel");
    browser.until("!document.querySelector('dialog')");
    assert_eq!(state(id, ACME)["name"], "crm", "nothing is deleted unless it is confirmed");
    browser.press("article", "Delete");
    browser.press("dialog", "Delete");
    browser.until_says("main", "No webhook yet");
    browser.until_says("#status", "Deleted crm.");
    stage.served.get(&format!("/subscriptions/{id}"), ACME).with_status(404);
    assert_eq!(state(bystander, BETA)["state"], "active", "another account's is untouched");
    stage.check_clean();
}

#[test]
fn dead_letters_are_viewed_replayed_and_discarded() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let browser = &stage.browser;
    stage.receiver.answer(404);
    stage.served.subscribe(ACME, &stage.receiver.url("/hook"), json!({"name": HOSTILE}));
    for _ in 0..4 {
        stage.publish(HOSTILE);
        stage.receiver.next();
    }
    stage.served.until_listed(ACME, 4);
    stage.sign_in(ACME);
    stage.go("Dead letters", "Dead letters");
    browser.until("document.querySelectorAll('main tbody tr').length === 4");
    browser.picture("console-dead-letters");
    browser.press("main tbody", "View");
    browser.until_says("dialog", "status:404");
    browser.until_says("dialog", "onerror");
    browser.picture("console-dead-letter");
    // Back leaves no dialog over another view.
    browser.until("(history.back(), true)");
    browser.until_says("main h1", "Overview");
    browser.until("!document.querySelector('dialog') && document.activeElement.id === 'main'");
    stage.go("Dead letters", "Dead letters");
    browser.until("document.querySelectorAll('main tbody tr').length === 4");
    browser.press("main tbody", "View");
    browser.until_says("dialog", "status:404");
    stage.receiver.answer(200);
    browser.press("dialog", "Replay");
    browser.until_says("#status", "Replayed: 1.");
    assert_eq!(stage.receiver.next().header("x-webhook-attempt"), Some("1"));
    browser.until("document.querySelectorAll('main tbody tr').length === 3");
    // Live: a dead letter of somebody else's making appears by itself.
    stage.receiver.answer(404);
    stage.publish("\"live\"");
    stage.receiver.next();
    browser.until("document.querySelectorAll('main tbody tr').length === 4");
    browser.keys("main input[type=checkbox]", " ");
    browser.press("main", "Discard selected");
    browser.until_says("#status", "Discarded: 1.");
    stage.served.until_listed(ACME, 3);
    // A filter is in the address, and limits what is replayed; the count comes first.
    browser.fill("main input[name=reason]", &format!("timeout{ENTER}"));
    browser.until_says("main", "No dead letters");
    assert!(browser.until("location.hash").as_str().unwrap().contains("reason=timeout"));
    browser.until("(history.back(), true)");
    browser.until("document.querySelectorAll('main tbody tr').length === 3");
    stage.receiver.answer(200);
    browser.press("main", "Replay all");
    browser.until_says("dialog", "3 dead letters");
    browser.press("dialog", "Replay all");
    browser.until_says("#status", "Replayed: 3.");
    browser.until_says("main", "No dead letters");
    (0..3).for_each(|_| drop(stage.receiver.next()));
    stage.check_clean();
}

#[test]
fn a_message_is_found_by_its_id() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let browser = &stage.browser;
    let refusing = Receiver::answering(404);
    stage.served.subscribe(ACME, &stage.receiver.url("/crm"), json!({"name": "crm"}));
    stage.served.subscribe(ACME, &refusing.url("/erp"), json!({"name": "erp"}));
    let event = json!({
        "type": "MESSAGE_RECEIVED", "number": "919000000001", "key": "919812300001",
        "payload": {"id": "wamid.CONSOLE01", "text": HOSTILE},
    });
    stage.served.post("/events", ACME, event.to_string()).with_status(202);
    stage.receiver.next();
    refusing.next();
    stage.served.until(|stats| stats["dead"] == 1 && stats["delivered"] == 1);
    stage.sign_in(ACME);
    browser.keys("#search-text", &format!("wamid.CONSOLE01{ENTER}"));
    browser.until_says("main tbody", "MESSAGE_RECEIVED");
    browser.until_says("main tbody", "dead");
    browser.picture("console-find");
    let accepted = browser.until("document.querySelector('tbody a').textContent.trim()");
    browser.press("main tbody", accepted.as_str().unwrap());
    browser.until_says("main h1", "MESSAGE_RECEIVED");
    browser.until_says("main", "status:404");
    browser.until_says("main", "status 200");
    assert!(!browser.text("main").contains("onerror"), "the payload is behind a click");
    let payload = browser.until("document.querySelector('summary').textContent");
    browser.press("main", payload.as_str().unwrap());
    browser.until_says("main details", "onerror");
    browser.picture("console-event");
    browser.fill("#search-text", &format!("+91 98123 00001{ENTER}"));
    browser.until_says("main tbody", "MESSAGE_RECEIVED");
    browser.fill("#search-text", &format!("wamid.UNKNOWN{ENTER}"));
    browser.until_says("main", "No event matches");
    stage.check_clean();
}

/// The serious findings of axe-core in the present view; `None` where it is not installed.
fn serious_findings(browser: &Browser) -> Option<Vec<String>> {
    let path = std::env::var("WABAHOOK_AXE").unwrap_or_else(|_| AXE.to_owned());
    let script = std::fs::read_to_string(path).ok()?;
    browser.run(&script);
    let found = browser.run_async(
        "axe.run(document, {resultTypes: ['violations']}).then((found) => done(found.violations
            .filter((one) => ['serious', 'critical'].includes(one.impact))
            .map((one) => `${one.id}: ${one.nodes.map((node) => node.html).slice(0, 3).join(' ')}`)))",
    );
    Some(found.as_array().unwrap().iter().map(|one| one.to_string()).collect())
}

/// Where `tests/install-browser` puts it.
const AXE: &str = "/usr/local/share/wabahook-axe/node_modules/axe-core/axe.min.js";

/// Every view with something in it, at one width: it fits, and has no serious finding of axe-core.
fn check_views(width: u32, height: u32, suffix: &str) {
    let Some(stage) = ConsoleTest::start(width, height) else { return };
    let (browser, refusing) = (&stage.browser, Receiver::answering(503));
    let crm = stage.served.subscribe(ACME, &stage.receiver.url("/crm"), json!({"name": "crm"}));
    let waits = json!({"name": "warehouse", "retry": {"kind": "linear", "step_ms": 600_000, "max_ms": 600_000}});
    stage.served.subscribe(ACME, &refusing.url("/warehouse"), waits);
    let dead = Receiver::answering(404);
    stage.served.subscribe(ACME, &dead.url("/old"), json!({"name": "old shop"}));
    stage.sign_in(ACME);
    for number in 0..20 {
        stage.publish(&format!("{{\"text\":\"{number}\"}}"));
    }
    (0..20).for_each(|_| drop((stage.receiver.next(), dead.next())));
    browser.until("[...document.querySelectorAll('.chart path.accepted')].some((one) => (one.getAttribute('d').match(/L/g) ?? []).length > 2)");
    browser.until_says("main", "warehouse");
    let mut checked = 0;
    let mut check = |name: &str| {
        for (scheme, more) in [("light", ""), ("dark", "-dark")] {
            browser.prefer(scheme);
            browser.picture(&format!("console-{name}-{suffix}{more}"));
            let fits =
                "document.documentElement.scrollWidth <= window.innerWidth ? 'fits' : 'overflows'";
            assert_eq!(browser.until(fits), "fits", "{name}");
            match serious_findings(browser) {
                Some(found) => assert_eq!(found, Vec::<String>::new(), "{name} {scheme}"),
                None => println!("skipped: no axe-core; tests/install-browser installs it"),
            }
        }
        browser.prefer("light");
        checked += 1;
    };
    check("overview");
    stage.go("Webhooks", "Webhooks");
    browser.until_says("main", "warehouse");
    check("webhooks");
    browser.press("main", "New webhook");
    check("form");
    browser.press("dialog", "Cancel");
    browser.until("!document.querySelector('dialog')");
    browser.until(&format!("(location.hash = '#/webhooks/{crm}', true)"));
    browser.until_says("main", "Newest attempts");
    check("webhook");
    stage.go("Deliveries", "Deliveries");
    browser.until_says("main tbody", "retrying");
    check("deliveries");
    stage.go("Dead letters", "Dead letters");
    browser.until_says("main tbody", "status:404");
    check("dead-letters");
    browser.press("main tbody", "View");
    browser.until_says("dialog", "Payload");
    check("dead-letter");
    browser.press("dialog", "Close");
    browser.until("!document.querySelector('dialog')");
    browser.until("(location.hash = '#/find', true)");
    browser.until_says("main tbody", "MESSAGE_RECEIVED");
    check("find");
    browser.until("(location.hash = document.querySelector('tbody a').getAttribute('href'), true)");
    browser.until_says("main", "Payload");
    check("event");
    assert_eq!(checked, 9);
    stage.check_clean();
}

#[test]
fn every_view_fits_a_desktop() {
    check_views(1280, 900, "desktop");
}

#[test]
fn every_view_fits_a_phone() {
    check_views(390, 844, "phone");
}

#[test]
fn a_webhook_says_why_it_gets_no_deliveries() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let (browser, refusing) = (&stage.browser, Receiver::answering_with(503, "<b>no such id"));
    let breaker = json!({"failures": 1, "initial_ms": 600_000, "max_ms": 600_000});
    let id = stage.served.subscribe(
        ACME,
        &refusing.url("/hook"),
        json!({"name": "warehouse", "breaker": breaker}),
    );
    stage.served.subscribe(ACME, &stage.receiver.url("/crm"), json!({"name": "crm"}));
    stage.publish("{}");
    refusing.next();
    stage.served.until(|stats| stats["retried"] == 1);
    stage.sign_in(ACME);
    browser.until_says("main tbody", "circuit breaker open for");
    browser.press("main", "failing webhooks");
    browser.until_says("main h1", "Webhooks");
    browser.until("document.querySelectorAll('main tbody tr').length === 1");
    browser.run("performance.clearResourceTimings()");
    browser.press("main tbody", "warehouse");
    browser.until_says(".obstacle", "status:503");
    browser.until_says(".obstacle", "the circuit breaker is open: the next attempt is in");
    let requests =
        "performance.getEntriesByType('resource').map((one) => new URL(one.name).pathname)";
    assert_eq!(
        browser.until(requests),
        json!([format!("/subscriptions/{id}")]),
        "one request a page"
    );
    browser.press("article", "Pause");
    browser.until_says(".obstacle", "Paused. Events are kept for it: 1 owed.");
    browser.press("article", "Send a test");
    browser.until_says("#status", "status 503, in");
    browser.until_says("#status", "Its response: <b>no such id");
    refusing.answer(200);
    browser.press("article", "Resume");
    browser.press("article", "Send a test");
    browser.until_says("#status", "delivered, status 200");
    browser.until("!document.querySelector('.obstacle')");
    browser.until_says("article", "healthy");
    stage.check_clean();
}

#[test]
fn dead_letters_are_filtered_by_webhook_and_time() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let browser = &stage.browser;
    stage.receiver.answer(404);
    stage.served.subscribe(ACME, &stage.receiver.url("/crm"), json!({"name": "crm"}));
    stage.served.subscribe(ACME, &stage.receiver.url("/erp"), json!({"name": "erp"}));
    (0..2).for_each(|_| stage.publish("{}"));
    stage.served.until(|stats| stats["dead"] == 4);
    stage.sign_in(ACME);
    stage.go("Dead letters", "Dead letters");
    browser.fill("main input[name=subscription]", &format!("nobody{ENTER}"));
    browser.until_says("main", "no subscription has this id or name");
    browser.until("(history.back(), true)");
    browser.fill("main input[name=subscription]", &format!("crm{ENTER}"));
    browser.until("document.querySelectorAll('main tbody tr').length === 2");
    browser.press("main select[name=died]", "died yesterday");
    browser.until_says("main", "No dead letters");
    browser.until("document.querySelector('main input[name=since]').value.endsWith('T00:00')");
    browser.press("main select[name=died]", "died in the last hour");
    browser.until("document.querySelectorAll('main tbody tr').length === 2");
    browser.press("main", "Discard all");
    browser.until_says("dialog", "2 dead letters");
    browser.press("dialog", "Discard all");
    browser.until_says("#status", "Discarded: 2.");
    let left = stage.served.items("/dead-letters", ACME);
    let names: Vec<_> = left.iter().map(|one| &one["subscription_name"]).collect();
    assert_eq!(names, ["erp", "erp"], "those of another webhook stay");
    stage.check_clean();
}

#[test]
fn the_operator_sees_all_accounts_or_one() {
    let Some(browser) = Browser::start(1280, 900) else { return };
    let (_place, served) = HostProcess::operated();
    let dead = Receiver::answering(404);
    served.subscribe(ACME, &dead.url("/acme"), json!({"name": "shop"}));
    served.subscribe(BETA, &dead.url("/beta"), json!({"name": "shop"}));
    let event = json!({"type": "MESSAGE_RECEIVED", "number": "919000000001", "payload": "{}"});
    served.post("/events", ACME, event.to_string()).with_status(202);
    dead.next();
    browser.open(&format!("http://{}/", served.address));
    browser.until("!document.getElementById('signin-page').hidden");
    browser.fill("input[type=password]", &format!("{OPERATOR}{ENTER}"));
    browser.until_says("main table", "acme");
    browser.press("nav", "Webhooks");
    browser.until_says("main h1", "Webhooks");
    browser.until("document.querySelectorAll('main tbody tr').length === 2");
    browser.until_says("main tbody", "beta");
    browser.until_says("main", "choose its account at the top");
    browser.press("header select", "beta");
    browser.until("document.querySelectorAll('main tbody tr').length === 1");
    let listed = served.get("/admin/accounts?name=beta", OPERATOR).json();
    let path = format!("/admin/accounts/{}", listed["items"][0]["id"].as_str().unwrap());
    served.patch(&path, OPERATOR, &json!({"state": "suspended"})).with_status(200);
    browser.press("main tbody", "shop");
    browser.until_says(".obstacle", "Its account beta is suspended");
    browser.until_says(".head", "account suspended");
    browser.picture("console-suspended");
    browser.press("nav", "Dead letters");
    browser.until_says("main", "No dead letters");
    browser.press("nav", "Unowned");
    browser.until_says("main", "None since the host started");
    if let Some(found) = serious_findings(&browser) {
        assert_eq!(found, Vec::<String>::new());
    }
    browser.picture("console-unowned");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_cannot_be_framed_and_runs_only_its_scripts() {
    let (_place, served) = HostProcess::fresh();
    let page = served.request("GET", "/", &[], b"");
    assert_eq!((page.status, page.header("x-frame-options")), (200, Some("DENY")));
    let policy = page.header("content-security-policy").unwrap();
    for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    // There is no cookie, so a request that another site makes a browser send has no key.
    assert!(page.header("set-cookie").is_none());
    let forged = [("cookie", "key=acme-key"), ("origin", "https://evil.example")];
    served.request("POST", "/dead-letters/replay", &forged, b"{}").with_status(401);
}

#[test]
fn the_form_takes_a_condition_and_tells_of_types() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let (browser, hook) = (&stage.browser, stage.receiver.url("/hook"));
    stage.sign_in(ACME);
    stage.go("Webhooks", "Webhooks");
    browser.press("main", "New webhook");
    browser.fill("dialog input[name=name]", "tags");
    browser.fill("dialog input[name=url]", &hook);
    browser.press("dialog", "Tag added (ADD_TAG), only if published");
    browser.press("dialog", "More");
    browser.fill("dialog textarea[name=condition]", r#"{"pointer": "/tag"}"#);
    browser.press("dialog", "Save");
    browser.until_says("dialog .problem", "a test next to");
    browser.fill("dialog textarea[name=condition]", r#"{"pointer": "/tag", "eq": "VIP"}"#);
    browser.press("dialog", "Save");
    browser.until_says("dialog .hints", "ADD_TAG: no callback of Meta becomes this type");
    browser.press("dialog", "Close");
    browser.until("!document.querySelector('dialog')");
    let made = stage.served.items("/subscriptions", ACME)[0].clone();
    assert_eq!(made["condition"], json!({"pointer": "/tag", "eq": "VIP"}));
    stage.check_clean();
}

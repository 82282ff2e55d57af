//! The console in a real browser: every flow, with hostile names and payloads.

use serde_json::json;

use crate::browser::{Browser, ENTER};
use crate::host_process::{ACME, BETA, HostDirectory, HostProcess};
use crate::meta_callbacks::post_unowned;
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
        self.browser.until("!document.getElementById('signin').hidden");
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
        assert_eq!(self.served.post("/events", ACME, event.to_string()).status, 202);
    }
}

#[test]
fn signing_in_needs_the_right_key() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let browser = &stage.browser;
    browser.until("!document.getElementById('signin').hidden");
    browser.keys("input[type=password]", &format!("wrong{ENTER}"));
    browser.until_says("#signin-problem", "No account has this key.");
    browser.picture("console-sign-in");
    stage.sign_in(ACME);
    browser.until_says("#who", "acme");
    browser.press("header", "Sign out");
    browser.until("!document.getElementById('signin').hidden && !sessionStorage.length");
    assert_eq!(browser.text("main"), "", "nothing of the account stays");
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
    browser.press("dialog", "Save");
    browser.until_says("dialog .problem", "https");
    browser.picture("console-new-webhook");
    browser.fill("dialog input[name=url]", &hook);
    browser.press("dialog", "Save");
    browser.until_says("main", HOSTILE);
    let answer = stage.served.get("/subscriptions", ACME).json();
    let made = &answer["items"][0];
    assert_eq!((&made["name"], &made["events"]), (&json!(HOSTILE), &json!(["MESSAGE_RECEIVED"])));
    assert_eq!((&made["numbers"], &made["signed"]), (&json!("*"), &json!(false)));
    let state = |id: u64, key: &str| stage.served.get(&format!("/subscriptions/{id}"), key).json();
    let id = made["id"].as_u64().unwrap();

    browser.press("article", "Pause");
    browser.until_says("article", "paused");
    assert_eq!(state(id, ACME)["state"], "paused");
    browser.press("article", "Resume");
    browser.until_says("article", "healthy");

    browser.press("article", "Send a test");
    browser.until_says("#status", "delivered, status 200");
    assert_eq!(stage.receiver.next().header("x-webhook-event"), Some("TEST"));

    browser.press("article", "Edit");
    browser.fill("dialog input[name=name]", "crm");
    browser.press("dialog", "All events");
    browser.press("dialog", "Save");
    browser.until_says("article h3", "crm");
    let changed = state(id, ACME);
    assert_eq!((&changed["name"], &changed["events"]), (&json!("crm"), &json!("*")));

    browser.press("article", "crm");
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
    browser.press("article", "Delete");
    browser.press("dialog", "Cancel");
    browser.until("!document.querySelector('dialog')");
    assert_eq!(state(id, ACME)["name"], "crm", "nothing is deleted unless it is confirmed");
    browser.press("article", "Delete");
    browser.press("dialog", "Delete");
    browser.until_says("main", "No webhook yet");
    assert_eq!(stage.served.get(&format!("/subscriptions/{id}"), ACME).status, 404);
    assert_eq!(state(bystander, BETA)["state"], "active", "another account's is untouched");
    stage.check_clean();
}

#[test]
fn dead_letters_are_viewed_and_replayed_one_or_all() {
    let Some(stage) = ConsoleTest::start(1280, 900) else { return };
    let browser = &stage.browser;
    stage.receiver.answer(404);
    stage.served.subscribe(ACME, &stage.receiver.url("/hook"), json!({"name": HOSTILE}));
    for _ in 0..3 {
        stage.publish(HOSTILE);
        stage.receiver.next();
    }
    stage.sign_in(ACME);
    stage.go("Dead letters", "Dead letters");
    browser.until(
        "document.querySelectorAll('main tbody tr').length === 3 || (location.reload(), false)",
    );
    browser.picture("console-dead-letters");
    browser.press("main tbody", "View");
    browser.until_says("dialog", "status:404");
    browser.until_says("dialog", "onerror");
    browser.picture("console-dead-letter");
    stage.receiver.answer(200);
    browser.press("dialog", "Replay");
    browser.until_says("#status", "Replayed: 1.");
    assert_eq!(stage.receiver.next().header("x-webhook-attempt"), Some("1"));
    browser.until("document.querySelectorAll('main tbody tr').length === 2");
    browser.press("main", "Replay all");
    browser.press("dialog", "Replay all");
    browser.until_says("#status", "Replayed: 2.");
    browser.until_says("main", "No dead letters");
    assert!(
        [stage.receiver.next(), stage.receiver.next()]
            .iter()
            .all(|one| one.text().contains("onerror"))
    );
    stage.check_clean();
}

/// Every view with something in it, at one width.
fn check_views(width: u32, height: u32, suffix: &str) {
    let Some(stage) = ConsoleTest::start(width, height) else { return };
    let (browser, refusing) = (&stage.browser, Receiver::answering(503));
    stage.served.subscribe(ACME, &stage.receiver.url("/crm"), json!({"name": "crm"}));
    let waits = json!({"name": "warehouse", "retry": {"kind": "linear", "step_ms": 600_000, "max_ms": 600_000}});
    stage.served.subscribe(ACME, &refusing.url("/warehouse"), waits);
    stage.sign_in(ACME);
    for number in 0..20 {
        stage.publish(&format!("{{\"text\":\"{number}\"}}"));
    }
    (0..20).for_each(|_| drop((stage.receiver.next(), refusing.arrived())));
    browser.until("[...document.querySelectorAll('.chart path.accepted')].some((one) => (one.getAttribute('d').match(/L/g) ?? []).length > 2)");
    browser.until_says("main", "20");
    assert_eq!(post_unowned(&stage.served).status, 200);
    browser.until_says("main tbody", "********6666");
    browser.picture(&format!("console-overview-{suffix}"));
    stage.go("Webhooks", "Webhooks");
    browser.until_says("main", "warehouse");
    browser.until("![...document.querySelectorAll('dd')].some((one) => one.textContent === '...')");
    browser.picture(&format!("console-webhooks-{suffix}"));
    stage.go("Deliveries", "Deliveries");
    browser.until_says("main tbody", "retrying");
    browser.picture(&format!("console-deliveries-{suffix}"));
    let overflows =
        "document.documentElement.scrollWidth <= window.innerWidth ? 'fits' : 'overflows'";
    assert_eq!(browser.until(overflows), "fits");
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
    assert_eq!(served.request("POST", "/dead-letters/replay", &forged, b"{}").status, 401);
}

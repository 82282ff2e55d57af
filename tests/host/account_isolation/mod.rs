//! Three names of accounts and an operator, with operations drawn at random: accounts are created, renamed, suspended,
//! moved, removed and created again under their names, and in between they register, publish and read every route.
//! Every operation of the OpenAPI document takes part, by an account about its own things and about another's.
//! Every account has a marker of its own in everything that belongs to it, so anything that crosses is seen.

mod routes;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::routes::Operation;
use crate::accounts::create;
use crate::client::{Answer, Pending};
use crate::host_process::{HostDirectory, HostProcess, OPERATOR};
use crate::meta_callbacks::post_signed;
use crate::receiver::Receiver;
use crate::support::wait_until;

/// One account, from its creation to its end.
struct Incarnation {
    id: String,
    key: String,
    name: String,
    number: String,
    /// The markers that it may see: its own, and those of accounts that were moved to it.
    markers: BTreeSet<String>,
    is_removed: bool,
    is_suspended: bool,
    notices: Option<Pending>,
}

struct Run {
    directory: HostDirectory,
    served: HostProcess,
    receiver: Receiver,
    accounts: Vec<Incarnation>,
    seed: u64,
    published: usize,
    /// The operations that were answered with success, to an account and to the operator.
    exercised: BTreeSet<(Operation, bool)>,
}

/// The routes that list what belongs to an account.
const ROUTES: [&str; 16] = [
    "/account",
    "/subscriptions?limit=1000",
    "/deliveries?limit=1000",
    "/dead-letters?limit=1000",
    "/events?limit=100",
    "/stats",
    "/metrics",
    "/v2/webhooks",
    "/v1/configs/webhook",
    "/waba_webhook",
    "/multi_webhook",
    "/webhooks",
    "/subscriptions/1",
    "/subscriptions/2",
    "/subscriptions/1/attempts",
    "/subscriptions/3/attempts",
];

impl Run {
    fn draw(&mut self, below: usize) -> usize {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.seed >> 33).unwrap() % below
    }

    /// The account that has a name now.
    fn current(&mut self, slot: usize) -> Option<usize> {
        let number = number_of(slot);
        self.accounts.iter().position(|one| !one.is_removed && one.number == number)
    }

    fn create(&mut self, slot: usize) -> usize {
        let n = self.accounts.len();
        let (name, number) = (format!("name-{slot}"), number_of(slot));
        let (id, key) = create(&self.served, &name, &number);
        // What the number-level routes of 360dialog are about.
        self.served
            .patch(&format!("/admin/accounts/{id}"), OPERATOR, &json!({"number": number}))
            .with_status(200);
        let headers = [("authorization", key.as_str())];
        let mut notices = Pending::open(self.served.address, "GET", "/notices", &headers, 0);
        notices.until_it_says("\r\n\r\n");
        self.accounts.push(Incarnation {
            id,
            key,
            name,
            number,
            markers: BTreeSet::from([format!("marker{n:03}x")]),
            is_removed: false,
            is_suspended: false,
            notices: Some(notices),
        });
        let path = self.receiver.url(&format!("/marker{n:03}x/first"));
        self.served.subscribe(
            &self.accounts[n].key,
            &path,
            json!({"name": format!("marker{n:03}x")}),
        );
        n
    }

    fn operate(&mut self) {
        let (slot, operation) = (self.draw(3), self.draw(12));
        let Some(n) = self.current(slot) else {
            self.create(slot);
            return;
        };
        let path = format!("/admin/accounts/{}", self.accounts[n].id);
        match operation {
            0..=4 => self.publish(n),
            5 => {
                let body = callback(&self.accounts[n].number, &own_marker(n), self.published);
                self.published += 1;
                post_signed(&self.served, &body).with_status(200);
            }
            6 => {
                let name = format!("{} renamed {}", self.accounts[n].name, self.published);
                self.served.patch(&path, OPERATOR, &json!({"name": name})).with_status(200);
            }
            7 => {
                let is_suspended = !self.accounts[n].is_suspended;
                let state = if is_suspended { "suspended" } else { "active" };
                self.served.patch(&path, OPERATOR, &json!({"state": state})).with_status(200);
                self.accounts[n].is_suspended = is_suspended;
            }
            8 => {
                let replay = json!({"reason": "status:404"}).to_string();
                self.served.post("/dead-letters/replay", &self.accounts[n].key, replay);
            }
            9 if !self.accounts[n].is_suspended => {
                let body = json!({"url": self.receiver.url(&format!("/{}/session", own_marker(n))),
                    "events": ["message.received"]});
                self.served.post("/webhooks", &self.accounts[n].key, body.to_string());
            }
            10 => self.end(n, slot),
            _ => {
                let purge = json!({"contact": "nobody"}).to_string();
                self.served.post("/purge", &self.accounts[n].key, purge);
            }
        }
    }

    /// Removes an account and creates another one of its number; sometimes moves it there.
    fn end(&mut self, n: usize, slot: usize) {
        let path = format!("/admin/accounts/{}", self.accounts[n].id);
        self.served.delete(&path, OPERATOR).with_status(200);
        self.accounts[n].is_removed = true;
        let named = self.accounts[n].name.clone();
        let free = self.served.get(&format!("/admin/accounts?name={named}"), OPERATOR);
        assert_eq!(free.status, 200);
        let next = self.create(slot);
        if self.draw(2) == 0 {
            let to = json!({"to": self.accounts[next].id}).to_string();
            self.served.post(&format!("{path}/move"), OPERATOR, to).with_status(200);
            let markers = self.accounts[n].markers.clone();
            self.accounts[next].markers.extend(markers);
        }
    }

    fn publish(&mut self, n: usize) {
        let one = &self.accounts[n];
        self.published += 1;
        let event = json!({"type": "MESSAGE_RECEIVED", "number": one.number, "key": "contact",
            "dedup_key": format!("d{}", self.published / 4), "payload": {"of": own_marker(n)}});
        let answer = self.served.post("/events", &one.key, event.to_string());
        assert!(answer.status == 202 || one.is_suspended, "{answer:?}");
    }

    /// Whether an answer shows nothing of another account.
    fn check(&self, what: &str, n: usize, answer: &Answer) {
        let one = &self.accounts[n];
        for marker in markers_in(&answer.body) {
            assert!(
                one.markers.contains(&marker),
                "{what} shows {marker} to account {n}: {answer:?}"
            );
        }
        for other in self.accounts.iter().filter(|other| other.id != one.id) {
            assert!(!answer.body.contains(&other.id), "{what} shows account {}", other.id);
        }
    }

    /// Wrong keys are slowed down, so removed accounts are tried at the end only.
    fn read_everything(&mut self, is_end: bool) {
        for n in 0..self.accounts.len() {
            let one = &self.accounts[n];
            if one.is_removed && !is_end || one.is_suspended && !self.published.is_multiple_of(4) {
                continue;
            }
            let route = ROUTES[(n * 7 + self.published) % ROUTES.len()];
            let paths = [route, "/subscriptions?limit=1000", "/dead-letters?limit=1000"];
            let count = if one.is_removed { 1 } else { paths.len() };
            for path in paths.into_iter().take(count) {
                let key = one.key.as_str();
                let headers =
                    ["authorization", "whizard-key", "d360-api-key"].map(|name| (name, key));
                let answer = self.served.request("GET", path, &headers, b"");
                let is_refused = answer.status == 401 || answer.status == 403;
                assert_eq!(is_refused, one.is_removed || one.is_suspended, "{path} {answer:?}");
                self.check(path, n, &answer);
            }
            if let Some(other) = self.accounts.iter().find(|other| other.id != one.id)
                && !one.is_removed
            {
                let named = self.served.get(&format!("/stats?account={}", other.id), &one.key);
                assert!(named.status == 403 || named.status == 401, "{named:?}");
            }
        }
    }

    /// Every delivery has the payload of an account that its webhook may see.
    fn check_deliveries(&self) {
        for attempt in self.receiver.arrived() {
            let target = markers_in(&attempt.path).into_iter().next().unwrap();
            for marker in markers_in(attempt.text()) {
                let is_own = self
                    .accounts
                    .iter()
                    .any(|one| one.markers.contains(&marker) && one.markers.contains(&target));
                assert!(is_own, "{marker} was delivered to {target}");
            }
        }
    }

    /// The notices that each account got are about its own webhooks.
    fn check_notices(mut self) {
        let all = self.served.items("/subscriptions?limit=1000", OPERATOR);
        let marker_of = |id: u64| {
            let found = all.iter().find(|one| one["id"] == id)?;
            markers_in(&found["url"].to_string()).into_iter().next()
        };
        let mut accounts = std::mem::take(&mut self.accounts);
        let pending: Vec<_> = accounts.iter_mut().map(|one| one.notices.take().unwrap()).collect();
        assert!(self.served.signal("TERM").success());
        for (one, notices) in accounts.iter().zip(pending) {
            for line in notices.rest().lines().filter(|line| line.starts_with('{')) {
                let notice: Value = serde_json::from_str(line).unwrap();
                let Some(marker) = notice["subscription"].as_u64().and_then(marker_of) else {
                    continue;
                };
                assert!(one.markers.contains(&marker), "{line} was told to {}", one.id);
            }
        }
    }
}

fn own_marker(n: usize) -> String {
    format!("marker{n:03}x")
}

fn number_of(slot: usize) -> String {
    format!("9197700000{slot:02}")
}

/// The markers in a text.
fn markers_in(text: &str) -> BTreeSet<String> {
    let found = text.match_indices("marker").filter_map(|(at, _)| text.get(at..at + 10));
    found.filter(|one| one.ends_with('x')).map(str::to_owned).collect()
}

/// A callback of Meta with one message.
fn callback(number: &str, marker: &str, n: usize) -> String {
    json!({"object": "whatsapp_business_account", "entry": [{"id": format!("waba-{number}"), "changes": [{
        "field": "messages", "value": {"messaging_product": "whatsapp",
            "metadata": {"display_phone_number": number, "phone_number_id": "1"},
            "messages": [{"from": "919812345678", "id": format!("wamid.{marker}.{n}"),
                "timestamp": "1700000000", "type": "text", "text": {"body": marker}}]}}]}]})
    .to_string()
}

/// Every operation of the document, by an account about its own things and another's, and by the operator.
fn sweep(run: &mut Run, all: &[Operation], n: usize, other: usize) {
    run.receiver.answer(404);
    // A new webhook has no circuit breaker that is open.
    let (key, number) = (run.accounts[n].key.clone(), run.accounts[n].number.clone());
    let url = run.receiver.url(&format!("/{}/sweep", own_marker(n)));
    run.served.subscribe(&key, &url, json!({}));
    let event = json!({"type": "MESSAGE_RECEIVED", "number": number, "key": "contact",
        "payload": {"of": own_marker(n)}});
    run.served.post("/events", &key, event.to_string()).with_status(202);
    let path = format!("/dead-letters?account={}", run.accounts[n].id);
    assert!(wait_until(|| !run.served.items(&path, OPERATOR).is_empty()), "a dead letter");
    for operation in all.iter().filter(|one| one.path != "/notices") {
        run.call(operation, n, other);
        run.call(operation, n, n);
        let ends_it = ["/admin/accounts/{id}/forget", "/admin/accounts/{id}/move"];
        if !ends_it.contains(&operation.path.as_str()) && !operation.removes_account() {
            run.call_as_operator(operation, n, n);
        }
        run.check_deliveries();
    }
}

/// An active account of a slot.
fn active(run: &mut Run, slot: usize) -> usize {
    let Some(n) = run.current(slot) else { return run.create(slot) };
    let path = format!("/admin/accounts/{}", run.accounts[n].id);
    run.served.patch(&path, OPERATOR, &json!({"state": "active"})).with_status(200);
    run.accounts[n].is_suspended = false;
    n
}

fn run(seed: u64, steps: usize) {
    let (directory, served) = HostProcess::operated();
    let receiver = Receiver::answering(200);
    let document = served.request("GET", "/openapi.json", &[], b"").json();
    let all = routes::operations(&document);
    let (accounts, exercised) = (Vec::new(), BTreeSet::new());
    let mut run = Run { directory, served, receiver, accounts, seed, published: 0, exercised };
    for slot in 0..3 {
        run.create(slot);
    }
    for step in 0..steps {
        let statuses = [200, 404, 200, 503];
        run.receiver.answer(statuses[step / 5 % statuses.len()]);
        run.operate();
        run.read_everything(false);
        let operation = all[run.draw(all.len())].clone();
        let (slot, other) = (run.draw(3), run.draw(3));
        if let (Some(n), Some(other)) = (run.current(slot), run.current(other))
            && !run.accounts[n].is_suspended
            && operation.path != "/notices"
        {
            run.call(&operation, n, other);
        }
        run.check_deliveries();
    }
    for slot in 0..3 {
        let (n, other) = (active(&mut run, slot), active(&mut run, (slot + 1) % 3));
        sweep(&mut run, &all, n, other);
    }
    // What ends an account, in this order. No other was moved to a new one.
    let (ended, other) = (run.create(3), active(&mut run, 1));
    let removal = all.iter().filter(|one| one.removes_account());
    let moved = all.iter().filter(|one| one.path == "/admin/accounts/{id}/move");
    let forgotten = all.iter().filter(|one| one.path == "/admin/accounts/{id}/forget");
    for operation in removal.chain(moved).chain(forgotten) {
        run.call_as_operator(operation, other, ended);
    }
    run.accounts[ended].is_removed = true;
    let markers = run.accounts[ended].markers.clone();
    run.accounts[other].markers.extend(markers);
    for operation in all.iter().filter(|one| one.path != "/notices") {
        let is_done = run.exercised.contains(&(operation.clone(), operation.is_of_operator()));
        assert!(is_done, "{operation:?} was never answered with success");
    }
    run.read_everything(true);
    run.check_deliveries();
    run.check_notices();
}

#[test]
fn nothing_crosses_between_accounts_first_seed() {
    run(1, 40);
}

#[test]
fn nothing_crosses_between_accounts_second_seed() {
    run(2, 40);
}

#[test]
fn nothing_crosses_between_accounts_third_seed() {
    run(3, 40);
}

//! kill -9 in the middle of each change that the operator makes: after the restart it is there as a whole or not at
//! all, it is there if it was answered, and the accounts beside it are as they were. The moments of the kills are
//! drawn from a seed, within the time that an undisturbed request takes.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::accounts::create;
use crate::host_process::{BETA, CONFIGURATION, HostDirectory, HostProcess, OPERATOR};

/// How often each change is killed. More with WABAHOOK_ADMIN_KILLS.
const KILLS: u64 = 3;
/// Nobody listens there, so what is owed stays owed.
const NOWHERE: &str = "http://127.0.0.1:1";
/// The account that is changed, as it is created.
const NUMBER: &str = "919000000009";

/// A stopped host with the accounts acme and beta, which the file declares, and gamma and delta, which it does not.
struct Template {
    directory: HostDirectory,
    gamma: String,
    delta: String,
    gamma_key: String,
    /// Another key of gamma, and its id.
    second_key: (String, String),
}

/// A change to kill.
struct Change {
    /// How many webhooks gamma has, each owed an event.
    webhooks: usize,
    /// What comes before.
    prepare: fn(&Template, &HostProcess),
    method: &'static str,
    path: fn(&Template) -> String,
    body: fn(&Template) -> Value,
    /// What is changed in the configuration before.
    file: fn(String) -> String,
    parts: Parts,
    seed: u64,
}

/// What a kill may leave of a change.
#[derive(PartialEq)]
enum Parts {
    AllOrNone,
    /// Each delivery and webhook of gamma is ended or not, and the same request ends the others.
    Repeatable,
}

const CHANGE: Change = Change {
    webhooks: 3,
    prepare: |_, _| {},
    method: "POST",
    path: gamma_path,
    body: |_| json!({}),
    file: |file| file,
    parts: Parts::AllOrNone,
    seed: 1,
};

fn gamma_path(template: &Template) -> String {
    format!("/admin/accounts/{}", template.gamma)
}

fn set_state(template: &Template, served: &HostProcess, state: &str) {
    served.patch(&gamma_path(template), OPERATOR, &json!({"state": state})).with_status(200);
}

/// Registers a webhook that nobody answers, so what it is owed stays owed.
fn subscribe(served: &HostProcess, key: &str, name: &str) {
    let retry = json!({"kind": "linear", "step_ms": 3_600_000, "max_ms": 3_600_000});
    let url = format!("{NOWHERE}/{name}");
    served.subscribe(key, &url, json!({"name": name, "retry": retry}));
}

fn publish(served: &HostProcess, key: &str, number: &str) {
    let event = json!({"type": "ADD_TAG", "number": number, "payload": {}}).to_string();
    served.post("/events", key, event).with_status(202);
}

impl Template {
    fn new(webhooks: usize) -> Template {
        let directory = HostDirectory::operated(CONFIGURATION);
        let served = directory.start();
        let (gamma, gamma_key) = create(&served, "gamma", NUMBER);
        let (delta, delta_key) = create(&served, "delta", "919000000008");
        let body = json!({"name": "second"}).to_string();
        let made = served.post(&format!("/admin/accounts/{gamma}/keys"), OPERATOR, body).json();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        let second_key = (text("api_key"), text("id"));
        std::thread::scope(|scope| {
            for part in 0..4 {
                let (served, key) = (&served, &gamma_key);
                scope.spawn(move || {
                    (part..webhooks)
                        .step_by(4)
                        .for_each(|n| subscribe(served, key, &n.to_string()));
                });
            }
        });
        subscribe(&served, &delta_key, "delta");
        subscribe(&served, BETA, "beta");
        publish(&served, &gamma_key, NUMBER);
        publish(&served, &delta_key, "919000000008");
        publish(&served, BETA, "919000000003");
        assert!(served.signal("TERM").success());
        Template { directory, gamma, delta, gamma_key, second_key }
    }

    /// A copy of the stopped host.
    fn copy(&self) -> HostDirectory {
        let copy = HostDirectory::operated(CONFIGURATION);
        copy_directory(&self.directory.path("data"), &copy.path("data"));
        copy
    }

    /// All that an operator sees of the accounts, without what differs from run to run.
    fn snapshot(&self, served: &HostProcess) -> Value {
        let listed = served.items("/admin/accounts?limit=1000", OPERATOR);
        let accounts: Vec<_> = listed.iter().map(|one| self.shown(one)).collect();
        let answers = [self.gamma_key.as_str(), &self.second_key.0, BETA]
            .map(|key| served.get("/account", key).status);
        let list = |path: &str, members: &[&str]| {
            let page = served.get(path, OPERATOR);
            assert_eq!(page.json()["cursor"], Value::Null, "{path} has more than one page");
            let items = page.items();
            let shown =
                items.iter().map(|item| members.iter().map(|name| item[name].clone()).collect());
            shown.collect::<Vec<Value>>()
        };
        json!({
            "accounts": accounts,
            "keys": answers,
            "webhooks": list("/subscriptions?limit=1000", &["id", "name", "account", "state"]),
            "owed": list("/deliveries?limit=1000", &["event_id", "subscription"]),
            "dead": list("/dead-letters?limit=1000", &["event_id", "subscription"]),
        })
    }

    /// A snapshot without gamma.
    fn beside(&self, snapshot: &Value) -> Value {
        let of_gamma = |item: &&Value| item[2] == *self.gamma;
        let webhooks = snapshot["webhooks"].as_array().unwrap();
        let others: Vec<_> = webhooks.iter().filter(|item| !of_gamma(item)).collect();
        let of_others = |name: &str| -> Vec<Value> {
            let items = snapshot[name].as_array().unwrap().iter();
            items.filter(|item| others.iter().any(|one| one[0] == item[1])).cloned().collect()
        };
        let accounts = snapshot["accounts"].as_array().unwrap().iter();
        let accounts: Vec<_> = accounts.filter(|one| one["id"] != *self.gamma).collect();
        json!([accounts, others, of_others("owed"), of_others("dead")])
    }

    /// An account without times, and without the id of one that is created after the copy.
    fn shown(&self, account: &Value) -> Value {
        let mut shown = account.clone();
        (shown["created_at"], shown["state_since"]) = (Value::Null, Value::Null);
        shown["usage"] =
            json!([account["usage"]["subscriptions"], account["usage"]["owed_events"]]);
        if account["name"] == "epsilon" || account["name"] == "omega" {
            shown["id"] = Value::Null;
        }
        let keys = account["keys"].as_array().unwrap().iter();
        shown["keys"] = keys.map(|key| json!([key["name"], key["declared"]])).collect();
        shown
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_directory(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The next number, from 0 to 1, of a sequence that a seed begins.
fn draw(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    f64::from(u32::try_from(*seed >> 32).unwrap()) / f64::from(u32::MAX)
}

impl Change {
    /// Sends the request.
    fn begin(&self, template: &Template, served: &HostProcess) -> TcpStream {
        let (path, body) = ((self.path)(template), (self.body)(template).to_string());
        let (method, length) = (self.method, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: {OPERATOR}\r\n\
             connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(served.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// A host on a copy, before the change.
    fn start(&self, template: &Template) -> (HostDirectory, HostProcess) {
        let copy = template.copy();
        let served = copy.start();
        (self.prepare)(template, &served);
        let file = copy.path("wabahook.toml");
        fs::write(&file, (self.file)(fs::read_to_string(&file).unwrap())).unwrap();
        (copy, served)
    }

    /// Makes the change. Returns how long it took, and the snapshots before and after.
    fn undisturbed(&self, template: &Template) -> (Duration, Value, Value) {
        let (copy, served) = self.start(template);
        let before = template.snapshot(&served);
        let started = Instant::now();
        let answer = answer_of(self.begin(template, &served));
        let took = started.elapsed();
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
        assert_ne!(before, template.snapshot(&served), "the change is in force");
        served.kill();
        (took, before, template.snapshot(&copy.start()))
    }

    fn check(&self) {
        let kills = std::env::var("WABAHOOK_ADMIN_KILLS").ok();
        let kills = kills.map_or(KILLS, |given| given.parse().unwrap());
        let template = Template::new(self.webhooks);
        let (took, before, after) = self.undisturbed(&template);
        assert_ne!(before, after, "the change is visible");
        let (mut seed, mut whole, mut parts) = (self.seed, 0, 0);
        for _ in 0..kills {
            let (copy, served) = self.start(&template);
            let moment = took.mul_f64(draw(&mut seed));
            let stream = self.begin(&template, &served);
            let begun = Instant::now();
            while begun.elapsed() < moment {
                std::hint::spin_loop();
            }
            served.kill();
            let answer = answer_of(stream);
            let served = copy.start();
            let found = template.snapshot(&served);
            let moment = format!("killed after {moment:?} of {took:?}, answered {answer:?}");
            if found == after {
                whole += 1;
            } else if self.parts == Parts::Repeatable && found != before {
                parts += 1;
                assert_eq!(template.beside(&found), template.beside(&before), "{moment}");
                drop(answer_of(self.begin(&template, &served)));
                assert_eq!(template.snapshot(&served), after, "{moment}");
            } else {
                assert_eq!(found, before, "{moment}");
            }
            assert!(found == after || !answer.starts_with("HTTP/1.1 2"), "{moment}");
        }
        println!(
            "{} {}: of {kills} kills {whole} left all, {parts} a part",
            self.method,
            (self.path)(&template)
        );
    }
}

#[test]
fn a_killed_creation_is_whole_or_absent() {
    let body = |_: &Template| {
        json!({"name": "epsilon", "wabas": [{"id": "5", "numbers": ["919000000005"]}],
            "limits": {"owed_events_max": 7}})
    };
    Change { path: |_| "/admin/accounts".to_owned(), body, ..CHANGE }.check();
}

#[test]
fn a_killed_patch_is_whole_or_absent() {
    let body = |_: &Template| {
        json!({"name": "gamma two", "limits": {"owed_events_max": 7},
            "wabas": [{"id": "9", "numbers": [NUMBER, "919000000007"]}]})
    };
    Change { method: "PATCH", body, seed: 2, ..CHANGE }.check();
}

#[test]
fn a_killed_suspension_is_whole_or_absent() {
    let body = |_: &Template| json!({"state": "suspended"});
    Change { method: "PATCH", body, seed: 3, ..CHANGE }.check();
}

#[test]
fn a_killed_resumption_is_whole_or_absent() {
    let prepare =
        |template: &Template, served: &HostProcess| set_state(template, served, "suspended");
    let body = |_: &Template| json!({"state": "active"});
    Change { method: "PATCH", prepare, body, seed: 4, ..CHANGE }.check();
}

#[test]
fn a_killed_removal_is_whole_or_absent() {
    Change { method: "DELETE", seed: 5, ..CHANGE }.check();
}

/// So many webhooks that they take several writes.
#[test]
fn a_killed_move_is_whole_or_absent() {
    let prepare =
        |template: &Template, served: &HostProcess| set_state(template, served, "suspended");
    let path = |template: &Template| format!("{}/move", gamma_path(template));
    let body = |template: &Template| json!({"to": template.delta});
    Change { webhooks: 250, prepare, path, body, seed: 6, ..CHANGE }.check();
}

#[test]
fn a_killed_purge_ends_whole_deliveries() {
    let body = |template: &Template| json!({"account": template.gamma});
    let path = |_: &Template| "/purge".to_owned();
    let parts = Parts::Repeatable;
    Change { webhooks: 40, path, body, parts, seed: 7, ..CHANGE }.check();
}

#[test]
fn a_killed_forgetting_is_repeated() {
    let prepare = |template: &Template, served: &HostProcess| {
        served.delete(&gamma_path(template), OPERATOR).with_status(200);
    };
    let path = |template: &Template| format!("{}/forget", gamma_path(template));
    let parts = Parts::Repeatable;
    Change { webhooks: 40, prepare, path, parts, seed: 8, ..CHANGE }.check();
}

#[test]
fn a_killed_new_key_is_whole_or_absent() {
    let path = |template: &Template| format!("{}/keys", gamma_path(template));
    Change { path, body: |_| json!({"name": "third"}), seed: 9, ..CHANGE }.check();
}

#[test]
fn a_killed_revocation_is_whole_or_absent() {
    let path =
        |template: &Template| format!("{}/keys/{}", gamma_path(template), template.second_key.1);
    Change { method: "DELETE", path, seed: 10, ..CHANGE }.check();
}

/// The next start reads the same file, so a killed reload is always found whole.
#[test]
fn a_killed_reload_is_whole() {
    let file = |file: String| file.replace("name = \"acme\"", "name = \"omega\"");
    Change { path: |_| "/admin/reload".to_owned(), file, seed: 11, ..CHANGE }.check();
}

/// What the host sent before it ended.
fn answer_of(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset ends it as well.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

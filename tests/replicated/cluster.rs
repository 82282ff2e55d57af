//! Two hosts that serve 16 shards together, with 1,000 accounts: both share the load, each forwards what the other
//! serves, the one that is left serves all when the other is killed, and gives shards back when it returns. What any of
//! them accepted is delivered, and nothing is delivered under two ids.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use wabahook::Secret;
use wabahook::signature::Signer;

use crate::authority::Authority;
use crate::hosts::{ask_on, ask_with, connect, expect};
use crate::servers::Servers;
use crate::support::DEADLINE;
use crate::support::http_receiver::{self, Receiver};
use crate::support::processes::OwnedChild;

const ACCOUNTS: usize = 1_000;
/// The accounts with a webhook. They are in nearly all shards.
const WATCHED: usize = 48;
const SHARDS: usize = 16;
pub const OPERATOR: &str = "operator-key";
const APP_SECRET: &str = "app-secret";

/// A host process of the cluster.
pub struct ClusterHost {
    program: String,
    directory: PathBuf,
    address: String,
    /// How to connect to it, where it serves TLS.
    tls: Option<Arc<ClientConfig>>,
    child: Option<OwnedChild>,
}

impl ClusterHost {
    pub fn new(
        program: &str,
        name: &str,
        servers: &Servers,
        database: &str,
        directory: &Path,
    ) -> ClusterHost {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (directory, address) = (directory.join(name), format!("127.0.0.1:{port}"));
        fs::create_dir_all(&directory).unwrap();
        let url = servers.connection().replace("dbname=postgres", &format!("dbname={database}"));
        let data = directory.join("data");
        let mut text = format!(
            "listen = \"{address}\"\ndata = {data:?}\noperator_key = \"{OPERATOR}\"\n\
             [meta]\napp_secret = \"{APP_SECRET}\"\nverify_token = \"token\"\n\
             [network]\nallow = [\"127.0.0.0/8\"]\nallow_http = true\n\
             [store]\nkind = \"postgres\"\nurl = \"{url}\"\n\
             [cluster]\nname = \"{name}\"\naddress = \"http://{address}\"\nkey = \"the key of the cluster\"\n"
        );
        for account in 0..ACCOUNTS {
            text.push_str(&format!(
                "[[account]]\nname = \"account-{account}\"\napi_key = \"key-{account}\"\n\
                 [[account.waba]]\nid = \"{}\"\nnumbers = [\"{}\"]\n",
                waba(account),
                number(account)
            ));
        }
        fs::write(directory.join("wabahook.toml"), text).unwrap();
        ClusterHost { program: program.to_owned(), directory, address, tls: None, child: None }
    }

    /// Serves TLS with a certificate of this authority, and trusts that of other hosts.
    pub fn with_tls(mut self, authority: &Authority) -> ClusterHost {
        self.tls = Some(Arc::new(authority.client_config()));
        let pair = authority.sign("127.0.0.1", |_| {});
        let written =
            [("ca.pem", &authority.pem), ("cert.pem", &pair.certificate), ("key.pem", &pair.key)];
        written.iter().for_each(|(name, pem)| fs::write(self.directory.join(name), pem).unwrap());
        let [ca, certificate, key] = written.map(|(name, _)| self.directory.join(name));
        let file = self.directory.join("wabahook.toml");
        let text = fs::read_to_string(&file).unwrap();
        let text = text.replace("address = \"http:", &format!("ca = {ca:?}\naddress = \"https:"));
        let tls = format!("tls = {{ certificate = {certificate:?}, key = {key:?} }}\n");
        fs::write(file, format!("{tls}{text}")).unwrap();
        self
    }

    pub fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--config").arg(self.directory.join("wabahook.toml"));
        command.env("WABAHOOK_LOG", "info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(OwnedChild(command.spawn().unwrap()));
    }

    fn kill(&mut self) {
        self.child = None;
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child.as_ref().unwrap().0), signal).unwrap();
    }

    /// Reaches the server at another port.
    pub fn through(self, before: u16, port: u16) -> ClusterHost {
        let file = self.directory.join("wabahook.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, text.replace(&format!("port={before}"), &format!("port={port}"))).unwrap();
        self
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The status and the body of an answer, to a request with this key and these headers.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        with: (&str, &[(&str, &str)]),
        body: &str,
    ) -> Result<(u16, String), String> {
        let stream = connect(&self.address)?;
        let Some(tls) = &self.tls else { return ask_on(stream, method, path, with, body) };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let session = ClientConnection::new(Arc::clone(tls), name).unwrap();
        ask_on(StreamOwned::new(session, stream), method, path, with, body)
    }

    fn get(&self, path: &str) -> Result<Value, String> {
        let (status, body) = self.ask("GET", path, (OPERATOR, &[]), "")?;
        match status {
            200 => serde_json::from_str(&body).map_err(|error| error.to_string()),
            _ => Err(format!("GET {path}: {status} {body}")),
        }
    }

    /// How many shards it serves by its own account.
    fn shards(&self) -> Option<usize> {
        let (status, body) = self.ask("GET", "/healthz", ("", &[]), "").ok()?;
        let health: Value = serde_json::from_str(&body).ok()?;
        let shards = health["cluster"]["shards"].as_array()?.len();
        (status == 200).then_some(shards)
    }

    /// The end of its log, for a failure.
    fn told(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

fn waba(account: usize) -> String {
    format!("{}", 100_000_000_000_000 + account)
}

pub fn number(account: usize) -> String {
    format!("{}", 919_000_000_000_u64 + account as u64)
}

fn publish(address: &str, account: usize, text: &str) -> Result<(u16, String), String> {
    let event = json!({"type": "ADD_TAG", "number": number(account), "payload": text}).to_string();
    ask_with(address, "POST", "/events", (&format!("key-{account}"), &[]), &event)
}

/// What publishers were told, and what arrived.
#[derive(Default)]
struct Published {
    accepted: Mutex<BTreeSet<String>>,
    refused: Mutex<Vec<String>>,
    unknown: Mutex<BTreeSet<String>>,
}

impl Published {
    fn note(&self, text: String, answer: Result<(u16, String), String>) {
        match answer {
            Ok((202, _)) => drop(self.accepted.lock().unwrap().insert(text)),
            Ok((503, body)) if body.contains("\"unknown\"") => {
                self.unknown.lock().unwrap().insert(text);
            }
            Ok((status, body)) => {
                self.refused.lock().unwrap().push(format!("{text}: {status} {body}"));
            }
            Err(why) => self.refused.lock().unwrap().push(format!("{text}: {why}")),
        }
    }

    fn refused(&self) -> Vec<String> {
        std::mem::take(&mut self.refused.lock().unwrap())
    }
}

/// Publishes for the watched accounts at these hosts until `stop`.
fn keep_publishing(
    addresses: &[String],
    published: &Arc<Published>,
    stop: &Arc<AtomicBool>,
    round: &str,
) -> Vec<thread::JoinHandle<()>> {
    let start = |publisher: usize| {
        let (addresses, round) = (addresses.to_vec(), round.to_owned());
        let (published, stop) = (Arc::clone(published), Arc::clone(stop));
        thread::spawn(move || {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let account = (publisher + 4 * n) % WATCHED;
                let text = format!("{round}-{publisher}-{n}");
                let answer = publish(&addresses[n % addresses.len()], account, &text);
                published.note(text, answer);
            }
        })
    };
    (0..4).map(start).collect()
}

/// Publishes an event for each account at a host, from many threads, and returns when the last was accepted.
fn serve_every_account(address: &str, round: &str) -> Result<Instant, String> {
    const THREADS: usize = 40;
    let workers = (0..THREADS).map(|thread| {
        let (address, round) = (address.to_owned(), round.to_owned());
        thread::spawn(move || {
            for account in (thread..ACCOUNTS).step_by(THREADS) {
                // A request that was at the host when it was killed has an unknown outcome.
                for time in 0.. {
                    let text = format!("{round}-{account}-{time}");
                    match publish(&address, account, &text)? {
                        (202, _) => break,
                        (503, body) if body.contains("\"unknown\"") && time < 3 => {}
                        (status, body) => {
                            return Err(format!("account {account} gets {status} {body}"));
                        }
                    }
                }
            }
            Ok(Instant::now())
        })
    });
    let workers: Vec<_> = workers.collect();
    let ended = workers.into_iter().map(|worker| worker.join().unwrap());
    ended.collect::<Result<Vec<Instant>, String>>().map(|all| all.into_iter().max().unwrap())
}

pub fn serve_together(program: &str, servers: &Servers) -> Result<String, String> {
    servers.query("CREATE DATABASE cluster")?;
    let directory = tempfile::tempdir().unwrap();
    let new = |name: &str| ClusterHost::new(program, name, servers, "cluster", directory.path());
    let (mut first, mut second) = (new("host-a"), new("host-b"));
    with_logs(run(&mut first, &mut second), &first, &second)
}

/// A failure also shows the logs of both hosts.
pub fn with_logs(
    told: Result<String, String>,
    first: &ClusterHost,
    second: &ClusterHost,
) -> Result<String, String> {
    told.map_err(|why| format!("{why}\n--a--\n{}\n--b--\n{}", first.told(), second.told()))
}

pub fn has_half_each(first: &ClusterHost, second: &ClusterHost) -> bool {
    (first.shards(), second.shards()) == (Some(SHARDS / 2), Some(SHARDS / 2))
}

fn run(first: &mut ClusterHost, second: &mut ClusterHost) -> Result<String, String> {
    let receiver = Receiver::start(|_| http_receiver::say(http_receiver::OK));
    first.start();
    wait_for("the first host to serve all shards", || first.shards() == Some(SHARDS))?;
    for account in 0..WATCHED {
        let hook = json!({"name": "crm", "url": format!("http://{}/{account}", receiver.address),
            "events": ["ADD_TAG", "MESSAGE_RECEIVED"], "numbers": "*"});
        let key = format!("key-{account}");
        expect(first.ask("POST", "/subscriptions", (&key, &[]), &hook.to_string())?, 201)?;
    }
    let (published, stop) = (Arc::new(Published::default()), Arc::new(AtomicBool::new(false)));
    let of_first = [first.address.clone()];
    let publishers = keep_publishing(&of_first, &published, &stop, "joining");
    second.start();
    wait_for("both hosts to serve half of the shards", || has_half_each(first, second))?;
    finish(publishers, &stop);
    let refused = published.refused();
    if !refused.is_empty() {
        return Err(format!("{} refused while shards moved: {refused:?}", refused.len()));
    }
    let (spread, without_kill) = check_spread(first, second)?;
    check_operator(first, second)?;
    check_audit(second)?;
    check_callback(second, &published)?;
    check_marks(second)?;

    stop.store(false, Ordering::Relaxed);
    let of_second = [second.address.clone()];
    let publishers = keep_publishing(&of_second, &published, &stop, "killed");
    let killed = Instant::now();
    first.kill();
    let served = serve_every_account(&second.address, "after-the-kill")? - killed;
    finish(publishers, &stop);
    let while_killed = published.refused();

    stop.store(false, Ordering::Relaxed);
    let publishers = keep_publishing(&of_second, &published, &stop, "returning");
    let started = Instant::now();
    first.start();
    wait_for("the shards to return", || has_half_each(first, second))?;
    let returned = started.elapsed();
    finish(publishers, &stop);
    let refused = published.refused();
    if !while_killed.is_empty() || !refused.is_empty() {
        return Err(format!(
            "refused while a host was killed: {while_killed:?}; while it returned: {refused:?}"
        ));
    }
    let delivered = judge(&published, &receiver)?;
    let told = format!(
        "every account served {:.1} s after the kill ({:.1} s without one)",
        served.as_secs_f64(),
        without_kill.as_secs_f64()
    );
    // On a busy machine the requests alone take seconds.
    if served > without_kill + Duration::from_secs(5) {
        return Err(told);
    }
    let returned = returned.as_secs_f64();
    Ok(format!("{delivered}; {spread}; {told}; shards back after {returned:.1} s, 0 refused"))
}

fn finish(publishers: Vec<thread::JoinHandle<()>>, stop: &AtomicBool) {
    stop.store(true, Ordering::Relaxed);
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
}

/// What each host accepted of one event for each account, and how long that took.
fn check_spread(first: &ClusterHost, second: &ClusterHost) -> Result<(String, Duration), String> {
    let accepted = |host: &ClusterHost| -> Result<u64, String> {
        let (_, text) = host.ask("GET", "/metrics", (OPERATOR, &[]), "")?;
        let samples =
            text.lines().filter(|line| line.starts_with("wabahook_events_accepted_total{"));
        Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    };
    let before = (accepted(first)?, accepted(second)?);
    let began = Instant::now();
    let took = serve_every_account(&first.address, "spread")? - began;
    let after = (accepted(first)?, accepted(second)?);
    let (of_first, of_second) = (after.0 - before.0, after.1 - before.1);
    let mean = ACCOUNTS as u64 / 2;
    match of_first.abs_diff(mean) <= mean / 5 && of_first + of_second == ACCOUNTS as u64 {
        true => Ok((format!("load {of_first} to {of_second}"), took)),
        false => Err(format!("of {ACCOUNTS} events the hosts got {of_first} and {of_second}")),
    }
}

/// The operator sees all accounts at either host, and an account that is made at one serves at the other.
fn check_operator(first: &ClusterHost, second: &ClusterHost) -> Result<(), String> {
    let stats = second.get("/stats?worst=3")?;
    if stats["shards"]["included"].as_array().map(Vec::len) != Some(SHARDS)
        || stats["subscription_count"] != json!(WATCHED)
    {
        return Err(format!("the counters are {stats}"));
    }
    let (mut names, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = second.get(&format!("/admin/accounts?limit=300&cursor={cursor}"))?;
        for item in page["items"].as_array().ok_or("no items")? {
            if !names.insert(item["name"].as_str().unwrap_or_default().to_owned()) {
                return Err(format!("listed twice: {item}"));
            }
        }
        match page["cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    if names.len() != ACCOUNTS {
        return Err(format!("{} accounts are listed", names.len()));
    }
    expect(second.ask("POST", "/admin/reload", (OPERATOR, &[]), "")?, 200)?;
    let account = json!({"name": "made", "wabas": [{"id": "7", "numbers": ["917777777777"]}]});
    let made = first.ask("POST", "/admin/accounts", (OPERATOR, &[]), &account.to_string())?;
    expect(made.clone(), 201)?;
    let made: Value = serde_json::from_str(&made.1).map_err(|error| error.to_string())?;
    let key = made["api_key"].as_str().ok_or("no key")?;
    let event = json!({"type": "ADD_TAG", "number": "917777777777", "payload": 1}).to_string();
    for host in [second, first] {
        expect(host.ask("POST", "/events", (key, &[]), &event)?, 202)?;
    }
    let id = made["id"].as_str().ok_or("no id")?;
    let path = format!("/admin/accounts/{id}");
    expect(second.ask("DELETE", &path, (OPERATOR, &[]), "")?, 200)?;
    expect(second.ask("POST", "/events", (key, &[]), &event)?, 401)?;
    let refused = |host: &ClusterHost| {
        host.ask("POST", "/events", (key, &[]), &event).is_ok_and(|(status, _)| status == 401)
    };
    wait_for("the other host to refuse the key", || refused(first))
}

/// All pages of the audit log.
fn audit_entries(host: &ClusterHost, query: &str) -> Result<Vec<Value>, String> {
    let (mut entries, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = host.get(&format!("/admin/audit?{query}&cursor={cursor}"))?;
        entries.extend(page["items"].as_array().ok_or("no items")?.iter().cloned());
        match page["cursor"].as_str() {
            Some(next) => cursor = next.replace('%', "%25").replace('&', "%26").replace('=', "%3D"),
            None => return Ok(entries),
        }
    }
}

/// The audit log's pages at one host have what both hosts wrote, the newest first.
fn check_audit(host: &ClusterHost) -> Result<(), String> {
    for account in 0..WATCHED {
        let hook = json!({"name": "other", "url": "http://127.0.0.1:1/", "events": ["REMOVE_TAG"],
            "numbers": "*"});
        let (key, hook) = (format!("key-{account}"), hook.to_string());
        expect(host.ask("POST", "/subscriptions", (&key, &[]), &hook)?, 201)?;
    }
    for account in 0..WATCHED {
        let name = format!("account-{account}");
        let entries = audit_entries(host, &format!("limit=2&account={name}"))?;
        if entries.len() < 2 || entries.iter().any(|entry| entry["account_name"] != name) {
            return Err(format!("the audit log of {name} has {entries:?}"));
        }
    }
    let entries = audit_entries(host, "limit=7")?;
    let ids: BTreeSet<String> =
        entries.iter().map(|entry| format!("{} {}", entry["host"], entry["id"])).collect();
    let hosts: BTreeSet<String> = entries.iter().map(|entry| entry["host"].to_string()).collect();
    let is_ordered = entries.is_sorted_by(|one, next| one["at"].as_str() >= next["at"].as_str());
    // Each webhook was made once, and an account made and removed.
    match (ids.len() == entries.len(), entries.len(), hosts.len(), is_ordered) {
        (true, count, 2, true) if count >= 2 * WATCHED + 2 => Ok(()),
        told => Err(format!("the audit log has (unique, entries, hosts, ordered) {told:?}")),
    }
}

/// A callback for all watched accounts, at one host.
fn check_callback(host: &ClusterHost, published: &Published) -> Result<(), String> {
    let entry = |account: usize| {
        json!({"id": waba(account), "changes": [{"field": "messages", "value": {
            "metadata": {"display_phone_number": number(account)},
            "messages": [{"from": "91", "id": format!("callback-{account}"), "type": "text"}],
        }}]})
    };
    let entries: Vec<Value> = (0..WATCHED).map(entry).collect();
    let body = json!({"object": "whatsapp_business_account", "entry": entries}).to_string();
    let signature = Signer::new(&Secret::new(APP_SECRET)).unwrap().hub(body.as_bytes());
    let headers = [("x-hub-signature-256", signature.as_str())];
    // Sent twice, as Meta does: the second time changes nothing.
    for _ in 0..2 {
        expect(host.ask("POST", "/meta/webhook", ("", &headers), &body)?, 200)?;
    }
    let wrong = [("x-hub-signature-256", "sha256=00")];
    expect(host.ask("POST", "/meta/webhook", ("", &wrong), &body)?, 401)?;
    let tags = (0..WATCHED).map(|account| format!("callback-{account}"));
    published.accepted.lock().unwrap().extend(tags);
    Ok(())
}

/// A mark that the cluster did not make is refused.
fn check_marks(host: &ClusterHost) -> Result<(), String> {
    let mark = [("x-wabahook-forwarded", "3 127.0.0.1 1700000000 sha256=00")];
    let refused = host.ask("GET", "/stats", (OPERATOR, &mark), "")?;
    expect(refused, 403)
}

/// Everything that was accepted has arrived, and nothing under two ids.
fn judge(published: &Published, receiver: &Receiver) -> Result<String, String> {
    let accepted = published.accepted.lock().unwrap().clone();
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let deadline = Instant::now() + DEADLINE;
    while accepted.iter().any(|tag| !ids.contains_key(tag)) {
        if Instant::now() > deadline {
            let lost: Vec<_> = accepted.iter().filter(|tag| !ids.contains_key(*tag)).collect();
            return Err(format!("{} of {} were lost: {lost:?}", lost.len(), accepted.len()));
        }
        let seen = receiver.next();
        let id = seen.head.lines().find_map(|line| line.strip_prefix("webhook-id: "));
        let tag = tag_of(&seen.body).ok_or("a body without a tag")?;
        ids.entry(tag).or_default().insert(id.unwrap_or_default().to_owned());
    }
    let unknown = published.unknown.lock().unwrap().len();
    let twice: Vec<_> = ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
    match twice.is_empty() {
        true => Ok(format!("{} accepted, 0 lost, {unknown} unknown", accepted.len())),
        false => Err(format!("accepted twice: {twice:?}")),
    }
}

/// The text of an event, or the id of a message.
fn tag_of(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let message = &value["entry"][0]["changes"][0]["value"]["messages"][0]["id"];
    value.as_str().or(message.as_str()).map(str::to_owned)
}

pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        if Instant::now() > deadline {
            return Err(format!("waited in vain for {what}"));
        }
        thread::park_timeout(Duration::from_millis(50));
    }
    Ok(())
}

//! `wabahook serve` as a process: started, called, killed, and started again on the same directory.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::DEADLINE;
use crate::client::{self, Answer, Pending};
use crate::receiver::Receiver;
use crate::support::processes::lines_of;
use crate::support::wait_until;

/// Two accounts with the WABAs and numbers of `docs/samples/cloud_batch_two_wabas_three_numbers`.
pub(crate) const CONFIGURATION: &str = r#"
listen = "127.0.0.1:0"

[[account]]
name = "acme"
api_key = "acme-key"
[[account.waba]]
id = "100000000000001"
numbers = ["919000000001", "+91 90000 00002"]

[[account]]
name = "beta"
api_key = "beta-key"
[[account.waba]]
id = "100000000000002"
numbers = ["919000000003"]

[meta]
app_secret = "app-secret"
verify_token = "verify-token"

[network]
allow = ["127.0.0.0/8"]
allow_http = true
"#;

pub(crate) const ACME: &str = "acme-key";
pub(crate) const BETA: &str = "beta-key";
pub(crate) const OPERATOR: &str = "operator-key";

/// A directory with a configuration and data, for one host after the other.
pub(crate) struct HostDirectory {
    directory: TempDir,
}

impl HostDirectory {
    pub(crate) fn new(configuration: &str) -> HostDirectory {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("wabahook.toml"), configuration).unwrap();
        HostDirectory { directory }
    }

    /// With [`CONFIGURATION`], and more sections.
    pub(crate) fn with(more: &str) -> HostDirectory {
        HostDirectory::new(&format!("{CONFIGURATION}\n{more}\n"))
    }

    /// With an operator.
    pub(crate) fn operated(configuration: &str) -> HostDirectory {
        HostDirectory::new(&format!("operator_key = \"{OPERATOR}\"\n{configuration}"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wabahook"));
        command.arg("serve").arg("--config").arg(self.path("wabahook.toml"));
        command.arg("--data").arg(self.path("data"));
        command
    }

    pub(crate) fn start(&self) -> HostProcess {
        self.start_with(&[])
    }

    /// This directory and a host on it.
    pub(crate) fn serving(self) -> (HostDirectory, HostProcess) {
        let served = self.start();
        (self, served)
    }

    /// Starts a host with more arguments.
    pub(crate) fn start_with(&self, more: &[&str]) -> HostProcess {
        let mut command = self.command();
        command.args(more);
        self.started(command)
    }

    /// Starts a host, or a copy of it, by a program that limits it, like prlimit.
    #[cfg(target_os = "linux")]
    pub(crate) fn start_under(&self, prefix: &[&str], copy: Option<&Path>) -> HostProcess {
        let serve = self.command();
        let mut command = Command::new(prefix[0]);
        let program = copy.map_or_else(|| serve.get_program(), Path::as_os_str);
        command.args(&prefix[1..]).arg(program).args(serve.get_args());
        self.started(command)
    }

    /// Starts a host that serves a socket of this process, as a supervisor passes it.
    #[cfg(unix)]
    pub(crate) fn start_on(&self, listener: &TcpListener) -> HostProcess {
        let serve = self.command();
        let mut command = Command::new("sh");
        let pass = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
        command.args(["-c", pass]).arg(serve.get_program()).args(serve.get_args());
        let socket: std::os::fd::OwnedFd = listener.try_clone().unwrap().into();
        command.stdin(Stdio::from(socket));
        self.started(command)
    }

    fn started(&self, command: Command) -> HostProcess {
        let (served, lines) = self.spawn(command);
        self.listening(served, &lines)
    }

    /// Starts a host without waiting for it. Returns it with the lines that it prints.
    pub(crate) fn spawn(&self, mut command: Command) -> (HostProcess, mpsc::Receiver<String>) {
        command.stdout(Stdio::piped()).stderr(File::create(self.path("stderr.log")).unwrap());
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap(), |line| line);
        (HostProcess { child: Some(child), address: ([127, 0, 0, 1], 0).into() }, lines)
    }

    /// Waits until a host listens.
    pub(crate) fn listening(
        &self,
        mut served: HostProcess,
        lines: &mpsc::Receiver<String>,
    ) -> HostProcess {
        let line = lines.recv_timeout(DEADLINE).unwrap_or_else(|_| {
            served.kill_now();
            panic!("not listening: {}", read(&self.path("stderr.log")));
        });
        let address = line.strip_prefix("listening on http").unwrap();
        let address = address.trim_start_matches('s').strip_prefix("://").unwrap();
        let (address, data) = address.split_once(' ').unwrap();
        assert_eq!(data, format!("(data in {})", self.path("data").display()));
        served.address = address.parse().unwrap();
        assert_ne!(served.address.port(), 0, "the printed port is the bound one");
        served
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A running host.
pub(crate) struct HostProcess {
    child: Option<Child>,
    pub(crate) address: SocketAddr,
}

impl HostProcess {
    /// A host on a new directory with [`CONFIGURATION`]. The directory must outlive it.
    pub(crate) fn fresh() -> (HostDirectory, HostProcess) {
        HostDirectory::new(CONFIGURATION).serving()
    }

    /// [`fresh`](HostProcess::fresh), with an operator.
    pub(crate) fn operated() -> (HostDirectory, HostProcess) {
        HostDirectory::operated(CONFIGURATION).serving()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.kill_now();
    }

    fn kill_now(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The value of this name in the status of the process, proc(5).
    #[cfg(target_os = "linux")]
    pub(crate) fn status_of(&self, name: &str) -> Option<String> {
        let status = read(format!("/proc/{}/status", self.process_id()).as_ref());
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sends a signal.
    pub(crate) fn send_signal(&self, name: &str) {
        let send = format!("kill -{name} {}", self.process_id());
        assert!(Command::new("sh").args(["-c", &send]).status().unwrap().success());
    }

    /// Waits until it accepts no more connections.
    pub(crate) fn until_it_stops_listening(&self) {
        let has_stopped = || TcpStream::connect(self.address).is_err();
        assert!(wait_until(has_stopped), "still listening");
    }

    /// Waits for the end.
    pub(crate) fn ended(mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let id = child.id();
        let (ended, end) = mpsc::channel();
        thread::spawn(move || ended.send(child.wait().unwrap()));
        end.recv_timeout(DEADLINE).unwrap_or_else(|_| {
            let _ = Command::new("sh").args(["-c", &format!("kill -KILL {id}")]).status();
            panic!("the host did not end");
        })
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn signal(self, name: &str) -> ExitStatus {
        self.send_signal(name);
        self.ended()
    }

    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        client::send(self.address, method, path, headers, body)
    }

    pub(crate) fn get(&self, path: &str, key: &str) -> Answer {
        self.request("GET", path, &[("authorization", key)], b"")
    }

    pub(crate) fn delete(&self, path: &str, key: &str) -> Answer {
        self.request("DELETE", path, &[("authorization", key)], b"")
    }

    pub(crate) fn post(&self, path: &str, key: &str, body: impl AsRef<[u8]>) -> Answer {
        let headers = [("authorization", key), ("content-type", "application/json")];
        self.request("POST", path, &headers, body.as_ref())
    }

    pub(crate) fn patch(&self, path: &str, key: &str, body: &Value) -> Answer {
        let headers = [("authorization", key), ("content-type", "application/json")];
        self.request("PATCH", path, &headers, body.to_string().as_bytes())
    }

    /// What a list shows.
    pub(crate) fn items(&self, path: &str, key: &str) -> Vec<Value> {
        self.get(path, key).items()
    }

    /// All items of a list, read in pages of so many; the path has a query.
    pub(crate) fn paged_items(&self, path: &str, key: &str, limit: usize) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}&limit={limit}&cursor={cursor}"), key);
            let items = page.items();
            assert!(items.len() <= limit, "{page:?}");
            all.extend(items);
            match page.json()["cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return all,
            }
        }
    }

    pub(crate) fn post_lines(&self, key: &str, lines: &str) -> Answer {
        self.request("POST", "/events", &lines_headers(key), lines.as_bytes())
    }

    /// An open NDJSON request without its body.
    pub(crate) fn open_lines(&self, key: &str, length: usize) -> Pending {
        let [key, kind] = lines_headers(key);
        let headers = [key, kind, ("expect", "100-continue")];
        let mut request = Pending::open(self.address, "POST", "/events", &headers, length);
        request.until_asked_for_the_body();
        request
    }

    /// Registers a subscription that retries quickly and for long; `more` wins.
    pub(crate) fn subscribe(&self, key: &str, url: &str, more: Value) -> u64 {
        let mut body = json!({
            "name": url, "url": url, "events": "*", "numbers": "*", "timeout_ms": 300_000,
            "retry": {"kind": "linear", "step_ms": 50, "max_ms": 200},
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = self.post("/subscriptions", key, body.to_string()).with_status(201);
        answer.json()["id"].as_u64().unwrap()
    }

    pub(crate) fn stats(&self) -> Value {
        let answer = self.get("/stats", ACME).with_status(200);
        answer.json()
    }

    /// Reads the stats until they are as expected.
    pub(crate) fn until(&self, expected: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let stats = self.stats();
            if expected(&stats) {
                return stats;
            }
            assert!(started.elapsed() < DEADLINE, "not as expected: {stats}");
        }
    }

    /// Waits until so many dead letters are listed: one is counted shortly before it is durable.
    pub(crate) fn until_listed(&self, key: &str, count: usize) -> Vec<Value> {
        self.until(|_| self.items("/dead-letters", key).len() == count);
        self.items("/dead-letters", key)
    }

    /// All attempts that a receiver got, once nothing is owed.
    pub(crate) fn all_arrived(&self, receiver: &Receiver) -> Vec<crate::receiver::Attempt> {
        self.until(|stats| stats["owed"] == 0);
        receiver.arrived()
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        self.kill_now();
    }
}

fn lines_headers(key: &str) -> [(&str, &str); 2] {
    [("authorization", key), ("content-type", "application/x-ndjson")]
}

/// An event of acme's first number, as a line.
pub(crate) fn line(place: usize) -> String {
    format!(
        "{{\"type\":\"MESSAGE_RECEIVED\",\"number\":\"919000000001\",\"payload\":{{\"n\":{place}}}}}\n"
    )
}

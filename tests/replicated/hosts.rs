//! Two processes of the reference host on one server: one serves and the other waits, and says so at `/healthz`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::servers::Servers;
use crate::support::DEADLINE;
use crate::support::http_receiver::{self, Receiver as HttpReceiver};
use crate::support::processes::{OwnedChild, lines_of};

struct Host {
    child: OwnedChild,
    lines: Receiver<String>,
    _directory: tempfile::TempDir,
}

impl Host {
    fn start(program: &str, name: &str, servers: &Servers) -> Host {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("wabahook.toml");
        let (data, url) = (directory.path().join("data"), servers.connection());
        let configuration = format!(
            "listen = \"127.0.0.1:0\"\ndata = {data:?}\n[[account]]\nname = \"acme\"\napi_key = \"acme-key\"\n\
             [[account.waba]]\nid = \"1\"\nnumbers = [\"919999999999\"]\n\
             [network]\nallow = [\"127.0.0.0/8\"]\nallow_http = true\n\
             [store]\nkind = \"postgres\"\nurl = \"{url}\"\nhost_name = \"{name}\"\n"
        );
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(&file);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap(), |line| line);
        Host { child: OwnedChild(child), lines, _directory: directory }
    }

    /// Waits until it prints that it is `doing` so, and returns its address.
    fn wait_until(&self, doing: &str) -> Result<String, String> {
        loop {
            let line = self.lines.recv_timeout(DEADLINE);
            let line = line.map_err(|error| format!("it is not {doing}: {error}"))?;
            if let Some(rest) = line.strip_prefix(&format!("{doing} on http://")) {
                return Ok(rest.split(' ').next().unwrap().to_owned());
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child.0), signal).unwrap();
    }
}

/// The status and the body of an answer to the account.
fn ask(address: &str, method: &str, path: &str, body: &str) -> Result<(u16, String), String> {
    ask_with(address, method, path, ("acme-key", &[]), body)
}

/// The status and the body of an answer, to a request with this key and these headers.
pub fn ask_with(
    address: &str,
    method: &str,
    path: &str,
    (key, headers): (&str, &[(&str, &str)]),
    body: &str,
) -> Result<(u16, String), String> {
    ask_on(connect(address)?, method, path, (key, headers), body)
}

/// A connection to a host.
pub fn connect(address: &str) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(address).and_then(|stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(stream)
    });
    connected.map_err(|error| format!("{address}: {error}"))
}

/// The same on a connection.
pub fn ask_on(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    (key, headers): (&str, &[(&str, &str)]),
    body: &str,
) -> Result<(u16, String), String> {
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut asked = || -> std::io::Result<String> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: host\r\nauthorization: {key}\r\n{headers}connection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().map_err(|error| format!("{method} {path}: {error}"))?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    Ok((status.ok_or("no status")?, body.unwrap_or_default()))
}

/// One host is stopped, the other takes over; the first one goes on and waits; the second one is killed.
pub fn take_turns(program: &str, servers: &Servers) -> Result<String, String> {
    let receiver = HttpReceiver::start(|_| http_receiver::say(http_receiver::OK));
    let first = Host::start(program, "host-a", servers);
    let serving = first.wait_until("listening")?;
    let second = Host::start(program, "host-b", servers);
    let waiting = second.wait_until("waiting")?;
    let is_told = crate::support::wait_until(|| {
        ask(&waiting, "GET", "/healthz", "").is_ok_and(|(_, body)| body.contains("host-a"))
    });
    let (status, body) = ask(&waiting, "GET", "/healthz", "")?;
    if !is_told || status != 503 || !body.contains("standby") {
        return Err(format!("the waiting host says {status} {body}"));
    }
    let (status, body) = ask(&waiting, "POST", "/events", "{}")?;
    if status != 503 || !body.contains("not_owner") {
        return Err(format!("the waiting host answers {status} {body}"));
    }
    let hook = format!(
        "{{\"name\":\"crm\",\"url\":\"http://{}/hook\",\"events\":\"*\",\"numbers\":\"*\"}}",
        receiver.address
    );
    expect(ask(&serving, "POST", "/subscriptions", &hook)?, 201)?;
    publish(&serving, &receiver, "of the first")?;
    first.signal(Signal::STOP);
    let stopped = Instant::now();
    let serving = second.wait_until("listening")?;
    let took = stopped.elapsed();
    publish(&serving, &receiver, "of the second")?;
    first.signal(Signal::CONT);
    first.wait_until("waiting")?;
    let killed = Instant::now();
    drop(second);
    let serving = first.wait_until("listening")?;
    let again = killed.elapsed();
    publish(&serving, &receiver, "of the first again")?;
    expect(ask(&serving, "GET", "/healthz", "")?, 200)?;
    let slowest = took.max(again);
    match slowest < Duration::from_secs(5) {
        true => Ok(format!(
            "taken over after {:.1} and {:.1} s",
            took.as_secs_f64(),
            again.as_secs_f64()
        )),
        false => Err(format!("it took {:.1} s to take over", slowest.as_secs_f64())),
    }
}

/// Publishes an event and waits until it arrives.
fn publish(address: &str, receiver: &HttpReceiver, text: &str) -> Result<(), String> {
    let event =
        format!("{{\"type\":\"ADD_TAG\",\"number\":\"919999999999\",\"payload\":\"{text}\"}}");
    expect(ask(address, "POST", "/events", &event)?, 202)?;
    loop {
        let seen = receiver.next();
        if String::from_utf8_lossy(&seen.body).contains(&format!("\"{text}\"")) {
            return Ok(());
        }
    }
}

/// An error unless the answer has the expected status.
pub fn expect((status, body): (u16, String), expected: u16) -> Result<(), String> {
    match status == expected {
        true => Ok(()),
        false => Err(format!("{status} and not {expected}: {body}")),
    }
}

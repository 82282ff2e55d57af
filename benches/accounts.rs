//! What a request costs the host with 10 and with 10,000 accounts. Two hosts run at the same time and are asked in
//! turns, with right keys drawn from all accounts and with wrong ones. The figure is the processor time of the host's
//! process for each request, from `/proc/PID/stat`.
//!
//! Wrong keys are slowed down after ten of a network, so each connection comes from an address of its own, has ten
//! requests and closes; with right keys as well, so that both cost the same connections.
//!
//! `cargo bench --bench accounts --features host -- --runs 9 --requests 20000`

mod support;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};
use support::{Outcome, Process};

const FEW: usize = 10;
const MANY: usize = 10_000;
/// What a network may send of wrong keys at once.
const REQUESTS_OF_CONNECTION: usize = 10;

/// A running host.
struct Host {
    process: Process,
    address: SocketAddr,
    accounts: usize,
    directory: PathBuf,
    /// How many connections it had, which gives each an address of its own.
    connections: u32,
    seed: u64,
}

/// Whose keys are sent.
#[derive(Clone, Copy)]
enum Keys {
    Right,
    Wrong,
}

fn main() -> Outcome {
    let runs: usize = support::option("runs", 5);
    let requests: usize = support::option("requests", 10_000);
    let mut few = Host::start(FEW)?;
    let mut many = Host::start(MANY)?;
    for (what, keys) in [("right_key", Keys::Right), ("wrong_key", Keys::Wrong)] {
        // Both are warm before they are measured.
        few.ask(requests / 10, keys)?;
        many.ask(requests / 10, keys)?;
        let mut costs = Vec::new();
        for run in 0..runs {
            // Each is first in every other run.
            let (first, second) =
                if run % 2 == 0 { (&mut few, &mut many) } else { (&mut many, &mut few) };
            let (first, second) = (first.cost_us(requests, keys)?, second.cost_us(requests, keys)?);
            costs.push(if run % 2 == 0 { (first, second) } else { (second, first) });
            println!("{what}, run {run}: {:?} us with {FEW} and {MANY} accounts", costs.last());
        }
        let ratio = support::median(costs.iter().map(|(few, many)| many / few).collect());
        let few_us = support::median(costs.iter().map(|(few, _)| *few).collect());
        let many_us = support::median(costs.iter().map(|(_, many)| *many).collect());
        let limit = (few_us, "with_10_accounts");
        support::result("accounts", format!("{what}_cpu"), many_us, "us/request", limit, ratio);
    }
    few.end()?;
    many.end()
}

impl Host {
    fn start(accounts: usize) -> Outcome<Host> {
        let directory = support::directory(&format!("accounts-{accounts}"))?;
        let mut configuration = String::from("listen = \"127.0.0.1:0\"\n");
        for n in 0..accounts {
            writeln!(
                configuration,
                "[[account]]\nname = \"account-{n}\"\napi_key = \"{}\"\n[[account.waba]]\nid = \"{n}\"\n\
                 numbers = [\"{}\"]",
                key(n),
                919_000_000_000_u64 + n as u64
            )?;
        }
        let file = directory.join("wabahook.toml");
        fs::write(&file, configuration)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_wabahook"))
            .args(["serve", "--log", "error", "--config"])
            .arg(&file)
            .arg("--data")
            .arg(directory.join("data"))
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let process = Process(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address =
            line.strip_prefix("listening on http://").and_then(|line| line.split(' ').next());
        let address = address.ok_or("the host does not listen")?.parse()?;
        Ok(Host { process, address, accounts, directory, connections: 0, seed: 1 })
    }

    /// The processor time of the host for each of so many requests, in microseconds.
    fn cost_us(&mut self, requests: usize, keys: Keys) -> Outcome<f64> {
        let before = self.cpu_time();
        self.ask(requests, keys)?;
        Ok((self.cpu_time() - before).as_secs_f64() * 1e6 / requests as f64)
    }

    fn cpu_time(&self) -> Duration {
        support::cpu_time_of(&self.process.0.id().to_string())
    }

    fn ask(&mut self, requests: usize, keys: Keys) -> Outcome {
        for _ in 0..requests.div_ceil(REQUESTS_OF_CONNECTION) {
            self.connections += 1;
            let mut stream = connect_from(self.connections, self.address)?;
            for _ in 0..REQUESTS_OF_CONNECTION {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let drawn = usize::try_from(self.seed >> 33)?;
                let (key, expected) = match keys {
                    Keys::Right => (key(drawn % self.accounts), "HTTP/1.1 200"),
                    Keys::Wrong => (format!("wrong-{drawn:012}"), "HTTP/1.1 401"),
                };
                let request = format!(
                    "GET /account HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"
                );
                stream.get_mut().write_all(request.as_bytes())?;
                let status = read_response(&mut stream)?;
                if !status.starts_with(expected) {
                    return Err(format!("{status} instead of {expected}").into());
                }
            }
        }
        Ok(())
    }

    fn end(self) -> Outcome {
        drop(self.process);
        Ok(fs::remove_dir_all(self.directory)?)
    }
}

/// The key of an account, of the same length for every account.
fn key(account: usize) -> String {
    format!("key-of-{account:012}")
}

/// Connects from an address of its own in 127.0.0.0/8.
fn connect_from(number: u32, to: SocketAddr) -> Outcome<BufReader<TcpStream>> {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number);
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::V4(SocketAddrV4::new(address, 0)))?;
    rustix::net::connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// Reads a response, and returns its first line.
fn read_response(stream: &mut BufReader<TcpStream>) -> Outcome<String> {
    let (mut status, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err("the host closed the connection".into());
        }
        if let Some(given) = line.strip_prefix("content-length:") {
            length = given.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
        if status.is_empty() {
            status = line;
        }
    }
    stream.read_exact(&mut vec![0; length])?;
    Ok(status)
}

//! nginx, which closes its connections often, costs no attempt.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use wabahook::Transport;

use super::client::*;
use crate::support::processes::OwnedChild;

const THREADS: usize = 8;
const ATTEMPTS: usize = 500;

struct Nginx {
    _child: OwnedChild,
    port: u16,
    home: tempfile::TempDir,
}

impl Nginx {
    /// `None`, with a printed reason, if nginx is missing and cannot be installed.
    fn start() -> Option<Nginx> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/nginx.sh");
        let found = Command::new("bash").arg(script).output().unwrap();
        if !found.status.success() {
            println!("skipped: {}", String::from_utf8_lossy(&found.stderr).trim());
            return None;
        }
        let program = String::from_utf8(found.stdout).unwrap();
        let home = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fs::write(home.path().join("nginx.conf"), configuration(home.path(), port)).unwrap();
        let child = Command::new(program.trim())
            .args(["-p", home.path().to_str().unwrap(), "-c", "nginx.conf", "-e", "stderr"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Nginx { _child: OwnedChild(child), port, home })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// Waits until it listens.
    fn wait(&self) {
        let listens = wait_until(|| TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        assert!(listens, "nginx does not listen");
    }

    /// The lines of its log, once there are so many. nginx writes a line after each response.
    fn log(&self, requests: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let is_there = wait_until(|| {
            let log = fs::read_to_string(self.home.path().join("access.log")).unwrap();
            let answered = log.lines().filter(|line| line.ends_with(" evt_1"));
            lines = answered.map(str::to_owned).collect();
            lines.len() >= requests
        });
        assert!(is_there, "{} of {requests}", lines.len());
        lines
    }
}

/// One process. A connection ends after ten requests, or when it was idle for a moment.
fn configuration(home: &Path, port: u16) -> String {
    let home = home.display();
    format!(
        "daemon off; master_process off; pid {home}/pid; error_log stderr crit;
        events {{ worker_connections 512; }}
        http {{
            log_format ids '$connection $http_webhook_id';
            access_log {home}/access.log ids;
            client_body_temp_path {home}/body;
            proxy_temp_path {home}/proxy;
            fastcgi_temp_path {home}/fastcgi;
            uwsgi_temp_path {home}/uwsgi;
            scgi_temp_path {home}/scgi;
            keepalive_requests 10;
            keepalive_timeout 20ms;
            server {{ listen 127.0.0.1:{port}; location / {{ return 200 'ok'; }} }}
        }}"
    )
}

#[test]
fn a_receiver_with_short_keep_alive_under_load_costs_no_attempt() {
    let Some(nginx) = Nginx::start() else { return };
    nginx.wait();
    let client = Arc::new(client());
    let (tell, replies) = channel();
    for _ in 0..THREADS {
        let (client, url, tell) = (Arc::clone(&client), nginx.url(), tell.clone());
        thread::spawn(move || {
            for _ in 0..ATTEMPTS {
                tell.send(client.send(&request(&url, b"{}", 10_000))).unwrap();
            }
        });
    }
    drop(tell);
    for n in 0..THREADS * ATTEMPTS {
        let reply = replies.recv_timeout(DEADLINE).unwrap();
        let wabahook::Reply::Response(answer) = &reply else { panic!("attempt {n}: {reply:?}") };
        assert_eq!(answer.status, 200, "attempt {n}");
    }
    let log = nginx.log(THREADS * ATTEMPTS);
    let sent = log.len();
    let mut connections: Vec<_> = log.iter().filter_map(|line| line.split(' ').next()).collect();
    connections.sort_unstable();
    connections.dedup();
    // Connections were reused, at most as often as nginx allows.
    let expected = sent.div_ceil(10)..sent / 2;
    assert!(expected.contains(&connections.len()), "{} of {sent}", connections.len());
}

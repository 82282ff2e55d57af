//! The programs: where they are installed, how each is started, and what it printed.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use crate::support::DEADLINE;
use crate::support::processes::OwnedChild;

/// A secret that every library can read: Meta's take its text, Standard Webhooks' the bytes that it encodes.
pub(crate) const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
pub(crate) const FOREIGN_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The folder that `tests/install-receivers` filled.
pub(crate) struct Installation {
    folder: PathBuf,
    installed: Vec<String>,
    /// Whether the programs were installed for this run, so that each must work.
    is_required: bool,
}

/// A running receiver, ended on drop.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) url: String,
    _child: OwnedChild,
    said: Arc<Mutex<String>>,
}

impl Installation {
    pub(crate) fn find(root: &Path) -> Installation {
        let given = std::env::var_os("WABAHOOK_RECEIVERS");
        let is_required = given.is_some();
        let folder = root.join(given.map_or_else(|| "target/receivers".into(), PathBuf::from));
        let installed = std::fs::read_to_string(folder.join("installed")).unwrap_or_default();
        let installed: Vec<_> = installed.lines().map(str::to_owned).collect();
        assert!(!(is_required && installed.is_empty()), "{} has no programs", folder.display());
        Installation { folder, installed, is_required }
    }

    /// Starts a program; prints why and returns `None` where it is not installed.
    pub(crate) fn start(&self, name: &str) -> Option<Program> {
        if !self.installed.iter().any(|one| one == name) {
            println!("skipped: {name} is not installed; tests/install-receivers installs it");
            return None;
        }
        let started = match name {
            "adnanh-webhook" => self.start_webhook(name),
            _ => self.start_library(name),
        };
        assert!(started.is_some() || !self.is_required, "{name} is installed and does not start");
        if started.is_none() {
            println!("skipped: {name} does not start");
        }
        started
    }

    fn start_library(&self, name: &str) -> Option<Program> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/receivers");
        let (library, language) = name.rsplit_once('-').unwrap_or((name, name));
        let command = match language {
            "pywa" | "python" => {
                let mut command = Command::new(self.folder.join("python/bin/python"));
                command.arg(scripts.join("receiver.py")).args([library, SECRET]);
                command
            }
            _ => {
                let mut command = Command::new("node");
                command.arg(scripts.join("receiver.cjs")).arg(self.folder.join("node"));
                command.args([library, SECRET]);
                command
            }
        };
        Program::start(name, command, |line| {
            let port: u16 = line.trim().parse().ok()?;
            Some(format!("http://127.0.0.1:{port}/"))
        })
    }

    fn start_webhook(&self, name: &str) -> Option<Program> {
        // The program cannot choose a free port by itself.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).ok()?.port();
        let hooks = self.folder.join(format!("hooks-{port}.json"));
        let rule = serde_json::json!({"match": {
            "type": "payload-hmac-sha256", "secret": SECRET,
            "parameter": {"source": "header", "name": "X-Hub-Signature-256"},
        }});
        let hook = serde_json::json!([{
            "id": "wabahook", "execute-command": "/bin/true", "trigger-rule": rule,
            "trigger-rule-mismatch-http-response-code": 401,
        }]);
        std::fs::write(&hooks, hook.to_string()).ok()?;
        let mut command = Command::new(self.folder.join("webhook/usr/bin/webhook"));
        command.arg("-hooks").arg(&hooks).args(["-ip", "127.0.0.1", "-verbose", "-port"]);
        command.arg(port.to_string());
        let url = format!("http://127.0.0.1:{port}/hooks/wabahook");
        let program = Program::start(name, command, |line| {
            line.contains("serving hooks on").then(|| url.clone())
        });
        let _ = std::fs::remove_file(&hooks);
        program
    }
}

impl Program {
    /// Starts a program and waits for the line of its output that tells its URL.
    fn start(
        name: &str,
        mut command: Command,
        url: impl Fn(&str) -> Option<String>,
    ) -> Option<Program> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let said = Arc::new(Mutex::new(String::new()));
        let (tell, told) = mpsc::channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take()?), Box::new(child.stderr.take()?)];
        for output in outputs {
            let (said, tell) = (Arc::clone(&said), tell.clone());
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    said.lock().unwrap().push_str(&format!("{line}\n"));
                    let _ = tell.send(line);
                }
            });
        }
        drop(tell);
        let mut program =
            Program { name: name.to_owned(), url: String::new(), _child: OwnedChild(child), said };
        loop {
            // The programs end their output when they fail to start.
            let Ok(line) = told.recv_timeout(DEADLINE) else {
                println!("{name} said: {}", program.said());
                return None;
            };
            if let Some(url) = url(&line) {
                program.url = url;
                return Some(program);
            }
        }
    }

    /// The last lines that it printed.
    pub(crate) fn said(&self) -> String {
        let said = self.said.lock().unwrap();
        let lines: Vec<_> = said.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

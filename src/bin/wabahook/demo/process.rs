//! Starts the engine process, reads its reports and kills it. No engine process outlives the demo, and every
//! line that it wrote completely is read.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::report::EngineReport;

/// A running engine process. Dropping it kills it.
pub(super) struct EngineProcess {
    child: Child,
    pub(super) reports: UnboundedReceiver<EngineReport>,
}

/// Where the engine processes keep what they accept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum DemoPlace {
    Directory(PathBuf),
    /// On the servers that this connection string names.
    Servers(String),
}

/// What the demo tells its engine process, as JSON on its command line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct EngineOrders {
    pub(super) place: DemoPlace,
    /// The URL of each endpoint, in the order of `ENDPOINTS`.
    pub(super) receivers: Vec<String>,
    /// Events a second.
    pub(super) rate: u64,
    /// The length of the whole demo.
    pub(super) show_ms: u64,
    /// How long to publish, from the start of the process.
    pub(super) publish_ms: u64,
    /// How long the process may take in all.
    pub(super) end_ms: u64,
    /// Makes the dedup keys of this process differ from those of the other one.
    pub(super) seed: u64,
}

impl EngineProcess {
    /// Starts this program again as the engine process. Call it inside of a runtime.
    pub(super) fn start(orders: &EngineOrders) -> Result<EngineProcess, String> {
        let failed = |error: std::io::Error| format!("cannot start the engine process: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .arg("demo-engine")
            .arg(serde_json::to_string(orders).map_err(|error| failed(error.into()))?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (sender, reports) = unbounded_channel();
        if let Some(lines) = child.stdout.take() {
            tokio::task::spawn_blocking(move || {
                let whole = BufReader::new(lines).lines().map_while(Result::ok);
                whole.filter_map(|line| EngineReport::read(&line)).all(|r| sender.send(r).is_ok())
            });
        }
        Ok(EngineProcess { child, reports })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL and waits until it is gone. Its last reports can still be read.
    pub(super) fn kill(&mut self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("cannot kill the engine process: {error}");
        self.child.kill().map_err(failed)?;
        self.child.wait().map(drop).map_err(failed)
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

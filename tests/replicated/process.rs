//! A host process as the test sees it: its lines, and signals to it.

use std::env;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::ledger::Ledger;
use crate::owner;
use crate::support::DEADLINE;
use crate::support::processes::{OwnedChild, lines_of};

pub struct HostProcess {
    child: OwnedChild,
    lines: Receiver<(Instant, String)>,
}

/// How a host process is started.
#[derive(Clone, Default)]
pub struct HostOptions {
    pub connection: String,
    pub is_unreplicated: bool,
    pub keeps_epoch: bool,
    pub drains: bool,
    pub shard: u16,
}

impl HostProcess {
    pub fn start(name: &str, options: &HostOptions) -> HostProcess {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(owner::NAME, name).env(owner::CONNECTION, &options.connection);
        if options.is_unreplicated {
            command.env(owner::REPLICAS, "0");
        }
        if options.keeps_epoch {
            command.env(owner::SAME_EPOCH, "1");
        }
        command.env(owner::SHARD, options.shard.to_string());
        if options.drains {
            command.env(owner::DRAINS, "1");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap(), |line| (Instant::now(), line));
        HostProcess { child: OwnedChild(child), lines }
    }

    /// Waits for a line that begins so, at most [`DEADLINE`], and returns when it came.
    pub fn wait_for(&self, begin: &str, ledger: &mut Ledger) -> Result<Instant, String> {
        self.wait_for_many(begin, 1, ledger)
    }

    /// Waits for so many lines that begin so.
    pub fn wait_for_many(
        &self,
        begin: &str,
        count: usize,
        ledger: &mut Ledger,
    ) -> Result<Instant, String> {
        let deadline = Instant::now() + DEADLINE;
        let mut left = count;
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(patience) {
                Ok((at, line)) => {
                    ledger.hear(&line);
                    if line.starts_with("failed") {
                        return Err(line);
                    }
                    left -= usize::from(line.starts_with(begin));
                    if left == 0 {
                        return Ok(at);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("it ended before {begin:?}"));
                }
                Err(RecvTimeoutError::Timeout) => return Err(format!("no {begin:?} came in time")),
            }
        }
    }

    /// When it first accepted something after a moment.
    pub fn accepts_after(&self, moment: Instant, ledger: &mut Ledger) -> Result<Duration, String> {
        loop {
            let at = self.wait_for("accepted", ledger)?;
            if at > moment {
                return Ok(at - moment);
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child.0), signal).unwrap();
    }

    /// Kills it, and hears all that it said before.
    pub fn kill(&mut self, ledger: &mut Ledger) {
        self.child.kill();
        self.hear_all(ledger);
    }

    /// Ends it in order.
    pub fn stop(mut self, ledger: &mut Ledger) -> Result<(), String> {
        let _ = writeln!(self.child.0.stdin.take().unwrap(), "stop");
        let ended = self.wait_for("closed", ledger).map(drop);
        self.kill(ledger);
        ended
    }

    fn hear_all(&self, ledger: &mut Ledger) {
        while let Ok((_, line)) = self.lines.recv_timeout(DEADLINE) {
            ledger.hear(&line);
        }
    }
}

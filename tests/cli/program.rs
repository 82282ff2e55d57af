//! Runs the program: arguments, environment and stdin in, exit code and output back.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::host_process::{ACME, HostProcess, OPERATOR};

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts exit code 0.
    pub(crate) fn done(self) -> Ran {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Asserts that it failed with this code, in one line with all these parts.
    pub(crate) fn failed(self, code: i32, says: &[&str]) -> Ran {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.starts_with("wabahook: ") && self.err.lines().count() == 1, "{self:?}");
        self.says(says)
    }

    pub(crate) fn says(self, parts: &[&str]) -> Ran {
        for part in parts {
            let said = self.out.contains(part) || self.err.contains(part);
            assert!(said, "{self:?} does not say {part}");
        }
        self
    }
}

/// The program without wabahook's variables in its environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wabahook"));
    for name in ["WABAHOOK_API_KEY", "WABAHOOK_URL", "WABAHOOK_SECRET", "WABAHOOK_LOG"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command that reads `input`.
pub(crate) fn run(command: &mut Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that needs no input may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs the program on its own.
pub(crate) fn alone(args: &[&str]) -> Ran {
    run(command().args(args), "")
}

/// The program with acme's key, against this host.
pub(crate) fn against(served: &HostProcess, args: &[&str]) -> Command {
    let mut command = command();
    command.env("WABAHOOK_API_KEY", ACME).env("WABAHOOK_URL", format!("http://{}", served.address));
    command.args(args);
    command
}

pub(crate) fn ask(served: &HostProcess, args: &[&str]) -> Ran {
    run(&mut against(served, args), "")
}

/// [`ask`], as the operator.
pub(crate) fn as_operator(served: &HostProcess, args: &[&str]) -> Ran {
    run(against(served, args).env("WABAHOOK_API_KEY", OPERATOR), "")
}

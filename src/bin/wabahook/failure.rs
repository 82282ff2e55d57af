//! Decides why the program ends without having done its work, and which exit code says so.
//!
//! Leaves to others: what went wrong. Invariant: a code means the same for every command, and
//! `docs/commands.md` lists them all.

use serde::Serialize;

/// Why the program ends without having done its work.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The command line, the configuration or the input is wrong.
    Usage(String),
    /// It was tried and did not succeed.
    Run(String),
    /// No host answers at the URL.
    Unreachable(String),
    /// The API key is missing, or the host knows no account with it.
    Unauthorized(String),
    /// There is nothing by this name.
    NotFound(String),
    /// It may succeed later, without anything being changed.
    Busy(String),
}

#[derive(Serialize)]
struct Shape<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    code: &'static str,
    message: &'a str,
}

impl Failure {
    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Run(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
            Failure::Unauthorized(_) => 4,
            Failure::NotFound(_) => 5,
            Failure::Busy(_) => 6,
        }
    }

    fn parts(&self) -> (&'static str, &str) {
        match self {
            Failure::Run(message) => ("failed", message),
            Failure::Usage(message) => ("usage", message),
            Failure::Unreachable(message) => ("unreachable", message),
            Failure::Unauthorized(message) => ("unauthorized", message),
            Failure::NotFound(message) => ("not_found", message),
            Failure::Busy(message) => ("busy", message),
        }
    }

    /// What to say to a person.
    pub(crate) fn message(&self) -> &str {
        self.parts().1
    }

    /// The same failure, with something said before its message.
    pub(crate) fn after(self, said: &str) -> Failure {
        let with = |message: String| format!("{said}{message}");
        match self {
            Failure::Run(message) => Failure::Run(with(message)),
            Failure::Usage(message) => Failure::Usage(with(message)),
            Failure::Unreachable(message) => Failure::Unreachable(with(message)),
            Failure::Unauthorized(message) => Failure::Unauthorized(with(message)),
            Failure::NotFound(message) => Failure::NotFound(with(message)),
            Failure::Busy(message) => Failure::Busy(with(message)),
        }
    }

    /// What to say to a program, in the shape of the host's own refusals.
    pub(crate) fn json(&self) -> String {
        let (code, message) = self.parts();
        let shape = Shape { error: Inner { code, message } };
        // Two texts always have a JSON form.
        serde_json::to_string(&shape).unwrap_or_default()
    }
}

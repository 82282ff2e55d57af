//! Why a command failed, and its exit code. A code means the same for every command;
//! `docs/commands.md` lists them.

use crate::json::{ErrorDetailJson, ErrorJson};

/// What a command returns.
pub(crate) type CommandResult<T = ()> = Result<T, CommandError>;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CommandError {
    /// The command line, the configuration or the input is wrong.
    Usage(String),
    /// It was tried and failed.
    Run(String),
    /// No host answers at the URL, or only a proxy in front of it.
    Unreachable(String),
    /// The API key is missing, unknown, or not of somebody who may do this.
    Unauthorized(String),
    /// Nothing has this name.
    NotFound(String),
    /// It may succeed later.
    Busy(String),
}

impl CommandError {
    /// What a refusal with this status of HTTP means.
    pub(crate) fn of_status(status: u16, message: String) -> CommandError {
        match status {
            400 | 413 | 415 | 422 => CommandError::Usage(message),
            401 | 403 => CommandError::Unauthorized(message),
            404 => CommandError::NotFound(message),
            429 | 503 => CommandError::Busy(message),
            502 | 504 => CommandError::Unreachable(message),
            _ => CommandError::Run(message),
        }
    }

    fn parts(&self) -> (u8, &'static str, &str) {
        match self {
            CommandError::Run(message) => (1, "failed", message),
            CommandError::Usage(message) => (2, "usage", message),
            CommandError::Unreachable(message) => (3, "unreachable", message),
            CommandError::Unauthorized(message) => (4, "unauthorized", message),
            CommandError::NotFound(message) => (5, "not_found", message),
            CommandError::Busy(message) => (6, "busy", message),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.parts().0
    }

    /// The message for a person.
    pub(crate) fn message(&self) -> &str {
        self.parts().2
    }

    /// The same error, with another message.
    pub(crate) fn map(self, with: impl FnOnce(String) -> String) -> CommandError {
        match self {
            CommandError::Run(message) => CommandError::Run(with(message)),
            CommandError::Usage(message) => CommandError::Usage(with(message)),
            CommandError::Unreachable(message) => CommandError::Unreachable(with(message)),
            CommandError::Unauthorized(message) => CommandError::Unauthorized(with(message)),
            CommandError::NotFound(message) => CommandError::NotFound(with(message)),
            CommandError::Busy(message) => CommandError::Busy(with(message)),
        }
    }

    /// The error as JSON, in the shape of the errors of the host.
    pub(crate) fn json(&self) -> String {
        let (_, code, message) = self.parts();
        let (code, message) = (code.to_owned(), message.to_owned());
        let error = ErrorJson { error: ErrorDetailJson { code, message, field: None } };
        // Strings always serialize.
        serde_json::to_string(&error).unwrap_or_default()
    }
}

impl From<wabahook::Error> for CommandError {
    fn from(error: wabahook::Error) -> CommandError {
        match error {
            wabahook::Error::InUse { .. } => CommandError::Busy(error.to_string()),
            _ => CommandError::Run(error.to_string()),
        }
    }
}

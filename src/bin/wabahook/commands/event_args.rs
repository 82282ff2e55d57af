//! The event that a command is given: in a file, or as a payload in a file with the rest on the command line.
//! The text of a payload is never changed.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::value::RawValue;

use crate::command_error::{CommandError, CommandResult};
use crate::json::EventJson;

/// An event on the command line.
#[derive(Args)]
pub(crate) struct EventArgs {
    /// The file to read; - is stdin. Without --type, each line is an event:
    /// {"type","number" or "waba","payload","key"?,"dedup_key"?}
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) file: PathBuf,
    /// The type of one event, of which the whole file is the payload
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// The WABA number of the event
    #[arg(long, requires = "kind", conflicts_with = "waba")]
    number: Option<String>,
    /// The WABA, for an event without a number
    #[arg(long, requires = "kind")]
    waba: Option<String>,
    /// The key that ordered webhooks order by
    #[arg(long, requires = "kind")]
    key: Option<String>,
    /// The idempotency key: an event with the same one is accepted once
    #[arg(long, requires = "kind")]
    dedup_key: Option<String>,
}

impl EventArgs {
    /// The file, and its length if it has one.
    pub(crate) fn open(&self) -> CommandResult<(Box<dyn BufRead>, Option<u64>)> {
        if self.file == Path::new("-") {
            return Ok((Box::new(BufReader::new(io::stdin())), None));
        }
        let file = File::open(&self.file).map_err(|error| self.unreadable(&error))?;
        let length = file.metadata().ok().map(|metadata| metadata.len());
        Ok((Box::new(BufReader::new(file)), length))
    }

    pub(crate) fn unreadable(&self, error: &io::Error) -> CommandError {
        CommandError::Usage(format!("{}: cannot be read: {error}", self.file.display()))
    }

    /// The body of a request with the one event. Without a type on the command line it is what the file has.
    pub(crate) fn body(&self, mut source: impl Read) -> CommandResult<Vec<u8>> {
        let mut read = Vec::new();
        source.read_to_end(&mut read).map_err(|error| self.unreadable(&error))?;
        let Some(kind) = &self.kind else { return Ok(read) };
        let text = read.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&read);
        let payload: &RawValue = serde_json::from_slice(text).map_err(|error| {
            let file = self.file.display();
            CommandError::Usage(format!("{file}: the payload is not JSON: {error}"))
        })?;
        if self.number.is_none() && self.waba.is_none() {
            let message = "an event needs --number or --waba";
            return Err(CommandError::Usage(message.to_owned()));
        }
        let event = EventJson {
            event_type: kind.into(),
            number: self.number.as_deref().map(Cow::from),
            waba: self.waba.as_deref().map(Cow::from),
            key: self.key.as_deref().map(Cow::from),
            dedup_key: self.dedup_key.as_deref().map(Cow::from),
            payload,
        };
        serde_json::to_vec(&event).map_err(|error| CommandError::Run(error.to_string()))
    }
}

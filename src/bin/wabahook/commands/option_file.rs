//! The files that options name.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::command_error::{CommandError, CommandResult};
use crate::json::parse;

/// The text of the file that an option names.
pub(crate) fn file_text(option: &str, file: &Path) -> CommandResult<String> {
    std::fs::read_to_string(file)
        .map_err(|error| CommandError::Usage(format!("{option}: {}: {error}", file.display())))
}

/// The JSON of `--settings`; what changes nothing where it is not given.
pub(crate) fn settings<T: DeserializeOwned + Default>(file: Option<&Path>) -> CommandResult<T> {
    let Some(file) = file else { return Ok(T::default()) };
    parse(&file_text("--settings", file)?).map_err(|problem| {
        CommandError::Usage(format!("--settings: {}: {}", file.display(), problem.message))
    })
}

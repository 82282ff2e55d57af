//! The commands, one file each. Output for programs goes to stdout, everything else to stderr.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod completions;
pub(crate) mod dead;
pub(crate) mod deliveries;
pub(crate) mod event_args;
pub(crate) mod find;
pub(crate) mod health;
pub(crate) mod inspect;
pub(crate) mod migrate;
pub(crate) mod operator;
pub(crate) mod option_file;
pub(crate) mod publish;
pub(crate) mod scratch;
pub(crate) mod screen;
pub(crate) mod secret;
pub(crate) mod stats;
pub(crate) mod tail;
pub(crate) mod times;
pub(crate) mod verify;
pub(crate) mod webhooks;

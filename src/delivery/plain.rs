//! Decides what stands in the place of TLS in a build without the feature `tls`: nothing.
//!
//! Leaves to others: refusing https:// when it is registered (`guard`). Invariant: nothing that was
//! to be encrypted is sent in the clear.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use http::Uri;

use super::connection::Connection;
use crate::config::Roots;
use crate::error::{Error, Result};
use crate::subscription::Tls;

/// The only way of showing oneself: not at all.
pub(super) struct Identity;

impl Identity {
    pub(super) fn number(&self) -> u64 {
        0
    }

    pub(super) fn secured(
        &self,
        connection: Connection,
        is_https: bool,
        _url: &Uri,
        _until_ms: u64,
    ) -> io::Result<Connection> {
        if is_https { Err(ErrorKind::Unsupported.into()) } else { Ok(connection) }
    }
}

#[derive(Debug)]
pub(super) struct Identities;

impl Identities {
    pub(super) fn new(_roots: Roots) -> Identities {
        Identities
    }

    pub(super) fn identity(&self, _tls: Option<&Tls>) -> Result<Arc<Identity>> {
        Ok(Arc::new(Identity))
    }
}

pub(super) fn check(_tls: &Tls) -> Result<()> {
    let expected = "no TLS setting: wabahook was built without the feature tls";
    Err(Error::invalid("tls", "[not shown]", expected))
}

pub(super) fn check_roots(_roots: &Roots) -> Result<()> {
    Ok(())
}

pub(super) fn word_of(_error: &io::Error) -> Option<&'static str> {
    None
}

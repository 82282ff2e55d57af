//! The types of `tls` in a build without that feature: they have no values or refuse, so nothing that should be
//! encrypted is sent in the clear. `guard` refuses https:// targets when they are registered.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use super::http1::{OutgoingRequest, Sending};
use crate::error::{Error, Result};
use crate::network::Roots;
use crate::subscription::Tls;

/// A connection without TLS.
pub(super) struct Identity;

/// A TLS session, which cannot exist.
pub(super) enum TlsSession {}

impl TlsSession {
    pub(super) fn is_handshaking(&self) -> bool {
        match *self {}
    }

    pub(super) fn is_closed(&self) -> bool {
        match *self {}
    }

    pub(super) fn has_leftover(&self) -> bool {
        match *self {}
    }

    pub(super) fn flush(&mut self, _socket: &mut impl Write) -> io::Result<Sending> {
        match *self {}
    }

    pub(super) fn send(
        &mut self,
        _socket: &mut impl Write,
        _request: &OutgoingRequest,
        _sent: &mut usize,
    ) -> io::Result<Sending> {
        match *self {}
    }

    pub(super) fn take_in(
        &mut self,
        _bytes: &[u8],
        _read: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        match *self {}
    }
}

impl Identity {
    pub(super) fn session(&self, _host: &str) -> io::Result<TlsSession> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(super) fn number(&self) -> u64 {
        0
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

pub(super) fn digest(_tls: &Tls) -> [u8; 32] {
    [0; 32]
}

pub(super) fn check_roots(_roots: &Roots) -> Result<()> {
    Ok(())
}

pub(super) fn word_of(_error: &io::Error) -> Option<&'static str> {
    None
}

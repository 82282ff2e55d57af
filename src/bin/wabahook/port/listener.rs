//! The socket that clients connect to: one that a supervisor kept open over a restart (`LISTEN_FDS`), or a new
//! one. With a kept socket the connections that come during a restart wait in its queue, and none is refused.

use std::io;
use std::net::{SocketAddr, TcpListener};

/// How many connections may wait to be accepted. The system may allow fewer (`net.core.somaxconn`).
const QUEUE_MAX: i32 = 4_096;

/// The socket that a supervisor passed to this process, if any.
///
/// # Errors
/// The passed file is not a TCP socket.
pub(crate) fn inherited() -> io::Result<Option<TcpListener>> {
    let mut passed = listenfd::ListenFd::from_env();
    match passed.len() {
        0 => Ok(None),
        _ => passed.take_tcp_listener(0),
    }
}

/// Whether the process or the system has no file left.
#[cfg(unix)]
pub(super) fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].iter().any(|one| error.raw_os_error() == Some(one.raw_os_error()))
}

#[cfg(not(unix))]
pub(super) fn is_out_of_files(_error: &io::Error) -> bool {
    false
}

/// A new socket.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // With a short queue, clients of a busy host would have to connect again.
    #[cfg(unix)]
    rustix::net::listen(&listener, QUEUE_MAX)?;
    Ok(listener)
}

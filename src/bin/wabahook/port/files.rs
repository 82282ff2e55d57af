//! How the files that the process may open are shared: a quarter for connections of clients, three eighths for
//! attempts in flight. The engine keeps at most a quarter as idle connections, and the rest is for the store. So
//! receivers that hang never leave clients without a file, nor the other way round.

/// The most connections of clients by default: their buffers could take 128 MiB.
const INBOUND_MAX: u64 = 2_048;
const OUTBOUND_MAX: u64 = 16_384;
const LEAST: u64 = 16;

/// How many files each side may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileShares {
    /// Connections of clients.
    pub(crate) inbound: usize,
    /// Attempts in flight.
    pub(crate) outbound: usize,
}

impl FileShares {
    /// The shares of the present limit of open files.
    pub(crate) fn now() -> FileShares {
        FileShares::of(soft_limit())
    }

    fn of(files: Option<u64>) -> FileShares {
        let files = files.unwrap_or(u64::MAX);
        let count = |files: u64| usize::try_from(files).unwrap_or(usize::MAX);
        FileShares {
            inbound: count((files / 4).clamp(LEAST, INBOUND_MAX)),
            outbound: count((files / 8).saturating_mul(3).clamp(LEAST, OUTBOUND_MAX)),
        }
    }
}

#[cfg(unix)]
fn soft_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
fn soft_limit() -> Option<u64> {
    None
}

/// Raises the soft limit of open files to the hard limit.
#[cfg(unix)]
pub(crate) fn raise_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(not(unix))]
pub(crate) fn raise_limit() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_a_share_of_the_files() {
        let shares = |inbound, outbound| FileShares { inbound, outbound };
        assert_eq!(FileShares::of(Some(256)), shares(64, 96));
        assert_eq!(FileShares::of(Some(1_024)), shares(256, 384));
        assert_eq!(FileShares::of(Some(1 << 20)), shares(2_048, 16_384));
        assert_eq!(FileShares::of(None), shares(2_048, 16_384));
        assert_eq!(FileShares::of(Some(8)), shares(16, 16));
    }
}

//! The process's limit of open files, from which the bound on attempts in flight follows: each takes a socket.

use std::io;

/// The part of the limit that attempts may use, as a fraction. The rest is for the store, for look-ups and for the
/// host's own connections.
const SHARE: (u64, u64) = (3, 4);

/// The least and the most. More in flight would take more memory than it is worth.
const LEAST: u64 = 16;
const MOST: u64 = 16_384;

/// How many attempts may be in flight under the present limit of open files.
pub(crate) fn in_flight_max() -> usize {
    usize::try_from(share_of(soft_limit())).unwrap_or(usize::MAX)
}

fn share_of(files: Option<u64>) -> u64 {
    files.map_or(MOST, |files| (files / SHARE.1).saturating_mul(SHARE.0)).clamp(LEAST, MOST)
}

/// The soft limit of open files; `None` if it is unlimited or unknown.
#[cfg(unix)]
pub(crate) fn soft_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
pub(crate) fn soft_limit() -> Option<u64> {
    None
}

/// Whether the process, or the system, may open no more files.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    cfg!(unix) && matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_use_three_quarters_of_the_files_within_bounds() {
        assert_eq!(share_of(Some(256)), 192);
        assert_eq!(share_of(Some(1_024)), 768);
        assert_eq!((share_of(Some(8)), share_of(Some(1 << 20))), (16, 16_384));
        assert_eq!(share_of(None), 16_384);
    }
}

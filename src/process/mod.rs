//! What the library takes of the process that it runs in: named threads, the limit of open files, and a thread for the
//! host's own code.

pub(crate) mod file_limit;
mod host_calls;
pub(crate) mod threads;

pub(crate) use self::host_calls::HostCalls;

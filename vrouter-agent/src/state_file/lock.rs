//! The lock on a state directory. The kernel drops it with the process, however that ends. The only unsafe code of
//! what acts for the overlay: the standard library's own lock is younger than the compiler we promise.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Held while it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// `WouldBlock`: another process holds it.
    pub(super) fn take(file: File) -> io::Result<Lock> {
        // SAFETY: flock(2) takes a descriptor, which `file` keeps open, and touches no memory of ours.
        match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
            0 => Ok(Lock { _file: file }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

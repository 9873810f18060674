//! Synchronising a whole file system: the standard library has no word for it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// All that was written to the file system of this file is on disk when this returns.
pub(super) fn file_system(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call, which takes nothing else.
    match unsafe { libc::syncfs(file.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

//! Holding one thread of another process, as a debugger does, while the others go on.

use std::io;
use std::marker::PhantomData;
use std::ptr;

use super::check;

/// A thread that does nothing until this is dropped. The kernel wants the same thread of ours for all of it.
pub struct Held {
    thread: libc::pid_t,
    here: PhantomData<*const ()>,
}

/// Stops a thread, by its number in `/proc/<process>/task`.
///
/// # Errors
/// When there is none, or somebody else holds it.
pub fn hold(thread: u32) -> io::Result<Held> {
    let thread = libc::pid_t::try_from(thread).map_err(io::Error::other)?;
    let nothing: *mut libc::c_void = ptr::null_mut();
    // SAFETY: seizing reads and writes no memory of ours.
    check_long(unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, nothing, nothing) })?;
    let held = Held { thread, here: PhantomData };
    // SAFETY: as above.
    check_long(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, nothing, nothing) })?;
    // SAFETY: the status is not asked for.
    check(unsafe { libc::waitpid(thread, ptr::null_mut(), libc::__WALL) })?;
    Ok(held)
}

impl Drop for Held {
    fn drop(&mut self) {
        let nothing: *mut libc::c_void = ptr::null_mut();
        // SAFETY: detaching touches no memory of ours; a thread that has gone needs none.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.thread, nothing, nothing) };
    }
}

fn check_long(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

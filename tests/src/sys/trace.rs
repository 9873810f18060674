//! ptrace(2), as far as following another process's system calls takes. All of it is bound to the calling thread: only
//! the thread that seized another may wait for it and let it go on.

use std::io;

/// A stopped thread, and why it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It is about to make a system call, or back from one.
    Call,
    /// It is to get this signal.
    Signal(libc::c_int),
    /// It was told to stop, has made a thread, or has just been made.
    Event,
    /// It has ended, with this status as waitpid(2) has it.
    Ended(libc::c_int),
}

/// A system call that a thread is about to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Which: one of libc's `SYS_…`.
    pub number: libc::c_long,
    /// With what.
    pub arguments: [u64; 6],
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn pid(thread: u32) -> io::Result<libc::pid_t> {
    libc::pid_t::try_from(thread).map_err(io::Error::other)
}

/// Follows a thread of another process, and every thread that it makes. It is not stopped by this.
pub fn seize(thread: u32) -> io::Result<()> {
    let none: *mut libc::c_void = std::ptr::null_mut();
    let options: libc::c_long = (libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE).into();
    // SAFETY: PTRACE_SEIZE takes a number, no address, and its options by value.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid(thread)?, none, options) }).map(drop)
}

/// Stops a thread that was seized.
pub fn interrupt(thread: u32) -> io::Result<()> {
    let none: *mut libc::c_void = std::ptr::null_mut();
    // SAFETY: PTRACE_INTERRUPT takes a number and nothing else.
    check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid(thread)?, none, none) }).map(drop)
}

/// Lets a stopped thread go on to its next system call, with this signal; 0: with none.
pub fn go_on(thread: u32, signal: libc::c_int) -> io::Result<()> {
    let (none, signal): (*mut libc::c_void, libc::c_long) = (std::ptr::null_mut(), signal.into());
    // SAFETY: PTRACE_SYSCALL takes a number, no address, and the signal by value.
    check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid(thread)?, none, signal) }).map(drop)
}

/// The call before which a thread stands; `None`: it is back from one.
pub fn call(thread: u32) -> io::Result<Option<Call>> {
    // struct ptrace_syscall_info (ptrace(2)): op, 3 octets, arch; instruction and stack pointer; number and arguments.
    let mut words = [0_u64; 11];
    let size = std::mem::size_of_val(&words);
    let pid = pid(thread)?;
    // SAFETY: the kernel writes at most `size` octets into `words`, which lives until the call returns.
    check(unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, words.as_mut_ptr()) })?;
    let [head, _, _, number, a, b, c, d, e, f, _] = words;
    if head.to_ne_bytes()[0] != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    let number = libc::c_long::try_from(number).map_err(io::Error::other)?;
    Ok(Some(Call { number, arguments: [a, b, c, d, e, f] }))
}

/// A followed thread that has stopped; `None`: all run.
pub fn stopped() -> io::Result<Option<(u32, Stop)>> {
    let mut status = 0;
    let flags = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
    // SAFETY: the kernel writes one `c_int`, which lives until the call returns.
    let thread = check(unsafe { libc::waitpid(-1, &raw mut status, flags) }.into())?;
    let Some(thread) = u32::try_from(thread).ok().filter(|thread| *thread > 0) else { return Ok(None) };
    if !libc::WIFSTOPPED(status) {
        return Ok(Some((thread, Stop::Ended(status))));
    }
    let stop = match (libc::WSTOPSIG(status), status >> 16) {
        (signal, 0) if signal == libc::SIGTRAP | 0x80 => Stop::Call,
        (signal, 0) => Stop::Signal(signal),
        _ => Stop::Event,
    };
    Ok(Some((thread, stop)))
}

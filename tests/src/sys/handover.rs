//! Descriptors between processes: received with a datagram, and handed to a program where systemd would put them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::check;

/// The first descriptor that sd_listen_fds(3) looks at.
const FIRST: RawFd = 3;
/// Descriptors that one datagram may bring; we send one.
const MOST: usize = 16;

/// Receives a datagram with the descriptors that came with it. They are closed when another program is executed.
pub fn receive_with_fds(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // Of a type with the alignment that a cmsghdr needs.
    let mut control = [0_u64; 32];
    // SAFETY: all zeros is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the header points to live memory of the lengths given, exclusively ours.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let Ok(length) = usize::try_from(length) else { return Err(io::Error::last_os_error()) };
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the control buffer, which the macros walk within its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the macros return null or a header within the buffer.
        let (level, kind, size) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len) };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: takes and touches no memory.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (size - empty) / size_of::<RawFd>();
            for place in 0..count.min(MOST) {
                // SAFETY: the data of this header holds `count` descriptors, which the kernel has just opened for us.
                fds.push(unsafe {
                    let fd = libc::CMSG_DATA(header).cast::<RawFd>().add(place).read_unaligned();
                    OwnedFd::from_raw_fd(fd)
                });
            }
        }
        // SAFETY: `header` came from these macros and lies within the buffer.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok((length, fds))
}

/// Lets a command find these descriptors at 3, 4, 5 …
pub fn hand_over(command: &mut Command, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let above = FIRST + RawFd::try_from(fds.len()).map_err(io::Error::other)?;
    let raised = fds.iter().map(|fd| raise(*fd, above)).collect::<io::Result<Vec<OwnedFd>>>()?;
    let place = move || {
        for (target, fd) in (FIRST..).zip(&raised) {
            // SAFETY: takes and touches no memory; the copy is not closed by exec.
            check(unsafe { libc::dup2(fd.as_raw_fd(), target) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec this calls dup2 only, which is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(place) };
    Ok(())
}

/// A copy with a number of at least `least`.
fn raise(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes and touches no memory.
    let copy = check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: the descriptor is fresh and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

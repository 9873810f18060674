//! What the kernel's refusals mean for what is sent next.

use std::io;

use dataplane_core::DropReason;

use super::Target;

/// What to do after the kernel refused a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The same message again: the error was about something else.
    Again,
    /// Drop this message and go on.
    Drop(DropReason),
    /// Drop all that is left of the queue.
    DropAll(DropReason),
    /// Send its datagrams one by one from now on.
    Split,
}

pub(super) fn judge(error: &io::Error, segment: u16) -> Refusal {
    match error.raw_os_error().unwrap_or(0) {
        libc::EINTR => Refusal::Again,
        // The socket's own queue is full: so it is for the next message.
        libc::EAGAIN => Refusal::DropAll(DropReason::QueueFull),
        libc::ENOBUFS | libc::ENOMEM => Refusal::Drop(DropReason::QueueFull),
        libc::ENETDOWN | libc::ENXIO | libc::ENODEV => Refusal::DropAll(DropReason::PortNotOpen),
        libc::EMSGSIZE => Refusal::Drop(DropReason::TooBig),
        // EIO: the way out cannot complete checksums. EINVAL: the kernel cannot segment.
        libc::EIO | libc::EINVAL if segment != 0 => Refusal::Split,
        _ => Refusal::Drop(DropReason::SendFailed),
    }
}

/// Whether an error may be about something sent before: a connected socket tells of what routers and the far end have
/// said since, once, and sends nothing that time.
pub(super) fn may_be_old(target: Target, error: &io::Error) -> bool {
    let own = [libc::EAGAIN, libc::ENOBUFS, libc::ENOMEM, libc::EIO, libc::EINVAL];
    matches!(target, Target::Connected(..)) && !own.contains(&error.raw_os_error().unwrap_or(0))
}

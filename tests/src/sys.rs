//! The system calls that the standard library and `socket2` lack, each behind a safe function. Nothing here knows what
//! a lab is. With the modules below the only files of this crate with unsafe code.

pub mod handover;
pub mod hold;
pub mod mounts;
pub mod trace;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Whether this process may make namespaces.
pub fn is_root() -> bool {
    // SAFETY: takes and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// Gives the calling thread a network namespace of its own.
pub fn unshare_net() -> io::Result<()> {
    // SAFETY: takes and touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Moves the calling thread into the network namespace behind this file.
pub fn set_net_ns(netns: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open while `netns` is borrowed.
    check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Mounts a file over another.
pub fn bind_mount(source: &Path, target: &Path) -> io::Result<()> {
    let (source, target) = (c_path(source)?, c_path(target)?);
    let (none, flags) = (std::ptr::null(), libc::MS_BIND);
    // SAFETY: both paths are NUL-terminated and outlive the call; type and data may be null for a bind mount.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), none, flags, none.cast()) }).map(drop)
}

/// Undoes a mount, at once for the name and as soon as it is unused for the rest.
pub fn unmount(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// Sends a signal to one process.
pub fn kill(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    if pid <= 1 {
        return Err(io::Error::other("refusing to signal a group or init"));
    }
    // SAFETY: takes and touches no memory.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Whether a process of this number exists.
pub fn is_alive(pid: u32) -> bool {
    match kill(pid, 0) {
        Ok(()) => true,
        Err(error) => error.raw_os_error() == Some(libc::EPERM),
    }
}

/// Makes a tap device in the calling thread's namespace that stays when its maker is gone.
pub fn create_tap(name: &str) -> io::Result<()> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::other("interface name too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives until the call returns.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let persist: libc::c_int = 1;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST, persist) }).map(drop)
}

/// Opens a packet socket on one interface of the calling thread's namespace. Every read is one frame, whatever its
/// direction; every write sends one. Reads end with `WouldBlock` after the timeout, at once where that is zero.
pub fn packet_socket(ifindex: u32, timeout: Duration) -> io::Result<File> {
    let protocol = libc::c_int::from(u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be());
    // SAFETY: takes and touches no memory.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the descriptor is fresh and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeros is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: `address` is a `sockaddr_ll` of this length and outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    let socket = socket2::Socket::from(socket);
    if timeout.is_zero() {
        socket.set_nonblocking(true)?;
    } else {
        socket.set_read_timeout(Some(timeout))?;
    }
    socket.set_recv_buffer_size(8 << 20)?;
    Ok(File::from(OwnedFd::from(socket)))
}

/// Waits until something can be read: `false` after the timeout.
pub fn wait_readable(file: &impl AsRawFd, timeout: Duration) -> bool {
    let mut wanted = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the one entry that it is told of outlives the call.
    unsafe { libc::poll(&raw mut wanted, 1, timeout) > 0 }
}

/// Makes a datagram socket refuse what is larger than the path takes, as far as the kernel has learned it.
pub fn forbid_fragments(socket: &UdpSocket) -> io::Result<()> {
    let (level, option, value) = if socket.local_addr()?.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    };
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the value is a `c_int` of this length and outlives the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) })
        .map(drop)
}

/// Makes a packet socket take every frame behind a virtio-net header, as our own ports do.
pub fn carry_offloads(socket: &File) -> io::Result<()> {
    // Not in the libc crate: uapi linux/if_packet.h.
    packet_option(socket, 15)
}

/// Keeps from a packet socket what leaves by its interface.
pub fn ignore_outgoing(socket: &File) -> io::Result<()> {
    packet_option(socket, 23)
}

fn packet_option(socket: &File, option: libc::c_int) -> io::Result<()> {
    let (on, length) = (1, libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?);
    let value: *const libc::c_int = &raw const on;
    // SAFETY: the value is a `c_int` of this length and outlives the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, value.cast(), length) })
        .map(drop)
}

/// Datagrams handed to the kernel, or taken from it, in one call.
pub const BATCH: usize = 64;
const BATCH_C: libc::c_uint = 64;

/// Gives a socket a receive buffer of 8 MB, beyond what the administrator allows where the kernel lets us.
pub fn grow_receive_buffer(socket: &UdpSocket) {
    let (size, length): (libc::c_int, libc::socklen_t) = (8 << 20, 4);
    // SAFETY: the option's value is a `c_int` of four octets that outlives the call.
    unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE);
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const size).cast(), length);
    }
}

/// Sends the beginning of `payload` through a connected socket, once per size and [`BATCH`] times at most, and says how
/// often the kernel took it.
pub fn send_many<'s>(
    socket: &UdpSocket,
    payload: &[u8],
    sizes: impl Iterator<Item = &'s usize>,
) -> io::Result<u64> {
    // SAFETY: all zeros is a valid `iovec` and a valid `mmsghdr`.
    let (mut iovs, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { (zeroed(), zeroed()) };
    let mut count: libc::c_uint = 0;
    for ((iov, message), size) in iovs.iter_mut().zip(&mut messages).zip(sizes) {
        iov.iov_base = payload.as_ptr().cast_mut().cast();
        iov.iov_len = payload.len().min(*size);
        message.msg_hdr.msg_iov = iov;
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: the first `count` headers point each to its own `iovec` and that into `payload`; all outlive the call and
    // are only read.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    if let Ok(sent) = u64::try_from(sent) {
        return Ok(sent);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Not now; or the other end's socket is not there yet.
        Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR | libc::ECONNREFUSED) => Ok(0),
        _ => Err(error),
    }
}

/// Takes up to [`BATCH`] datagrams of at most 2048 octets, and says how many had one of these sizes.
pub fn receive_many(socket: &UdpSocket, wanted: &[usize]) -> io::Result<u64> {
    let mut buffers = [[0_u8; 2048]; BATCH];
    // SAFETY: all zeros is a valid `iovec` and a valid `mmsghdr`.
    let (mut iovs, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { (zeroed(), zeroed()) };
    for ((buffer, iov), message) in buffers.iter_mut().zip(&mut iovs).zip(&mut messages) {
        iov.iov_base = buffer.as_mut_ptr().cast();
        iov.iov_len = buffer.len();
        message.msg_hdr.msg_iov = iov;
        message.msg_hdr.msg_iovlen = 1;
    }
    let (flags, patience) = (libc::MSG_WAITFORONE, std::ptr::null_mut());
    // SAFETY: every header points to its own `iovec` and that to its own buffer; all outlive the call.
    let received =
        unsafe { libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH_C, flags, patience) };
    let Ok(received) = usize::try_from(received) else { return Err(io::Error::last_os_error()) };
    let sizes = messages.iter().take(received).filter_map(|message| usize::try_from(message.msg_len).ok());
    Ok(sizes.filter(|length| wanted.contains(length)).map(|_| 1).sum())
}

//! What a descriptor that somebody handed us really is; and memory that can be handed on.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use socket2::{Domain, Socket, Type};

use super::{IfIndex, check, size};

/// Not in the libc crate for every target: asm-generic/socket.h.
const SO_NETNS_COOKIE: i32 = 71;

/// The interface that a packet socket is bound to; `None`: not bound to one for every protocol.
pub(crate) fn packet_binding(fd: BorrowedFd<'_>) -> io::Result<Option<IfIndex>> {
    // SAFETY: all-zero octets are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut len = size::<libc::sockaddr_ll>();
    // SAFETY: both pointers are to live locals, and the length is that of the first.
    let result = unsafe {
        libc::getsockname(fd.as_raw_fd(), ptr::from_mut(&mut address).cast(), ptr::from_mut(&mut len))
    };
    check(result)?;
    let is_packet = i32::from(address.sll_family) == libc::AF_PACKET;
    let is_every = address.sll_protocol == super::ALL_PROTOCOLS;
    // A socket whose interface has gone is bound to -1.
    let index = IfIndex::try_from(address.sll_ifindex).ok().filter(|index| *index != 0);
    Ok(index.filter(|_| is_packet && is_every))
}

/// The name and the flags of the tun interface that a descriptor serves.
pub(crate) fn tun_interface(fd: BorrowedFd<'_>) -> io::Result<(String, i32)> {
    // SAFETY: all-zero octets are a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // SAFETY: TUNGETIFF fills the ifreq that it is given; other files than /dev/net/tun's refuse it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, ptr::from_mut(&mut request)) })?;
    let name = request.ifr_name.iter().map(|octet| octet.to_ne_bytes()[0]).take_while(|octet| *octet != 0);
    // SAFETY: the call above has filled the flags; they are plain integers.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned(), i32::from(flags)))
}

/// A file that is memory, and goes with its last descriptor.
pub fn memory_file(name: &CStr) -> io::Result<File> {
    // SAFETY: the name ends in a zero octet and outlives the call.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the call returned this descriptor just now, and nobody else has it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// This thread's network namespace. Kernels before 5.14 cannot say.
pub(crate) fn own_namespace() -> Option<u64> {
    let own = Socket::new(Domain::IPV4, Type::DGRAM, None).ok()?;
    namespace(own.as_fd())
}

/// The network namespace that a socket belongs to.
pub(crate) fn namespace(fd: BorrowedFd<'_>) -> Option<u64> {
    let (mut value, mut len) = (0u64, size::<u64>());
    // SAFETY: both pointers are to live locals of the sizes given.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            ptr::from_mut(&mut value).cast(),
            ptr::from_mut(&mut len),
        )
    };
    (result == 0).then_some(value)
}

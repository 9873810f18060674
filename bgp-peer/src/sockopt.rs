//! The one socket option that no safe interface has: keys for TCP MD5 signatures (RFC 2385).
//!
//! ```text
//!  struct tcp_md5sig (linux/tcp.h)
//!  +------------------------------+-------+-----------+---------+---------+----------+
//!  | address of the neighbor, 128 | flags | prefixlen | key len | ifindex | key, 80  |
//!  +------------------------------+-------+-----------+---------+---------+----------+
//! ```
//! A key belongs to a neighbor's address, not to a connection: the listening socket holds those of all neighbors.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::SockAddr;

#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; MAX_KEY],
}

/// Lets the kernel sign what goes to this neighbor, and refuse what comes from it unsigned. `over_ipv6`: the socket is
/// an IPv6 one, which knows IPv4 neighbors by their mapped addresses.
pub(crate) fn set_md5_key(
    socket: BorrowedFd<'_>,
    neighbor: IpAddr,
    over_ipv6: bool,
    key: &[u8],
) -> io::Result<()> {
    let address = match neighbor {
        IpAddr::V4(address) if over_ipv6 => IpAddr::V6(address.to_ipv6_mapped()),
        address => address,
    };
    let mut octets = [0; MAX_KEY];
    let (Some(place), Ok(key_length)) = (octets.get_mut(..key.len()), u16::try_from(key.len())) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    place.copy_from_slice(key);
    // SAFETY: SockAddr holds a whole sockaddr_storage, of which its length says how much is in use.
    let storage = unsafe {
        SockAddr::from(SocketAddr::new(address, 0)).as_ptr().cast::<libc::sockaddr_storage>().read()
    };
    let option =
        TcpMd5Sig { address: storage, flags: 0, prefix_length: 0, key_length, interface: 0, key: octets };
    let length = libc::socklen_t::try_from(size_of::<TcpMd5Sig>()).unwrap_or_default();
    // SAFETY: the descriptor is borrowed and thus open; the pointer and the length describe `option`, which the kernel
    // only reads.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MD5SIG,
            (&raw const option).cast::<libc::c_void>(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const MAX_KEY: usize = 80;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn layout_is_the_kernels() {
        assert_eq!(size_of::<TcpMd5Sig>(), 216);
        assert_eq!(std::mem::offset_of!(TcpMd5Sig, key_length), 130);
        assert_eq!(std::mem::offset_of!(TcpMd5Sig, key), 136);
    }

    #[test]
    fn key_too_long_is_refused_before_the_kernel_sees_it() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let refused = set_md5_key(socket.as_fd(), IpAddr::from([127, 0, 0, 1]), false, &[0; 81]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}

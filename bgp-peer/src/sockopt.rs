//! What the kernel and libc offer and no safe interface has: keys for TCP MD5 signatures (RFC 2385), the smallest TTL that
//! is let in (RFC 5082), and giving memory back.
//!
//! ```text
//!  struct tcp_md5sig (linux/tcp.h)
//!  +------------------------------+-------+-----------+---------+---------+----------+
//!  | address of the neighbor, 128 | flags | prefixlen | key len | ifindex | key, 80  |
//!  +------------------------------+-------+-----------+---------+---------+----------+
//! ```
//! A key belongs to a neighbor's address, not to a connection: the listening socket holds those of all neighbors, and of
//! a prefix one for all of it. The longest prefix counts. An empty key takes the neighbor's away.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::SockAddr;
use vrouter_types::Prefix;

/// Gives free memory back to the system. After large tables glibc keeps as much as they were: what it gives back by
/// itself is measured by the largest block it ever freed. Other libcs keep less.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, touches free memory only, and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; MAX_KEY],
}

/// Lets the kernel sign what goes to these neighbors, and refuse what comes from them unsigned. `over_ipv6`: the socket
/// is an IPv6 one, which knows IPv4 neighbors by their mapped addresses.
pub(crate) fn set_md5_key(
    socket: BorrowedFd<'_>,
    neighbors: Prefix,
    over_ipv6: bool,
    key: &[u8],
) -> io::Result<()> {
    let (address, prefix_length) = match neighbors.addr() {
        std::net::IpAddr::V4(address) if over_ipv6 => {
            (std::net::IpAddr::V6(address.to_ipv6_mapped()), neighbors.len().saturating_add(96))
        }
        address => (address, neighbors.len()),
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
    // Kernels without prefixes (before 4.13) still take single neighbors.
    let (name, flags, prefix_length) = match neighbors.is_host() {
        true => (libc::TCP_MD5SIG, 0, 0),
        false => (libc::TCP_MD5SIG_EXT, HAS_PREFIX, prefix_length),
    };
    let option = TcpMd5Sig { address: storage, flags, prefix_length, key_length, interface: 0, key: octets };
    set(socket, libc::IPPROTO_TCP, name, &option)
}

/// Lets nothing in that comes from further away: every router takes one from the TTL (RFC 5082 §3).
pub(crate) fn set_min_ttl(socket: BorrowedFd<'_>, is_ipv6: bool, ttl: u8) -> io::Result<()> {
    let (level, name) = match is_ipv6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
        false => (libc::IPPROTO_IP, libc::IP_MINTTL),
    };
    set(socket, level, name, &libc::c_int::from(ttl))
}

fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default();
    // SAFETY: the descriptor is borrowed and thus open; the pointer and the length describe `value`, which the kernel
    // only reads.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast::<libc::c_void>(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// TCP_MD5SIG_FLAG_PREFIX (linux/tcp.h).
const HAS_PREFIX: u8 = 1;
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
        let neighbor = Prefix::host(std::net::IpAddr::from([127, 0, 0, 1]));
        let refused = set_md5_key(socket.as_fd(), neighbor, false, &[0; 81]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}

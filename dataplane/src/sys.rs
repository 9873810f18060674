//! System calls that neither the standard library nor socket2 covers: gathered batches with control messages,
//! interface ioctls, epoll. The crate's only unsafe code; everything offered here is safe to call.

use std::ffi::CString;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

mod inspect;

pub use inspect::memory_file;
pub(crate) use inspect::{namespace, own_namespace, packet_binding, tun_interface};

use crate::cmsg::{Message, Name, RECV_CONTROL, Received, SEND_CONTROL, To, read_control, write_controls};

/// Interface indexes are positive; zero names none.
pub(crate) type IfIndex = u32;

/// The kernel gathers at most so many pieces (UIO_MAXIOV).
pub(crate) const MAX_PIECES: usize = 1024;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn size<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of::<T>()).unwrap_or(0)
}

/// Sets an integer socket option.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value outlives the call and its size is given.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, ptr::from_ref(&value).cast(), size::<libc::c_int>())
    };
    check(result).map(drop)
}

/// Reads an integer socket option. Reading `SO_ERROR` clears it.
pub(crate) fn option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let (mut value, mut len) = (0i32, size::<libc::c_int>());
    // SAFETY: both pointers are to live locals of the sizes given.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_mut(&mut value).cast(),
            ptr::from_mut(&mut len),
        )
    };
    check(result).map(|_| value)
}

/// The index of an interface of this thread's network namespace.
pub(crate) fn if_index(name: &str) -> io::Result<IfIndex> {
    let name = CString::new(name)?;
    // SAFETY: the name ends in a zero octet and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Binds a packet socket to one interface, for every protocol.
pub(crate) fn bind_packet(fd: BorrowedFd<'_>, index: IfIndex) -> io::Result<()> {
    // SAFETY: all-zero octets are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = family(libc::AF_PACKET);
    address.sll_protocol = ALL_PROTOCOLS;
    address.sll_ifindex = i32::try_from(index).unwrap_or(0);
    // SAFETY: the address is a live local of the size given.
    let result =
        unsafe { libc::bind(fd.as_raw_fd(), ptr::from_ref(&address).cast(), size::<libc::sockaddr_ll>()) };
    check(result).map(drop)
}

fn family(family: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or(0)
}

fn flag_bits(flags: i32) -> libc::c_short {
    libc::c_short::try_from(flags).unwrap_or(0)
}

#[allow(clippy::unnecessary_cast, reason = "other C libraries have another type here")]
fn control_len(header: &libc::msghdr) -> usize {
    header.msg_controllen as usize
}

/// ETH_P_ALL in network order.
const ALL_PROTOCOLS: u16 = 0x0003u16.to_be();

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero octets are a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.bytes().any(|b| b == 0) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Sets flags of an interface (`IFF_UP`, `IFF_NOARP`) and leaves the others.
pub(crate) fn add_interface_flags(socket: BorrowedFd<'_>, name: &str, flags: i32) -> io::Result<()> {
    let mut request = interface_request(name)?;
    // SAFETY: SIOCGIFFLAGS fills the ifreq that it is given.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, ptr::from_mut(&mut request)) })?;
    // SAFETY: the call above has filled the flags; they are plain integers.
    let old = unsafe { request.ifr_ifru.ifru_flags };
    let new = old | flag_bits(flags);
    if new == old {
        return Ok(());
    }
    request.ifr_ifru.ifru_flags = new;
    // SAFETY: SIOCSIFFLAGS only reads the ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, ptr::from_ref(&request)) }).map(drop)
}

/// Makes the tun interface `name` with virtio-net headers, or takes over one that nobody holds.
pub(crate) fn open_tun(name: &str) -> io::Result<OwnedFd> {
    let path = c"/dev/net/tun";
    // SAFETY: the path ends in a zero octet.
    let fd = check(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
    // SAFETY: open returned this descriptor just now, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = flag_bits(libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
    // SAFETY: TUNSETIFF reads and fills the ifreq that it is given.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, ptr::from_mut(&mut request)) })?;
    Ok(fd)
}

/// Tells a tun interface what its reader takes.
pub(crate) fn set_tun_offload(fd: BorrowedFd<'_>, offload: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes an integer, no pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offload)) }).map(drop)
}

/// Lets this thread's sleeps end when they should, not up to 50 µs later.
pub(crate) fn sleep_exactly() {
    // SAFETY: takes integers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1000 as libc::c_ulong) };
}

/// Returns the pages that lie within these octets to the kernel. The octets become zeros.
pub(crate) fn give_back(octets: &mut [u8]) {
    let page = 4096;
    let skipped = octets.as_ptr().addr().wrapping_neg() % page;
    let Some(inner) = octets.get_mut(skipped..) else { return };
    let len = inner.len() - inner.len() % page;
    // SAFETY: the pages lie within memory that is exclusively ours, private and anonymous: any octets are valid there.
    // A kernel with larger pages refuses what is not aligned for it, and nothing changes.
    unsafe { libc::madvise(inner.as_mut_ptr().cast(), len, libc::MADV_DONTNEED) };
}

/// A counter that wakes an epoll.
pub(crate) fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: eventfd returned this descriptor just now, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What woke an epoll.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: u64,
    /// An error or a hang-up is pending.
    pub(crate) failed: bool,
}

/// A level-triggered epoll for readability.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

/// How many events one wait tells.
pub(crate) const EVENTS: usize = 64;

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: takes an integer only.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: epoll_create1 returned this descriptor just now, and nobody else has it.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), ptr::from_mut(&mut event))
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd.as_raw_fd(), ptr::null_mut())
    }

    fn control(&self, operation: i32, fd: RawFd, event: *mut libc::epoll_event) -> io::Result<()> {
        // SAFETY: the callers' event is a live local, or null for a removal, which needs none.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, event) }).map(drop)
    }

    /// Waits up to `timeout_ms` (for ever if negative) and appends what is ready.
    pub(crate) fn wait(&self, ready: &mut Vec<Ready>, timeout_ms: i32) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let (fd, room) = (self.0.as_raw_fd(), libc::c_int::try_from(EVENTS).unwrap_or(1));
        // SAFETY: the array has room for as many events as the call may write.
        let count = check(unsafe { libc::epoll_wait(fd, events.as_mut_ptr(), room, timeout_ms) })?;
        let count = usize::try_from(count).unwrap_or(0);
        ready.extend(events.iter().take(count).map(|event| Ready {
            token: event.u64,
            failed: event.events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0,
        }));
        Ok(())
    }
}

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control<const N: usize>([u8; N]);

/// A header array of `recvmmsg` or `sendmmsg`; the pointers in it are set before each call and not used after.
struct Batch<const N: usize> {
    messages: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    names: Vec<Name>,
    controls: Vec<Control<N>>,
}

impl<const N: usize> Batch<N> {
    fn new(messages: usize, pieces: usize) -> Batch<N> {
        // SAFETY: all-zero octets are a valid mmsghdr: null pointers and zero lengths.
        let message = unsafe { mem::zeroed() };
        Batch {
            messages: vec![message; messages],
            pieces: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; pieces],
            names: vec![Name::NONE; messages],
            controls: vec![Control([0; N]); messages],
        }
    }
}

/// Receives batches into slots of equal length.
pub(crate) struct Receiver {
    batch: Batch<RECV_CONTROL>,
}

impl Receiver {
    pub(crate) fn new(slots: usize) -> Receiver {
        Receiver { batch: Batch::new(slots, slots) }
    }

    /// Receives one message into each slot of `stride` octets, without waiting, and tells how many came; from whom is
    /// known only of those that are asked for it.
    pub(crate) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        memory: &mut [u8],
        stride: usize,
        named: bool,
    ) -> io::Result<usize> {
        let Batch { messages, pieces, names, controls } = &mut self.batch;
        let slots = messages.len().min(memory.len() / stride.max(1));
        for (slot, octets) in memory.chunks_exact_mut(stride.max(1)).take(slots).enumerate() {
            pieces[slot] = libc::iovec { iov_base: octets.as_mut_ptr().cast(), iov_len: octets.len() };
            names[slot] = Name::NONE;
            let header = &mut messages[slot].msg_hdr;
            let name = ptr::from_mut(&mut names[slot]).cast();
            (header.msg_name, header.msg_namelen) =
                if named { (name, size::<Name>()) } else { (ptr::null_mut(), 0) };
            header.msg_iov = ptr::from_mut(&mut pieces[slot]);
            header.msg_iovlen = 1;
            header.msg_control = controls[slot].0.as_mut_ptr().cast();
            header.msg_controllen = RECV_CONTROL as _;
            header.msg_flags = 0;
        }
        let vlen = libc::c_uint::try_from(slots).unwrap_or(0);
        // SAFETY: each of the first `slots` headers points to live memory of the lengths given, exclusively ours.
        let count = check(unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                vlen,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// What came with the message in this slot, of those that the last call received.
    pub(crate) fn message(&self, slot: usize) -> Received {
        let (Some(message), Some(name), Some(control)) =
            (self.batch.messages.get(slot), self.batch.names.get(slot), self.batch.controls.get(slot))
        else {
            return Received::default();
        };
        let filled = control_len(&message.msg_hdr).min(RECV_CONTROL);
        let mut received = Received {
            len: message.msg_len as usize,
            from: name.address(),
            ports: (name.port(), 0),
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            ..Received::default()
        };
        read_control(&control.0[..filled], &mut received);
        received
    }
}

/// Sends batches of gathered messages.
pub(crate) struct Sender {
    batch: Batch<SEND_CONTROL>,
}

impl Sender {
    pub(crate) fn new(messages: usize, pieces: usize) -> Sender {
        Sender { batch: Batch::new(messages, pieces.max(MAX_PIECES)) }
    }

    /// Sends the first so many messages, without waiting, and tells how many went out. Fails only where the first one
    /// does. Pieces outside of `memory` count as empty.
    pub(crate) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        memory: &[u8],
        pieces: &[Range<usize>],
        messages: &[Message],
    ) -> io::Result<usize> {
        let mut used = 0;
        let mut count: libc::c_uint = 0;
        let slots = self.batch.messages.len();
        for (slot, message) in messages.iter().enumerate().take(slots) {
            let wanted = pieces.get(message.pieces.clone()).unwrap_or_default();
            if used + wanted.len() > self.batch.pieces.len() {
                break;
            }
            self.fill_pieces(used, memory, wanted);
            self.fill(slot, used, wanted.len(), message);
            used += wanted.len();
            count += 1;
        }
        let messages = self.batch.messages.as_mut_ptr();
        // SAFETY: each of the first `count` headers points to live memory of the lengths given; sending only reads it.
        let sent =
            check(unsafe { libc::sendmmsg(fd.as_raw_fd(), messages, count, libc::MSG_DONTWAIT as _) })?;
        Ok(usize::try_from(sent).unwrap_or(0))
    }

    /// Writes one gathered message to a descriptor that is no socket.
    pub(crate) fn write(
        &mut self,
        fd: BorrowedFd<'_>,
        memory: &[u8],
        pieces: &[Range<usize>],
    ) -> io::Result<()> {
        let count = pieces.len().min(MAX_PIECES);
        self.fill_pieces(0, memory, &pieces[..count]);
        let vectors = self.batch.pieces.as_ptr();
        // SAFETY: the first `count` vectors point to live memory of the lengths given; writing only reads it.
        let written =
            unsafe { libc::writev(fd.as_raw_fd(), vectors, libc::c_int::try_from(count).unwrap_or(0)) };
        if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn fill_pieces(&mut self, at: usize, memory: &[u8], pieces: &[Range<usize>]) {
        for (vector, piece) in self.batch.pieces[at..].iter_mut().zip(pieces) {
            let octets = memory.get(piece.clone()).unwrap_or_default();
            *vector = libc::iovec { iov_base: octets.as_ptr().cast_mut().cast(), iov_len: octets.len() };
        }
    }

    fn fill(&mut self, slot: usize, first: usize, count: usize, message: &Message) {
        let Batch { messages, pieces, names, controls } = &mut self.batch;
        let header = &mut messages[slot].msg_hdr;
        (header.msg_name, header.msg_namelen) = (ptr::null_mut(), 0);
        header.msg_namelen = match message.to {
            To::Bound | To::Connected(_) => 0,
            To::Address(address, port) => names[slot].set(address, port),
            To::Link(link, remote) => names[slot].set_link(link, remote.is_ipv6()),
        };
        if header.msg_namelen != 0 {
            header.msg_name = ptr::from_mut(&mut names[slot]).cast();
        }
        header.msg_iov = pieces[first..].as_mut_ptr();
        header.msg_iovlen = count as _;
        header.msg_flags = 0;
        let control = &mut controls[slot].0;
        let len = write_controls(control, message);
        header.msg_control = if len == 0 { ptr::null_mut() } else { control.as_mut_ptr().cast() };
        header.msg_controllen = len as _;
    }
}

#[cfg(test)]
mod tests;
